"""The seam for rollout engines: token ids in, completions out, weights from the learner."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from passk.types import Completion


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling from the full distribution at a temperature: no top-p, no top-k, no penalties.

    `temperature` divides the logits (> 0); `max_new_tokens` counts the end token.
    """

    temperature: float
    max_new_tokens: int


class Sampler(Protocol):
    """An engine that draws n completions of each prompt from the policy it holds."""

    policy_version: int

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds_PG: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> list[list[Completion]]:
        """One completion per seed: P prompts of token ids and P x n seeds -> P x n completions.

        The same prompt, seed and weights give the same completion whatever else is in the batch.
        """
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the learner's parameters, one named tensor at a time, as policy `version`."""
        ...

    def close(self) -> None:
        """Give back memory and processes."""
        ...
