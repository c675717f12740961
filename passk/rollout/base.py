"""The seam for rollout engines: token ids in, completions out, weights from the learner."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from passk.types import Completion


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling from the distribution at a temperature: no top-k, no penalties.

    `temperature` divides the logits; 0 takes the likeliest token (greedy). `max_new_tokens` counts
    the end token. A completion also ends where its text holds one of `stop`, or at that token where
    it is a special one; its text is cut before it, its token ids are not. Below 1, `top_p` keeps of
    that distribution the likeliest tokens that together reach it, and log-probabilities are those
    of what is kept.
    """

    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    top_p: float = 1.0


_SLICE = 2**22  # values that are summed at once: a large embedding in float64 would fill a GPU


def same_checksum(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one type hold the same values, in whatever order.

    Compares sum and sum of squares in float64. An engine may lay a weight out in another order; one
    value that differs by one unit in the last place shows, but for rare cancellations.
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
    """An engine that draws n completions of each prompt from the policy it holds."""

    policy_version: int
    ranks_per_engine: int  # so many ranks in a row draw the same prompts, with one engine

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds_PG: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """One completion per seed: P prompts of token ids and P x n seeds -> P x n completions.

        Yields each prompt's place and its n completions as they are finished, in any order. The
        same prompt, seeds and weights give the same completions whatever else is in the batch.
        """
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Take over the learner's parameters, one named tensor at a time, as policy `version`."""
        ...

    def holds(self, name: str, tensor: Tensor) -> bool | None:
        """Whether it samples with these values of the parameter `name`; None if unknown."""
        ...

    def sleep(self) -> None:
        """Give memory back until the next `load_weights`, where it is shared with the learner."""
        ...

    def close(self) -> None:
        """Give back memory and processes."""
        ...


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop texts in it, all of it where there is none."""
    return text[: min((place for s in stop if (place := text.find(s)) >= 0), default=len(text))]
