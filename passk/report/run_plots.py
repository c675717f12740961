"""Draw the report's figures over runs: curves, trade-offs, and cells of a sweep.

Tables and records in, Vega-Lite drawings out; most functions return a `Drawing`, or None if the
files hold nothing to draw. Rates are in percent,
changes in percentage points; a regime keeps its colour in all figures.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.objectives.pass_at_k import pass_at_k
from passk.report.chart_style import (
    MOST_NAMED,
    SIZES,
    Drawing,
    Series,
    Titles,
    label_color,
    over_k,
    over_steps,
    rows_where,
    series_of,
    tips,
    zoom,
)
from passk.report.fronts import UNTRAINED
from passk.report.tables import BASE, by_label, reported_k, summary_rows
from passk.runs.baselines import untrained
from passk.runs.reader import RunRecord
from passk.statistics import rate_band
from passk.style import FAINT, INK, K_COLORS, PANEL, PAPER, SOFT, line_at

MOST_BANDS = 5  # more bands would hide one another
_CURVE = ["step", "value", "low", "high"]


def training_curves(records: Sequence[RunRecord], titles: Titles) -> Drawing | None:
    """Draw held-out Pass@1 and Pass@k over training steps.

    One run: a line with the bootstrap interval over problems. Several seeds: a thin line for each,
    and their mean as a thick one. SFT is the level from which the others start, unless there is
    nothing else; the base model, where SFT evaluated it, is a level below that.
    """
    shown = [record for record in records if len(record.evals)]
    groups = by_label(shown)
    if not groups:
        return None
    ks = {reported_k(record, records) for record in records if record.regime != "sft"}
    k_name = f"Pass@{ks.pop()}" if len(ks) == 1 else "Pass@k, k of each run"
    only_sft = all(members[0].regime == "sft" for members in groups.values())
    bases = [] if only_sft else [r for r in shown if r.regime == "sft" and untrained(r)]
    series, frames = _with_base(series_of(shown, titles), bases), []
    for name in ("Pass@1", k_name):
        starts = [
            (r.seed, _curve(r, 1 if name == "Pass@1" else reported_k(r, records)).head(1))
            for r in bases
        ]
        if BASE in series.columns and (lines := _of_seeds(starts)):
            frames.append(_end_level(lines).assign(measure=name, **series.columns[BASE]))
        for label, members in groups.items():
            k = 1 if name == "Pass@1" else reported_k(members[0], records)
            lines = _of_seeds([(record.seed, _curve(record, k)) for record in members])
            if not lines:
                continue
            level = members[0].regime == "sft" and not only_sft
            frame = _end_level(lines) if level else _with_mean(lines)
            frames.append(frame.assign(measure=name, **series.columns[label]))
    data = pd.concat(frames, ignore_index=True)
    bands = len(groups) <= MOST_BANDS
    panels = [
        _lines(series, name, f"Held-out {name} (%)", bands=bands)
        for name in dict.fromkeys(data["measure"])
    ]
    chart = alt.concat(*panels, columns=2).resolve_scale(
        color="shared", strokeDash="shared", shape="shared"
    )
    return Drawing(chart, data, series.legends)


def final_curves(records: Sequence[RunRecord], titles: Titles) -> Drawing | None:
    """Draw held-out Pass@k of each run's last evaluation at every k.

    The base model has a line too, where SFT evaluated it. One run: with the band that holds for all
    k at once (`rate_band`), if there are few lines. Several seeds: a thin line for each, and their
    mean. Without SFT among the runs, a dashed line is the start: the evaluations at step 0, a run
    of each seed.
    """
    shown = [record for record in records if record.steps]
    groups = by_label(shown)
    if not groups:
        return None
    bases = [record for record in shown if record.regime == "sft" and untrained(record)]
    series, few = _with_base(series_of(shown, titles), bases), len(groups) <= MOST_BANDS
    frames = [_start_curve(shown)] if all(record.regime != "sft" for record in shown) else []
    for label, members in groups.items():
        banded = few and len({record.seed for record in members}) == 1
        curves = [(run.seed, _over_all_k(run, run.steps[-1], banded=banded)) for run in members]
        if lines := _of_seeds(curves):
            frames.append(_with_mean(lines).assign(**series.columns[label]))
    if BASE in series.columns:
        curves = [(record.seed, _over_all_k(record, 0, banded=False)) for record in bases]
        frames.append(_with_mean(_of_seeds(curves)).assign(**series.columns[BASE]))
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return None
    # A sweep's runs have a column k of their own, that of their objective.
    data = pd.concat(frames, ignore_index=True).rename(columns={"step": "at_k"})
    x = over_k(int(data["at_k"].max()), "k, log scale", "at_k")
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, padding=6))
    main = rows_where(series.test, "datum.role == 'main'").encode(x=x, y=y, color=series.color)
    seeds = rows_where(series.test, "datum.role == 'seed'").encode(x=x, y=y, color=series.color)
    start = rows_where("datum.role == 'start'").encode(x=x, y=y)
    band = main.transform_filter("isValid(datum.low)").mark_area(opacity=0.14)
    chart = alt.layer(
        band.encode(y=alt.Y("low:Q", title=None), y2="high:Q"),
        start.mark_line(color=SOFT, strokeDash=[5, 4], strokeWidth=1.6),
        seeds.mark_line(strokeWidth=0.9, opacity=0.5).encode(
            detail="seed:N", strokeDash=series.dash
        ),
        main.mark_line().encode(strokeDash=series.dash),
    ).properties(width=2 * PANEL, height=320, title="Held-out Pass@k (%)")
    return Drawing(chart, data, series.legends)


def _with_base(series: Series, bases: Sequence[RunRecord]) -> Series:
    """Add the base model to the legend, if it was evaluated and each run has a name there."""
    if not bases or len(series.legends) > 1:
        return series
    marks = ("name", "color", "dash", "shape")
    entry = dict(zip(marks, UNTRAINED[BASE], strict=True))
    legend = replace(series.legends[0], entries=[entry, *series.legends[0].entries])
    return Series({BASE: {"run": UNTRAINED[BASE][0]}, **series.columns}, (legend,))


def _start_curve(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Average the evaluations at step 0 over seeds, a run of each; empty without any."""
    first = {record.seed: record for record in reversed(records) if record.steps[0] == 0}
    curves = [(seed, _over_all_k(record, 0, banded=False)) for seed, record in first.items()]
    if not (lines := _of_seeds(curves)):
        return pd.DataFrame()
    line = _with_mean(lines)
    return line[line["role"] == "main"].assign(role="start", low=np.nan, high=np.nan)


