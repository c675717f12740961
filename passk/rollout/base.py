"""Interface of rollout engines: token ids in, completions out, weights from the learner."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from passk.types import Completion


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of sampling at a temperature; there is no top-k, and there are no penalties.

    `temperature` divides the logits; 0 takes the likeliest token (greedy). `max_new_tokens` counts
    the end token. A completion also ends when its text holds one of `stop`, or at that token if it
    is a special one; its text is cut before the stop, its token ids are not. Below 1, `top_p` keeps
    the likeliest tokens that together reach it, and log-probabilities are those of the renormalised
    distribution.
    """

    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    top_p: float = 1.0


_SLICE = 2**22  # values summed at once: a large embedding in float64 would fill a GPU


def same_checksum(one: Tensor, other: Tensor) -> bool:
    """Return True if two tensors of one dtype hold the same values, in any order.

    Compare sum and sum of squares in float64. An engine may lay a weight out in another order. A
    single value that differs by one unit in the last place shows, except for rare cancellations.
    """
    sums, others = _sums(one), _sums(other)
    return one.numel() == other.numel() and torch.allclose(sums, others, rtol=1e-12, atol=1e-12)


def _sums(tensor: Tensor) -> Tensor:
    sums = torch.zeros(2, dtype=torch.float64)
    for part in tensor.detach().flatten().split(_SLICE):
        values = part.double()
        sums += torch.stack([values.sum(), values.square().sum()]).cpu()
    return sums


class Sampler(Protocol):
    """Engine that draws n completions of each prompt from the policy it holds."""

    policy_version: int
    ranks_per_engine: int  # number of ranks in a row that draw the same prompts with one engine

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds_PG: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Draw one completion per seed: P prompts of token ids, P x n seeds -> P x n completions.

        Yield each prompt's place and its n completions as they finish, in any order. The same
        prompt, seeds and weights give the same completions whatever else is in the batch.
        """
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Load the learner's parameters, one named tensor at a time, as policy `version`."""
        ...

    def holds(self, name: str, tensor: Tensor) -> bool | None:
        """Return True if it samples with these values of parameter `name`; None if unknown."""
        ...

    def sleep(self) -> None:
        """Free memory that is shared with the learner, until the next `load_weights`."""
        ...

    def close(self) -> None:
        """Free memory and end processes."""
        ...


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop text in it; all of it if there is none."""
    return text[: min((place for s in stop if (place := text.find(s)) >= 0), default=len(text))]
