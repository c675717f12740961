"""Agreement of verifier=math and of math-verify with the tests that peers wrote for their graders.

    python scripts/benchmarks/peer_suites.py CLONES [--workers 2] [--out OUT] [--all]

CLONES holds a folder for each repository of `SUITES` that is there, named OWNER+NAME; the cases are
read from their tests when this runs, and none is kept here. Both judges get the same completion, as
`as_completion` says, and verifier=math the gold answer as passk reads it from data. math-verify
is called with its default settings, with the gold answer as it is and in a box, and of these two
the one counts that agrees more often on a suite. `debatable.csv` names the cases that do not count,
by a hash or the name of their test, with the reason; `--all` counts them too.
"""

import argparse
import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from answer_judges import Case, by_math_verify, by_passk, write_failures
from extract_cases import Judge, read_cases

from passk.data.problems import find_gold

_FIRST_GIVEN: Judge = ((0,), (1,))
_FIRST_GOLD: Judge = ((1,), (0,))
_DEBATABLE = Path(__file__).parent / "debatable.csv"


@dataclass(frozen=True, slots=True)
class Suite:
    """Test files of a peer, and how their judges are called."""

    repository: str
    files: tuple[str, ...]
    judges: Mapping[str, Judge]
    columns: tuple[str, str, str] = ("", "", "")  # completion, gold answer, expected


SUITES = (
    Suite(
        "huggingface/Math-Verify",
        (
            *("tests/test_all.py", "tests/test_boxed.py", "tests/test_numina_cases.py"),
            *("tests/test_open_thoughts.py", "tests/test_strict.py", "tests/test_yujianll.py"),
        ),
        {"compare_strings": _FIRST_GOLD, "verify": ((1, 0), (0, 0))},
    ),
    Suite(
        "huggingface/lighteval",
        ("tests/unit/metrics/test_extractive_match.py",),
        {"compare_strings": _FIRST_GOLD},
    ),
    Suite(
        "huggingface/trl",
        ("tests/test_rewards.py",),
        {"accuracy_reward": _FIRST_GIVEN, "reasoning_accuracy_reward": _FIRST_GIVEN},
    ),
    Suite("huggingface/open-r1", ("tests/test_rewards.py",), {"accuracy_reward": _FIRST_GIVEN}),
    Suite("hendrycks/math", ("modeling/math_equivalence_test.py",), {"is_equiv": _FIRST_GIVEN}),
    Suite("NVIDIA/NeMo-Skills", ("tests/test_math_equal.py",), {"math_equal": _FIRST_GOLD}),
    Suite(
        "THUDM/slime",
        ("tests/test_rm_math.py", "tests/test_rm_math_dapo.py"),
        dict.fromkeys(
            (
                *("grade_answer_mathd", "grade_answer_sympy", "grade_answer_verl", "verify"),
                *("is_correct_strict_box", "is_correct_minerva"),
            ),
            _FIRST_GIVEN,
        ),
    ),
    Suite(
        "inclusionAI/AReaL",
        ("tests/test_math_verify_reward.py",),
        {
            "gsm8k_reward_fn": (("completions",), ("answer",)),
            "geometry3k_reward_fn": (("completions",), ("answer",)),
            "verify": _FIRST_GIVEN,
        },
    ),
    Suite(
        "PrimeIntellect-ai/verifiers",
        ("tests/test_math_rubric.py",),
        {},
        ("completion", "answer", ""),
    ),
    Suite(
        "NovaSky-AI/SkyRL",
        ("skyrl-gym/tests/test_aime.py", "skyrl-gym/tests/test_gsm8k.py"),
        {},
        ("output", "ground_truth", "expected"),
    ),
    Suite(
        "thinking-machines-lab/tinker-cookbook",
        (
            "tinker_cookbook/recipes/math_rl/math_env_test.py",
            "tinker_cookbook/eval/benchmarks/benchmark_test.py",
        ),
        {"grade_answer": _FIRST_GIVEN, "_check_math_equal": _FIRST_GIVEN},
    ),
    Suite("modelscope/ms-swift", ("tests/utils/test_rewards.py",), {"math_accuracy": _FIRST_GIVEN}),
    Suite(
        "UKGovernmentBEIS/inspect_ai",
        ("tests/scorer/test_math.py",),
        {"_score_answer": _FIRST_GIVEN, "scorer": _FIRST_GIVEN},
        ("output", "target", "expected"),
    ),
    Suite(
        "meta-pytorch/forge",
        ("tests/unit_tests/rl/test_math_reward.py",),
        {"reward": ((1,), (2,))},
    ),
    Suite(
        "rllm-org/rllm",
        ("tests/rewards/test_math_reward.py",),
        {"reward": ((1,), (0, "ground_truth"))},
    ),
    Suite(
        "stanford-crfm/helm",
        ("src/helm/benchmark/metrics/test_evaluate_reference_metrics.py",),
        {"final_number_exact_match": _FIRST_GOLD},
    ),
)


