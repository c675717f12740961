"""Sampling for tests, which want all completions in order and not as they come."""

from collections.abc import Sequence

from passk.sampler import Sampler, SamplingParams
from passk.types import Completion


def sample_all(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    seeds_PG: Sequence[Sequence[int]],
    params: SamplingParams,
) -> list[list[Completion]]:
    """What `sample` yields, all of it, in the order of the prompts."""
    drawn = dict(sampler.sample(prompts, seeds_PG, params))
    return [drawn[index] for index in range(len(prompts))]
