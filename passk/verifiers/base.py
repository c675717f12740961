"""Answer checking: a batch of (problem, completion) in, a verdict each out, bounded in time."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from passk.text import plain_text
from passk.types import Completion, FinishReason, Problem, Verdict

CORRECT = Verdict(1.0, "correct")
WRONG = Verdict(0.0, "wrong")
UNPARSED = Verdict(0.0, "unparsed")
TRUNCATED = Verdict(0.0, "truncated")


class Verifier(Protocol):
    """Judges answers against gold answers."""

    def verify(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
        """One verdict per pair, in order.

        Must return within a bounded time whatever the completions hold, and must not raise because
        of what a model wrote. A check that takes too long gives `timeout`, one that breaks `error`:
        with reward 0 where the answer causes it, or else a policy learns to write such answers and
        leaves the counts; with reward None where the gold answer or the machine may be the cause.
        """
        ...

    def demonstrate(self, problem: Problem) -> str | None:
        """A completion that must be judged right: the gold answer in the form that is read.

        None where there is no such text, as where only a program can be right.
        """
        ...

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """Known cases: a problem, the text of a completion, and the reason it must come back
        with."""
        ...

    def close(self) -> None:
        """End worker processes, if there are any."""
        ...


class ConventionsVerifier:
    """Compares the number after the last `=` of the completion with the gold answer.

    Digits of every script count. A completion that met the length limit is `truncated`, one without
    such a number `unparsed`.
    Linear in the length of the text, so no time limit is needed.
    """

    _FINAL_NUMBER = re.compile(r"=(\d+)$")

    def verify(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
        """See `Verifier.verify`."""
        return [self._verify_one(problem, completion) for problem, completion in pairs]

    def _verify_one(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.finish_reason is FinishReason.LENGTH:
            return TRUNCATED
        found = self._FINAL_NUMBER.search(completion.text)
        if found is None:
            return UNPARSED
        answer = plain_text(found[1])
        verdict = CORRECT if answer == plain_text(problem.answer) else WRONG
        return replace(verdict, answer=answer)

    def demonstrate(self, problem: Problem) -> str:
        """See `Verifier.demonstrate`."""
        return f"={problem.answer}"

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """See `Verifier.self_test`."""
        problem = Problem("self-test", "T3+4*5=", "23")
        return [
            (problem, "4*5=20;3+20=23", "correct"),
            (problem, "3+4=7;7*5=35", "wrong"),
            (problem, "23", "unparsed"),
        ]

    def close(self) -> None:
        """Nothing to end."""
