"""The paper's statements: identities to 1e-10, inequalities in 1,000 random bandits each.

`python -m pytest tests/objectives/test_theory.py -k loose -s` prints how loose inequalities are.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from passk.objectives import theory
from passk.toy import bandit as toy

NUM_CASES = 1000
CLOSE = {"rtol": 1e-10, "atol": 1e-15}


@dataclass(frozen=True)
class Case:
    """A random bandit: few prompts with random features, labels and shares, a random theta."""

    prompts: toy.Prompts
    theta: np.ndarray
    policy: theory.PromptGradients
    bounds: theory.PolicyBounds

    @property
    def margins(self) -> np.ndarray:
        """Every m at which the set of strongly negative prompts changes."""
        a_P = theory.agreement(self.policy)
        return -a_P[a_P < 0]


def random_case(draws: np.random.Generator) -> Case:
    num_prompts, num_features = draws.integers(2, 9), draws.integers(1, 5)
    features = draws.normal(size=(num_prompts, num_features))
    prompts = toy.Prompts(
        features, draws.random(num_prompts) < 0.5, draws.dirichlet(np.ones(num_prompts))
    )
    at = draws.normal(scale=1.5, size=num_features)
    return Case(prompts, at, toy.policy_at(at, prompts), toy.policy_bounds(prompts))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    draws = np.random.default_rng(0)
    return [random_case(draws) for _ in range(NUM_CASES)]


@pytest.fixture(scope="module")
def separated() -> list[tuple[Case, theory.Separation, int]]:
    """Cases that proposition 4.5 speaks of, the margin with the least k*, and the first k above."""

    def found() -> Iterator[tuple[Case, theory.Separation, int]]:
        draws = np.random.default_rng(1)
        while True:
            case = random_case(draws)
            sets = [theory.separation(case.policy, margin) for margin in case.margins]
            stars = [(theory.k_star(s, case.bounds), i) for i, s in enumerate(sets) if s]
            if stars and min(stars)[0] < 300:
                star, i = min(stars)
                yield case, sets[i], int(star) + 1

    return [case for case, _ in zip(found(), range(NUM_CASES), strict=False)]


def known_policies() -> list[theory.PromptGradients]:
    """The paper's two prompts, and its population by quadrature, at a few thetas."""
    thetas = [(-2.0, -2.0), (0.3, 1.7), (-0.1, 0.05)]
    populations = [toy.two_prompts(0.2), toy.population(0.4, 0.2), toy.population(0.2, 1.0)]
    return [toy.policy_at(at, prompts) for at in thetas for prompts in populations]


def assert_identities(policy: theory.PromptGradients, k: int, m: int) -> None:
    parts, norm = theory.decompose(policy, k), float(theory.inner_product(policy, 1)) ** 0.5
    direct = float(theory.passk_gradient(policy, k) @ theory.passk_gradient(policy, 1))
    scale = norm * float(theory.inner_product(policy, k, k)) ** 0.5
    spread = abs(parts.covariance) + parts.mean_weight * norm**2
    close = {"rel": 1e-10, "abs": 1e-10 * (scale + spread)}  # the terms may cancel
    assert parts.pass1_norm == pytest.approx(norm, rel=1e-10)
    assert parts.weighted_agreement == pytest.approx(direct, **close)  # (9)
    covariance_form = parts.mean_weight * norm**2 + parts.covariance
    assert covariance_form == pytest.approx(direct, **close)  # (10)
    assert parts.mean_weight * parts.reweighted_agreement == pytest.approx(direct, **close)  # (11)
    if abs(direct) > 1e-10 * (scale + spread):  # else the sign is that of rounding
        below = parts.correlation < parts.critical_correlation
        assert below == (direct < 0)  # appendix A
    products = float(theory.inner_product(policy, k, m))
    assert theory.kernel_form(policy, k, m) == pytest.approx(products, rel=1e-10, abs=1e-14)


def test_identities_on_the_toy():
    for policy in known_policies():
        for k, m in ((1, 1), (2, 1), (5, 3), (10, 1), (32, 8)):
            assert_identities(policy, k, m)


