"""The products of gradients that a diagnosis takes: over which parameters, and in which metric.

A diagonal metric M, a number per parameter, makes them <grad J_k, M grad J_1>: 0 and 1 leave
parameters out, Adam's 1 / (sqrt(v) + eps) makes it the change of Pass@k along its own step.
"""

from pathlib import Path

import torch
from torch import Tensor

from passk.checkpoint import LEARNER, restore
from passk.errors import UserError
from passk.layers import layers_of
from passk.learner import Learner


def metric_of(
    learner: Learner, parameters: str, checkpoint: Path, *, preconditioned: bool
) -> Tensor | None:
    """M in the order of `Learner.gradient`, this rank's part; None for the plain product.

    `parameters` is `all` or `last_layer`. Second moments are those of the checkpoint, which must
    be a run's, of weights that were all trained.
    """
    metric = None
    if parameters == "last_layer":
        metric = _last_layer(learner)
    if preconditioned:
        inverse = _metric_of_checkpoint(learner, checkpoint)
        metric = inverse if metric is None else metric * inverse
    return metric


def _last_layer(learner: Learner) -> Tensor:
    """1 for the weights of the model's last layer, 0 elsewhere."""
    layers = layers_of(learner.model)
    if not layers:
        raise UserError(
            f"diagnose.parameters=last_layer, but {type(learner.model).__name__} has no layers "
            "that transformers marks as such; use diagnose.parameters=all"
        )
    (prefix,) = (name for name, module in learner.model.named_modules() if module is layers[-1])
    parts = learner.trained_parts().items()
    return torch.cat(
        [torch.full((part.numel(),), float(name.startswith(f"{prefix}."))) for name, part in parts]
    )


def _metric_of_checkpoint(learner: Learner, checkpoint: Path) -> Tensor:
    """`adam_metric` from the moments that a run saved."""
    if not (checkpoint / LEARNER).is_dir():
        raise UserError(
            f"diagnose.preconditioned=true, but {checkpoint} holds no moments of Adam (its folder "
            f"{LEARNER} is missing); use diagnose.preconditioned=false"
        )
    restore(checkpoint, learner)
    return adam_metric(learner)


def adam_metric(learner: Learner) -> Tensor:
    """1 / (sqrt(v) + eps) of a learner that has taken a step, v without the bias of its start."""
    beta, eps = learner.cfg.betas[1], learner.cfg.eps
    parts = []
    for moments in learner.moments():
        unbiased = moments["exp_avg_sq"].float() / (1 - beta ** float(moments["step"]))
        parts.append(1 / (unbiased.sqrt() + eps).flatten().cpu())
    return torch.cat(parts)
