"""Estimate how far a policy is from another, from samples of its own: a pure function over numbers.

KL(pi || pi_start) = E_pi sum_t KL_t, where KL_t compares the two policies' next tokens after the
same sampled prefix. A sampled token estimates KL_t by k3 = r - 1 - log r, r = pi_start / pi: its
mean under pi is KL_t, as that of r is 1. Unlike -log r it is never negative, and it varies less
while the policies are close, but more where they have little in common (Schulman 2020,
"Approximating KL divergence"). An answer that is cut at the length limit counts up to there.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from passk.config.schema import EvalConfig
from passk.objectives.pass_at_k import FloatArray
from passk.statistics import Interval, bootstrap_means

_MEASURES = ("kl_per_answer", "kl_per_token", "entropy_per_answer", "entropy_per_token")


def k3(logp_T: FloatArray, start_logp_T: FloatArray) -> FloatArray:
    """Compute r - 1 - log r of each token, log r = start_logp_T - logp_T, in nats."""
    log_ratio_T = start_logp_T - logp_T
    values_T: FloatArray = np.expm1(log_ratio_T) - log_ratio_T
    return values_T


def distance_table(
    places_B: Sequence[int],
    counts_B: Sequence[float],
    logprobs: Sequence[FloatArray],
    start_logprobs: Sequence[FloatArray],
    cfg: EvalConfig,
) -> pd.DataFrame:
    """Compute a row with `kl` and `entropy` per answer and per token, in nats, with intervals.

    Row B is a completion of problem `places_B`, which was sampled `counts_B` times; the two lists
    hold its tokens' log-probabilities [T] under the policy that sampled it and under the other.
    Entropy is the mean of -log pi. Per answer: the mean over problems of the mean over a problem's
    samples. Per token: that divided by the mean number of tokens, so the sum over all tokens by
    their number. Intervals are bootstraps over problems; `num_samples` is of all problems.
    """
    sums_B3 = np.array(
        [
            (k3(logp_T, start_T).sum(), -logp_T.sum(), len(logp_T))
            for logp_T, start_T in zip(logprobs, start_logprobs, strict=True)
        ]
    )
    counts_B1 = np.asarray(counts_B, dtype=np.float64)[:, None]
    problems, at_B = np.unique(places_B, return_inverse=True)
    sums_P4 = np.zeros((len(problems), 4))
    np.add.at(sums_P4, at_B, np.hstack([sums_B3, np.ones_like(counts_B1)]) * counts_B1)
    means_P3 = sums_P4[:, :3] / sums_P4[:, 3:]
    values = _measures(means_P3.mean(axis=0, keepdims=True))[0]
    drawn_RM = _measures(bootstrap_means(means_P3, num_resamples=cfg.num_resamples, seed=cfg.seed))
    ends_2M = np.quantile(drawn_RM, [0.025, 0.975], axis=0)
    if len(problems) < 2:
        ends_2M[:] = np.nan
    row: dict[str, float] = {"temperature": float(cfg.temperature)}
    for name, value, low, high in zip(_MEASURES, values, *ends_2M, strict=True):
        row |= Interval(float(value), float(low), float(high)).columns(name)
    row |= {"num_problems": len(problems), "num_samples": int(counts_B1.sum())}
    return pd.DataFrame([row])


def _measures(means_R3: FloatArray) -> FloatArray:
    """Compute the columns of `_MEASURES` from mean KL, entropy and tokens of an answer, [R, 4]."""
    kl_R, entropy_R, tokens_R = means_R3.T
    return np.stack([kl_R, kl_R / tokens_R, entropy_R, entropy_R / tokens_R], axis=1)
