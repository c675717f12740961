"""Decide for each problem of `passk filter` if it stays, and write the page that reports it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from passk.config.commands import FilteringConfig
from passk.diagnostics.persistence import (
    false_discovery_rates,
    matched_control,
    negative_p_values,
    random_control,
)
from passk.report.tables import kind_order
from passk.runs.labels import markdown
from passk.types import Problem

GROUPINGS = ("kind", "level", "type")
KEPT, RANDOM, MATCHED = "filtered", "random", "matched"  # data files; columns of who is out


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
    success_P = np.divide(c_P, n_P, out=np.full(len(ids), np.nan), where=measured_P)
    verdicts = np.where(chosen_P, "interferes", "stays").astype(object)
    verdicts[np.isnan(p_values_P)] = "no signal"
    verdicts[~measured_P] = "not measured"
    seen_CP = ~np.isnan(correlations_CP)
    return pd.DataFrame(
        {
            "problem_id": ids,
            **{name: [getattr(problem, name) for problem in problems] for name in GROUPINGS},
            "success": success_P,
            "checkpoints": seen_CP.sum(axis=0),
            "agreement": over_checkpoints("agreement").mean(axis=0),
            "correlation": np.divide(
                np.nansum(correlations_CP, axis=0),
                seen_CP.sum(axis=0),
                out=np.full(len(ids), np.nan),
                where=seen_CP.any(axis=0),
            ),
            "p_value": p_values_P,
            "false_discovery_rate": rates_P,
            "verdict": verdicts,
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
    sections = [
        "# The training problems without those that interfere",
        _found(decided, asked, num_checkpoints),
        _tested(num_checkpoints, asked),
        _products(decided, last, asked, k),
    ]
    for grouping in GROUPINGS:
        if decided[grouping].nunique() > 1:
            sections += [f"## By {grouping}", _by_group(decided, grouping)]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def _found(decided: pd.DataFrame, asked: FilteringConfig, num_checkpoints: int) -> str:
    counts = decided["verdict"].value_counts()
    done = "taken out" if asked.weight == 0 else f"given the weight {asked.weight:g}"
    at = "1 checkpoint" if num_checkpoints == 1 else f"{num_checkpoints} checkpoints"
    return (
        f"Of {len(decided)} problems, measured at {at}, {counts.get('interferes', 0)} interfere "
        f"with Pass@1 and are {done}; {counts.get('stays', 0)} do not clearly; "
        f"{counts.get('no signal', 0)} showed too little gradient to judge (no sample right, or "
        f"all) and {counts.get('not measured', 0)} were not measured: these stay."
    )


def _tested(num_checkpoints: int, asked: FilteringConfig) -> str:
    rate = f"At a false-discovery rate of {100 * asked.fdr:g} % (Benjamini and Hochberg)"
    if num_checkpoints >= 3:
        return (
            f"{rate}: a problem interferes if the correlation of reward and direction (the sign "
            "of its agreement) is below 0 over the checkpoints, by Student's t. Checkpoints of one "
            "run are not independent, so this asks for interference that lasts, not for a proof."
        )
    where = "at this checkpoint" if num_checkpoints == 1 else "at both checkpoints"
    return (
        f"{rate}: a problem interferes if its agreement is below 0 {where}, by its error over "
        "samples. **With fewer than 3 checkpoints, interference that passes while training goes on "
        "cannot be separated from interference that lasts**; save more of them (train.save_every, "
        "train.keep_last) for a filter to rely on."
    )


def _products(decided: pd.DataFrame, last: pd.DataFrame, asked: FilteringConfig, k: int) -> str:
    whole = f"{last[f'contribution_{k}'].mean():.3g}"
    rows = [{"set": "all problems", "out": "0", "success": "", "product": whole}]
    for name in (KEPT, RANDOM, MATCHED):
        out = decided[name]
        rows.append(
            {
                "set": f"{name}.jsonl",
                "out": str(int(out.sum())),
                "success": f"{100 * decided['success'][out].mean():.1f}" if out.any() else "",
                "product": f"{product_after(decided, last, name, asked.weight):.3g}",
            }
        )
    table = pd.DataFrame(rows)
    headings = {
        "set": "training problems",
        "out": "taken out" if asked.weight == 0 else "down-weighted",
        "success": "their Pass@1 (%)",
        "product": f"product of the gradients of Pass@{k} and Pass@1",
    }
    return (
        f"{markdown(table, headings).rstrip()}\n\n"
        "The product is at the newest checkpoint, and below 0 where the objectives conflict; the "
        "gradient of Pass@1 is that of all problems. `random.jsonl` lacks as many problems, drawn "
        "from all; `matched.jsonl` as many that do not interfere, of the nearest success that "
        "there is: where the two Pass@1 in the table differ, there were not enough as hard ones."
    )


def _by_group(decided: pd.DataFrame, grouping: str) -> str:
    rows = []
    for name in kind_order(decided[grouping]):
        part = decided[decided[grouping] == name]
        rows.append(
            {
                grouping: name or "(none)",
                "problems": str(len(part)),
                "success": f"{100 * part['success'].mean():.1f}",
                "correlation": f"{part['correlation'].mean():.3f}",
                "filtered": f"{int(part[KEPT].sum())} ({100 * part[KEPT].mean():.1f} %)",
                "random": str(int(part[RANDOM].sum())),
                "matched": str(int(part[MATCHED].sum())),
            }
        )
    headings = {
        grouping: grouping,
        "problems": "problems",
        "success": "Pass@1 (%)",
        "correlation": "mean correlation",
        "filtered": "interfere",
        "random": "out at random",
        "matched": "out, matched",
    }
    return markdown(pd.DataFrame(rows), headings)
