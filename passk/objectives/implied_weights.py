"""Compute the weight, noise and dead groups that an objective implies for a prompt, exactly.

An advantage depends on the sample's reward and on c, the number of right samples among the n of its
group. So n + 1 groups describe an estimator completely, and c ~ Binomial(n, p) turns them into
expectations at any success probability p, without sampling and from the estimator's own code.
Notation as in `passk.objectives.advantages`; C counts the right samples of a group, 0 to n.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from passk.config.schema import Terms, has_k
from passk.objectives.advantages import PASS1, Objective
from passk.objectives.pass_at_k import FloatArray


@dataclass(frozen=True, slots=True)
class GroupAdvantages:
    """Advantages in a group with c right samples, for c = 0..n; 0 if there is no such sample."""

    right_C: FloatArray  # of each right sample
    wrong_C: FloatArray  # of each wrong one

    @property
    def num_samples(self) -> int:
        """Number of samples in a group, n."""
        return len(self.right_C) - 1

    @property
    def has_signal_C(self) -> np.ndarray:
        """True for groups with an advantage that is not zero, bool [C]."""
        signal_C: np.ndarray = (self.right_C != 0) | (self.wrong_C != 0)
        return signal_C

    @property
    def sizes_C(self) -> tuple[FloatArray, FloatArray]:
        """Sums of |A| over the right samples of a group, and over its wrong ones."""
        n = self.num_samples
        c = np.arange(n + 1, dtype=np.float64)
        return c * np.abs(self.right_C), (n - c) * np.abs(self.wrong_C)


def group_advantages(
    advantages: Callable[[FloatArray], FloatArray], num_samples: int
) -> GroupAdvantages:
    """Evaluate an estimator, rewards [P, n] to advantages [P, n], on one group for each c.

    Raises:
        ValueError: an advantage depends on more than its own reward and the c of its group, such as
            the place of a sample or other groups.
    """
    rewards_CG = np.tril(np.ones((num_samples + 1, num_samples)), -1)  # row c: c right, then wrong
    advantages_CG = advantages(rewards_CG)
    right_C, wrong_C = advantages_CG[:, 0].copy(), advantages_CG[:, -1].copy()
    alike = np.allclose(advantages_CG, np.where(rewards_CG, right_C[:, None], wrong_C[:, None]))
    if not (alike and np.allclose(advantages(rewards_CG[1:3]), advantages_CG[1:3])):
        raise ValueError("it depends on more than a sample's reward and how many of its group are")
    right_C[0], wrong_C[-1] = 0.0, 0.0
    return GroupAdvantages(right_C, wrong_C)


def objective_advantages(objective: Objective, num_samples: int) -> GroupAdvantages:
    """Compute the advantages of an objective; estimators without k ignore its terms."""
    if not has_k(objective.estimator):
        objective = replace(objective, terms=PASS1.terms)
    return group_advantages(objective.advantages, num_samples)


@dataclass(frozen=True, slots=True)
class Implied:
    """Exact expectations over the groups of a prompt, for each prompt's success probability.

    `noise_P` is the standard deviation of sum_i (A_i / n) grad log pi(y_i) in any one direction,
    if score norms are 1 and noise dominates: sqrt(sum_i E[(A_i / n)^2]).
    """

    weight_P: FloatArray  # omega(p): E[update] = omega(p) grad p
    noise_P: FloatArray
    dead_fail_P: FloatArray  # chance of a group without signal in which all samples are wrong
    dead_solved_P: FloatArray  # ... in which some sample is right
    right_share_P: FloatArray  # share of the expected sum of |A| that is on right samples


def implied(groups: GroupAdvantages, p_P: FloatArray) -> Implied:
    """Compute weight, noise, dead groups and shares at each success probability 0 < p < 1."""
    n = groups.num_samples
    c = np.arange(n + 1)
    chance_PC = binomial(n, p_P)
    # A sample with c' right others is in a group with c = c' + 1 if it is right, else with c = c'.
    weight_P = binomial(n - 1, p_P) @ (groups.right_C[1:] - groups.wrong_C[:-1])
    square_C = c * groups.right_C**2 + (n - c) * groups.wrong_C**2
    dead_C = ~groups.has_signal_C
    right_P, wrong_P = (chance_PC @ size_C for size_C in groups.sizes_C)
    return Implied(
        weight_P=weight_P,
        noise_P=np.sqrt(chance_PC @ square_C) / n,
        dead_fail_P=chance_PC @ (dead_C & (c == 0)),
        dead_solved_P=chance_PC @ (dead_C & (c > 0)),
        right_share_P=ratio(right_P, right_P + wrong_P),
    )


def target_weight(p_P: FloatArray, terms: Terms) -> FloatArray:
    """Compute the objective's weight w(p), the sum of weight k (1-p)^(k-1) over its terms."""
    weight_P = np.zeros(np.shape(p_P))
    for k, weight in terms:
        weight_P += weight * k * (1 - p_P) ** (k - 1)
    return weight_P


def binomial(n: int, p_P: FloatArray) -> FloatArray:
    """Compute the chance of each c in 0..n at each p, [P, C]; importing scipy.stats is slow."""
    c = np.arange(n + 1)
    log_ways_C = np.array([math.log(math.comb(n, int(i))) for i in c])
    p_P1 = np.asarray(p_P, dtype=np.float64)[:, None]
    chance_PC: FloatArray = np.exp(log_ways_C + c * np.log(p_P1) + (n - c) * np.log1p(-p_P1))
    return chance_PC


def ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """Return part / whole, NaN where the whole is 0."""
    shares: FloatArray = np.divide(
        part, whole, out=np.full(np.shape(whole), np.nan), where=whole != 0
    )
    return shares
