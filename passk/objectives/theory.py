"""Compute the paper's theory over a population of prompts; NumPy only.

The theory needs three things of a policy for each prompt: its share of the population, its success
p, and the gradient of p. Propositions and equations are those of arXiv 2602.21189 (v1), with two
corrections of signs: a conflict is guaranteed if delta > 0 (the text says < 0), and a strict
decrease only for steps strictly below the end of the interval.
"""

from dataclasses import dataclass
from math import inf, log

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
_ROUNDING = 1e-14  # of a sum, relative to the sum of the absolute values of its terms


@dataclass(frozen=True)
class PromptGradients:
    """A policy in the theory: share, success and gradient of success of every prompt.

    Success and gradients may have leading dimensions, with one policy per entry.
    """

    share_P: FloatArray  # of the population; adds up to 1
    success_P: FloatArray
    gradients_PD: FloatArray


def passk_weight(success: ArrayLike, k: ArrayLike) -> FloatArray:
    """Compute w_k(p) = k (1-p)^(k-1), the weight of success p in the gradient of J_k (eq. 2)."""
    return np.asarray(k * (1 - np.asarray(success)) ** (np.asarray(k) - 1), dtype=np.float64)


def pass_at_k(policy: PromptGradients, k: int) -> FloatArray:
    """Compute J_k = E[1 - (1-p)^k]."""
    return np.asarray(1 - (1 - policy.success_P) ** k @ policy.share_P)


def passk_gradient(policy: PromptGradients, k: int) -> FloatArray:
    """Compute the gradient of J_k: E[w_k(p) grad p]."""
    shares_P = policy.share_P * passk_weight(policy.success_P, k)
    return np.asarray(np.einsum("...p,...pd->...d", shares_P, policy.gradients_PD))


def inner_product(policy: PromptGradients, k: int, m: int = 1) -> FloatArray:
    """Compute <grad J_k, grad J_m>; the two objectives conflict if it is negative."""
    gradients = passk_gradient(policy, k), passk_gradient(policy, m)
    return np.asarray(np.einsum("...d,...d->...", *gradients))


def cosine(policy: PromptGradients, k: int, m: int = 1) -> FloatArray:
    """Compute the cosine of both gradients; NaN if one is 0 up to rounding, as at a maximum."""
    product = inner_product(policy, k, m)
    norms = []
    for j in (k, m):
        shares_P = policy.share_P * passk_weight(policy.success_P, j)
        terms_P = shares_P * np.linalg.norm(policy.gradients_PD, axis=-1)
        norm = np.sqrt(inner_product(policy, j, j))
        norms.append(np.where(norm > _ROUNDING * terms_P.sum(axis=-1), norm, np.nan))
    return np.asarray(product / (norms[0] * norms[1]))


def kernel(policy: PromptGradients) -> FloatArray:
    """Compute kappa(x, x') = <grad p(x), grad p(x')> (eq. 5), negative if two prompts interfere."""
    gradients_PD = policy.gradients_PD
    return np.asarray(gradients_PD @ np.swapaxes(gradients_PD, -1, -2))


def agreement(policy: PromptGradients) -> FloatArray:
    """Compute a(x) = <grad p(x), grad J_1> (eq. 8); if a(x) < 0, raising p(x) lowers Pass@1."""
    return np.asarray(np.einsum("...pd,...d->...p", policy.gradients_PD, passk_gradient(policy, 1)))


@dataclass(frozen=True)
class Decomposition:
    """Parts of <grad J_k, grad J_1> (proposition 4.1, eq. 11, appendix A).

    It equals weighted_agreement, mean_weight * pass1_norm^2 + covariance (eq. 10), and
    mean_weight * reweighted_agreement (eq. 11). It is negative exactly if the correlation lies
    below the critical one.
    """

    inner_product: float
    weighted_agreement: float  # E[w a]
    mean_weight: float  # E[w]
    pass1_norm: float  # of grad J_1
    covariance: float  # of w and a over the population
    reweighted_agreement: float  # mean of a where prompts are drawn in proportion to w
    correlation: float
    critical_correlation: float


def decompose(policy: PromptGradients, k: int) -> Decomposition:
    """Decompose <grad J_k, grad J_1> for a single policy."""
    share_P, a_P = policy.share_P, agreement(policy)
    w_P = passk_weight(policy.success_P, k)
    mean_w, mean_a = float(share_P @ w_P), float(share_P @ a_P)
    covariance = float(share_P @ ((w_P - mean_w) * (a_P - mean_a)))
    spread = float(np.sqrt(share_P @ (w_P - mean_w) ** 2 * (share_P @ (a_P - mean_a) ** 2)))
    pass1_norm2 = float(inner_product(policy, 1))
    reweighted_P = share_P * w_P / mean_w
    return Decomposition(
        inner_product=float(inner_product(policy, k)),
        weighted_agreement=float(share_P @ (w_P * a_P)),
        mean_weight=mean_w,
        pass1_norm=pass1_norm2**0.5,
        covariance=covariance,
        reweighted_agreement=float(reweighted_P @ a_P),
        correlation=covariance / spread if spread else 0.0,
        critical_correlation=-mean_w * pass1_norm2 / spread if spread else -inf,
    )


