"""Intervals: bootstrap over problems, Student's t over seeds and slopes, jackknife over blocks.

Resampling is by problem, never by sample, since another run would draw other problems.
The same seed and number of problems give the same resamples, so intervals repeat exactly.
An interval from a single observation has NaN ends.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

FloatArray = NDArray[np.float64]
MAX_DRAWS = 1 << 21  # problems x resamples held at once


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and the ends of its interval, in the value's unit; NaN ends if there is none."""

    value: float
    low: float
    high: float

    def columns(self, name: str) -> dict[str, float]:
        """Return the values of the columns NAME, NAME_low and NAME_high of a table."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


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
