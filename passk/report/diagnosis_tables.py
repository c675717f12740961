"""Compute the tables of `passk diagnose`: a row per prompt, per k, and per kind of prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from passk.diagnostics.agreement import (
    Agreement,
    FirstConflict,
    Promise,
    curve_table,
    first_conflict,
    promise,
    success_groups,
)
from passk.diagnostics.gold_errors import agreement_table, injected_table, vote_table
from passk.objectives.pass_at_k import FloatArray, judged_counts
from passk.report.tables import kind_order
from passk.statistics import bootstrap_interval
from passk.types import GROUPINGS, Group, Problem

if TYPE_CHECKING:  # importing it would import torch
    from passk.diagnostics.conflict_curve import Products

_ERRORS = 1.96  # standard errors below 0 that make an agreement clearly negative


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All results of a diagnosis as tables; groups of prompts are shown at `k`."""

    k: int
    ks: tuple[int, ...]
    prompts: pd.DataFrame
    curve: pd.DataFrame
    groups: dict[str, pd.DataFrame]  # by kind, level or type if the data have several
    first: FirstConflict
    promised: Promise | None
    agreed: pd.DataFrame  # prompts whose samples agree on an answer
    injected: pd.DataFrame  # weight of deliberate errors of the verifier; empty without them


def diagnosis(
    groups: Sequence[Group],
    found: "Products",
    ks: Sequence[int],
    k: int,
    num_resamples: int,
    false_negative_rate: float = 0.0,
) -> Diagnosis:
    """Compute every table from the samples and what was measured of them."""
    measured = found.agreement
    rewards_PG = np.array([group.rewards() for group in groups])
    prompts = prompt_table(groups, rewards_PG, measured, ks)
    curve = curve_table(measured, num_resamples, seed=0)
    if found.cosines is not None:
        curve = curve.merge(found.cosines, on="k", how="left")
    by_group = {
        grouping: group_table(prompts, grouping, k, num_resamples)
        for grouping in groupings_of(prompts)
    }
    return Diagnosis(
        k,
        tuple(ks),
        prompts,
        curve,
        by_group,
        first_conflict(measured, num_resamples, seed=0),
        promise(success_groups(rewards_PG, found.derivatives.values_PG), k),
        agreement_table(groups, prompts),
        injected_table(prompts, ks, false_negative_rate),
    )


def problem_columns(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """Return the columns that name problems: problem_id, kind, level, type."""
    named = {name: [getattr(problem, name) for problem in problems] for name in GROUPINGS}
    return {"problem_id": [problem.id for problem in problems], **named}


def groupings_of(prompts: pd.DataFrame) -> list[str]:
    """Return those of kind, level and type of which the prompts have several."""
    return [name for name in GROUPINGS if prompts[name].nunique() > 1]


def prompt_table(
    groups: Sequence[Group], rewards_PG: FloatArray, measured: Agreement, ks: Sequence[int]
) -> pd.DataFrame:
    """Compute a row per prompt; for each of `ks`, its weight and its contribution.

    Columns: problem_id, kind, level, type, n, c, p, signal, agreement, agreement_error; for each k
    the weight w_k and the contribution w_k a; then the columns of `gold_errors.vote_table`.
    `signal` is `none right` or `all right` where no gradient can be seen, else empty.
    """
    n_P, c_P = judged_counts(rewards_PG)
    return pd.DataFrame(
        {
            **problem_columns([group.problem for group in groups]),
            "n": n_P,
            "c": c_P,
            "p": np.divide(c_P, n_P, out=np.full(len(n_P), np.nan), where=n_P > 0),
            "signal": np.where(c_P == 0, "none right", np.where(c_P == n_P, "all right", "")),
            "agreement": measured.scores_P,
            "agreement_error": measured.errors_P,
            **{f"weight_{k}": measured.weights_PK[:, k - 1] for k in ks},
            **{f"contribution_{k}": measured.contributions_PK[:, k - 1] for k in ks},
        }
    ).join(vote_table(groups))


def group_table(prompts: pd.DataFrame, grouping: str, k: int, num_resamples: int) -> pd.DataFrame:
    """Compute size, success, agreement and contribution of each kind, level or type.

    `clearly_negative` is the share of prompts whose agreement lies below 0 by 1.96 of its errors;
    `weight_share` is the share of all weight w_k; contributions add up to f(k) over the groups.
    Intervals are bootstraps over prompts, with the direction fixed.
    """
    rows = []
    total_weight = prompts[f"weight_{k}"].sum()
    for name in kind_order(prompts[grouping]):
        within = (prompts[grouping] == name).to_numpy()
        part = prompts[within]
        clear = part["agreement"] < -_ERRORS * part["agreement_error"]
        agreement = bootstrap_interval(part["agreement"], num_resamples=num_resamples)
        contributions_P = np.where(within, prompts[f"contribution_{k}"], 0.0)
        contribution = bootstrap_interval(contributions_P, num_resamples=num_resamples)
        rows.append(
            {
                grouping: name,
                "num_prompts": len(part),
                "without_signal": int((part["signal"] != "").sum()),
                "pass1": part["p"].mean(),
                **agreement.columns("agreement"),
                "clearly_negative": float(clear.mean()),
                "weight_share": part[f"weight_{k}"].sum() / total_weight if total_weight else 0.0,
                **contribution.columns("contribution"),
            }
        )
    return pd.DataFrame(rows)
