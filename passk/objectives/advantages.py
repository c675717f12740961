"""Turn the rewards of a group into advantages: the mixture of Pass@1 and Pass@k, and baselines.

`Objective` is what a training step ascends.

All share one convention: the loss averages over samples, so the gradient is
(1/P) sum_x (1/n_x) sum_i A_i grad log pi(y_i|x). A weight w_i that enters a sum over samples, as in
PKPO, is returned as A_i = n_x w_i.

Rewards are 0, 1 or NaN, as float64 [P, n]. NaN marks a sample that could not be judged: it leaves
the numerator and the counts and gets advantage 0. Below, n is the number n_x of judged samples of
the prompt. A prompt with fewer judged samples than the estimator needs (k, and at least 2) gets
only zeros.

Notation: r is the reward of a sample, c the number of correct samples of its prompt, c' = c - r the
number of correct ones among the others, rho(n, c, k) the unbiased Pass@k, and
D(c') = C(n-1-c', k-1) / C(n-1, k-1).
Every function raises ValueError for rewards that are not [P, n >= 2] or not 0/1/NaN, for a k that
n samples cannot support, and for a pass1_weight outside [0, 1].

"Unbiased" below is said of a prompt with enough judged samples. Where whether a sample is judged is
chance that does not depend on its reward, the expected update of a prompt is that of the formula
times the chance of enough of them: for the mixture, times P(n_x >= max(2, k)).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from passk.config.schema import (
    RegimeConfig,
    Terms,
    is_own,
    mix,
    pass1_share,
    target_k,
    target_terms,
)
from passk.objectives.own_estimator import own_estimator
from passk.objectives.pass_at_k import (
    FloatArray,
    IntArray,
    all_wrong,
    judged_counts,
    leave_one_out_failure,
    pass_at_k,
)

GRPO_EPSILON = 1e-4  # TRL's; verl has 1e-6
# Maps (r, n, c) of each judged sample, flat, to its advantage.
Rule = Callable[[IntArray, IntArray, IntArray], FloatArray]


def mixture_advantages(rewards_PG: FloatArray, k: int, pass1_weight: float) -> FloatArray:
    """Compute A = [pass1_weight + (1 - pass1_weight) k D(c')] (r - c'/(n-1)), [P, n].

    Unbiased for the gradient of pass1_weight Pass@1 + (1 - pass1_weight) Pass@k. Pass@1 alone at
    weight 1 (RLOO), Pass@k alone at weight 0. Source: passk itself, from `rloo_k`.
    """
    return estimate_advantages(rewards_PG, "mixture", mix(k, pass1_weight))


def rloo_k(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = k D(c') (r - c'/(n-1)); k = 1 is RLOO (Kool et al. 2019; arXiv 2402.14740).

    Weight and baseline depend only on the other samples, so the weight is unbiased for
    k (1-p)^(k-1) and the baseline adds no bias. Source: passk itself, from PKPO's weight
    (equation 33) and RLOO's baseline.
    """

    def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
        return k * leave_one_out_failure(n, c - r, k) * (r - (c - r) / (n - 1))

    return _per_sample(rewards_PG, rule, k, needs=k)


def grpo(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = (r - c/n) / (std + 1e-4), std = sqrt(c (n-c) / (n (n-1))). k is not used.

    Source: GRPO, Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300), section 4.1.
    """

    def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
        std: FloatArray = np.sqrt(c * (n - c) / (n * (n - 1)))
        return (r - c / n) / (std + GRPO_EPSILON)

    return _per_sample(rewards_PG, rule, k, needs=1)


def dr_grpo(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = r - c/n: GRPO without the division by std. k is not used.

    The other half of Dr. GRPO, division by a constant instead of the length, belongs to the loss.
    Source: Dr. GRPO, Liu et al. 2025 (arXiv 2503.20783).
    """
    return _per_sample(rewards_PG, lambda r, n, c: r - c / n, k, needs=1)


def pkpo_s(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = n s: k if r = 1, k rho(n-1, c, k-1) if r = 0.

    s_i is the sum over the k-subsets that hold sample i of their largest reward, over C(n, k).
    Unbiased, without a baseline. Source: PKPO, Walder and Karkhanis 2025 (arXiv 2505.15201).
    """
    return _per_sample(rewards_PG, lambda r, n, c: _pkpo_s(r, n, c, k), k, needs=k)


def pkpo_s_loo(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = n s - n k/(n-1) rho(n-1, c', k), which needs k <= n-1.

    As printed: the baseline is not scaled to the mean of s, which leaves noise on easy prompts.
    Source: PKPO, Walder and Karkhanis 2025 (arXiv 2505.15201), equation 29.
    """

    def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
        return _pkpo_s(r, n, c, k) - n * k / (n - 1) * pass_at_k(n - 1, c - r, k)

    return _per_sample(rewards_PG, rule, k, needs=k + 1)


def pkpo_s_loo_minus_1(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = k C(n-c, k-1) / C(n-1, k-1) if r = 1, else 0; k = 1 is plain REINFORCE.

    A sample earns the gain of the subsets of size k from holding it; no advantage is negative.
    Source: PKPO, Walder and Karkhanis 2025 (arXiv 2505.15201), equation 33.
    """
    return _per_sample(
        rewards_PG, lambda r, n, c: r * k * leave_one_out_failure(n, c - r, k), k, needs=k
    )


def leave_two_out(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = k [r D(c') - c'/(n-1) C(n-1-c', k-1)/C(n-2, k-1)], which needs k <= n-1.

    The gain of `s_loo_minus_1`, less the mean gain of the other samples j, each compared with the
    n-2 samples that are neither i nor j. The baseline of i does not depend on i, so the estimate
    stays unbiased; its mean over i is the mean gain, so the advantages of a prompt add up to 0.
    k = 1 is RLOO. Derived by passk, for rewards 0 and 1, from the abstract of MaxPO (Takashiro et
    al. 2026, arXiv 2606.06080), which describes a baseline that leaves two out, unbiased and with
    exactly centred advantages; the paper's own formula was not read.
    """

    def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
        others = c - r
        # Without i and a right j, n-2 samples are left, others-1 of them right.
        failure = all_wrong(n - 2, np.maximum(others - 1, 0), k - 1)
        gain: FloatArray = r * leave_one_out_failure(n, others, k) - others / (n - 1) * failure
        return k * gain

    return _per_sample(rewards_PG, rule, k, needs=k + 1)


def chen(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute Chen's advantages, with R = rho(n, c, k) and S = sqrt(R (1-R)).

    A = (1-R)/S if r = 1, (1 - R - C(n-c-1, k-1)/C(n-1, k-1))/S if r = 0, and 0 where S = 0.
    The same without cancellation: sqrt((1-R)/R) times 1 or -c/(n-c). Biased: dividing by S and
    centring flatten the weight of Pass@k. Source: Chen et al. 2025 (arXiv 2508.10751).
    """

    def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
        failure, success = all_wrong(n, c, k), pass_at_k(n, c, k)
        odds = np.divide(failure, success, out=np.zeros_like(failure), where=success > 0)
        signed: FloatArray = np.sqrt(odds) * np.where(r == 1, 1.0, -c / np.maximum(n - c, 1))
        return signed

    return _per_sample(rewards_PG, rule, k, needs=k)


def maxrl(rewards_PG: FloatArray, k: int) -> FloatArray:
    """Compute A = (r - c/n) / (c/n) = n r/c - 1, and 0 where c = 0. k is not used.

    In expectation it ascends log p, truncated after n - 1 terms: a weight (1-(1-p)^(n-1))/p, as
    subtracting the group's mean costs one term of n. `mix_several` with weights 1/k for k = 1..T
    is the unbiased estimate with T terms. Source: MaxRL, Tajwar et al. 2026 (arXiv 2602.02710), as
    in the released code.
    """

    def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
        gain: FloatArray = np.where(c > 0, n * r / np.maximum(c, 1) - 1, 0.0)
        return gain

    return _per_sample(rewards_PG, rule, k, needs=1)


def rs_grpo(rewards_PG: FloatArray, k: int, beta: float = RegimeConfig.beta) -> FloatArray:
    """Compute A = (e^(beta r)/Z - 1)/beta with Z = 1 + c/n (e^beta - 1). k is not used.

    For rewards 0 and 1 that is (e^beta - 1)/(beta Z) (r - c/n): Dr. GRPO, weighted up where few
    samples are right; beta near 0 is Dr. GRPO itself. Plugs c/n in for p, so it is biased for the
    gradient of log(1 + p (e^beta - 1))/beta. Source: RS-GRPO, Jiang et al. 2025 (arXiv 2509.24261).
    """
    least = np.exp(-beta)  # Z and e^beta - 1 are both divided by e^beta, which may overflow

    def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
        weight: FloatArray = -np.expm1(-beta) / (beta * (least - c / n * np.expm1(-beta)))
        return weight * (r - c / n)

    return _per_sample(rewards_PG, rule, k, needs=1)


@dataclass(frozen=True, slots=True)
class Estimator:
    """Entry of `ESTIMATORS`: the function, whether it uses k, and the samples needed beyond k."""

    advantages: Callable[[FloatArray, int], FloatArray]
    uses_k: bool = True
    spare_samples: int = 0


ESTIMATORS: dict[str, Estimator] = {
    "mixture": Estimator(rloo_k),
    "grpo": Estimator(grpo, uses_k=False),
    "dr_grpo": Estimator(dr_grpo, uses_k=False),
    "s": Estimator(pkpo_s),
    "s_loo": Estimator(pkpo_s_loo, spare_samples=1),
    "s_loo_minus_1": Estimator(pkpo_s_loo_minus_1),
    "leave_two_out": Estimator(leave_two_out, spare_samples=1),
    "chen": Estimator(chen),
    "maxrl": Estimator(maxrl, uses_k=False),
    "rs_grpo": Estimator(rs_grpo, uses_k=False),
}


def find_estimator(name: str, beta: float = RegimeConfig.beta) -> Estimator:
    """Return an entry of `ESTIMATORS`, or a user's function FILE.py:FUNCTION as one.

    Raises:
        ValueError: there is no such estimator.
        UserError: the user's file or function cannot be used.
    """
    if is_own(name):
        own = own_estimator(name)
        return Estimator(lambda rewards_PG, _: own(_checked(rewards_PG)), uses_k=False)
    if name not in ESTIMATORS:
        raise ValueError(f"estimator {name!r} is not one of {', '.join(ESTIMATORS)}.")
    found = ESTIMATORS[name]
    return replace(found, advantages=partial(rs_grpo, beta=beta)) if name == "rs_grpo" else found


def estimate_advantages(
    rewards_PG: FloatArray, estimator: str, terms: Terms, beta: float = RegimeConfig.beta
) -> FloatArray:
    """Estimate advantages [P, n] of the sum of weight * Pass@k over the terms.

    They are the sum of weight * f(rewards, k) for the named f. An estimator without k has one
    objective only: it raises ValueError for terms that put weight on any k but 1.
    """
    chosen = find_estimator(estimator, beta)
    if not chosen.uses_k:
        if any(weight for k, weight in terms if k > 1):
            raise ValueError(f"{estimator} has no k: it goes with Pass@1 alone, not with {terms}.")
        return chosen.advantages(rewards_PG, 1)
    # A prompt that cannot estimate one of the terms leaves all; else it would follow the others.
    largest = max(k for k, _ in terms)
    usable_P = _usable(rewards_PG, largest, largest + chosen.spare_samples)
    kept_PG = np.where(usable_P[:, None], rewards_PG, np.nan)
    advantages_PG = np.zeros(np.shape(rewards_PG))
    for k, weight in terms:
        advantages_PG += weight * chosen.advantages(kept_PG, k)
    return advantages_PG


def prompt_weights(
    rewards_PG: FloatArray, k: int, pass1_weight: float, min_success: float = 0.0
) -> FloatArray:
    """Estimate `Objective.prompt_weights` of pass1_weight Pass@1 + (1 - pass1_weight) Pass@k."""
    objective = Objective("mixture", mix(k, pass1_weight), min_success)
    return objective.prompt_weights(rewards_PG)


def enough_success(rewards_PG: FloatArray, min_success: float) -> np.ndarray:
    """Return True for samples with c'/(n-1) >= min_success, bool [P, n].

    That is the share of right ones among the *other* judged samples of the prompt. It does not
    depend on the sample's own reward, so multiplying an advantage by it adds no bias: the weight
    w(p) becomes E[w_i 1[c'/(n-1) >= min_success]].
    """
    n_P, c_P = counts(rewards_PG)
    others_PG = c_P[:, None] - (np.asarray(rewards_PG) == 1)
    enough_PG: np.ndarray = others_PG / np.maximum(n_P[:, None] - 1, 1) >= min_success
    return enough_PG


@dataclass(frozen=True, slots=True)
class Objective:
    """The sum of weight * Pass@k over the terms, by an estimator as `find_estimator` takes it.

    With `min_success`, a sample counts only if at least that share of the *other* samples of its
    prompt is right. The factor does not depend on the sample itself, so the estimate stays
    unbiased, for the objective whose weight is multiplied by the chance of that event at p.
    """

    estimator: str = "mixture"
    terms: Terms = ((1, 1.0), (1, 0.0))  # mix(1, 1.0)
    min_success: float = 0.0
    beta: float = RegimeConfig.beta  # of rs_grpo

    @property
    def k(self) -> int:
        """The largest k of the terms."""
        return self.terms[-1][0]

    @property
    def pass1_weight(self) -> float:
        """The share of Pass@1 in the weights of the terms."""
        return pass1_share(self.terms)

    def advantages(self, rewards_PG: FloatArray) -> FloatArray:
        """Compute the advantage of each sample, [P, n]."""
        advantages_PG = estimate_advantages(rewards_PG, self.estimator, self.terms, self.beta)
        masked_PG: FloatArray = advantages_PG * enough_success(rewards_PG, self.min_success)
        return masked_PG

    def prompt_weights(self, rewards_PG: FloatArray) -> FloatArray:
        """Estimate, without bias, the mixture's factor of each prompt's Pass@1 gradient, [P].

        The factor is the mean over samples of sum weight k D_k(c'), which is 0 for samples without
        `enough_success`. Without `min_success` it is the sum of weight k C(n-c, k-1)/C(n, k-1). It
        is 0, as the advantages are, for a prompt with too few judged samples.
        """

        def rule(r: IntArray, n: IntArray, c: IntArray) -> FloatArray:
            weights = np.zeros(len(r))
            for k, weight in self.terms:
                weights += weight * k * leave_one_out_failure(n, c - r, k)
            return weights

        weights_PG = _per_sample(rewards_PG, rule, self.k, needs=self.k)
        weights_PG *= enough_success(rewards_PG, self.min_success)
        means_P: FloatArray = weights_PG.sum(axis=1) / np.maximum(counts(rewards_PG)[0], 1)
        return means_P


PASS1 = Objective()


def as_configured(regime: RegimeConfig) -> Objective:
    """Return the configured objective, over all prompts (without `min_success`)."""
    return Objective(regime.estimator, target_terms(regime), beta=regime.beta)


def objective_in_words(regime: RegimeConfig) -> str:
    """Write the objective as `0.7 Pass@1 + 0.3 Pass@8`, or as one Pass@k alone."""
    terms = target_terms(regime)
    if not regime.ks and regime.weight in (0, 1):
        return f"Pass@{target_k(regime)}"
    return " + ".join(f"{round(weight, 6):g} Pass@{k}" for k, weight in terms)


@dataclass(frozen=True, slots=True)
class DeadGroups:
    """Fractions of prompts whose advantages are all zero: in all, with c = 0, and with c > 0."""

    dead_group_fraction: float
    dead_fail_fraction: float
    dead_solved_fraction: float


def dead_groups(advantages_PG: FloatArray, rewards_PG: FloatArray) -> DeadGroups:
    """Compute the fractions of prompts without gradient, as nothing or too much was right."""
    dead_P = ~np.any(advantages_PG, axis=1)
    solved_P = counts(rewards_PG)[1] > 0
    kinds = (dead_P, dead_P & ~solved_P, dead_P & solved_P)
    return DeadGroups(*(float(kind_P.mean()) for kind_P in kinds))


def _pkpo_s(r: IntArray, n: IntArray, c: IntArray, k: int) -> FloatArray:
    return k * (1 - (1 - r) * leave_one_out_failure(n, c - r, k))


def _per_sample(rewards_PG: FloatArray, rule: Rule, k: int, needs: int) -> FloatArray:
    """Apply a rule to the judged samples of prompts that have enough of them; else 0."""
    rewards_PG = np.asarray(rewards_PG, dtype=np.float64)
    live_PG = _usable(rewards_PG, k, needs)[:, None] & ~np.isnan(rewards_PG)
    r = rewards_PG[live_PG].astype(np.int64)
    n_P, c_P = counts(rewards_PG)
    n, c = (np.broadcast_to(x_P[:, None], live_PG.shape)[live_PG] for x_P in (n_P, c_P))
    advantages_PG = np.zeros(rewards_PG.shape)
    advantages_PG[live_PG] = rule(r, n, c) + 0.0  # no negative zeros
    return advantages_PG


def _usable(rewards_PG: FloatArray, k: int, needs: int) -> np.ndarray:
    """Return True for prompts with enough judged samples, bool [P]; raise for an impossible k."""
    n_P, _ = counts(rewards_PG)
    if not isinstance(k, int | np.integer) or k < 1:
        raise ValueError(f"k must be a whole number of at least 1, got {k!r}.")
    if needs > (num_samples := np.shape(rewards_PG)[1]):
        raise ValueError(f"no unbiased estimator: k={k} needs n >= {needs}, got n={num_samples}.")
    return n_P >= max(needs, 2)


def counts(rewards_PG: FloatArray) -> tuple[IntArray, IntArray]:
    """Count judged and correct samples of each prompt, [P]; raise unless rewards are valid."""
    return judged_counts(_checked(rewards_PG))


def _checked(rewards_PG: FloatArray) -> FloatArray:
    """Return the rewards as float64; raise ValueError unless they are valid."""
    rewards_PG = np.asarray(rewards_PG, dtype=np.float64)
    if rewards_PG.ndim != 2 or rewards_PG.shape[1] < 2:
        raise ValueError(f"rewards must be [prompts, 2 samples or more], got {rewards_PG.shape}.")
    judged_PG = ~np.isnan(rewards_PG)
    if not np.isin(rewards_PG[judged_PG], (0.0, 1.0)).all():
        raise ValueError("rewards must be 0 (wrong), 1 (right) or NaN (not judged).")
    return rewards_PG
