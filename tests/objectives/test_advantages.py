"""Advantages: brute force over subsets, exact expectations, and the pitfalls of estimators.md."""

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from passk.config.schema import mix
from passk.objectives.advantages import (
    ESTIMATORS,
    chen,
    dead_groups,
    dr_grpo,
    estimate_advantages,
    grpo,
    leave_two_out,
    maxrl,
    mixture_advantages,
    pkpo_s,
    pkpo_s_loo,
    pkpo_s_loo_minus_1,
    prompt_weights,
    rloo_k,
)
from passk.objectives.pass_at_k import leave_one_out_failure, pass_at_k

NAN = float("nan")
UNBIASED = [rloo_k, pkpo_s, pkpo_s_loo, pkpo_s_loo_minus_1, leave_two_out]
PS = (0.03, 0.3, 0.5, 0.9)
Advantages = Callable[[np.ndarray], np.ndarray]


def outcomes(n: int) -> np.ndarray:
    """All 2^n groups of n rewards."""
    return np.array(list(product((0.0, 1.0), repeat=n)))


def group(n: int, c: int) -> np.ndarray:
    return np.array([[1.0] * c + [0.0] * (n - c)])


def expected_weight(advantages: Advantages, n: int, p: float) -> float:
    """E[update] / grad p over all 2^n groups, for a policy that is right with chance sigmoid(t).

    There grad log pi of a sample is r - p and grad p is p (1-p).
    """
    rewards_PG = outcomes(n)
    chance_P = np.prod(np.where(rewards_PG == 1, p, 1 - p), axis=1)
    update_P = (advantages(rewards_PG) * (rewards_PG - p)).mean(axis=1)
    return float(chance_P @ update_P) / (p * (1 - p))


def implied_weight(advantages: Advantages, n: int, p: float) -> float:
    """E[A | r=1] - E[A | r=0] for one sample, over the count of correct others: omega(p)."""
    others = np.arange(n - 1)[None, :] < np.arange(n)[:, None]  # row c' has c' correct others
    chance_P = binom.pmf(np.arange(n), n - 1, p)
    right, wrong = (
        chance_P @ advantages(np.column_stack([np.full(n, r), others.astype(float)]))[:, 0]
        for r in (1.0, 0.0)
    )
    return float(right - wrong)


@pytest.mark.parametrize("n", range(2, 11))
def test_expected_update_is_the_gradient_of_pass_at_k(n: int) -> None:
    for k in range(1, n + 1):
        for estimator in UNBIASED:
            if estimator in (pkpo_s_loo, leave_two_out) and k == n:
                continue
            for p in PS:
                ours = expected_weight(lambda r, f=estimator, k=k: f(r, k), n, p)
                assert ours == pytest.approx(k * (1 - p) ** (k - 1), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("pass1_weight", [0.0, 0.3, 0.7, 1.0])
def test_expected_mixture_is_the_mixture_of_gradients(pass1_weight: float) -> None:
    for n in range(2, 11):
        for k in range(1, n + 1):
            for p in PS:
                target = pass1_weight + (1 - pass1_weight) * k * (1 - p) ** (k - 1)
                ours = expected_weight(lambda r, k=k: mixture_advantages(r, k, pass1_weight), n, p)
                assert ours == pytest.approx(target, rel=1e-12)


TABLE_PS = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.99)
TARGET_4 = (3.881, 3.429, 2.916, 1.687, 0.500, 0.062, 0.004, 0.000)
TARGET_8 = (7.457, 5.587, 3.826, 1.068, 0.063, 0.000, 0.000, 0.000)


@pytest.mark.parametrize(
    ("estimator", "k", "weights"),
    [
        (rloo_k, 1, (1.0,) * 8),
        (dr_grpo, 1, (0.9375,) * 8),
        (maxrl, 1, (13.994, 10.734, 7.941, 3.947, 2.000, 1.333, 1.111, 1.010)),
        *[(f, 4, TARGET_4) for f in UNBIASED],
        *[(f, 8, TARGET_8) for f in UNBIASED],
        (chen, 4, (1.658, 1.407, 1.171, 0.748, 0.385, 0.127, 0.018, 0.000)),
        (chen, 8, (0.945, 0.754, 0.573, 0.247, 0.040, 0.001, 0.000, 0.000)),
    ],
)
def test_implied_prompt_weights_of_the_design(
    estimator: Callable[[np.ndarray, int], np.ndarray], k: int, weights: tuple[float, ...]
) -> None:
    ours = [implied_weight(lambda r: estimator(r, k), 16, p) for p in TABLE_PS]
    assert ours == pytest.approx(weights, abs=5.1e-4)


