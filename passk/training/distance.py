"""Measure how far a run's policy has moved from the one it started from, on held-out samples."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from passk.config.schema import TrainConfig
from passk.console import working
from passk.evaluation.distance import SampledAnswer, distance_columns
from passk.learner.batch import make_rows
from passk.learner.fsdp import local_tensor
from passk.learner.learner import Learner
from passk.learner.lora import base_parameters, plain_tensors
from passk.learner.policy import load_policy, load_sharded
from passk.memory import memory_advice
from passk.ranks import gather, num_ranks
from passk.rollout.rollout import SampleKey, rollout, training_params
from passk.training.build import Parts
from passk.training.weight_sync import hand_over


@working("distance from the start")
def measure_distance(cfg: TrainConfig, parts: Parts, origin: str) -> pd.DataFrame:
    """Estimate the distance of the learner's policy from the one at `origin`; return one row.

    The columns are those of `distance_columns` for `eval.num_distance_samples` samples of each
    held-out problem, drawn as training draws them (so both policies are at `rollout.temperature`)
    with the same random numbers at every step; and `distance`, |theta - theta_0| over all weights,
    adapters merged, with `relative_distance`, its share of |theta_0|.
    The policy at `origin` is loaded for this and dropped, so training holds no second one.
    """
    groups = rollout(
        parts.actor,
        parts.data.heldout,
        cfg.eval.num_distance_samples,
        training_params(cfg),
        SampleKey(cfg.eval.seed, "distance", 0),
    ).groups
    ones_PG1 = np.ones((len(groups), cfg.eval.num_distance_samples, 1))
    rows = make_rows(groups, ones_PG1)
    parts.sampler.sleep()
    with memory_advice("learner"), _policy_at(origin, cfg, parts) as start:
        now, then = parts.learner.token_logprobs(rows), start.token_logprobs(rows)
        length, whole = weight_distance(parts.learner, start)
    hand_over(parts.learner, parts.sampler, cfg.rollout.num_synced_checks)
    answers = [
        SampledAnswer(row.samples[0][0], len(row.samples), *logprobs)
        for row, *logprobs in zip(rows, now, then, strict=True)
    ]
    table = distance_columns(answers, cfg.eval.num_resamples)
    return table.assign(distance=length, relative_distance=length / whole)


@contextmanager
def _policy_at(origin: str, cfg: TrainConfig, parts: Parts) -> Iterator[Learner]:
    """Load the policy at `origin`, in shards if the learner is, to compute log-probabilities."""
    plain = replace(cfg.model, lora_rank=0)
    settings = replace(cfg.learner, compile=False, gradient_checkpointing=False)
    device = parts.learner.model.device
    model = (
        load_sharded(plain, origin, device, settings, cfg.train.seed)
        if num_ranks() > 1
        else load_policy(plain, origin, device)
    )
    yield Learner(model, settings, 1, parts.learner.temperature)
    del model
    if device.type == "cuda":
        torch.cuda.empty_cache()


@torch.no_grad()
def weight_distance(learner: Learner, start: Learner) -> tuple[float, float]:
    """Return |theta - theta_0| and |theta_0| over the weights of the plain models."""
    trained = plain_tensors(learner.model, learner.model.named_parameters())
    squares = [
        (_square(local_tensor(one).float() - other.float()), _square(other))
        for (_, one), other in zip(trained, _local_parts(start), strict=True)
    ]
    parts = gather(tuple(map(sum, zip(*squares, strict=True))))
    difference, whole = map(sum, zip(*parts, strict=True))
    copies = learner.cfg.replicas if num_ranks() > 1 else 1
    return math.sqrt(difference / copies), math.sqrt(whole / copies)


def _local_parts(start: Learner) -> Iterator[Tensor]:
    return (local_tensor(parameter.detach()) for _, parameter in base_parameters(start.model))


def _square(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())
