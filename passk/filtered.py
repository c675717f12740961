"""The paper's diagnostic on filtered sets of easy and hard prompts: from samples to its table."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from passk.build import Parts
from passk.command_config import DiagnosisConfig
from passk.config import TrainConfig
from passk.estimators import FloatArray
from passk.filtered_sets import (
    FilteredSet,
    Members,
    SetValues,
    corrected,
    counts,
    intervals,
    members,
    papers_way,
    plain_coefficients,
    summary,
    unbiased_coefficients,
)
from passk.learner import Learner
from passk.prompt_products import prompt_products
from passk.train import diagnostic_groups
from passk.types import Group

PAPER, CORRECTED = "paper", "corrected"
_ESTIMATES = {PAPER: ("plain",), CORRECTED: ("pass1_2P2", "passk_2P2")}  # of gradients of a set
_BY_PROMPT = ("easy_above", "hard_below", "way")
Direction = tuple[str, str, float]  # an estimate, easy or hard, and the threshold


@dataclass(frozen=True, slots=True)
class Filtered:
    """A row per set and way, and a row per set, way and prompt; `k` is that of the corrected way.

    `num_samples` is n, and the k of the paper's way; `hardest` and `easiest` are the least and the
    largest success that sets were told from.
    """

    table: pd.DataFrame
    prompts: pd.DataFrame
    k: int
    num_samples: int
    hardest: float
    easiest: float
    seconds: float


def selecting_rewards(
    step: int, cfg: TrainConfig, asked: DiagnosisConfig, parts: Parts, rewards_PG: FloatArray
) -> FloatArray:
    """The rewards that the corrected way tells easy and hard prompts from.

    Those that are measured, or with `diagnose.fresh_sets` those of other samples of the same
    prompts: a prompt that is hard by the samples it is measured by may only have been unlucky.
    """
    if not (asked.filtered_sets and asked.fresh_sets):
        return rewards_PG
    groups = diagnostic_groups(
        step, cfg, parts, asked.num_prompts, asked.num_samples, purpose="filter"
    )
    return np.array([group.rewards() for group in groups])


def measure_filtered(
    asked: DiagnosisConfig,
    learner: Learner,
    groups: Sequence[Group],
    selecting_PG: FloatArray,
    k: int,
    num_resamples: int,
) -> Filtered:
    """Both ways for each of `diagnose.filtered_sets`; `k` is that of the corrected one."""
    started = time.perf_counter()
    rewards_PG = np.array([group.rewards() for group in groups])
    told = {
        (way, chosen): members(told_PG, chosen, keep_unsolved=asked.keep_unsolved)
        for chosen in (FilteredSet(*pair) for pair in asked.filtered_sets)
        for way, told_PG in ((PAPER, rewards_PG), (CORRECTED, selecting_PG))
    }
    directions = _directions(rewards_PG, told, k)
    none = np.zeros((*rewards_PG.shape[:1], 2, 0))
    coefficients_P2O = np.stack([*directions.values()], axis=2) if directions else none
    products = prompt_products(learner, groups, coefficients_P2O)
    along = dict(zip(directions, np.moveaxis(products.along_P2O, 2, 0), strict=True))
    rows, by_prompt = [], []
    for (way, chosen), within in told.items():
        row = _counted(way, chosen, within)
        if within.is_whole:
            sides = (("easy", chosen.easy_above), ("hard", chosen.hard_below))
            with_sides = {
                name: np.stack([along[name, *side] for side in sides]) for name in _ESTIMATES[way]
            }
            if way == PAPER:
                plain_P2 = with_sides["plain"].sum(axis=0)
                values = papers_way(rewards_PG, within, plain_P2, products.within_P22)
                rest = {"k": rewards_PG.shape[1], "own_agreement": values.own_agreement}
                rest |= {"own_contribution": values.own_contribution}
            else:
                found = corrected(
                    rewards_PG, within, k, **with_sides, within_P22=products.within_P22
                )
                values, rest = found.values, {"k": k} | intervals(found, num_resamples)
            row |= summary(values, within) | rest
            by_prompt.append(_prompt_rows(row, groups, rewards_PG, within, values))
        rows.append(row)
    n_P, c_P = counts(selecting_PG)
    p_P = c_P[n_P > 0] / n_P[n_P > 0]
    return Filtered(
        pd.DataFrame(rows),
        pd.concat(by_prompt, ignore_index=True) if by_prompt else pd.DataFrame(columns=_BY_PROMPT),
        k,
        rewards_PG.shape[1],
        float(p_P.min()),
        float(p_P.max()),
        time.perf_counter() - started,
    )


def _directions(
    rewards_PG: FloatArray, told: Mapping[tuple[str, FilteredSet], Members], k: int
) -> dict[Direction, FloatArray]:
    """The gradients, summed over easy or hard prompts, that sets with both are put together of."""
    coefficients = {
        "plain": plain_coefficients(rewards_PG),
        "pass1_2P2": unbiased_coefficients(rewards_PG, 1),
        "passk_2P2": unbiased_coefficients(rewards_PG, k),
    }
    return {
        (name, side, threshold): coefficients[name] * inside_P[:, None]
        for (way, chosen), within in told.items()
        if within.is_whole
        for name in _ESTIMATES[way]
        for side, threshold, inside_P in (
            ("easy", chosen.easy_above, within.easy_P),
            ("hard", chosen.hard_below, within.hard_P),
        )
    }


def _counted(way: str, chosen: FilteredSet, within: Members) -> dict[str, object]:
    num_easy, num_hard = int(within.easy_P.sum()), int(within.hard_P.sum())
    return {
        "easy_above": chosen.easy_above,
        "hard_below": chosen.hard_below,
        "way": way,
        "num_prompts": num_easy + num_hard,
        "num_hard": num_hard,
        "num_easy": num_easy,
        "easy_per_hard": num_easy / num_hard if num_hard else np.nan,
    }


def _prompt_rows(
    row: dict[str, object],
    groups: Sequence[Group],
    rewards_PG: FloatArray,
    within: Members,
    values: SetValues,
) -> pd.DataFrame:
    chosen = np.flatnonzero(within.all_P)
    n_P, c_P = counts(rewards_PG)
    return pd.DataFrame(
        {
            **{name: row[name] for name in ("easy_above", "hard_below", "way")},
            "problem_id": [groups[p].problem.id for p in chosen.tolist()],
            "side": np.where(within.hard_P[chosen], "hard", "easy"),
            "n": n_P[chosen],
            "c": c_P[chosen],
            "agreement": values.agreement_N,
            "weight": values.weight_N,
            "contribution": values.contribution_N,
        }
    )
