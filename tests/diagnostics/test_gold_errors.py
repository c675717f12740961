"""Gold answers that are likely bad: found where they are, and nowhere else."""

import json
from math import comb

import numpy as np
import pandas as pd
import pytest
from diagnoses import NUM_PROMPTS, NUM_SAMPLES, diagnose
from small_runs import assert_refused

from passk.diagnostics.gold_errors import (
    MIN_SAMPLES,
    agreement_table,
    share_bounds,
    suspect_golds,
    vote_table,
)
from passk.types import Completion, FinishReason, Group, Problem, Verdict
from passk.verifiers.noise import uniform

N = 32


def group(verdicts: list[Verdict], name: str = "p", gold: str = "7") -> Group:
    samples = tuple(Completion(v.answer, (2,), (-0.1,), FinishReason.STOP) for v in verdicts)
    return Group(Problem(name, "?", gold), (1,), samples, tuple(verdicts), 0)


def votes_for(answers: list[str], gold: str) -> list[Verdict]:
    return [
        Verdict(float(answer == gold), "correct" if answer == gold else "wrong", answer)
        for answer in answers
    ]


def prompts_of(groups: list[Group]) -> pd.DataFrame:
    rewards = np.array([g.rewards() for g in groups])
    table = pd.DataFrame(
        {
            "problem_id": [g.problem.id for g in groups],
            **dict.fromkeys(("kind", "level", "type"), ""),
            "n": (~np.isnan(rewards)).sum(axis=1),
            "c": (rewards == 1).sum(axis=1),
        }
    )
    return table.join(vote_table(groups))


def listed(groups: list[Group]) -> pd.DataFrame:
    return suspect_golds(agreement_table(groups, prompts_of(groups)))


def population(seed: int, wrong_share: float) -> tuple[list[Group], set[str]]:
    """600 prompts of a model that errs honestly, and which of their gold answers are wrong.

    It answers rightly with a probability from Beta(2, 1), else with one of ten wrong answers; a
    wrong gold is an eleventh.
    """
    rng = np.random.default_rng(seed)
    groups, wrong = [], set()
    for i in range(600):
        right = rng.random(N) < rng.beta(2, 1)
        answers = ["right" if r else f"wrong {rng.integers(10)}" for r in right]
        gold = "right"
        if rng.random() < wrong_share:
            gold = "wrong gold"
            wrong.add(f"p-{i}")
        groups.append(group(votes_for(answers, gold), f"p-{i}", gold))
    return groups, wrong


@pytest.mark.parametrize("wrong_share", [0.02, 0.1, 0.3])
def test_wrong_golds_are_found_and_nothing_else(wrong_share):
    groups, wrong = population(0, wrong_share)
    found = set(listed(groups)["problem_id"])
    assert found <= wrong
    # Beta(2, 1) lies above 0.7 in 51 % of prompts, where samples agree almost always.
    assert len(found) > 0.4 * len(wrong)
    sure = {g.problem.id for g in groups if sum(v.answer == "right" for v in g.verdicts) >= 23}
    assert found == wrong & sure


def test_without_wrong_golds_nothing_is_listed():
    groups, wrong = population(1, 0.0)
    assert not wrong and listed(groups).empty


@pytest.mark.parametrize("n", [*range(1, 41), 200])
def test_agreement_is_wrong_in_at_most_2_5_percent(n):
    """By enumeration, at a share of 1/2: no answer with less is likelier to pass."""
    votes = np.arange(n + 1)
    low, high = share_bounds(votes, np.full(n + 1, n))
    chance = sum(comb(n, int(m)) for m in votes[low > 0.5]) / 2**n
    assert chance <= 0.025
    assert (chance > 0) == (n >= MIN_SAMPLES)
    np.testing.assert_allclose(low, 1 - high[::-1], atol=1e-12)
    for m in votes[1:]:  # the bound is the share at which m votes or more come in 2.5 % of cases
        tail = sum(comb(n, j) * low[m] ** j * (1 - low[m]) ** (n - j) for j in range(m, n + 1))
        assert tail == pytest.approx(0.025, rel=1e-6)


def test_scores_rank_and_bound_the_margin():
    sure = group(votes_for(["5"] * N, "7"), "sure")
    some = group(votes_for(["5"] * (N - 4) + ["7"] * 4, "7"), "some")
    fewer = group(votes_for(["5"] * (N - 4) + ["6"] * 4, "7"), "fewer")
    once = group(votes_for(["5"] * (N - 1) + ["7"], "7"), "once")
    accepted = group(votes_for(["7"] * N, "7"), "accepted")
    table = listed([some, accepted, once, fewer, sure])
    assert table["problem_id"].tolist() == ["sure", "fewer", "once", "some"]
    low, high = share_bounds(np.array([N - 4, 4]), np.array([N, N]))
    assert table["score"][3] == pytest.approx(low[0] - high[1])
    assert table["score"][2] > table["score"][1], "but none of the second's samples is right"
    assert table["majority_votes"].tolist() == [N, N - 4, N - 1, N - 4]
    assert table["c"].tolist() == [0, 0, 1, 4] and (table["gold"] == "7").all()


