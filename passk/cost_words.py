"""Costs for people: two tables, and sentences that hold regimes against each other."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from passk.costs import GAINED, LOST, PHASES
from passk.sheets import Sheet, without_empty_columns

_OF_ONE_SIDE = ("num_drawn", "num_sampled_tokens", "num_demonstrations")  # 0 for the others
_AMOUNTS = {"samples": "samples", "tokens": "tokens", "device_seconds": "device-seconds"}


def cost_sheet(costs: pd.DataFrame, titles: Mapping[str, str]) -> Sheet:
    """What one run of each label took, in the mean over its seeds."""
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
    """What a point of Pass@1 and of Pass@k took each label: a row for each of both."""
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
    """A step of each RL label against one of Pass@k-only, and what their points took."""
    rl = costs[costs["num_drawn"] > 0]
    if rl.empty:
        return []
    reference = next((r for r in rl.to_dict("records") if r["regime"].split()[0] == "passk"), None)
    sentences = []
    for row in rl.to_dict("records"):
        if reference is not None and row["regime"] != reference["regime"]:
            sentences.append(_step(row, reference, titles))
    if sentences:
        sentences.append("Seconds are those of a machine as busy as it was; tokens tell the work.")
    for name in ("pass1", "passk"):
        told = [_told(row, name, titles) for row in rl.to_dict("records")]
        clauses = [clause for clause in told if clause]
        if clauses:
            sentences.append(f"{'; '.join(clauses)}.")
    return sentences


def _is_beside(row: Mapping[Any, Any], column: str) -> bool:
    """Samples of SFT, demonstrations of RL: there are none."""
    return column in _OF_ONE_SIDE and row[column] == 0


def _step(row: Mapping[Any, Any], reference: Mapping[Any, Any], titles: Mapping[str, str]) -> str:
    """`A step of A drew as many samples as one of B (1,024) and took 1.02 times its seconds.`"""
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


def _told(row: Mapping[Any, Any], name: str, titles: Mapping[str, str]) -> str:
    """`Pass@8-only gained a point of Pass@8 for each 15,360 samples ...`; empty where unknown."""
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
    """A number with its interval where it has one."""
    value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return ""
    if signed:
        shown = [f"{scale * v:+.1f}".replace("-", "\u2212") for v in (value, low, high)]
    else:
        shown = [_amount(v) for v in (value, low, high)]
    return shown[0] if pd.isna(low) else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def _amount(value: float) -> str:
    """Whole thousands with commas, small amounts with three digits."""
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
