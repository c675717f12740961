"""Sample n completions of each problem and judge them, for training and for measurement."""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from passk.config.schema import RunConfig
from passk.console import working
from passk.data.prompts import PromptEncoder
from passk.errors import Diverged
from passk.memory import memory_advice
from passk.ranks import gather, group_shard, rank_shard, unshard
from passk.rollout.base import Sampler, SamplingParams, group_seeds
from passk.types import Completion, Group, Problem, Verdict
from passk.verifiers.base import Verifier

# What the progress of sampling is called, for purposes that need more words.
_TITLES = {
    "eval": "evaluation",
    "diagnose": "sampling for gradients",
    "filter": "sampling to choose sets",
    "trusted": "sampling trusted problems",
    "curvature": "sampling beside the weights",
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """P groups, with the seconds that sampling and judging took."""

    groups: list[Group]
    sample_seconds: float
    verify_seconds: float

    @property
    def rewards_PG(self) -> np.ndarray:
        """Rewards as float64 [P, n], NaN where the verifier gave none."""
        return np.array([group.rewards() for group in self.groups], dtype=np.float64)

    @property
    def num_tokens(self) -> int:
        """Number of sampled tokens over all completions, end tokens included."""
        return sum(len(c.token_ids) for group in self.groups for c in group.completions)


@dataclass(frozen=True, slots=True)
class Actor:
    """The policy as it acts: the engine that samples, its prompts, and the judge of its answers."""

    sampler: Sampler
    verifier: Verifier
    encoder: PromptEncoder


@dataclass(frozen=True, slots=True)
class SampleKey:
    """Key that identifies a sample, with its problem and index, and so determines its seed."""

    run_seed: int
    purpose: str  # `train`, `eval`, `diagnose`, ...: they never share a draw
    step: int


def training_params(cfg: RunConfig) -> SamplingParams:
    """Return the sampling parameters of training and its diagnostics."""
    rollout = cfg.rollout
    return SamplingParams(
        rollout.temperature, rollout.max_new_tokens, tuple(cfg.data.prompt.stop), rollout.top_p
    )


def eval_params(cfg: RunConfig, temperature: float) -> SamplingParams:
    """Return the sampling parameters of an evaluation at a temperature."""
    max_new_tokens = cfg.eval.max_new_tokens or cfg.rollout.max_new_tokens
    stop = tuple(cfg.data.prompt.stop)
    return SamplingParams(temperature, max_new_tokens, stop, cfg.eval.top_p)


def rollout(
    actor: Actor,
    problems: Sequence[Problem],
    num_samples: int,
    params: SamplingParams,
    key: SampleKey,
) -> Rollout:
    """Draw `num_samples` completions of each problem, and judge them while others are drawn.

    Each rank draws and judges its share of the problems; afterwards every rank has all groups.
    Ranks that share an engine draw their problems together, and each judges its part of them. Seeds
    belong to problems, whichever rank draws them. Identical completions of a problem are judged
    once, as the verdict depends on nothing else.
    `verify_seconds` is the time of judging after sampling has ended. Raises Diverged if the
    sampler's log-probabilities are NaN: its samples mean nothing, and may all be wrong without a
    NaN in the loss.
    """
    started = time.perf_counter()
    sampler = actor.sampler
    group_size = sampler.ranks_per_engine
    seeds_PG = group_shard(
        group_seeds(key.run_seed, key.purpose, key.step, [p.id for p in problems], num_samples),
        group_size,
    )
    problems = group_shard(list(problems), group_size)
    prompts = actor.encoder.prompts(problems)
    mine = rank_shard(list(range(len(problems))), group_size)
    drawn: dict[int, list[Completion]] = {}
    judged: dict[int, Future[list[Verdict]]] = {}
    title = _TITLES.get(key.purpose, "sampling")
    with memory_advice("rollout"), ThreadPoolExecutor(1) as judging:
        with working(title, len(problems) * num_samples, "samples") as phase:
            for index, completions in sampler.sample(prompts, seeds_PG, params):
                phase.advance(len(completions))
                if index not in mine:
                    continue
                drawn[index] = completions
                distinct = {c.token_ids: (problems[index], c) for c in completions}
                judged[index] = judging.submit(actor.verifier.verify, list(distinct.values()))
        sampled = time.perf_counter()
        with working("judging", len(mine), "prompts") as phase:
            for index in mine:
                judged[index].result()
                phase.advance()

    groups = []
    for index in mine:
        distinct_ids = dict.fromkeys(c.token_ids for c in drawn[index])
        verdicts = dict(zip(distinct_ids, judged[index].result(), strict=True))
        groups.append(
            Group(
                problem=problems[index],
                prompt_ids=tuple(prompts[index]),
                completions=tuple(drawn[index]),
                verdicts=tuple(verdicts[c.token_ids] for c in drawn[index]),
                policy_version=sampler.policy_version,
            )
        )
    seconds = gather((sampled - started, time.perf_counter() - sampled))
    groups = unshard(groups, group_size)
    if any(math.isnan(sum(c.logprobs)) for group in groups for c in group.completions):
        raise Diverged(
            f"step {key.step}: the policy's log-probabilities are not numbers, so the run has "
            "diverged, or began with broken weights; the steps before it are kept"
        )
    return Rollout(groups, *map(max, zip(*seconds, strict=True)))


def sample_fields(completion: Completion, verdict: Verdict) -> dict[str, Any]:
    """Return the columns of a sample in files; its log-probability (nats) is the completion's."""
    return {
        "completion": completion.text,
        "num_tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason.value,
        "reward": verdict.reward,
        "reason": verdict.reason,
        "logprob_sampler": sum(completion.logprobs),
    }
