"""Types on the text side of the training loop: Problem -> Completion -> Verdict -> Group.

`passk.learner.batch` turns them into tensors. Dimension letters used as suffixes in the whole
package: P problems, G samples of one problem (n), B rows, T tokens, V vocabulary, K values of k.
"""

from dataclasses import dataclass
from enum import StrEnum

GROUPINGS = ("kind", "level", "type")  # fields of a Problem by which tables group


class FinishReason(StrEnum):
    """Reason why a completion ended: the end token, or the length limit."""

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
    kind: str = ""  # group in tables, as are level and type; empty if there is none
    solution: str = ""  # worked answer for supervised fine-tuning; empty if there is none
    level: str = ""
    type: str = ""
    weight: float = 1.0  # factor of its part in training gradients


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
    """A verifier's judgement: the reward (1 right, 0 wrong, None not judged), reason and answer.

    Reasons in use: `correct`, `wrong`, `unparsed` (no answer found), `gold_unparsed` (unreadable
    gold answer, reward 0), `truncated` (length limit), `timeout` and `error`. The last two come
    with reward 0 if the completion's answer or program made its check time out or fail, and with
    reward None if the gold answer or the machine may be the cause. Training may see deliberate
    errors (`passk.verifiers.noise`): `false_negative`, a right answer refused, and
    `false_positive`, a wrong one accepted. A sample that was not judged leaves both the numerator
    and the counts of every estimator. `answer` is the answer that the verifier found in the
    completion, normalised where possible; majority votes use it.
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
        """Return the n rewards, NaN where the verifier gave none."""
        return [float("nan") if v.reward is None else v.reward for v in self.verdicts]
