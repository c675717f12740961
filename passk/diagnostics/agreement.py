"""Compute agreement and products of gradients for every k from one derivative per sample.

Everything follows from one number per sample, d_i = <grad log pi(y_i|x), grad J_1>
(`passk.diagnostics.derivatives`): the agreement a(x) = <grad p(x), grad J_1> of a prompt (paper eq.
8) and the product of gradients f(k) = <grad J_k, grad J_1> = E[w_k a] (eq. 9) for every k at once.
The weights are those of the gradient estimates (`passk.objectives.advantages`), so a mean over
samples is unbiased wherever d_i comes from other prompts. Needs neither tensors nor models.

At one checkpoint a(x) = Cov(r, d) mixes a property of the data with what the model happens to be
learning: on the embedded task 29 % of the skill prompts, which are merely hard, are significantly
negative at one checkpoint, and mostly others at an earlier one (docs/research/interference.md).
Interference that comes from the data stays. So a prompt counts as interfering if its agreement is
below 0 over checkpoints. The test averages the correlation of r and d, which has the sign of a(x)
and the same scale at every checkpoint, whatever the gradient's length.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, nan

import numpy as np
import pandas as pd
from scipy import stats

from passk.objectives.advantages import mixture_advantages, prompt_weights
from passk.objectives.pass_at_k import FloatArray, judged_counts
from passk.objectives.theory import PolicyBounds, Separation, k_star, passk_weight
from passk.statistics import Interval, bootstrap_intervals, bootstrap_means

_NEEDED = 3  # checkpoints needed to estimate their spread
_LEAST_SHARE = 0.05  # smallest share of the prompts in a group of similar success


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement, weights and contributions of P prompts with n samples each, at k = 1 to n.

    `contributions_PK` estimates w_k(p) a without bias, `weights_PK` the weight w_k(p) itself. A
    product of the two estimates of one prompt would be biased, as they share its samples.
    `influences_PK` has the same means f(k) and varies over prompts as the estimates of f(k) do.
    """

    ks_K: np.ndarray
    scores_P: FloatArray  # a(x)
    errors_P: FloatArray  # its standard error over the prompt's samples, for a fixed direction
    weights_PK: FloatArray
    contributions_PK: FloatArray
    influences_PK: FloatArray


def measure(
    rewards_PG: FloatArray,
    derivatives_PG: FloatArray,
    towards: Mapping[int, FloatArray] | None = None,
) -> Agreement:
    """Compute agreement and products from rewards (0, 1, NaN where not judged) and derivatives d_i.

    A prompt enters f(k) twice: through its part of grad J_k and through its part of grad J_1.
    `towards` gives the second, <grad p(x), grad J_k> of each prompt for some k; between them it is
    interpolated over log k, and held constant beyond the last. Without `towards`, intervals treat
    the gradient of Pass@1 as known.
    """
    ks_K = np.arange(1, rewards_PG.shape[1] + 1)
    scores_P, errors_P = agreement_scores(rewards_PG, derivatives_PG)
    contributions_PK = np.stack(
        [weighted(rewards_PG, derivatives_PG, int(k)) for k in ks_K], axis=1
    )
    second_PK = np.zeros_like(contributions_PK)
    if towards is not None:
        known = dict(sorted(({1: scores_P} | dict(towards)).items()))
        logs, values = np.log(list(known)), np.stack(list(known.values()), axis=1)
        second_PK = np.stack([np.interp(np.log(ks_K), logs, row) for row in values])
    return Agreement(
        ks_K,
        scores_P,
        errors_P,
        np.stack([prompt_weights(rewards_PG, int(k), 0.0) for k in ks_K], axis=1),
        contributions_PK,
        contributions_PK + second_PK - second_PK.mean(axis=0),
    )


def weighted(rewards_PG: FloatArray, derivatives_PG: FloatArray, k: int) -> FloatArray:
    """Compute the mean of A_i d_i over each prompt's judged samples: w_k(p) a without bias, [P]."""
    num_judged_P = np.maximum(judged_counts(rewards_PG)[0], 1)
    advantages_PG = mixture_advantages(rewards_PG, k, 0.0)
    means_P: FloatArray = (advantages_PG * derivatives_PG).sum(axis=1) / num_judged_P
    return means_P


