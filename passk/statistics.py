"""Intervals and bands: over problems, Student's t over seeds and slopes, jackknife over blocks.

Resampling is by problem, never by sample, since another run would draw other problems.
The same seed and number of problems give the same resamples, so intervals repeat exactly.
An interval from a single observation has NaN ends.

Means of rates, which lie in [0, 1], have intervals of their own (`rate_intervals`): near 0 and 1
the bootstrap sees too few of the problems that make the difference. Bands hold for all columns at
once, such as Pass@k at every k.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

FloatArray = NDArray[np.float64]
MAX_DRAWS = 1 << 21  # problems x resamples held at once
_ROUNDING = 1e-12  # standard errors up to this are those of a constant column


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the ends of its interval, in the value's unit; NaN ends if there is none."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Return the values of the columns NAME, NAME_low and NAME_high of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


@dataclass(frozen=True, slots=True, eq=False)
class Band:
    """Values and ends that hold for all K columns at once, [K] each; NaN ends if there are none."""

    value_K: FloatArray
    low_K: FloatArray
    high_K: FloatArray


def rate_interval(
    rates_P: ArrayLike, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the interval of the mean of one rate in [0, 1] per problem; see `rate_intervals`."""
    rates_P1 = _finite(rates_P, ndim=1)[:, None]
    return rate_intervals(rates_P1, num_resamples=num_resamples, level=level, seed=seed)[0]


