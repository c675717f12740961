"""Write the section on filtered sets of `passk diagnose`: sentences, the paper's table twice."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from passk.config.commands import DiagnosisConfig
from passk.diagnostics.paper_sets import CORRECTED, PAPER, Filtered
from passk.text import Table

_COLUMNS = {
    "easy_above": "easy above",
    "hard_below": "hard below",
    "prompts": "prompts (hard/easy)",
    "ratio": "easy : hard",
    "agreement": "mean a",
    "contribution": "mean w a",
    "shift": "shift",
    "contribution_sum": "sum of w a",
}
_DETAILS = {
    "hard_agreement": "mean a, hard",
    "easy_agreement": "mean a, easy",
    "mean_weight": "E[w]",
    "reweighted_agreement": "reweighted a",
    "covariance": "Cov(w, a)",
    "pass1_norm": "norm of grad J_1",
}
_OWN = {"own_agreement": "own products in mean a", "own_contribution": "... in mean w a"}


def filtered_section(found: Filtered, asked: DiagnosisConfig) -> str:
    """Write the section with both ways and their differences; empty if no sets were asked for."""
    table = found.table
    if table.empty:
        return ""
    unsolved = "kept among" if asked.keep_unsolved else "left out of"
    measured = {way: table[(table["way"] == way) & ~_empty(table)] for way in (PAPER, CORRECTED)}
    fresh = (
        "Here other samples split easy from hard than are measured."
        if asked.fresh_sets
        else "The samples that are measured also split easy from hard, so a hard prompt may only "
        "have been unlucky (diagnose.fresh_sets=true draws others)."
    )
    sections = [
        "## Filtered sets of easy and hard prompts",
        f"Prompts of success between the thresholds are dropped, and those of which no sample is "
        f"right are {unsolved} the hard ones (diagnose.keep_unsolved). Agreement is that with the "
        "gradient of Pass@1 on the set.",
        *_missing(found),
        f"### As the paper computes it, k = n = {found.num_samples}",
        "Plug-in weights n (1 - c/n)^(n-1), gradients without a baseline, and the same samples on "
        "both sides, so that a prompt's product with itself, which is never negative, is in every "
        f"mean. {_signs(measured[PAPER], found.num_samples)}",
        *_tables(measured[PAPER], _DETAILS | _OWN),
        f"### Corrected, k = {found.planned.k}",
        "Weights and gradients without bias, no prompt meets itself, and 95 % intervals over "
        f"prompts that count both places of a prompt in a product. {fresh} "
        f"{_signs(measured[CORRECTED], found.planned.k)}",
        *_tables(measured[CORRECTED], _DETAILS),
        f"The mean of w a estimates the product of the gradients of Pass@k and Pass@1 on the set; "
        "the sum, which the paper prints as inner product, grows with the number of prompts. "
        f"Seconds: {found.seconds:.1f}.",
    ]
    return "\n" + "\n\n".join(section.rstrip() for section in sections) + "\n"


def _empty(table: pd.DataFrame) -> "pd.Series[bool]":
    return (table["num_easy"] == 0) | (table["num_hard"] == 0)


def _missing(found: Filtered) -> list[str]:
    """State which sets have no easy prompts, no hard ones, or neither."""
    rows = found.table[_empty(found.table)]
    if rows.empty:
        return []
    names = []
    for row in rows.to_dict("records"):
        lacks = [side for side in ("easy", "hard") if row[f"num_{side}"] == 0]
        ends = f"[{row['easy_above']:g}, {row['hard_below']:g}]"
        names.append(f"{ends} ({row['way']}) has no {' and no '.join(lacks)} prompts")
    return [
        f"Sets that lack a side are not measured: {'; '.join(names)}. Success lies between "
        f"{100 * found.planned.hardest:.0f} and {100 * found.planned.easiest:.0f} %; other "
        "thresholds, more prompts or more samples may give both."
    ]


def _signs(rows: pd.DataFrame, k: int) -> str:
    """State in how many sets Pass@k and Pass@1 conflict."""
    if rows.empty:
        return "No set could be measured."
    below = rows["contribution"] < 0
    sentence = f"Of {len(rows)} sets, the mean of w a is below 0 in {below.sum() or 'none'}"
    if "contribution_high" not in rows or rows["contribution_high"].isna().all():
        return f"{sentence}."
    against, along = rows["contribution_high"] < 0, rows["contribution_low"] > 0
    return (
        f"{sentence}; Pass@{k} clearly conflicts with Pass@1 in {against.sum() or 'none'}, and "
        f"clearly agrees in {along.sum() or 'none'}."
    )


def _tables(rows: pd.DataFrame, details: dict[str, str]) -> list[str]:
    if rows.empty:
        return []
    shown = [
        {
            "prompts": f"{row['num_prompts']} ({row['num_hard']}/{row['num_easy']})",
            "ratio": f"{row['easy_per_hard']:.1f}:1",
            **{name: _cell(row, name) for name in (*_COLUMNS, *details) if name in row},
        }
        for row in rows.to_dict("records")
    ]
    thresholds = ["easy_above", "hard_below"]
    return [
        Table.of(shown, _COLUMNS).markdown(),
        Table.of(shown, {name: _COLUMNS[name] for name in thresholds} | details).markdown(),
    ]


def _cell(row: Mapping[Any, Any], column: str) -> str:
    value, low = row[column], row.get(f"{column}_low")
    ends = "" if low is None or pd.isna(low) else f" [{low:.3g}, {row[f'{column}_high']:.3g}]"
    return f"{value:.3g}{ends}"
