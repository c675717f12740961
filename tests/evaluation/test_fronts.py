"""Fronts over temperatures: hulls, areas, and mixtures of two policies, against brute force."""

from itertools import product

import numpy as np
import pandas as pd
import pytest

from passk.evaluation.fronts import (
    Front,
    area,
    best_passk,
    coin_pass_at_k,
    front_change,
    front_of,
    hull,
    mixtures,
    one_and_rest_pass_at_k,
)


def points(rng, count):
    return rng.random(count).round(2), rng.random(count).round(2)


@pytest.mark.parametrize("seed", range(20))
def test_the_hull_is_what_coins_between_two_temperatures_reach(seed):
    rng = np.random.default_rng(seed)
    x_T, y_T = points(rng, rng.integers(1, 7))
    corners = hull(x_T, y_T)
    assert (np.diff(corners[:, 0]) > 0).all() and (np.diff(corners[:, 1]) < 0).all()
    chance = np.linspace(0, 1, 401)
    for target in np.linspace(0, x_T.max(), 30):
        reached = [
            (chance * y_T[i] + (1 - chance) * y_T[j])[
                chance * x_T[i] + (1 - chance) * x_T[j] >= target - 1e-12
            ]
            for i, j in product(range(len(x_T)), repeat=2)
        ]
        best = max(values.max() for values in reached if len(values))
        assert best_passk(corners, target) == pytest.approx(best, abs=5e-3)
        assert best_passk(corners, target) >= best - 1e-9
    assert np.isnan(best_passk(corners, x_T.max() + 0.01))


@pytest.mark.parametrize("low", [0.0, 0.3, 0.95])
def test_the_area_is_the_integral_of_the_best_pass_at_k(low):
    rng = np.random.default_rng(1)
    for _ in range(20):
        corners = hull(*points(rng, 5))
        grid = low + (1 - low) * (np.arange(20000) + 0.5) / 20000
        heights = [best_passk(corners, x) for x in grid]
        assert area(corners, low) == pytest.approx(
            (1 - low) * np.nanmean(np.nan_to_num(heights)), abs=1e-3
        )
    assert area(np.array([[0.5, 0.8]])) == pytest.approx(0.4)


def counts(rows, temperature=1.0):
    frame = pd.DataFrame(rows, columns=["problem_id", "n", "c", "n_first", "c_first"])
    return frame.assign(temperature=temperature)


def test_a_front_holds_the_problems_with_enough_samples_everywhere():
    hot = counts([("a", 8, 2, 4, 1), ("b", 8, 8, 4, 4), ("c", 3, 1, 2, 1)])
    cool = counts([("b", 8, 0, 4, 0), ("a", 8, 4, 4, 2), ("c", 8, 1, 4, 1)], 0.5)
    greedy = counts([("a", 1, 1, 1, 1), ("b", 1, 0, 1, 0), ("c", 1, 1, 1, 1)], 0.0)
    front = front_of(pd.concat([hot, cool, greedy]), 4, main=0.5)
    assert front.temperatures == (0.0, 0.5, 1.0) and front.is_main_T.tolist() == [
        False,
        True,
        False,
    ]
    assert front.problem_ids == ("a", "b")
    assert front.pass1_TP.tolist() == [[1, 0], [0.5, 0], [0.25, 1]]
    assert front.passk_TP[0].tolist() == [1, 0]  # one greedy answer, k times
    assert front.passk_TP[1].tolist() == pytest.approx([1 - 1 / 70, 0])
    assert front_of(hot, 9, main=1.0) is None


def sampled_front(rng, p_TP, n, k, main):
    frames = [
        counts([(str(i), n, c, 1, 0) for i, c in enumerate(rng.binomial(n, p_P))], float(t + 1))
        for t, p_P in enumerate(p_TP)
    ]
    return front_of(pd.concat(frames), k, main)


def test_a_front_is_compared_with_itself_and_with_a_better_one():
    rng = np.random.default_rng(0)
    ease_P = rng.normal(0.5, 1, 200)  # the colder, the surer, right or wrong
    p_TP = np.stack([1 / (1 + np.exp(-ease_P * sureness)) for sureness in (3, 1, 0.3)])
    front = sampled_front(rng, p_TP, 32, 8, main=2.0)
    same = front_change(front, front, num_resamples=200)
    assert all(abs(value) < 1e-12 for value in same.columns().values())
    better = Front(
        front.temperatures, front.is_main_T, front.problem_ids,
        np.minimum(front.pass1_TP + 0.1, 1), front.passk_TP,
    )  # fmt: skip
    change = front_change(front, better, num_resamples=200)
    assert change.pass1.low > 0 and change.best_pass1.low > 0 and change.area.low > 0
    assert change.passk.value == 0 == change.best_passk.value
    assert change.equal_passk.value > 0
    reverse = front_change(better, front, num_resamples=200)
    assert np.isnan(reverse.equal_passk.value) or reverse.equal_passk.value < 0
    few = front.of(front.problem_ids[:50])
    assert front_change(few, better, num_resamples=200).pass1.value == pytest.approx(
        (better.of(few.problem_ids).pass1_TP - few.pass1_TP)[1].mean()
    )


