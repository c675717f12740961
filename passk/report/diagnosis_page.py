"""Write the page of `passk diagnose`: sentences, then their tables, then suspect gold answers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from passk.config.commands import DiagnosisConfig
from passk.config.schema import RolloutConfig
from passk.diagnostics.gold_errors import MIN_SAMPLES, suspect_golds
from passk.report.diagnosis_tables import Diagnosis
from passk.report.pages import markdown_page
from passk.report.tables import kind_order
from passk.text import Table, shortened

_NUM_SHOWN = 10  # suspect gold answers
_MAX_CHARS = 60  # shown of a prompt or an answer
_CURVE = {
    "k": "k",
    "inner_product": "inner product",
    "cosine": "cosine",
    "mean_weight": "mean weight",
    "covariance": "covariance of weight and agreement",
    "reweighted_agreement": "reweighted agreement",
}
_INJECTED = {
    "error": "error",
    "k": "k",
    "prompt_share": "prompts with it (%)",
    "weight_share": "their share of the weight (%)",
    "expected_weight_share": "expected (%)",
    "contribution": "their contribution to f(k)",
    "inner_product": "f(k)",
}


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
        curve=_curve(found).markdown(),
        has_cosines="cosine" in curve,
        promised=found.promised,
        product=curve.set_index("k")["inner_product"][found.k],
        k=found.k,
        groups=[_group(name, table, found.k) for name, table in found.groups.items()],
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


def _curve(found: Diagnosis) -> Table:
    rows = found.curve[found.curve["k"].isin(found.ks)].to_dict("records")
    return Table.of(rows, {name: _CURVE[name] for name in _CURVE if name in found.curve})


def _group(grouping: str, table: pd.DataFrame, k: int) -> dict[str, Any]:
    """Collect what the page says about the kinds, levels or types of prompts."""
    columns = {
        grouping: grouping,
        "num_prompts": "prompts",
        "without_signal": "without signal",
        "pass1": "Pass@1 (%)",
        "agreement": "agreement",
        "clearly_negative": "clearly negative (%)",
        "weight_share": f"share of Pass@{k} weight (%)",
        "contribution": f"contribution at k = {k}",
    }
    shown = Table.of(
        table.to_dict("records"),
        columns,
        dict.fromkeys(("pass1", "clearly_negative", "weight_share"), ".1%"),
    )
    named = table.assign(
        name=table[grouping].replace("", "(none)"),
        prompt_share=table["num_prompts"] / table["num_prompts"].sum(),
    )
    return {"name": grouping, "rows": named.to_dict("records"), "table": shown.markdown()}


def _gold_answers(found: Diagnosis) -> dict[str, Any]:
    """Collect what the page says about gold answers and injected errors."""
    agreed = found.agreed
    refused = agreed[~agreed["majority_accepted"].astype(bool)]
    grouping = next(iter(found.groups), None)
    suspects = suspect_golds(agreed).head(_NUM_SHOWN)
    return {
        "samples_per_prompt": found.prompts["n"].max(),
        "min_samples": MIN_SAMPLES,
        "num_agreed": len(agreed),
        "num_refused": len(refused),
        "num_never_right": (refused["c"] == 0).sum(),
        "agreed_by_group": _by_group(found, grouping) if len(agreed) and grouping else "",
        "suspects": _suspects(suspects).markdown() if len(suspects) else "",
        "injected": _injected(found.injected).markdown() if len(found.injected) else "",
    }


def _by_group(found: Diagnosis, grouping: str) -> str:
    agreed, rows = found.agreed, []
    for name in kind_order(found.prompts[grouping]):
        part = agreed[agreed[grouping] == name]
        refused = part[~part["majority_accepted"]]
        row = {
            grouping: name,
            "prompts": (found.prompts[grouping] == name).sum(),
            "samples agree": len(part),
            "and are refused": len(refused),
            "none right": (refused["c"] == 0).sum(),
        }
        if len(found.injected):
            row["refused on purpose"] = refused["injected"].sum()
        rows.append(row)
    return Table.of(rows, list(rows[0])).markdown()


def _suspects(listed: pd.DataFrame) -> Table:
    rows = [
        {
            "problem": row["problem_id"],
            "prompt": shortened(row["prompt"], _MAX_CHARS),
            "gold": shortened(row["gold"], _MAX_CHARS),
            "samples answer": shortened(row["majority_answer"], _MAX_CHARS),
            "votes": f"{row['majority_votes']} of {row['n']}",
            "right": row["c"],
            "score": row["score"],
        }
        for row in listed.to_dict("records")
    ]
    return Table.of(rows, list(rows[0]), {"score": ".2f"})


def _injected(table: pd.DataFrame) -> Table:
    rows = table.assign(error=table["error"].str.replace("_", " ")).to_dict("records")
    shares = ("prompt_share", "weight_share", "expected_weight_share")
    return Table.of(rows, _INJECTED, dict.fromkeys(shares, ".1%"))
