"""Measure f(k) = <grad J_k, grad J_1> for every k: where Pass@k conflicts with Pass@1.

`measure_products` is the measurement of `passk diagnose`, with agreement and cosines;
`batch_products` is the cheaper one that training makes from its own batch.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from passk.diagnostics.agreement import Agreement, measure, weighted
from passk.diagnostics.alignment import alignment, pass_gradient, pass_weights, weighted_gradients
from passk.diagnostics.derivatives import Derivatives, adam_metric, derivatives_along
from passk.learner.learner import Learner
from passk.types import Group


@dataclass(frozen=True, slots=True)
class Products:
    """Agreement and products of P prompts with n samples each, and what they were computed from.

    `cosines` has a row per shown k: `cosine` of the gradients of Pass@k and Pass@1, `cosine_low`
    and `cosine_high`; None if they were not asked for. `seconds` are those of the `gradient` of
    Pass@1, of the `derivatives` along it, and of `cosines`, which the intervals need too.
    """

    agreement: Agreement
    derivatives: Derivatives
    cosines: pd.DataFrame | None
    seconds: dict[str, float]


def measure_products(
    learner: Learner,
    groups: Sequence[Group],
    ks: Sequence[int],
    num_blocks: int,
    *,
    cosines: bool,
    metric: Tensor | None,
) -> Products:
    """Run a pass for the gradient of Pass@1, two forward passes, and if asked as much per k > 1.

    `ks` begin with 1. `metric`, a number per parameter, turns products into <grad J_k, M grad J_1>.
    """
    rewards_PG = np.array([group.rewards() for group in groups])
    times = [time.perf_counter()]
    pass1_MD = pass_gradient(learner, groups, 1, num_blocks)
    times.append(time.perf_counter())
    derivatives = derivatives_along(learner, groups, pass1_MD, metric=metric)
    times.append(time.perf_counter())
    towards, rows = dict[int, np.ndarray](), [_cosine(1, pass1_MD, pass1_MD, metric)]
    for k in ks[1:] if cosines else ():
        passk_MD = pass_gradient(learner, groups, k, num_blocks)
        rows.append(_cosine(k, passk_MD, pass1_MD, metric))
        slopes = derivatives_along(
            learner, groups, passk_MD, metric=metric, length=derivatives.length
        )
        towards[k] = weighted(rewards_PG, slopes.values_PG, 1)
    times.append(time.perf_counter())
    return Products(
        measure(rewards_PG, derivatives.values_PG, towards if cosines else None),
        derivatives,
        pd.DataFrame(rows) if cosines else None,
        dict(zip(("gradient", "derivatives", "cosines"), np.diff(times).tolist(), strict=True)),
    )


def _cosine(k: int, passk_MD: Tensor, pass1_MD: Tensor, metric: Tensor | None) -> dict[str, float]:
    """Compute the cosine of two gradients from products between blocks, also for the norms."""
    root = 1.0 if metric is None else metric.sqrt()
    # `alignment` expects halves of the samples; blocks already share no samples.
    both = [(blocks_MD * root).expand(2, -1, -1) for blocks_MD in (passk_MD, pass1_MD)]
    cosine = alignment(both[0], both[1]).cosine
    return {"k": k, "cosine": cosine.value, "cosine_low": cosine.low, "cosine_high": cosine.high}


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
    weights_PG = of_problem_P[:, None] * pass_weights(rewards_PG, 1)
    (pass1_MD,) = weighted_gradients(learner, groups, weights_PG[..., None], num_blocks)
    metric = adam_metric(learner) if preconditioned and learner.step else None
    slopes_PG = derivatives_along(learner, groups, pass1_MD, metric=metric).values_PG
    return tuple(
        float((of_problem_P * weighted(rewards_PG, slopes_PG, k)).mean())
        for k in range(1, largest_k + 1)
    )
