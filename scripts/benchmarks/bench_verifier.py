"""Verdicts per second of verifier=math, as a Markdown table.

    python scripts/benchmarks/bench_verifier.py [--data FOLDER] [--workers 2]

Measured on generated completions in the form of GSM8K and MATH. With FOLDER, which holds
gsm8k/*.jsonl and math/*.jsonl, also on the real gold answers: each given as the answer to its own
problem (right) and to the next one (wrong, where the two differ).
"""

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from passk.config.schema import VerifierConfig
from passk.types import Completion, FinishReason, Problem
from passk.verifiers.math.text import find_answer
from passk.verifiers.math.verifier import MathVerifier

Pair = tuple[Problem, Completion]
HASH, BOX = "\n#### {}", "\nThe final answer is $\\boxed{{{}}}$."


def grade_school(count: int, form: str, right: bool, seed: int = 0) -> list[Pair]:
    """Four steps of arithmetic each, a thousand characters at most, ending in `form`."""
    draw, pairs = random.Random(seed), []
    for index in range(count):
        steps, total = [], draw.randint(2, 50)
        for _ in range(4):
            price = draw.randint(2, 60)
            steps.append(
                f"The shop sells {total} boxes at ${price} each, which makes {total} * {price} = "
                f"<<{total}*{price}={total * price}>>{total * price} dollars a day."
            )
            total = total * price % 997 + 1
        shown = (
            f"{total * 1000:,}" if index % 3 == 0 else f"${total}.00" if index % 3 == 1 else total
        )
        gold = str(total * 1000) if index % 3 == 0 else str(total)
        answer = shown if right else total * 1000 + 1
        pairs.append(_pair(index, gold, "\n".join(steps) + form.format(answer)))
    return pairs


def competition(count: int, right: bool, seed: int = 0) -> list[Pair]:
    """Surds, polynomials and intervals in two spellings, which need computer algebra."""
    draw, pairs = random.Random(seed), []
    for index in range(count):
        a, b, c = draw.randint(2, 40), draw.randint(2, 40), draw.randint(2, 9)
        off = 0 if right else 1
        gold, answer = (
            (rf"\frac{{{a}\sqrt{{{b}}}}}{{{c}}}", rf"\dfrac{{{a * b + off}}}{{{c}\sqrt{{{b}}}}}"),
            (f"(x+{a})(x-{b})", f"x^2 + {a - b + off}x - {a * b}".replace("+ -", "- ")),
            (rf"[\sqrt{{{a}}}, {b}\pi)", rf"\left[{a}^{{1/2}}, {b + off}\pi\right)"),
        )[index % 3]
        pairs.append(_pair(index, gold, "We simplify. " * 40 + BOX.format(answer)))
    return pairs


def real(files: Iterable[Path], field: str, places: Sequence[str]) -> tuple[list[Pair], list[Pair]]:
    """The gold answers of a data set, each for its own problem, and each for the next."""
    golds = []
    for file in sorted(files):
        for line in file.read_text(encoding="utf-8").rstrip("\n").split("\n"):
            golds.append(find_answer(json.loads(line)[field], places) or "")
    right = [_pair(i, gold, BOX.format(gold)) for i, gold in enumerate(golds)]
    shifted = zip(golds, [*golds[1:], golds[0]], strict=True)
    wrong = [_pair(i, g, BOX.format(other)) for i, (g, other) in enumerate(shifted) if g != other]
    return right, wrong


def _pair(index: int, gold: str, text: str) -> Pair:
    return Problem(str(index), "", gold), Completion(text, (), (), FinishReason.STOP)


def measure(name: str, pairs: Sequence[Pair], num_workers: int) -> str:
    """One row of the table: a verifier of its own, its workers started beforehand."""
    verifier = MathVerifier(VerifierConfig(name="math", num_workers=num_workers))
    try:
        warm = [_pair(i, rf"\sqrt{{{i + 2}}}", BOX.format("x")) for i in range(8 * num_workers)]
        verifier.verify(warm)
        started = time.perf_counter()
        verdicts = verifier.verify(pairs)
        seconds = time.perf_counter() - started
    finally:
        verifier.close()
    reasons = ", ".join(f"{n:,} {r}" for r, n in Counter(v.reason for v in verdicts).most_common())
    return f"| {name} | {len(pairs):,} | {len(pairs) / seconds:,.0f} | {reasons} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with gsm8k/ and math/")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    cases = {
        "GSM8K form, `####`, right": grade_school(20_000, HASH, True),
        "GSM8K form, `####`, wrong": grade_school(20_000, HASH, False),
        "GSM8K form, boxed, right": grade_school(20_000, BOX, True),
        "GSM8K form, boxed, wrong": grade_school(20_000, BOX, False),
        "MATH form, algebra, right": competition(1_500, True),
        "MATH form, algebra, wrong": competition(1_500, False),
    }
    if options.data is not None:
        for name, field, places in (("gsm8k", "answer", ["hash"]), ("math", "solution", ["boxed"])):
            right, wrong = real((options.data / name).glob("*.jsonl"), field, places)
            cases |= {f"{name} gold answers": right, f"{name} next problem's": wrong}
    print(f"{options.workers} workers\n")
    print("| answers | verdicts | per second | reasons |\n|---|---:|---:|---|")
    for name, pairs in cases.items():
        print(measure(name, pairs, options.workers), flush=True)


if __name__ == "__main__":
    main()
