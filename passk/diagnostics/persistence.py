"""Test prompt by prompt, over several checkpoints, which prompts interfere persistently.

At one checkpoint the agreement a(x) = Cov(r, d) of a prompt mixes a property of the data with what
the model happens to be learning: on the embedded task 29 % of the skill prompts, which are merely
hard, are significantly negative at one checkpoint, and mostly others at an earlier one
(docs/research/interference.md). Interference that comes from the data stays. So a prompt counts as
interfering if its agreement is below 0 over checkpoints. The test averages the correlation of r and
d, which has the sign of a(x) and the same scale at every checkpoint, whatever the gradient's
length. Needs neither tensors nor models.
"""

import warnings
from math import inf

import numpy as np
from scipy import stats

from passk.diagnostics.agreement import centred
from passk.objectives.pass_at_k import FloatArray

_NEEDED = 3  # checkpoints needed to estimate their spread


def correlations(rewards_PG: FloatArray, derivatives_PG: FloatArray) -> FloatArray:
    """Compute corr(r, d) over each prompt's judged samples, [P]; NaN where r or d is constant."""
    r_PG, d_PG = centred(rewards_PG, derivatives_PG)
    size_P = np.sqrt((r_PG**2).sum(axis=1) * (d_PG**2).sum(axis=1))
    found_P: FloatArray = np.divide(
        (r_PG * d_PG).sum(axis=1), size_P, out=np.full(len(size_P), np.nan), where=size_P > 0
    )
    return found_P


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