def _over_all_k(record: RunRecord, step: int, *, banded: bool) -> pd.DataFrame:
    """Compute Pass@k at a step, in the columns of `_CURVE` with k in place of the step.

    The problems are those of the run's own table: with samples for the largest k in it.
    """
    counts = record.counts(step)
    counts = counts[counts["n"] >= record.evals["k"].max()]
    if counts.empty:
        return pd.DataFrame(columns=_CURVE)
    n_P, c_P = counts["n"].to_numpy(), counts["c"].to_numpy()
    ks = np.arange(1, n_P.min() + 1)
    rates_PK = np.stack([pass_at_k(n_P, c_P, k) for k in ks], axis=1)
    frame = pd.DataFrame({"step": ks, "value": 100 * rates_PK.mean(axis=0)})
    if not banded:
        return frame.assign(low=np.nan, high=np.nan)
    band = rate_band(rates_PK)
    return frame.assign(low=100 * band.low_K, high=100 * band.high_K)


def alignment_curves(records: Sequence[RunRecord], titles: Titles) -> Drawing | None:
    """Draw the cosine of each regime's gradient with the Pass@1 gradient during training."""
    shown = [record for record in records if len(_alignment(record)) > 1]
    if not shown:
        return None
    groups, series = by_label(shown), series_of(shown, titles)
    frames = [
        _with_mean(_of_seeds([(record.seed, _alignment(record)) for record in members])).assign(
            measure="alignment", **series.columns[label]
        )
        for label, members in groups.items()
    ]
    data = pd.concat(frames, ignore_index=True)
    zero = line_at(y=alt.datum(0))
    lines = _lines(series, "alignment", "", bands=len(groups) <= MOST_BANDS, below=[zero])
    return Drawing(lines.properties(width=2 * PANEL), data, series.legends)


