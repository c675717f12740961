"""Compute how far a policy is from another: pure functions over log-probabilities of samples.

All in nats. Samples are of the policy pi; the other one, pi_0, only gives their log-probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from passk.objectives.pass_at_k import FloatArray
from passk.statistics import Interval, bootstrap_intervals, bootstrap_means

_TAILS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """Log-probabilities of a completion's tokens, end token included, under pi and under pi_0.

    `problem` is the number of its problem, `count` how often the problem's samples have it.
    """

    problem: int
    count: int
    logp_T: Sequence[float]
    logp_start_T: Sequence[float]


def k3(log_ratio: FloatArray) -> FloatArray:
    """Compute e^d - 1 - d of d = log pi_0 - log pi for tokens that pi sampled.

    It is never negative, and its expectation is KL(pi || pi_0) of the next token wherever pi_0 is
    positive only where pi is (Schulman 2020, "Approximating KL divergence", k3).
    """
    values: FloatArray = np.expm1(log_ratio) - log_ratio
    return values


def distance_columns(answers: Sequence[SampledAnswer], num_resamples: int) -> pd.DataFrame:
    """Estimate KL(pi || pi_0) and the entropy of pi, per answer and per token; return one row.

    The KL of an answer is the sum of `k3` over its tokens, whose expectation is that of log pi(y|x)
    - log pi_0(y|x), by the chain rule, with less noise where no token is much likelier under pi_0.
    Its entropy is -log pi(y|x). Per token: sums over all answers by the number of their tokens, so
    long answers count more. Means are over samples and then problems; intervals are bootstraps over
    problems (95 %), with the ends of each in NAME_low and NAME_high.
    """
    sums = pd.DataFrame(
        {
            "problem": [answer.problem for answer in answers],
            "count": [answer.count for answer in answers],
            "kl": [k3(_differences(answer)).sum() for answer in answers],
            "entropy": [-float(np.sum(answer.logp_T)) for answer in answers],
            "tokens": [len(answer.logp_T) for answer in answers],
        }
    )
    weighted = sums[["kl", "entropy", "tokens"]].mul(sums["count"], axis=0)
    by_problem = weighted.groupby(sums["problem"]).sum()
    num_samples = sums.groupby("problem")["count"].sum()
    means_P3 = by_problem.div(num_samples, axis=0).to_numpy()
    answers_2 = bootstrap_intervals(means_P3[:, :2], num_resamples=num_resamples)
    row = dict[str, float]()
    for place, name in enumerate(("kl", "entropy")):
        row |= answers_2[place].columns(f"{name}_per_answer")
        row |= _ratio(means_P3[:, [place, 2]], num_resamples).columns(f"{name}_per_token")
    row |= {"num_problems": len(means_P3), "num_samples": int(num_samples.max())}
    return pd.DataFrame([row])


def _differences(answer: SampledAnswer) -> FloatArray:
    start_T, now_T = (np.asarray(logp, float) for logp in (answer.logp_start_T, answer.logp_T))
    differences_T: FloatArray = start_T - now_T
    return differences_T


def _ratio(values_P2: FloatArray, num_resamples: int) -> Interval:
    """Bootstrap the ratio of the sums of two columns over problems."""
    total_2 = values_P2.sum(axis=0)
    if len(values_P2) < 2:
        return Interval(float(total_2[0] / total_2[1]), np.nan, np.nan)
    drawn_R2 = bootstrap_means(values_P2, num_resamples=num_resamples)
    low, high = np.quantile(drawn_R2[:, 0] / drawn_R2[:, 1], _TAILS)
    return Interval(float(total_2[0] / total_2[1]), float(low), float(high))
