"""False accepts and false refusals of verifier=math and of math-verify, as a Markdown table.

    python scripts/benchmarks/perturbed_golds.py FOLDER [--split test] [--seed 0] [--workers 2]
        [--perturbed 8200] [--rewritten 13000] [--out OUT] [--passk-only]

FOLDER holds gsm8k/ and math/ with train.jsonl and test.jsonl. Gold answers of these, and of forms
of our own, are changed so that they say something else (proved by `numeric_latex.differ`, or by
construction) or the same (by construction). OUT gets the cases judged otherwise, one JSON object a
line. The reader of answers is tuned on `--split train`; what is published is of `--split test`,
whose gold answers and `held_out_forms` nothing was tuned on.
"""

import argparse
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from answer_judges import Case, by_math_verify, by_passk, write_failures
from gold_changes import PERTURBATIONS, PROSE, REWRITINGS
from held_out_forms import HELD_OUT, HELD_OUT_LATER
from numeric_latex import differ
from own_forms import FORMS, Form

MakeForm = Callable[[random.Random], Form]
_MAX_OF_FAMILY = 0.06  # of all cases: no family decides the figure
_BOX = "The answer is $\\boxed{{{}}}$."


def golds(folder: Path, split: str) -> Iterator[tuple[str, str]]:
    """The gold answers of GSM8K and MATH, each with the name of its data set."""
    for name in ("gsm8k", "math"):
        with (folder / name / f"{split}.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                gold = json.loads(line)["answer"].rpartition("#### ")[2].strip()
                if gold and "\n" not in gold and not _is_malformed(gold):
                    yield name, gold


def _is_malformed(gold: str) -> bool:
    r"""Whether braces do not pair, or a row of a matrix ends with one backslash (`1\-3`)."""
    braces = re.sub(r"\\.", "", gold)
    return braces.count("{") != braces.count("}") or bool(re.search(r"(?<!\\)\\[-\d]", gold))


def perturbed(
    real: Sequence[tuple[str, str]], forms: Sequence[MakeForm], draw: random.Random
) -> Iterator[Case]:
    """Answers that differ from their gold answer, for ever."""
    while True:
        if draw.random() < 0.3:
            yield _of_a_form(forms, draw, is_right=False)
            continue
        name, gold = draw.choice(real)
        change = draw.choice(list(PERTURBATIONS))
        answer = PERTURBATIONS[change](draw, gold)
        if answer and differ(gold, answer):
            yield _case(gold, answer, False, f"{name}: {change}")


def rewritten(
    real: Sequence[tuple[str, str]], forms: Sequence[MakeForm], draw: random.Random
) -> Iterator[Case]:
    """Answers that say what their gold answer says, for ever."""
    while True:
        if draw.random() < 0.3:
            yield _of_a_form(forms, draw, is_right=True)
            continue
        name, gold = draw.choice(real)
        change = draw.choice([*REWRITINGS, *PROSE])
        if change in PROSE:
            yield Case(gold, PROSE[change].format(gold), True, f"{name}: {change}")
        elif answer := REWRITINGS[change](draw, gold):
            yield _case(gold, answer, True, f"{name}: {change}")


def _of_a_form(forms: Sequence[MakeForm], draw: random.Random, is_right: bool) -> Case:
    make = draw.choice(forms)
    form = make(draw)
    answer = draw.choice(form.same if is_right else form.other)
    return _case(form.gold, answer, is_right, f"form: {make.__name__}")


def _case(gold: str, answer: str, expected: bool, family: str) -> Case:
    return Case(gold, _BOX.format(answer), expected, family)


def distinct(cases: Iterator[Case], count: int) -> list[Case]:
    """The first `count` different cases, at most a share of them of one family."""
    found: dict[tuple[str, str], Case] = {}
    sizes: Counter[str] = Counter()
    for num_drawn, case in enumerate(cases):
        key = (case.gold, case.completion)
        if key not in found and sizes[case.family] < _MAX_OF_FAMILY * count:
            found[key] = case
            sizes[case.family] += 1
        if len(found) == count or num_drawn > 200 * count:
            break
    return list(found.values())


def errors_by_family(cases: Sequence[Case], accepted: Sequence[bool]) -> Counter[str]:
    """How many cases of each family were judged otherwise than expected."""
    pairs = zip(cases, accepted, strict=True)
    return Counter(case.family for case, got in pairs if got != case.expected)


def print_table(
    kinds: dict[str, list[Case]], errors: dict[str, dict[str, Counter[str]]], every: bool
) -> None:
    """Print the errors of every judge: totals, then each family that has some."""
    judges = list(next(iter(errors.values())))
    print(f"| | cases | {' | '.join(judges)} |\n|---|---:|{'---:|' * len(judges)}")
    for kind, cases in kinds.items():
        totals = [f"{errors[kind][judge].total():,}" for judge in judges]
        print(f"| {kind} | {len(cases):,} | {' | '.join(totals)} |")
    if not every:
        return
    for kind, cases in kinds.items():
        print(f"\n{kind} by family:\n")
        sizes = Counter(case.family for case in cases)
        for family, size in sorted(sizes.items()):
            counts = [errors[kind][judge][family] for judge in judges]
            if any(counts):
                print(f"| {family} | {size} | {' | '.join(map(str, counts))} |")


def main() -> None:
    """Make the cases, judge them and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--perturbed", type=int, default=8200)
    parser.add_argument("--rewritten", type=int, default=13_000)
    parser.add_argument("--out", type=Path, help="folder for the cases judged otherwise")
    parser.add_argument("--passk-only", action="store_true")
    parser.add_argument("--families", action="store_true", help="show the errors of each family")
    options = parser.parse_args()
    real = list(golds(options.folder, options.split))
    forms = FORMS if options.split == "train" else (*FORMS, *HELD_OUT, *HELD_OUT_LATER)
    draw = random.Random(f"{options.split}/{options.seed}")
    kinds = {
        "false accepts": distinct(perturbed(real, forms, draw), options.perturbed),
        "false refusals": distinct(rewritten(real, forms, draw), options.rewritten),
    }
    judges: dict[str, Callable[[Sequence[Case], int], list[bool]]] = {"verifier=math": by_passk}
    if not options.passk_only:
        judges["math-verify"] = by_math_verify
    errors: dict[str, dict[str, Counter[str]]] = {}
    for kind, cases in kinds.items():
        errors[kind] = {}
        for judge, accepts in judges.items():
            accepted = accepts(cases, options.workers)
            errors[kind][judge] = errors_by_family(cases, accepted)
            if options.out:
                name = f"{kind}-{judge}".replace(" ", "-")
                write_failures(options.out / f"{name}.jsonl", cases, accepted)
    print_table(kinds, errors, options.families)


if __name__ == "__main__":
    main()
