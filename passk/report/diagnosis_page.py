"""Write the page of `passk diagnose`: its sections on the conflict, gold answers, filtered sets."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from passk.config.commands import DiagnosisConfig
from passk.config.schema import RolloutConfig
from passk.diagnostics.gold_errors import MIN_SAMPLES, suspect_golds
from passk.diagnostics.paper_sets import CORRECTED, PAPER, Filtered
from passk.report.diagnosis_tables import Diagnosis
from passk.report.pages import markdown_page
from passk.report.tables import kind_order
from passk.text import shortened

_NUM_SHOWN = 10  # suspect gold answers
_MAX_CHARS = 60  # shown of a prompt or an answer


def page(
    found: Diagnosis,
    asked: DiagnosisConfig,
    rollout: RolloutConfig,
    differences: Mapping[str, float],
    seconds: Mapping[str, float],
    matrix: str = "",
) -> str:
    """Write the page: if Pass@k conflicts with Pass@1, from which k on, and on which prompts.

    `matrix` is the section on which prompts interfere with which, if that was measured.
    """
    prompts, curve = found.prompts, found.curve
    later = curve["inner_product"][curve["k"] >= found.first.k.value]
    return markdown_page(
        "diagnosis",
        asked=asked,
        rollout=rollout,
        differences=differences,
        seconds=seconds,
        matrix=matrix,
        num_prompts=len(prompts),
        pass1=prompts["p"].mean(),
        num_without=(prompts["signal"] == "none right").sum(),
        num_solved=(prompts["signal"] == "all right").sum(),
        first=found.first,
        stays_below=(later < 0).all(),
        signs=_signs(found),
        curve=curve[curve["k"].isin(found.ks)],
        promised=found.promised,
        product=curve.set_index("k")["inner_product"][found.k],
        k=found.k,
        groups=found.groups,
        **_gold_answers(found),
    )


def _signs(found: Diagnosis) -> dict[str, list[str]]:
    """Sort the shown k by what they do to Pass@1: conflict, agree, or neither clearly."""
    signs: dict[str, list[str]] = {
        "conflict with": [],
        "agree with": [],
        "show no clear sign beside": [],
    }
    conflict, agree, neither = signs.values()
    for row in found.curve[found.curve["k"].isin(found.ks)].to_dict("records"):
        low, high = row["inner_product_low"], row["inner_product_high"]
        if row["k"] > 1:
            (conflict if high < 0 else agree if low > 0 else neither).append(f"Pass@{row['k']}")
    return signs


def _gold_answers(found: Diagnosis) -> dict[str, Any]:
    """Collect what the page says about gold answers and injected errors."""
    agreed = found.agreed
    refused = agreed[~agreed["majority_accepted"].astype(bool)]
    grouping = next(iter(found.groups), None)
    suspects = suspect_golds(agreed).head(_NUM_SHOWN)
    texts = ["prompt", "gold", "majority_answer"]
    return {
        "samples_per_prompt": found.prompts["n"].max(),
        "min_samples": MIN_SAMPLES,
        "num_agreed": len(agreed),
        "num_refused": len(refused),
        "num_never_right": (refused["c"] == 0).sum(),
        "grouping": grouping,
        "agreed": _agreed(found, refused, grouping) if len(agreed) and grouping else agreed.head(0),
        "suspects": suspects.assign(
            votes=suspects["majority_votes"].astype(str) + " of " + suspects["n"].astype(str),
            **suspects[texts].map(shortened, length=_MAX_CHARS),
        ),
        "injected": found.injected.replace("_", " ", regex=True),  # the names of the errors
    }


def _agreed(found: Diagnosis, refused: pd.DataFrame, grouping: str) -> pd.DataFrame:
    """Count the prompts of each kind, level or type whose samples agree on an answer."""
    counted = {
        "num_prompts": found.prompts,
        "num_agreed": found.agreed,
        "num_refused": refused,
        "num_never_right": refused[refused["c"] == 0],
    }
    if len(found.injected):
        counted["num_on_purpose"] = refused[refused["injected"].astype(bool)]
    names = pd.Index(kind_order(found.prompts[grouping]), name=grouping)
    sizes = {name: rows[grouping].value_counts() for name, rows in counted.items()}
    return pd.DataFrame(sizes, index=names).fillna(0).astype(int).reset_index()


def filtered_section(found: Filtered, asked: DiagnosisConfig) -> str:
    """Write the section with both ways and their differences; empty if no sets were asked for."""
    table = found.table
    if table.empty:
        return ""
    lacking = (table["num_easy"] == 0) | (table["num_hard"] == 0)
    measured, num_samples = table[~lacking], found.num_samples
    text = markdown_page(
        "filtered_sets",
        asked=asked,
        found=found,
        missing=table[lacking].to_dict("records"),
        paper=_of_way(measured[measured["way"] == PAPER], num_samples),
        corrected=_of_way(measured[measured["way"] == CORRECTED], found.k),
    )
    return "\n" + text


def _of_way(rows: pd.DataFrame, k: int) -> dict[str, Any]:
    """Collect the sets that were measured in one way, and count those where Pass@k conflicts."""
    hard, easy = rows["num_hard"].astype(str), rows["num_easy"].astype(str)
    shown = rows.assign(
        prompts=rows["num_prompts"].astype(str) + " (" + hard + "/" + easy + ")",
        ratio=rows["easy_per_hard"].map("{:.1f}:1".format),
    )
    known = "contribution_high" in rows and rows["contribution_high"].notna().any()
    return {
        "k": k,
        "rows": shown,
        "num_below": (rows["contribution"] < 0).sum(),
        "num_against": (rows["contribution_high"] < 0).sum() if known else None,
        "num_along": (rows["contribution_low"] > 0).sum() if known else None,
    }
