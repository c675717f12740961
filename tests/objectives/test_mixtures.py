"""Mixtures of several k, estimators of other papers, and samples not judged, by exact fractions."""

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, product
from math import comb, exp

import numpy as np
import pytest

from passk.config.schema import RegimeConfig, mix, mix_several
from passk.objectives.advantages import (
    Objective,
    as_configured,
    dr_grpo,
    estimate_advantages,
    leave_two_out,
    maxrl,
    mixture_advantages,
    objective_in_words,
    rloo_k,
    rs_grpo,
)
from passk.objectives.implied_weights import implied, objective_advantages, target_weight

NAN = float("nan")
P = Fraction(2, 7)


def groups(n: int) -> Iterator[tuple[list[float], Fraction, list[Fraction]]]:
    """All groups of n rewards, their chance at success P, and the scores of a policy's samples."""
    for outcome in product((0, 1), repeat=n):
        chance = P ** sum(outcome) * (1 - P) ** (n - sum(outcome))
        yield list(map(float, outcome)), chance, [1 / P if r else -1 / (1 - P) for r in outcome]


def exact(value: float) -> Fraction:
    """The ratio of small whole numbers that a float stands for."""
    found = Fraction(value).limit_denominator(100_000)
    assert abs(float(found) - value) < 1e-12
    return found


def expected_weight(objective: Objective, n: int) -> Fraction:
    """E[update] / grad p, exactly: advantages here are ratios of small whole numbers."""
    total = Fraction(0)
    for rewards, chance, scores in groups(n):
        advantages = objective.advantages(np.array([rewards]))[0]
        total += chance * sum(exact(a) * s for a, s in zip(advantages, scores, strict=True)) / n
    return total


@pytest.mark.parametrize("estimator", ["mixture", "s", "s_loo", "s_loo_minus_1", "leave_two_out"])
def test_a_mixture_of_several_k_is_unbiased_for_its_gradient(estimator):
    ks, weights = (1, 2, 4), (0.5, 0.25, 1.5)
    objective = Objective(estimator, mix_several(ks, weights))
    target = sum(Fraction(w) * k * (1 - P) ** (k - 1) for k, w in zip(ks, weights, strict=True))
    for n in (5, 6):
        assert expected_weight(objective, n) == target
    assert target_weight(np.array([float(P)]), objective.terms)[0] == pytest.approx(float(target))
    known = implied(objective_advantages(objective, 6), np.array([float(P)]))
    assert known.weight_P[0] == pytest.approx(float(target), rel=1e-13)


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_weights_1_over_k_are_maxrl_truncated_at_any_order(order):
    """W_i = sum over k <= T of D_k(c'), and the target is (1 - (1-p)^T) / p."""
    n, ks = 6, range(1, order + 1)
    objective = Objective("mixture", mix_several(ks, [1 / k for k in ks]))
    assert expected_weight(objective, n) == (1 - (1 - P) ** order) / P
    for c in range(n + 1):
        rewards = np.array([[1.0] * c + [0.0] * (n - c)])
        ours = objective.advantages(rewards)[0]
        for place, right in ((0, 1), (n - 1, 0)):
            if rewards[0, place] != right:
                continue
            others = c - right
            weight = sum(Fraction(comb(n - 1 - others, k - 1), comb(n - 1, k - 1)) for k in ks)
            by_hand = weight * (right - Fraction(others, n - 1))
            assert ours[place] == pytest.approx(float(by_hand), abs=1e-14)


@pytest.mark.parametrize("n", [2, 5, 6])
def test_maxrl_as_released_has_n_minus_1_terms(n):
    assert expected_weight(Objective("maxrl"), n) == (1 - (1 - P) ** (n - 1)) / P
    rewards = np.array([[1.0] + [0.0] * (n - 1)])
    np.testing.assert_allclose(maxrl(rewards, 1)[0], [n - 1] + [-1] * (n - 1))


def test_two_terms_are_the_two_numbers_bit_by_bit():
    rng = np.random.default_rng(0)
    rewards_PG = rng.choice([0.0, 1.0, NAN], size=(200, 16), p=[0.6, 0.35, 0.05])
    for weight in (0.0, 0.1, 0.7, 1.0):
        passk_PG = rloo_k(rewards_PG, 8)
        usable = (~np.isnan(rewards_PG)).sum(axis=1) >= 8
        pass1_PG = rloo_k(np.where(usable[:, None], rewards_PG, NAN), 1)
        expected_PG = weight * pass1_PG + (1 - weight) * passk_PG
        np.testing.assert_array_equal(mixture_advantages(rewards_PG, 8, weight), expected_PG)
        objective = Objective("mixture", mix(8, weight))
        assert (objective.k, objective.pass1_weight) == (8, weight)


def test_weights_are_left_out_or_taken_as_they_are():
    equal = RegimeConfig(name="hybrid", ks=[1, 4])
    assert as_configured(equal).terms == ((1, 0.5), (4, 0.5))
    weighted = RegimeConfig(name="hybrid", ks=[2, 4], weights=[2.0, 6.0])
    assert as_configured(weighted).pass1_weight == 0
    assert objective_in_words(weighted) == "2 Pass@2 + 6 Pass@4"
    mixed = Objective(terms=mix_several([1, 4], [1.0, 3.0]))
    assert (mixed.k, mixed.pass1_weight) == (4, 0.25)


def test_prompt_weights_of_several_terms_are_unbiased():
    terms = mix_several([1, 3, 5], [0.2, 1.0, 0.5])
    found = [
        (chance, Objective(terms=terms).prompt_weights(np.array([rewards]))[0])
        for rewards, chance, _ in groups(6)
    ]
    target = target_weight(np.array([float(P)]), terms)[0]
    assert sum(float(chance) * weight for chance, weight in found) == pytest.approx(target)


