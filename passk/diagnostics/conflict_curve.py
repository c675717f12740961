"""Estimate f(k) = <grad J_k, grad J_1> for every k from a training batch's own judged samples."""

from collections.abc import Sequence

import numpy as np

from passk.diagnostics.agreement import weighted
from passk.diagnostics.alignment import weighted_gradients
from passk.diagnostics.derivatives import adam_metric, derivatives_along
from passk.learner.batch import advantage_weights
from passk.learner.learner import Learner
from passk.objectives.advantages import mixture_advantages
from passk.types import Group


def batch_products(
    learner: Learner,
    groups: Sequence[Group],
    largest_k: int,
    *,
    num_blocks: int,
    preconditioned: bool,
) -> tuple[float, ...]:
    """Estimate f(1) to f(largest_k) without bias; the weights stay unchanged, bit by bit.

    A prompt's samples are multiplied with the gradient of Pass@1 over the prompts of other blocks,
    so no product holds a sample or a place of the batch twice. The cost is one learner pass and two
    forward passes. With `preconditioned`, the products are <grad J_k, P grad J_1> with Adam's P:
    the change of Pass@1 along Adam's step for Pass@k, apart from its momentum. Before Adam's first
    step they are the plain products.
    """
    rewards_PG = np.array([group.rewards() for group in groups])
    of_problem_P = np.array([group.problem.weight for group in groups])  # as in the step itself
    weights_PG = of_problem_P[:, None] * advantage_weights(
        mixture_advantages(rewards_PG, 1, 1.0), rewards_PG
    )
    (pass1_MD,) = weighted_gradients(learner, groups, weights_PG[..., None], num_blocks)
    metric = adam_metric(learner) if preconditioned and learner.step else None
    slopes_PG = derivatives_along(learner, groups, pass1_MD, metric=metric).values_PG
    return tuple(
        float((of_problem_P * weighted(rewards_PG, slopes_PG, k)).mean())
        for k in range(1, largest_k + 1)
    )