def kernel_form(policy: PromptGradients, k: int, m: int) -> float:
    """Compute <grad J_k, grad J_m> as the mean of w_k(x) w_m(x') kappa(x, x') (appendix B)."""
    k_P = policy.share_P * passk_weight(policy.success_P, k)
    m_P = policy.share_P * passk_weight(policy.success_P, m)
    return float(k_P @ kernel(policy) @ m_P)


def first_conflict(policy: PromptGradients, most: int = 1000) -> int | None:
    """Find the smallest k from 2 to `most` with <grad J_k, grad J_1> < 0; None if there is none.

    A product that is negative only by rounding, as at a maximum of J_k, does not count.
    """
    ks_K = np.arange(2, most + 1)
    terms_P = policy.share_P * agreement(policy)
    weights_KP = passk_weight(policy.success_P, ks_K[:, None])
    conflicts_K = weights_KP @ terms_P < -_ROUNDING * (weights_KP @ np.abs(terms_P))
    return int(ks_K[conflicts_K.argmax()]) if conflicts_K.any() else None


@dataclass(frozen=True)
class PolicyBounds:
    """Bounds of assumption 4.3: E|grad log pi|^2 <= score and E|hess log pi| <= hessian.

    They hold for every prompt, and are G^2 and F in the paper.
    """

    score: float
    hessian: float


def strongly_negative(policy: PromptGradients, margin: float) -> BoolArray:
    """Return True for prompts with an agreement of -margin or less (eq. 13), bool [P]."""
    return np.asarray(agreement(policy) <= -margin)


def conflict_margin(policy: PromptGradients, k: int, margin: float, bounds: PolicyBounds) -> float:
    """Compute delta = m W_- - G^2 W_+ of corollary 4.4, with <grad J_k, grad J_1> <= -delta.

    W_- and W_+ are the summed weights of the prompts with agreement -m or less, and of all others.
    Only a delta above 0 guarantees a conflict.
    """
    shares_P = policy.share_P * passk_weight(policy.success_P, k)
    negative_P = strongly_negative(policy, margin)
    return float(margin * shares_P @ negative_P - bounds.score * shares_P @ ~negative_P)


@dataclass(frozen=True)
class Separation:
    """Condition of proposition 4.5: all prompts that interfere are harder than all others."""

    margin: float  # m: agreement is -m or less within
    share: float  # q, of the population, within
    most_within: float  # epsilon, the largest success within
    least_outside: float  # delta, the smallest success outside


def separation(policy: PromptGradients, margin: float) -> Separation | None:
    """Return the separation at a margin, or None if success does not separate the two sets."""
    within_P = strongly_negative(policy, margin)
    if not within_P.any() or within_P.all():
        return None
    most, least = policy.success_P[within_P].max(), policy.success_P[~within_P].min()
    if most >= least:
        return None
    return Separation(margin, float(policy.share_P @ within_P), float(most), float(least))


def k_star(separated: Separation, bounds: PolicyBounds) -> float:
    """Compute k* of proposition 4.5: every k above it conflicts with Pass@1 (sufficient only)."""
    q = separated.share
    odds = log((1 - q) * bounds.score / (q * separated.margin))
    return 1 + odds / log((1 - separated.most_within) / (1 - separated.least_outside))


def separated_bound(separated: Separation, k: int, bounds: PolicyBounds) -> float:
    """Compute the upper bound of <grad J_k, grad J_1> in proposition 4.5."""
    q = separated.share
    within = (1 - separated.most_within) ** (k - 1) * separated.margin * q
    outside = (1 - separated.least_outside) ** (k - 1) * bounds.score * (1 - q)
    return -k * (within - outside)


def smoothness(k: int, bounds: PolicyBounds) -> float:
    """Compute L_k = k^2 G^2 + k F, the most by which grad J_k changes per unit of theta."""
    return k**2 * bounds.score + k * bounds.hessian


@dataclass(frozen=True)
class OneStep:
    """Effect of a step eta along grad J_k on Pass@1, for 0 < eta <= largest (proposition 4.6).

    J_1 becomes at most J_1 - eta * slope + curvature * eta^2, and J_k rises by at least
    eta |grad J_k|^2 / 2. For eta strictly below `largest`, J_1 falls strictly.
    """

    slope: float
    curvature: float
    largest: float

    def change(self, step: float) -> float:
        """Compute the upper bound of the change of J_1."""
        return -step * self.slope + self.curvature * step**2


def one_step(
    policy: PromptGradients, k: int, margin: float, bounds: PolicyBounds
) -> OneStep | None:
    """Compute the paper's guarantee at a margin; None if its delta is not above 0."""
    slope = conflict_margin(policy, k, margin, bounds)
    if slope <= 0:
        return None
    curvature = k**2 * bounds.score * smoothness(1, bounds) / 2
    return OneStep(slope, curvature, min(slope / curvature, 1 / smoothness(k, bounds)))


def direct_step(policy: PromptGradients, k: int, bounds: PolicyBounds) -> OneStep | None:
    """Compute the guarantee of a step from the gradients themselves; None without a conflict.

    With c = -<grad J_1, grad J_k> > 0, smoothness alone makes J_1 fall for every step below
    2 c / (L_1 |grad J_k|^2) and J_k rise for every step below 2 / L_k.
    """
    slope = -float(inner_product(policy, k))
    if slope <= 0:
        return None
    curvature = smoothness(1, bounds) * float(inner_product(policy, k, k)) / 2
    return OneStep(slope, curvature, min(slope / curvature, 2 / smoothness(k, bounds)))