@pytest.mark.parametrize("judged", [Fraction(1, 2), Fraction(9, 10)])
def test_samples_not_judged_multiply_the_target_by_the_chance_of_enough(judged):
    """Each sample is judged with the same chance, whatever its reward; P(n_x >= max(2, k))."""
    n = 4
    for k in range(1, n + 1):
        total = Fraction(0)
        for rewards, chance, scores in groups(n):
            for seen in product((False, True), repeat=n):
                known = [r if s else NAN for r, s in zip(rewards, seen, strict=True)]
                advantages = mixture_advantages(np.array([known]), k, 0.0)[0]
                n_x = sum(seen)
                weight = chance * judged**n_x * (1 - judged) ** (n - n_x) / max(n_x, 1)
                total += weight * sum(exact(a) * s for a, s in zip(advantages, scores, strict=True))
        enough = sum(
            comb(n, m) * judged**m * (1 - judged) ** (n - m) for m in range(max(2, k), n + 1)
        )
        assert total == enough * k * (1 - P) ** (k - 1)


@pytest.mark.parametrize("n", range(3, 8))
def test_leave_two_out_is_its_definition_over_subsets_and_adds_up_to_0(n):
    """Gains of i over (k-1)-subsets of the others, less the mean of those of j without i."""

    def gain(rewards: list[int], j: int, among: list[int], k: int) -> Fraction:
        subsets = list(combinations(among, k - 1))
        gains = [rewards[j] > max((rewards[i] for i in subset), default=0) for subset in subsets]
        return Fraction(sum(gains), len(subsets))

    for k in range(1, n):
        for c in range(n + 1):
            rewards = [1] * c + [0] * (n - c)
            ours = leave_two_out(np.array([rewards], dtype=float), k)[0]
            assert abs(ours.sum()) < 1e-12
            for i in range(n):
                others = [j for j in range(n) if j != i]
                baseline = sum(
                    gain(rewards, j, [m for m in others if m != j], k) for j in others
                ) / (n - 1)
                by_hand = k * (gain(rewards, i, others, k) - baseline)
                assert ours[i] == pytest.approx(float(by_hand), abs=1e-13)
    rewards_PG = np.array([rewards for rewards, _, _ in groups(n)])
    np.testing.assert_allclose(leave_two_out(rewards_PG, 1), rloo_k(rewards_PG, 1), atol=1e-15)


def test_leave_two_out_is_less_noisy_than_the_mixture_on_easy_prompts():
    """The figures of docs/reference/estimators.md, for Pass@8 at n = 16."""
    ps = np.array([0.01, 0.1, 0.5, 0.9])
    ours, mixture = (
        implied(objective_advantages(Objective(name, mix(8, 0.0)), 16), ps).noise_P
        for name in ("leave_two_out", "mixture")
    )
    assert ours / mixture == pytest.approx([1.022, 1.008, 0.916, 0.626], abs=6e-4)


@pytest.mark.parametrize("beta", [1e-3, 2.0, 8.0, 100.0])
def test_rs_grpo_is_the_printed_formula(beta):
    n = 8
    for c in range(n + 1):
        rewards = np.array([[1.0] * c + [0.0] * (n - c)])
        ours = rs_grpo(rewards, 1, beta)[0]
        z = 1 + c / n * (exp(beta) - 1)
        printed = [(exp(beta * r) / z - 1) / beta for r in rewards[0]]
        assert ours == pytest.approx(printed, rel=1e-9, abs=1e-9)
        assert abs(ours.sum()) < 1e-9


def test_rs_grpo_is_dr_grpo_at_beta_near_0_and_weights_hard_prompts_up():
    rewards_PG = np.tril(np.ones((9, 8)), -1)
    np.testing.assert_allclose(rs_grpo(rewards_PG, 1, 1e-9), dr_grpo(rewards_PG, 1), atol=1e-8)
    ps = np.array([0.01, 0.1, 0.5, 0.9])
    for beta, printed in ((2.0, (2.08, 1.61, 0.74, 0.47)), (8.0, (1.74, 0.99, 0.25, 0.14))):
        found = implied(objective_advantages(Objective("rs_grpo", beta=beta), 16), ps).weight_P
        assert found == pytest.approx(printed, abs=0.005)


def test_rs_grpo_expects_its_exact_weight():
    """E[A | right] - E[A | wrong] over c', with (e^beta - 1)/(beta Z) at each count."""
    n, beta = 6, 2.0
    p, gain = float(P), exp(beta) - 1
    weight = 0.0
    for others in range(n):
        chance = comb(n - 1, others) * p**others * (1 - p) ** (n - 1 - others)
        right, wrong = ((c / n, gain / beta / (1 + c / n * gain)) for c in (others + 1, others))
        weight += chance * (right[1] * (1 - right[0]) + wrong[1] * wrong[0])
    total = sum(
        float(chance) * (rs_grpo(np.array([r]), 1, beta)[0] @ np.array(list(map(float, s)))) / n
        for r, chance, s in groups(n)
    )
    assert total == pytest.approx(weight, rel=1e-12)


def test_what_has_no_estimate_is_refused():
    rewards = np.array([[1.0, 0, 0, 0]])
    with pytest.raises(ValueError, match="k=5 needs n >= 5"):
        estimate_advantages(rewards, "mixture", mix_several([1, 5], None))
    with pytest.raises(ValueError, match="k=4 needs n >= 5"):
        estimate_advantages(rewards, "leave_two_out", mix(4, 0.0))
    with pytest.raises(ValueError, match="rs_grpo has no k"):
        estimate_advantages(rewards, "rs_grpo", mix_several([1, 2], None))
