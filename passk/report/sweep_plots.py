"""Draw the report's figures of a sweep: trade-offs of its cells, and k against weight.

As in `passk.report.curves`, each function returns a `Drawing`, or None if there is nothing to draw.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.report.chart_style import SIZES, Drawing, Series, Titles, series_of, tips, zoom
from passk.report.tables import summary_rows
from passk.runs.reader import RunRecord
from passk.style import FAINT, INK, PANEL, PAPER, line_at


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
    data = pd.DataFrame([series.columns[label] for label in cells["regime"]])
    data["name"] = cells["regime"].map(titles).to_numpy()
    data["pass1_weight"] = cells["pass1_weight"].to_numpy()
    for axis, column in (("x", x), ("y", y)):
        for end in ("", "_low", "_high"):
            data[axis + end] = 100 * cells[column + end].to_numpy(float)
    front = pareto_front(data[["x", "y"]].to_numpy())
    data["front"] = [bool((front == point).all(1).any()) for point in data[["x", "y"]].to_numpy()]
    chart = alt.layer(*_pareto_layers(series, k)).properties(width=2 * PANEL, height=400)
    return Drawing(chart, data, series.legends)


def _pareto_layers(series: Series, k: int) -> list[Any]:
    change = "change in {} (points)".format
    x = alt.X("x:Q", title=change("Pass@1"), scale=alt.Scale(padding=18))
    y = alt.Y("y:Q", title=change(f"Pass@{k}"), scale=alt.Scale(padding=18))
    base = alt.Chart().transform_filter(series.test).encode(x=x, y=y, color=series.color)
    start = alt.Chart(alt.InlineData([{"x": 0, "y": 0}])).encode(x="x:Q", y="y:Q")
    layers = [
        line_at(x=alt.datum(0)),
        line_at(y=alt.datum(0)),
        alt.Chart()
        .transform_filter(f"datum.front && {series.test}")
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
    base = (
        alt.Chart()
        .transform_filter(f"datum.measure == '{measure}'")
        .encode(
            x=alt.X("k:O", title="optimised k", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("pass1_weight:O", title="weight of Pass@1", sort="descending"),
        )
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