def test_identities_in_random_cases(cases):
    draws = np.random.default_rng(2)
    for case in cases:
        assert_identities(case.policy, *map(int, draws.integers(1, 33, 2)))


def test_agreement_is_the_mean_kernel(cases):
    for case in cases:
        mean_P = theory.kernel(case.policy) @ case.policy.share_P
        np.testing.assert_allclose(theory.agreement(case.policy), mean_P, rtol=1e-9, atol=1e-14)


def test_gradients_by_finite_differences(cases):
    step = 1e-5
    for case in cases[:200]:
        for k in (1, 2, 7):
            ahead, behind = (
                theory.pass_at_k(toy.policy_at(case.theta + side, case.prompts), k)
                for side in (step * np.eye(len(case.theta)), -step * np.eye(len(case.theta)))
            )
            numeric = (ahead - behind) / (2 * step)
            np.testing.assert_allclose(
                theory.passk_gradient(case.policy, k), numeric, rtol=1e-6, atol=1e-8
            )


def test_many_policies_at_once_are_each_of_them():
    prompts, thetas = toy.two_prompts(0.2), np.array([[-2.0, -2.0], [0.5, 1.0], [3.0, -1.0]])
    together = toy.policy_at(thetas, prompts)
    for i, at in enumerate(thetas):
        alone = toy.policy_at(at, prompts)
        for measure in (theory.pass_at_k, theory.passk_gradient, theory.cosine):
            np.testing.assert_allclose(measure(together, 4)[i], measure(alone, 4), **CLOSE)
        np.testing.assert_allclose(theory.kernel(together)[i], theory.kernel(alone), **CLOSE)
        np.testing.assert_allclose(theory.agreement(together)[i], theory.agreement(alone), **CLOSE)


def test_without_negative_interference_nothing_conflicts():
    draws = np.random.default_rng(3)
    for _ in range(NUM_CASES):
        count, num_features = draws.integers(2, 9), draws.integers(1, 5)
        features = np.abs(draws.normal(size=(count, num_features)))
        features[~(is_hard := draws.random(count) < 0.5)] *= -1  # labels and features turn together
        prompts = toy.Prompts(features, is_hard, draws.dirichlet(np.ones(count)))
        policy = toy.policy_at(draws.normal(size=num_features), prompts)
        assert theory.kernel(policy).min() >= 0
        k, m = map(int, draws.integers(1, 33, 2))
        assert theory.inner_product(policy, k, m) >= 0


def test_every_conflict_needs_negative_interference(cases):
    conflicts = [c for c in cases if theory.first_conflict(c.policy, 64) is not None]
    assert len(conflicts) > 100
    for case in conflicts:
        assert theory.kernel(case.policy).min() < 0
        assert theory.agreement(case.policy).min() < 0


def test_first_conflict_is_the_first():
    for policy in known_policies()[:3]:
        products = [float(theory.inner_product(policy, k)) for k in range(2, 40)]
        negative = [k for k, product in enumerate(products, 2) if product < -1e-16]
        assert theory.first_conflict(policy, 39) == (negative[0] if negative else None)


def test_no_conflict_is_read_into_rounding():
    """At the maximum of J_5 its gradient is 0: neither a cosine nor a conflict at k = 5."""
    policy = toy.policy_at(toy.best_theta(0.4, 0.2, 5), toy.population(0.4, 0.2))
    assert np.isnan(theory.cosine(policy, 5))
    assert theory.first_conflict(policy) == 6


def test_bounds_of_the_policy_hold_and_are_attained(cases):
    """Assumption 4.3 by enumeration of the two actions; the Hessian by finite differences."""
    step = 1e-5
    for case in cases[:100]:
        features, bounds = case.prompts.features_PD, case.bounds

        def scores(at, features=features):  # of actions 0 and 1: [2, P, D]
            p1 = toy.sigmoid(features @ at)[:, None]
            return np.stack([-p1 * features, (1 - p1) * features])

        for at in (case.theta, np.zeros_like(case.theta)):
            p1 = toy.sigmoid(features @ at)
            shares = np.stack([1 - p1, p1])
            norm2 = (shares * (scores(at) ** 2).sum(-1)).sum(0)
            assert norm2.max() <= bounds.score * (1 + 1e-12)
            columns = [
                (scores(at + side) - scores(at - side)) / (2 * step)
                for side in step * np.eye(len(at))
            ]
            hessians = np.linalg.norm(np.stack(columns, -1), ord=2, axis=(-2, -1))
            assert (shares * hessians).sum(0).max() <= bounds.hessian * (1 + 1e-8)
        assert norm2.max() == pytest.approx(bounds.score)  # at theta = 0, the last of the two
        assert np.abs(theory.agreement(case.policy)).max() <= bounds.score


