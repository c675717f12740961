"""Compute what runs cost, from their files: samples, tokens, seconds by phase, price of a point.

Samples and tokens are those of the steps on record, which made the policy. Seconds cover the whole
run from its first line on, over all sessions: evaluations, saving, and steps repeated after a kill
are in `other_seconds`; loading the model is not included. One process is one device.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from passk.report.table_formats import rate_form
from passk.report.tables import by_label, reported_k, reproduction_table
from passk.runs.reader import RunRecord
from passk.statistics import Interval
from passk.text import Form, Table, cell

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
    k (of the `passk` columns), num_runs, those of `run_cost`, samples_per_step, step_seconds (from
    rollout to weight hand-over); and for X of pass1 and passk

    X_change: gained, lost, `no clear change` where the interval of the change contains 0, or
    `unknown`; delta_X with its interval, and samples_per_X, tokens_per_X, device_seconds_per_X: the
    cost of each point gained or lost, with the interval that follows from that of the change. NaN
    where no change is clear. For SFT these are demonstrations, and the tokens learnt from.
    """
    changes = reproduction_table(records) if changes is None else changes
    pooled = {row["regime"]: row for row in changes.to_dict("records")}  # the last is of all seeds
    rows = []
    for label, runs in by_label(records).items():
        spent = pd.DataFrame([run_cost(run) for run in runs]).mean()
        row: dict[str, object] = {"regime": label, "k": reported_k(runs[0], records)}
        row |= {"num_runs": len(runs), **spent}
        num_steps = spent["num_steps"] or np.nan
        row["samples_per_step"] = spent["num_drawn"] / num_steps
        row["step_seconds"] = sum(spent[f"{phase}_seconds"] for phase in PHASES) / num_steps
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
    columns = [f"{phase}_seconds" for phase in PHASES]
    counted = ["num_sampled_tokens", "num_learned_tokens"]
    logged = metrics.reindex(columns=[*columns, *counted]).astype(float)
    phases = {name: float(logged[name].sum()) for name in columns}  # steps may have no value
    sampled, learned = (float(logged[name].sum(skipna=False, min_count=1)) for name in counted)
    seconds, num_processes, device_seconds = _time(record)
    return {
        "num_steps": num_steps,
        "num_drawn": 0.0 if is_sft else _num_drawn(record),
        "num_demonstrations": demonstrated if is_sft else 0.0,
        "num_sampled_tokens": 0.0 if is_sft else sampled,
        "num_learned_tokens": learned,
        **phases,
        "other_seconds": max(0.0, seconds - sum(phases.values())) if seconds == seconds else np.nan,
        "seconds": seconds,
        "num_processes": num_processes,
        "device_seconds": device_seconds,
    }


def _num_drawn(record: RunRecord) -> float:
    """Count samples by the reasons of their verdicts: every sample has one, judged or not."""
    if "reasons" not in record.metrics:
        return np.nan
    return float(sum(sum(r.values()) for r in record.metrics["reasons"] if isinstance(r, dict)))


def _time(record: RunRecord) -> tuple[float, float, float]:
    """Return seconds, processes of the last session, device-seconds; for killed runs as logged."""
    names = ("seconds", "num_processes", "device_seconds")
    recorded, num_processes, on_devices = (float(record.manifest.get(n, np.nan)) for n in names)
    logged = record.metrics.get("seconds", pd.Series(dtype=float)).max()
    seconds = float(np.fmax(recorded, logged))
    return seconds, num_processes, on_devices + (seconds - recorded) * num_processes


def _price(
    name: str, change: Mapping[Any, Any], spent: pd.Series, *, is_sft: bool
) -> dict[str, object]:
    """Compute the cost of a point of `name`; its interval follows from that of the change."""
    ends = [float(change.get(f"delta_{name}{end}", np.nan)) for end in ("", "_low", "_high")]
    value, low, high = ends
    row: dict[str, object] = {f"{name}_change": UNKNOWN}
    row |= Interval(*ends).columns(f"delta_{name}")
    is_clear = low > 0 or high < 0
    if not np.isnan([low, high]).any():
        row[f"{name}_change"] = NOT_CLEAR if not is_clear else GAINED if low > 0 else LOST
    points = np.abs([value, high, low] if low > 0 else [value, low, high]) * 100
    for amount, columns in _PAID.items():
        paid = spent[columns[is_sft]]
        for end, size in zip(("", "_low", "_high"), points, strict=True):
            row[f"{amount}_per_{name}{end}"] = paid / size if is_clear else np.nan
    return row


_OF_ONE_SIDE = ("num_drawn", "num_sampled_tokens", "num_demonstrations")  # 0 for the others
AMOUNTS = {"samples": "samples", "tokens": "tokens", "device_seconds": "device-seconds"}
_HEADINGS = {
    "regime": "Regime",
    "num_runs": "Runs",
    "num_steps": "Steps",
    "num_drawn": "Samples",
    "num_demonstrations": "Demonstrations",
    "num_sampled_tokens": "Tokens sampled",
    "num_learned_tokens": "Tokens learnt from",
    **{f"{phase}_seconds": f"{phase.capitalize()} (s)" for phase in PHASES},
    "other_seconds": "Other (s)",
    "seconds": "All (s)",
    "num_processes": "Processes",
    "device_seconds": "Device-seconds",
    "step_seconds": "A step (s)",
}


def cost_sheet(costs: pd.DataFrame, titles: Mapping[str, str]) -> Table:
    """Build the table of the costs of one run of each label, averaged over its seeds.

    Samples of SFT and demonstrations of RL do not exist; their cells are empty.
    """
    forms: dict[str, Form] = dict.fromkeys(_HEADINGS, amount)
    forms |= dict.fromkeys(_OF_ONE_SIDE, lambda value: amount(value) if value else "")
    rows = costs.assign(regime=costs["regime"].replace(titles)).to_dict("records")
    return Table.of(rows, _HEADINGS, forms).without_empty_columns()


def price_sheet(costs: pd.DataFrame, titles: Mapping[str, str]) -> Table:
    """Build the table of the prices of a point of Pass@1 and Pass@k: two rows per label."""
    headings = ["Regime", "Measure", "Change (points)", "So it"]
    headings += [f"{unit.capitalize()} a point" for unit in AMOUNTS.values()]
    rows = []
    for row in costs.to_dict("records"):
        for name, k in measures(row):
            if not pd.isna(row[f"delta_{name}"]):
                change = cell(row, f"delta_{name}", rate_form(f"delta_{name}"))
                title = titles.get(row["regime"], row["regime"])
                prices = [cell(row, f"{paid}_per_{name}", amount) for paid in AMOUNTS]
                rows.append([title, f"Pass@{k}", change, row[f"{name}_change"], *prices])
    return Table(headings, rows).without_empty_columns()


def measures(row: Mapping[Any, Any]) -> list[tuple[str, int]]:
    """Return the names and k of what a label's costs are prices of: Pass@1, and Pass@k if k > 1."""
    return [("pass1", 1), *([("passk", row["k"])] if row["k"] > 1 else [])]


def amount(value: float) -> str:
    """Format large numbers whole with commas, small amounts with three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
