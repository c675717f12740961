"""Page section on filtered sets in `passk diagnose`: sentences, the paper's table twice, a figure.

The figure shows agreement, weights and contributions, as figures 6 to 8 of the paper.
"""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from passk.config.commands import DiagnosisConfig
from passk.diagnostics.paper_sets import CORRECTED, PAPER, Filtered
from passk.style import INK, KIND_COLORS, STYLE
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
        f"### Corrected, k = {found.k}",
        "Weights and gradients without bias, no prompt meets itself, and 95 % intervals over "
        f"prompts that count both places of a prompt in a product. {fresh} "
        f"{_signs(measured[CORRECTED], found.k)}",
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
        f"{100 * found.hardest:.0f} and {100 * found.easiest:.0f} %; other thresholds, more "
        "prompts or more samples may give both."
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


_SIDES = {"hard": KIND_COLORS[1], "easy": KIND_COLORS[0]}
_NUM_BINS = 30


def filtered_figures(found: Filtered) -> dict[str, Figure]:
    """Draw a figure for each set that was measured, keyed by the name of its file."""
    titles = {
        PAPER: f"As in the paper, k = n = {found.num_samples}",
        CORRECTED: f"Corrected, k = {found.k}",
    }
    figures = {}
    for ends, rows in found.prompts.groupby(["easy_above", "hard_below"], sort=False):
        name = "_".join(f"{end:g}" for end in ends)
        ways = {way: title for way, title in titles.items() if (rows["way"] == way).any()}
        figures[f"filtered_{name}"] = filtered_figure(rows, ways)
    return figures


@matplotlib.rc_context(STYLE)
def filtered_figure(prompts: pd.DataFrame, titles: dict[str, str]) -> Figure:
    """Draw a row of panels per way of `titles` from one set's rows of `Filtered.prompts`."""
    figure = Figure(figsize=(13.5, 3.9 * len(titles)), layout="constrained")
    panels = figure.subplots(len(titles), 3, squeeze=False)
    for row, (way, title) in zip(panels, titles.items(), strict=True):
        of_way = prompts[prompts["way"] == way]
        of_way = of_way.sort_values("c", kind="stable", ignore_index=True)
        _scatter(row[0], of_way, "agreement")
        row[0].set(title=title, ylabel="agreement a")
        _weights(row[1], of_way)
        _scatter(row[2], of_way, "contribution")
        means = {name: of_way[name].mean() for name in ("contribution", "agreement")}
        for (name, mean), dash in zip(means.items(), ("-", ":"), strict=True):
            label = "mean of w a" if name == "contribution" else "mean of a"
            row[2].axhline(mean, color="#D55E00", linestyle=dash, linewidth=1.4, label=label)
        row[2].set(title="Contributions", ylabel="contribution w a")
        row[2].legend(loc="center right")
    return figure


def _scatter(axes: Axes, prompts: pd.DataFrame, column: str) -> None:
    axes.axhline(0, color=INK, linewidth=1.2)
    for side, color in _SIDES.items():
        part = prompts[prompts["side"] == side]
        axes.scatter(part.index, part[column], s=14, color=color, linewidths=0, label=side)
    # On a linear scale the few prompts with much weight would flatten all others.
    sizes = prompts[column].abs()
    axes.set_yscale(
        "symlog", linthresh=max(float(sizes.median()), 1e-3 * float(sizes.max()), 1e-300)
    )
    axes.set_xlabel("prompts, from hard to easy")
    if column == "agreement":
        axes.legend(loc="lower right")


def _weights(axes: Axes, prompts: pd.DataFrame) -> None:
    """Draw the histogram of weights; weight 0, which has no logarithm, is at the left end."""
    positive = prompts["weight"][prompts["weight"] > 0]
    least, most = (positive.min(), positive.max()) if len(positive) else (0.1, 1.0)
    least = max(min(least / 2, 0.01), 1e-30)
    edges = np.geomspace(least, 2 * most, _NUM_BINS)
    parts = [prompts["weight"][prompts["side"] == side].clip(lower=least) for side in _SIDES]
    colors = list(_SIDES.values())
    axes.hist(parts, bins=list(edges), stacked=True, color=colors, label=list(_SIDES))
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.set(title="Weights", xlabel="weight w (left end: 0)", ylabel="prompts (log scale)")
