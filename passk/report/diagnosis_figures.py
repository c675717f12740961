"""Draw the figures of `passk diagnose`: weights, agreement, product over k, matrix heatmap.

Each function returns a new matplotlib `Figure`, or None if there is nothing to draw.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from passk.diagnostics.interference import clustered_order
from passk.objectives.pass_at_k import FloatArray
from passk.report.tables import kind_order
from passk.style import FAINT, INK, K_COLORS, STYLE, kind_colors

NUM_BINS = 40


@matplotlib.rc_context(STYLE)
def histograms(prompts: pd.DataFrame, k: int) -> Figure:
    """Draw the distributions by kind of agreement a, weight w_k and contribution w_k a."""
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
    """Draw a point per prompt, coloured by Pass@1; hollow where no gradient can be seen."""
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
    """Draw <grad J_k, grad J_1> over k with its interval; below 0 the objectives conflict."""
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


_COLORS = "RdBu_r"  # blue interferes; colour-blind readers can also distinguish red and blue


@matplotlib.rc_context(STYLE)
def heatmap(
    cosines_PP: FloatArray, prompts: pd.DataFrame, groupings: Sequence[str]
) -> Figure | None:
    """Draw cosines between the gradients of prompts with signal, similar prompts together by group.

    There is a panel for each of `groupings`, or without any, one of all prompts. Returns None for
    fewer than two prompts. The colours end at the cosine that one pair in a hundred exceeds: noise
    shrinks the cosines of estimates.
    """
    columns = [prompts[name].astype(str) for name in groupings] or [prompts["kind"].astype(str)]
    shown_PP = cosines_PP.copy()
    np.fill_diagonal(shown_PP, np.nan)
    signal_P = np.diag(cosines_PP) > 0
    if signal_P.sum() < 2:
        return None
    limit = float(np.nanquantile(np.abs(shown_PP[np.ix_(signal_P, signal_P)]), 0.99))
    figure = Figure(figsize=(7.6 * len(columns) + 0.9, 7.4), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for axes, names in zip(panels, columns, strict=True):
        order = clustered_order(cosines_PP, names.tolist(), kind_order(names))
        image = _panel(axes, shown_PP[np.ix_(order, order)], names.to_numpy()[order], limit)
        by = f", by {names.name}" if groupings else ""
        axes.set_title(f"Interference of {len(order)} prompts{by}")
    label = "cosine of the gradients of two prompts: interference below 0"
    figure.colorbar(image, ax=panels, label=label, shrink=0.85, aspect=35, extend="both")
    return figure


def _panel(axes: Axes, shown_PP: FloatArray, names: np.ndarray, limit: float) -> AxesImage:
    """Draw one matrix with borders between its groups, and their names beside it."""
    image = axes.imshow(shown_PP, cmap=_COLORS, vmin=-limit, vmax=limit)
    axes.grid(visible=False)
    starts = [0, *(np.flatnonzero(names[1:] != names[:-1]) + 1), len(names)]
    for border in starts[1:-1]:
        axes.axhline(border - 0.5, color=INK, linewidth=1.0)
        axes.axvline(border - 0.5, color=INK, linewidth=1.0)
    middles = [(start + stop - 1) / 2 for start, stop in pairwise(starts)]
    labels = [str(names[start]) for start in starts[:-1]]
    axes.set_yticks(
        middles, [f"{n}\n{size}" for n, size in zip(labels, np.diff(starts), strict=True)]
    )
    axes.set_xticks(middles, labels, rotation=0 if len(labels) < 5 else 90)
    axes.tick_params(length=0)
    return image