def test_the_interval_of_a_change_of_area_covers():
    """100 experiments; the truth is that of the population, 20,000 problems."""
    rng = np.random.default_rng(3)

    def draw(count):
        ease = rng.normal(0, 1.5, count)
        shifts = np.array([[0.8], [0.2], [-0.6]])
        return 1 / (1 + np.exp(-(ease + shifts))), 1 / (1 + np.exp(-(0.6 * ease + shifts)))

    truth = front_change(
        *(
            Front((1.0, 2.0, 3.0), np.array([0, 1, 0], bool), tuple(map(str, range(20000))),
                  p_TP, 1 - (1 - p_TP) ** 4)
            for p_TP in draw(20000)
        ),
        num_resamples=1,
    )  # fmt: skip
    covered = np.zeros(2)
    for _ in range(100):
        fronts = [sampled_front(rng, p_TP, 16, 4, main=2.0) for p_TP in draw(100)]
        change = front_change(*fronts, num_resamples=100)
        for i, name in enumerate(("area", "pass1")):
            interval = getattr(change, name)
            covered[i] += interval.low <= getattr(truth, name).value <= interval.high
    assert ((covered >= 87) & (covered <= 99)).all(), covered  # 95 % +- 3.5 standard errors


def halves_of(answers_PG):
    half = answers_PG.shape[1] // 2
    return counts(
        [(str(i), len(row), row.sum(), half, row[:half].sum()) for i, row in enumerate(answers_PG)]
    )


def test_mixtures_of_two_policies_are_unbiased_though_their_samples_share_random_numbers():
    """Enumerates all draws: n = 4 numbers, and both policies are right if theirs is below p."""
    levels = [0.15, 0.5, 0.85]  # a uniform number on a grid of three equally likely values
    p, q, n, k = 1 / 3, 2 / 3, 4, 2
    draws = np.array(list(product(levels, repeat=n)))
    one, other = (halves_of((draws < bar).astype(int)) for bar in (0.3, 0.7))  # p = 1/3, q = 2/3
    coin = coin_pass_at_k(one, other, k).mean()
    mixed = (p + q) / 2
    assert coin == pytest.approx(1 - (1 - mixed) ** k, abs=1e-12)
    first = one_and_rest_pass_at_k(one, other, 3).mean()
    assert first == pytest.approx(1 - (1 - p) * (1 - q) ** 2, abs=1e-12)
    # With all samples of both the estimate would be biased: equal numbers are right together.
    naive = 1 - ((4 - one["c"]) / 4 * (4 - other["c"]) / 4).mean()
    assert abs(naive - (1 - (1 - p) * (1 - q))) > 0.01


def test_mixtures_hold_every_temperature_and_a_greedy_policy_repeats_itself():
    rng = np.random.default_rng(5)
    hot = [halves_of(rng.binomial(1, p_P[:, None], (30, 16))) for p_P in rng.random((2, 30))]
    greedy = [
        counts([(str(i), 1, i % m == 0, 1, i % m == 0) for i in range(30)], 0.0) for m in (2, 3)
    ]
    one, other = (pd.concat(pair) for pair in zip(hot, greedy, strict=True))
    found = mixtures(one, other, 4, main=1.0)
    assert found.coin.temperatures == (0.0, 1.0) and found.first.is_main_T.tolist() == [False, True]
    p_P, q_P = (np.arange(30) % m == 0 for m in (2, 3))
    assert found.coin.pass1_TP[0].tolist() == ((p_P * 1.0 + q_P) / 2).tolist()
    expected = np.where(p_P & q_P, 1, np.where(p_P | q_P, 1 - 0.5**4, 0))
    assert found.coin.passk_TP[0].tolist() == expected.tolist()
    assert found.first.passk_TP[0].tolist() == (p_P | q_P).tolist()
    assert found.first.pass1_TP[1].tolist() == (hot[0]["c"] / 16).tolist()
    assert mixtures(one, hot[1], 4, main=1.0) is None
    assert mixtures(hot[0], hot[1], 9, main=1.0) is None
