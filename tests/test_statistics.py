"""Intervals: against closed forms, for their coverage, and that they repeat exactly."""

import numpy as np
import pytest
from scipy import stats

from passk.statistics import (
    MAX_DRAWS,
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    jackknife_interval,
    jackknife_root,
    paired_difference,
    seed_interval,
)


def test_bootstrap_is_close_to_the_normal_interval_of_a_mean() -> None:
    values_P = np.random.default_rng(1).random(500)
    ours = bootstrap_interval(values_P, num_resamples=4000)
    half_width = 1.96 * values_P.std() / np.sqrt(500)
    assert ours.value == pytest.approx(values_P.mean())
    assert ours.low == pytest.approx(values_P.mean() - half_width, abs=0.1 * half_width)
    assert ours.high == pytest.approx(values_P.mean() + half_width, abs=0.1 * half_width)


def test_bootstrap_matches_resampling_one_at_a_time() -> None:
    values_P = np.random.default_rng(2).random(30)
    rng = np.random.default_rng(7)
    mean_R = [values_P[rng.integers(30, size=30)].mean() for _ in range(200)]
    ours = bootstrap_interval(values_P, num_resamples=200, level=0.9, seed=7)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(mean_R, [0.05, 0.95])))


def test_columns_share_the_resamples_of_a_single_column() -> None:
    values_PK = np.random.default_rng(3).random((40, 3))
    columns = bootstrap_intervals(values_PK, seed=5)
    for j, ours in enumerate(columns):
        alone = bootstrap_interval(values_PK[:, j], seed=5)
        assert (ours.value, ours.low, ours.high) == pytest.approx(
            (alone.value, alone.low, alone.high)
        )
    doubled = bootstrap_intervals(np.c_[values_PK[:, 0], 2 * values_PK[:, 0] + 1])
    assert doubled[1].low == pytest.approx(2 * doubled[0].low + 1)


def test_the_seed_alone_decides() -> None:
    values_P = np.random.default_rng(4).random(50)
    assert bootstrap_interval(values_P, seed=1) == bootstrap_interval(values_P, seed=1)
    assert bootstrap_interval(values_P, seed=1) != bootstrap_interval(values_P, seed=2)


def test_more_problems_than_fit_a_chunk() -> None:
    values_P = np.arange(MAX_DRAWS // 3, dtype=float) / MAX_DRAWS
    ours = bootstrap_interval(values_P, num_resamples=8)
    assert ours.low < ours.value < ours.high


def test_constant_values_have_no_width() -> None:
    assert bootstrap_interval([0.25] * 8) == Interval(0.25, 0.25, 0.25)


def test_pairing_removes_what_problems_have_in_common() -> None:
    rng = np.random.default_rng(5)
    before_P = rng.random(200)
    after_P = before_P + 0.05 + 0.01 * rng.standard_normal(200)
    ours = paired_difference(before_P, after_P)
    assert 0.04 < ours.low < ours.value < ours.high < 0.06
    assert ours.value == pytest.approx(after_P.mean() - before_P.mean())
    assert ours == bootstrap_interval(after_P - before_P)


def test_seed_interval_is_student_t() -> None:
    values_S = [0.51, 0.47, 0.55]
    low, high = stats.t.interval(0.9, 2, loc=np.mean(values_S), scale=stats.sem(values_S))
    ours = seed_interval(values_S, level=0.9)
    assert (ours.value, ours.low, ours.high) == pytest.approx((np.mean(values_S), low, high))


def test_jackknife_of_a_mean_is_student_t() -> None:
    values = np.random.default_rng(6).random(12)
    without_one = (values.sum() - values) / 11
    ours, expected = jackknife_interval(without_one, values.mean()), seed_interval(values)
    assert (ours.low, ours.high) == pytest.approx((expected.low, expected.high))


def test_jackknife_is_centred_on_the_full_estimate() -> None:
    ours = jackknife_interval([0.1, 0.2, 0.3], 0.25)
    assert ours.value == 0.25
    assert ours.high - 0.25 == pytest.approx(0.25 - ours.low)


def test_coverage_is_what_the_level_says() -> None:
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((1500, 3))
    inside = [i.low < 0 < i.high for i in (seed_interval(row, level=0.9) for row in draws)]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.025)

    success = rng.beta(0.6, 0.6, size=(500, 60))
    intervals = [bootstrap_interval(row, num_resamples=300, level=0.9) for row in success]
    inside = [i.low < 0.5 < i.high for i in intervals]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.04)