def test_smoothness(cases):
    """The gradient of J_k is L_k-Lipschitz: pairs of points near and far."""
    draws = np.random.default_rng(4)
    for case in cases:
        k, distance = int(draws.integers(1, 33)), 10 ** draws.uniform(-3, 1)
        other = case.theta + distance * unit_vector(draws, len(case.theta))
        moved = toy.policy_at(other, case.prompts)
        change = theory.passk_gradient(moved, k) - theory.passk_gradient(case.policy, k)
        assert np.linalg.norm(change) <= theory.smoothness(k, case.bounds) * distance


def unit_vector(draws, num_features):
    direction = draws.normal(size=num_features)
    return direction / np.linalg.norm(direction)


def test_corollary_4_4(cases):
    """<grad J_k, grad J_1> <= -delta at every margin: a conflict where delta > 0, not below."""
    draws = np.random.default_rng(5)
    negative_without_conflict = 0
    for case in cases:
        k = int(draws.integers(2, 65))
        product = float(theory.inner_product(case.policy, k))
        for margin in (*case.margins, *draws.random(3)):
            delta = theory.conflict_margin(case.policy, k, margin, case.bounds)
            assert product <= -delta + 1e-14
            negative_without_conflict += delta < 0 and product > 1e-12
    assert negative_without_conflict > 0, "the sign as v1 prints it would hold"


def test_proposition_4_5(separated):
    """Every k above k* conflicts, and the bound lies between 0 and the inner product there."""
    assert len(separated) == NUM_CASES
    for case, sets, k_above in separated:
        assert theory.k_star(sets, case.bounds) >= 1
        for k in range(1, 2 * k_above + 2):
            bound = theory.separated_bound(sets, k, case.bounds)
            product = float(theory.inner_product(case.policy, k))
            assert product <= bound + 1e-15
            if k >= k_above:
                assert product < 0
                assert bound <= 1e-15


def rise(case: Case, step: np.ndarray, k: int) -> float:
    """J_k(theta + step) - J_k(theta), exact also where it is far smaller than J_k."""
    before_P, moved_P = (
        case.prompts.sign_P * (case.prompts.features_PD @ x) for x in (case.theta, step)
    )
    difference_P = np.sinh(moved_P / 2) / (
        2 * np.cosh(before_P / 2) * np.cosh((before_P + moved_P) / 2)
    )
    fails_P = toy.sigmoid(-before_P)
    return float(
        -case.prompts.share_P @ (fails_P**k * np.expm1(k * np.log1p(-difference_P / fails_P)))
    )


def test_rise_is_the_difference(cases):
    for case in cases[:100]:
        step = 0.1 * np.ones_like(case.theta)
        end = toy.policy_at(case.theta + step, case.prompts)
        for k in (1, 6):
            plain = theory.pass_at_k(end, k) - theory.pass_at_k(case.policy, k)
            assert rise(case, step, k) == pytest.approx(float(plain), abs=1e-14)


@pytest.mark.parametrize("promise", ["paper", "direct"])
def test_proposition_4_6(separated, promise):
    """Along grad J_k, J_1 falls and J_k rises for every step up to the promised length."""
    draws = np.random.default_rng(6)
    for case, sets, k_above in separated:
        k = max(k_above, 2) + int(draws.integers(0, 4))
        gradient = theory.passk_gradient(case.policy, k)
        if promise == "paper":
            one = theory.one_step(case.policy, k, sets.margin, case.bounds)
        else:
            one = theory.direct_step(case.policy, k, case.bounds)
        assert one is not None
        for part in (0.01, *draws.random(3), 1 - 1e-6):
            length = part * one.largest
            assert one.change(length) < 0
            change = rise(case, length * gradient, 1)
            assert change <= one.change(length) + 1e-14 * length
            assert change < 0
            gained = rise(case, length * gradient, k)
            assert gained > 0
            if promise == "paper":
                assert gained >= length / 2 * float(gradient @ gradient) * (1 - 1e-9)


