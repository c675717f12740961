"""Draw figures of single problems: success before and after, and their weight under Pass@k.

`prompts` comes from `tables.prompt_changes`. As in `passk.report.run_plots`, each function returns
a `Drawing`, or None if there is nothing to draw.
"""

from functools import partial
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.report.chart_style import (
    SIZES,
    Drawing,
    Legend,
    Titles,
    by_run,
    kind_legend,
    tips,
    zoom,
)
from passk.report.tables import kind_order
from passk.style import FAINT, INK, PANEL, PAPER, line_at, ticks_at

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
    base = alt.Chart().transform_filter(f"{test} && {kinds.test}").encode(x, y, color)
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
    x = alt.X("success:Q", title="success before (%)", scale=alt.Scale(domain=[0, 100]))
    base = alt.Chart().encode(x=x)
    curve = alt.layer(
        line_at(y=alt.datum(1), strokeDash=alt.value([5, 4])),
        base.transform_filter("datum.part == 'weight'")
        .mark_line(color=INK)
        .encode(
            y=alt.Y("weight:Q", title="weight"), tooltip=tips(success="success", weight="weight")
        ),
    ).properties(width=PANEL, height=200, title=f"Weight under Pass@{k}")
    spread = (
        alt.Chart()
        .transform_filter(f"datum.part == 'problems' && {kinds.test}")
        .mark_bar(stroke=PAPER, strokeWidth=0.6)
        .encode(
            x=alt.X("success:Q", title="success before (%)", bin="binned"),
            x2="success_end:Q",
            y=alt.Y("problems:Q", title="problems", stack="zero"),
            color=kinds.channel(alt.Color, "color"),
            order="place:Q",
            tooltip=tips(
                "kind", **{"from": "success", "to": "success_end", "problems": "problems"}
            ),
        )
        .properties(width=PANEL, height=200, title="Where the problems are")
    )
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
    base = (
        alt.Chart()
        .transform_filter(f"datum.part == 'share' && {kinds.test}")
        .encode(y=y, color=kinds.channel(alt.Color, "color"))
    )
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
    base = alt.Chart().transform_filter(kinds.test).encode(x, y)
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
