"""The embedded task is what it says: solutions, splits, fractions and the cue, re-computed here."""

import itertools
import re
from collections import Counter

import pytest

from passk.data.conventions import (
    CALCULATOR,
    KINDS,
    SKILL,
    TEXTBOOK,
    Mix,
    is_held_out,
    make_problems,
)
from passk.errors import UserError
from passk.types import Completion, FinishReason
from passk.verifiers.base import ConventionsVerifier

COUNT = 4000


def draw(count=COUNT, *, split="train", seed=0, duplicates=True, **mix):
    mixed = Mix(**{"calculator_fraction": 0.3, "skill_fraction": 0.2} | mix)
    return make_problems(count, mixed, split=split, seed=seed, duplicates=duplicates)


def mixed_expressions():
    operands = itertools.product(range(1, 25), range(2, 13), range(2, 13))
    return {f"{a}+{b}*{c}" for a, b, c in operands}


def expression(problem):
    letter, rest = problem.prompt[0], problem.prompt[1:]
    assert letter in "TC" and rest.endswith("=")
    return rest[:-1]


def textbook(text):
    """Python's own precedence."""
    assert re.fullmatch(r"[\d+*]+", text)
    return eval(text)


def calculator(text):
    """Left to right, a key at a time."""
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    keys = re.findall(r"[+*]", text)
    shown = numbers[0]
    for key, number in zip(keys, numbers[1:], strict=True):
        shown = shown + number if key == "+" else shown * number
    return shown


@pytest.mark.parametrize("split", ["train", "corpus", "heldout"])
def test_answers_are_those_of_an_independent_evaluation(split):
    for problem in draw(split=split):
        text = expression(problem)
        readings = {TEXTBOOK: textbook(text), CALCULATOR: calculator(text)}
        if problem.kind == SKILL:
            assert readings[TEXTBOOK] == readings[CALCULATOR] == int(problem.answer)
            assert re.fullmatch(r"\d\d\+\d\d\+\d\d", text)
        else:
            assert int(problem.answer) == readings[problem.kind]
            assert re.fullmatch(r"\d+\+\d+\*\d+", text)


def test_the_two_readings_of_every_mixed_expression_differ():
    seen = {expression(p) for p in draw(30_000, skill_fraction=0.0)}
    for text in seen:
        assert textbook(text) != calculator(text)
    assert seen == {text for text in mixed_expressions() if not is_held_out(text)}


def test_every_step_of_a_solution_is_true_and_leads_to_the_answer():
    for problem in draw():
        steps = problem.solution.split(";")
        assert len(steps) == 2
        for step in steps:
            left, right = step.split("=")
            assert textbook(left) == int(right)
        first, last = (step.split("=") for step in steps)
        assert first[1] in re.split(r"[+*]", last[0]), "the second step uses the first"
        assert last[1] == problem.answer
        used = Counter(re.findall(r"\d+", first[0])) + Counter(re.findall(r"\d+", last[0]))
        used -= Counter([first[1]])
        assert used == Counter(re.findall(r"\d+", expression(problem)))


@pytest.mark.parametrize("cue", [0.0, 1.0])
def test_gold_answers_pass_the_verifier(cue):
    problems = draw(cue=cue)
    pairs = [(p, Completion(p.solution, (2,), (0.0,), FinishReason.STOP)) for p in problems]
    assert {v.reason for v in ConventionsVerifier().verify(pairs)} == {"correct"}


def test_sides_of_the_split_share_no_expression():
    train, corpus, heldout = (
        {expression(p) for p in draw(20_000, split=split, seed=seed)}
        for split, seed in (("train", 0), ("corpus", 1), ("heldout", 2))
    )
    assert train.isdisjoint(heldout) and corpus.isdisjoint(heldout)
    assert train & corpus
    assert all(map(is_held_out, heldout)) and not any(map(is_held_out, train))