def left_out(values_P2: np.ndarray) -> np.ndarray:
    """The two means without each of the values."""
    others = len(values_P2) - 1
    return (values_P2.sum(axis=0) - values_P2) / others


def root_of(at_0_P: np.ndarray, at_1_P: np.ndarray) -> Interval:
    both_P2 = np.stack([at_0_P, at_1_P], axis=1)
    return jackknife_root(left_out(both_P2), (float(at_0_P.mean()), float(at_1_P.mean())))


def test_a_root_lies_where_the_interval_of_the_mean_holds_zero() -> None:
    """Fieller: at each end inside [0, 1] Student's interval of the mixture's mean ends at 0."""
    rng = np.random.default_rng(8)
    at_0_P, at_1_P = rng.normal(-1.0, 2.0, 60), rng.normal(1.5, 2.0, 60)
    found = root_of(at_0_P, at_1_P)
    assert 0 < found.low < found.value < found.high < 1
    assert found.value == pytest.approx(-at_0_P.mean() / (at_1_P.mean() - at_0_P.mean()))
    for w, end in ((found.low, "high"), (found.high, "low")):
        mixed = seed_interval((1 - w) * at_0_P + w * at_1_P)
        assert getattr(mixed, end) == pytest.approx(0, abs=1e-12)


def test_a_root_outside_is_the_nearest_end() -> None:
    noise_P = np.array([-0.1, 0.1, -0.2, 0.2])
    assert root_of(1 + noise_P, 2 - noise_P) == Interval(0, 0, 0)
    assert root_of(-1 + noise_P, -2 - noise_P) == Interval(1, 1, 1)
    unknown = root_of(noise_P - 0.01, noise_P + 0.01)
    assert (unknown.low, unknown.high) == (0, 1) and unknown.value == pytest.approx(0.5)
    alone = jackknife_root([[0.0, 0.0]], (-1.0, 3.0))
    assert alone.value == pytest.approx(0.25) and np.isnan([alone.low, alone.high]).all()


@pytest.mark.parametrize("means", [(-1.0, 2.0), (-0.1, 0.1), (0.0, 1.0), (-3.0, 0.2)])
def test_intervals_of_a_root_cover_it_whatever_the_means(means: tuple[float, float]) -> None:
    rng, (at_0, at_1) = np.random.default_rng(9), means
    mix = np.array([[2.0, 0.0], [1.0, 1.5]])  # the two are correlated
    held = []
    for _ in range(400):
        found = root_of(*(rng.standard_normal((40, 2)) @ mix.T + means).T)
        held.append(found.low <= -at_0 / (at_1 - at_0) <= found.high)
    # 0.95 with a standard error of 0.011, and more where the root lies at an end of [0, 1].
    assert 0.92 <= np.mean(held) <= (1 if at_0 == 0 else 0.98)


def test_one_observation_has_no_interval() -> None:
    for ours in (
        bootstrap_interval([0.5]),
        paired_difference([0.25], [0.75]),
        seed_interval([0.5]),
        jackknife_interval([0.4], 0.5),
    ):
        assert ours.value == 0.5
        assert np.isnan(ours.low) and np.isnan(ours.high)


def test_bad_values_are_refused() -> None:
    for values in ([], [0.5, np.nan], [[0.5]]):
        with pytest.raises(ValueError, match="values must be finite"):
            bootstrap_interval(values)
    with pytest.raises(ValueError, match="3 and 2 problems"):
        paired_difference([0.0, 1.0, 1.0], [0.0, 1.0])
    for interval in (bootstrap_interval, seed_interval):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            interval([0.0, 1.0], level=95)
