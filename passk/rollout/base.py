"""Interface of rollout engines: token ids and seeds in, completions out, weights from the learner.

Pass@k needs independent samples, and a run must repeat exactly however it is batched, merged,
resumed or sharded. So every sample has a seed computed from (run seed, purpose, step, problem,
sample), and never from the order of sampling.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from passk.types import Completion

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


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


def sample_seed(run_seed: int, purpose: str, step: int, problem_id: str, sample: int) -> int:
    """Compute a sample's 63-bit seed; vLLM takes one per request, the torch sampler per sample."""
    key = f"{run_seed}\0{purpose}\0{step}\0{problem_id}\0{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def group_seeds(
    run_seed: int, purpose: str, step: int, problem_ids: Sequence[str], num_samples: int
) -> list[list[int]]:
    """Compute `sample_seed` of `num_samples` samples of each problem, as P lists of n.

    A problem that is in the batch twice gets other samples the second time.
    """
    return [
        [sample_seed(run_seed, purpose, step, problem_id, first + i) for i in range(num_samples)]
        for problem_id, first in zip(
            problem_ids, first_samples(problem_ids, num_samples), strict=True
        )
    ]


def first_samples(problem_ids: Sequence[str], num_samples: int) -> list[int]:
    """Return the index of each problem's first sample in a batch: 0, plus n per repetition."""
    seen = Counter[str]()
    first = []
    for problem_id in problem_ids:
        first.append(seen[problem_id] * num_samples)
        seen[problem_id] += 1
    return first


def uniforms(seeds: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return draw number `draws` (from 0) of the stream of each seed: float64 in [0, 1).

    Arguments are broadcast. The generator is SplitMix64 (Steele, Lea and Flood 2014), which is
    counter-based, so draw t of a sample is the same number whichever samples are drawn with it, and
    a thousand streams cost one vector operation.
    """
    state = seeds.astype(np.uint64) + _GOLDEN * (draws.astype(np.uint64) + np.uint64(1))
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform: np.ndarray = (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform
