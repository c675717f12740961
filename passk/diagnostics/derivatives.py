"""Compute how fast each sample becomes likelier along the gradient of Pass@1.

The derivative of log pi(y|x) along a direction is a central difference of log-probabilities at
theta +- eps u, so the derivatives of all samples cost two forward passes, without a backward pass
per prompt. The direction of a sample is the gradient over the prompts outside its own block, so it
depends neither on the sample nor on another sample of its prompt. A diagonal metric M, a number per
parameter, turns the products into <grad J_k, M grad J_1>; with Adam's 1 / (sqrt(v) + eps), that is
the change of Pass@k along Adam's step for Pass@1.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from passk.console import working
from passk.errors import UserError
from passk.learner.batch import TokenRow, make_rows
from passk.learner.checkpoint import LEARNER, restore
from passk.learner.learner import Learner
from passk.ranks import gather
from passk.types import Group

# Step lengths to try, as shares of |theta|: over long ones log pi is not linear, short ones drown
# in the rounding of log-probabilities.
_LENGTHS = tuple(1e-3 / 2**i for i in range(12))
_NUM_TRIED = 64  # rows used to choose the length


@dataclass(frozen=True, slots=True)
class Derivatives:
    """Derivatives of log pi(y_i|x) along the direction, and the accuracy of the differences.

    `error` is the relative change when `length` (eps as a share of |theta|) is halved: the norm of
    the changes over the norm of the derivatives of `num_tried` rows. Samples to which no estimator
    gives weight have 0: those not judged, and those of prompts where all are right or all wrong.
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
    of_others: bool = False,
) -> Derivatives:
    """Compute the derivative of each sample's log-probability along other prompts' gradient.

    `gradients` is [blocks, parameters]; block m is the part of prompts m, m + M, ... in the mean
    over all P. The direction of a sample of block m is the sum of the other blocks, scaled to the
    mean over their prompts. `metric` multiplies the direction, a number per parameter. `length`
    reuses that of an earlier call. With `of_others` the gradients are of other problems than all of
    these, and their sum is the direction of every sample. The weights are the same afterwards, bit
    by bit.
    """
    rewards_PG = np.array([group.rewards() for group in groups])
    signal_P = (rewards_PG == 1).any(axis=1) & (rewards_PG == 0).any(axis=1)
    weighed_PG = (signal_P[:, None] & ~np.isnan(rewards_PG)).astype(np.float64)
    values_PG, num_prompts = np.zeros(rewards_PG.shape), len(groups)
    error, num_tried = math.nan, 0
    total = gradients.sum(dim=0)
    with working("derivatives", len(gradients), "blocks of prompts") as phase:
        for block in range(len(gradients)):
            chosen = slice(block, None, len(gradients))
            members = range(num_prompts)[chosen]
            if rows := make_rows(groups[chosen], weighed_PG[chosen][..., None]):
                direction = total.clone()
                if not of_others:
                    direction -= gradients[block]
                    direction *= num_prompts / (num_prompts - len(members))
                if metric is not None:
                    direction *= metric
                if length is None:
                    tried = rows[:: -(-len(rows) // _NUM_TRIED)]
                    length, error = _best_length(learner, tried, direction)
                    num_tried = len(tried)
                slopes = _slopes(learner, rows, direction, length)
                for row, slope in zip(rows, slopes, strict=True):
                    for p, i in row.samples:
                        values_PG[members[p], i] = slope
            phase.advance()
    return Derivatives(values_PG, length or math.nan, error, num_tried)


def _best_length(
    learner: Learner, rows: Sequence[TokenRow], direction: Tensor
) -> tuple[float, float]:
    """Return the length whose slopes change least when it is halved, and that relative change.

    Tries lengths from long to short until the changes begin to grow again.
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
    """Compute <grad log pi, direction> of each row by a central difference."""
    size = _norm([direction])
    if size == 0:
        return np.zeros(len(rows))
    # Gradients of R replicas are divided by sqrt(R), which makes sums over ranks right.
    root = math.sqrt(learner.cfg.replicas)
    eps = length * _norm(list(learner.trained_parts().values())) / root
    ends = []
    for sign in (1, -1):
        with moved(learner, direction * (root * sign * eps / size)):
            ends.append(np.array(learner.logprobs(rows)))
    slopes: np.ndarray = (ends[0] - ends[1]) * (size / (2 * eps))
    return slopes


def _norm(parts: Sequence[Tensor]) -> float:
    """Compute the Euclidean norm of a vector whose parts lie on all ranks."""
    return math.sqrt(sum(gather(sum(float(part.double().square().sum()) for part in parts))))


@contextmanager
def moved(learner: Learner, step: Tensor) -> Iterator[None]:
    """Shift the weights by `step` (all trained parameters, flat) within the block."""
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
    """Compute `adam_metric` from the moments of a checkpoint of a training run.

    The run must have trained all weights; the moments of weights without gradients are not read.
    Raises UserError if the checkpoint holds no moments.
    """
    if not (checkpoint / LEARNER).is_dir():
        raise UserError(
            f"diagnose.preconditioned=true, but {checkpoint} holds no moments of Adam (its folder "
            f"{LEARNER} is missing); use diagnose.preconditioned=false"
        )
    restore(checkpoint, learner)
    return adam_metric(learner)


def adam_metric(learner: Learner) -> Tensor:
    """Compute 1 / (sqrt(v) + eps) for a learner that has taken a step, with bias-corrected v.

    Returns this rank's part, in the order of `Learner.gradient`.
    """
    beta, eps = learner.cfg.betas[1], learner.cfg.eps
    parts = []
    for moments in learner.moments():
        unbiased = moments["exp_avg_sq"].float() / (1 - beta ** float(moments["step"]))
        parts.append(1 / (unbiased.sqrt() + eps).flatten().cpu())
    return torch.cat(parts)
