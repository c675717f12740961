"""Draw the figures of `passk diagnose`: distributions over prompts, the matrix, filtered sets.

Each function returns Altair charts. Weight against agreement is in `prompt_plots`, the product over
k in `curves`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.diagnostics.interference import clustered_order
from passk.diagnostics.paper_sets import CORRECTED, PAPER, Filtered
from passk.objectives.pass_at_k import FloatArray
from passk.report.tables import kind_order
from passk.style import INK, KIND_COLORS, PANEL, kind_colors, line_at, matrix, symlog

NUM_BINS, _NUM_WEIGHT_BINS = 40, 30
_SIDES = {"hard": KIND_COLORS[1], "easy": KIND_COLORS[0]}
_MEANS = {"contribution": "mean of w a", "agreement": "mean of a"}
_SIZE = {"width": 0.8 * PANEL, "height": 0.7 * PANEL}


def histograms(prompts: pd.DataFrame, k: int) -> Any:
    """Draw the distributions by kind of agreement a, weight w_k and contribution w_k a."""
    shown = {"agreement": "agreement a", f"weight_{k}": f"weight w of Pass@{k}"}
    shown |= {f"contribution_{k}": "contribution w a"}
    colors, panels = kind_colors(kind_order(prompts["kind"])), []
    for column, name in shown.items():
        edges = np.histogram_bin_edges(prompts[column], NUM_BINS)
        x = alt.X("low:Q", title=f"{name} of a prompt")
        layers = [_bars(prompts[column], prompts["kind"], colors, edges).encode(x)]
        if not column.startswith("weight"):
            layers.append(line_at(INK, x=alt.datum(0)))
        title = name[0].upper() + name[1:]
        panels.append(alt.layer(*layers).properties(title=title, **_SIZE))
    return alt.hconcat(*panels)


def heatmap(cosines_PP: FloatArray, prompts: pd.DataFrame, groupings: Sequence[str]) -> Any | None:
    """Draw cosines between the gradients of prompts with signal, similar prompts together by group.

    There is a panel for each of `groupings`, or without any, one of all prompts. Returns None for
    fewer than two prompts. The colours end at the cosine that one pair in a hundred exceeds: noise
    shrinks the cosines of estimates.
    """
    shown_PP = cosines_PP.copy()
    np.fill_diagonal(shown_PP, np.nan)
    signal_P = np.diag(cosines_PP) > 0
    if signal_P.sum() < 2:
        return None
    limit = float(np.nanquantile(np.abs(shown_PP[np.ix_(signal_P, signal_P)]), 0.99))
    label, panels = "cosine of the gradients of two prompts: interference below 0", []
    for name in groupings or ["kind"]:
        names = prompts[name].astype(str)
        order = clustered_order(cosines_PP, names.tolist(), kind_order(names))
        panel = matrix(shown_PP[np.ix_(order, order)], names.iloc[order].tolist(), limit, label)
        by = f", by {name}" if groupings else ""
        panels.append(panel.properties(title=f"Interference of {len(order)} prompts{by}"))
    return alt.hconcat(*panels)


def filtered_figures(found: Filtered) -> dict[str, Any]:
    """Draw a figure for each set that was measured, keyed by the name of its file.

    They show agreement, weights and contributions as figures 6 to 8 of the paper: a row per way.
    """
    titles = {
        PAPER: f"As in the paper, k = n = {found.num_samples}",
        CORRECTED: f"Corrected, k = {found.k}",
    }
    figures = {}
    for ends, of_set in found.prompts.groupby(["easy_above", "hard_below"], sort=False):
        ways = [
            _of_way(of_set[of_set["way"] == way], title)
            for way, title in titles.items()
            if (of_set["way"] == way).any()
        ]
        name = "_".join(f"{end:g}" for end in ends)
        figures[f"filtered_{name}"] = alt.vconcat(*ways).resolve_scale(color="shared")
    return figures


def _of_way(prompts: pd.DataFrame, title: str) -> Any:
    """Draw the three panels of a set in one way."""
    prompts = prompts.sort_values("c", kind="stable", ignore_index=True)
    means = pd.DataFrame({"mean": prompts[[*_MEANS]].mean(), "name": _MEANS})
    dashes = alt.Scale(domain=list(_MEANS.values()), range=[[1, 0], [2, 3]])
    lines = alt.Chart(means).mark_rule(color="#D55E00", strokeWidth=1.6)
    lines = lines.encode(
        alt.Y("mean:Q"),
        alt.StrokeDash("name:N", scale=dashes, legend=alt.Legend(symbolSize=150)),
    )
    contributions = alt.layer(_by_success(prompts, "contribution", "contribution w a"), lines)
    panels = {
        title: _by_success(prompts, "agreement", "agreement a"),
        "Weights": _weights(prompts),
        "Contributions": contributions,
    }
    return alt.hconcat(*(panel.properties(title=t, **_SIZE) for t, panel in panels.items()))


def _by_success(prompts: pd.DataFrame, column: str, title: str) -> Any:
    """Draw a point per prompt, from hard to easy."""
    # On a linear scale the few prompts with much weight would flatten all others.
    sizes = prompts[column].abs()
    linear = max(float(sizes.median()), 1e-3 * float(sizes.max()), 1e-300)
    low, high = min(0.0, float(prompts[column].min())), max(0.0, float(prompts[column].max()))
    if low == high:
        low, high = -1.0, 1.0
    points = alt.Chart(prompts[["side", column]].reset_index()).mark_point(size=16)
    color = alt.Scale(domain=list(_SIDES), range=list(_SIDES.values()))
    return alt.layer(
        line_at(INK, y=alt.datum(0)),
        points.encode(
            alt.X("index:Q", title="prompts, from hard to easy", scale=alt.Scale(nice=False)),
            alt.Y(f"{column}:Q", title=title, **symlog(low, high, linear, padding=6)),
            alt.Color("side:N", scale=color),
        ),
    )


def _weights(prompts: pd.DataFrame) -> Any:
    """Draw the histogram of weights; weight 0, which has no logarithm, is at the left end."""
    positive = prompts["weight"][prompts["weight"] > 0]
    least, most = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    least = max(min(least / 2, 0.01), 1e-30)
    edges = np.geomspace(least, 2 * most, _NUM_WEIGHT_BINS)
    bars = _bars(prompts["weight"].clip(lower=least), prompts["side"], _SIDES, edges)
    scale = alt.Scale(type="log", domain=edges[[0, -1]].tolist(), nice=False)
    label = "format(datum.value, datum.value < 0.001 ? '~e' : '~g')"
    axis = alt.Axis(labelExpr=label, labelOverlap="greedy", labelSeparation=8)
    return bars.encode(alt.X("low:Q", title="weight w (left end: 0)", scale=scale, axis=axis))


def _bars(
    values: pd.Series, groups: pd.Series, colors: Mapping[str, str], edges: FloatArray
) -> Any:
    """Draw how many values of each group lie between the edges, stacked, on a symlog scale."""
    edges = np.asarray(edges, dtype=float)
    frames, top = [], np.zeros(len(edges) - 1)
    for name in colors:
        below, top = top, top + np.histogram(values[groups == name], edges)[0]
        frame = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "below": below, "top": top})
        frames.append(frame[top > below].assign(group=name or "all"))
    names = [name or "all" for name in colors]
    scale = alt.Scale(domain=names, range=list(colors.values()))
    return (
        alt.Chart(pd.concat(frames))
        .mark_rect()
        .encode(
            alt.X2("high"),
            alt.Y("below:Q", title="prompts (log scale)", **symlog(0, 1.2 * top.max(), 1)),
            alt.Y2("top"),
            alt.Color("group:N", scale=scale),
        )
    )
