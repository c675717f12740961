"""Compute the numbers of filtered sets of easy and hard prompts, as in section 5 of the paper.

A set keeps the prompts of success above one threshold or below another, and agreement is measured
against the gradient of Pass@1 on the set itself. `papers_way` repeats the paper's computation with
n samples: k = n, plug-in weights n (1 - c/n)^(n-1), the plain estimate sum_right grad log pi / n,
and the same samples on both sides of every product. `corrected` uses unbiased estimates for a k <
n, and leaves out products of a prompt with itself. Needs neither models nor tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from passk.config.commands import DiagnosisConfig
from passk.objectives.advantages import counts, mixture_advantages, prompt_weights
from passk.objectives.pass_at_k import FloatArray
from passk.statistics import bootstrap_means

PAPER, CORRECTED = "paper", "corrected"
_TAILS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class FilteredSet:
    """A set in one way: its easy prompts, its hard ones (masks [P]), and how they were chosen.

    Easy prompts have success above `easy_above`, hard ones below `hard_below`.
    """

    easy_P: np.ndarray
    hard_P: np.ndarray
    way: str = PAPER
    easy_above: float = nan
    hard_below: float = nan

    @property
    def all_P(self) -> np.ndarray:
        """Mask of all prompts of the set."""
        return np.asarray(self.easy_P | self.hard_P)

    @property
    def has_both(self) -> bool:
        """True if the set has both easy and hard prompts."""
        return bool(self.easy_P.any() and self.hard_P.any())

    @property
    def sides(self) -> dict[tuple[str, float], np.ndarray]:
        """The masks by side and threshold."""
        return {("easy", self.easy_above): self.easy_P, ("hard", self.hard_below): self.hard_P}

    def columns(self) -> dict[str, Any]:
        """Return the first columns of the set's row: thresholds, way, and numbers of prompts."""
        num_easy, num_hard = int(self.easy_P.sum()), int(self.hard_P.sum())
        return {
            "easy_above": self.easy_above,
            "hard_below": self.hard_below,
            "way": self.way,
            "num_prompts": num_easy + num_hard,
            "num_hard": num_hard,
            "num_easy": num_easy,
            "easy_per_hard": num_easy / num_hard if num_hard else np.nan,
        }


@dataclass(frozen=True, slots=True)
class SetValues:
    """Values a, w and w a of the N prompts of a set.

    Of the paper's way there are `own_agreement` and `own_contribution` too: the parts of the means
    of a and of w a from products of prompts with themselves. Of the corrected way there are
    influences: columns that vary over prompts as the estimates of mean a, mean w a, and the means
    of a over easy and over hard prompts do, and have these as their means.
    """

    agreement_N: FloatArray
    weight_N: FloatArray
    contribution_N: FloatArray
    own_agreement: float = 0.0
    own_contribution: float = 0.0
    influences_N4: FloatArray | None = None


def filtered_set(
    rewards_PG: FloatArray, way: str, thresholds: Sequence[float], *, keep_unsolved: bool
) -> FilteredSet:
    """Select a set by rewards and the two thresholds, `easy_above` and `hard_below`.

    Prompts with no right sample count as hard if `keep_unsolved`.
    """
    easy_above, hard_below = thresholds
    n_P, c_P = counts(rewards_PG)
    p_P = np.divide(c_P, n_P, out=np.full(len(n_P), np.nan), where=n_P > 0)
    hard_P = (p_P < hard_below) & ((c_P > 0) | keep_unsolved)
    return FilteredSet(p_P > easy_above, hard_P, way, easy_above, hard_below)


def plain_coefficients(rewards_PG: FloatArray) -> FloatArray:
    """Return weights of right and wrong samples in sum_right grad log pi / n (eq. 4), [P, 2]."""
    n_P, _ = counts(rewards_PG)
    right_P = 1 / np.maximum(n_P, 1)
    return np.stack([right_P, np.zeros(len(n_P))], axis=1)


