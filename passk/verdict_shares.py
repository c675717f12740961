"""How the answers of a run were judged: shares of verdict reasons while training and held out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from passk.eval_tables import REASONS
from passk.records import RunRecord
from passk.tables import in_order

SHARE_COLUMNS = [
    *("regime", "seed", "split", "step", "reason"),
    *("share", "share_low", "share_high", "num_samples", "num_problems", "unjudged"),
]


def verdict_shares(records: Sequence[RunRecord]) -> pd.DataFrame:
    """A row per run, split, step and reason that occurs in the run: `SHARE_COLUMNS`.

    split `train`: the samples of a step, `num_samples` of them, `unjudged` the share of them that
    got no reward (whatever their reason). Split `heldout`: `eval/summary.csv`, the mean over
    `num_problems` with its interval. The shares of a step add up to 1; a reason that the step does
    not have is 0.
    """
    frames = []
    for label, record in in_order(records):
        for split, rows in (("train", _trained(record)), ("heldout", _held_out(record))):
            if rows:
                filled = _filled(pd.DataFrame(rows))
                frames.append(filled.assign(regime=label, seed=record.seed, split=split))
    if not frames:
        return pd.DataFrame(columns=SHARE_COLUMNS)
    return pd.concat(frames, ignore_index=True).reindex(columns=SHARE_COLUMNS)


def reason_order(reasons: Iterable[str]) -> list[str]:
    """Reasons as they are shown: the known ones first, from right to unjudged."""
    known = {reason: place for place, reason in enumerate(REASONS)}
    return sorted(set(reasons), key=lambda reason: (known.get(reason, len(known)), reason))


def _trained(record: RunRecord) -> list[dict[str, Any]]:
    """Of each step: as logged, or of an older run as its rollout files say."""
    rows: list[dict[str, Any]] = []
    logged = record.metrics.reindex(columns=["step", "reasons", "unjudged_fraction"])
    missing = set(record.rollout_steps)
    for step, reasons, unjudged in logged.itertuples(index=False, name=None):
        if isinstance(reasons, dict) and reasons:
            rows += _shares(int(step), reasons, unjudged)
            missing.discard(int(step))
    for step in sorted(missing):
        samples = record.rollouts(step, ["reason", "reward"])
        counts = dict(Counter(samples["reason"]))
        rows += _shares(step, counts, float(samples["reward"].isna().mean()))
    return sorted(rows, key=lambda row: int(row["step"]))


def _shares(step: int, counts: Mapping[str, int], unjudged: float) -> list[dict[str, Any]]:
    num_samples = sum(counts.values())
    about = {"step": step, "num_samples": num_samples, "unjudged": unjudged}
    return [{**about, "reason": r, "share": c / num_samples} for r, c in counts.items()]


def _held_out(record: RunRecord) -> list[dict[str, Any]]:
    """Reasons that the run's evaluations saw at least once."""
    summary = record.summary
    shares = summary[summary["metric"].str.startswith("share_")]
    seen = shares.groupby("metric")["value"].max()
    shares = shares[shares["metric"].isin(seen[seen > 0].index)]
    return [
        {
            "step": int(row["step"]),
            "reason": str(row["metric"]).removeprefix("share_"),
            "share": row["value"],
            "share_low": row["ci_low"],
            "share_high": row["ci_high"],
            "num_problems": row["num_problems"],
        }
        for row in shares.to_dict("records")
    ]


def _filled(rows: pd.DataFrame) -> pd.DataFrame:
    """With a row of share 0 for each reason of the run that a step does not have."""
    reasons = reason_order(rows["reason"])
    of_step = [name for name in rows if name in ("num_samples", "num_problems", "unjudged")]
    facts = rows.groupby("step", as_index=False)[of_step].first()
    full = facts.merge(pd.DataFrame({"reason": reasons}), how="cross")
    found = rows.drop(columns=of_step)
    table = full.merge(found, on=["step", "reason"], how="left")
    return table.assign(share=table["share"].astype(float).replace(np.nan, 0.0))