def test_votes():
    right, half = Verdict(1.0, "correct", "1/2"), Verdict(1.0, "correct", "0.5")
    wrong, program = Verdict(0.0, "wrong", "3"), Verdict(0.0, "wrong")
    groups = [
        group([right, right, half, wrong, wrong, wrong]),  # a tie goes to the accepted class
        group(
            [half, wrong, wrong] + [Verdict(0.0, "unparsed")] + 2 * [Verdict(None, "error", "9")]
        ),
        group([program] * 6),
        group([Verdict(None, "error", "4")] * 6),
        group([Verdict(0.0, "false_negative", "7")] * 5 + [Verdict(1.0, "false_positive", "8")]),
    ]
    table = vote_table(groups)
    assert table["majority_answer"].tolist() == ["1/2", "3", "", "", "7"]
    assert table["majority_votes"].tolist() == [3, 2, 0, 0, 5]
    np.testing.assert_allclose(table["majority_share"], [0.5, 0.5, 0, np.nan, 5 / 6])
    assert table["majority_accepted"].tolist() == [True, False, False, False, False]
    assert table["false_negatives"].tolist() == [0, 0, 0, 0, 5]
    assert table["false_positives"].tolist() == [0, 0, 0, 0, 1]
    assert listed(groups).empty  # six programs without an answer agree on nothing


def test_what_was_injected_is_marked():
    refused = group([Verdict(0.0, "false_negative", "7")] * 20, "refused")
    beside = group(
        [Verdict(0.0, "wrong", "5")] * 19 + [Verdict(0.0, "false_negative", "7")], "beside"
    )
    table = listed([beside, refused]).set_index("problem_id")
    assert table["injected"].to_dict() == {"refused": True, "beside": False}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A diagnosis with a verifier that refuses a third of the right answers."""
    directory = tmp_path_factory.mktemp("noisy") / "run"
    assert diagnose(directory, "verifier.false_negative_rate=0.35") == 0
    return directory


def test_the_command_lists_what_was_injected(found):
    prompts = pd.read_csv(found / "prompts.csv", dtype={"majority_answer": str})
    suspects = pd.read_csv(found / "suspect_golds.csv", dtype={"majority_answer": str, "gold": str})
    assert len(prompts) == NUM_PROMPTS
    known = prompts.set_index("problem_id").loc[suspects["problem_id"]]
    assert (known["majority_answer"].to_numpy() == suspects["majority_answer"].to_numpy()).all()
    assert suspects["injected"].any() and (suspects["share_low"] > 0.5).all()
    for row in suspects.to_dict("records"):
        is_missed = uniform(0, row["problem_id"], row["gold"]) < 0.35
        assert row["injected"] == (row["majority_answer"] == row["gold"])
        assert is_missed or not row["injected"]
    assert (prompts["false_negatives"] + prompts["c"] <= NUM_SAMPLES).all()
    assert (prompts["c"][prompts["false_negatives"] > 0] == 0).all()


def test_the_command_tells_what_errors_weigh(found):
    prompts, table = pd.read_csv(found / "prompts.csv"), pd.read_csv(found / "injected.csv")
    assert table["k"].tolist() == [1, 2, 4] and (table["error"] == "false_negative").all()
    has_it = prompts["false_negatives"] > 0
    for row in table.to_dict("records"):
        weight = prompts[f"weight_{row['k']}"]
        assert row["weight_share"] == pytest.approx(weight[has_it].sum() / weight.sum())
        assert row["prompt_share"] == pytest.approx(has_it.mean())
    assert table["weight_share"].is_monotonic_increasing
    assert (table["contribution"] == 0).all()
    page = (found / "diagnose.md").read_text()
    for words in ("Gold answers that are likely bad", "refused on purpose", "made on purpose"):
        assert words in page
    assert json.loads((found / "manifest.json").read_text())["status"] == "finished"


def test_too_few_samples_cannot_agree(tmp_path):
    assert diagnose(tmp_path / "run", "diagnose.num_samples=4", "diagnose.cosines=false") == 0
    page = (tmp_path / "run" / "diagnose.md").read_text()
    assert "4 samples of a prompt cannot agree beyond doubt" in page
    assert pd.read_csv(tmp_path / "run" / "suspect_golds.csv").empty
    assert "Errors of the verifier" not in page
    assert not (tmp_path / "run" / "injected.csv").exists()


def test_a_verifier_that_refuses_all_leaves_no_gradient(passk, tmp_path):
    words = ("verifier.false_negative_rate=0.999", "data.num_train=24", "diagnose.num_prompts=24")
    outcome = passk("diagnose", *words, "diagnose.num_samples=8", "hydra.run.dir=out")
    assert_refused(outcome, "none of 24 prompts x 8 samples")
    assert not (tmp_path / "out").exists()
