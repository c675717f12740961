"""Judge the equality of short answers after normalisation (`verifier=exact`)."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from passk.config.schema import VerifierConfig
from passk.text import plain_text
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.base import CORRECT, TRUNCATED, UNPARSED, WRONG
from passk.verifiers.math.text import find_answer

_QUOTES = " \"'`\u2018\u2019\u201c\u201d"
_DASHES = re.compile("[\u2010-\u2015]")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+")


class ExactVerifier:
    """Verifier that compares the final answer of a completion with the gold answer as text.

    Case, width, script of digits, spaces, quotation marks and final punctuation do not count;
    everything else does: `1/2` is not `0.5`. The check is linear in the length of the text, so it
    needs no time limit.
    """

    def __init__(self, cfg: VerifierConfig) -> None:
        self._places = cfg.answer_in

    def verify(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
        """See `Verifier.verify`."""
        return [self._verify_one(problem, completion) for problem, completion in pairs]

    def _verify_one(self, problem: Problem, completion: Completion) -> Verdict:
        if completion.finish_reason is FinishReason.LENGTH:
            return TRUNCATED
        found = find_answer(completion.text, self._places)
        answer = "" if found is None else normalise_short(found)
        if not answer:
            return UNPARSED
        verdict = CORRECT if answer == normalise_short(problem.answer) else WRONG
        return replace(verdict, answer=answer)

    def demonstrate(self, problem: Problem) -> str:
        """See `Verifier.demonstrate`."""
        if self._places[0] == "boxed":
            return rf"\boxed{{{problem.answer}}}"
        return f"#### {problem.answer}" if self._places[0] == "hash" else problem.answer

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """See `Verifier.self_test`."""
        gold, same, other = Problem("self-test", "", "1234"), " 1,234. ", "1235"
        shown = [self.demonstrate(replace(gold, answer=answer)) for answer in (same, other)]
        return [(gold, shown[0], "correct"), (gold, shown[1], "wrong")]

    def close(self) -> None:
        """Do nothing: there are no worker processes."""


def normalise_short(text: str) -> str:
    """Normalise characters (NFKC), case and spaces; strip quotation marks and final punctuation.

    Digits of every script become ASCII, dashes become `-`, and separators of thousands in a whole
    number are removed.
    """
    text = " ".join(unicodedata.normalize("NFKC", plain_text(text)).casefold().split())
    text = _DASHES.sub("-", text)
    text = text.strip(_QUOTES).rstrip(".,;:!? ").strip(_QUOTES)
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) else text
