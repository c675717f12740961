"""The paper's contextual bandit: prompts with a latent label, a logistic policy, exact gradients.

A prompt has features psi = [1, s]. Action 0 is right for easy prompts, action 1 for hard ones, and
action 1 is drawn with probability sigmoid(theta . psi). Everything has a closed form in theta, so a
population is a weighted list of prompts and nothing is sampled. Needs numpy only.
"""

from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

from passk.objectives.theory import (
    BoolArray,
    FloatArray,
    PolicyBounds,
    PromptGradients,
    passk_gradient,
)

NUM_NODES = 401
_REACH = 9.0  # standard deviations; 2e-19 of the normal law lies beyond


@dataclass(frozen=True)
class Prompts:
    """A population of finitely many prompts."""

    features_PD: FloatArray
    is_hard_P: BoolArray
    share_P: FloatArray  # adds up to 1

    @property
    def sign_P(self) -> FloatArray:
        """+1 where action 1 is right (hard), -1 where action 0 is (easy)."""
        return np.where(self.is_hard_P, 1.0, -1.0)

    def only(self, hard: bool) -> "Prompts":
        """Return the hard prompts, or the easy ones, as a population of their own."""
        chosen_P = self.is_hard_P == hard
        shares_P = self.share_P[chosen_P]
        return Prompts(
            self.features_PD[chosen_P], self.is_hard_P[chosen_P], shares_P / shares_P.sum()
        )


def two_prompts(delta: float) -> Prompts:
    """Build a population of one easy prompt at s = -delta/2 and one hard one at s = +delta/2."""
    return Prompts(
        _features(np.array([-delta / 2, delta / 2])), np.array([False, True]), np.full(2, 0.5)
    )


def population(p_hard: float, delta: float, num_nodes: int = NUM_NODES) -> Prompts:
    """Discretise s ~ N(-delta/2, 1) for easy and N(+delta/2, 1) for hard prompts.

    Uses the trapezoidal rule. Under a normal law it converges faster than any power of its step.
    For steep policies it converges much sooner than Gauss-Hermite quadrature, whose nodes spread
    out as their number grows: at sigmoid(1 + 3 s)^10 its 200 nodes are off by 1e-9, these 401 by
    1e-16.
    """
    z_N = np.linspace(-_REACH, _REACH, num_nodes)
    density_N = np.exp(-(z_N**2) / 2)
    density_N /= density_N.sum()
    return Prompts(
        _features(np.concatenate([z_N - delta / 2, z_N + delta / 2])),
        np.repeat([False, True], num_nodes),
        np.concatenate([(1 - p_hard) * density_N, p_hard * density_N]),
    )


def sample_prompts(num_easy: int, num_hard: int, delta: float, seed: int) -> Prompts:
    """Draw equally likely prompts at random: easy before hard, each by rising s."""
    draws = np.random.default_rng(seed)
    easy = np.sort(draws.normal(-delta / 2, 1, num_easy))
    hard = np.sort(draws.normal(delta / 2, 1, num_hard))
    count = num_easy + num_hard
    is_hard_P = np.arange(count) >= num_easy
    return Prompts(_features(np.concatenate([easy, hard])), is_hard_P, np.full(count, 1 / count))


def _features(s_P: FloatArray) -> FloatArray:
    return np.stack([np.ones_like(s_P), s_P], axis=-1)


def sigmoid(x: ArrayLike) -> FloatArray:
    """Compute 1 / (1 + exp(-x)) without overflow and to full relative precision in both tails."""
    return np.asarray(np.exp(-np.logaddexp(0, -np.asarray(x))))


def policy_at(theta: ArrayLike, prompts: Prompts) -> PromptGradients:
    """Compute success and its gradient (eq. 7) at theta [D] or at several thetas [..., D]."""
    margins_P = prompts.sign_P * (np.asarray(theta, np.float64) @ prompts.features_PD.T)
    success_P = sigmoid(margins_P)
    slopes_P = prompts.sign_P * success_P * sigmoid(-margins_P)
    return PromptGradients(prompts.share_P, success_P, slopes_P[..., None] * prompts.features_PD)


def policy_bounds(prompts: Prompts) -> PolicyBounds:
    """Compute G^2 and F of assumption 4.3, the smallest that hold at every theta.

    At theta, both E|grad log pi|^2 and E|hess log pi| are z |psi|^2 with z = sigma (1 - sigma), at
    most 1/4. They grow with |psi|, so they are finite only for finitely many prompts: for normal s
    there are no such bounds.
    """
    bound = float((prompts.features_PD**2).sum(axis=-1).max()) / 4
    return PolicyBounds(bound, bound)


def ascend(
    theta: ArrayLike, prompts: Prompts, k: int, step_size: float, num_steps: int
) -> NDArray[np.float64]:
    """Run gradient ascent on J_k from theta; returns all points, [num_steps + 1, D]."""
    path = [np.asarray(theta, np.float64)]
    for _ in range(num_steps):
        path.append(path[-1] + step_size * passk_gradient(policy_at(path[-1], prompts), k))
    return np.stack(path)


def best_theta(p_hard: float, delta: float, k: int) -> FloatArray:
    """Return the theta at which J_k of the population is largest, for k >= 2.

    At s, J_k is largest where the odds of action 1 equal the odds of a hard prompt to the power of
    1 / (k-1): there both kinds weigh the same in the gradient. The logarithm of the odds of hard at
    s is log(p_hard / (1 - p_hard)) + delta s, which the policy can follow at every s. So Pass@2
    leads to probability matching, and a larger k to a policy closer and closer to guessing.
    """
    return np.array([log(p_hard / (1 - p_hard)), delta]) / (k - 1)


def bias_only_threshold(p_hard: float, bias: float) -> float:
    """Return the k above which J_k conflicts with J_1, for a policy without s: theta = -bias < 0.

    Up to that k there is no conflict. Holds for p_hard < 1/2, where the policy favours the kind
    that is in the majority.
    """
    return 1 + log((1 - p_hard) / p_hard) / bias
