"""Measures beside Pass@k that people report, for one problem each; means over problems are taken.

n is the number of judged samples of a problem and c the number of right ones among them, as arrays
[P]. All but `cover` are averages over the k-subsets of the n samples, so they are unbiased for what
k fresh samples would give. Values are in [0, 1].
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil

import numpy as np
from scipy.special import gammaln, xlog1py, xlogy

from passk.objectives.pass_at_k import FloatArray, IntArray, all_wrong


def pass_hat(n_P: IntArray, c_P: IntArray, k: int) -> FloatArray:
    """Compute Pass^k = C(c, k)/C(n, k), the chance that k samples are all right, [P].

    Source: tau-bench, Yao et al. 2024 (arXiv 2406.12045).
    """
    return all_wrong(n_P, n_P - c_P, k)


def g_pass(n_P: IntArray, c_P: IntArray, k: int, tau: float) -> FloatArray:
    """Compute G-Pass@k_tau, the chance that at least ceil(tau k) of k samples are right, [P].

    That is the sum over j >= ceil(tau k) of C(c, j) C(n-c, k-j)/C(n, k), for 0 < tau <= 1: Pass@k
    up to tau = 1/k, and Pass^k at tau = 1. Source: Liu et al. 2024 (arXiv 2412.13147).
    """
    return _at_least(n_P, c_P, k, ceil(Fraction(str(tau)) * k))


def mg_pass(n_P: IntArray, c_P: IntArray, k: int) -> FloatArray:
    """Compute mG-Pass@k = (2/k) sum over i = ceil(k/2)+1..k of G-Pass@k_{i/k}, [P].

    The area under G-Pass@k from tau = 1/2 to 1, doubled. As printed: for odd k there are (k-1)/2
    terms, so at most 1 - 1/k is reached, and at k = 1 none. Source: Liu et al. 2024 (arXiv
    2412.13147).
    """
    areas = [_at_least(n_P, c_P, k, least) for least in range(ceil(k / 2) + 1, k + 1)]
    return np.asarray(2 / k * sum(areas, np.zeros(len(n_P))))


def cover(n_P: IntArray, c_P: IntArray, tau: float) -> FloatArray:
    """Compute the term of Cover@tau, 1 if c/n >= tau, else 0, [P].

    Takes c/n for the chance of success, so it depends on n. Source: Dragoi et al. 2025 (arXiv
    2510.08325).
    """
    return (c_P / n_P >= tau).astype(np.float64)


@lru_cache(maxsize=1 << 16)
def majority(right: int, wrong: tuple[int, ...], num_samples: int, k: int) -> float:
    """Compute maj@k: the chance that the majority vote of k of the n samples is right, exactly.

    `right` samples give the correct answer, `wrong` counts those of each other answer, and the rest
    do not vote. Where j answers tie for the most votes and the correct one is among them, the vote
    counts 1/j; a vote of nobody counts 0.

    Sums over the number t of right samples in the subset. Answers with fewer than t samples cannot
    reach t, so they are as good as no vote; for the others a table of (answers that tie, samples
    used) is built up answer by answer. Weighting each sample by the odds of k/n keeps all terms
    between 0 and 1.
    """
    odds = k / num_samples
    total = 0.0
    for t in range(1, min(right, k) + 1):
        rivals = [count for count in wrong if count >= t]
        silent = num_samples - right - sum(rivals)
        ways_TK = np.zeros((k // t, k - t + 1))  # answers that tie, samples beside the right ones
        ways_TK[0] = _binomial(silent, k - t, odds)
        for count in rivals:
            chance_K = _binomial(count, min(t, k - t), odds)
            grown_TK = np.zeros_like(ways_TK)
            for used, chance in enumerate(chance_K[:t]):
                grown_TK[:, used:] += chance * ways_TK[:, : k - t + 1 - used]
            if t <= k - t:
                grown_TK[1:, t:] += chance_K[t] * ways_TK[:-1, : k - 2 * t + 1]
            ways_TK = grown_TK
        shares_T = 1 / np.arange(1, len(ways_TK) + 1)
        total += _binomial(right, t, odds)[t] * float(shares_T @ ways_TK[:, -1])
    return total / float(_binomial(num_samples, k, odds)[k])


def majorities(
    n_P: IntArray, right_P: IntArray, wrong_P: Sequence[tuple[int, ...]], k: int
) -> FloatArray:
    """Compute `majority` of each problem, [P]; `wrong_P` has the counts of its wrong answers."""
    rows = zip(right_P.tolist(), wrong_P, n_P.tolist(), strict=True)
    return np.array([majority(right, tuple(sorted(wrong)), n, k) for right, wrong, n in rows])


def _at_least(n_P: IntArray, c_P: IntArray, k: int, least: int) -> FloatArray:
    """Compute the chance that at least `least` of k samples are right, [P]."""
    j_1J = np.arange(least, k + 1)[None, :]
    n_P1, c_P1 = n_P[:, None], c_P[:, None]
    possible_PJ = (j_1J <= c_P1) & (k - j_1J <= n_P1 - c_P1)
    right_PJ, wrong_PJ = (np.where(possible_PJ, x, 0) for x in (j_1J, k - j_1J))
    log_PJ = _log_ways(c_P1, right_PJ) + _log_ways(n_P1 - c_P1, wrong_PJ) - _log_ways(n_P1, k)
    chance_P: FloatArray = (np.exp(log_PJ) * possible_PJ).sum(axis=1)
    return np.minimum(chance_P, 1.0)  # rounding


def _binomial(n: int, most: int, p: float) -> FloatArray:
    """Compute the chance of 0 to `most` successes in n trials, each with chance p."""
    j = np.arange(most + 1)
    within = np.minimum(j, n)
    log_chance = _log_ways(n, within) + xlogy(within, p) + xlog1py(n - within, -p)
    return np.where(j <= n, np.exp(log_chance), 0.0)


def _log_ways(n: IntArray | int, k: IntArray | int) -> FloatArray:
    """Compute log C(n, k)."""
    ways: FloatArray = (
        gammaln(np.add(n, 1)) - gammaln(np.add(k, 1)) - gammaln(np.subtract(n, k) + 1)
    )
    return ways