def agreement_scores(
    rewards_PG: FloatArray, derivatives_PG: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Compute a(x), the sample covariance of r and d, and its standard error, [P] each.

    The error is the jackknife error over the samples of the prompt. It is 0 where all samples are
    right or all are wrong, which carries no information about a(x), and NaN below 3 judged samples.
    """
    r_PG, d_PG = (_centred(rewards_PG, x_PG) for x_PG in (rewards_PG, derivatives_PG))
    n_P1 = (~np.isnan(rewards_PG)).sum(axis=1, keepdims=True).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        # The covariance without sample i, up to a constant: both are centred over all n.
        left_out_PG = -n_P1 / ((n_P1 - 1) * (n_P1 - 2)) * r_PG * d_PG
        spread_PG = _centred(rewards_PG, left_out_PG)
        errors_P = np.sqrt((n_P1 - 1) / n_P1 * (spread_PG**2).sum(axis=1, keepdims=True))[:, 0]
    errors_P[n_P1[:, 0] < 3] = np.nan
    return weighted(rewards_PG, derivatives_PG, 1), errors_P


def correlations(rewards_PG: FloatArray, derivatives_PG: FloatArray) -> FloatArray:
    """Compute corr(r, d) over each prompt's judged samples, [P]; NaN where r or d is constant."""
    r_PG, d_PG = (_centred(rewards_PG, x_PG) for x_PG in (rewards_PG, derivatives_PG))
    size_P = np.sqrt((r_PG**2).sum(axis=1) * (d_PG**2).sum(axis=1))
    found_P: FloatArray = np.divide(
        (r_PG * d_PG).sum(axis=1), size_P, out=np.full(len(size_P), np.nan), where=size_P > 0
    )
    return found_P


def _centred(rewards_PG: FloatArray, values_PG: FloatArray) -> FloatArray:
    """Subtract each prompt's mean over its judged samples; 0 where not judged."""
    judged_PG = ~np.isnan(rewards_PG)
    n_P1 = np.maximum(judged_PG.sum(axis=1, keepdims=True), 1)
    mean_P1 = np.where(judged_PG, values_PG, 0.0).sum(axis=1, keepdims=True) / n_P1
    return np.where(judged_PG, values_PG - mean_P1, 0.0)


def curve_table(measured: Agreement, num_resamples: int, seed: int) -> pd.DataFrame:
    """Compute f(k) with its bootstrap interval over prompts, and its parts: a row per k.

    inner_product = mean_weight * E[a] + covariance (eq. 10) = mean_weight * reweighted_agreement
    (eq. 11), where E[a] = f(1) = |grad J_1|^2. `pass1_weight` is the smallest weight of
    Pass@1 whose mixture with Pass@k does not lower Pass@1 to first order: -f(k) / (f(1) - f(k))
    where f(k) < 0, else 0, from w f(1) + (1 - w) f(k) >= 0.
    """
    intervals = bootstrap_intervals(measured.influences_PK, num_resamples=num_resamples, seed=seed)
    products_K = measured.contributions_PK.mean(axis=0)
    weights_K = measured.weights_PK.mean(axis=0)
    gained_K = products_K[0] - products_K  # by weight moved from Pass@k to Pass@1
    return pd.DataFrame(
        {
            "k": measured.ks_K,
            "inner_product": products_K,
            "inner_product_low": [i.low for i in intervals],
            "inner_product_high": [i.high for i in intervals],
            "mean_weight": weights_K,
            "covariance": products_K - weights_K * products_K[0],
            "reweighted_agreement": np.divide(
                products_K, weights_K, out=np.full(len(products_K), np.nan), where=weights_K > 0
            ),
            "pass1_weight": np.divide(
                -products_K, gained_K, out=(products_K < 0).astype(float), where=gained_K > 0
            ).clip(0, 1),
        }
    )


@dataclass(frozen=True, slots=True)
class FirstConflict:
    """The smallest k with f(k) < 0 and its interval (infinite: no k up to n conflicts)."""

    k: Interval
    share: float  # of the resamples in which some k up to n conflicts


def first_conflict(measured: Agreement, num_resamples: int, seed: int) -> FirstConflict:
    """Find the first k in conflict, with its bootstrap interval over prompts."""
    drawn_RK = bootstrap_means(measured.influences_PK, num_resamples=num_resamples, seed=seed)
    means_RK = np.vstack([measured.contributions_PK.mean(axis=0), drawn_RK])
    # f(1) is a squared norm: an estimate below 0 is noise.
    negative_RK = (means_RK < 0) & (measured.ks_K > 1)
    firsts_R = np.where(negative_RK.any(axis=1), measured.ks_K[negative_RK.argmax(axis=1)], inf)
    low, high = np.quantile(firsts_R[1:], (0.025, 0.975), method="inverted_cdf")
    share = float(np.isfinite(firsts_R[1:]).mean())
    return FirstConflict(Interval(float(firsts_R[0]), float(low), float(high)), share)


@dataclass(frozen=True, slots=True)
class Promise:
    """Guarantee of proposition 4.5 and corollary 4.4 at a checkpoint.

    Every k above `k_star` conflicts; at the given k the product is <= -`margin`. The proofs need of
    G^2 only that no agreement outside the interfering set is above it, so `largest_agreement`, of
    the groups outside, replaces it.
    """

    separated: Separation
    largest_agreement: float
    k_star: float
    margin: float  # delta of corollary 4.4; guarantees something only above 0


def promise(rewards_PG: FloatArray, derivatives_PG: FloatArray, k: int) -> Promise | None:
    """Find the least k* over all splits into hard and easier groups; None if none qualifies."""
    share_C, success_C, agreement_C = _success_groups(rewards_PG, derivatives_PG)
    shares_C = share_C * passk_weight(success_C, k)
    found = []
    for cut in range(1, len(share_C)):
        margin, largest = -float(agreement_C[:cut].max()), float(agreement_C[cut:].max())
        most, least = float(success_C[cut - 1]), float(success_C[cut])
        if not (margin > 0 and largest > 0 and most < least < 1):
            continue
        separated = Separation(margin, float(share_C[:cut].sum()), most, least)
        delta = margin * shares_C[:cut].sum() - largest * shares_C[cut:].sum()
        above = k_star(separated, PolicyBounds(score=largest, hessian=nan))
        found.append(Promise(separated, largest, max(1.0, above), float(delta)))
    return min(found, key=lambda each: each.k_star, default=None)


def _success_groups(rewards_PG: FloatArray, derivatives_PG: FloatArray) -> FloatArray:
    """Group prompts of similar success: shares, mean success, mean agreement, [3, C], hard first.

    The weight of a prompt depends on its success alone, so <grad J_k, grad J_1> = E[w_k(p) b(p)]
    with b(p) = E[a | p]. The paper's bounds therefore hold for groups of prompts of similar success
    as they do for prompts, and one noisy prompt does not break them. Prompts are sorted by one half
    of their samples and measured by the other, then the halves swap roles, so neither the success
    nor the agreement of a group is selected for its noise. Neighbours are joined until each group
    holds a twentieth of the prompts.
    """
    halves, parts = (np.s_[:, ::2], np.s_[:, 1::2]), []
    for first, second in (halves, halves[::-1]):
        by_PG, of_PG = rewards_PG[first], rewards_PG[second]
        judged_P = ~(np.isnan(by_PG).all(axis=1) | np.isnan(of_PG).all(axis=1))
        success = [np.nanmean(half_PG[judged_P], axis=1) for half_PG in (by_PG, of_PG)]
        parts.append([*success, weighted(of_PG, derivatives_PG[second], 1)[judged_P]])
    by_B, success_B, agreement_B = np.concatenate(parts, axis=1)
    members: list[np.ndarray] = []
    for value in np.unique(by_B):
        if members and members[-1].mean() < _LEAST_SHARE:
            members[-1] = members[-1] | (by_B == value)
        else:
            members.append(by_B == value)
    if len(members) > 1 and members[-1].mean() < _LEAST_SHARE:
        members[-2:] = [members[-2] | members[-1]]
    means = [(w.mean(), success_B[w].mean(), agreement_B[w].mean()) for w in members]
    found_3C: FloatArray = np.reshape(means, (-1, 3)).T
    return found_3C[:, np.argsort(found_3C[1], kind="stable")]


def negative_p_values(
    correlations_CP: FloatArray, scores_CP: FloatArray, errors_CP: FloatArray
) -> FloatArray:
    """Compute one-sided p-values of 'the agreement of this prompt is not below 0', [P].

    With C >= 3 checkpoints: Student's t over the checkpoints at which the prompt has signal, NaN
    with fewer than three of them. With fewer checkpoints their spread is not known. Then the
    agreement must be negative at each, by its standard error over samples, and the largest p-value
    counts (an intersection-union test); NaN without signal.
    """
    if len(correlations_CP) < _NEEDED:
        signal_CP = errors_CP > 0
        z_CP = np.divide(scores_CP, errors_CP, out=np.full(errors_CP.shape, inf), where=signal_CP)
        p_CP: FloatArray = stats.norm.cdf(z_CP)
        return np.where(signal_CP.any(axis=0), p_CP.max(axis=0), np.nan)
    p_P = np.full(correlations_CP.shape[1], np.nan)
    seen_P = (~np.isnan(correlations_CP)).sum(axis=0) >= _NEEDED
    if seen_P.any():
        with warnings.catch_warnings():  # scipy warns of nearly equal correlations
            warnings.simplefilter("ignore", RuntimeWarning)
            tested = stats.ttest_1samp(
                correlations_CP[:, seen_P], 0.0, nan_policy="omit", alternative="less"
            )
        p_P[seen_P] = np.ma.filled(tested.pvalue, np.nan)
    return p_P


def false_discovery_rates(p_values_P: FloatArray) -> FloatArray:
    """Compute Benjamini and Hochberg's adjusted p-values over the prompts that have one, [P].

    If all prompts below q are called interfering, at most a share q of them is expected to be
    wrong.
    """
    known_P = ~np.isnan(p_values_P)
    q_P = np.full(len(p_values_P), np.nan)
    if known_P.any():
        q_P[known_P] = stats.false_discovery_control(p_values_P[known_P])
    return q_P


def random_control(chosen_P: np.ndarray, eligible_P: np.ndarray, seed: int) -> np.ndarray:
    """Choose as many prompts as in `chosen_P` at random from all eligible ones, bool [P]."""
    rng = np.random.default_rng(seed)
    picked_P = np.zeros(len(chosen_P), dtype=bool)
    picked_P[rng.choice(np.flatnonzero(eligible_P), int(chosen_P.sum()), replace=False)] = True
    return picked_P


def matched_control(
    chosen_P: np.ndarray, eligible_P: np.ndarray, success_P: FloatArray, seed: int
) -> np.ndarray:
    """Choose prompts outside `chosen_P` that are as hard as those in it where possible, bool [P].

    Each chosen prompt, in random order, takes the remaining eligible one of the nearest success
    (ties at random): difficulty without interference. The result is smaller if too few remain.
    """
    rng = np.random.default_rng(seed)
    pool = rng.permutation(np.flatnonzero(eligible_P & ~chosen_P))
    pool = pool[np.argsort(success_P[pool], kind="stable")]
    free = np.ones(len(pool), dtype=bool)
    picked_P = np.zeros(len(chosen_P), dtype=bool)
    for chosen in rng.permutation(np.flatnonzero(chosen_P)):
        if not free.any():
            break
        distance = np.where(free, np.abs(success_P[pool] - success_P[chosen]), inf)
        nearest = int(rng.choice(np.flatnonzero(distance == distance.min())))
        free[nearest] = False
        picked_P[pool[nearest]] = True
    return picked_P
