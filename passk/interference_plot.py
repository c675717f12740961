"""The heatmap of the interference matrix; as in `passk.plots`, a function returns a `Figure`."""

from collections.abc import Sequence
from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from passk.breakdown import kind_order
from passk.estimators import FloatArray
from passk.figure_style import INK, STYLE
from passk.interference import clustered_order

_COLORS = "RdBu_r"  # blue interferes; red and blue are told apart by colour-blind readers too


@matplotlib.rc_context(STYLE)
def heatmap(
    cosines_PP: FloatArray, prompts: pd.DataFrame, groupings: Sequence[str]
) -> Figure | None:
    """Cosines between the gradients of prompts with signal, like beside like within each group.

    A panel for each of `groupings`; without any, one of all prompts; None for fewer than two. The
    colours end at the cosine that one pair in a hundred exceeds: noise shrinks those of estimates.
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
    """One matrix with borders between its groups, and their names beside it."""
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
