"""Adam's metric for the products of gradients that a diagnosis takes.

A diagonal metric M, a number per parameter, makes them <grad J_k, M grad J_1>: Adam's
1 / (sqrt(v) + eps) makes it the change of Pass@k along its own step.
"""

from pathlib import Path

import torch
from torch import Tensor

from passk.checkpoint import LEARNER, restore
from passk.errors import UserError
from passk.learner import Learner


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
