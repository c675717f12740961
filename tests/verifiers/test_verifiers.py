"""The verifiers that compare text, and what is asked of every verifier before step 0."""

import answers
import pandas as pd
import pytest
from answers import completion
from small_runs import SMALL, metrics, train

from passk.cli.main import main
from passk.config.schema import VerifierConfig
from passk.data.conventions import Mix, make_problems
from passk.errors import UserError
from passk.training.build import VERIFIERS, build_verifier
from passk.types import FinishReason, Problem, Verdict
from passk.verifiers.base import ConventionsVerifier, check_gold, refused_gold, self_test
from passk.verifiers.exact import ExactVerifier


def judge(gold: str, text: str, finish: FinishReason = FinishReason.STOP) -> Verdict:
    return answers.judge(ConventionsVerifier(), gold, text, finish)


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
    verdict = judge(gold, text)
    assert (verdict.reward, verdict.reason) == (reward, reason)
    assert verdict.answer == ("" if reason == "unparsed" else text.rpartition("=")[2])


@pytest.mark.parametrize("text", ["4*5=20;3+20=23", "=23", "", "4*5"])
def test_what_met_the_length_limit_is_truncated_even_if_it_looks_right(text):
    assert judge("23", text, FinishReason.LENGTH) == Verdict(0.0, "truncated")


def test_verdicts_come_in_the_order_of_the_pairs():
    problems = make_problems(40, Mix(0.3, 0.3), split="train", seed=3, duplicates=False)
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
        build_verifier(VerifierConfig(name="maths"))


EXACT = [
    ("Paris", "#### paris.", "correct"),
    ("Paris", r"so \boxed{PARIS}", "correct"),
    ("Paris", "Let me think.\nParis", "correct"),
    ("Paris", "Let me think.\n\u201cParis\u201d", "correct"),
    ("Paris", "Paris\nLondon", "wrong"),
    ("Paris", "Paris, France", "wrong"),
    ("New York", "new   york", "correct"),
    ("New York", "newyork", "wrong"),
    ("caf\u00e9", "cafe\u0301", "correct"),
    ("1234", "1,234", "correct"),
    ("1234", "12,34", "wrong"),
    ("0.5", "1/2", "wrong"),
    ("0.5", ".5", "wrong"),
    ("-5", "5", "wrong"),
    ("yes", "", "unparsed"),
    ("yes", " . ", "unparsed"),
]


@pytest.mark.parametrize(("gold", "text", "reason"), EXACT)
def test_exact_answers(gold, text, reason):
    verifier = ExactVerifier(VerifierConfig(answer_in=["boxed", "hash", "last_line"]))
    assert answers.judge(verifier, gold, text).reason == reason
    assert answers.judge(verifier, gold, text, FinishReason.LENGTH).reason == "truncated"


PLACES = (["boxed", "hash", "last_number"], ["hash"], ["last_number"], ["last_line"])


@pytest.mark.parametrize("name", VERIFIERS)
@pytest.mark.parametrize("places", PLACES, ids="-".join)
def test_every_verifier_passes_its_own_test_wherever_answers_are_read(name, places):
    verifier = build_verifier(VerifierConfig(name=name, answer_in=places, num_workers=1))
    try:
        self_test(verifier)
        golds = ["23", "5"] if name == "conventions" else ["-23", "58,500", "0.5"]
        assert refused_gold(verifier, [Problem(g, "", g) for g in golds]) == []
        reasons = {reason for _, _, reason in verifier.self_test()}
        assert {"correct", "wrong"} <= reasons
    finally:
        verifier.close()


class Contrary(ConventionsVerifier):
    """Calls right what is wrong."""

    def _verify_one(self, problem, answer):
        verdict = super()._verify_one(problem, answer)
        return Verdict(1.0, "correct") if verdict.reason == "wrong" else verdict


class Deaf(ConventionsVerifier):
    """Hears no answer: what a math-verify without its parser is like."""

    def verify(self, pairs):
        return [Verdict(0.0, "unparsed")] * len(pairs)


@pytest.mark.parametrize(
    ("verifier", "says"),
    [
        (Contrary(), "calls '3\\+4=7;7\\*5=35' correct, not wrong"),
        (Deaf(), "unparsed, not correct"),
    ],
)
def test_a_verifier_that_errs_is_found_out(verifier, says):
    with pytest.raises(UserError, match=says):
        self_test(verifier)


