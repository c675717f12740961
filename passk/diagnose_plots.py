"""The figures of `passk diagnose`: who weighs what, who agrees, and the product over k.

As in `passk.plots`, each function returns a new `Figure`.
"""

from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from passk.breakdown import kind_order
from passk.figure_style import FAINT, INK, K_COLORS, STYLE, kind_colors

NUM_BINS = 40


@matplotlib.rc_context(STYLE)
def histograms(prompts: pd.DataFrame, k: int) -> Figure:
    """How the agreement a, the weight w_k and the contribution w_k a are spread, by kind."""
    figure = Figure(figsize=(13.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, column, name in zip(
        panels,
        ("agreement", f"weight_{k}", f"contribution_{k}"),
        ("agreement a", f"weight w of Pass@{k}", "contribution w a"),
        strict=True,
    ):
        _histogram(axes, prompts, column)
        axes.set(title=name[0].upper() + name[1:], xlabel=f"{name} of a prompt")
    panels[0].set_ylabel("prompts (log scale)")
    panels[0].legend()
    return figure


def _histogram(axes: Axes, prompts: pd.DataFrame, column: str) -> None:
    colors = kind_colors(kind_order(prompts["kind"]))
    ends = np.histogram_bin_edges(prompts[column], NUM_BINS)
    parts = [prompts[column][prompts["kind"] == kind] for kind in colors]
    names = [kind or "all" for kind in colors]
    axes.hist(parts, bins=list(ends), stacked=True, color=list(colors.values()), label=names)
    axes.set_yscale("symlog", linthresh=1)
    if column.startswith(("agreement", "contribution")):
        axes.axvline(0, color=INK, linewidth=1.2)


@matplotlib.rc_context(STYLE)
def weight_against_agreement(prompts: pd.DataFrame, k: int) -> Figure:
    """A point per prompt, coloured by its Pass@1; hollow where no gradient can be seen."""
    figure = Figure(figsize=(7.4, 5.0), layout="constrained")
    axes = figure.subplots()
    silent = prompts["signal"] != ""
    axes.axvline(0, color=INK, linewidth=1.2)
    seen, unseen = prompts[~silent], prompts[silent]
    weight = f"weight_{k}"
    axes.errorbar(
        seen["agreement"],
        seen[weight],
        xerr=seen["agreement_error"].fillna(0),
        fmt="none",
        ecolor=FAINT,
        elinewidth=0.7,
        zorder=1,
    )
    dots: Any = {"vmin": 0, "vmax": 100, "cmap": "viridis", "zorder": 2, "s": 24, "linewidths": 0}
    drawn = axes.scatter(seen["agreement"], seen[weight], c=100 * seen["p"], **dots)
    axes.scatter(
        unseen["agreement"], unseen[weight], s=24, facecolors="none", edgecolors=INK, linewidths=0.8
    )
    axes.set_yscale("symlog", linthresh=0.01)
    figure.colorbar(drawn, label="Pass@1 of the prompt (%)")
    axes.set(
        title=f"Weight of Pass@{k} against agreement",
        xlabel="agreement a with its standard error; hollow: all samples right, or none",
        ylabel=f"weight w of Pass@{k}",
    )
    return figure


@matplotlib.rc_context(STYLE)
def product_curve(curve: pd.DataFrame) -> Figure:
    """<grad J_k, grad J_1> over k with its interval; below 0 the two objectives conflict."""
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=1.2)
    axes.fill_between(
        curve["k"],
        curve["inner_product_low"],
        curve["inner_product_high"],
        color=K_COLORS[0],
        alpha=0.2,
        linewidth=0,
    )
    axes.plot(curve["k"], curve["inner_product"], color=K_COLORS[0])
    axes.set_xscale("log", base=2)
    ticks = [2**i for i in range(int(np.log2(curve["k"].max())) + 1)]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set(
        title="Product of the gradients of Pass@k and Pass@1",
        xlabel="k",
        ylabel="inner product, 95 % over prompts",
    )
    return figure
