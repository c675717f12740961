"""Show fronts over temperatures: points, the table of changes, the figure, and its sentences.

Row and line `base` are of the model before any training, where a run started from it. Those of
`coin` and `first` need no training either: answers of a Pass@k-only policy and of its start, mixed
(`passk.evaluation.fronts.Mixtures`). Nor do those of interpolated weights, which `passk eval` has
measured (`passk.runs.interpolations`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.console import working
from passk.evaluation.fronts import Front, area, front_change, front_of, hull, mixtures
from passk.report.chart_style import (
    SIZES,
    Drawing,
    Legend,
    Titles,
    rows_where,
    series_of,
    tips,
)
from passk.report.table_formats import rate_form
from passk.report.tables import BASE, reported_k, summary_rows, with_all_seeds
from passk.runs.baselines import Evaluated, evaluated_before, last_evaluated, sft_of, untrained
from passk.runs.interpolations import InterpolationRecord
from passk.runs.labels import in_order
from passk.runs.reader import RunRecord
from passk.statistics import bootstrap_intervals
from passk.style import FAINT, PANEL, SOFT
from passk.text import cell

COIN, FIRST = "coin", "first"
UNTRAINED = {  # regimes without a run of their own: title, colour, dash, shape
    BASE: ("Base model", FAINT, [2, 2], "circle"),
    COIN: ("A coin between Pass@k-only and its start", SOFT, [1, 3], "cross"),
    FIRST: ("One answer of the start, the rest of Pass@k-only", SOFT, [6, 2], "triangle-down"),
}
_MIXED_SHAPES = ("triangle-right", "triangle-left")  # of interpolated weights, none of a run's
_CHANGES = {
    "delta_pass1": "Δ Pass@1 (points)",
    "delta_passk": "Δ Pass@{k} (points)",
    "delta_best_pass1": "Δ best Pass@1",
    "delta_best_passk": "Δ best Pass@{k}",
    "delta_equal_passk": "Δ Pass@{k} at equal Pass@1",
    "delta_area": "Δ area (points)",
}


@working("fronts over temperatures")
def front_tables(
    records: Sequence[RunRecord],
    baseline: Sequence[RunRecord] | None = None,
    interpolations: Sequence[InterpolationRecord] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the points of each run's front, and how the fronts differ from their starts.

    Points: regime, seed, temperature, and pass1 and passk with their ends. Changes: regime, seed,
    `area`, and the columns of `FrontChange`, against what `evaluated_before` names (for `base`: the
    last evaluation of the run that started from it; for interpolated weights: what their run is
    compared with). Several seeds end in rows of seed `all`. Both
    are empty where fewer than two temperatures were measured.
    """
    points: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    for label, record, front, start in _fronts(records, baseline, interpolations):
        if sum(t > 0 for t in front.temperatures) < 2:
            continue
        seed = {"regime": label, "seed": record.seed}
        points += [seed | point for point in _points(front)]
        corners = hull(front.pass1_TP.mean(axis=1), front.passk_TP.mean(axis=1))
        change = front_change(start, front) if start else None
        rows.append(seed | {"area": area(corners)} | (change.columns() if change else {}))
    names = [name + end for name in _CHANGES for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["regime", "seed", "area", *names])
    if table.empty:
        return pd.DataFrame(), pd.DataFrame()
    return (
        with_all_seeds(pd.DataFrame(points), ["regime", "temperature"]),
        with_all_seeds(table, ["regime"]),
    )


def _fronts(
    records: Sequence[RunRecord],
    baseline: Sequence[RunRecord] | None,
    interpolations: Sequence[InterpolationRecord],
) -> Iterator[tuple[str, RunRecord, Front, Front | None]]:
    """Yield label, run, front and the front that it is compared with; what is not trained last."""
    mixed = []
    for label, record, after, before in _measured(records, baseline):
        k = reported_k(record, records)
        front, start = _front(after, k), _front(before, k)
        if front is not None:
            yield label, record, front, start
        if after and before and record.optimises_passk and record.pass1_weight == 0:
            counts = before.front_counts, after.front_counts
            mixed.append((record, start, mixtures(*counts, k, record.temperature)))
    for name in (COIN, FIRST):
        for record, start, both in mixed:
            if both is not None:
                yield name, record, getattr(both, name), start
    for found in interpolations:
        record, k = found.record, reported_k(found.record, records)
        front = front_of(found.front_counts, k, record.temperature)
        if front is not None:
            yield found.label, record, front, _front(evaluated_before(record, records, baseline), k)


def _measured(
    records: Sequence[RunRecord], baseline: Sequence[RunRecord] | None
) -> list[tuple[str, RunRecord, Evaluated | None, Evaluated | None]]:
    """Return label, run, evaluation and what it is compared with; the base models come first."""
    bases, runs = [], []
    for label, record in in_order(records):
        last = last_evaluated(record)
        runs.append((label, record, last, evaluated_before(record, records, baseline)))
        if (base := untrained(record)) is not None:
            others = [r for r in records if sft_of(r, records) is record]
            bases.append((BASE, record, base, last if others else None))
    return [*bases, *runs]


def _front(evaluated: Evaluated | None, k: int) -> Front | None:
    if evaluated is None:
        return None
    return front_of(evaluated.front_counts, k, evaluated.record.temperature)


