"""Write the section on filtered sets of `passk diagnose`: sentences, the paper's table twice."""

from typing import Any

import pandas as pd

from passk.config.commands import DiagnosisConfig
from passk.diagnostics.paper_sets import CORRECTED, PAPER, Filtered
from passk.report.pages import markdown_page


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