def test_a_math_verify_whose_parser_is_broken_is_found_out(tmp_path, monkeypatch):
    """Packages of those names that parse nothing, as math-verify's does with another antlr."""
    broken, parser = tmp_path / "math_verify.py", tmp_path / "latex2sympy2_extended"
    broken.write_text(
        "class LatexExtractionConfig:\n    def __init__(self, **_): pass\n"
        "def parse(*_, **__): return []\ndef verify(*_, **__): return False\n"
    )
    parser.mkdir()
    (parser / "__init__.py").write_text("def NormalizationConfig(**_): pass\n")
    (parser / "latex2sympy2.py").write_text(
        "def normalize_latex(text, _): return text\n"
        "def latex2sympy(*_, **__): raise ImportError('antlr4')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError, match=r"does not work here: .*gold_unparsed, not correct"):
        _self_test_of_math()
    broken.write_text("import no_such_package\n")
    with pytest.raises(UserError, match=r"did not start: .*No module named 'no_such_package'"):
        _self_test_of_math()


def _self_test_of_math() -> None:
    verifier = build_verifier(VerifierConfig(name="math", num_workers=1))
    try:
        self_test(verifier)
    finally:
        verifier.close()


@pytest.mark.parametrize("name", ["exact", "math"])
def test_a_gold_that_no_plain_answer_reaches_is_refused(name):
    """Equal to itself, but to nothing that a person or a model would write."""
    verifier = build_verifier(VerifierConfig(name=name, num_workers=1))
    plain = ("14", "0.5", "1e5", "\u0662\u0663", "7\u200b", "\u22125")
    try:
        assert refused_gold(verifier, [Problem(g, "", g) for g in plain]) == []
        far = [Problem(g, "", g) for g in ("1e-05", "-2.5e+16", "\u0967\u0968")]
        refused = refused_gold(Unfolded(verifier), [Problem("23", "", "23"), *far])
        assert [problem for problem, _ in refused] == far
    finally:
        verifier.close()


class Unfolded(ConventionsVerifier):
    """Knows an answer by its characters alone."""

    def __init__(self, verifier):
        self.demonstrate = verifier.demonstrate

    def verify(self, pairs):
        same = [self.demonstrate(problem) == answer.text for problem, answer in pairs]
        return [Verdict(1.0, "correct") if one else Verdict(0.0, "wrong") for one in same]


@pytest.mark.parametrize("digits", ["23", "\u0662\u0663", "\u0968\u0969", "\uff12\uff13"])
@pytest.mark.parametrize("name", ["conventions", "exact", "math"])
def test_digits_of_every_script_are_one(name, digits):
    verifier = build_verifier(VerifierConfig(name=name, num_workers=1))
    try:
        for gold, said in (("23", digits), (digits, "23"), (digits, digits)):
            text = verifier.demonstrate(Problem("", "", said))
            assert answers.judge(verifier, gold, text).reason == "correct"
            assert answers.judge(verifier, "24", text).reason == "wrong"
    finally:
        verifier.close()


def test_refused_gold_answers_are_named_and_only_the_hopeless_leave_training():
    train_problems = [Problem(f"t-{i}", "", "1" if i else "one") for i in range(8)]
    heldout = [Problem("h-0", "", "two"), Problem("h-1", "", "2")]
    checked = check_gold(ConventionsVerifier(), train_problems, heldout)
    assert [(split, p.id, v.reason) for split, p, v in checked.refused] == [
        ("train", "t-0", "unparsed"),
        ("heldout", "h-0", "unparsed"),
    ]
    assert checked.kept(train_problems) == tuple(train_problems[1:])
    assert "refuses 2 of 10 (t-0, h-0; see gold_refused.csv)" in checked.sentence(1)
    with pytest.raises(UserError, match=r"refuses every gold answer of the train problems \(t-0"):
        check_gold(ConventionsVerifier(), train_problems[:1], heldout)


def _write(path, answers_of_rows) -> str:
    rows = [
        f'{{"prompt": "T{path.stem[0]}{i}=", "answer": "{a}"}}\n'
        for i, a in enumerate(answers_of_rows)
    ]
    path.write_text("".join(rows))
    return str(path)


def test_a_run_names_refused_gold_and_counts_reasons(tmp_path, capsys):
    files = [
        f"data.path={_write(tmp_path / '1.jsonl', ['1', 'one', *'23456789'])}",
        f"data.eval_path={_write(tmp_path / '2.jsonl', ['two', *'23456789'])}",
    ]
    run = tmp_path / "run"
    assert train(run, *files, "train.num_steps=1", "diagnostics.every=0") == 0
    refused = pd.read_csv(run / "gold_refused.csv", dtype=str)
    assert refused.to_dict("list") == {
        "split": ["train", "heldout"],
        "problem_id": ["1-2", "2-1"],
        "answer": ["one", "two"],
        "reason": ["unparsed", "unparsed"],
    }
    said = [line for line in capsys.readouterr().out.splitlines() if "gold" in line]
    assert len(said) == 1 and "left out of training: 1;" in said[0]
    (line,) = metrics(run)
    assert sum(line["reasons"].values()) == 6 * 4
    assert set(line["reasons"]) <= {"correct", "wrong", "unparsed", "truncated"}

    out = tmp_path / "eval"
    words = [f"run={run}", *SMALL_EVAL, f"hydra.run.dir={out}"]
    assert main(["eval", *words]) == 0
    assert list(pd.read_csv(out / "gold_refused.csv")["split"]) == ["heldout"]

    unchecked = tmp_path / "unchecked"
    words = [*files, "train.num_steps=1", "diagnostics.every=0", "data.check_gold=false"]
    assert train(unchecked, *words) == 0
    assert not (unchecked / "gold_refused.csv").exists()


SMALL_EVAL = [word for word in SMALL if word.startswith(("eval.", "num_threads"))]


def test_a_run_whose_gold_answers_are_all_refused_leaves_nothing(tmp_path, capsys):
    files = [
        f"data.path={_write(tmp_path / '1.jsonl', ['one', 'two'])}",
        f"data.eval_path={_write(tmp_path / '2.jsonl', ['2'])}",
    ]
    assert train(tmp_path / "run", *files) == 2
    assert "refuses every gold answer of the train problems" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
