"""Tables and page of `passk diagnose`: prompts, k, kinds, suspect gold answers, filtered sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from passk.config.commands import DiagnosisConfig
from passk.config.schema import LearnerConfig, RegimeConfig, RolloutConfig
from passk.diagnostics.agreement import (
    Agreement,
    FirstConflict,
    Promise,
    curve_table,
    first_conflict,
    promise,
)
from passk.diagnostics.gold_errors import (
    MIN_SAMPLES,
    agreement_table,
    injected_table,
    suspect_golds,
    vote_table,
)
from passk.diagnostics.paper_sets import CORRECTED, PAPER, Filtered
from passk.objectives.advantages import objective_in_words
from passk.objectives.pass_at_k import FloatArray, judged_counts
from passk.report.pages import markdown_page
from passk.report.tables import kind_order
from passk.runs.reader import weight_of_pass1
from passk.statistics import bootstrap_interval, seed_interval
from passk.text import shortened
from passk.types import GROUPINGS, Group, Problem

if TYPE_CHECKING:  # importing it would import torch
    from passk.diagnostics.alignment import Products
    from passk.diagnostics.second_order import SecondOrder

_NUM_SHOWN = 10  # suspect gold answers
_MAX_CHARS = 60  # shown of a prompt or an answer
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
    products: Sequence["Products"],
    ks: Sequence[int],
    k: int,
    num_resamples: int,
    false_negative_rate: float = 0.0,
) -> Diagnosis:
    """Compute every table from the samples and what was measured of them.

    The first of the products are shown in full; second ones, along Adam's step, over k only.
    """
    found, *beside = products
    measured = found.agreement
    rewards_PG = np.array([group.rewards() for group in groups])
    prompts = prompt_table(groups, rewards_PG, measured, ks)
    curve = _curve(found, num_resamples)
    for along_adam in beside:
        columns = _curve(along_adam, num_resamples).filter(regex="^(inner_product|pass1_weight)")
        curve = curve.join(columns.add_prefix("adam_"))
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
        promise(rewards_PG, found.derivatives.values_PG, k),
        agreement_table(groups, prompts),
        injected_table(prompts, ks, false_negative_rate),
    )


def _curve(found: "Products", num_resamples: int) -> pd.DataFrame:
    """Compute `curve_table`, with the cosines at the shown k if they were measured."""
    curve = curve_table(found.agreement, num_resamples, seed=0)
    return curve if found.cosines is None else curve.merge(found.cosines, on="k", how="left")


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
        found=found,
        asked=asked,
        rollout=rollout,
        differences=differences,
        seconds=seconds,
        matrix=matrix,
        num_without=(prompts["signal"] == "none right").sum(),
        num_solved=(prompts["signal"] == "all right").sum(),
        stays_below=(later < 0).all(),
        signs=_signs(found),
        curve=curve[curve["k"].isin(found.ks)],
        product=curve.set_index("k")["inner_product"][found.k],
        weight=weight_of_pass1(curve, found.k),
        along_adam=weight_of_pass1(curve, found.k, "adam_"),
        **_gold_answers(found),
    )


def _signs(found: Diagnosis) -> dict[str, list[str]]:
    """Sort the shown k by what they do to Pass@1: conflict, agree, or neither clearly."""
    shown = found.curve[found.curve["k"].isin(found.ks) & (found.curve["k"] > 1)]
    verbs = ("conflict with", "agree with", "show no clear sign beside")
    signs = [shown["inner_product_high"] < 0, shown["inner_product_low"] > 0]
    verb = np.select(signs, verbs[:2], verbs[2])
    return {name: [f"Pass@{k}" for k in shown["k"][verb == name]] for name in verbs}


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


def second_order_section(
    found: "SecondOrder", regime: RegimeConfig, asked: DiagnosisConfig, learner: LearnerConfig
) -> str:
    """Write the section on Pass@1 along the steps that training would take from here."""
    return markdown_page(
        "second_order",
        found=found,
        objective=objective_in_words(regime),
        asked=asked,
        learner=learner,
        slope=seed_interval(found.slope_H),
        common=seed_interval(found.common_H),
        noise=seed_interval(found.noise_H),
        after_one=found.change(1),
        turning=found.turning_point(),
        table=found.table(),
    )


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
        corrected=_of_way(measured[measured["way"] == CORRECTED], found.planned.k),
    )
    return "\n" + text


def _of_way(rows: pd.DataFrame, k: int) -> dict[str, Any]:
    """Collect the sets that were measured in one way, and count those where Pass@k conflicts."""
    measured = ("contribution", "contribution_low", "contribution_high")
    lacking = [name for name in measured if name not in rows]  # where no set could be measured
    rows = rows.reindex(columns=[*rows.columns, *lacking])
    hard, easy = rows["num_hard"].astype(str), rows["num_easy"].astype(str)
    shown = rows.assign(
        prompts=rows["num_prompts"].astype(str) + " (" + hard + "/" + easy + ")",
        ratio=rows["easy_per_hard"].map("{:.1f}:1".format),
    )
    known = rows["contribution_high"].notna().any()
    return {
        "k": k,
        "rows": shown,
        "num_below": (rows["contribution"] < 0).sum(),
        "num_against": (rows["contribution_high"] < 0).sum() if known else None,
        "num_along": (rows["contribution_low"] > 0).sum() if known else None,
    }
