"""Verifier with deliberate errors at known rates, like those that a wrong gold answer causes."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from passk.config.schema import VerifierConfig, is_noisy
from passk.types import Completion, Problem, Verdict
from passk.verifiers.base import Verifier

FALSE_NEGATIVE, FALSE_POSITIVE = "false_negative", "false_positive"


class NoisyVerifier:
    """Verifier that flips verdicts of another, at the false negative and false positive rate.

    A hash decides once for each final answer to each problem: the same answer gets the same verdict
    in every step and process, however it was derived or written, as with a wrong gold answer.
    (Draws per completion would be a coin toss per sample, unlike any deterministic verifier, and
    training would average them out.) A completion without an answer, such as a program, is its own
    answer. Only `correct` and `wrong` are flipped, so a completion that was cut short, crashed or
    had no answer earns nothing. A larger rate errs wherever a smaller one does.
    """

    def __init__(self, verifier: Verifier, cfg: VerifierConfig) -> None:
        self._verifier = verifier
        self._cfg = cfg

    def verify(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
        """See `Verifier.verify`."""
        verdicts = self._verifier.verify(pairs)
        return [
            self._erring(verdict, problem, completion)
            for verdict, (problem, completion) in zip(verdicts, pairs, strict=True)
        ]

    def _erring(self, verdict: Verdict, problem: Problem, completion: Completion) -> Verdict:
        answer = verdict.answer or completion.text
        drawn = uniform(self._cfg.noise_seed, problem.id, answer)
        if verdict.reason == "correct" and drawn < self._cfg.false_negative_rate:
            return replace(verdict, reward=0.0, reason=FALSE_NEGATIVE)
        if verdict.reason == "wrong" and drawn < self._cfg.false_positive_rate:
            return replace(verdict, reward=1.0, reason=FALSE_POSITIVE)
        return verdict

    def demonstrate(self, problem: Problem) -> str | None:
        """See `Verifier.demonstrate`."""
        return self._verifier.demonstrate(problem)

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """See `Verifier.self_test`; the cases are those of the verifier without errors."""
        return self._verifier.self_test()

    def close(self) -> None:
        """Do nothing: the code that built the inner verifier closes it."""


def with_noise(verifier: Verifier, cfg: VerifierConfig) -> Verifier:
    """Return the verifier of training rollouts: `verifier` itself if neither rate is above 0."""
    return NoisyVerifier(verifier, cfg) if is_noisy(cfg) else verifier


def uniform(noise_seed: int, problem_id: str, answer: str) -> float:
    """Return a number in [0, 1) that depends on these three arguments alone."""
    key = repr((noise_seed, problem_id, answer)).encode()  # repr keeps the three apart
    digest = hashlib.blake2b(key, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
