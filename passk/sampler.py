"""The seam for rollout engines: token ids in, completions out, weights from the learner."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from passk.types import Completion


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling from the full distribution at a temperature: no top-p, no top-k, no penalties.

    `temperature` divides the logits; 0 takes the likeliest token (greedy). `max_new_tokens` counts
    the end token. A completion also ends where its text holds one of `stop`; its text is cut before
    it, its token ids are not.
    """

    temperature: float
    max_new_tokens: int
    stop: tuple[str, ...] = ()


Checksum = tuple[float, float]  # sum and sum of squares of a tensor's values


def checksum(tensor: Tensor) -> Checksum:
    """Sum and sum of squares in float64: both add up when tensors are joined."""
    values = tensor.detach().double()
    return float(values.sum()), float(values.square().sum())


class Sampler(Protocol):
    """An engine that draws n completions of each prompt from the policy it holds."""

    policy_version: int

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

    def checksums(self, names: Sequence[str]) -> dict[str, Checksum]:
        """`checksum` of the weights it really samples from, for those of `names` it can tell."""
        ...

    def sleep(self) -> None:
        """Give memory back until the next `load_weights`, where it is shared with the learner."""
        ...

    def close(self) -> None:
        """Give back memory and processes."""
        ...


def sample_all(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    seeds_PG: Sequence[Sequence[int]],
    params: SamplingParams,
) -> list[list[Completion]]:
    """What `sample` yields, all of it, in the order of the prompts."""
    drawn = dict(sampler.sample(prompts, seeds_PG, params))
    return [drawn[index] for index in range(len(prompts))]
