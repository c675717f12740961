"""Figures of single problems: success before and after, and the weight that Pass@k gives them.

`prompts` comes from `breakdown.prompt_changes`. As in `passk.plots`, each function returns a new
`Figure`, or None where there is nothing to draw.
"""

from collections.abc import Iterable, Mapping
from itertools import cycle

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from passk.breakdown import kind_order
from passk.figure_style import FAINT, INK, KIND_COLORS, STYLE

MOST_PANELS = 12


@matplotlib.rc_context(STYLE)
def prompt_scatter(prompts: pd.DataFrame, titles: Mapping[str, str]) -> Figure | None:
    """Success of each held-out problem before and after, a panel per regime, coloured by kind.

    Large markers are the means of a kind.
    """
    labels = list(dict.fromkeys(prompts["regime"]))
    if not 0 < len(labels) <= MOST_PANELS:
        return None
    columns = min(len(labels), 3)
    rows = -(-len(labels) // columns)
    figure = Figure(figsize=(3.4 * columns + 0.6, 3.9 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    colors, jitter = kind_colors(prompts["kind"]), np.random.default_rng(0)
    for axes, label in zip(panels, labels, strict=False):
        points = prompts[prompts["regime"] == label]
        axes.plot([0, 100], [0, 100], color=FAINT, linewidth=1, zorder=1)
        noise = jitter.uniform(-0.8, 0.8, (2, len(points)))
        x, y = 100 * points["p_before"] + noise[0], 100 * points["p_after"] + noise[1]
        dots = {"s": 11, "alpha": max(0.2, min(0.6, 150 / len(points))), "linewidths": 0}
        axes.scatter(x, y, c=points["kind"].map(colors), zorder=2, **dots)
        for kind, color in colors.items():
            mean = 100 * points[points["kind"] == kind][["p_before", "p_after"]].mean()
            spot = {"s": 95, "edgecolors": INK, "linewidths": 1.2, "label": kind or "all"}
            axes.scatter(*mean, color=color, zorder=3, **spot)
        axes.set(title=titles[label], xlabel="success before (%)", xlim=(-4, 104), ylim=(-4, 104))
        axes.set_box_aspect(1)
    for axes in panels[::columns]:
        axes.set_ylabel("success after (%)")
    for axes in panels[len(labels) :]:
        axes.set_visible(False)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(colors))
    return figure


@matplotlib.rc_context(STYLE)
def weight_by_kind(prompts: pd.DataFrame, k: int) -> Figure | None:
    """Which problems Pass@k up-weights: where each kind lies on the weight, and its share of it.

    Left, the weight k(1-p)^(k-1) over success p at the start, and how problems of each kind are
    spread over p. Right, a kind's share of all problems against its share of the total weight.
    """
    start = prompts.drop_duplicates(["seed", "problem_id"])
    if start.empty or k < 2:
        return None
    figure = Figure(figsize=(10.5, 4.6), layout=ConstrainedLayoutEngine(wspace=0.04))
    grid = figure.add_gridspec(2, 2, height_ratios=(3, 2), width_ratios=(1.1, 1))
    curve, spread = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    colors, p = kind_colors(start["kind"]), np.linspace(0, 1, 201)
    curve.plot(100 * p, k * (1 - p) ** (k - 1), color=INK)
    curve.axhline(1, color=FAINT, linewidth=1.2)
    curve.text(100, 1.03, "weight under Pass@1", ha="right", va="bottom", color="#666666")
    curve.set(title=f"Weight of a problem under Pass@{k}", ylabel="weight", xlim=(-3, 103), ylim=0)
    curve.tick_params(labelbottom=False)
    bins = np.linspace(0, 1, 21)
    groups = [100 * start["p_before"][start["kind"] == kind] for kind in colors]
    spread.hist(groups, bins=list(100 * bins), stacked=True, color=list(colors.values()))
    spread.set(xlabel="success before (%)", ylabel="problems", xlim=(-3, 103))
    _draw_shares(figure.add_subplot(grid[:, 1]), start, colors)
    return figure


def _draw_shares(axes: Axes, start: pd.DataFrame, colors: Mapping[str, str]) -> None:
    """A line per kind from its share of the problems to its share of the weight."""
    total = start["passk_weight"].sum()
    for place, (kind, color) in enumerate(colors.items()):
        of_kind = start[start["kind"] == kind]
        prompts = 100 * len(of_kind) / len(start)
        weight = 100 * of_kind["passk_weight"].sum() / total if total > 0 else np.nan
        axes.plot([prompts, weight], [place, place], color=color, linewidth=3, alpha=0.45)
        axes.plot(prompts, place, "o", color="white", markeredgecolor=color, ms=11, mew=2.2)
        axes.plot(weight, place, "o", color=color, ms=11)
        words = f"{kind or 'all'}: {prompts:.0f} % of problems, {weight:.0f} % of weight"
        axes.text(1, place - 0.2, words, color=INK, va="bottom")
    axes.set(title="Share of problems (ring) and of weight (dot)", xlabel="share (%)")
    axes.set(xlim=(0, 100), ylim=(len(colors) - 0.5, -0.75), yticks=[])
    axes.grid(axis="y", visible=False)


def kind_colors(kinds: Iterable[str]) -> dict[str, str]:
    """A colour per kind, in the order of `kind_order`."""
    return dict(zip(kind_order(kinds), cycle(KIND_COLORS), strict=False))
