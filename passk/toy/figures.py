"""Draw the figures of `passk toy`: interference, the region of conflict, and the ascent.

Each function returns a new matplotlib `Figure`.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from passk.config.commands import PopulationConfig
from passk.objectives.theory import FloatArray, inner_product, kernel, pass_at_k
from passk.style import FAINT, INK, K_COLORS, STYLE, label_ends
from passk.toy.bandit import best_theta, policy_at, population, sample_prompts

NUM_EASY, NUM_HARD = 120, 80  # prompts of the heatmap, as in the paper
KIND_COLORS = {"easy": K_COLORS[0], "hard": K_COLORS[1]}
_GRID = 81  # points per side of the contour plots
_CONFLICT = "#999999"


@matplotlib.rc_context(STYLE)
def kernel_heatmap(cfg: PopulationConfig) -> Figure:
    """Draw cosines of grad p(x) and grad p(x') over a sample: easy before hard, by rising s."""
    prompts = sample_prompts(NUM_EASY, NUM_HARD, cfg.delta, cfg.seed)
    products = kernel(policy_at(cfg.theta, prompts))
    norms = np.sqrt(np.diag(products))
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(products / np.outer(norms, norms), cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(image, label="cosine of the gradients of success")
    middles = [NUM_EASY / 2, NUM_EASY + NUM_HARD / 2]
    for line in (axes.axhline, axes.axvline):
        line(NUM_EASY - 0.5, color=INK, linewidth=1)
    axes.set_xticks(middles, ["easy", "hard"])
    axes.set_yticks(middles, ["easy", "hard"])
    axes.set(title="Who interferes with whom", xlabel="each kind by rising s")
    axes.grid(visible=False)
    return figure


@matplotlib.rc_context(STYLE)
def contours(cfg: PopulationConfig, path_SD: FloatArray) -> Figure:
    """Draw J_1 and J_k over theta, the region where their gradients conflict, and the ascent."""
    best = best_theta(cfg.p_hard, cfg.delta, cfg.k)
    shown = np.vstack([path_SD, best, [[-3, -3], [3, 3]]])
    sides = [
        np.linspace(low - 0.5, high + 0.5, _GRID)
        for low, high in zip(shown.min(axis=0), shown.max(axis=0), strict=True)
    ]
    prompts = population(cfg.p_hard, cfg.delta)
    rows = [
        policy_at(np.stack(np.broadcast_arrays(sides[0], slope), -1), prompts) for slope in sides[1]
    ]
    conflict = np.stack([inner_product(row, cfg.k) for row in rows]) < 0
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, k in zip(figure.subplots(1, 2, sharey=True), (1, cfg.k), strict=True):
        axes.contourf(*sides, conflict, levels=[0.5, 1.5], colors=[_CONFLICT], alpha=0.35)
        lines = axes.contour(
            *sides,
            np.stack([pass_at_k(row, k) for row in rows]),
            levels=14,
            linewidths=1.2,
            cmap="viridis",
        )
        axes.clabel(lines, fontsize=8)
        axes.plot(*path_SD.T, color=K_COLORS[4])
        axes.plot(*path_SD[0], "s", color=INK, ms=7)
        axes.plot(*path_SD[-1], "o", color=K_COLORS[4], ms=7)
        axes.plot(*best, "*", color=INK, ms=12)
        axes.set(title=f"Pass@{k} over theta", xlabel="bias", xlim=sides[0][[0, -1]])
        axes.grid(visible=False)
    figure.axes[0].set(ylabel="slope over s", ylim=sides[1][[0, -1]])
    marks = [
        *(
            Patch(
                color=_CONFLICT, alpha=0.35, label=f"gradients of Pass@1 and Pass@{cfg.k} conflict"
            ),
        ),
        *figure.axes[0].plot([], [], "s", color=INK, ms=7, label="start"),
        *figure.axes[0].plot([], [], "-o", color=K_COLORS[4], label=f"ascent on Pass@{cfg.k}"),
        *figure.axes[0].plot([], [], "*", color=INK, ms=12, label=f"largest Pass@{cfg.k}"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=4)
    return figure


@matplotlib.rc_context(STYLE)
def agreement_histogram(table: pd.DataFrame) -> Figure:
    """Draw the distribution of a(x) for easy and hard prompts, at the start and at the end."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True)
    for axes, (iteration, of_time) in zip(panels, table.groupby("iteration"), strict=True):
        for kind, bins in of_time.groupby("kind"):
            width = bins["high"] - bins["low"]
            style = {"color": KIND_COLORS[str(kind)], "alpha": 0.6, "label": kind}
            axes.bar(bins["low"], bins["share"] / width, width, align="edge", **style)
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set(title=f"After {iteration!s} iterations" if iteration else "At the start")
        axes.set(xlabel="agreement a(x); below 0, raising x lowers Pass@1")
    panels[0].set_ylabel("density over the population")
    panels[0].legend()
    return figure


@matplotlib.rc_context(STYLE)
def ascent_curves(table: pd.DataFrame, k: int) -> Figure:
    """Draw Pass@1 and Pass@k during an ascent on Pass@k, for all, easy and hard prompts."""
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    lines = {"": ("all", INK), "_easy": ("easy", K_COLORS[0]), "_hard": ("hard", K_COLORS[1])}
    for axes, (column, name) in zip(
        figure.subplots(1, 2, sharey=True),
        (("pass1", "Pass@1"), ("passk", f"Pass@{k}")),
        strict=True,
    ):
        _draw_lines(axes, table, [(column + end, *line) for end, line in lines.items()])
        axes.set(title=f"{name} (%)", xlabel=f"iterations of ascent on Pass@{k}")
    return figure


def _draw_lines(axes: Axes, table: pd.DataFrame, lines: Sequence[tuple[str, str, str]]) -> None:
    ends = []
    axes.set_ylim(-2, 102)
    for column, name, color in lines:
        values = 100 * table[column]
        axes.axhline(values.iloc[0], color=FAINT, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(table["iteration"], values, color=color)
        ends.append((float(values.iloc[-1]), name, color))
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, table["iteration"].iloc[-1])
    label_ends(axes, ends)
