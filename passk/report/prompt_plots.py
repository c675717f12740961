"""Draw figures of single problems: their success, their weight, and their agreement.

The report's figures are functions that return a `Drawing`, as in `passk.report.run_plots`, or None
if there is nothing to draw; their `prompts` come from `tables.prompt_changes`. Those of
`passk diagnose` alone are plain charts.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.diagnostics import paper_sets
from passk.objectives.pass_at_k import FloatArray
from passk.report.chart_style import (
    SIZES,
    Drawing,
    Legend,
    Titles,
    by_run,
    kind_legend,
    rows_where,
    tips,
    zoom,
)
from passk.report.tables import kind_order
from passk.style import (
    FAINT,
    INK,
    KIND_COLORS,
    PANEL,
    PAPER,
    kind_colors,
    line_at,
    symlog,
    ticks_at,
)

NUM_BINS, _NUM_WEIGHT_BINS = 40, 30
_SIDES = {"hard": KIND_COLORS[1], "easy": KIND_COLORS[0]}
_MEANS = {"contribution": "mean of w a", "agreement": "mean of a"}
_SIZE = {"width": 0.8 * PANEL, "height": 0.7 * PANEL}
_NAMED_IDS = 3  # most problems named by a point; it may stand for more


def prompt_scatter(prompts: pd.DataFrame, titles: Titles) -> Drawing | None:
    """Draw success of each held-out problem before and after: a panel per run, coloured by kind.

    A point stands for every problem at its place, and its size for their number; outlined markers
    are the means of a kind.
    """
    labels = list(dict.fromkeys(prompts["regime"]))
    if not labels:
        return None
    kinds = kind_legend(prompts["kind"])
    data = _counted(prompts.assign(run=prompts["regime"].map(titles)))
    panel = partial(_before_after, kinds)
    return Drawing(by_run([titles[label] for label in labels], panel), data, [kinds])


def _counted(prompts: pd.DataFrame) -> pd.DataFrame:
    """Count problems by run, kind and success before and after, with a few of their names.

    The means of a kind follow as rows of role `mean`.
    """
    at = prompts.assign(
        kind=prompts["kind"].replace("", "all"),
        before=(100 * prompts["p_before"].astype(float)).round(1),
        after=(100 * prompts["p_after"].astype(float)).round(1),
    )
    place = ["run", "kind", "before", "after"]
    groups = at.groupby(place, sort=False)["problem_id"]
    points = groups.size().rename("problems").reset_index()
    ids = groups.agg(lambda ids: ", ".join(dict.fromkeys(map(str, ids.head(_NAMED_IDS)))))
    points["ids"] = ids.to_numpy()
    more = points["problems"] > _NAMED_IDS
    points.loc[more, "ids"] += ", …"
    groups_of_kind = at.groupby(["run", "kind"], sort=False)
    means = groups_of_kind[["before", "after"]].mean().round(1)
    means["problems"] = groups_of_kind.size()
    means = means.reset_index().assign(ids="mean of the kind", role="mean")
    return pd.concat([points.assign(role="problem"), means], ignore_index=True)


def _before_after(kinds: Legend, test: str, name: str, larger: float) -> Any:
    """Draw the rows that pass a test, in a square."""
    percent = alt.Scale(domain=[0, 100], nice=False, padding=6)
    axis = alt.Axis(values=[0, 25, 50, 75, 100])
    x = alt.X("before:Q", title="success before (%)", scale=percent, axis=axis)
    y = alt.Y("after:Q", title="success after (%)", scale=percent, axis=axis)
    color, shape = kinds.channel(alt.Color, "color"), kinds.channel(alt.Shape, "shape")
    base = rows_where(test, kinds.test).encode(x, y, color)
    ends = alt.InlineData([{"before": 0, "after": 0}, {"before": 100, "after": 100}])
    shown = tips("kind", "ids", before="before", after="after", problems="problems")
    area = alt.Scale(range=[14, 320], domainMin=1)
    size = alt.Size("problems:Q", legend=None, scale=area)
    side = larger * PANEL * 2 // 3
    return alt.layer(
        alt.Chart(ends).mark_line(color=FAINT, strokeWidth=1.2).encode(x, y),
        base.transform_filter("datum.role == 'problem'")
        .mark_point(opacity=0.5)
        .encode(shape, size, tooltip=shown)
        .add_params(zoom(name)),
        base.transform_filter("datum.role == 'mean'")
        .mark_point(size=SIZES[3], stroke=INK, strokeWidth=1.6)
        .encode(shape, tooltip=shown),
    ).properties(width=side, height=side)


def weight_by_kind(prompts: pd.DataFrame, k: int) -> Drawing | None:
    """Draw which problems Pass@k up-weights, and how much of the weight each kind gets.

    Panels: the weight k(1-p)^(k-1) over success p at the start; the problems of each kind over p;
    and each kind's share of all problems against its share of the total weight.
    """
    start = prompts.drop_duplicates(["seed", "problem_id"])
    if start.empty or k < 2:
        return None
    kinds = kind_legend(start["kind"])
    p = np.linspace(0, 1, 51)
    weight = pd.DataFrame({"part": "weight", "success": 100 * p, "weight": k * (1 - p) ** (k - 1)})
    data = pd.concat([weight, _spread(start), _shares(start)], ignore_index=True)
    title = "success before (%)"
    line = rows_where("datum.part == 'weight'").mark_line(color=INK)
    bars = rows_where("datum.part == 'problems'", kinds.test).mark_bar(
        stroke=PAPER, strokeWidth=0.6
    )
    curve = alt.layer(
        line_at(y=alt.datum(1), strokeDash=alt.value([5, 4])),
        line.encode(
            alt.X("success:Q", title=title, scale=alt.Scale(domain=[0, 100])),
            alt.Y("weight:Q", title="weight"),
            tooltip=tips(success="success", weight="weight"),
        ),
    ).properties(width=PANEL, height=200, title=f"Weight under Pass@{k}")
    spread = bars.encode(
        alt.X("success:Q", title=title, bin="binned"),
        alt.X2("success_end"),
        alt.Y("problems:Q", title="problems", stack="zero"),
        kinds.channel(alt.Color, "color"),
        order="place:Q",
        tooltip=tips("kind", **{"from": "success", "to": "success_end", "problems": "problems"}),
    ).properties(width=PANEL, height=200, title="Where the problems are")
    chart = alt.concat(curve, spread, _share_panel(kinds), columns=3)
    return Drawing(chart.resolve_scale(color="shared"), data, [kinds])


def _spread(start: pd.DataFrame) -> pd.DataFrame:
    """Count the problems of each kind in each twentieth of success."""
    bins = np.linspace(0, 1, 21)
    frames = []
    for place, kind in enumerate(kind_order(start["kind"])):
        counts, _ = np.histogram(start["p_before"][start["kind"] == kind].astype(float), bins)
        frame = pd.DataFrame({"success": 100 * bins[:-1], "success_end": 100 * bins[1:]})
        frame = frame.assign(part="problems", kind=kind or "all", place=place, problems=counts)
        frames.append(frame)
    return pd.concat(frames)


def _shares(start: pd.DataFrame) -> pd.DataFrame:
    """Compute the share of each kind in the problems and in their weight, in percent."""
    total = start["passk_weight"].sum()
    groups = start.groupby("kind", sort=False)
    of_weight = groups["passk_weight"].sum() / total if total > 0 else groups.size() * np.nan
    shares = pd.DataFrame({"of_problems": groups.size() / len(start), "of_weight": of_weight})
    shares = (100 * shares.astype(float)).round(1).reset_index()
    return shares.assign(part="share", kind=shares["kind"].replace("", "all"))


def _share_panel(kinds: Legend) -> Any:
    """Draw a line per kind from its share of problems (ring) to its share of weight (dot)."""
    y = alt.Y("kind:N", title=None, sort=kinds.names, axis=alt.Axis(grid=False))
    base = rows_where("datum.part == 'share'", kinds.test)
    base = base.encode(y=y, color=kinds.channel(alt.Color, "color"))
    x = alt.X("of_problems:Q", title="share (%)", scale=alt.Scale(domainMin=0, nice=True))
    shown = tips("kind", problems="of_problems", weight="of_weight")
    return alt.layer(
        base.mark_rule(strokeWidth=3, opacity=0.45).encode(x=x, x2="of_weight:Q"),
        base.mark_point(filled=False, size=SIZES[3], strokeWidth=2.4).encode(x=x, tooltip=shown),
        base.mark_point(size=SIZES[3]).encode(x=alt.X("of_weight:Q"), tooltip=shown),
    ).properties(width=PANEL, height=alt.Step(44), title="Problems (ring), weight (dot)")


def weight_against_agreement(
    prompts: pd.DataFrame, k: int, *, by_success: bool = False
) -> Drawing | None:
    """Draw each prompt's weight under Pass@k against its agreement with the Pass@1 gradient.

    `prompts` are those of a diagnosis. Points are hollow where no gradient can be seen: all samples
    right, or none. Their shape shows the kind, and so does their colour, unless `by_success`, which
    also adds a title.
    """
    if prompts.empty:
        return None
    columns = {"agreement": "agreement", f"weight_{k}": "weight"}
    data = prompts[["problem_id", *columns]].rename(columns=columns | {"problem_id": "problem"})
    kind = prompts["kind"].fillna("").astype(str)
    error = prompts["agreement_error"].astype(float).fillna(0)
    data = data.assign(
        kind=kind.replace("", "all"),
        low=data["agreement"] - error,
        high=data["agreement"] + error,
        success=100 * prompts["p"].astype(float),
        seen=prompts["signal"].fillna("").astype(str) == "",
    )
    kinds = kind_legend(kind)
    x_title = "agreement with the Pass@1 gradient"
    scale = alt.Scale(type="symlog", constant=0.01, padding=8, nice=False)
    ticks = [0, 0.01, 0.1, 1, *(10**i for i in range(1, 6) if 10**i < 0.7 * k), k]
    axis = ticks_at(ticks, labelExpr="format(datum.value, '~g')")
    y = alt.Y("weight:Q", title=f"weight of Pass@{k}", scale=scale, axis=axis)
    color, shape = kinds.channel(alt.Color, "color"), kinds.channel(alt.Shape, "shape")
    plain: Any = color
    if by_success:
        x_title += ", with its standard error; hollow: all samples right, or none"
        bar = alt.Legend(title="Pass@1 (%)", orient="right", gradientLength=300)
        percent = alt.Scale(domain=[0, 100], scheme="viridis")
        color, plain = alt.Color("success:Q", scale=percent, legend=bar), alt.ColorValue(INK)
    x = alt.X("agreement:Q", title=x_title)
    base = rows_where(kinds.test).encode(x, y)
    seen = base.transform_filter("datum.seen")
    shown = tips("problem", "kind", success="success", weight="weight", agreement="agreement")
    chart = alt.layer(
        line_at(x=alt.datum(0)),
        seen.mark_rule(opacity=0.22, strokeWidth=0.8).encode(
            alt.X("low:Q"), x2="high:Q", color=plain
        ),
        base.transform_filter("!datum.seen")
        .mark_point(filled=False, size=SIZES[0], opacity=0.8)
        .encode(plain, shape, tooltip=shown),
        seen.mark_point(size=SIZES[0], opacity=0.75)
        .encode(color, shape, tooltip=shown)
        .add_params(zoom("agreement")),
    ).properties(width=2 * PANEL, height=360)
    if by_success:
        chart = chart.properties(title=f"Weight of Pass@{k} against agreement")
    return Drawing(chart, data, [kinds])


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


def filtered_figures(found: paper_sets.Filtered) -> dict[str, Any]:
    """Draw a figure for each set that was measured, keyed by the name of its file.

    They show agreement, weights and contributions as figures 6 to 8 of the paper: a row per way.
    """
    titles = {
        paper_sets.PAPER: f"As in the paper, k = n = {found.num_samples}",
        paper_sets.CORRECTED: f"Corrected, k = {found.planned.k}",
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
