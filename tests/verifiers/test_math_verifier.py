"""Mathematical equality: a corpus of answers, the exact path against math-verify, and limits."""

import os
import time
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest
from answers import completion, judge, worker_pids
from hypothesis import given, settings
from hypothesis import strategies as st
from math_verify import parse, verify

from passk.config.schema import ANSWER_PLACES, VerifierConfig
from passk.types import FinishReason, Problem, Verdict
from passk.verifiers.math.equality import same_answer
from passk.verifiers.math.forms import Number, describe
from passk.verifiers.math.reader import read_answer
from passk.verifiers.math.spelling import normalise_latex
from passk.verifiers.math.text import MAX_ANSWER_CHARS, find_answer, last_box
from passk.verifiers.math.verifier import MathVerifier

CORPUS = pd.read_csv(
    Path(__file__).parent / "verifier_corpus.csv", dtype=str, keep_default_na=False
)


@pytest.fixture(scope="module")
def verifier():
    built = MathVerifier(VerifierConfig(name="math", num_workers=1, timeout_seconds=30))
    yield built
    built.close()


def math_verify_alone(gold: str, text: str) -> bool:
    """As trainers call it: the gold answer in a box, the completion as it is."""
    read = [parse(rf"\boxed{{{gold}}}", parsing_timeout=None), parse(text, parsing_timeout=None)]
    return bool(verify(*read, timeout_seconds=None))


def test_the_corpus_is_judged_as_it_says_and_the_known_errors_are_the_only_ones(verifier):
    """The column `right` is the truth, `ours` the verdict; they differ in the known errors."""
    pairs = [
        (Problem("p", "", row.gold), completion(row.completion)) for row in CORPUS.itertuples()
    ]
    verdicts = verifier.verify(pairs)
    assert len(CORPUS) >= 800
    differing = [
        (row.gold, row.completion, verdict.reason, row.ours)
        for row, verdict in zip(CORPUS.itertuples(), verdicts, strict=True)
        if verdict.reason != row.ours
    ]
    assert not differing
    is_wrong = (CORPUS["ours"] == "correct") != (CORPUS["right"] == "1")
    assert set(CORPUS[is_wrong]["section"]) == {"Known to be beyond reach"}
    assert is_wrong.sum() == 10


def test_what_math_verify_alone_says_is_still_so():
    """docs/research/benchmarks.md counts its errors from the column `math_verify`."""
    differing = [
        (row.gold, row.completion)
        for row in CORPUS.itertuples()
        if math_verify_alone(row.gold, row.completion) != (row.math_verify == "1")
    ]
    assert not differing
    accepted, right = CORPUS["math_verify"] == "1", CORPUS["right"] == "1"
    assert (int((accepted & ~right).sum()), int((~accepted & right).sum())) == (73, 280)


numbers = st.one_of(
    st.integers(-(10**7), 10**7).map(str),
    st.integers(-(10**7), 10**7).map("{:,}".format),
    st.tuples(st.integers(-999, 999), st.integers(0, 10**5)).map(lambda t: f"{t[0]}.{t[1]}"),
    st.tuples(st.integers(-99, 99), st.integers(1, 99)).map(
        lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"
    ),
    st.tuples(st.integers(0, 99), st.integers(1, 99)).map(lambda t: f"{t[0]}/{t[1]}"),
)


@given(numbers, numbers)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_numbers_are_judged_here_as_math_verify_judges_them(gold, answer):
    """In both directions, with pairs of one value made of pairs of two; but its rounding is not
    ours: where it calls a decimal and a fraction equal, the exact values decide."""
    for other in (answer, gold, str(float(value_of(gold)))):
        here = same_answer(gold, other, never)
        assert here == (value_of(gold) == value_of(other))
        there = math_verify_alone(gold, rf"\boxed{{{other}}}")
        assert here == there or abs(value_of(gold) - value_of(other)) <= Fraction(1, 10**6)