def _points(front: Front) -> list[dict[str, object]]:
    rows = []
    for t, temperature in enumerate(front.temperatures):
        row: dict[str, object] = {"temperature": temperature}
        intervals = bootstrap_intervals(np.stack([front.pass1_TP[t], front.passk_TP[t]], axis=1))
        for name, interval in zip(("pass1", "passk"), intervals, strict=True):
            row |= interval.columns(name)
        rows.append(row)
    return rows


def front_figure(
    points: pd.DataFrame,
    records: Sequence[RunRecord],
    titles: Titles,
    k: int,
    interpolations: Sequence[InterpolationRecord] = (),
) -> Drawing | None:
    """Draw Pass@k against Pass@1, a point for each temperature and a line for each regime."""
    if points.empty or k < 2:
        return None
    shown = summary_rows(points)
    series = series_of(records, titles)
    if len(series.legends) > 1:  # a large sweep: its figures are over k and weight
        return None
    untrained = [
        dict(zip(("name", "color", "dash", "shape"), style, strict=True))
        for regime, style in _untrained(interpolations, titles).items()
        if (shown["regime"] == regime).any()
    ]
    legend = Legend("run", "", [*series.legends[0].entries, *untrained])
    named = shown["regime"].map(all_titles(titles, interpolations))
    data = pd.DataFrame({"run": named, "temperature": shown["temperature"]})
    for axis, column in (("x", "pass1"), ("y", "passk")):
        for end in ("", "_low", "_high"):
            data[axis + end] = 100 * shown[column + end].astype(float)
    return Drawing(_front_chart(legend, k), data.reset_index(drop=True), (legend,))


def _front_chart(legend: Legend, k: int) -> Any:
    x = alt.X("x:Q", title="Pass@1 (%)", scale=alt.Scale(zero=False, padding=18))
    y = alt.Y("y:Q", title=f"Pass@{k} (%)", scale=alt.Scale(zero=False, padding=18))
    base = rows_where(legend.test).encode(x=x, y=y, color=legend.channel(alt.Color, "color"))
    hot = base.transform_filter("datum.temperature > 0")
    shown = tips("run", "temperature:Q", **{"Pass@1": "x", f"Pass@{k}": "y"})
    return alt.layer(
        base.mark_rule(opacity=0.35).encode(x=alt.X("x_low:Q"), x2="x_high:Q"),
        base.mark_rule(opacity=0.35).encode(y=alt.Y("y_low:Q"), y2="y_high:Q"),
        hot.mark_line(strokeWidth=1.8).encode(
            order="temperature:Q", strokeDash=legend.channel(alt.StrokeDash, "dash")
        ),
        base.mark_point(size=SIZES[1], filled=True).encode(
            shape=legend.channel(alt.Shape, "shape"), tooltip=shown
        ),
        base.mark_text(dx=9, dy=-7, fontSize=10, align="left").encode(
            text=alt.Text("temperature:Q", format=".3~g")
        ),
    ).properties(width=2 * PANEL, height=420)


def change_headings(k: int) -> dict[str, str]:
    """Return the headings of the table of changes; areas are in percent of the unit square."""
    changes = {name: heading.format(k=k) for name, heading in _CHANGES.items()}
    return {"regime": "Regime", "area": "Area (%)"} | changes


def shown_changes(
    changes: pd.DataFrame, titles: Titles, interpolations: Sequence[InterpolationRecord] = ()
) -> pd.DataFrame:
    """Select a row for each regime, with titles for people."""
    rows = summary_rows(changes)
    return rows.assign(regime=rows["regime"].map(all_titles(titles, interpolations)))


def all_titles(
    titles: Titles, interpolations: Sequence[InterpolationRecord] = ()
) -> dict[str, str]:
    """Return the titles of runs, and of the rows without a run of their own."""
    untrained = _untrained(interpolations, titles)
    return dict(titles) | {regime: title for regime, (title, *_) in untrained.items()}


def _untrained(
    interpolations: Sequence[InterpolationRecord], titles: Titles
) -> dict[str, tuple[str, str, list[int], str]]:
    """Return title, colour, dash and shape of every row without a run of its own."""
    mixed = {found.label: f"Weights {found.title(titles)}" for found in interpolations}
    return UNTRAINED | {
        label: (title, SOFT, [8, 3], _MIXED_SHAPES[place % 2])
        for place, (label, title) in enumerate(mixed.items())
    }


def front_sentences(
    changes: pd.DataFrame, titles: Titles, ks: Mapping[str, int], main: float
) -> list[str]:
    """Answer three questions of each regime: equal temperature, as deployed, and equal Pass@1."""
    if changes.empty:
        return []
    compared = summary_rows(changes).dropna(subset="delta_pass1")
    rows = compared[compared["regime"].isin(ks.keys())].to_dict("records")
    return [_answers(row, titles[row["regime"]], ks[row["regime"]], main) for row in rows]


def _answers(row: Mapping[Any, Any], title: str, k: int, main: float) -> str:
    def by(name: str) -> str:
        measure = "Pass@1" if name.endswith("pass1") else f"Pass@{k}"
        return f"{measure} by {cell(row, f'delta_{name}', rate_form(f'delta_{name}'))}"

    at_equal = "it never reaches the Pass@1 of its start"
    if row["delta_equal_passk"] == row["delta_equal_passk"]:
        at_equal = f"at the Pass@1 of its start it changed {by('equal_passk')}"
    return (
        f"{title} changed {by('pass1')} and {by('passk')} points at temperature {main:g}; each at "
        f"its best temperature, it changed {by('best_pass1')} and {by('best_passk')}; {at_equal}."
    )