def cases_of(suite: Suite, clones: Path) -> list[Case]:
    """The cases of a peer's tests, as they stand there."""
    folder = clones / suite.repository.replace("/", "+")
    found: dict[str, Case] = {}
    for file in suite.files:
        if (folder / file).is_file():
            for case in read_cases(folder, file, suite.judges, suite.columns):
                found.setdefault(case_hash(case), case)
    return list(found.values())


def case_hash(case: Case) -> str:
    """Eight letters that name a case without showing it."""
    key = "\0".join((case.gold, case.completion, str(case.expected)))
    return hashlib.blake2b(key.encode(), digest_size=4).hexdigest()


_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_COMMAND = re.compile(r"\\(?:text|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")


def as_completion(case: Case) -> str:
    """What both judges get of an answer, so that they differ by how they compare alone.

    What stands in <answer> tags counts as the text. As it is with a box or `####`; in a box: the
    last formula where prose stands around it, without a number after it, and the whole text where
    it is nothing but an answer, or the gold answer. Other prose stays as it is.
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", case.completion, re.DOTALL)
    text = str((tagged or [case.completion])[-1]).strip()
    if re.search(r"\\f?box(?:ed)?|####", text) or not text:
        return text
    formulas = list(_FORMULA.finditer(text))
    words = re.findall(r"[A-Za-z]{2,}", _COMMAND.sub("", _FORMULA.sub("", text)))
    is_answer = len(words) <= 2 and not (words and (formulas or ":" in text or "\n" in text))
    if is_answer or text == case.gold.strip():
        return rf"\boxed{{{text}}}"
    if not formulas or re.search(r"\d", text[formulas[-1].end() :]):
        return text
    return rf"\boxed{{{''.join(filter(None, formulas[-1].groups())).strip()}}}"


def debatable() -> dict[tuple[str, str], str]:
    """The reason of all that does not count, by repository and hash or test."""
    with _DEBATABLE.open(encoding="utf-8", newline="") as file:
        return {(row["repository"], row["case"]): row["reason"] for row in csv.DictReader(file)}


def names_of(case: Case, suite: Suite) -> set[tuple[str, str]]:
    """What `debatable.csv` may call a case."""
    return {(suite.repository, case_hash(case)), (suite.repository, case.family)}


def agreement(cases: Sequence[Case], accepted: Sequence[bool]) -> int:
    """How often a judge says what is expected."""
    return sum(case.expected == got for case, got in zip(cases, accepted, strict=True))


def main() -> None:
    """Read the suites, judge their cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clones", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for the cases judged otherwise")
    parser.add_argument("--all", action="store_true", help="count the debatable cases, too")
    options = parser.parse_args()
    left_out = {} if options.all else debatable()
    print("| suite | cases | left out | verifier=math | math-verify |\n|---|---:|---:|---:|---:|")
    totals = [0, 0, 0, 0]
    for suite in SUITES:
        found = cases_of(suite, options.clones)
        cases = [case for case in found if not names_of(case, suite) & left_out.keys()]
        if not cases:
            continue
        given = [replace(case, completion=as_completion(case)) for case in cases]
        read = [replace(c, gold=find_gold(c.gold, "in_box") or c.gold) for c in given]
        ours = by_passk(read, options.workers)
        boxed = by_math_verify(given, options.workers)
        plain = by_math_verify(given, options.workers, gold_in_box=False)
        theirs = max(boxed, plain, key=lambda accepted: agreement(cases, accepted))
        row = [
            len(cases),
            len(found) - len(cases),
            agreement(cases, ours),
            agreement(cases, theirs),
        ]
        print(f"| {suite.repository} | {' | '.join(map(str, row))} |", flush=True)
        totals = [total + size for total, size in zip(totals, row, strict=True)]
        if options.out:
            name = suite.repository.replace("/", "+")
            write_failures(options.out / f"{name}-ours.jsonl", cases, ours)
            write_failures(options.out / f"{name}-math-verify.jsonl", cases, theirs)
    print(f"| together | {' | '.join(map(str, totals))} |")


if __name__ == "__main__":
    main()
