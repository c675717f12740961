"""Populations of problems whose Pass@k is known exactly, and counts drawn from them.

A population is a mixture: shares of problems whose success probabilities are Beta(a, b), of which
1 - E (1-p)^k is a ratio of Beta functions. B is what a policy A may become: it leaves a share
`SAME` of the problems as likely as they were, and draws the others from another population.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln

from passk.objectives.pass_at_k import pass_at_k

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Population = tuple[tuple[float, float, float], ...]  # share, a, b

SAMPLES, SAME = 64, 0.3
KS = list(range(1, SAMPLES + 1))
NEARLY_SOLVED: Population = ((0.994, 6, 2), (0.006, 0.2, 20))  # Pass@16 is 99.5 %
UNEVEN: Population = ((0.3, 0.5, 3), (0.4, 4, 4), (0.3, 8, 1))
EVEN: Population = ((1.0, 1.2, 2),)  # less at k = 1 than UNEVEN, and more at large k
HARD: Population = ((0.9, 0.1, 20), (0.1, 2, 4))
OF_COUNT_CK = np.stack([pass_at_k(SAMPLES, np.arange(SAMPLES + 1), k) for k in KS], axis=1)


def true_pass_at_k(shares: Population) -> FloatArray:
    """Compute Pass@k of a population at each of `KS`."""
    of_share = [(w, betaln(a, b + np.array(KS)) - betaln(a, b)) for w, a, b in shares]
    return np.asarray(1 - sum(w * np.exp(log_K) for w, log_K in of_share))


def draw_chances(shares: Population, num_problems: int, rng: np.random.Generator) -> FloatArray:
    """Draw success probabilities of problems."""
    part_P = rng.choice(len(shares), p=[share for share, _, _ in shares], size=num_problems)
    a_P, b_P = (np.array([part[i] for part in shares])[part_P] for i in (1, 2))
    return np.asarray(rng.beta(a_P, b_P))


def draw_rates(shares: Population, num_problems: int, rng: np.random.Generator) -> FloatArray:
    """Draw Pass@k of problems from `SAMPLES` each, at each of `KS`: [P, K]."""
    return np.asarray(OF_COUNT_CK[rng.binomial(SAMPLES, draw_chances(shares, num_problems, rng))])


def draw_pairs(
    a: Population, other: Population, num_problems: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw the counts of A, and of B, which has new problems' chances from `other`."""
    a_P, other_P = (draw_chances(shares, num_problems, rng) for shares in (a, other))
    b_P = np.where(rng.random(num_problems) < SAME, a_P, other_P)
    return rng.binomial(SAMPLES, a_P), rng.binomial(SAMPLES, b_P)


def true_difference(a: Population, other: Population) -> FloatArray:
    """Compute B - A of Pass@k at each of `KS`."""
    return (1 - SAME) * (true_pass_at_k(other) - true_pass_at_k(a))
