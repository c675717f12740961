"""Compute what runs cost, from their files: samples, tokens, seconds by phase, price of a point.

Samples and tokens are those of the steps on record, which made the policy. Seconds cover the whole
run from its first line on, over all sessions: evaluations, saving, and steps repeated after a kill
are in `other_seconds`; loading the model is not included. One process is one device.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from passk.report.table_formats import Sheet, without_empty_columns
from passk.report.tables import in_order, reported_k, reproduction_table
from passk.runs.reader import RunRecord

PHASES = ("rollout", "verify", "measure", "learn", "sync")
GAINED, LOST, NOT_CLEAR, UNKNOWN = "gained", "lost", "no clear change", "unknown"
_PAID = {  # amount that prices are in -> columns of RL, and of SFT
    "samples": ("num_drawn", "num_demonstrations"),
    "tokens": ("num_sampled_tokens", "num_learned_tokens"),
    "device_seconds": ("device_seconds", "device_seconds"),
}


def cost_table(records: Sequence[RunRecord], changes: pd.DataFrame | None = None) -> pd.DataFrame:
    """Compute a row per label: mean costs of one run over its runs (seeds), and prices of points.

    `changes` is `reproduction_table` of the same records, if there already is one. Columns: regime,
    k (of the `passk` columns), num_runs, those of `run_cost`, samples_per_step, step_seconds; and
    for X of pass1 and passk

    X_change: gained, lost, `no clear change` where the interval of the change contains 0, or
    `unknown`; delta_X with its interval, and samples_per_X, tokens_per_X, device_seconds_per_X: the
    cost of each point gained or lost, with the interval that follows from that of the change. NaN
    where no change is clear. For SFT these are demonstrations, and the tokens learnt from.
    """
    changes = reproduction_table(records) if changes is None else changes
    pooled = {row["regime"]: row for row in changes.to_dict("records")}  # the last is of all seeds
    runs_of: dict[str, list[RunRecord]] = {}
    for label, record in in_order(records):
        runs_of.setdefault(label, []).append(record)
    rows = []
    for label, runs in runs_of.items():
        spent = pd.DataFrame([run_cost(run) for run in runs]).mean()
        row: dict[str, object] = {"regime": label, "k": reported_k(runs[0], records)}
        row |= {"num_runs": len(runs), **spent, **_per_step(spent)}
        for name in ("pass1", "passk"):
            row |= _price(name, pooled.get(label, {}), spent, is_sft=runs[0].regime == "sft")
        rows.append(row)
    return pd.DataFrame(rows)


def run_cost(record: RunRecord) -> dict[str, float]:
    """Compute what one run cost; NaN where the files do not hold a number.

    Keys: num_steps, num_drawn (samples), num_demonstrations, num_sampled_tokens,
    num_learned_tokens, seconds of each of `PHASES`, other_seconds, seconds, num_processes,
    device_seconds.
    """
    metrics, num_steps = record.metrics, len(record.metrics)
    is_sft = record.regime == "sft"
    demonstrated = float(record.setting("regime.num_demonstrations", np.nan)) * num_steps
    phases = {f"{phase}_seconds": _total(metrics, f"{phase}_seconds") for phase in PHASES}
    seconds, num_processes, device_seconds = _time(record)
    return {
        "num_steps": num_steps,
        "num_drawn": 0.0 if is_sft else _num_drawn(record),
        "num_demonstrations": demonstrated if is_sft else 0.0,
        "num_sampled_tokens": 0.0 if is_sft else _num_sampled_tokens(record),
        "num_learned_tokens": _known_total(metrics, "num_learned_tokens"),
        **phases,
        "other_seconds": max(0.0, seconds - sum(phases.values())) if seconds == seconds else np.nan,
        "seconds": seconds,
        "num_processes": num_processes,
        "device_seconds": device_seconds,
    }


def _num_drawn(record: RunRecord) -> float:
    """Count samples by the reasons of their verdicts: every sample has one, judged or not."""
    size = record.setting("rollout.num_prompts", np.nan), record.setting("rollout.num_samples", 1)
    reasons = record.metrics.get("reasons", pd.Series(index=record.metrics.index, dtype=object))
    drawn = [sum(r.values()) if isinstance(r, dict) else size[0] * size[1] for r in reasons]
    return float(sum(drawn))


def _num_sampled_tokens(record: RunRecord) -> float:
    """Return the logged number; for an older run, that of its rollout files if complete."""
    logged = _known_total(record.metrics, "num_sampled_tokens")
    if logged == logged:
        return logged
    steps = record.metrics["step"].astype(int)
    if not len(steps) or not set(steps) <= set(record.rollout_steps):
        return np.nan
    return float(sum(record.rollouts(step, ["num_tokens"])["num_tokens"].sum() for step in steps))


def _time(record: RunRecord) -> tuple[float, float, float]:
    """Return seconds, processes of the last session, device-seconds; for killed runs as logged."""
    manifest = record.manifest
    asked = record.setting("learner.num_processes", "auto")
    alone = 1 if manifest.get("device", "cpu") == "cpu" else np.nan
    num_processes = manifest.get("num_processes", asked if isinstance(asked, int) else alone)
    recorded = float(manifest.get("seconds", np.nan))
    logged = record.metrics.get("seconds", pd.Series(dtype=float)).max()
    seconds = float(np.fmax(recorded, logged))
    on_devices = float(manifest.get("device_seconds", recorded * num_processes))
    unrecorded = seconds - recorded if recorded == recorded else 0.0
    return seconds, float(num_processes), on_devices + unrecorded * num_processes


def _per_step(spent: pd.Series) -> dict[str, float]:
    """Compute samples drawn per step, and seconds per step from rollout to weight hand-over."""
    num_steps = spent["num_steps"] or np.nan
    seconds = sum(spent[f"{phase}_seconds"] for phase in PHASES)
    return {
        "samples_per_step": spent["num_drawn"] / num_steps,
        "step_seconds": seconds / num_steps,
    }


def _price(
    name: str, change: Mapping[Any, Any], spent: pd.Series, *, is_sft: bool
) -> dict[str, object]:
    """Compute the cost of a point of `name`; its interval follows from that of the change."""
    ends = [float(change.get(f"delta_{name}{end}", np.nan)) for end in ("", "_low", "_high")]
    value, low, high = ends
    row: dict[str, object] = {f"{name}_change": UNKNOWN, f"delta_{name}": value}
    row |= {f"delta_{name}_low": low, f"delta_{name}_high": high}
    is_clear = low > 0 or high < 0
    if not np.isnan([low, high]).any():
        row[f"{name}_change"] = NOT_CLEAR if not is_clear else GAINED if low > 0 else LOST
    points = np.abs([value, high, low] if low > 0 else [value, low, high]) * 100
    for amount, columns in _PAID.items():
        paid = spent[columns[is_sft]]
        for end, size in zip(("", "_low", "_high"), points, strict=True):
            row[f"{amount}_per_{name}{end}"] = paid / size if is_clear else np.nan
    return row


def _total(metrics: pd.DataFrame, column: str) -> float:
    """Sum a column; steps without a value took no time."""
    if column not in metrics:
        return 0.0
    return float(metrics[column].astype(float).sum())


def _known_total(metrics: pd.DataFrame, column: str) -> float:
    """Sum a column that every step has, else return NaN."""
    if column not in metrics or metrics[column].isna().any():
        return np.nan
    return float(metrics[column].sum())


_OF_ONE_SIDE = ("num_drawn", "num_sampled_tokens", "num_demonstrations")  # 0 for the others
_AMOUNTS = {"samples": "samples", "tokens": "tokens", "device_seconds": "device-seconds"}


def cost_sheet(costs: pd.DataFrame, titles: Mapping[str, str]) -> Sheet:
    """Build the table of the costs of one run of each label, averaged over its seeds."""
    headings = {
        "num_steps": "Steps",
        "num_drawn": "Samples",
        "num_demonstrations": "Demonstrations",
    }
    headings |= {"num_sampled_tokens": "Tokens sampled", "num_learned_tokens": "Tokens learnt from"}
    headings |= {f"{phase}_seconds": f"{phase.capitalize()} (s)" for phase in PHASES}
    headings |= {"other_seconds": "Other (s)", "seconds": "All (s)"}
    headings |= {"num_processes": "Processes", "device_seconds": "Device-seconds"}
    headings |= {"step_seconds": "A step (s)"}
    rows = [
        [titles.get(row["regime"], row["regime"]), str(row["num_runs"])]
        + ["" if _is_beside(row, column) else _amount(row[column]) for column in headings]
        for row in costs.to_dict("records")
    ]
    return without_empty_columns(Sheet(["Regime", "Runs", *headings.values()], rows))


def price_sheet(costs: pd.DataFrame, titles: Mapping[str, str]) -> Sheet:
    """Build the table of the prices of a point of Pass@1 and Pass@k: two rows per label."""
    headings = ["Regime", "Measure", "Change (points)", "So it"]
    headings += [f"{name.capitalize()} a point" for name in _AMOUNTS.values()]
    rows = []
    for row in costs.to_dict("records"):
        for name, k in (("pass1", 1), ("passk", row["k"])):
            if pd.isna(row[f"delta_{name}"]) or (name == "passk" and k == 1):
                continue
            cells = [titles.get(row["regime"], row["regime"]), f"Pass@{k}"]
            cells += [_ends(row, f"delta_{name}", 100, signed=True), f"{row[f'{name}_change']}"]
            rows.append(cells + [_ends(row, f"{amount}_per_{name}") for amount in _AMOUNTS])
    return without_empty_columns(Sheet(headings, rows))


def cost_sentences(costs: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    """Compare a step of each RL label with one of Pass@k-only, and state prices of points."""
    rl = costs[costs["num_drawn"] > 0]
    if rl.empty:
        return []
    reference = next((r for r in rl.to_dict("records") if r["regime"].split()[0] == "passk"), None)
    sentences = []
    for row in rl.to_dict("records"):
        if reference is not None and row["regime"] != reference["regime"]:
            sentences.append(_step(row, reference, titles))
    if sentences:
        sentences.append(
            "Seconds are those of a machine as busy as it was; tokens measure the work."
        )
    for name in ("pass1", "passk"):
        said = [_cost(row, name, titles) for row in rl.to_dict("records")]
        clauses = [clause for clause in said if clause]
        if clauses:
            sentences.append(f"{'; '.join(clauses)}.")
    return sentences


def _is_beside(row: Mapping[Any, Any], column: str) -> bool:
    """Return True for samples of SFT and demonstrations of RL, which do not exist."""
    return column in _OF_ONE_SIDE and row[column] == 0


def _step(row: Mapping[Any, Any], reference: Mapping[Any, Any], titles: Mapping[str, str]) -> str:
    """Write `A step of A drew as many samples as one of B (1,024) and took 1.02 times its ...`."""
    title, other = titles.get(str(row["regime"])), titles.get(str(reference["regime"]))
    drawn, drawn_there = row["samples_per_step"], reference["samples_per_step"]
    same = f"as many samples as one of {other} ({_amount(drawn)})"
    differs = f"{_amount(drawn)} samples, one of {other} {_amount(drawn_there)},"
    parts = [f"A step of {title} drew {same if drawn == drawn_there else differs}"]
    times = row["step_seconds"] / reference["step_seconds"] if reference["step_seconds"] else None
    if times is not None and times == times:
        parts.append(f"took {times:.2f} times its seconds")
    learnt = [run["num_learned_tokens"] / run["num_steps"] for run in (row, reference)]
    if all(value == value for value in learnt) and learnt[1]:
        parts.append(f"learnt from {learnt[0] / learnt[1]:.2f} times its tokens")
    if len(parts) == 1:
        return f"{parts[0]}."
    return f"{', '.join(parts[:-1])} and {parts[-1]}."


def _cost(row: Mapping[Any, Any], name: str, titles: Mapping[str, str]) -> str:
    """Write `Pass@8-only gained a point of Pass@8 for each 15,360 samples`; empty if unknown."""
    what, title = row[f"{name}_change"], titles.get(str(row["regime"]), str(row["regime"]))
    k = 1 if name == "pass1" else row["k"]
    if name == "passk" and k == 1:
        return ""
    if what in (GAINED, LOST):
        prices = [
            f"{_amount(row[f'{amount}_per_{name}'])} {unit}"
            for amount, unit in _AMOUNTS.items()
            if not pd.isna(row[f"{amount}_per_{name}"])
        ]
        return f"{title} {what} a point of Pass@{k} for each {' or '.join(prices)}"
    return (
        "" if what == "unknown" else f"{title} made no clear change to Pass@{k}, so it has no price"
    )


def _ends(row: Mapping[Any, Any], column: str, scale: float = 1, *, signed: bool = False) -> str:
    """Format a number, with its interval if it has one."""
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return ""
    if signed:
        shown = [f"{scale * v:+.1f}".replace("-", "\u2212") for v in (value, low, high)]
    else:
        shown = [_amount(v) for v in (value, low, high)]
    return shown[0] if pd.isna(low) else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _amount(value: float) -> str:
    """Format large numbers whole with commas, small amounts with three digits."""
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
