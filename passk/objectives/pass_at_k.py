"""Estimate Pass@k from counts, without bias: n samples of a problem, c of them correct.

Everything here follows from the hypergeometric probability that k of the n samples, drawn without
replacement, are all wrong: C(n-c, k) / C(n, k). Integers may be scalars or arrays that broadcast;
results are float64 of the broadcast shape.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def judged_counts(rewards_PG: FloatArray) -> tuple[IntArray, IntArray]:
    """Count the judged and the right samples of each prompt, [P] each; NaN is not judged."""
    return (~np.isnan(rewards_PG)).sum(axis=1), (rewards_PG == 1).sum(axis=1)


def pass_at_k(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> FloatArray:
    """Estimate Pass@k = 1 - (1-p)^k without bias: rho(n, c, k) = 1 - C(n-c, k) / C(n, k).

    Accurate to a few units in the last place, also for tiny values, for n up to 10^6 and beyond.

    Source: Chen et al. 2021 (arXiv 2107.03374), equation 1.

    Raises:
        ValueError: k < 1, k > n (no unbiased estimator exists), c outside 0..n, not integers.
    """
    _refuse_k_below_1(k)
    return np.asarray(0.0 - np.expm1(_log_all_wrong(n, c, k)), dtype=np.float64)


def all_wrong(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> FloatArray:
    """Compute C(n-c, k) / C(n, k), unbiased for (1-p)^k; accurate where Pass@k is close to 1.

    Exactly 1 for c = 0 or k = 0, and exactly 0 for n - c < k.

    Raises:
        ValueError: k < 0, k > n, c outside 0..n, not integers.
    """
    return np.asarray(np.exp(_log_all_wrong(n, c, k)), dtype=np.float64)


def leave_one_out_failure(n: ArrayLike, c_others: ArrayLike, k: ArrayLike) -> FloatArray:
    """Compute D(c') = C(n-1-c', k-1) / C(n-1, k-1), unbiased for (1-p)^(k-1).

    `c_others` is c', the number of correct samples among the n-1 others, so D is independent of the
    reward that it multiplies. k D(c') estimates the weight k (1-p)^(k-1) of Pass@k.

    Raises:
        ValueError: k < 1, k > n, c' outside 0..n-1, not integers.
    """
    _refuse_k_below_1(k)
    return all_wrong(_whole("n", n) - 1, c_others, _whole("k", k) - 1)


def _log_all_wrong(n: ArrayLike, c: ArrayLike, k: ArrayLike) -> NDArray[np.longdouble]:
    """Compute log C(n-c, k) / C(n, k), -inf where n - c < k.

    A sum of logarithms neither overflows nor cancels, unlike binomials and log-gamma. For each
    pair of n and k, one running sum over j = 0..c-1 of log(1 - k / (n-j)) serves every c. Extended
    precision, if the platform has it, keeps rounding errors from adding up along that sum.
    """
    n, c, k = np.broadcast_arrays(_whole("n", n), _whole("c", c), _whole("k", k))
    _refuse(k < 0, "k must not be negative", n=n, c=c, k=k)
    _refuse((c < 0) | (c > n), "c must be between 0 and n", n=n, c=c, k=k)
    _refuse(k > n, "no unbiased estimator of Pass@k exists for k > n", n=n, c=c, k=k)
    result = np.empty(n.shape, dtype=np.longdouble)
    radix = int(k.max(initial=0)) + 1
    pairs = n * radix + k
    for pair in np.unique(pairs):
        here = pairs == pair
        samples, drawn = divmod(int(pair), radix)
        most = int(c[here].max())
        terms = min(most, samples - drawn)
        j = np.arange(terms, dtype=np.longdouble)
        table = np.full(most + 1, -np.inf, dtype=np.longdouble)
        table[0] = 0.0
        table[1 : terms + 1] = np.cumsum(np.log1p(-drawn / (samples - j)))
        result[here] = table[c[here]]
    return result


def _whole(name: str, value: ArrayLike) -> IntArray:
    number = np.asarray(value, dtype=np.float64)
    if not np.all(np.isfinite(number) & (np.floor(number) == number)):
        raise ValueError(f"{name} must be a whole number (or an array of them), got {value!r}.")
    return number.astype(np.int64)


def _refuse(bad: NDArray[np.bool_], why: str, **counts: IntArray) -> None:
    if bad.any():
        first = ", ".join(f"{name}={values[bad][0]}" for name, values in counts.items())
        raise ValueError(f"{why}; got {first}.")


def _refuse_k_below_1(k: ArrayLike) -> None:
    whole = _whole("k", k)
    _refuse(whole < 1, "k must be at least 1", k=whole)
