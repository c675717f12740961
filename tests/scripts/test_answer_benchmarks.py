"""The benchmarks of answers: what they call different is, and peers' tests are read right."""

import random

import pytest
from answer_judges import Case
from extract_cases import read_cases
from gold_changes import PERTURBATIONS, REWRITINGS
from held_out_forms import HELD_OUT, HELD_OUT_LATER
from numeric_latex import differ
from own_forms import FORMS
from peer_suites import SUITES, as_completion, case_hash, debatable


@pytest.mark.parametrize(
    ("gold", "other"),
    [
        *(("5", "6"), ("y=2x+1", "y=2x+2"), ("(1,2)", "(2,1)"), ("3+4i", "3-4i"), ("x^2", "x^3")),
        *((r"\sqrt{2}", "2"), (r"\frac12", r"\frac13"), ("2, 3", "2, 4"), (r"2\sin x", r"2\cos x")),
    ],
)
def test_different_answers_are_proved_different(gold, other):
    assert differ(gold, other) and differ(other, gold)


@pytest.mark.parametrize(
    ("gold", "other"),
    [
        *((r"\frac12", "0.5"), ("2, 3", "3, 2"), ("y=2x", "2y=4x"), ("58,500", "58500")),
        *((r"\frac{1}{2}x", r"\frac{x}{2}"), (r"\sqrt[3]{8}", "2"), ("(x+1)^2", "x^2+2x+1")),
        # What the evaluator does not know proves nothing.
        *((r"\text{a}", r"\text{b}"), ("(1,2)", "[1,2]"), (r"2\frac{1}{2}", "3"), ("x=5", "6")),
    ],
)
def test_nothing_is_proved_of_equal_or_unknown_answers(gold, other):
    assert not differ(gold, other)


@pytest.mark.parametrize("make", [*FORMS, *HELD_OUT, *HELD_OUT_LATER], ids=lambda f: f.__name__)
def test_no_answer_of_a_form_is_right_and_wrong(make):
    draw = random.Random(make.__name__)
    for _ in range(100):
        form = make(draw)
        assert form.same and form.other
        assert not {form.gold, *form.same} & set(form.other), form


@pytest.mark.parametrize("gold", ["58500", r"\frac{3}{4}", "x + 2", r"2\sqrt{3}", "3, 5", "(1,2)"])
def test_rewritings_keep_the_value(gold):
    for name, change in REWRITINGS.items():
        new = change(random.Random(0), gold)
        if new is not None and name not in ("noun", "e-notation"):  # e is Euler's number there
            assert not differ(gold, new), (name, new)
    assert any(change(random.Random(0), gold) for change in PERTURBATIONS.values())


PEER = """
import pytest, unittest

@pytest.mark.parametrize("gold,pred,expected", [("1", "$1$", 1), ("2", "3", 0), (make(), "4", 1)])
def test_pairs(gold, pred, expected):
    assert compare(gold, pred) == expected

@pytest.mark.parametrize("case", [{"completion": "5", "answer": "6"}], ids=str)
def test_invalid_rows(case):
    run(case)

class TestGrades(unittest.TestCase):
    def test_grade(self):
        text = "7" + "8"
        self.assertTrue(grade(text, "78"))
        self.assertFalse(grade(unknown, "9"))
        rewards = reward([[{"content": "10"}], [{"content": "11"}]], ["10", "12"])
        assert rewards[0] == 1.0
        self.assertEqual(rewards[1], 0.0)
        assert not grade("13", "14") and grade("15", "15")
        assert grade("16", "17") == 0.1
"""


def test_cases_of_a_peers_tests(tmp_path):
    (tmp_path / "test_peer.py").write_text(PEER)
    judges = {"compare": ((1,), (0,)), "grade": ((0,), (1,)), "reward": ((0,), (1,))}
    found = read_cases(tmp_path, "test_peer.py", judges, ("completion", "answer", ""))
    assert [(c.gold, c.completion, c.expected) for c in found] == [
        ("1", "$1$", True),
        ("2", "3", False),
        ("6", "5", False),
        ("78", "78", True),
        ("10", "10", True),
        ("12", "11", False),
    ]


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("42", r"\boxed{42}"),
        (r"so \boxed{42} it is", r"so \boxed{42} it is"),
        ("The answer is $x^2$.", r"\boxed{x^2}"),
        ("The answer is $x$, that is 42", "The answer is $x$, that is 42"),
        ("<answer>42</answer>", r"\boxed{42}"),
        (r"17\text{ any text}", r"\boxed{17\text{ any text}}"),
        ("#### 42", "#### 42"),
    ],
)
def test_both_judges_get_one_completion(text, given):
    assert as_completion(Case("1", text, True, "f")) == given


def test_debatable_cases_name_a_suite_and_a_reason():
    repositories = {suite.repository for suite in SUITES}
    assert len(debatable()) > 50
    for (repository, name), reason in debatable().items():
        assert repository in repositories and reason, name
    assert case_hash(Case("1", "2", True, "f")) != case_hash(Case("1", "2", False, "f"))
