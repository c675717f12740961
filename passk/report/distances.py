"""Show how far runs moved from their starts, and Pass@1 and Pass@k over that distance.

Methods move at different speeds, so the field compares them at equal KL from the start, not at
equal steps. SFT is left out: it has another start.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from passk.report.chart_style import SIZES, Drawing, Series, Titles, rows_where, series_of, tips
from passk.report.table_formats import frame_table
from passk.report.tables import reported_k, summary_rows, with_all_seeds
from passk.runs.labels import in_order
from passk.runs.reader import RunRecord
from passk.style import PANEL
from passk.text import Table

_MEASURES = {
    "kl_per_answer": "KL per answer (nats)",
    "kl_per_token": "KL per token (nats)",
    "entropy_per_answer": "Entropy per answer (nats)",
    "relative_distance": "Distance of the weights, relative",
}


def distance_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Collect the row of each run's last evaluation in `eval/distance.csv`; empty without any.

    Columns: regime, seed, step, and the measures, with the ends of their intervals. Several seeds
    end in a row of seed `all`.
    """
    names = [name + end for name in _MEASURES for end in ("", "_low", "_high")]
    rows = []
    for label, record in in_order(records):
        is_last = record.distance["step"] == max(record.steps, default=-1)
        last = record.distance[is_last].reindex(columns=["step", *names])
        rows += [{"regime": label, "seed": record.seed} | row for row in last.to_dict("records")]
    if not rows:
        return pd.DataFrame()
    return with_all_seeds(pd.DataFrame(rows).dropna(axis=1, how="all"), ["regime"])


def distance_sheet(table: pd.DataFrame, titles: Titles) -> Table | None:
    """Format `distance_table` for people, a row per regime; None if it is empty."""
    if table.empty:
        return None
    rows = summary_rows(table).drop(columns=["seed", "step"])
    return frame_table(
        rows.assign(regime=rows["regime"].map(titles)), {"regime": "Regime"} | _MEASURES
    )


def distance_curves(records: Sequence[RunRecord], titles: Titles) -> Drawing | None:
    """Draw Pass@1 and Pass@k at each evaluation over the KL per answer from the start.

    A line for each regime; with several seeds, thin ones, and one through the means of each step.
    """
    moved = [r for r in records if r.regime != "sft" and (r.distance["kl_per_answer"] > 0).any()]
    if not moved:
        return None
    series, frames = series_of(moved, titles), []
    ks = {reported_k(record, records) for record in moved}
    k_name = f"Pass@{ks.pop()}" if len(ks) == 1 else "Pass@k, k of each run"
    for name in dict.fromkeys(("Pass@1", k_name)):
        for label, record in in_order(moved):
            k = 1 if name == "Pass@1" else reported_k(record, records)
            frame = _path(record, k).assign(measure=name, label=label, seed=str(record.seed))
            frames.append(frame.assign(role="seed"))
    points = pd.concat(frames, ignore_index=True)
    several = points.groupby("label")["seed"].transform("nunique") > 1
    keys = ["measure", "label", "step"]
    means = points[several].groupby(keys, sort=False)[["kl", "value"]].mean().reset_index()
    points.loc[~several, "role"] = "main"
    data = pd.concat([points, means.assign(seed="mean", role="main")], ignore_index=True)
    named = pd.DataFrame([series.columns[label] for label in data["label"]])
    data = data.drop(columns="label").join(named)
    panels = [_panel(series, name) for name in dict.fromkeys(data["measure"])]
    chart = alt.concat(*panels, columns=2).resolve_scale(
        color="shared", strokeDash="shared", shape="shared"
    )
    return Drawing(chart, data, series.legends)


def _path(record: RunRecord, k: int) -> pd.DataFrame:
    """Return step, kl (nats) and value (%) of a run's evaluations."""
    rates = record.evals[record.evals["k"] == k][["step", "value"]]
    both = rates.merge(record.distance[["step", "kl_per_answer"]], on="step")
    return pd.DataFrame(
        {"step": both["step"], "kl": both["kl_per_answer"], "value": 100 * both["value"]}
    )


def _panel(series: Series, measure: str) -> Any:
    x = alt.X("kl:Q", title="KL per answer from the start (nats)", scale=alt.Scale(padding=8))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, padding=6))
    base = rows_where(f"datum.measure == '{measure}'", series.test)
    base = base.encode(x=x, y=y, color=series.color, order="step:Q", strokeDash=series.dash)
    main = base.transform_filter("datum.role == 'main'")
    fields = [legend.field for legend in series.legends]
    return alt.layer(
        base.transform_filter("datum.role == 'seed'")
        .mark_line(strokeWidth=0.9, opacity=0.5)
        .encode(detail="seed:N"),
        main.mark_line(),
        main.mark_point(size=SIZES[0]).encode(
            shape=series.shape, tooltip=tips(*fields, "seed", "step:Q", KL="kl", value="value")
        ),
    ).properties(width=PANEL, height=260, title=f"Held-out {measure} (%)")
