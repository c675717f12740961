"""A verifier that errs on purpose: how often, always alike, in training alone; what it weighs."""

import json
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from math import comb, sqrt
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from answers import completion
from resuming import as_if_killed, assert_same_run
from small_runs import SMALL, assert_refused, metrics, train, without_times

from passk.cli.main import main
from passk.config.schema import VerifierConfig, mix
from passk.data.conventions import Mix, make_problems
from passk.diagnostics.gold_errors import injected_table, wrong_gold_share
from passk.objectives.advantages import (
    ESTIMATORS,
    estimate_advantages,
    mixture_advantages,
    prompt_weights,
)
from passk.runs.labels import run_labels
from passk.runs.reader import load_run
from passk.training.build import build_verifier
from passk.types import FinishReason, Problem, Verdict
from passk.verifiers.base import ConventionsVerifier
from passk.verifiers.noise import NoisyVerifier, uniform, with_noise

NOISE = ("verifier.false_negative_rate=0.3", "verifier.false_positive_rate=0.2")
STEPS = 4
WORDS = ("regime=passk", f"train.num_steps={STEPS}", "train.save_every=2", "train.keep_last=9")
WORDS += ("eval.every=2", "diagnostics.every=2", "learner.lr=1e-3")


def noisy(misses: float, passes: float, seed: int = 0, verifier=None) -> NoisyVerifier:
    cfg = VerifierConfig(false_negative_rate=misses, false_positive_rate=passes, noise_seed=seed)
    return NoisyVerifier(verifier or ConventionsVerifier(), cfg)


def answered(num_problems: int, offset: int = 0) -> list:
    """A pair for each problem, answered with the gold answer plus `offset`."""
    return [
        (Problem(f"p-{i}", "?", str(i)), completion(f"={i + offset}")) for i in range(num_problems)
    ]


