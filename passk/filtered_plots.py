"""The figure of a filtered set: agreement, weights and contributions, as figures 6 to 8 there.

As in `passk.plots`, each function returns a new `Figure`.
"""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from passk.figure_style import INK, KIND_COLORS, STYLE
from passk.filtered import CORRECTED, PAPER, Filtered

_SIDES = {"hard": KIND_COLORS[1], "easy": KIND_COLORS[0]}
_NUM_BINS = 30


def filtered_figures(found: Filtered) -> dict[str, Figure]:
    """A figure for each set that was measured, by the name of its file."""
    titles = {
        PAPER: f"As in the paper, k = n = {found.num_samples}",
        CORRECTED: f"Corrected, k = {found.k}",
    }
    figures = {}
    for ends, rows in found.prompts.groupby(["easy_above", "hard_below"], sort=False):
        name = "_".join(f"{end:g}" for end in ends)
        ways = {way: title for way, title in titles.items() if (rows["way"] == way).any()}
        figures[f"filtered_{name}"] = filtered_figure(rows, ways)
    return figures


@matplotlib.rc_context(STYLE)
def filtered_figure(prompts: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """A row of panels per way of `titles`, from the rows of one set in `Filtered.prompts`."""
    figure = Figure(figsize=(13.5, 3.9 * len(titles)), layout="constrained")
    panels = figure.subplots(len(titles), 3, squeeze=False)
    for row, (way, title) in zip(panels, titles.items(), strict=True):
        of_way = prompts[prompts["way"] == way]
        of_way = of_way.sort_values("c", kind="stable", ignore_index=True)
        _scatter(row[0], of_way, "agreement")
        row[0].set(title=title, ylabel="agreement a")
        _weights(row[1], of_way)
        _scatter(row[2], of_way, "contribution")
        means = {name: of_way[name].mean() for name in ("contribution", "agreement")}
        for (name, mean), dash in zip(means.items(), ("-", ":"), strict=True):
            label = "mean of w a" if name == "contribution" else "mean of a"
            row[2].axhline(mean, color="#D55E00", linestyle=dash, linewidth=1.4, label=label)
        row[2].set(title="Contributions", ylabel="contribution w a")
        row[2].legend(loc="center right")
    return figure


def _scatter(axes: Axes, prompts: pd.DataFrame, column: str) -> None:
    axes.axhline(0, color=INK, linewidth=1.2)
    for side, color in _SIDES.items():
        part = prompts[prompts["side"] == side]
        axes.scatter(part.index, part[column], s=14, color=color, linewidths=0, label=side)
    # The few prompts that weigh much would flatten all others.
    sizes = prompts[column].abs()
    axes.set_yscale(
        "symlog", linthresh=max(float(sizes.median()), 1e-3 * float(sizes.max()), 1e-300)
    )
    axes.set_xlabel("prompts, from hard to easy")
    if column == "agreement":
        axes.legend(loc="lower right")


def _weights(axes: Axes, prompts: pd.DataFrame) -> None:
    """A weight of 0, which a logarithm has no place for, stands at the left end."""
    positive = prompts["weight"][prompts["weight"] > 0]
    least, most = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    least = max(min(least / 2, 0.01), 1e-30)
    edges = np.geomspace(least, 2 * most, _NUM_BINS)
    parts = [prompts["weight"][prompts["side"] == side].clip(lower=least) for side in _SIDES]
    colors = list(_SIDES.values())
    axes.hist(parts, bins=list(edges), stacked=True, color=colors, label=list(_SIDES))
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set(title="Weights", xlabel="weight w (left end: 0)", ylabel="prompts (log scale)")