def test_implied_prompt_weights_of_grpo(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (3.614, 3.163, 2.757, 2.128, 1.873, 2.128, 2.757, 3.614)
    ours = [implied_weight(lambda r: grpo(r, 1), 16, p) for p in TABLE_PS]
    assert ours == pytest.approx(table, rel=4e-4)
    monkeypatch.setattr("passk.objectives.advantages.GRPO_EPSILON", 0.0)  # the table is without it
    with np.errstate(invalid="ignore"):
        ours = [implied_weight(lambda r: np.nan_to_num(grpo(r, 1)), 16, p) for p in TABLE_PS]
    assert ours == pytest.approx(table, abs=5.1e-4)


def test_mixing_grpo_with_chen_is_not_the_hybrid() -> None:
    ps = (0.01, 0.25, 0.5, 0.9)
    naive = [implied_weight(lambda r: 0.7 * grpo(r, 8) + 0.3 * chen(r, 8), 16, p) for p in ps]
    hybrid = [implied_weight(lambda r: mixture_advantages(r, 8, 0.7), 16, p) for p in ps]
    assert naive == pytest.approx([2.81, 1.56, 1.32, 1.93], abs=6e-3)
    assert hybrid == pytest.approx([2.94, 1.02, 0.72, 0.70], abs=6e-3)


@pytest.mark.parametrize("n", range(2, 8))
def test_pkpo_and_chen_agree_with_their_definitions_over_subsets(n: int) -> None:
    for k in range(1, n + 1):
        subsets = list(combinations(range(n), k))
        for c in range(n + 1):
            r = group(n, c)
            best = [max(int(r[0, j]) for j in subset) for subset in subsets]
            with_i = [
                [(subset, b) for subset, b in zip(subsets, best, strict=True) if i in subset]
                for i in range(n)
            ]
            s = [n * Fraction(sum(b for _, b in pairs), len(subsets)) for pairs in with_i]
            assert pkpo_s(r, k)[0] == pytest.approx([float(x) for x in s], abs=1e-14)

            gain = [
                sum(
                    b - max((int(r[0, j]) for j in subset if j != i), default=0)
                    for subset, b in pairs
                )
                for i, pairs in enumerate(with_i)
            ]
            loo = [float(n * Fraction(g, len(subsets))) for g in gain]
            assert pkpo_s_loo_minus_1(r, k)[0] == pytest.approx(loo, abs=1e-14)

            success = Fraction(sum(best), len(subsets))
            if 0 < success < 1:  # Chen: (n/k) s minus its group mean R, over sqrt(R (1-R))
                scale = float(success * (1 - success)) ** 0.5
                expected = [float(x / k - success) / scale for x in s]
                assert chen(r, k)[0] == pytest.approx(expected, abs=1e-13)
            else:
                assert not chen(r, k).any()


def test_mixture_and_s_loo_are_the_printed_formulas() -> None:
    n, k, c = 8, 3, 3
    r = group(n, c)
    others = c - r
    weight = 0.7 + 0.3 * k * leave_one_out_failure(n, others, k)
    np.testing.assert_allclose(mixture_advantages(r, k, 0.7), weight * (r - others / (n - 1)))
    printed = pkpo_s(r, k) - n * k / (n - 1) * pass_at_k(n - 1, others, k)
    np.testing.assert_allclose(pkpo_s_loo(r, k), printed)
    np.testing.assert_allclose(mixture_advantages(r, k, 1.0), n / (n - 1) * (r - c / n))


def test_grpo_and_maxrl_on_a_group_by_hand() -> None:
    r = group(4, 1)
    np.testing.assert_allclose(grpo(r, 1)[0], [0.75 / 0.5001] + [-0.25 / 0.5001] * 3)
    np.testing.assert_allclose(maxrl(r, 1)[0], [3.0, -1.0, -1.0, -1.0])


def test_pitfall_1_reward_shared_by_the_group_leaves_nothing_after_a_baseline() -> None:
    r = group(8, 2)
    shared = np.full_like(r, r.max())
    assert not (shared - shared.mean()).any()
    for name in ESTIMATORS:
        assert estimate_advantages(r, name, mix(4, 1.0)).any()


@pytest.mark.parametrize(("k", "share"), [(2, 0.286), (4, 0.255), (8, 0.186), (16, 0.0)])
def test_pitfall_2_centring_s_shrinks_the_share_of_pass_at_k(k: int, share: float) -> None:
    def centred(k: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda r: pkpo_s(r, k) - pkpo_s(r, k).mean(axis=1, keepdims=True)

    p, n = 0.05, 16
    left_1 = implied_weight(centred(1), n, p)
    left_k = implied_weight(centred(k), n, p) / (k * (1 - p) ** (k - 1))
    assert left_k == pytest.approx(1 - k / n, abs=1e-12)
    assert 0.3 * left_k / (0.7 * left_1 + 0.3 * left_k) == pytest.approx(share, abs=6e-4)


def test_pitfall_5_signal_only_between_1_and_n_minus_k_plus_1() -> None:
    n = 16
    rewards_PG = np.tril(np.ones((n + 1, n)), -1)  # row c has c correct
    for k in range(1, n + 1):
        alive = rloo_k(rewards_PG, k).any(axis=1)
        last = min(n - k + 1, n - 1)
        assert np.flatnonzero(alive).tolist() == list(range(1, last + 1))
    dead = ~rloo_k(rewards_PG, 8).any(axis=1)
    rates = [float(binom.pmf(np.arange(n + 1), n, p) @ dead) for p in (0.7, 0.95, 0.01)]
    assert rates == pytest.approx([0.82, 1.0, 0.85], abs=6e-3)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_pitfall_6_prompts_without_a_success_give_exact_zeros(name: str) -> None:
    advantages_PG = estimate_advantages(np.zeros((3, 8)), name, mix(4, 1.0))
    assert (advantages_PG == 0).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_zero_is_negative(name: str) -> None:
    chosen = ESTIMATORS[name]
    for ours in (
        chosen.advantages(outcomes(6), 3),
        estimate_advantages(outcomes(6), name, mix(3, 0.0 if chosen.uses_k else 1.0)),
    ):
        assert not np.signbit(ours[ours == 0]).any()


@pytest.mark.parametrize(
    "name", ["mixture", "grpo", "dr_grpo", "leave_two_out", "chen", "maxrl", "rs_grpo"]
)
def test_solved_prompts_give_exact_zeros_where_there_is_a_baseline(name: str) -> None:
    for n in (3, 7, 16, 49):
        assert (estimate_advantages(np.ones((1, n)), name, mix(2, 1.0)) == 0).all()


def test_pitfall_7_the_weight_does_not_see_its_own_sample() -> None:
    n, k = 9, 4
    for c_others in range(n):
        wrong, right = (
            np.array([[r] + [1.0] * c_others + [0.0] * (n - 1 - c_others)]) for r in (0.0, 1.0)
        )
        step = rloo_k(right, k)[0, 0] - rloo_k(wrong, k)[0, 0]
        assert step == pytest.approx(k * leave_one_out_failure(n, c_others, k), abs=1e-15)


judged = st.sampled_from([0.0, 1.0, NAN])


@settings(max_examples=150, deadline=None)
@given(st.lists(judged, min_size=8, max_size=8), st.sampled_from(sorted(ESTIMATORS)), st.data())
def test_pitfall_7_samples_not_judged_leave_the_counts(
    row: list[float], name: str, data: st.DataObject
) -> None:
    chosen = ESTIMATORS[name]
    k = data.draw(st.integers(1, 8 - chosen.spare_samples))
    pass1_weight = data.draw(st.sampled_from([0.0, 0.7, 1.0])) if chosen.uses_k else 1.0
    rewards_PG = np.array([row, [1.0] + [0.0] * 7])
    ours = estimate_advantages(rewards_PG, name, mix(k, pass1_weight))
    seen = ~np.isnan(rewards_PG[0])
    needed = max(k + chosen.spare_samples if chosen.uses_k else 2, 2)
    assert not ours[0, ~seen].any()
    if seen.sum() < needed:
        assert not ours[0].any()
    else:
        alone = estimate_advantages(rewards_PG[:1, seen], name, mix(k, pass1_weight))
        np.testing.assert_array_equal(ours[0, seen], alone[0])


def test_pitfall_9_large_groups_are_finite() -> None:
    rewards_PG = np.tril(np.ones((2049, 2048)), -1)[[0, 1, 2, 1023, 1025, 2047, 2048]]
    for name, chosen in ESTIMATORS.items():
        ours = estimate_advantages(rewards_PG, name, mix(1024, 0.7 if chosen.uses_k else 1.0))
        assert np.isfinite(ours).all()
    assert rloo_k(rewards_PG, 1024)[1, 0] == 1024.0
    assert rloo_k(rewards_PG, 1024)[2, 0] == pytest.approx(1024 * 1024 / 2047 * 2046 / 2047)


@settings(max_examples=60, deadline=None)
@given(st.permutations(range(8)), st.sampled_from(sorted(ESTIMATORS)))
def test_order_does_not_matter_and_the_input_stays(order: list[int], name: str) -> None:
    rewards_PG = np.array(
        [[1, 0, NAN, 1, 0, 0, 1, 0], [0, 0, 1, NAN, NAN, 0, 0, 0]], dtype=np.float32
    )
    before = rewards_PG.copy()
    rewards_PG.setflags(write=False)
    ours = estimate_advantages(rewards_PG, name, mix(3, 1.0))
    moved = estimate_advantages(rewards_PG[:, order], name, mix(3, 1.0))
    np.testing.assert_array_equal(ours[:, order], moved)
    np.testing.assert_array_equal(rewards_PG, before)
    assert ours.dtype == np.float64


def test_prompt_weights_are_the_mean_weight_of_the_samples_and_unbiased() -> None:
    n, k = 8, 3
    rewards_PG = outcomes(n)
    weights_P = prompt_weights(rewards_PG, k, 0.7)
    others_PG = rewards_PG.sum(axis=1, keepdims=True) - rewards_PG
    per_sample_PG = 0.7 + 0.3 * k * leave_one_out_failure(n, others_PG, k)
    np.testing.assert_allclose(weights_P, per_sample_PG.mean(axis=1))
    for p in PS:
        chance_P = np.prod(np.where(rewards_PG == 1, p, 1 - p), axis=1)
        assert chance_P @ weights_P == pytest.approx(0.7 + 0.3 * k * (1 - p) ** (k - 1))
    assert prompt_weights([[1.0, 0.0, NAN, NAN]], 3, 0.7) == 0.0


def test_dead_groups_are_counted_by_cause() -> None:
    rewards_PG = np.stack([group(8, c)[0] for c in (0, 2, 7, 8)])
    dead = dead_groups(mixture_advantages(rewards_PG, 4, 0.0), rewards_PG)
    assert dead.dead_group_fraction == 0.75
    assert dead.dead_fail_fraction == 0.25
    assert dead.dead_solved_fraction == 0.5


@pytest.mark.parametrize(
    ("rewards", "name", "k", "pass1_weight", "words"),
    [
        (group(16, 3), "mixture", 32, 0.7, "k=32 needs n >= 32, got n=16"),
        (group(16, 3), "s_loo", 16, 0.0, "k=16 needs n >= 17"),
        (group(16, 3), "mixture", 0, 0.7, "k must be a whole number of at least 1"),
        (group(16, 3), "mixture", 2.5, 0.7, "k must be a whole number"),
        (group(16, 3), "mixture", 4, 1.5, "pass1_weight must be between 0 and 1"),
        (group(16, 3), "mixture", 4, NAN, "pass1_weight must be between 0 and 1"),
        (group(16, 3), "grpo", 4, 0.7, "grpo has no k"),
        (group(16, 3), "best", 4, 0.7, "'best' is not one of mixture, grpo"),
        (group(1, 1), "mixture", 1, 1.0, "2 samples or more"),
        (np.ones(4), "mixture", 1, 1.0, "2 samples or more"),
        (np.array([[0.5, 1.0]]), "grpo", 1, 1.0, "rewards must be 0"),
    ],
)
def test_what_has_no_estimator_is_refused(
    rewards: np.ndarray, name: str, k: int, pass1_weight: float, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        estimate_advantages(rewards, name, mix(k, pass1_weight))