class Fixed:
    """Gives one verdict to everything."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def verify(self, pairs):
        return [self.verdict for _ in pairs]


@pytest.mark.parametrize(("misses", "passes"), [(0.05, 0.0), (0.0, 0.1), (0.2, 0.05), (0.5, 0.4)])
def test_the_rates_are_met(misses, passes):
    """Of 20,000 answers each; beyond 4.5 standard deviations once in 150,000 seeds."""
    for offset, rate, reason, reward in (
        (0, misses, "false_negative", 0.0),
        (1, passes, "false_positive", 1.0),
    ):
        verdicts = noisy(misses, passes).verify(answered(20_000, offset))
        turned = [verdict for verdict in verdicts if verdict.reason == reason]
        assert abs(len(turned) - 20_000 * rate) <= 4.5 * sqrt(20_000 * rate * (1 - rate))
        assert all(verdict.reward == reward and verdict.answer for verdict in turned)
        others = {(v.reward, v.reason) for v in verdicts if v.reason != reason}
        assert others == {(0.0, "wrong") if offset else (1.0, "correct")}


def test_seeds_err_elsewhere_and_independently():
    """Both of two seeds err on a ninth; beyond 4.5 standard deviations once in 150,000 tries."""
    first, other = (
        {i for i in range(20_000) if uniform(seed, f"p-{i}", str(i)) < 1 / 3} for seed in (0, 1)
    )
    assert abs(len(first & other) - 20_000 / 9) <= 4.5 * sqrt(20_000 * 1 / 9 * 8 / 9)


def test_a_larger_rate_errs_wherever_a_smaller_one_does():
    pairs = answered(500) + answered(500, 1)
    few, many = (noisy(rate, rate).verify(pairs) for rate in (0.1, 0.3))
    turned = [
        {i for i, v in enumerate(verdicts) if v.reason.startswith("false")}
        for verdicts in (few, many)
    ]
    assert turned[0] < turned[1]


def test_an_answer_has_one_verdict_however_it_is_derived():
    problem = Problem("p-3", "T3+4*5=", "23")
    ways = [(problem, completion(text)) for text in ("=23", "4*5=20;3+20=23", "1=1;2=23")]
    for seed in range(20):
        verdicts = noisy(0.5, 0.3, seed).verify(ways)
        assert len(set(verdicts)) == 1
    reasons = {noisy(0.5, 0.3, seed).verify(ways)[0].reason for seed in range(20)}
    assert reasons == {"correct", "false_negative"}


def test_neither_order_nor_process_matters():
    pairs = answered(300) + answered(300, 7)
    verdicts = dict(zip(range(600), noisy(0.3, 0.3).verify(pairs), strict=True))
    places = list(range(600))
    random.Random(0).shuffle(places)
    for place, verdict in zip(
        places, noisy(0.3, 0.3).verify([pairs[i] for i in places]), strict=True
    ):
        assert verdict == verdicts[place]
    code = "from passk.verifiers.noise import uniform\n"
    code += "print(repr([uniform(5, f'p-{i}', '\\ud800\\u00e4') for i in range(50)]))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert elsewhere.strip() == repr([uniform(5, f"p-{i}", "\ud800\u00e4") for i in range(50)])


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(0.0, "truncated"),
        Verdict(0.0, "unparsed"),
        Verdict(0.0, "gold_unparsed", "5"),
        Verdict(0.0, "timeout"),
        Verdict(0.0, "error"),
        Verdict(None, "timeout", "5"),
        Verdict(None, "error", "5"),
    ],
)
def test_what_is_neither_right_nor_wrong_stays(verdict):
    pairs = answered(200)
    for rates in ((0.999, 0.0), (0.0, 0.999)):
        assert noisy(*rates, verifier=Fixed(verdict)).verify(pairs) == [verdict] * 200


def test_a_completion_without_an_answer_is_its_own():
    """Programs: two that differ are drawn for by themselves, the same one always alike."""
    problem = Problem("p", "?", "assert f()")
    pairs = [(problem, completion(f"def f(): return {i % 400}")) for i in range(800)]
    verdicts = noisy(0.5, 0.0, verifier=Fixed(Verdict(1.0, "correct"))).verify(pairs)
    assert verdicts[:400] == verdicts[400:]
    missed = sum(v.reason == "false_negative" for v in verdicts[:400])
    assert abs(missed - 200) <= 45  # 4.5 standard deviations


def test_without_rates_the_verifier_is_itself():
    plain = ConventionsVerifier()
    assert with_noise(plain, VerifierConfig()) is plain
    assert isinstance(with_noise(plain, VerifierConfig(false_positive_rate=0.1)), NoisyVerifier)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run with a verifier that errs."""
    run = tmp_path_factory.mktemp("noisy") / "run"
    assert train(run, *WORDS, *NOISE) == 0
    return run


def test_rollouts_and_metrics_tell_the_errors(whole):
    rows = pd.concat(pd.read_parquet(file) for file in (whole / "rollouts").glob("*.parquet"))
    problems = {
        p.id: p for p in make_problems(48, Mix(0.2, 0.42), split="train", seed=0, duplicates=False)
    }
    pairs = [
        (problems[name], completion(text, FinishReason(finish)))
        for name, text, finish in rows[["problem_id", "completion", "finish_reason"]].to_numpy()
    ]
    truth = ConventionsVerifier().verify(pairs)
    seen = noisy(0.3, 0.2).verify(pairs)
    assert rows["reason"].tolist() == [verdict.reason for verdict in seen]
    assert rows["reward"].tolist() == [verdict.reward for verdict in seen]
    logged = sum((Counter(line["reasons"]) for line in metrics(whole)), Counter())
    assert logged == Counter(rows["reason"])
    assert logged["false_negative"] and logged["false_positive"]
    for verdict, reason in zip(truth, rows["reason"], strict=True):
        before = {"false_negative": "correct", "false_positive": "wrong"}.get(reason, reason)
        assert verdict.reason == before


