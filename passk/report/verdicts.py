"""Compute the shares of verdict reasons in training and held out, and draw them."""

from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.evaluation.tables import REASONS
from passk.report.chart_style import (
    Drawing,
    Legend,
    Titles,
    by_run,
    choice,
    over_steps,
    rows_where,
    tips,
)
from passk.runs.labels import in_order
from passk.runs.reader import RunRecord
from passk.style import K_COLORS, PANEL, PAPER

SHARE_COLUMNS = [
    *("regime", "seed", "split", "step", "reason"),
    *("share", "share_low", "share_high", "num_samples", "num_problems", "unjudged"),
]


def verdict_shares(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Compute a row per run, split, step and reason that occurs in the run: `SHARE_COLUMNS`.

    Split `train`: the `num_samples` samples of a step; `unjudged` is the share of them that got no
    reward, whatever their reason. Split `heldout`: from `eval/summary.csv`, the mean over
    `num_problems` with its interval. The shares of a step add up to 1; a reason that the step does
    not have is 0.
    """
    frames = []
    for label, record in in_order(records):
        for split, rows in (("train", _trained(record)), ("heldout", _held_out(record))):
            if len(rows):
                about: dict[str, Any] = {"regime": label, "seed": record.seed, "split": split}
                frames.append(_filled(rows).assign(**about))
    if not frames:
        return pd.DataFrame(columns=SHARE_COLUMNS)
    return pd.concat(frames, ignore_index=True).reindex(columns=SHARE_COLUMNS)


def reason_order(reasons: Iterable[str]) -> list[str]:
    """Order reasons for display: the known ones first, from right to unjudged."""
    known = {reason: place for place, reason in enumerate(REASONS)}
    return sorted(set(reasons), key=lambda reason: (known.get(reason, len(known)), reason))


def _trained(record: RunRecord) -> pd.DataFrame:
    """Return the shares of each step as logged."""
    logged = record.metrics.reindex(columns=["step", "reasons", "unjudged_fraction"])
    return pd.DataFrame(
        {
            "step": int(step),
            "num_samples": sum(reasons.values()),
            "unjudged": unjudged,
            "reason": reason,
            "share": count / sum(reasons.values()),
        }
        for step, reasons, unjudged in logged.itertuples(index=False, name=None)
        if isinstance(reasons, dict)
        for reason, count in reasons.items()
    )


def _held_out(record: RunRecord) -> pd.DataFrame:
    """Return the shares of the reasons that the run's evaluations saw at least once."""
    shares = record.summary[record.summary["metric"].str.startswith("share_")]
    shares = shares[shares.groupby("metric")["value"].transform("max") > 0]
    names = {"value": "share", "ci_low": "share_low", "ci_high": "share_high"}
    reason = shares["metric"].str.removeprefix("share_")
    return shares.drop(columns="metric").rename(columns=names).assign(reason=reason)


def _filled(rows: pd.DataFrame) -> pd.DataFrame:
    """Add a row of share 0 for each reason of the run that a step does not have."""
    reasons = reason_order(rows["reason"])
    of_step = [name for name in rows if name in ("num_samples", "num_problems", "unjudged")]
    facts = rows.groupby("step", as_index=False)[of_step].first()
    full = facts.merge(pd.DataFrame({"reason": reasons}), how="cross")
    found = rows.drop(columns=of_step)
    table = full.merge(found, on=["step", "reason"], how="left")
    return table.assign(share=table["share"].astype(float).replace(np.nan, 0.0))


MOST_STEPS = 30  # points of a run; steps between them are averaged
_RIGHT = "#009E73"
_SPLITS = {"train": "while training", "heldout": "held out"}
_KEYS = ["run", "split", "step", "reason"]


def verdict_reasons(shares: pd.DataFrame, titles: Titles) -> Drawing | None:
    """Draw shares of reasons stacked to 100 %, a panel per run; `shares` is `verdict_shares`.

    Shares are means over seeds. The reader can switch between training and held-out samples.
    """
    data = _thinned(shares.assign(run=shares["regime"].map(titles)))
    if data.empty:
        return None
    reasons = reason_order(data["reason"])
    others = [color for color in K_COLORS if color != _RIGHT]
    colors = {reason: others[place % len(others)] for place, reason in enumerate(reasons)}
    colors |= {"correct": _RIGHT} if "correct" in colors else {}
    legend = Legend("reason", "", [{"name": r, "color": colors[r]} for r in reasons])
    data = data.assign(place=data["reason"].map({r: i for i, r in enumerate(reasons)}))
    names = list(dict.fromkeys(data["run"]))
    splits = [name for split, name in _SPLITS.items() if name in set(data["split"])]
    of_split = "datum.split == split" if len(splits) > 1 else "true"

    def panel(test: str, _: str, larger: float) -> Any:
        shown = rows_where(test, of_split, legend.test)
        areas = shown.mark_area(line=False, opacity=0.85, stroke=PAPER, strokeWidth=0.8).encode(
            over_steps(),
            alt.Y("share:Q", title="share (%)", stack="zero", scale=alt.Scale(domain=[0, 100])),
            legend.channel(alt.Color, "color"),
            order="place:Q",
            tooltip=tips("run", "reason"),
        )
        return areas.properties(width=larger * PANEL, height=190)

    chart = by_run(names, panel)
    if len(splits) > 1:
        chart = chart.add_params(choice("split", splits, "Samples"))
    return Drawing(chart, data, [legend])


def _thinned(shares: pd.DataFrame) -> pd.DataFrame:
    """Average over seeds, in percent, at no more than MOST_STEPS steps of each run.

    Runs and splits with a single step are left out.
    """
    means = shares.groupby(_KEYS, sort=False, as_index=False)[["share"]].mean()
    frames = []
    for _, rows in means.groupby(["run", "split"], sort=False):
        steps = np.sort(rows["step"].astype(int).unique())
        if len(steps) < 2:
            continue
        parts = np.array_split(steps, min(MOST_STEPS, len(steps)))
        last = {step: int(part[-1]) for part in parts for step in part}
        rows = rows.assign(step=rows["step"].astype(int).map(last))
        frames.append(rows.groupby(_KEYS, sort=False, as_index=False)[["share"]].mean())
    if not frames:
        return means.iloc[:0]
    data = pd.concat(frames, ignore_index=True)
    data = data.assign(share=100 * data["share"], split=data["split"].map(_SPLITS))
    return data
