"""Agreement over checkpoints: the statistic, the tests, false discoveries, and the controls."""

import numpy as np
import pytest
from scipy import stats

from passk.diagnostics.agreement import (
    agreement_scores,
    correlations,
    false_discovery_rates,
    matched_control,
    negative_p_values,
    random_control,
)


def samples(rng, num_prompts: int, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    rewards_PG = (rng.random((num_prompts, num_samples)) < 0.5).astype(float)
    rewards_PG[rng.random(rewards_PG.shape) < 0.1] = np.nan
    return rewards_PG, rng.normal(size=rewards_PG.shape)


def test_correlations_are_those_of_the_judged_samples():
    rewards_PG, derivatives_PG = samples(np.random.default_rng(0), 40, 12)
    found_P = correlations(rewards_PG, derivatives_PG)
    for rewards_G, derivatives_G, found in zip(rewards_PG, derivatives_PG, found_P, strict=True):
        kept = ~np.isnan(rewards_G)
        expected = np.corrcoef(rewards_G[kept], derivatives_G[kept])[0, 1]
        assert found == pytest.approx(expected, abs=1e-12)
    scores_P, _ = agreement_scores(rewards_PG, derivatives_PG)
    assert (np.sign(found_P) == np.sign(scores_P)).all()
    # Neither the length of the gradient nor the judging of more of the same changes it.
    assert correlations(rewards_PG, 1e3 * derivatives_PG) == pytest.approx(found_P)


def test_correlations_without_signal_are_not_numbers():
    rewards_PG = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, np.nan], [np.nan] * 3, [1.0, 0.0, 1.0]])
    derivatives_PG = np.array([[1.0, 2.0, 3.0]] * 3 + [[2.0, 2.0, 2.0]])
    assert np.isnan(correlations(rewards_PG, derivatives_PG)).all()


def test_from_three_checkpoints_on_it_is_students_t_over_those_with_signal():
    correlations_CP = np.array(
        [
            [-0.5, 0.2, np.nan, np.nan],
            [-0.4, -0.3, -0.5, np.nan],
            [-0.6, 0.1, -0.4, -0.9],
            [-0.5, 0.4, -0.3, -0.9],
        ]
    )
    none_CP = np.zeros((4, 4))
    p_P = negative_p_values(correlations_CP, none_CP, none_CP)
    for column in (0, 1):
        t = correlations_CP[:, column].mean() / (
            correlations_CP[:, column].std(ddof=1) / np.sqrt(4)
        )
        assert p_P[column] == pytest.approx(stats.t.cdf(t, 3))
    assert p_P[2] == pytest.approx(stats.t.cdf(-0.4 / (0.1 / np.sqrt(3)), 2))
    assert np.isnan(p_P[3])  # two checkpoints are too few


def test_from_fewer_it_must_be_negative_at_each():
    scores_CP = np.array([[-2.0, -2.0, 0.0, 0.0], [-3.0, 1.0, -2.0, 0.0]])
    errors_CP = np.array([[1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, np.nan]])
    p_P = negative_p_values(np.full((2, 4), np.nan), scores_CP, errors_CP)
    assert p_P[0] == pytest.approx(stats.norm.cdf(-2.0))
    assert p_P[1] == pytest.approx(stats.norm.cdf(1.0))
    assert p_P[2] == 1.0  # nothing was seen of it at the first
    assert np.isnan(p_P[3])


def test_false_discoveries_stay_below_the_rate():
    """Where agreements at checkpoints are independent, as the test takes them to be."""
    rng = np.random.default_rng(1)
    interferes_P = np.arange(400) < 80
    shares, found = [], []
    for _ in range(60):
        means_P = np.where(interferes_P, -0.5, rng.uniform(0, 0.3, 400))
        correlations_CP = means_P + rng.normal(scale=0.2, size=(5, 400))
        correlations_CP[0, 200:] = np.nan
        none_CP = np.zeros((5, 400))
        p_P = negative_p_values(correlations_CP, none_CP, none_CP)
        chosen_P = false_discovery_rates(p_P) <= 0.1
        shares.append((chosen_P & ~interferes_P).sum() / max(1, chosen_P.sum()))
        found.append(chosen_P[interferes_P].mean())
    assert np.mean(shares) < 0.1
    assert np.mean(found) > 0.8


def test_rates_are_over_the_problems_that_have_a_p_value():
    p_P = np.array([0.01, np.nan, 0.04, 0.03, np.nan])
    rates_P = false_discovery_rates(p_P)
    assert np.isnan(rates_P[[1, 4]]).all()
    assert rates_P[[0, 2, 3]] == pytest.approx([0.03, 0.04, 0.04])
    assert np.isnan(false_discovery_rates(np.array([np.nan]))).all()


def test_controls_are_as_many_and_matched_ones_as_hard():
    rng = np.random.default_rng(2)
    success_P = np.round(rng.random(300), 2)
    chosen_P = (success_P < 0.3) & (rng.random(300) < 0.5)
    eligible_P = rng.random(300) < 0.9
    chosen_P &= eligible_P
    at_random_P = random_control(chosen_P, eligible_P, seed=0)
    matched_P = matched_control(chosen_P, eligible_P, success_P, seed=0)
    for control_P in (at_random_P, matched_P):
        assert control_P.sum() == chosen_P.sum() and not (control_P & ~eligible_P).any()
    assert not (matched_P & chosen_P).any()
    assert success_P[matched_P].mean() == pytest.approx(success_P[chosen_P].mean(), abs=0.03)
    assert abs(success_P[at_random_P].mean() - 0.5) < 0.1
    others = [matched_control(chosen_P, eligible_P, success_P, seed=s) for s in (0, 1)]
    assert (others[0] == matched_P).all() and (others[1] != matched_P).any()


def test_matched_control_takes_the_nearest_that_are_left():
    success_P = np.array([0.0, 0.0, 0.1, 0.2, 0.9])
    chosen_P = np.array([True, True, False, False, False])
    matched_P = matched_control(chosen_P, np.ones(5, dtype=bool), success_P, seed=0)
    assert np.flatnonzero(matched_P).tolist() == [2, 3]
    all_but_one_P = np.array([True, True, True, True, False])
    few_P = matched_control(all_but_one_P, np.ones(5, dtype=bool), success_P, seed=0)
    assert np.flatnonzero(few_P).tolist() == [4]