def test_evaluations_and_the_gold_check_see_no_errors(whole, tmp_path):
    """Before the first step the tables are those of a run without errors, to the last byte."""
    assert train(tmp_path / "clean", *WORDS) == 0
    file = "eval/step-000000.parquet"
    pd.testing.assert_frame_equal(
        pd.read_parquet(whole / file), pd.read_parquet(tmp_path / "clean" / file)
    )
    assert metrics(whole)[0]["alignment"] != metrics(tmp_path / "clean")[0]["alignment"]
    assert not (whole / "gold_refused.csv").exists()
    out = f'hydra.run.dir="{tmp_path / "out"}"'
    assert main(["eval", f'run="{whole}"', "eval.num_resamples=50", out]) == 0
    samples = pd.concat(
        pd.read_parquet(f) for f in (tmp_path / "out" / "samples").glob("*.parquet")
    )
    assert set(samples["reason"]) <= {"correct", "wrong", "unparsed", "truncated"}


def test_a_resumed_run_errs_as_the_whole_one(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    as_if_killed(run, last_step=2)
    assert train(run, *WORDS, *NOISE, "resume=true") == 0
    assert_same_run(whole, run, STEPS)


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_err_as_one(whole, tmp_path):
    assert train(tmp_path / "two", *WORDS, *NOISE, "learner.num_processes=2") == 0
    for one, two in zip(metrics(whole), metrics(tmp_path / "two"), strict=True):
        assert one["reasons"] == two["reasons"] and one["reward_mean"] == two["reward_mean"]
    step = "rollouts/step-000000.parquet"
    names = ["problem_id", "sample", "completion", "reward", "reason"]
    pd.testing.assert_frame_equal(
        *(pd.read_parquet(run / step)[names] for run in (whole, tmp_path / "two"))
    )


def test_runs_that_err_elsewhere_are_one_condition(whole):
    record = load_run(whole)
    verifier = record.config["verifier"]
    other = replace(record, config=record.config | {"verifier": verifier | {"noise_seed": 1}})
    worse = verifier | {"false_negative_rate": 0.5}
    third = replace(record, config=record.config | {"verifier": worse})
    labels = run_labels([record, other, third])
    assert labels[0] == labels[1] == "passk false_negative_rate=0.3"
    assert labels[2] == "passk false_negative_rate=0.5"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", *NOISE[:1], "verifier.false_negative_rate=1.5"], ["=1.5 must lie between 0"]),
        (["train", "verifier.false_positive_rate=-0.1"], ["=-0.1 must lie between 0 and 1"]),
        (["train", "verifier.false_negative_rate=1"], ["=1 and", "less than 1"]),
        (
            ["train", "verifier.false_negative_rate=0.5", "verifier.false_positive_rate=0.5"],
            ["verifier.false_negative_rate=0.5", "verifier.false_positive_rate=0.5", "less than 1"],
        ),
        (["eval", "verifier.false_positive_rate=0.1"], ["passk eval measures with the verifier"]),
    ],
)
def test_bad_input_is_one_sentence(passk, tmp_path, words, says):
    assert_refused(passk(*words, "hydra.run.dir=out"), *says)
    assert not (tmp_path / "out").exists()


def test_a_run_cannot_be_resumed_with_other_rates(passk, whole):
    for word in ("verifier.false_negative_rate=0.2", "verifier.noise_seed=1"):
        words = (*SMALL, *WORDS, *NOISE, word, "resume=true", f'hydra.run.dir="{whole}"')
        assert_refused(passk("train", *words), word, "was started with")
    assert (
        without_times(metrics(whole))
        and json.loads((whole / "manifest.json").read_text())["status"] == "finished"
    )


POPULATION = (0.05, 0.3, 0.9, 0.6)
N = 6