def test_no_step_is_promised_without_a_conflict():
    """Strictness: at the end of the interval, J_1 is only promised not to rise."""
    policy, bounds = (
        toy.policy_at((-2, -2), toy.two_prompts(0.2)),
        theory.PolicyBounds(0.2525, 0.2525),
    )
    margin = -float(theory.agreement(policy)[1])
    one = theory.one_step(policy, 10, margin, bounds)
    assert one.largest == one.slope / one.curvature
    assert one.change(one.largest) == pytest.approx(0, abs=1e-20)
    assert one.change(0.999 * one.largest) < 0
    assert theory.one_step(policy, 2, margin, bounds) is None  # k* is 3.8
    assert theory.direct_step(policy, 2, bounds) is not None  # yet k = 2 conflicts
    assert theory.direct_step(policy, 1, bounds) is None


def test_no_separation_no_k_star():
    policy = toy.policy_at((-2, -2), toy.two_prompts(0.2))
    assert theory.separation(policy, 1.0) is None  # no prompt that negative
    flipped = theory.PromptGradients(
        policy.share_P, policy.success_P[::-1].copy(), policy.gradients_PD
    )
    assert theory.separation(flipped, 0.001) is None  # the negative prompt is the easier one


def test_bias_alone():
    """Without s, conflict begins right above 1 + log((1-q)/q) / b."""
    draws = np.random.default_rng(7)
    for _ in range(NUM_CASES):
        q, bias = draws.uniform(0.05, 0.49), draws.uniform(0.1, 3)
        prompts = toy.Prompts(np.ones((2, 1)), np.array([False, True]), np.array([1 - q, q]))
        policy = toy.policy_at([-bias], prompts)
        threshold = toy.bias_only_threshold(q, bias)
        for k in {max(int(threshold) - 1, 1), int(threshold), int(threshold) + 1}:
            if abs(k - threshold) > 1e-6:
                assert (theory.inner_product(policy, k) < 0) == (k > threshold)
    assert [toy.bias_only_threshold(0.2, b) for b in (0.5, 1, 2)] == pytest.approx(
        [3.77, 2.39, 1.69], abs=0.005
    )


def test_how_loose_the_bounds_are(cases, separated):
    """Medians that docs/method/toy.md states."""
    draws = np.random.default_rng(8)
    lipschitz = []
    for case in cases:
        step = 0.01 * unit_vector(draws, len(case.theta))
        moved = toy.policy_at(case.theta + step, case.prompts)
        change = theory.passk_gradient(moved, 8) - theory.passk_gradient(case.policy, 8)
        lipschitz.append(theory.smoothness(8, case.bounds) * 0.01 / np.linalg.norm(change))
    rows = []
    for case, sets, k in separated:
        first = theory.first_conflict(case.policy)
        k = max(k, 2)
        one = theory.one_step(case.policy, k, sets.margin, case.bounds)
        direct = theory.direct_step(case.policy, k, case.bounds)
        half = one.largest / 2 * theory.passk_gradient(case.policy, k)
        rows.append(
            {
                "k_star": theory.k_star(sets, case.bounds),
                "first": first,
                "conflict": direct.slope / one.slope,
                "step": direct.largest / one.largest,
                "fall": rise(case, half, 1) / one.change(one.largest / 2),
            }
        )
    medians = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    medians["lipschitz"] = float(np.median(lipschitz))
    print("\nmedians:", {name: f"{value:.3g}" for name, value in medians.items()})
    assert medians == pytest.approx(
        {
            "k_star": 17.9,
            "first": 4,
            "conflict": 1.37,
            "step": 1.15e4,
            "fall": 2.75,
            "lipschitz": 1.89e3,
        },
        rel=0.02,
    )
