"""Measures beside Pass@k against all k-subsets, counted with fractions, and their identities."""

from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import combinations
from math import ceil

import numpy as np
import pandas as pd
import pytest
from small_runs import assert_refused

from passk.config.schema import EvalConfig
from passk.evaluation.measures import cover, g_pass, majority, mg_pass, pass_hat
from passk.evaluation.tables import SAMPLE_COLUMNS, eval_tables, majority_votes, summary_markdown
from passk.objectives.pass_at_k import pass_at_k


def over_subsets(values: Sequence, k: int, value: Callable[[tuple], Fraction | bool]) -> Fraction:
    found = [Fraction(value(subset)) for subset in combinations(values, k)]
    return sum(found) / len(found)


def counts(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full(n + 1, n), np.arange(n + 1)


@pytest.mark.parametrize("n", range(1, 9))
def test_measures_of_counts_are_averages_over_all_subsets(n):
    n_P, c_P = counts(n)
    for k in range(1, n + 1):
        for tau in (0.1, 0.3, 0.5, 0.7, 1.0):
            least = -(-round(10 * tau) * k // 10)  # of tau in tenths, exactly
            ours = g_pass(n_P, c_P, k, tau)
            for c in range(n + 1):
                samples = [1] * c + [0] * (n - c)
                exact = over_subsets(samples, k, lambda s, least=least: sum(s) >= least)
                assert ours[c] == pytest.approx(float(exact), rel=1e-12, abs=1e-15)
        for c in range(n + 1):
            samples = [1] * c + [0] * (n - c)
            exact = over_subsets(samples, k, all)
            assert pass_hat(n_P, c_P, k)[c] == pytest.approx(float(exact), rel=1e-12)
            areas = [
                over_subsets(samples, k, lambda s, i=i: sum(s) >= i)
                for i in range(ceil(Fraction(k, 2)) + 1, k + 1)
            ]
            exact = Fraction(2, k) * sum(areas)
            assert mg_pass(n_P, c_P, k)[c] == pytest.approx(float(exact), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("n", [5, 16, 300])
def test_g_pass_runs_from_pass_at_k_to_pass_hat(n):
    n_P, c_P = counts(n)
    for k in sorted({1, 2, 5, n // 3 + 1, n}):
        lowest, highest = g_pass(n_P, c_P, k, 1e-9), g_pass(n_P, c_P, k, 1.0)
        np.testing.assert_allclose(lowest, pass_at_k(n_P, c_P, k), rtol=1e-9)
        np.testing.assert_allclose(highest, pass_hat(n_P, c_P, k), rtol=1e-9, atol=1e-300)
        middle = g_pass(n_P, c_P, k, 0.5)
        assert (middle <= lowest + 1e-12).all() and (highest <= middle + 1e-12).all()


def test_seven_of_a_hundred_hundredths_are_seven():
    """0.07 * 100 is above 7 as a float."""
    n_P, c_P = np.array([100]), np.array([7])
    assert g_pass(n_P, c_P, 100, 0.07)[0] == pytest.approx(1.0)
    assert cover(np.array([10, 10]), np.array([7, 6]), 0.7).tolist() == [1, 0]
    full = np.array([8])
    assert mg_pass(full, full, 8)[0] == pytest.approx(1)
    assert mg_pass(full, full, 7)[0] == pytest.approx(1 - 1 / 7)  # as printed


WRONG = [(), (1,), (2,), (1, 1), (2, 1), (3, 2), (2, 2, 1), (1, 1, 1), (2, 2), (4, 1)]


def vote(subset: tuple[int, ...]) -> Fraction:
    """The share of the correct answer, 0, among the answers with the most votes; -1 is silent."""
    votes = Counter(answer for answer in subset if answer >= 0)
    most = max(votes.values(), default=0)
    return Fraction(votes[0] == most, list(votes.values()).count(most)) if votes else Fraction(0)


@pytest.mark.parametrize("n", range(1, 8))
def test_the_majority_of_k_is_the_average_over_all_subsets(n):
    for right in range(n + 1):
        for wrong in WRONG:
            if (silent := n - right - sum(wrong)) < 0:
                continue
            answers = [0] * right + [-1] * silent
            answers += [i for i, count in enumerate(wrong, 1) for _ in range(count)]
            for k in range(1, n + 1):
                exact = float(over_subsets(answers, k, vote))
                assert majority(right, wrong, n, k) == pytest.approx(exact, abs=1e-13)


def test_majorities_of_large_groups_agree_with_draws():
    """4,000 draws: a difference of five standard errors happens once in a million."""
    wrong, n, k = (9, 7, 7, *[1] * 20), 64, 16
    ours = majority(12, wrong, n, k)
    answers = np.repeat(np.arange(-1, 24), [n - 12 - sum(wrong), 12, *wrong])
    rng = np.random.default_rng(0)
    drawn = [float(vote(tuple(rng.permutation(answers)[:k].tolist()))) for _ in range(4000)]
    assert ours == pytest.approx(np.mean(drawn), abs=5 * np.std(drawn) / 4000**0.5)


def samples() -> pd.DataFrame:
    """Three problems of 8 samples: right, two wrong answers, silent; and one judged too seldom."""
    rows = []
    for problem, right, wrong, silent in (("a", 4, "xxy", 1), ("b", 0, "xxxxxxxx", 0)):
        rows += [(problem, "correct", 1.0, "")] * right
        rows += [(problem, "wrong", 0.0, answer) for answer in wrong]
        rows += [(problem, "unparsed", 0.0, "")] * silent
    rows += [("c", "correct", 1.0, "")] * 8 + [("d", "correct", 1.0, "")] * 2
    frame = pd.DataFrame(rows, columns=["problem_id", "reason", "reward", "answer"])
    frame = frame.assign(temperature=1.0, sample=0, kind="", level="", type="", num_tokens=3)
    frame = frame.assign(finish_reason="stop", completion="", sample=0, logprob_sampler=0.0)
    return frame[SAMPLE_COLUMNS]


def test_the_summary_has_the_measures_that_are_asked_for():
    cfg = EvalConfig(ks=[1, 4, 8], num_resamples=100)
    assert not eval_tables(samples(), cfg)["summary"]["metric"].str.contains("pass_hat").any()
    cfg.measures, cfg.taus = ["pass_hat", "g_pass", "mg_pass", "cover", "maj"], [0.5, 1.0]
    summary = eval_tables(samples(), cfg)["summary"].set_index("metric")
    n_P, c_P = np.full(3, 8), np.array([4, 0, 8])  # d has too few judged samples
    by_hand = {"cover_0.5": 2 / 3, "cover_1": 1 / 3}
    for k in cfg.ks:
        by_hand[f"pass_hat_{k}"] = pass_hat(n_P, c_P, k).mean()
        by_hand[f"g_pass_{k}_0.5"] = g_pass(n_P, c_P, k, 0.5).mean()
        by_hand[f"g_pass_{k}_1"] = pass_hat(n_P, c_P, k).mean()
        by_hand[f"maj_{k}"] = (majority(4, (1, 2), 8, k) + 0 + 1) / 3
    by_hand |= {f"mg_pass_{k}": mg_pass(n_P, c_P, k).mean() for k in (4, 8)}
    known = ("pass_hat", "g_pass", "mg_pass", "cover", "maj_")
    assert {name for name in summary.index if name.startswith(known)} == set(by_hand)
    for name, value in by_hand.items():
        row = summary.loc[name]
        assert row["value"] == pytest.approx(value) and row["num_problems"] == 3
        assert row["ci_low"] <= row["value"] <= row["ci_high"]
    of_all = majority_votes(samples())[["a", "b", "c"]].mean()
    assert summary.loc["maj_8", "value"] == pytest.approx(of_all)
    shown = summary_markdown(summary.reset_index())
    for name in ("Pass^4 (%)", "G-Pass@8, tau 0.5 (%)", "mG-Pass@4 (%)", "Cover@1 (%)", "maj@8"):
        assert f"| {name}" in shown


def test_a_verifier_without_answers_has_no_majority():
    mute = samples().assign(answer="")
    cfg = EvalConfig(ks=[1, 4], num_resamples=10, measures=["maj", "cover"])
    metrics = eval_tables(mute, cfg)["summary"]["metric"]
    assert not metrics.str.startswith("maj").any() and metrics.str.startswith("cover").sum() == 3


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("eval.measures=[pass_hat,best]", "eval.measures=best is unknown; allowed: pass_hat,"),
        ("eval.taus=[0.5,0]", "eval.taus=[0.5, 0.0] must hold shares above 0, up to 1"),
        ("eval.taus=[1.5]", "eval.taus=[1.5] must hold"),
        ("eval.taus=[nan]", "eval.taus=[nan] must hold"),
    ],
)
def test_bad_measures_are_refused(passk, word, says):
    assert_refused(passk("eval", "model.path=tiny", word), says)