def value_of(number: str) -> Fraction:
    form = read_answer(number)
    assert isinstance(form, Number), number
    return form.value


def never(gold: str, answer: str) -> bool | None:
    raise AssertionError(f"{gold} and {answer} need no algebra")


@pytest.mark.parametrize(
    ("text", "places", "found"),
    [
        (r"\boxed{1} #### 2 and 3", ["boxed", "hash", "last_number"], "1"),
        (r"\boxed{1} #### 2 and 3", ["hash", "boxed"], "2 and 3"),
        (r"\boxed{1} #### 2 and 3", ["last_number"], "3"),
        (r"no box, 3", ["boxed", "hash"], None),
        ("#### 5\n#### 6\n", ["hash"], "6"),
        ("####\n7", ["hash", "last_number"], "7"),
        ("first\n second \n\n", ["last_line"], "second"),
        ("", list(ANSWER_PLACES), None),
        (r"\boxed{" + "1" * (MAX_ANSWER_CHARS + 1) + "}", list(ANSWER_PLACES), None),
        ("#### **18**", ["hash"], "18"),
        ("#### 18 (eighteen)", ["hash"], "18"),
        ("####18<|im_end|>", ["hash"], "18"),
        ("#### f(x)", ["hash"], "f(x)"),
        ("a \N{MINUS SIGN}5", ["last_number"], "\N{MINUS SIGN}5"),
        ("a -5", ["last_number"], "-5"),
        ("7-5", ["last_number"], "5"),
        ("(-5)", ["last_number"], "-5"),
        ("-$5,000.50.", ["last_number"], "-$5,000.50"),
        ("$-5", ["last_number"], "$-5"),
        ("1,234,567", ["last_number"], "1,234,567"),
        ("1, 2", ["last_number"], "2"),
        ("50 %", ["last_number"], "50 %"),
        (r"\frac{3}{4}", ["last_number"], r"\frac{3}{4}"),
        ("3/4.", ["last_number"], "3/4"),
        ("2 3/4", ["last_number"], "2 3/4"),
        (".5", ["last_number"], ".5"),
    ],
)
def test_where_the_answer_is_found(text, places, found):
    assert find_answer(text, places) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{a} then \boxed{b", "a"),
        (r"} \boxed{a}", "a"),
        (r"{ \boxed{a}", "a"),
        (r"\boxed {a}", "a"),
        (r"\boxed{1}, \boxed{2}, and \boxed{1}", "1, 2"),
        (r"\boxed{1}, \boxed{234}", "1, 234"),
        (r"\boxed{} \boxed{5} \boxed{}", "5"),
        (r"\boxed 5 in all", "5"),
        (r"\boxed{1} so \boxed{2}", "2"),
        (r"\unboxed{1}", None),
    ],
)
def test_boxes(text, found):
    assert last_box(text) == found


@pytest.mark.parametrize("places", [[place] for place in ANSWER_PLACES])
@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "{",
        "}",
        "\\boxed{1}",
        "\\boxed{1},",
        "####",
        "1,111,",
        "1",
        "-",
        "1/",
        "\\",
        "$",
    ],
)
def test_finding_takes_linear_time(piece, places):
    """A hundred thousand pieces take seconds of CPU at most; quadratic time would be minutes."""
    started = time.process_time()
    find_answer(piece * 100_000, places)
    assert time.process_time() - started < 3


PIECES = [
    *"0129.,/-+(){}[]^_=<%$ab \\\n",
    r"\frac",
    r"\text{",
    r"\cup",
    r"\pm",
    r"\sqrt",
    "cm",
    "and",
]
PIECES += [r"\begin{pmatrix}", r"\\", "^2", r"^\circ", "word "]


@given(st.lists(st.sampled_from(PIECES), max_size=300))
@settings(max_examples=400, deadline=2000, derandomize=True)
def test_reading_never_raises_and_is_bounded(pieces):
    text = "".join(pieces)[:MAX_ANSWER_CHARS]
    describe(read_answer(text))
    assert same_answer("5", text, lambda gold, answer: None) in (True, False, None)


