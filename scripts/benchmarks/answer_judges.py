"""Judges of answers for the benchmarks: verifier=math, and math-verify alone."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from passk.config.schema import VerifierConfig
from passk.types import Completion, FinishReason, Problem
from passk.verifiers.math.verifier import MathVerifier

_CHUNK = 200
_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Case:
    """A gold answer, a completion, and whether the completion should be accepted."""

    gold: str
    completion: str
    expected: bool
    family: str
    where: str = ""


def by_passk(cases: Sequence[Case], num_workers: int) -> list[bool]:
    """Return whether `verifier=math` accepts each."""
    verifier = MathVerifier(
        VerifierConfig(name="math", num_workers=num_workers, timeout_seconds=_SECONDS)
    )
    accepted: list[bool] = []
    try:
        for chunk in _shown(_chunks(cases), len(cases), "verifier=math"):
            pairs = [
                (Problem("", "", case.gold), Completion(case.completion, (), (), FinishReason.STOP))
                for case in chunk
            ]
            accepted += [verdict.reward == 1 for verdict in verifier.verify(pairs)]
    finally:
        verifier.close()
    return accepted


def by_math_verify(
    cases: Sequence[Case], num_workers: int, *, gold_in_box: bool = True
) -> list[bool]:
    """Return whether math-verify accepts each, called as trainers do; what it raises is a no."""
    judge = _math_verify_with_box if gold_in_box else _math_verify_as_it_is
    return _in_processes(judge, cases, num_workers, "math-verify")


def _math_verify_with_box(case: Case) -> bool:
    return _math_verify_accepts(rf"\boxed{{{case.gold}}}", case)


def _math_verify_as_it_is(case: Case) -> bool:
    return _math_verify_accepts(case.gold, case)


def _math_verify_accepts(gold_text: str, case: Case) -> bool:
    """Whether math-verify alone, with its default settings, finds the completion equal."""
    from math_verify import parse, verify

    try:
        gold = parse(gold_text, parsing_timeout=_SECONDS)
        answer = parse(case.completion, parsing_timeout=_SECONDS)
        return bool(verify(gold, answer, timeout_seconds=_SECONDS))
    except Exception:
        return False


def _in_processes(
    judge: Callable[[Case], bool], cases: Sequence[Case], num_workers: int, name: str
) -> list[bool]:
    accepted: list[bool] = []
    pool = ProcessPoolExecutor(num_workers)
    for chunk in _shown(_chunks(cases), len(cases), name):
        try:
            accepted += pool.map(judge, chunk, chunksize=20)
        except BrokenProcessPool:  # one of them takes its process along: one at a time, then
            pool = ProcessPoolExecutor(num_workers)
            accepted += [_alone(judge, case) for case in chunk]
    pool.shutdown()
    return accepted


def _alone(judge: Callable[[Case], bool], case: Case) -> bool:
    with ProcessPoolExecutor(1) as pool:
        try:
            return pool.submit(judge, case).result()
        except BrokenProcessPool:
            return False


def _chunks(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), _CHUNK):
        yield cases[start : start + _CHUNK]


def _shown(chunks: Iterable[Sequence[Case]], total: int, name: str) -> Iterator[Sequence[Case]]:
    """Each chunk, with a count of what is done on stderr."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        print(f"\r{name}: {done:,} of {total:,}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def write_failures(file: Path, cases: Sequence[Case], accepted: Sequence[bool]) -> None:
    """Write the cases that were judged otherwise than expected, one JSON object a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8") as lines:
        for case, got in zip(cases, accepted, strict=True):
            if got != case.expected:
                lines.write(json.dumps(asdict(case), ensure_ascii=False) + "\n")
