"""What the conventions verifier calls right, wrong, unparsed and truncated."""

import pytest

from passk.conventions import make_problems
from passk.errors import UserError
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers import ConventionsVerifier, build_verifier


def completion(text: str, finish: FinishReason = FinishReason.STOP) -> Completion:
    return Completion(text, (2,) * len(text), (-0.1,) * len(text), finish)


def judge(gold: str, text: str, finish: FinishReason = FinishReason.STOP) -> Verdict:
    problem = Problem("p-1", "T3+4*5=", gold)
    return ConventionsVerifier().verify([(problem, completion(text, finish))])[0]


# Numbers are compared as they are written: a leading zero is wrong, as no gold answer has one.
JUDGED = [
    ("23", "4*5=20;3+20=23", 1.0, "correct"),
    ("23", "=23", 1.0, "correct"),
    ("23", "nonsense=1;;==23", 1.0, "correct"),
    ("23", "3+4=7;7*5=35", 0.0, "wrong"),
    ("23", "4*5=20;3+20=123", 0.0, "wrong"),
    ("23", "4*5=20;3+20=2", 0.0, "wrong"),
    ("23", "4*5=23;3+20=20", 0.0, "wrong"),
    ("23", "4*5=20;3+20=023", 0.0, "wrong"),
    ("0", "=0", 1.0, "correct"),
    ("0", "=00", 0.0, "wrong"),
    ("23", "23", 0.0, "unparsed"),
    ("23", "", 0.0, "unparsed"),
    ("23", "=", 0.0, "unparsed"),
    ("23", "=23;", 0.0, "unparsed"),
    ("23", "=23 ", 0.0, "unparsed"),
    ("23", "=23=", 0.0, "unparsed"),
    ("23", "= 23", 0.0, "unparsed"),
    ("23", "=-23", 0.0, "unparsed"),
    ("23", "=23.0", 0.0, "unparsed"),
    ("23", "3+20=2T3", 0.0, "unparsed"),
]


@pytest.mark.parametrize(("gold", "text", "reward", "reason"), JUDGED)
def test_verdicts(gold, text, reward, reason):
    answer = text.rpartition("=")[2] if reason in ("correct", "wrong") else ""
    assert judge(gold, text) == Verdict(reward, reason, answer)


@pytest.mark.parametrize("text", ["4*5=20;3+20=23", "=23", "", "4*5"])
def test_what_met_the_length_limit_is_truncated_even_if_it_looks_right(text):
    assert judge("23", text, FinishReason.LENGTH) == Verdict(0.0, "truncated")


def test_verdicts_come_in_the_order_of_the_pairs():
    problems = make_problems(
        40, split="train", seed=3, calculator_fraction=0.3, skill_fraction=0.3, cue=0.0
    )
    pairs = [
        (problem, completion(problem.solution if i % 3 else "=x"))
        for i, problem in enumerate(problems)
    ]
    verdicts = ConventionsVerifier().verify(pairs)
    assert [v.reason for v in verdicts] == [
        "correct" if i % 3 else "unparsed" for i in range(len(problems))
    ]
    assert ConventionsVerifier().verify([]) == []


def test_a_long_completion_takes_no_time():
    assert judge("23", "=1" * 200_000).reason == "wrong"
    assert judge("23", "1" * 400_000).reason == "unparsed"
    assert judge("23", "=" + "1" * 400_000).reason == "wrong"


def test_unknown_verifier_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"verifier.name=maths is unknown; allowed: conventions"):
        build_verifier("maths")
