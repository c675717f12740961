"""Measure filtered sets of easy and hard prompts: from samples to the tables of `paper_sets`.

Two passes over the samples are enough. Every estimate of a prompt's gradient weights its right
samples alike, and its wrong ones alike, so the sums of grad log pi over right and over wrong
samples determine it, and gradients of sets are sums of these with coefficients. The first pass adds
them up. The second multiplies each prompt's sums with the results and with each other, so that a
prompt's product with itself is known and can be removed.
"""

import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from passk.console import working
from passk.diagnostics.paper_sets import (
    ESTIMATES,
    PAPER,
    Filtered,
    Plan,
    corrected,
    intervals,
    papers_way,
    summary,
)
from passk.learner.batch import make_rows
from passk.learner.learner import Learner
from passk.objectives.advantages import counts
from passk.objectives.pass_at_k import FloatArray
from passk.ranks import gather
from passk.types import Group

_BY_PROMPT = ("easy_above", "hard_below", "way")


def prompt_products(
    learner: Learner, groups: Sequence[Group], coefficients_OP2: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Compute products of each prompt's two sums (over right samples, over wrong ones).

    Returns those with each of O gradients, which are coefficients times such sums, [O, P, 2], and
    those of the two sums with each other, [P, 2, 2]. Both are 0 for a prompt that enters no
    gradient. Call `alignment.require_memory` for the gradients first.
    """
    size, entering_P2 = learner.num_local_parameters(), (coefficients_OP2 != 0).any(axis=0)
    gradients_OD = torch.zeros(len(coefficients_OP2), size)
    along_OP2 = np.zeros(coefficients_OP2.shape)
    within_P22 = np.zeros((len(groups), 2, 2))
    num_gradients = 2 * int(np.count_nonzero(entering_P2))
    with working("sets of easy and hard prompts", num_gradients, "gradients") as phase:
        for p, side in np.argwhere(entering_P2).tolist():
            coefficients_O = torch.from_numpy(coefficients_OP2[:, p, side]).float()
            chosen_O = coefficients_O != 0
            sums_D = _score_sums(learner, groups[p], side)
            gradients_OD[chosen_O] += coefficients_O[chosen_O, None] * sums_D
            phase.advance()
        for p in np.flatnonzero(entering_P2.any(axis=1)).tolist():
            sums_2D = torch.zeros(2, size)
            for side in np.flatnonzero(entering_P2[p]).tolist():
                sums_2D[side] = _score_sums(learner, groups[p], side)
                phase.advance()
            along_OP2[:, p] = (sums_2D @ gradients_OD.T).T.numpy()
            within_P22[p] = (sums_2D @ sums_2D.T).numpy()
    # Each rank computes products over the parameters that it holds.
    return np.sum(gather(along_OP2), axis=0), np.sum(gather(within_P22), axis=0)


def _score_sums(learner: Learner, group: Group, side: int) -> Tensor:
    """Sum grad log pi over the right (0) or the wrong (1) samples of a prompt, [D]."""
    chosen_1G = np.array([group.rewards()]) == 1 - side
    rows = make_rows([group], chosen_1G[..., None].astype(np.float64))
    return -learner.gradient(rows)


def measure_filtered(
    learner: Learner, groups: Sequence[Group], planned: Plan, num_resamples: int
) -> Filtered:
    """Measure the planned sets, and compute their tables."""
    started = time.perf_counter()
    rewards_PG = np.array([group.rewards() for group in groups])
    n_P, c_P = counts(rewards_PG)
    shape = (len(planned.coefficients), len(groups), 2)
    coefficients_OP2 = np.reshape([*planned.coefficients.values()], shape)
    along_OP2, within_P22 = prompt_products(learner, groups, coefficients_OP2)
    along = dict(zip(planned.coefficients, along_OP2, strict=True))
    rows, by_prompt = [], []
    for within in planned.sets:
        row = within.columns()
        rows.append(row)
        if not within.has_both:
            continue
        along_2P2 = {
            name: np.stack([along[name, *side] for side in within.sides])
            for name in ESTIMATES[within.way]
        }
        if within.way == PAPER:
            values = papers_way(rewards_PG, within, along_2P2["plain"].sum(axis=0), within_P22)
            rest = {"k": rewards_PG.shape[1], "own_agreement": values.own_agreement}
            rest |= {"own_contribution": values.own_contribution}
        else:
            values = corrected(rewards_PG, within, planned.k, **along_2P2, within_P22=within_P22)
            rest = {"k": planned.k} | intervals(values, num_resamples)
        row |= summary(values, within) | rest
        chosen = np.flatnonzero(within.all_P)
        columns = {
            **{name: row[name] for name in _BY_PROMPT},
            "problem_id": [groups[p].problem.id for p in chosen.tolist()],
            "side": np.where(within.hard_P[chosen], "hard", "easy"),
            "n": n_P[chosen],
            "c": c_P[chosen],
            "agreement": values.agreement_N,
            "weight": values.weight_N,
            "contribution": values.contribution_N,
        }
        by_prompt.append(pd.DataFrame(columns))
    return Filtered(
        planned,
        pd.DataFrame(rows),
        pd.concat(by_prompt, ignore_index=True) if by_prompt else pd.DataFrame(columns=_BY_PROMPT),
        rewards_PG.shape[1],
        time.perf_counter() - started,
    )