def alignment_at_start(table: pd.DataFrame, titles: Titles) -> Drawing | None:
    """Draw alignment at the starting checkpoint: a point and interval per regime, seeds faint."""
    table = table.dropna(subset=["alignment"])
    if table.empty:
        return None
    data = pd.DataFrame(
        {
            "run": table["regime"].map(titles),
            "seed": table["seed"].astype(str),
            "role": np.where(table.index.isin(summary_rows(table).index), "main", "seed"),
            "value": table["alignment"],
            "low": table["alignment_low"],
            "high": table["alignment_high"],
        }
    )
    colors = {titles[label]: label for label in table["regime"]}
    y = alt.Y("run:N", sort=list(colors), title=None, axis=alt.Axis(labelLimit=260, grid=False))
    unit = "cosine with the Pass@1 gradient"
    x = alt.X("value:Q", title=unit, scale=alt.Scale(padding=12))
    many = len(colors) > MOST_NAMED
    range_ = [INK if many else label_color(label, list(titles)) for label in colors.values()]
    color = alt.Color("run:N", legend=None, scale=alt.Scale(domain=list(colors), range=range_))
    base = alt.Chart().encode(y=y, x=x, color=color)
    main = base.transform_filter("datum.role == 'main'")
    shown_at_point = tips("run", "seed", value="value", low="low", high="high")
    chart = alt.layer(
        line_at(x=alt.datum(0)),
        base.transform_filter("datum.role == 'seed'")
        .mark_point(size=SIZES[0], opacity=0.45)
        .encode(tooltip=shown_at_point),
        main.mark_rule(strokeWidth=2.5).encode(x=alt.X("low:Q", title=unit), x2="high:Q"),
        main.mark_point(size=SIZES[2]).encode(tooltip=shown_at_point),
    ).properties(width=2 * PANEL - 40, height=34 * table["regime"].nunique())
    return Drawing(chart, data)


def pass_at_k_curve(curve: pd.DataFrame) -> Any:
    """Draw Pass@k at every k of one evaluation, with its interval; `curve` comes from `pass_curve`.

    The line is dashed beyond n/4, where the estimate is noisy.
    """
    num_samples, num_problems = (int(curve[f"num_{of}"].iloc[0]) for of in ("samples", "problems"))
    data = 100 * curve[["value", "ci_low", "ci_high"]].set_axis(_CURVE[1:], axis=1)
    chart = _over_k(
        data.assign(k=curve["k"]), max(num_samples // 4, 1), "k, log scale; dashed beyond n/4", None
    )
    return chart.properties(title=f"Pass@k of {num_problems} problems (%)")


def product_curve(curve: pd.DataFrame) -> Any:
    """Draw <grad J_k, grad J_1> over k with its interval; below 0 the objectives conflict."""
    names = {"inner_product": "value"}
    names |= {f"inner_product_{end}": end for end in ("low", "high")}
    data = curve[["k", *names]].rename(columns=names)
    lines = _over_k(data, int(data["k"].max()), "k", "inner product, 95 % over prompts")
    title = "Product of the gradients of Pass@k and Pass@1"
    return alt.layer(line_at(INK, y=alt.datum(0)), lines).properties(title=title)


def _over_k(data: pd.DataFrame, steady: int, x_title: str, y_title: str | None) -> Any:
    """Draw `value` from `low` to `high` over k, solid with points up to k = `steady`."""
    x = over_k(int(data["k"].max()), x_title)
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False, padding=6))
    base = alt.Chart(data).encode(x, y)
    solid, dashed = (base.transform_filter(f"datum.k {sign} {steady}") for sign in ("<=", ">="))
    return alt.layer(
        base.mark_area(color=K_COLORS[0], opacity=0.16).encode(alt.Y("low:Q"), alt.Y2("high")),
        dashed.mark_line(color=K_COLORS[0], strokeDash=[6, 4]),
        solid.mark_line(color=K_COLORS[0]),
        solid.mark_point(color=K_COLORS[0], size=24),
    ).properties(width=1.3 * PANEL, height=0.8 * PANEL)


def _lines(
    series: Series, measure: str, title: str, *, bands: bool, below: Sequence[Any] = ()
) -> Any:
    """Draw a panel of lines over steps: means or single runs thick with bands, seeds thin."""
    test = f"datum.measure == '{measure}' && {series.test}"
    unit = "cosine with the Pass@1 gradient" if measure == "alignment" else None
    y = alt.Y("value:Q", title=unit, scale=alt.Scale(zero=False, padding=6))
    base = rows_where(test).encode(x=over_steps(padding=8), y=y, color=series.color)
    main = base.transform_filter("datum.role == 'main'")
    seeds = base.transform_filter("datum.role == 'seed'")
    dashed, level_tips = series.dash, tips(series.legends[0].field, value="value")
    layers = [
        *below,
        seeds.mark_line(strokeWidth=0.9, opacity=0.5).encode(detail="seed:N", strokeDash=dashed),
        rows_where(test, "datum.role == 'level'")
        .mark_rule(strokeWidth=1.4)
        .encode(y=y, color=series.color, strokeDash=dashed, tooltip=level_tips),
        main.mark_line().encode(strokeDash=dashed),
        main.mark_point(size=SIZES[0]).encode(
            shape=series.shape,
            tooltip=tips(
                *[legend.field for legend in series.legends], "seed", "step:Q",
                value="value", low="low", high="high",
            ),
        ).add_params(zoom("".join(filter(str.isalnum, measure)))),
    ]  # fmt: skip
    if bands:
        banded = main.transform_filter("isValid(datum.low)")
        band = banded.mark_area(opacity=0.14).encode(y=alt.Y("low:Q", title=unit), y2="high:Q")
        layers.insert(len(below), band)
    return alt.layer(*layers).properties(width=PANEL, height=260, title=title)


