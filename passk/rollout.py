"""The rollout phase: problems in, groups of n judged completions out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from passk.policy import Tokenizer, encode_prompts
from passk.sampler import Sampler, SamplingParams
from passk.seeds import group_seeds
from passk.types import Group, Problem
from passk.verifiers import Verifier


@dataclass(frozen=True, slots=True)
class Rollout:
    """P groups, the seconds each half of the phase took, and the tokens that were drawn."""

    groups: list[Group]
    sample_seconds: float
    verify_seconds: float

    @property
    def rewards_PG(self) -> np.ndarray:
        """Rewards as float64 [P, n], NaN where the verifier gave none."""
        return np.array([group.rewards() for group in self.groups], dtype=np.float64)

    @property
    def num_tokens(self) -> int:
        """Sampled tokens over all completions, end tokens included."""
        return sum(len(c.token_ids) for group in self.groups for c in group.completions)


@dataclass(frozen=True, slots=True)
class SampleKey:
    """What, with the problem and the sample's index, names a sample and so its seed."""

    run_seed: int
    purpose: str  # `train`, `eval` or `diagnose`: they never share a draw
    step: int


def rollout(
    sampler: Sampler,
    verifier: Verifier,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    num_samples: int,
    params: SamplingParams,
    key: SampleKey,
) -> Rollout:
    """Draw `num_samples` completions of each problem and judge them.

    Identical completions of a problem are judged once: the verdict depends on nothing else.
    """
    started = time.perf_counter()
    prompts = encode_prompts(tokenizer, [problem.prompt for problem in problems])
    seeds_PG = group_seeds(
        key.run_seed, key.purpose, key.step, [p.id for p in problems], num_samples
    )
    completions_PG = sampler.sample(prompts, seeds_PG, params)
    sampled = time.perf_counter()

    pairs = {
        (index, completion.token_ids): (problem, completion)
        for index, (problem, completions) in enumerate(zip(problems, completions_PG, strict=True))
        for completion in completions
    }
    verdicts = dict(zip(pairs, verifier.verify(list(pairs.values())), strict=True))
    groups = [
        Group(
            problem=problem,
            prompt_ids=tuple(prompt_ids),
            completions=tuple(completions),
            verdicts=tuple(verdicts[index, c.token_ids] for c in completions),
            policy_version=sampler.policy_version,
        )
        for index, (problem, prompt_ids, completions) in enumerate(
            zip(problems, prompts, completions_PG, strict=True)
        )
    ]
    return Rollout(groups, sampled - started, time.perf_counter() - sampled)