def unbiased_coefficients(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Return the same weights for training's estimate of grad J_k, with its baseline, [P, 2]."""
    n_P, c_P = counts(rewards_PG)
    advantages_PG = mixture_advantages(rewards_PG, k, 0.0)
    sides = [(rewards_PG == reward) * advantages_PG for reward in (1, 0)]
    sizes = [np.maximum(size_P, 1) * np.maximum(n_P, 1) for size_P in (c_P, n_P - c_P)]
    return np.stack([s.sum(axis=1) / size for s, size in zip(sides, sizes, strict=True)], axis=1)


def plug_in_weights(rewards_PG: FloatArray) -> FloatArray:
    """Compute n (1 - c/n)^(n-1), [P]: for 32 samples 11.96, 4.33, 1.51 at c = 1, 2, 3."""
    n_P, c_P = counts(rewards_PG)
    weights_P: FloatArray = n_P * (1 - c_P / np.maximum(n_P, 1)) ** np.maximum(n_P - 1, 0)
    return weights_P


def papers_way(
    rewards_PG: FloatArray, within: FilteredSet, along_P2: FloatArray, within_P22: FloatArray
) -> SetValues:
    """Compute the values of a set as the paper does.

    `along_P2` are products with the plain gradient of the set, summed over its prompts.
    """
    chosen = within.all_P
    plain_N2 = plain_coefficients(rewards_PG)[chosen]
    size = len(plain_N2)
    agreement_N = (plain_N2 * along_P2[chosen]).sum(axis=1) / size
    weight_N = plug_in_weights(rewards_PG)[chosen]
    own_N = np.einsum("ni,nij,nj->n", plain_N2, within_P22[chosen], plain_N2) / size
    return SetValues(
        agreement_N,
        weight_N,
        weight_N * agreement_N,
        float(own_N.mean()),
        float((weight_N * own_N).mean()),
    )


def corrected(
    rewards_PG: FloatArray,
    within: FilteredSet,
    k: int,
    pass1_2P2: FloatArray,
    passk_2P2: FloatArray,
    within_P22: FloatArray,
) -> SetValues:
    """Compute unbiased values at k over a set of two prompts or more.

    `pass1_2P2` and `passk_2P2` are products with the summed gradients of Pass@1 and of Pass@k of
    the set's easy prompts, and of its hard ones. A prompt enters a product of gradients twice, once
    in each factor, and the influences account for both.
    """
    chosen = within.all_P
    inside_2N = np.stack([within.easy_P, within.hard_P])[:, chosen]
    ones_N2, ks_N2 = (unbiased_coefficients(rewards_PG, j)[chosen] for j in (1, k))
    others = int(chosen.sum()) - 1

    def with_others(
        mine_N2: FloatArray, theirs_N2: FloatArray, along_2P2: FloatArray
    ) -> FloatArray:
        """Sum products of each prompt with the other easy and the other hard ones, [2, N]."""
        own_N = np.einsum("ni,nij,nj->n", mine_N2, within_P22[chosen], theirs_N2)
        sums_2N: FloatArray = (mine_N2 * along_2P2[:, chosen]).sum(axis=2) - inside_2N * own_N
        return sums_2N

    pass1_2N = with_others(ones_N2, ones_N2, pass1_2P2)
    agreement_N = pass1_2N.sum(axis=0) / others
    contribution_N = with_others(ks_N2, ones_N2, pass1_2P2).sum(axis=0) / others
    second_N = with_others(ones_N2, ks_N2, passk_2P2).sum(axis=0) / others
    columns = [2 * agreement_N - agreement_N.mean(), contribution_N + second_N - second_N.mean()]
    for inside_N, met_N in zip(inside_2N, pass1_2N, strict=True):
        # The mean over a part depends on its prompts and on all those multiplied with them.
        share, count = inside_N.mean(), inside_N.sum()
        mean = agreement_N[inside_N].mean()
        met_N = met_N / np.maximum(count - inside_N, 1)
        columns.append(mean + inside_N / share * (agreement_N - mean) + met_N - met_N.mean())
    weight_N = prompt_weights(rewards_PG, k, 0.0)[chosen]
    influences_N4 = np.stack(columns, axis=1)
    return SetValues(agreement_N, weight_N, contribution_N, influences_N4=influences_N4)


def summary(values: SetValues, within: FilteredSet) -> dict[str, float]:
    """Compute mean a (= |grad J_1|^2 of the set), mean and sum of w a, and equations 9 to 11."""
    agreement_N, hard_N = values.agreement_N, within.hard_P[within.all_P]
    found = {
        "easy_agreement": agreement_N[~hard_N].mean(),
        "hard_agreement": agreement_N[hard_N].mean(),
        "contribution_sum": values.contribution_N.sum(),
        **_derived(agreement_N.mean(), values.weight_N.mean(), values.contribution_N.mean()),
    }
    return {name: float(value) for name, value in found.items()}


def intervals(values: SetValues, num_resamples: int) -> dict[str, float]:
    """Bootstrap corrected values over prompts: X_low and X_high for each X of `summary`."""
    assert values.influences_N4 is not None, "the paper's way has no intervals"
    columns_N5 = np.column_stack([values.influences_N4, values.weight_N])
    means_R5 = bootstrap_means(columns_N5, num_resamples=num_resamples)
    agreement_R, contribution_R, easy_R, hard_R, weight_R = means_R5.T
    samples = {
        "easy_agreement": easy_R,
        "hard_agreement": hard_R,
        "contribution_sum": len(columns_N5) * contribution_R,
        **_derived(agreement_R, weight_R, contribution_R),
    }
    ends = dict[str, float]()
    for name, values_R in samples.items():
        low, high = np.nanquantile(values_R, _TAILS)
        ends |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return ends


def _derived(agreement: Any, weight: Any, contribution: Any) -> dict[str, Any]:
    """Derive values from means of a, w and w a; a norm with a negative square estimate is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "agreement": agreement,
            "contribution": contribution,
            "shift": contribution - agreement,
            "mean_weight": weight,
            "reweighted_agreement": np.where(weight > 0, contribution / weight, np.nan),
            "covariance": contribution - weight * agreement,
            "pass1_norm": np.sqrt(np.maximum(agreement, 0)),
        }


ESTIMATES = {PAPER: ("plain",), CORRECTED: ("pass1_2P2", "passk_2P2")}  # by way


@dataclass(frozen=True, slots=True)
class Plan:
    """The sets to measure, and the coefficients of the gradients that they need.

    `coefficients` [P, 2], by estimate, side (easy or hard) and threshold, multiply the sums of grad
    log pi over right and over wrong samples. `k` is that of the corrected way; `hardest` and
    `easiest` are the least and the largest success by which its sets are split.
    """

    sets: tuple[FilteredSet, ...]
    coefficients: dict[tuple[str, str, float], FloatArray]
    k: int
    hardest: float
    easiest: float


def plan(asked: DiagnosisConfig, rewards_PG: FloatArray, selecting_PG: FloatArray, k: int) -> Plan:
    """Select each of `diagnose.filtered_sets` in both ways; `selecting_PG` is for the corrected."""
    keep = asked.keep_unsolved
    sets = tuple(
        filtered_set(by_PG, way, thresholds, keep_unsolved=keep)
        for thresholds in asked.filtered_sets
        for way, by_PG in ((PAPER, rewards_PG), (CORRECTED, selecting_PG))
    )
    estimates = {
        "plain": plain_coefficients(rewards_PG),
        "pass1_2P2": unbiased_coefficients(rewards_PG, 1),
        "passk_2P2": unbiased_coefficients(rewards_PG, k),
    }
    coefficients = {
        (name, *side): estimates[name] * inside_P[:, None]
        for chosen in sets
        if chosen.has_both
        for name in ESTIMATES[chosen.way]
        for side, inside_P in chosen.sides.items()
    }
    n_P, c_P = counts(selecting_PG)
    p_P = c_P[n_P > 0] / n_P[n_P > 0]
    return Plan(sets, coefficients, k, float(p_P.min()), float(p_P.max()))


@dataclass(frozen=True, slots=True)
class Filtered:
    """A table with a row per set and way, and one with a row per set, way and prompt."""

    planned: Plan
    table: pd.DataFrame
    prompts: pd.DataFrame
    num_samples: int  # n, and the k of the paper's way
    seconds: float