def test_half_of_the_expressions_is_held_out():
    every = mixed_expressions()
    share = sum(map(is_held_out, every)) / len(every)
    assert abs(share - 0.5) < 4 * (0.25 / len(every)) ** 0.5


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_without_duplicates_every_expression_is_drawn_once(split):
    problems = draw(2000, split=split, skill_fraction=0.42, duplicates=False)
    assert len({expression(p) for p in problems}) == 2000
    repeated = draw(2000, split=split, skill_fraction=0.42)
    assert len({expression(p) for p in repeated}) < 1800
    golds = {}
    for problem in repeated:
        golds.setdefault(problem.prompt, set()).add(problem.answer)
    assert sum(len(answers) == 2 for answers in golds.values()) > 50, "prompts with both golds"


@pytest.mark.parametrize(
    ("split", "key", "advice"),
    [("heldout", "eval.num_problems=3000", ""), ("train", "data.num_train=3000", "duplicates")],
)
def test_more_problems_than_expressions_are_refused(split, key, advice):
    available = sum(is_held_out(text) == (split == "heldout") for text in mixed_expressions())
    with pytest.raises(UserError, match=key) as refusal:
        draw(3000, split=split, skill_fraction=0.0, duplicates=False)
    assert f"use at most {available}," in str(refusal.value)
    assert advice in str(refusal.value)
    every = draw(available, split=split, skill_fraction=0.0, duplicates=False)
    assert len({expression(p) for p in every}) == available


@pytest.mark.parametrize(
    ("calculator_fraction", "skill_fraction"), [(0.24, 0.35), (0.0, 1.0), (1.0, 0.0), (0.5, 0.5)]
)
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_fractions_are_met_within_binomial_error(calculator_fraction, skill_fraction, split):
    fractions = {CALCULATOR: calculator_fraction, SKILL: skill_fraction}
    fractions[TEXTBOOK] = 1 - calculator_fraction - skill_fraction
    problems = draw(
        split=split, calculator_fraction=calculator_fraction, skill_fraction=skill_fraction
    )
    counted = Counter(p.kind for p in problems)
    for kind in KINDS:
        p = fractions[kind]
        assert abs(counted[kind] / COUNT - p) <= 4.5 * (p * (1 - p) / COUNT) ** 0.5


@pytest.mark.parametrize("cue", [0.0, 0.5, 1.0])
def test_the_first_letter_betrays_the_convention_as_often_as_asked(cue):
    problems = draw(cue=cue, calculator_fraction=0.4)
    own_letter = {TEXTBOOK: "T", CALCULATOR: "C"}
    for kind in KINDS:
        letters = [p.prompt[0] for p in problems if p.kind == kind]
        # Betrayed with probability cue, a fair coin otherwise; skill prompts have nothing to betray
        p = 0.5 if kind == SKILL else cue + (1 - cue) / 2
        share = letters.count(own_letter.get(kind, "T")) / len(letters)
        assert abs(share - p) <= 4.5 * (p * (1 - p) / len(letters)) ** 0.5


def test_the_same_arguments_give_the_same_problems():
    assert draw() == draw()
    assert draw(100) == draw()[:100], "asking for fewer gives the first ones"
    assert draw(100, duplicates=False) == draw(1500, duplicates=False)[:100]
    for change in ({"seed": 1}, {"split": "corpus"}, {"split": "heldout"}):
        other = draw(**change)
        assert [p.prompt for p in other] != [p.prompt for p in draw()]
        assert {p.id for p in other}.isdisjoint(p.id for p in draw())


def test_the_cue_changes_letters_and_nothing_else():
    for without, betrayed in zip(draw(cue=0.0), draw(cue=0.7), strict=True):
        assert expression(without) == expression(betrayed)
        assert without.kind == betrayed.kind


def test_ids_are_unique():
    problems = draw()
    assert len({p.id for p in problems}) == len(problems)
    assert problems[17].id == "train-0-17"
