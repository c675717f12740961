"""What flows through the loop on the text side: Problem -> Completion -> Verdict -> Group.

Text lives on this side of `passk.learner.batch`, tensors on the other. Dimension letters used as
suffixes all over the package: P problems, G samples of one problem (n), B rows, T tokens, V
vocabulary, K values of k.
"""

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a completion ended: it drew the end token, or it met the length limit."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Problem:
    """A prompt with its gold answer.

    Example:
        Problem("train-17", "T3+4*5=", "23", kind="textbook", solution="4*5=20;3+20=23")
    """

    id: str
    prompt: str
    answer: str
    kind: str = ""  # the groups it is counted under in tables, empty where there are none
    solution: str = ""  # a worked answer for supervised fine-tuning, empty where there is none
    level: str = ""
    type: str = ""
    weight: float = 1.0  # of its part in the gradients that train


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer.

    `token_ids` ends with the end token when `finish_reason` is STOP. `logprobs` are the sampler's,
    one per token, of the distribution that was sampled from.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement: the reward (1 right, 0 wrong, None not judged), why, and of what.

    Reasons in use: `correct`, `wrong`, `unparsed` (no answer found), `truncated` (length limit),
    `timeout` and `error`. The last two come with reward 0 where the answer, or a program, caused
    that its check ran out of time or failed, and with reward None where the gold answer or the
    machine may have caused it. Training may see errors made on purpose (`passk.verifiers.noise`):
    `false_negative`, a right answer refused, and `false_positive`, a wrong one accepted. A sample
    that was not judged leaves both the numerator and the counts of every estimator. `answer` is
    what the verifier took as the answer of the completion, normalised as far as it can; majority
    votes are over it.
    """

    reward: float | None
    reason: str
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """One problem with its n samples, all drawn from one policy version."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    verdicts: tuple[Verdict, ...]
    policy_version: int

    def rewards(self) -> list[float]:
        """The n rewards, NaN where the verifier gave none."""
        return [float("nan") if v.reward is None else v.reward for v in self.verdicts]
