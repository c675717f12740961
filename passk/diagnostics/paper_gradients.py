"""Measure filtered sets of easy and hard prompts: from samples to the tables of `paper_sets`.

Two passes over the samples are enough. Every estimate of a prompt's gradient weights its right
samples alike, and its wrong ones alike, so the sums of grad log pi over right and over wrong
samples determine it, and gradients of sets are sums of these with coefficients. The first pass adds
them up. The second multiplies each prompt's sums with the results and with each other, so that a
prompt's product with itself is known and can be removed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from passk.config.commands import DiagnosisConfig
from passk.diagnostics.alignment import MAX_GRADIENT_BYTES
from passk.diagnostics.paper_sets import (
    CORRECTED,
    PAPER,
    Filtered,
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
from passk.errors import UserError
from passk.learner.batch import make_rows
from passk.learner.learner import Learner
from passk.objectives.pass_at_k import FloatArray
from passk.ranks import gather
from passk.types import Group


@dataclass(frozen=True, slots=True)
class PromptProducts:
    """Products of each prompt's two sums (over right samples, over wrong ones): [P, 2, ...].

    `along_P2O` are the products with each of O gradients, `within_P22` those with each other. Both
    are 0 for a prompt that enters no gradient.
    """

    along_P2O: FloatArray
    within_P22: FloatArray


def prompt_products(
    learner: Learner, groups: Sequence[Group], coefficients_P2O: FloatArray
) -> PromptProducts:
    """Compute products with O gradients: coefficients times the sums over right and wrong samples.

    Raises UserError if the gradients would take more than `MAX_GRADIENT_BYTES`.
    """
    num_gradients, size = coefficients_P2O.shape[2], learner.num_local_parameters()
    if (needed := 4 * num_gradients * size) > MAX_GRADIENT_BYTES:
        raise UserError(
            f"diagnose.filtered_sets asks for {num_gradients} gradients of {size:,} parameters, "
            f"{needed / 2**30:.0f} GiB; use diagnose.parameters=last_layer or fewer thresholds"
        )
    gradients_OD = torch.zeros(num_gradients, size)
    entering = np.argwhere(coefficients_P2O.any(axis=2)).tolist()
    for p, side in entering:
        coefficients_O = torch.from_numpy(coefficients_P2O[p, side]).float()
        chosen_O = coefficients_O != 0
        sums_D = _score_sums(learner, groups[p], side)
        gradients_OD[chosen_O] += coefficients_O[chosen_O, None] * sums_D
    along_P2O = np.zeros(coefficients_P2O.shape)
    within_P22 = np.zeros((len(groups), 2, 2))
    for p in dict.fromkeys(p for p, _ in entering):
        sides = [side for q, side in entering if q == p]
        sums_2D = torch.zeros(2, size)
        for side in sides:
            sums_2D[side] = _score_sums(learner, groups[p], side)
        along_P2O[p] = (sums_2D @ gradients_OD.T).numpy()
        within_P22[p] = (sums_2D @ sums_2D.T).numpy()
    # Each rank computes products over the parameters that it holds.
    return PromptProducts(np.sum(gather(along_P2O), axis=0), np.sum(gather(within_P22), axis=0))


def _score_sums(learner: Learner, group: Group, side: int) -> Tensor:
    """Sum grad log pi over the right (0) or the wrong (1) samples of a prompt, [D]."""
    chosen_1G = np.array([group.rewards()]) == 1 - side
    rows = make_rows([group], chosen_1G[..., None].astype(np.float64))
    return -learner.gradient(rows)


_ESTIMATES = {PAPER: ("plain",), CORRECTED: ("pass1_2P2", "passk_2P2")}  # by way
_BY_PROMPT = ("easy_above", "hard_below", "way")
Direction = tuple[str, str, float]  # an estimate, easy or hard, and the threshold


def measure_filtered(
    asked: DiagnosisConfig,
    learner: Learner,
    groups: Sequence[Group],
    selecting_PG: FloatArray,
    k: int,
    num_resamples: int,
) -> Filtered:
    """Measure each of `diagnose.filtered_sets` in both ways; the corrected way uses `k`."""
    started = time.perf_counter()
    rewards_PG = np.array([group.rewards() for group in groups])
    chosen_sets = {
        (way, chosen): members(told_PG, chosen, keep_unsolved=asked.keep_unsolved)
        for chosen in (FilteredSet(*pair) for pair in asked.filtered_sets)
        for way, told_PG in ((PAPER, rewards_PG), (CORRECTED, selecting_PG))
    }
    directions = _directions(rewards_PG, chosen_sets, k)
    none = np.zeros((*rewards_PG.shape[:1], 2, 0))
    coefficients_P2O = np.stack([*directions.values()], axis=2) if directions else none
    products = prompt_products(learner, groups, coefficients_P2O)
    along = dict(zip(directions, np.moveaxis(products.along_P2O, 2, 0), strict=True))
    rows, by_prompt = [], []
    for (way, chosen), within in chosen_sets.items():
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
    rewards_PG: FloatArray, chosen_sets: Mapping[tuple[str, FilteredSet], Members], k: int
) -> dict[Direction, FloatArray]:
    """Build the coefficients of the gradients, per easy or hard side, of sets with both sides."""
    coefficients = {
        "plain": plain_coefficients(rewards_PG),
        "pass1_2P2": unbiased_coefficients(rewards_PG, 1),
        "passk_2P2": unbiased_coefficients(rewards_PG, k),
    }
    return {
        (name, side, threshold): coefficients[name] * inside_P[:, None]
        for (way, chosen), within in chosen_sets.items()
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
