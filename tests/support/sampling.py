"""Sampling for tests, which want all completions in order and not as they come."""

import copy
from collections.abc import Sequence

from passk.config.schema import LearnerConfig
from passk.data.conventions import Mix, make_problems
from passk.learner.learner import Learner
from passk.rollout.base import Sampler, SamplingParams
from passk.rollout.rollout import Actor, Rollout, SampleKey, rollout
from passk.rollout.torch_sampler import TorchSampler
from passk.types import Completion
from passk.verifiers.base import ConventionsVerifier

NUM_PROMPTS, NUM_SAMPLES = 22, 12  # of the fixture `groups` in tests/diagnostics


def sample_all(
    sampler: Sampler,
    prompts: Sequence[Sequence[int]],
    seeds_PG: Sequence[Sequence[int]],
    params: SamplingParams,
) -> list[list[Completion]]:
    """What `sample` yields, all of it, in the order of the prompts."""
    drawn = dict(sampler.sample(prompts, seeds_PG, params))
    return [drawn[index] for index in range(len(prompts))]


def judged(
    model, tokenizer, encoder, num_prompts: int, num_samples: int, skill_fraction: float
) -> Rollout:
    """Answers of a model to problems of the embedded task, of which 40 % are calculator prompts."""
    problems = make_problems(
        num_prompts, Mix(0.4, skill_fraction), split="train", seed=1, duplicates=False
    )
    sampler = TorchSampler(copy.deepcopy(model), tokenizer)
    params, key = SamplingParams(1.0, 32), SampleKey(0, "diagnose", 0)
    return rollout(
        Actor(sampler, ConventionsVerifier(), encoder), problems, num_samples, params, key
    )


def learner_of(model) -> Learner:
    """A learner of a copy of the model, in micro-batches small enough that there are several."""
    return Learner(copy.deepcopy(model), LearnerConfig(max_tokens_per_batch=1024), 1, 1.0)