def rate_intervals(
    rates_PK: ArrayLike, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> list[Interval]:
    """Compute an interval of the mean of each of K columns of rates in [0, 1], one per problem.

    Means are taken under random weights, uniform over all weights that sum to 1, of the P rates and
    a further one: 0 for the lower end, which is a quantile of these means, and 1 for the upper. The
    interval covers for any distribution on [0, 1], also where nearly all rates are equal. Of rates
    that are 0 or 1 it is that of Clopper and Pearson; if all are 1, its lower end at level 0.95 is
    0.025^(1/P). Its ends are about 1/P farther out than those of a bootstrap.

    Source: Gaffke 2005; Learned-Miller and Thomas 2019 (arXiv 1905.06208). That it covers is
    proved for rates of 0 or 1, and a conjecture without known exception beyond.

    Raises:
        ValueError: as `bootstrap_interval`, or a rate outside [0, 1].
    """
    rates_PK, tails = _rates(rates_PK), _tails(level)
    value_K = rates_PK.mean(axis=0)
    if len(rates_PK) < 2:
        return [Interval(float(value), np.nan, np.nan) for value in value_K]
    lower_RK, upper_RK = _rate_draws(rates_PK, num_resamples, seed)
    low_K, high_K = np.quantile(lower_RK, tails[0], axis=0), np.quantile(upper_RK, tails[1], axis=0)
    return [
        Interval(float(value), float(low), float(high))
        for value, low, high in zip(value_K, low_K, high_K, strict=True)
    ]


def rate_band(
    rates_PK: ArrayLike, *, num_resamples: int = 4000, level: float = 0.95, seed: int = 0
) -> Band:
    """Widen the intervals of `rate_intervals` until they hold for all K columns at once.

    Of every column the same number of extreme draws is cut off on either side: as many as leave a
    share `level` of the draws inside the band in all columns.

    Raises:
        ValueError: as `rate_intervals`.
    """
    rates_PK, (outside, _) = _rates(rates_PK), _tails(level)
    value_K = rates_PK.mean(axis=0)
    if len(rates_PK) < 2:
        return Band(value_K, np.full_like(value_K, np.nan), np.full_like(value_K, np.nan))
    lower_RK, upper_RK = _rate_draws(rates_PK, num_resamples, seed)
    rank_R = np.minimum(_ranks(lower_RK).min(axis=1), _ranks(-upper_RK).min(axis=1))
    num_cut = int(np.quantile(rank_R, 2 * outside, method="lower"))
    low_K, high_K = (
        np.partition(draws_RK, place, axis=0)[place]
        for draws_RK, place in ((lower_RK, num_cut), (upper_RK, num_resamples - 1 - num_cut))
    )
    return Band(value_K, low_K, high_K)


def simultaneous_band(
    values_PK: ArrayLike,
    *,
    cluster_P: ArrayLike | None = None,
    num_resamples: int = 4000,
    level: float = 0.95,
    seed: int = 0,
) -> Band:
    """Compute a band around the means of K columns, such as differences of Pass@k at every k.

    The half-width in each column is its standard error times one critical value: the quantile of
    the largest absolute error, in standard errors, over columns, when each problem's deviation from
    the mean is multiplied by a standard normal number (Gaussian multiplier bootstrap). Deviations
    of problems with the same label in `cluster_P` are added up first, as such problems are not
    independent. Columns without variation have no ends; how far others can be trusted, see
    `effective_problems`.

    Source: Chernozhukov, Chetverikov and Kato 2013 (arXiv 1212.6906).

    Raises:
        ValueError: as `bootstrap_interval`, or labels of another number of problems.
    """
    values_PK, tail = _finite(values_PK, ndim=2), 2 * _tails(level)[0]
    value_K = values_PK.mean(axis=0)
    deviations_CK = _deviations(values_PK, cluster_P)
    num_units = len(deviations_CK)
    half_K = np.full_like(value_K, np.nan)
    error_K = np.sqrt((deviations_CK**2).sum(axis=0) * num_units / max(num_units - 1, 1))
    varies_K = error_K > _ROUNDING
    if num_units > 1 and varies_K.any():
        scaled_CK = deviations_CK[:, varies_K] / error_K[varies_K]
        rng, chunk = np.random.default_rng(seed), max(1, MAX_DRAWS // num_units)
        largest_R = np.empty(num_resamples)
        for start in range(0, num_resamples, chunk):
            rows = min(chunk, num_resamples - start)
            errors_RK = rng.standard_normal((rows, num_units)) @ scaled_CK
            largest_R[start : start + rows] = np.abs(errors_RK).max(axis=1)
        half_K[varies_K] = np.quantile(largest_R, 1 - tail) * error_K[varies_K]
    return Band(value_K, value_K - half_K, value_K + half_K)


def effective_problems(values_PK: ArrayLike, cluster_P: ArrayLike | None = None) -> FloatArray:
    """Count the problems (or clusters) that carry the variation of each of K columns, [K].

    (sum u^2)^2 / sum u^4 of the deviations u from the mean: P if all are equally large, about P/3
    if they are normal, 1 if one problem alone differs. Where it is small, an interval from these
    problems is too narrow: others would have been as different. 0 for columns without variation.
    """
    squares_CK = _deviations(_finite(values_PK, ndim=2), cluster_P) ** 2
    fourth_K = (squares_CK**2).sum(axis=0)
    squared_sum_K = squares_CK.sum(axis=0) ** 2
    effective_K: FloatArray = np.zeros_like(squared_sum_K)
    varies_K = squared_sum_K > _ROUNDING**4
    effective_K[varies_K] = squared_sum_K[varies_K] / fourth_K[varies_K]
    return effective_K


def bootstrap_interval(
    values_P: ArrayLike, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the percentile bootstrap of the mean of one value per problem.

    Source: Efron and Tibshirani 1993, chapter 13.

    Raises:
        ValueError: no values, a value that is not finite, a level outside (0, 1).
    """
    values_P1 = _finite(values_P, ndim=1)[:, None]
    return bootstrap_intervals(values_P1, num_resamples=num_resamples, level=level, seed=seed)[0]


def bootstrap_intervals(
    values_PK: ArrayLike, *, num_resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> list[Interval]:
    """Compute `bootstrap_interval` of each of K columns from the same resamples of P problems."""
    values_PK = _finite(values_PK, ndim=2)
    tails = _tails(level)
    num_problems = len(values_PK)
    value_K = values_PK.mean(axis=0)
    if num_problems < 2:
        return [Interval(float(value), np.nan, np.nan) for value in value_K]
    mean_RK = bootstrap_means(values_PK, num_resamples=num_resamples, seed=seed)
    low_K, high_K = np.quantile(mean_RK, tails, axis=0)
    return [
        Interval(float(value), float(low), float(high))
        for value, low, high in zip(value_K, low_K, high_K, strict=True)
    ]


def bootstrap_means(
    values_PK: ArrayLike, *, num_resamples: int = 2000, seed: int = 0
) -> FloatArray:
    """Compute the mean of each of K columns over each resample of the P problems, [R, K].

    Raises:
        ValueError: no values, or a value that is not finite.
    """
    values_PK = _finite(values_PK, ndim=2)
    means = [
        counts_RP @ values_PK / len(values_PK)
        for counts_RP in resample_counts(len(values_PK), num_resamples, seed)
    ]
    return np.concatenate(means)


def paired_difference(
    before_P: ArrayLike,
    after_P: ArrayLike,
    *,
    num_resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Bootstrap the mean of after - before over the same P problems, in the same order, in pairs.

    Raises:
        ValueError: different numbers of problems, or as `bootstrap_interval`.
    """
    before_P, after_P = _finite(before_P, ndim=1), _finite(after_P, ndim=1)
    if len(before_P) != len(after_P):
        raise ValueError(f"a paired difference of {len(before_P)} and {len(after_P)} problems.")
    return bootstrap_interval(
        after_P - before_P, num_resamples=num_resamples, level=level, seed=seed
    )


def seed_interval(values_S: ArrayLike, level: float = 0.95) -> Interval:
    """Compute the mean over seeds with a Student-t interval.

    The interval is mean +- t std/sqrt(S), with S - 1 degrees of freedom.

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    values_S = _finite(values_S, ndim=1)
    num_seeds, value = len(values_S), float(values_S.mean())
    if num_seeds < 2:
        return _around(value, np.nan)
    error = float(values_S.std(ddof=1)) / np.sqrt(num_seeds)
    return _around(value, _t_quantile(num_seeds - 1, level) * error)


def slope_interval(values_S: ArrayLike, level: float = 0.95) -> Interval:
    """Fit a least-squares line to S >= 3 values; return its slope with a Student-t interval.

    The slope is per step. The interval has S - 2 degrees of freedom and assumes that values
    scatter about the line independently and equally.

    Raises:
        ValueError: as `bootstrap_interval`, or fewer than 3 values.
    """
    values_S = _finite(values_S, ndim=1)
    if (num_steps := len(values_S)) < 3:
        raise ValueError(f"a slope with an interval needs 3 values, got {num_steps}.")
    from_middle_S = np.arange(num_steps) - (num_steps - 1) / 2
    spread = float((from_middle_S**2).sum())
    slope = float(from_middle_S @ values_S) / spread
    residuals_S = values_S - values_S.mean() - slope * from_middle_S
    error = float(np.sqrt((residuals_S**2).sum() / (num_steps - 2) / spread))
    return _around(slope, _t_quantile(num_steps - 2, level) * error)


def jackknife_interval(
    leave_one_out_values: ArrayLike, full_value: float, level: float = 0.95
) -> Interval:
    """Compute the delete-a-block jackknife interval of `full_value`, with a Student-t quantile.

    `full_value` is the estimate from all the data. `leave_one_out_values` holds the estimate
    without each of g blocks of equal size; the variance
    is (g-1)/g times their sum of squares about their mean, with g - 1 degrees of freedom.
    Source: Efron and Tibshirani 1993, chapter 11.

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    values = _finite(leave_one_out_values, ndim=1)
    num_blocks = len(values)
    if num_blocks < 2:
        return _around(float(full_value), np.nan)
    error = np.sqrt((num_blocks - 1) * values.var())
    return _around(float(full_value), _t_quantile(num_blocks - 1, level) * float(error))


def jackknife_root(
    leave_one_out_M2: ArrayLike, full_2: tuple[float, float], level: float = 0.95
) -> Interval:
    """Estimate where on [0, 1] the line from one mean (w = 0) to another (w = 1) comes up to 0.

    `full_2` are the estimates of the two from all data, and `leave_one_out_M2` those without each
    of M blocks of equal size. The value is the smallest w at which (1 - w) first + w second is not
    below 0: 0 if it nowhere is, 1 if it is up to the end. The interval holds each w at which the
    jackknife interval of that sum holds 0, so it reaches to 1 where the second is not clearly above
    0, and needs no moments of their ratio. NaN ends without two blocks.
    Source: Fieller 1954, with the jackknife's covariance; the limits to [0, 1] are ours.

    Raises:
        ValueError: as `bootstrap_interval`.
    """
    left_out_M2, ends_2 = _finite(leave_one_out_M2, ndim=2), np.asarray(full_2, np.float64)
    num_blocks = len(left_out_M2)
    deviations_M2 = left_out_M2 - left_out_M2.mean(axis=0)
    covariance_22 = (num_blocks - 1) / num_blocks * deviations_M2.T @ deviations_M2

    def line(w: float, errors: float) -> float:
        """Return the sum at w, moved up by so many of its standard errors."""
        mix_2 = np.array([1 - w, w])
        return float(mix_2 @ ends_2 + errors * np.sqrt(max(mix_2 @ covariance_22 @ mix_2, 0.0)))

    value = _first_zero(partial(line, errors=0.0))
    if num_blocks < 2:
        return _around(value, np.nan)
    quantile = _t_quantile(num_blocks - 1, level)
    # The error is a convex function of w, so either line has at most one zero where it turns.
    low, high = (_first_zero(partial(line, errors=errors)) for errors in (quantile, -quantile))
    return Interval(value, low, high)


def resample_counts(num_problems: int, num_resamples: int, seed: int) -> Iterator[FloatArray]:
    """Count how often each resample holds each problem: [R, P], in chunks of at most MAX_DRAWS.

    Counts that fit one chunk are cached, since a report asks for the same ones repeatedly.
    """
    whole = num_resamples * num_problems <= MAX_DRAWS
    draw = _kept_counts if whole else _draw_counts
    yield from draw(num_problems, num_resamples, seed)


def _draw_counts(num_problems: int, num_resamples: int, seed: int) -> Iterator[FloatArray]:
    rng = np.random.default_rng(seed)
    chunk = max(1, MAX_DRAWS // num_problems)
    for start in range(0, num_resamples, chunk):
        rows = min(chunk, num_resamples - start)
        cells_RP = rng.integers(num_problems, size=(rows, num_problems))
        cells_RP += num_problems * np.arange(rows)[:, None]
        counts = np.bincount(cells_RP.ravel(), minlength=rows * num_problems)
        yield counts.reshape(rows, num_problems).astype(np.float64)


@lru_cache(maxsize=2)
def _kept_counts(num_problems: int, num_resamples: int, seed: int) -> tuple[FloatArray, ...]:
    chunks = tuple(_draw_counts(num_problems, num_resamples, seed))
    for counts_RP in chunks:
        counts_RP.flags.writeable = False
    return chunks


def _deviations(values_PK: FloatArray, cluster_P: ArrayLike | None) -> FloatArray:
    """Divide deviations from the mean by P, and add up those of each cluster: [C, K]."""
    deviations_PK: FloatArray = (values_PK - values_PK.mean(axis=0)) / len(values_PK)
    if cluster_P is None:
        return deviations_PK
    labels, place_P = np.unique(np.asarray(cluster_P), return_inverse=True)
    if place_P.shape != (len(values_PK),):
        raise ValueError(f"clusters of {place_P.size} problems for {len(values_PK)}.")
    sums_CK = np.zeros((len(labels), values_PK.shape[1]))
    np.add.at(sums_CK, place_P, deviations_PK)
    return sums_CK


def _rate_draws(
    rates_PK: FloatArray, num_resamples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Draw means of P rates and a 0, and of P rates and a 1, under random weights: [R, K] each."""
    num_problems = len(rates_PK)
    whole = num_resamples * (num_problems + 1) <= MAX_DRAWS
    draw = _kept_weights if whole else _draw_weights
    lower, upper = [], []
    for weights_RP, further_R1 in draw(num_problems, num_resamples, seed):
        mean_RK = np.clip(weights_RP @ rates_PK, 0, 1)  # rounding may leave the range
        lower.append(mean_RK)
        upper.append(np.clip(mean_RK + further_R1, 0, 1))
    return np.concatenate(lower), np.concatenate(upper)


def _draw_weights(
    num_problems: int, num_resamples: int, seed: int
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Draw weights that are uniform on the simplex, of the problems, [R, P], and a further one."""
    rng = np.random.default_rng(seed)
    chunk = max(1, MAX_DRAWS // (num_problems + 1))
    for start in range(0, num_resamples, chunk):
        rows = min(chunk, num_resamples - start)
        weights_R = rng.standard_exponential((rows, num_problems + 1))
        weights_R /= weights_R.sum(axis=1, keepdims=True)
        yield weights_R[:, :-1], weights_R[:, -1:]


@lru_cache(maxsize=2)
def _kept_weights(
    num_problems: int, num_resamples: int, seed: int
) -> tuple[tuple[FloatArray, FloatArray], ...]:
    chunks = tuple(_draw_weights(num_problems, num_resamples, seed))
    for weights_RP, further_R1 in chunks:
        weights_RP.flags.writeable = further_R1.flags.writeable = False
    return chunks


def _ranks(draws_RK: FloatArray) -> NDArray[np.int64]:
    """Rank the draws of each column from 0, the smallest."""
    order_RK = draws_RK.argsort(axis=0, kind="stable")
    ranks_RK = np.empty_like(order_RK)
    np.put_along_axis(ranks_RK, order_RK, np.arange(len(draws_RK))[:, None], axis=0)
    return ranks_RK


def _rates(rates_PK: ArrayLike) -> FloatArray:
    rates_PK = _finite(rates_PK, ndim=2)
    if rates_PK.min() < 0 or rates_PK.max() > 1:
        raise ValueError(f"rates lie in [0, 1], got {rates_PK.min():g} to {rates_PK.max():g}.")
    return rates_PK


def _first_zero(line: Callable[[float], float]) -> float:
    """Return where a line comes up to 0 on [0, 1]: 0 if it begins there, 1 if it ends below."""
    if line(0.0) >= 0:
        return 0.0
    if line(1.0) <= 0:
        return 1.0
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if line(middle) < 0 else (low, middle)
    return high


def _around(value: float, half_width: float) -> Interval:
    return Interval(value, value - half_width, value + half_width)


def _t_quantile(degrees: int, level: float) -> float:
    # scipy.special alone: scipy.stats costs most of a second to import
    return float(stdtrit(degrees, _tails(level)[1]))


def _tails(level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, both excluded, got {level}.")
    return (1 - level) / 2, (1 + level) / 2


def _finite(values: ArrayLike, ndim: int) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != ndim or len(array) == 0 or not np.isfinite(array).all():
        raise ValueError(
            f"values must be finite, at least one, in {ndim} dimension(s), got shape {array.shape}."
        )
    return array
