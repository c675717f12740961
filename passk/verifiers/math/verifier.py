"""Judge the mathematical equality of final answer and gold answer (`verifier=math`)."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from passk.config.schema import VerifierConfig
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.base import CORRECT, TRUNCATED, UNPARSED, WRONG
from passk.verifiers.math.equality import same_answer
from passk.verifiers.math.reader import reads_as
from passk.verifiers.math.text import MAX_ANSWER_CHARS, find_answer
from passk.verifiers.worker_pool import WorkerHung, WorkerPool, WorkerStarved

MAX_WORKERS = 8
GOLD_UNPARSED = Verdict(0.0, "gold_unparsed")

# gold, answer, equal? The later cases need computer algebra, and so a working math-verify.
_KNOWN = (
    ("58,500", "58500", True),
    ("-3", "3", False),
    (r"\text{(B)}", "b", True),
    (r"(1,2)", "(2,1)", False),
    (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", True),
    (r"\frac{\sqrt{2}}{2}", r"\frac{\sqrt{2}}{4}", False),
    (r"x^2 - 1", "(x-1)(x+1)", True),
    (r"2\pi", r"2\pi + 1", False),
)


class MathVerifier:
    """Verifier that compares the final answer of a completion with the gold answer.

    This process compares numbers, words and the structure of lists, pairs and sets. Comparisons
    that need computer algebra go to worker processes, one task at a time each, with bounded time
    and memory. A completion that met the length limit is `truncated`, one without an answer
    `unparsed`; the reason is `gold_unparsed`, with reward 0, if the gold answer cannot be read.

    A check that ends as `timeout` or `error` gives reward 0 if the answer caused that. The proof is
    that the gold answer, compared with itself under the same limits, gets a verdict. Without this
    proof the gold answer or the machine may be the cause, and the reward is None.
    """

    def __init__(self, cfg: VerifierConfig) -> None:
        self._places = cfg.answer_in
        self._pool = WorkerPool(
            "passk.verifiers.math.worker",
            {"timeout_seconds": cfg.timeout_seconds, "max_memory_mib": cfg.max_memory_mib},
            cfg.num_workers or min(os.cpu_count() or 1, MAX_WORKERS),
            cfg.timeout_seconds,
        )
        self._sound_golds: set[str] = set()  # got a verdict when compared with themselves

    def verify(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
        """See `Verifier.verify`."""
        verdicts = [self._verify_here(problem, completion) for problem, completion in pairs]
        asked: dict[tuple[str, str], None] = {}
        for verdict, (problem, _) in zip(verdicts, pairs, strict=True):
            if isinstance(verdict, str):
                asked[problem.answer, verdict] = None
        results = dict(zip(asked, self._pool.map(list(asked)), strict=True)) if asked else {}
        self._try_golds(gold for (gold, _), result in results.items() if not _is_judged(result))
        return [
            _from_worker(results[problem.answer, verdict], verdict, self._blamed(problem))
            if isinstance(verdict, str)
            else verdict
            for verdict, (problem, _) in zip(verdicts, pairs, strict=True)
        ]

    def _try_golds(self, golds: Iterable[str]) -> None:
        """Compare gold answers with themselves, and remember those that got a verdict."""
        untried = list(dict.fromkeys(gold for gold in golds if gold not in self._sound_golds))
        results = self._pool.map([(gold, gold) for gold in untried])
        judged = zip(untried, map(_is_judged, results), strict=True)
        self._sound_golds |= {gold for gold, is_judged in judged if is_judged}

    def _blamed(self, problem: Problem) -> float | None:
        """Return the reward of a failed check: 0 if only the answer can be the cause, else None."""
        return 0.0 if problem.answer in self._sound_golds else None

    def _verify_here(self, problem: Problem, completion: Completion) -> Verdict | str:
        """Return the verdict, or the answer to send to a worker."""
        if completion.finish_reason is FinishReason.LENGTH:
            return TRUNCATED
        answer = find_answer(completion.text, self._places, reads_as)
        if answer is None:
            return UNPARSED
        if len(problem.answer) > MAX_ANSWER_CHARS:
            return GOLD_UNPARSED
        same = same_answer(problem.answer, answer, lambda gold, answer: None)
        if same is None:
            return answer
        return replace(CORRECT if same else WRONG, answer=reads_as(answer))

    def demonstrate(self, problem: Problem) -> str:
        """See `Verifier.demonstrate`."""
        if "boxed" in self._places:
            return rf"\boxed{{{problem.answer}}}"
        return f"#### {problem.answer}" if "hash" in self._places else problem.answer

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """See `Verifier.self_test`."""
        cases = []
        for number, (gold, answer, same) in enumerate(_KNOWN):
            if "boxed" in self._places or "hash" in self._places or number < 2:
                shown = self.demonstrate(Problem("", "", answer))
                problem = Problem(f"self-test-{number}", "", gold)
                cases.append((problem, shown, "correct" if same else "wrong"))
        return cases

    def close(self) -> None:
        """See `Verifier.close`."""
        self._pool.close()


def _is_judged(result: Any) -> bool:
    return isinstance(result, dict) and "same" in result


def _from_worker(result: Any, answer: str, failed_reward: float | None) -> Verdict:
    if isinstance(result, WorkerStarved):
        return Verdict(None, "timeout", answer)
    if isinstance(result, WorkerHung):
        return Verdict(failed_reward, "timeout", answer)
    if not _is_judged(result):
        return Verdict(failed_reward, "error", answer)
    if result["same"] is None:
        return GOLD_UNPARSED
    return replace(CORRECT if result["same"] else WRONG, answer=reads_as(answer))
