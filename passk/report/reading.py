"""Describe the tables of a report in sentences: changes, directions, the sweep, and costs."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from passk.report.costs import AMOUNTS, GAINED, LOST, UNKNOWN, amount, measures
from passk.report.table_formats import rate_form
from passk.report.tables import summary_rows
from passk.text import cell, number_cell

_MOST_IN_A_SENTENCE = 4


def reading(
    table: pd.DataFrame, titles: Mapping[str, str], ks: Mapping[str, int], baseline: str = ""
) -> list[str]:
    """Describe the reproduction table in sentences: first what changed, then how gradients aligned.

    `titles` and `ks` are keyed by label; changes are against `baseline`, if it is given. A change
    whose interval contains 0 is called no clear change.
    """
    rows = summary_rows(table).drop_duplicates("regime", keep="last").to_dict("records")
    rows = [row for row in rows if row["regime"] in titles]
    changes = [_change(row, titles, ks) for row in rows if pd.notna(row["delta_pass1_low"])]
    if len(changes) > _MOST_IN_A_SENTENCE:
        return [f"{change}." for change in changes]
    directions = [
        _direction(row, titles)
        for row in rows
        if pd.notna(row["alignment_low"]) and row["regime"].split()[0] not in ("sft", "pass1")
    ]
    sentences = []
    if changes:
        against = baseline or "the starting checkpoint"
        sentences.append(f"Against {against}, {'; '.join(changes)}.")
    if directions:
        sentences.append(
            f"At {'the starting' if baseline else 'that'} checkpoint, measured against the "
            f"gradient of Pass@1, the gradient of {'; that of '.join(directions)}."
        )
    return sentences


def sweep_reading(cells: pd.DataFrame, k: int) -> list[str]:
    """Describe the sweep in a sentence: how many cells gain Pass@k without a clear loss of Pass@1.

    `cells` has one row for each of them: `tables.summary_rows` of the sweep's table.
    """
    cells = cells.dropna(subset=["delta_pass1_low", f"delta_pass{k}_low"])
    if cells.empty:
        return []
    gained = cells[f"delta_pass{k}_low"] > 0
    free = gained & (cells["delta_pass1_high"] >= 0)
    best = cells.iloc[int(cells[f"delta_pass{k}"].argmax())].to_dict()
    gain, price = (
        number_cell(best[name], rate_form(name)) for name in (f"delta_pass{k}", "delta_pass1")
    )
    cost = f", {free.sum() or 'none'} of them without a clear loss of Pass@1" if any(gained) else ""
    return [
        f"Of {len(cells)} cell{'s' * (len(cells) > 1)} of the sweep, {gained.sum() or 'none'} "
        f"clearly raised Pass@{k}{cost}; the largest gain, {gain} points of Pass@{k} (k = "
        f"{best['k']}, weight of Pass@1 {best['pass1_weight']:g}), came with {price} points of "
        "Pass@1."
    ]


def _change(row: Mapping[Any, Any], titles: Mapping[str, str], ks: Mapping[str, int]) -> str:
    """Write `Pass@8-only changed Pass@1 by +5.2 points [..] and made no clear change to Pass@8`."""
    clauses = []
    for column, k in (("delta_pass1", 1), ("delta_passk", ks[row["regime"]])):
        value, _, interval = cell(row, column, rate_form(column)).partition(" ")
        points = f"{value} points {interval}"
        if row[f"{column}_low"] <= 0 <= row[f"{column}_high"]:
            clauses.append(("made no clear change to", f"Pass@{k} ({points})"))
        else:
            clauses.append(("changed", f"Pass@{k} by {points}"))
    (verb, first), (other, second) = clauses
    title = titles[row["regime"]]
    if verb == other:
        return f"{title} {verb} {first} {'and' if verb == 'changed' else 'or'} {second}"
    return f"{title} {verb} {first} and {other} {second}"


def _direction(row: Mapping[Any, Any], titles: Mapping[str, str]) -> str:
    low, high = row["alignment_low"], row["alignment_high"]
    where = "points against it" if high < 0 else "points the same way" if low > 0 else ""
    cosine = cell(row, "alignment", rate_form("alignment"))
    return f"{titles[row['regime']]} {where or 'shows no clear direction'} (cosine {cosine})"


def cost_sentences(costs: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    """Compare a step of each RL label with one of Pass@k-only, and state prices of points."""
    rl = costs[costs["num_drawn"] > 0].to_dict("records")
    reference = next((row for row in rl if row["regime"].split()[0] == "passk"), None)
    others = [row for row in rl if reference and row["regime"] != reference["regime"]]
    sentences = [_step(row, reference, titles) for row in others if reference]
    if sentences:
        sentences.append(
            "Seconds are those of a machine as busy as it was; tokens measure the work."
        )
    for measure in ("pass1", "passk"):
        clauses = [
            _price(row, name, k, titles)
            for row in rl
            for name, k in measures(row)
            if name == measure and row[f"{name}_change"] != UNKNOWN
        ]
        sentences += [f"{'; '.join(clauses)}."] if clauses else []
    return sentences


def _step(row: Mapping[Any, Any], reference: Mapping[Any, Any], titles: Mapping[str, str]) -> str:
    """Write `A step of A drew as many samples as one of B (1,024) and took 1.02 times its ...`."""
    title, other = titles.get(row["regime"]), titles.get(reference["regime"])
    drawn, there = row["samples_per_step"], reference["samples_per_step"]
    if drawn == there:
        parts = [f"drew as many samples as one of {other} ({amount(drawn)})"]
    else:
        parts = [f"drew {amount(drawn)} samples (one of {other} {amount(there)})"]
    seconds = [run["step_seconds"] for run in (row, reference)]
    tokens = [run["num_learned_tokens"] / run["num_steps"] for run in (row, reference)]
    for verb, (ours, theirs), unit in (
        ("took", seconds, "seconds"),
        ("learnt from", tokens, "tokens"),
    ):
        if theirs and ours == ours and theirs == theirs:
            parts.append(f"{verb} {ours / theirs:.2f} times its {unit}")
    return f"A step of {title} {' and '.join(filter(None, [', '.join(parts[:-1]), parts[-1]]))}."


def _price(row: Mapping[Any, Any], name: str, k: int, titles: Mapping[str, str]) -> str:
    """Write `Pass@8-only gained a point of Pass@8 for each 15,360 samples`."""
    change, title = row[f"{name}_change"], titles.get(row["regime"], row["regime"])
    if change not in (GAINED, LOST):
        return f"{title} made no clear change to Pass@{k}, so it has no price"
    prices = [
        f"{number_cell(row[f'{paid}_per_{name}'], amount)} {unit}"
        for paid, unit in AMOUNTS.items()
        if pd.notna(row[f"{paid}_per_{name}"])
    ]
    return f"{title} {change} a point of Pass@{k} for each {' or '.join(prices)}"
