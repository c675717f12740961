"""Along the gradient of Pass@1, how fast does each sample become likelier? Two forward passes.

The derivative of log pi(y|x) along a direction is a central difference of log-probabilities at
theta +- eps u, so that those of all samples cost two forward passes, and no backward pass for each
prompt. The direction of a sample is the gradient over the prompts outside its own block: nothing in
it depends on the sample, nor on another sample of its prompt. A diagonal metric M, a number per
parameter, makes the products <grad J_k, M grad J_1>: Adam's 1 / (sqrt(v) + eps) makes it the change
of Pass@k along its own step.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from passk.errors import UserError
from passk.learner.batch import TokenRow, make_rows
from passk.learner.checkpoint import LEARNER, restore
from passk.learner.learner import Learner
from passk.ranks import gather
from passk.types import Group

# Lengths that are tried, as shares of |theta|: along long ones log pi is not straight, short ones
# drown in the rounding of log-probabilities.
_LENGTHS = tuple(1e-3 / 2**i for i in range(12))
_NUM_TRIED = 64  # rows that the length is chosen with


@dataclass(frozen=True, slots=True)
class Derivatives:
    """d log pi(y_i|x) / d theta times the direction, and how well differences stand for it.

    `error` is how much they change when `length` (eps as a share of |theta|) is halved: the norm of
    the changes over the norm of the derivatives of `num_tried` rows. Samples that no estimator
    weighs have 0: those not judged, and those of prompts where all are right or all wrong.
    """

    values_PG: np.ndarray
    length: float
    error: float
    num_tried: int


def derivatives_along(
    learner: Learner,
    groups: Sequence[Group],
    gradients: Tensor,
    *,
    metric: Tensor | None = None,
    length: float | None = None,
) -> Derivatives:
    """The derivative of each sample's log-probability along the gradient over other prompts.

    `gradients` is [blocks, parameters], of which block m is the part of prompts m, m + M, ... in
    the mean over all P. A sample of block m is moved along the sum of the others, scaled to the
    mean over their prompts. `metric` multiplies the direction, a number per parameter. `length` is
    that of an earlier call, where it is known. The weights are the same afterwards, bit by bit.
    """
    num_blocks, num_prompts = len(gradients), len(groups)
    values_PG = np.zeros((num_prompts, len(groups[0].completions)))
    error, num_tried = math.nan, 0
    total = gradients.sum(dim=0)
    for block in range(num_blocks):
        members = range(num_prompts)[block::num_blocks]
        if not (rows := _weighed_rows([groups[p] for p in members])):
            continue
        direction = (total - gradients[block]) * (num_prompts / (num_prompts - len(members)))
        if metric is not None:
            direction *= metric
        if length is None:
            tried = rows[:: -(-len(rows) // _NUM_TRIED)]
            length, error = _best_length(learner, tried, direction)
            num_tried = len(tried)
        for row, slope in zip(rows, _slopes(learner, rows, direction, length), strict=True):
            for p, i in row.samples:
                values_PG[members[p], i] = slope
    return Derivatives(values_PG, length or math.nan, error, num_tried)


def _weighed_rows(groups: Sequence[Group]) -> list[TokenRow]:
    """The judged samples of the prompts that have a right and a wrong one."""
    rewards_PG = np.array([group.rewards() for group in groups])
    signal_P = (rewards_PG == 1).any(axis=1) & (rewards_PG == 0).any(axis=1)
    weighed_PG = signal_P[:, None] & ~np.isnan(rewards_PG)
    return make_rows(groups, weighed_PG[..., None].astype(np.float64))


def _best_length(
    learner: Learner, rows: Sequence[TokenRow], direction: Tensor
) -> tuple[float, float]:
    """The length whose slopes change least when it is halved, and by how much they do.

    From long to short, until the changes have begun to grow again.
    """
    best, least = _LENGTHS[0], math.inf
    longer = _slopes(learner, rows, direction, best)
    for length in _LENGTHS[1:]:
        shorter = _slopes(learner, rows, direction, length)
        size = float(np.linalg.norm(shorter))
        change = float(np.linalg.norm(longer - shorter)) / size if size else 0.0
        if change > least:
            break
        best, least, longer = length, change, shorter
    return best, least


def _slopes(
    learner: Learner, rows: Sequence[TokenRow], direction: Tensor, length: float
) -> np.ndarray:
    """<grad log pi, direction> of each row, by a central difference."""
    size = _norm([direction])
    if size == 0:
        return np.zeros(len(rows))
    # A gradient of several replicas is divided by their root, so that sums over ranks are right.
    root = math.sqrt(learner.cfg.replicas)
    eps = length * _norm(list(learner.trained_parts().values())) / root
    ends = []
    for sign in (1, -1):
        with moved(learner, direction * (root * sign * eps / size)):
            ends.append(np.array(learner.logprobs(rows)))
    slopes: np.ndarray = (ends[0] - ends[1]) * (size / (2 * eps))
    return slopes


def _norm(parts: Sequence[Tensor]) -> float:
    """The Euclidean norm of a vector of which every rank has parts."""
    return math.sqrt(sum(gather(sum(float(part.double().square().sum()) for part in parts))))


@contextmanager
def moved(learner: Learner, step: Tensor) -> Iterator[None]:
    """The weights `step` (all trained parameters, flat) away, within the block."""
    parts = list(learner.trained_parts().values())
    before = [part.clone() for part in parts]
    steps = step.split([part.numel() for part in parts])
    try:
        for part, change in zip(parts, steps, strict=True):
            part += change.view(part.shape).to(part.device, part.dtype)
        yield
    finally:
        for part, old in zip(parts, before, strict=True):
            part.copy_(old)


def saved_adam_metric(learner: Learner, checkpoint: Path) -> Tensor:
    """`adam_metric` from the moments of a checkpoint, which must be a run's.

    Of weights that were all trained; those without gradients are not read.
    """
    if not (checkpoint / LEARNER).is_dir():
        raise UserError(
            f"diagnose.preconditioned=true, but {checkpoint} holds no moments of Adam (its folder "
            f"{LEARNER} is missing); use diagnose.preconditioned=false"
        )
    restore(checkpoint, learner)
    return adam_metric(learner)


def adam_metric(learner: Learner) -> Tensor:
    """1 / (sqrt(v) + eps) of a learner that has taken a step, v without the bias of its start.

    In the order of `Learner.gradient`, this rank's part.
    """
    beta, eps = learner.cfg.betas[1], learner.cfg.eps
    parts = []
    for moments in learner.moments():
        unbiased = moments["exp_avg_sq"].float() / (1 - beta ** float(moments["step"]))
        parts.append(1 / (unbiased.sqrt() + eps).flatten().cpu())
    return torch.cat(parts)