@given(
    st.lists(
        st.sampled_from([" ^2", " cm", "5", " ", "a", r"\text{", "}", ",", "("]),
        min_size=3,
        max_size=4,
    ),
    st.sampled_from(["", "!", "5 cm"]),
)
@settings(max_examples=300, deadline=2000, derandomize=True)
def test_repetition_takes_no_time(pieces, start):
    read_answer.__wrapped__((start + "".join(pieces) * 300)[: MAX_ANSWER_CHARS - 1] + "!")


@pytest.mark.parametrize(
    "text",
    [
        "1e999999999999",
        "1e-99999",
        r"10^{99999999}",
        r"1.5\times 10^{-99999}",
        "9" * 900 + "e999",
        r"7 \pmod{" + "9" * 900 + "}",
        "0." + "123" * 300 + "...",
        "{" * 499 + "5" + "}" * 499,
        "(" * 499 + "5" + ")" * 499,
        ":".join("1" * 400),
        r"\text{cm}" * 100,
        "5 " + r"\text{N}\cdot" * 70,
        r"\boxed{1} word and " * 50,
        "x" * 60 + "(" * 60 + "=5",
        r"\color{red}" * 80,
    ],
)
def test_what_could_be_large_is_bounded_before_it_is_computed(text):
    started = time.process_time()
    describe(read_answer.__wrapped__(text))
    assert time.process_time() - started < 1
    assert same_answer("5", text, lambda gold, answer: None) in (True, False, None)


def test_a_normal_answer_is_the_same_when_normalised_twice():
    for gold in CORPUS["gold"]:
        once = normalise_latex(gold)
        assert normalise_latex(once) == once, gold


def test_the_length_limit_decides_before_the_answer(verifier):
    verdict = judge(verifier, "18", "#### 18", FinishReason.LENGTH)
    assert verdict == Verdict(0.0, "truncated")


def test_answers_are_named_for_votes(verifier):
    names = {
        "#### 58,500": "58500",
        r"\boxed{\frac{2}{4}}": "1/2",
        r"\boxed{0.5}": "1/2",
        r"\boxed{\text{(B)}}": "b",
        r"\boxed{3, 2}": "2,3",
        r"\boxed{(3, 2)}": "(3,2)",
        r"\boxed{x = 7}": "7",
        r"\boxed{\sqrt 2}": r"\sqrt{2}",
    }
    for text, name in names.items():
        assert judge(verifier, "1", text).answer == name


def test_a_gold_answer_that_cannot_be_read_is_named(verifier):
    assert judge(verifier, r"\frac{x", r"\boxed{x}").reason == "gold_unparsed"
    assert judge(verifier, "1" * 2000, r"\boxed{x}").reason == "gold_unparsed"


def test_verdicts_come_in_order_whatever_the_path(verifier):
    golds = ["1", r"\sqrt{2}", "2", r"\pi", "3", r"\sqrt{2}"] * 4
    texts = [rf"\boxed{{{gold}}}" if i % 3 else "none" for i, gold in enumerate(golds)]
    pairs = [
        (Problem(f"p-{i}", "", g), completion(t))
        for i, (g, t) in enumerate(zip(golds, texts, strict=True))
    ]
    expected = ["correct" if i % 3 else "unparsed" for i in range(len(golds))]
    assert [v.reason for v in verifier.verify(pairs)] == expected
    assert verifier.verify([]) == []


def test_numbers_need_no_process():
    before = len(worker_pids(os.getpid()))
    built = MathVerifier(VerifierConfig(name="math", num_workers=1))
    try:
        assert judge(built, "58,500", "#### $58500.00").reason == "correct"
        assert len(worker_pids(os.getpid())) == before
    finally:
        built.close()
