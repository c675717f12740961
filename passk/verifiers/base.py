"""Interface of verifiers, which judge batches of (problem, completion) in bounded time."""

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
    """Interface of objects that judge answers against gold answers."""

    def verify(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
        """Return one verdict per pair, in order.

        Must return within a bounded time whatever the completions hold, and must not raise because
        of a model's text. A check that takes too long gives `timeout`, one that fails `error`: with
        reward 0 if the answer is the cause (else a policy would learn to leave the counts by such
        answers), and with reward None if the gold answer or the machine may be the cause.
        """
        ...

    def demonstrate(self, problem: Problem) -> str | None:
        """Return a completion that must be judged right: the gold answer in a form that is read.

        Return None if there is no such text, as for a code problem without a worked solution.
        """
        ...

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """Return known cases: a problem, the text of a completion, and the reason expected."""
        ...

    def close(self) -> None:
        """End worker processes, if there are any."""
        ...


class ConventionsVerifier:
    """Verifier that compares the number after the completion's last `=` with the gold answer.

    Digits of every script count. The number must end the text. A completion that met the
    length limit is `truncated`, one without such a number `unparsed`. The check is linear in the
    length of the text, so it needs no time limit.
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
        """Do nothing: there are no worker processes."""
