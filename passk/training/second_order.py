"""Move the policy along Adam's steps, and sample it there: Pass@1 to second order."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from passk.config.schema import TrainConfig
from passk.diagnostics.alignment import weighted_gradients
from passk.diagnostics.derivatives import moved
from passk.diagnostics.second_order import SecondOrder, adam_step, second_order
from passk.learner.batch import advantage_weights
from passk.objectives.advantages import Objective
from passk.objectives.pass_at_k import FloatArray, judged_counts
from passk.rollout.rollout import SampleKey, eval_params, rollout
from passk.training.build import Parts
from passk.training.weight_sync import hand_over
from passk.types import Group

MOST_BATCHES = 8


def measure_second_order(
    cfg: TrainConfig,
    parts: Parts,
    groups: Sequence[Group],
    objective: Objective,
    *,
    reach: float,
    goes_on: bool,
) -> SecondOrder:
    """Measure held-out Pass@1 along Adam's steps for an objective, on batches of these groups.

    Batches are as large as in training (`rollout.num_prompts` x `rollout.num_samples`); `groups`
    must make two. The weights of learner and sampler are the same afterwards, bit by bit.
    `goes_on` is that of `adam_step`.
    """
    start_H = _success(cfg, parts)
    ends, total = [], None
    for batch in batches(cfg, groups):
        step = _step(parts, batch, objective, goes_on=goes_on)
        total = step if total is None else total + step
        ends.append(_success_at_ends(cfg, parts, reach * step))
    assert total is not None, "no batch"
    mean_ends_2H = _success_at_ends(cfg, parts, reach / len(ends) * total)
    hand_over(parts.learner, parts.sampler, cfg.rollout.num_synced_checks)
    return second_order(start_H, np.stack(ends), mean_ends_2H, reach)


def batches(cfg: TrainConfig, groups: Sequence[Group]) -> list[list[Group]]:
    """Cut groups into disjoint batches of training's size, at most `MOST_BATCHES`."""
    size, n = cfg.rollout.num_prompts, cfg.rollout.num_samples
    num_batches = min(len(groups) // size, MOST_BATCHES)
    cut = [
        replace(group, completions=group.completions[:n], verdicts=group.verdicts[:n])
        for group in groups[: num_batches * size]
    ]
    return [cut[i * size : (i + 1) * size] for i in range(num_batches)]


def _step(parts: Parts, batch: Sequence[Group], objective: Objective, *, goes_on: bool) -> Tensor:
    rewards_PG = np.array([group.rewards() for group in batch])
    of_problem_P = np.array([group.problem.weight for group in batch])
    weights_PG = advantage_weights(objective.advantages(rewards_PG), rewards_PG)
    weights_PG1 = (of_problem_P[:, None] * weights_PG)[..., None]
    gradient = weighted_gradients(parts.learner, batch, weights_PG1, 1, "gradient of a batch")[0, 0]
    return adam_step(parts.learner, gradient, goes_on=goes_on)


def _success_at_ends(cfg: TrainConfig, parts: Parts, step: Tensor) -> FloatArray:
    """Sample at theta + step and at theta - step: success of each held-out problem, [2, H]."""
    found = []
    for sign in (1, -1):
        with moved(parts.learner, sign * step):
            hand_over(parts.learner, parts.sampler, cfg.rollout.num_synced_checks)
            found.append(_success(cfg, parts))
    return np.stack(found)


def _success(cfg: TrainConfig, parts: Parts) -> FloatArray:
    """Sample held-out problems, each time with the same seeds: the share of right samples, [H]."""
    sampled = rollout(
        parts.actor,
        parts.data.heldout,
        cfg.eval.num_samples,
        eval_params(cfg, cfg.eval.temperature),
        SampleKey(cfg.eval.seed, "curvature", 0),
    )
    parts.sampler.sleep()
    n_H, c_H = judged_counts(sampled.rewards_PG)
    success_H: FloatArray = c_H / np.maximum(n_H, 1)
    return success_H
