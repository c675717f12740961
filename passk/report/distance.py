"""Show how far each run's policy moved from its start, and what it gained on the way."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from passk.report.chart_style import (
    SIZES,
    Drawing,
    Series,
    Titles,
    rows_where,
    series_of,
    tips,
)
from passk.report.tables import by_label, reported_k, with_all_seeds
from passk.runs.labels import in_order
from passk.runs.reader import DISTANCES, RunRecord
from passk.style import PANEL

HEADINGS = {
    "regime": "Regime",
    "kl_per_answer": "KL an answer (nats)",
    "kl_per_token": "KL a token",
    "entropy_per_answer": "Entropy of an answer (nats)",
    "entropy_per_token": "Entropy of a token",
    "distance": "\u0394\u03b8",
    "relative_distance": "\u0394\u03b8 / \u03b8",
}


def distance_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Collect `DISTANCES` of each run's last evaluation by regime and seed, and over seeds.

    Empty where no run measured them.
    """
    rows = []
    for label, record in in_order(records):
        last = record.distances[record.distances["step"] == max(record.steps, default=-1)]
        rows += [{"regime": label, "seed": record.seed} | row for row in last.to_dict("records")]
    ends = [f"{name}{end}" for name in DISTANCES for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows).reindex(columns=["regime", "seed", *ends])
    return with_all_seeds(table, ["regime"]) if rows else pd.DataFrame()


def distance_figure(records: Sequence[RunRecord], titles: Titles) -> Drawing | None:
    """Draw held-out Pass@1 and Pass@k against the KL from the start, a point an evaluation.

    One run: a line. Several seeds: a thin line for each, and the mean over seeds at each step.
    """
    shown = [r for r in records if r.regime != "sft" and len(r.distances) > 1 and len(r.evals)]
    if not shown:
        return None
    ks = {reported_k(record, records) for record in shown}
    series, frames = series_of(shown, titles), []
    for label, members in by_label(shown).items():
        for name, k in (("Pass@1", 1), ("Pass@k", reported_k(members[0], records))):
            path = _with_mean([_path(record, k) for record in members])
            frames.append(path.assign(measure=name, **series.columns[label]))
    names = {"Pass@1": "Pass@1", "Pass@k": f"Pass@{ks.pop()}" if len(ks) == 1 else "Pass@k"}
    data = pd.concat(frames, ignore_index=True)
    panels = [_panel(series, measure, title) for measure, title in names.items()]
    chart = alt.concat(*panels, columns=2).resolve_scale(
        color="shared", strokeDash="shared", shape="shared"
    )
    return Drawing(chart, data, series.legends)


def _path(record: RunRecord, k: int) -> pd.DataFrame:
    """Return step, KL an answer and Pass@k in percent of the evaluations that have both."""
    rates = record.evals[record.evals["k"] == k].set_index("step")["value"]
    kl = record.distances.set_index("step")["kl_per_answer"].rename("kl")
    path = pd.concat([kl, (100 * rates).rename("value")], axis=1, join="inner")
    return path.rename_axis("step").reset_index().assign(seed=str(record.seed))


def _with_mean(paths: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return a single path as it is; of several, each and the mean of the steps that all have."""
    if len(paths) == 1:
        return paths[0].assign(role="main")
    points = pd.concat(paths)
    by_step = points.groupby("step")[["kl", "value"]]
    mean = by_step.mean()[by_step.size() == len(paths)].reset_index()
    return pd.concat([points.assign(role="seed"), mean.assign(seed="mean", role="main")])


def _panel(series: Series, measure: str, title: str) -> Any:
    x = alt.X("kl:Q", title="KL from the start, nats an answer", scale=alt.Scale(padding=10))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, padding=6))
    base = rows_where(f"datum.measure == '{measure}' && {series.test}").encode(
        x=x, y=y, color=series.color
    )
    main, seeds = (base.transform_filter(f"datum.role == '{role}'") for role in ("main", "seed"))
    fields = [legend.field for legend in series.legends]
    return alt.layer(
        seeds.mark_line(strokeWidth=0.9, opacity=0.5).encode(
            detail="seed:N", order="step:Q", strokeDash=series.dash
        ),
        main.mark_line().encode(order="step:Q", strokeDash=series.dash),
        main.mark_point(size=SIZES[0]).encode(
            shape=series.shape, tooltip=tips(*fields, "seed", "step:Q", KL="kl", value="value")
        ),
    ).properties(width=PANEL, height=260, title=f"Held-out {title} (%)")