def outcomes(p: float):
    """(probability, rewards) of the numbers of right samples; their order does not matter here."""
    for c in range(N + 1):
        yield comb(N, c) * p**c * (1 - p) ** (N - c), np.array([1.0] * c + [0.0] * (N - c))


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_the_share_of_wrong_golds_by_enumeration(k, rate):
    """Every choice of wrong golds and every number of right samples, with the estimated weights."""
    on_wrong = in_all = 0.0
    for wrong in product((False, True), repeat=len(POPULATION)):
        chance = np.prod([rate if w else 1 - rate for w in wrong])
        for p, has_wrong_gold in zip(POPULATION, wrong, strict=True):
            for probability, rewards in outcomes(p):
                seen = np.zeros(N) if has_wrong_gold else rewards
                weight = chance * probability * prompt_weights(seen[None], k, 0.0)[0]
                in_all += weight
                on_wrong += weight if has_wrong_gold else 0.0
    mean_weight = float(np.mean([k * (1 - p) ** (k - 1) for p in POPULATION]))
    assert wrong_gold_share(mean_weight, k, rate) == pytest.approx(on_wrong / in_all, rel=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_wrong_golds_weigh_and_move_nothing(k):
    """In the mean over wrong golds advantages are 1 - e times the right ones, sample by sample."""
    rate = 0.2
    for estimator in ESTIMATORS:
        weight = 1.0 if not ESTIMATORS[estimator].uses_k else 0.0
        assert not estimate_advantages(np.zeros((1, N)), estimator, mix(k, weight)).any()
    for c in range(N + 1):
        rewards = np.array([[1.0] * c + [0.0] * (N - c)])
        right, refused = (mixture_advantages(r, k, 0.0) for r in (rewards, np.zeros((1, N))))
        assert not refused.any() and prompt_weights(np.zeros((1, N)), k, 0.0)[0] == k
        np.testing.assert_allclose((1 - rate) * right + rate * refused, (1 - rate) * right)


@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("wrong", [(0.9,), (0.5, 0.3), (0.2,) * 4, (0.08,) * 10])
def test_accepted_wrong_answers_lower_the_weight(k, wrong):
    """E[w_k(p')] over the accepted subsets lies between (1-f)^(k-1) and (1-f) times w_k(p)."""
    rate, p = 0.05, 1 - sum(wrong)
    mean = sum(
        np.prod([rate if a else 1 - rate for a in accepted])
        * k
        * (1 - p - sum(q for q, a in zip(wrong, accepted, strict=True) if a)) ** (k - 1)
        for accepted in product((False, True), repeat=len(wrong))
    )
    weight = k * (1 - p) ** (k - 1)
    rounding = 1e-12 * weight
    assert (1 - rate) ** (k - 1) * weight - rounding <= mean <= (1 - rate) * weight + rounding
    if len(wrong) == 1 or k == 2:
        assert mean == pytest.approx((1 - rate) * weight)


def test_the_table_of_injected_errors():
    prompts = pd.DataFrame(
        {
            "false_negatives": [0, 3, 0, 0],
            "false_positives": [0, 0, 1, 0],
            "weight_4": [1.0, 4.0, 0.5, 0.5],
            "contribution_4": [2.0, 0.0, -3.0, 5.0],
        }
    )
    first, second = injected_table(prompts, [4], 0.25).to_dict("records")
    assert (first["error"], second["error"]) == ("false_negative", "false_positive")
    assert first["prompt_share"] == second["prompt_share"] == 0.25
    assert first["weight_share"] == pytest.approx(4 / 6)
    assert first["expected_weight_share"] == pytest.approx(1 / (1 + 0.75 * 2 / 3))
    assert second["weight_share"] == pytest.approx(0.5 / 6)
    assert np.isnan(second["expected_weight_share"])
    assert (first["contribution"], second["contribution"]) == (0.0, -0.75)
    assert first["inner_product"] == second["inner_product"] == 1.0
    assert injected_table(prompts.assign(false_negatives=0, false_positives=0), [4], 0.0).empty


def test_only_the_training_verifier_errs():
    cfg = VerifierConfig(name="conventions", false_negative_rate=0.9)
    assert isinstance(build_verifier(cfg), ConventionsVerifier)
