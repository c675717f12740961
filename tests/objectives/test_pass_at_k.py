"""Pass@k from counts against its definition over subsets, in exact arithmetic."""

from fractions import Fraction
from itertools import combinations
from math import comb, prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passk.objectives.pass_at_k import all_wrong, leave_one_out_failure, pass_at_k

ULPS = 4 * np.finfo(np.float64).eps


def subset_failure(n: int, c: int, k: int) -> Fraction:
    """Share of the k-subsets of n samples, the first c correct, that hold no correct one."""
    subsets = list(combinations(range(n), k))
    return Fraction(sum(all(i >= c for i in subset) for subset in subsets), len(subsets))


def exact_failure(n: int, c: int, k: int) -> Fraction:
    """C(n-c, k) / C(n, k) as a product over the smaller of c and k, which it is symmetric in."""
    small, large = min(c, k), max(c, k)
    numerator = prod(max(n - large - j, 0) for j in range(small))
    return Fraction(numerator, prod(n - j for j in range(small)))


@pytest.mark.parametrize("n", range(1, 9))
def test_every_count_agrees_with_all_subsets(n: int) -> None:
    for k in range(1, n + 1):
        for c in range(n + 1):
            failure = subset_failure(n, c, k)
            assert pass_at_k(n, c, k) == pytest.approx(float(1 - failure), rel=ULPS, abs=0)
            assert all_wrong(n, c, k) == pytest.approx(float(failure), rel=ULPS, abs=0)
        for c_others in range(n):
            failure = subset_failure(n - 1, c_others, k - 1)
            ours = leave_one_out_failure(n, c_others, k)
            assert ours == pytest.approx(float(failure), rel=ULPS, abs=0)


@pytest.mark.parametrize("p", [Fraction(0), Fraction(1, 7), Fraction(1, 2), Fraction(1)])
def test_unbiased_for_every_k_up_to_n(p: Fraction) -> None:
    for n in range(1, 11):
        counts = range(n + 1)
        chance_C = np.array([float(comb(n, c) * p**c * (1 - p) ** (n - c)) for c in counts])
        for k in range(1, n + 1):
            target = float(1 - (1 - p) ** k)
            assert chance_C @ pass_at_k(n, counts, k) == pytest.approx(target, abs=1e-14)
            others = float((1 - p) ** (k - 1))  # D of n + 1 samples sees n others
            ours = chance_C @ leave_one_out_failure(n + 1, counts, k)
            assert ours == pytest.approx(others, abs=1e-14)


@pytest.mark.parametrize(
    ("n", "c", "k"),
    [
        (1030, 5, 500),
        (2048, 1, 1024),
        (2048, 3, 1024),
        (2048, 40, 1024),
        (10**6, 1, 1),
        (10**6, 1, 8),
        (10**6, 3, 500_000),
        (10**6, 999_000, 8),
        (10**6, 1_000, 1_000),
        (10**6, 30, 999_900),
        (10**12, 1, 1),  # a tiny value keeps all its digits
    ],
)
def test_large_counts_are_exact_where_binomials_overflow(n: int, c: int, k: int) -> None:
    failure = exact_failure(n, c, k)
    assert pass_at_k(n, c, k) == pytest.approx(float(1 - failure), rel=1e-13, abs=0)
    assert all_wrong(n, c, k) == pytest.approx(float(failure), rel=1e-10, abs=0)


def test_whole_range_of_large_n_is_finite_and_ordered() -> None:
    for n, k in ((2048, 1024), (10**6, 1000)):
        values = pass_at_k(n, np.arange(0, n + 1, n // 2048), k)
        assert np.isfinite(values).all()
        assert values[0] == 0.0 and values[-1] == 1.0
        assert (np.diff(values) >= 0).all()


def test_boundaries_are_exact() -> None:
    assert pass_at_k(10, 0, 3) == 0.0 and not np.signbit(pass_at_k(10, 0, 3))
    assert pass_at_k(10, 8, 3) == 1.0  # 2 wrong ones cannot fill 3 places
    assert all_wrong(10, 8, 3) == 0.0
    assert (leave_one_out_failure(10, np.arange(10), 1) == 1.0).all()
    np.testing.assert_allclose(pass_at_k(64, np.arange(65), 1), np.arange(65) / 64, rtol=1e-15)


def test_arrays_broadcast_over_n_c_and_k() -> None:
    n_P1, c_P1, k_K = np.array([[8], [16], [8]]), np.array([[2], [2], [8]]), np.array([1, 4, 8])
    values_PK = pass_at_k(n_P1, c_P1, k_K)
    assert values_PK.shape == (3, 3) and values_PK.dtype == np.float64
    for p in range(3):
        for j, k in enumerate(k_K):
            assert values_PK[p, j] == pass_at_k(n_P1[p, 0], c_P1[p, 0], k)
    assert pass_at_k([], [], 1).shape == (0,)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_grows_with_c_and_with_k(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 300))
    values_CK = pass_at_k(n, np.arange(n + 1)[:, None], np.arange(1, n + 1))
    assert ((values_CK >= 0) & (values_CK <= 1)).all()
    assert (np.diff(values_CK, axis=0) >= -ULPS).all()
    assert (np.diff(values_CK, axis=1) >= -ULPS).all()


@pytest.mark.parametrize(
    ("n", "c", "k", "words"),
    [
        (16, 3, 32, "no unbiased estimator of Pass@k exists for k > n; got n=16, c=3, k=32"),
        (16, 17, 1, "c must be between 0 and n"),
        (16, -1, 1, "c must be between 0 and n"),
        (16, 3, 0, "k must be at least 1; got k=0"),
        (16, 3, 2.5, "k must be a whole number"),
        (16, 3.5, 2, "c must be a whole number"),
        (float("nan"), 3, 2, "n must be a whole number"),
        ([16, 8], [3, 9], 2, "got n=8, c=9, k=2"),
        (0, 0, 1, "k > n"),
    ],
)
def test_impossible_counts_are_refused(n: object, c: object, k: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pass_at_k(n, c, k)  # type: ignore[arg-type]


@pytest.mark.parametrize(("c_others", "k"), [(8, 1), (-1, 1), (2, 9), (2, 0)])
def test_impossible_others_are_refused(c_others: int, k: int) -> None:
    with pytest.raises(ValueError):
        leave_one_out_failure(8, c_others, k)