def _curve(record: RunRecord, k: int) -> pd.DataFrame:
    rows = record.evals[record.evals["k"] == k][["step", "value", "ci_low", "ci_high"]]
    return rows.set_axis(_CURVE, axis=1) * [1, 100, 100, 100]


def _alignment(record: RunRecord) -> pd.DataFrame:
    columns = ["step", "alignment", "alignment_low", "alignment_high"]
    rows = record.metrics.reindex(columns=columns).dropna(subset=["alignment"]).astype(float)
    return rows.set_axis(_CURVE, axis=1)


def _of_seeds(lines: Sequence[tuple[int, pd.DataFrame]]) -> dict[int, pd.DataFrame]:
    """Return the non-empty lines by seed, averaging runs of a seed where all have a point."""
    runs: dict[int, list[pd.DataFrame]] = {}
    for seed, line in lines:
        if len(line):
            runs.setdefault(seed, []).append(line.set_index("step"))
    means = {}
    for seed, found in runs.items():
        points = pd.concat(found).groupby(level="step")
        whole = points.size() == len(found)
        means[seed] = points.mean()[whole].reset_index()[_CURVE]
    return means


def _with_mean(lines: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """Return a single line as it is; for several seeds, each without interval, and their mean."""
    if len(lines) == 1:
        ((seed, line),) = lines.items()
        return line.assign(seed=str(seed), role="main")
    values = [line.set_index("step")["value"] for line in lines.values()]
    mean = pd.concat(values, axis=1).dropna().mean(axis=1).rename("value").reset_index()
    thin = [
        line[["step", "value"]].assign(seed=str(seed), role="seed") for seed, line in lines.items()
    ]
    both = [*thin, mean.assign(seed="mean", role="main")]
    return pd.concat(both).reindex(columns=[*_CURVE, "seed", "role"])


def _end_level(lines: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """Average the last values of the lines, as one row without a step."""
    level = float(np.mean([line["value"].iloc[-1] for line in lines.values()]))
    seed = "mean" if len(lines) > 1 else str(next(iter(lines)))
    row = {"step": None, "value": level, "low": None, "high": None, "seed": seed, "role": "level"}
    return pd.DataFrame([row])


def pareto(
    cells: pd.DataFrame, k: int, records: Sequence[RunRecord], titles: Titles
) -> Drawing | None:
    """Draw the change in Pass@1 against that in Pass@k from the starting checkpoint.

    Points have intervals. `cells` comes from `tables.sweep_table(records)`. There is a point per
    run, seeds averaged; if runs differ by k, there is a line per k. A dashed line joins the runs
    that no other one beats in both.
    """
    x, y = "delta_pass1", f"delta_pass{k}"
    if y not in cells or k < 2:
        return None
    cells = summary_rows(cells).dropna(subset=[x, y])
    if cells.empty:
        return None
    series = series_of(records, titles)
    cells = cells.reset_index(drop=True)
    data = pd.DataFrame([series.columns[label] for label in cells["regime"]])
    data = data.assign(name=cells["regime"].map(titles), pass1_weight=cells["pass1_weight"])
    for axis, column in (("x", x), ("y", y)):
        for end in ("", "_low", "_high"):
            data[axis + end] = 100 * cells[column + end].astype(float)
    front = pareto_front(data[["x", "y"]].to_numpy())
    data["front"] = [bool((front == point).all(1).any()) for point in data[["x", "y"]].to_numpy()]
    chart = alt.layer(*_pareto_layers(series, k)).properties(width=2 * PANEL, height=400)
    return Drawing(chart, data, series.legends)


def _pareto_layers(series: Series, k: int) -> list[Any]:
    change = "change in {} (points)".format
    x = alt.X("x:Q", title=change("Pass@1"), scale=alt.Scale(padding=18))
    y = alt.Y("y:Q", title=change(f"Pass@{k}"), scale=alt.Scale(padding=18))
    base = rows_where(series.test).encode(x=x, y=y, color=series.color)
    start = alt.Chart(alt.InlineData([{"x": 0, "y": 0}])).encode(x="x:Q", y="y:Q")
    layers = [
        line_at(x=alt.datum(0)),
        line_at(y=alt.datum(0)),
        rows_where("datum.front", series.test)
        .mark_line(color=FAINT, strokeDash=[5, 4], strokeWidth=1.6)
        .encode(x=x, y=y, order="x:Q"),
        base.mark_rule(opacity=0.55).encode(x=alt.X("x_low:Q"), x2="x_high:Q"),
        base.mark_rule(opacity=0.55).encode(y=alt.Y("y_low:Q"), y2="y_high:Q"),
        start.mark_point(shape="square", size=SIZES[1], color=INK),
        start.mark_text(align="right", dx=-8, dy=14).encode(text=alt.value("start")),
    ]
    if len(series.legends) > 1:
        layers.append(base.mark_line(strokeWidth=1.4, opacity=0.6).encode(order="pass1_weight:Q"))
    points = base.mark_point().encode(
        shape=series.shape,
        size=series.size,
        tooltip=[
            alt.Tooltip("name:N", title="run"),
            *tips(**{"Δ Pass@1": "x", "from": "x_low", "to": "x_high"}),
            *tips(**{f"Δ Pass@{k}": "y", "from ": "y_low", "to ": "y_high"}),
        ],
    )
    return [*layers, points.add_params(zoom("pareto"))]


def heatmaps(cells: pd.DataFrame, k: int) -> Drawing | None:
    """Draw Pass@1, Pass@k and their changes over k and the weight of Pass@1, a square per cell.

    Returns None unless both vary and each cell has one setting.
    """
    if cells.empty:
        return None
    cells, axes = summary_rows(cells), ["k", "pass1_weight"]
    if any(cells[axis].nunique() < 2 for axis in axes) or cells.duplicated(axes).any():
        return None
    frames = []
    for j in dict.fromkeys((1, k)):
        for change in ("", "delta_"):
            column = f"{change}pass{j}"
            if column not in cells or cells[column].isna().all():
                continue
            frame = cells[axes].assign(
                measure=f"Change of Pass@{j} (points)" if change else f"Pass@{j} (%)",
                value=100 * cells[column],
                low=100 * cells[f"{column}_low"],
                high=100 * cells[f"{column}_high"],
            )
            frames.append(frame)
    data = pd.concat(frames, ignore_index=True)
    panels = [
        _heatmap(name, data[data["measure"] == name]) for name in dict.fromkeys(data["measure"])
    ]
    chart = alt.concat(*panels, columns=2).resolve_scale(color="independent")
    return Drawing(chart, data)


def _heatmap(measure: str, rows: pd.DataFrame) -> Any:
    """Draw a panel: light is low and dark is high; for changes, orange lost and blue gained."""
    low, high = float(rows["value"].min()), float(rows["value"].max())
    if measure.startswith("Change"):
        end = max(abs(low), abs(high), 1e-9)
        scale = alt.Scale(
            domain=[-end, 0, end], range=["#C0560A", "#F4F1EC", "#1B6CA8"], interpolate="rgb"
        )
        dark = f"abs(datum.value) > {0.6 * end:.6g}"
        form = "+.1f"
    else:
        scale = alt.Scale(
            domain=[low, max(high, low + 1e-9)], range=["#FFF3C4", "#4B9A8C", "#123B5D"]
        )
        dark = f"datum.value > {low + 0.55 * (high - low):.6g}"
        form = ".1f"
    base = rows_where(f"datum.measure == '{measure}'").encode(
        x=alt.X("k:O", title="optimised k", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("pass1_weight:O", title="weight of Pass@1", sort="descending"),
    )
    shown = tips("k:O", "pass1_weight:O", value="value", low="low", high="high")
    squares = base.mark_rect(cornerRadius=3, stroke=PAPER, strokeWidth=2).encode(
        color=alt.Color("value:Q", scale=scale, legend=None), tooltip=shown
    )
    ink = alt.condition(dark, alt.value("#FFFFFE"), alt.value("#1D1F23"))
    words = base.mark_text(fontSize=12).encode(text=alt.Text("value:Q", format=form), color=ink)
    return alt.layer(squares, words.encode(tooltip=shown)).properties(
        width=PANEL, height=alt.Step(38), title=measure
    )


def pareto_front(points: np.ndarray) -> np.ndarray:
    """Return points that no other beats in both coordinates, by the first one: [N, 2]."""
    ordered = points[np.lexsort((-points[:, 1], -points[:, 0]))]
    best = np.maximum.accumulate(ordered[:, 1])
    front: np.ndarray = ordered[np.r_[True, ordered[1:, 1] > best[:-1]]][::-1]
    return front
