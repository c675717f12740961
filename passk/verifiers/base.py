"""Interface of verifiers, which judge batches of (problem, completion) in bounded time.

`self_test` and `check_gold` check a verifier before step 0, on cases with known verdicts and on the
gold answers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from passk.console import working
from passk.errors import UserError
from passk.text import plain_answer, plain_text
from passk.types import Completion, FinishReason, Problem, Verdict

CORRECT = Verdict(1.0, "correct")
WRONG = Verdict(0.0, "wrong")
UNPARSED = Verdict(0.0, "unparsed")
TRUNCATED = Verdict(0.0, "truncated")
_NUM_NAMED = 5
_GOLD_AT_ONCE = 256  # enough for all workers of a verifier


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


@dataclass(frozen=True, slots=True)
class GoldCheck:
    """Problems whose own gold answers were refused: (split, problem, verdict), in order."""

    num_checked: int
    refused: tuple[tuple[str, Problem, Verdict], ...]

    def kept(self, train: Sequence[Problem]) -> tuple[Problem, ...]:
        """Return the training problems without those whose gold answer got reward 0.

        These could never be rewarded. A problem whose gold answer was not judged (reward None)
        stays: it might be the next time, and a resumed run must see the same problems.
        """
        hopeless = {p.id for split, p, v in self.refused if split == "train" and v.reward == 0}
        return tuple(problem for problem in train if problem.id not in hopeless)

    def sentence(self, num_left_out: int) -> str:
        """Describe in one line which gold answers are refused, and the consequence."""
        named = ", ".join(problem.id for _, problem, _ in self.refused[:_NUM_NAMED])
        more = ", ..." if len(self.refused) > _NUM_NAMED else ""
        return (
            f"gold answers: the verifier refuses {len(self.refused)} of {self.num_checked} "
            f"({named}{more}; see gold_refused.csv); left out of training: {num_left_out}; "
            "held-out ones are kept and can only fail"
        )


def self_test(verifier: Verifier) -> None:
    """Raise UserError unless known right answers pass and known wrong ones do not."""
    cases = verifier.self_test()
    pairs = [(problem, _completion(text)) for problem, text, _ in cases]
    try:
        verdicts = verifier.verify(pairs)
    except RuntimeError as error:
        raise UserError(f"the verifier does not work here: {error}") from error
    for (problem, text, expected), verdict in zip(cases, verdicts, strict=True):
        if verdict.reason != expected:
            raise UserError(
                f"the verifier does not work here: with the gold answer {problem.answer!r} it "
                f"calls {text!r} {verdict.reason}, not {expected}; its packages may be broken "
                "(python -m pip check), or verifier.timeout_seconds too short for this machine"
            )


def check_gold(
    verifier: Verifier, train: Sequence[Problem], heldout: Sequence[Problem]
) -> GoldCheck:
    """Verify every gold answer as if a model had written it.

    Raises UserError if the verifier accepts none of a split.
    """
    refused = []
    for split, problems in (("train", train), ("heldout", heldout)):
        found = refused_gold(verifier, problems)
        if problems and len(found) == len(problems):
            problem, verdict = found[0]
            raise UserError(
                f"the verifier refuses every gold answer of the {split} problems ({problem.id}: "
                f"{problem.answer[:80]!r} is {verdict.reason}); change verifier, "
                "verifier.answer_in or where the data's answers are read from (data.gold_in, "
                "data.answer_column)"
            )
        refused += [(split, problem, verdict) for problem, verdict in found]
    return GoldCheck(len(train) + len(heldout), tuple(refused))


def refused_gold(verifier: Verifier, problems: Sequence[Problem]) -> list[tuple[Problem, Verdict]]:
    """Return the problems whose own gold answer is not judged right, each with the verdict.

    Each gold answer is tried as in the data, and as a person writes it: a gold of 1e-05 that equals
    only the same characters would make every right answer wrong.
    """
    pairs = []
    for problem in problems:
        plain = replace(problem, answer=plain_answer(problem.answer))
        shown = [verifier.demonstrate(each) for each in dict.fromkeys((problem, plain))]
        pairs += [(problem, _completion(text)) for text in shown if text is not None]
    refused: dict[str, tuple[Problem, Verdict]] = {}
    with working("checking gold answers", len(pairs), "answers") as phase:
        for start in range(0, len(pairs), _GOLD_AT_ONCE):
            some = pairs[start : start + _GOLD_AT_ONCE]
            for (problem, _), verdict in zip(some, verifier.verify(some), strict=True):
                if verdict.reward != 1:
                    refused.setdefault(problem.id, (problem, verdict))
            phase.advance(len(some))
    return list(refused.values())


def _completion(text: str) -> Completion:
    return Completion(text, (), (), FinishReason.STOP)
