"""The objective of a step: masked advantages are unbiased for the masked objective's gradient."""

from fractions import Fraction
from itertools import product
from math import comb

import numpy as np
import pytest

from passk.config.schema import RegimeConfig, mix
from passk.objectives.advantages import (
    PASS1,
    Objective,
    as_configured,
    enough_success,
    estimate_advantages,
    mixture_advantages,
)

NAN = float("nan")
HALF, P = Fraction(1, 2), Fraction(2, 7)


def masked_weight(p: Fraction, n: int, k: int, pass1_weight: Fraction, least: float) -> Fraction:
    """E[(u + (1-u) k D(c')) 1[c'/(n-1) >= least]] over c' ~ Binomial(n-1, p), exactly.

    As dF/dp it is the slope of the objective F that the masked update ascends.
    """
    total = Fraction(0)
    for c in range(n):
        if c / (n - 1) < least:
            continue
        failure = Fraction(comb(n - 1 - c, k - 1), comb(n - 1, k - 1))
        chance = comb(n - 1, c) * p**c * (1 - p) ** (n - 1 - c)
        total += chance * (pass1_weight + (1 - pass1_weight) * k * failure)
    return total


@pytest.mark.parametrize("pass1_weight", [Fraction(0), HALF, Fraction(1)])
@pytest.mark.parametrize("least", [0.0, 0.2, 0.5, 1.0])
def test_the_masked_update_is_the_gradient_of_the_masked_objective(pass1_weight, least):
    """All outcomes of n samples of a one-parameter policy, whose score is 1/p or -1/(1-p)."""
    for n in range(2, 7):
        for k in range(1, n + 1):
            objective = Objective("mixture", mix(k, float(pass1_weight)), least)
            expected = Fraction(0)
            for outcome in product((0, 1), repeat=n):
                advantages = objective.advantages(np.array([outcome], dtype=float))[0]
                scores = [1 / P if right else -1 / (1 - P) for right in outcome]
                chance = P ** sum(outcome) * (1 - P) ** (n - sum(outcome))
                # Advantages are ratios of small whole numbers, of which floats hold all but a bit.
                exact = [Fraction(a).limit_denominator(10_000) for a in advantages]
                expected += chance * sum(a * s for a, s in zip(exact, scores, strict=True)) / n
            assert expected == masked_weight(P, n, k, pass1_weight, least)


@pytest.mark.parametrize("least", [0.0, 0.3, 0.5])
def test_the_weight_of_prompts_is_that_of_the_masked_objective(least):
    n, k = 6, 3
    rewards_PG = np.array(list(product((0.0, 1.0), repeat=n)))
    weights_P = Objective("mixture", mix(k, 0.5), least).prompt_weights(rewards_PG)
    p = float(P)
    chance_P = np.prod(np.where(rewards_PG == 1, p, 1 - p), axis=1)
    assert chance_P @ weights_P == pytest.approx(float(masked_weight(P, n, k, HALF, least)))


def test_a_sample_does_not_decide_about_itself():
    """One right of three: it sees none right among the others, they see one of two."""
    rewards_PG = np.array([[1.0, 0, 0], [1, NAN, 0], [NAN, NAN, NAN]])
    enough = enough_success(rewards_PG, 0.5)
    assert enough.tolist()[0] == [False, True, True]
    assert enough.tolist()[1][::2] == [False, True]  # of two judged, the other is all there is
    assert enough_success(rewards_PG, 0.0).all()
    advantages = Objective("mixture", mix(2, 0.0), 0.5).advantages(rewards_PG)
    assert (advantages[2] == 0).all() and advantages[1][1] == 0


def test_seven_of_ten_others_are_enough_for_seven_tenths():
    rewards_PG = np.array([[1.0] * 7 + [0.0] * 4])
    assert enough_success(rewards_PG, 0.7)[0].tolist() == [False] * 7 + [True] * 4


def test_without_a_mask_it_is_the_configured_regime():
    rewards_PG = np.array([[1.0, 0, 0, 1], [0, 0, 1, NAN]])
    regime = RegimeConfig(name="hybrid", k=3, pass1_weight=0.3)
    assert as_configured(regime) == Objective("mixture", mix(3, 0.3))
    ours = as_configured(regime).advantages(rewards_PG)
    np.testing.assert_array_equal(ours, mixture_advantages(rewards_PG, 3, 0.3))
    assert as_configured(RegimeConfig(name="pass1", k=8, pass1_weight=1.0)) == PASS1


def test_objectives_are_the_named_estimators():
    rewards = np.array([[1.0, 0, 0, 1], [0, 0, 1, NAN]])
    for name, k, weight in (("mixture", 2, 0.3), ("s_loo_minus_1", 3, 0.0), ("grpo", 1, 1.0)):
        np.testing.assert_array_equal(
            Objective(name, mix(k, weight)).advantages(rewards),
            estimate_advantages(rewards, name, mix(k, weight)),
        )
