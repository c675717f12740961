"""Intervals: against closed forms, for their coverage, and that they repeat exactly."""

import numpy as np
import pytest
from populations import NEARLY_SOLVED, UNEVEN, Population, draw_rates, true_pass_at_k
from scipy import stats

from passk.statistics import (
    MAX_DRAWS,
    Interval,
    bootstrap_interval,
    bootstrap_intervals,
    effective_problems,
    jackknife_interval,
    jackknife_root,
    paired_difference,
    rate_band,
    rate_interval,
    rate_intervals,
    seed_interval,
    simultaneous_band,
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


@pytest.mark.parametrize(("right", "of"), [(0, 20), (1, 20), (7, 30), (20, 20)])
def test_intervals_of_verdicts_are_those_of_clopper_and_pearson(right: int, of: int) -> None:
    """Exact, but for the draws: 40,000 of them place a quantile within 0.3 % of its level."""
    ours = rate_interval([1.0] * right + [0.0] * (of - right), num_resamples=40_000)
    exact = stats.binomtest(right, of).proportion_ci(0.95, method="exact")
    assert (ours.low, ours.high) == pytest.approx((exact.low, exact.high), abs=0.004)
    assert ours.value == right / of


def test_all_solved_has_the_interval_of_the_rule_of_three() -> None:
    ours = rate_interval([1.0] * 200, num_resamples=20_000)
    assert ours.high == 1.0
    assert 1 - ours.low == pytest.approx(1 - 0.025 ** (1 / 200), rel=0.03)
    assert rate_interval([0.0] * 200, num_resamples=20_000).high == pytest.approx(1 - ours.low)


@pytest.mark.parametrize("num_problems", [50, 500])
@pytest.mark.parametrize("shares", [NEARLY_SOLVED, UNEVEN])
def test_intervals_of_rates_cover_also_near_1(shares: Population, num_problems: int) -> None:
    """At 95 % or more; 300 experiments miss 92 % by chance once in a hundred times.

    The percentile bootstrap covers Pass@16 = 99.5 % of 50 problems in 3 experiments of 10.
    """
    rng, places = np.random.default_rng(1), [k - 1 for k in (1, 4, 16)]
    truth_K = true_pass_at_k(shares)[places]
    inside, by_bootstrap = [], []
    for _ in range(300):
        rates_PK = draw_rates(shares, num_problems, rng)[:, places]
        for kept, intervals in (
            (inside, rate_intervals(rates_PK, num_resamples=400)),
            (by_bootstrap, bootstrap_intervals(rates_PK, num_resamples=400)),
        ):
            kept.append([i.low <= t <= i.high for i, t in zip(intervals, truth_K, strict=True)])
    assert np.mean(inside, axis=0).min() > 0.92
    if shares is NEARLY_SOLVED and num_problems == 50:
        assert np.mean(by_bootstrap, axis=0)[2] < 0.5


def test_the_interval_of_rates_is_a_bootstrap_with_one_problem_more() -> None:
    rates_P = np.random.default_rng(2).beta(2, 2, size=1000)
    ours = rate_interval(rates_P, num_resamples=8000)
    plain = bootstrap_interval(rates_P, num_resamples=8000)
    further = 0.5 / 1001  # its mean weight times its distance from the mean
    assert ours.low == pytest.approx(plain.low - further, abs=4e-4)  # 2 % of a quantile's place
    assert ours.high == pytest.approx(plain.high + further, abs=4e-4)
    mirrored = rate_interval(1 - rates_P, num_resamples=8000)
    assert 1 - mirrored.low == pytest.approx(ours.high)


@pytest.mark.parametrize("shares", [NEARLY_SOLVED, UNEVEN])
def test_bands_of_rates_cover_the_whole_curve(shares: Population) -> None:
    rng, truth_K = np.random.default_rng(3), true_pass_at_k(shares)
    inside = []
    for _ in range(100):
        band = rate_band(draw_rates(shares, 200, rng), num_resamples=400)
        inside.append(((band.low_K <= truth_K) & (truth_K <= band.high_K)).all())
    assert np.mean(inside) > 0.9


def test_a_band_of_one_column_is_its_interval() -> None:
    rates_P1 = np.random.default_rng(4).random((80, 1))
    band, interval = rate_band(rates_P1), rate_interval(rates_P1[:, 0], num_resamples=4000)
    assert band.value_K[0] == interval.value
    assert band.low_K[0] == pytest.approx(interval.low, abs=2e-3)
    assert band.high_K[0] == pytest.approx(interval.high, abs=2e-3)


def test_a_band_is_as_wide_as_errors_in_all_columns_ask() -> None:
    """One column, or equal ones: 1.96 errors. K independent ones: Sidak's critical value."""
    values_PK = np.random.default_rng(5).standard_normal((20_000, 12))
    error_K = values_PK.std(axis=0, ddof=1) / np.sqrt(len(values_PK))
    for columns, tails in ((np.zeros(6, int), 0.975), (np.arange(12), (1 + 0.95 ** (1 / 12)) / 2)):
        band = simultaneous_band(values_PK[:, columns], num_resamples=2000)
        ratio_K = (band.high_K - band.value_K) / error_K[columns]
        assert ratio_K == pytest.approx(stats.norm.ppf(tails), rel=0.03)
        assert band.value_K - band.low_K == pytest.approx(band.high_K - band.value_K)


def test_clusters_are_resampled_together() -> None:
    """A problem four times, as a cluster, is one problem; by itself it would count as four."""
    values_PK = np.random.default_rng(6).standard_normal((60, 3))
    four_PK, cluster_P = values_PK.repeat(4, axis=0), np.arange(60).repeat(4)
    once, clustered = simultaneous_band(values_PK), simultaneous_band(four_PK, cluster_P=cluster_P)
    for ends in ("value_K", "low_K", "high_K"):
        assert getattr(clustered, ends) == pytest.approx(getattr(once, ends))
    alone = simultaneous_band(four_PK)
    assert alone.high_K - alone.value_K == pytest.approx((once.high_K - once.value_K) / 2, rel=0.05)
    names_P = np.array([f"c{i}" for i in cluster_P])
    shuffled_P = np.random.default_rng(0).permutation(240)
    again = simultaneous_band(four_PK[shuffled_P], cluster_P=names_P[shuffled_P])
    assert again.high_K == pytest.approx(once.high_K, rel=0.05)
    assert effective_problems(four_PK, cluster_P) == pytest.approx(effective_problems(values_PK))
    assert effective_problems(four_PK) == pytest.approx(4 * effective_problems(values_PK))


def test_effective_problems_count_those_that_differ() -> None:
    values_PK = np.zeros((1000, 4))
    values_PK[:500, 0] = 1  # deviations of 0.5 each
    values_PK[:5, 1], values_PK[0, 2] = 1, 1
    values_PK[:, 3] = 0.1  # the mean differs from it by rounding
    assert effective_problems(values_PK) == pytest.approx([1000, 5, 1, 0], rel=0.02)
    band = simultaneous_band(values_PK)
    assert np.isnan(band.low_K).tolist() == [False, False, False, True]
    assert band.value_K == pytest.approx([0.5, 0.005, 0.001, 0.1])


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
        rate_interval([0.5]),
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
            rate_interval(values)
    for values in ([0.5, 1.1], [-0.1, 0.5]):
        with pytest.raises(ValueError, match=r"rates lie in \[0, 1\]"):
            rate_interval(values)
    with pytest.raises(ValueError, match="clusters of 2 problems for 3"):
        simultaneous_band([[0.0], [1.0], [1.0]], cluster_P=[0, 1])
    for band in (rate_band([[0.5]]), simultaneous_band([[0.5]])):
        assert band.value_K == 0.5 and np.isnan(band.low_K) and np.isnan(band.high_K)
    with pytest.raises(ValueError, match="3 and 2 problems"):
        paired_difference([0.0, 1.0, 1.0], [0.0, 1.0])
    for interval in (bootstrap_interval, rate_interval, seed_interval):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            interval([0.0, 1.0], level=95)
