"""Decide for each problem of `passk filter` if it stays, and write the page that reports it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from passk.config.commands import FilteringConfig
from passk.diagnostics.agreement import (
    false_discovery_rates,
    matched_control,
    negative_p_values,
    random_control,
)
from passk.report.diagnosis import groupings_of, problem_columns
from passk.report.pages import markdown_page
from passk.report.tables import kind_order
from passk.types import Problem

DATA_FILES = KEPT, RANDOM, MATCHED = "filtered", "random", "matched"  # columns of who is out
VERDICTS = ("interferes", "stays", "no signal", "not measured")


def decisions(
    problems: Sequence[Problem],
    tables: Mapping[int, pd.DataFrame],
    asked: FilteringConfig,
    seed: int,
) -> pd.DataFrame:
    """Test every problem over checkpoints, and decide which interfere: a row per problem.

    `tables` are the agreements at each step. `success` is pooled over checkpoints. `verdict` is
    `interferes`, `stays`, `no signal` (too few checkpoints showed a gradient to judge) or `not
    measured`. `filtered`, `random` and `matched` mark the problems that each data file leaves out
    or gives less weight.
    """
    ids = [problem.id for problem in problems]
    rows = [tables[step].set_index("problem_id").reindex(ids) for step in sorted(tables)]

    def over_checkpoints(column: str) -> Any:
        return np.stack([table[column].to_numpy(dtype=np.float64) for table in rows])

    correlations_CP = over_checkpoints("correlation")
    n_P, c_P = over_checkpoints("n").sum(axis=0), over_checkpoints("c").sum(axis=0)
    p_values_P = negative_p_values(
        correlations_CP, over_checkpoints("agreement"), over_checkpoints("agreement_error")
    )
    rates_P = false_discovery_rates(p_values_P)
    chosen_P = rates_P <= asked.fdr  # NaN compares as False: not chosen
    measured_P = n_P > 0
    success_P = (pd.Series(c_P) / n_P).to_numpy()
    reasons = {
        "not measured": ~measured_P,
        "no signal": np.isnan(p_values_P),
        "interferes": chosen_P,
    }
    verdicts = np.select(list(reasons.values()), list(reasons), "stays")
    correlations = pd.DataFrame(correlations_CP)
    return pd.DataFrame(
        {
            **problem_columns(problems),
            "success": success_P,
            "checkpoints": correlations.count(),
            "agreement": over_checkpoints("agreement").mean(axis=0),
            "correlation": correlations.mean(),
            "p_value": p_values_P,
            "false_discovery_rate": rates_P,
            "verdict": verdicts.astype(object),
            KEPT: chosen_P,
            RANDOM: random_control(chosen_P, measured_P, seed),
            MATCHED: matched_control(chosen_P, measured_P, success_P, seed),
        }
    )


def product_after(decided: pd.DataFrame, last: pd.DataFrame, out: str, weight: float) -> float:
    """Compute f(k) = E[w_k a] over the problems that stay, at the newest checkpoint.

    The a(x) are with the gradient of Pass@1 over all problems, as that is the one to preserve.
    """
    (column,) = (name for name in last if str(name).startswith("contribution_"))
    by_id = decided.set_index("problem_id").loc[last["problem_id"]]
    weights_P = np.where(by_id[out], weight, 1.0)
    return float((weights_P * last[column]).sum() / weights_P.sum())


def filter_page(
    decided: pd.DataFrame, last: pd.DataFrame, asked: FilteringConfig, num_checkpoints: int
) -> str:
    """Write the page: what is removed and why, its effect on the conflict, and the files."""
    (column,) = (str(name) for name in last if str(name).startswith("weight_"))
    k = int(column.removeprefix("weight_"))
    found = decided["verdict"].value_counts()
    return markdown_page(
        "filter",
        asked=asked,
        num_problems=len(decided),
        num_checkpoints=num_checkpoints,
        counts={verdict: found.get(verdict, 0) for verdict in VERDICTS},
        k=k,
        products=pd.DataFrame(
            [
                {"set": "all problems", "out": 0, "product": last[f"contribution_{k}"].mean()},
                *(_product_row(decided, last, name, asked.weight) for name in DATA_FILES),
            ]
        ),
        groups={grouping: _by_group(decided, grouping) for grouping in groupings_of(decided)},
    )


def _product_row(decided: pd.DataFrame, last: pd.DataFrame, name: str, weight: float) -> Any:
    out = decided[name]
    return {
        "set": f"{name}.jsonl",
        "out": out.sum(),
        "success": decided["success"][out].mean(),
        "product": product_after(decided, last, name, weight),
    }


def _by_group(decided: pd.DataFrame, grouping: str) -> pd.DataFrame:
    rows = decided.groupby(grouping)
    table = rows[["success", "correlation"]].mean().join(rows[[*DATA_FILES]].sum())
    table["problems"] = rows.size()
    share = (100 * rows[KEPT].mean()).map(" ({:.1f} %)".format)
    table[KEPT] = table[KEPT].astype(str) + share
    table = table.loc[kind_order(table.index)].reset_index()
    return table.assign(**{grouping: table[grouping].replace("", "(none)")})
