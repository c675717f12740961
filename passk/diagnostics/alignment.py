"""Measure whether two objectives pull the same way: inner products of their gradients.

Gradients estimated from the same samples share their noise, which adds a positive term to their
inner product and can hide a conflict. So `alignment` multiplies disjoint halves A and B of each
prompt's samples, and corrects cosines by the split-half products of the norms. `measure_products`
(of `passk diagnose`) and the cheaper `batch_products` (of training, from its own batch) give
f(k) = <grad J_k, grad J_1> for every k: where Pass@k conflicts with Pass@1.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from passk.console import working
from passk.diagnostics.agreement import Agreement, measure, weighted
from passk.diagnostics.derivatives import Derivatives, adam_metric, derivatives_along
from passk.errors import UserError
from passk.learner.batch import advantage_weights, make_rows
from passk.learner.learner import Learner
from passk.objectives.advantages import Objective, mixture_advantages
from passk.ranks import gather
from passk.statistics import FloatArray, Interval, jackknife_interval, jackknife_root
from passk.types import Group

MAX_GRADIENT_BYTES = 16 * 2**30


@dataclass(frozen=True, slots=True)
class Alignment:
    """Cosine and inner product of the gradients of two objectives, with 95 % intervals."""

    COLUMNS: ClassVar[tuple[str, ...]] = (
        *("alignment", "alignment_low", "alignment_high"),
        *("inner_product", "inner_product_low", "inner_product_high"),
    )

    cosine: Interval
    inner_product: Interval

    def columns(self) -> dict[str, float]:
        """Return the values by their names in the run files, where `alignment` is the cosine."""
        return self.cosine.columns("alignment") | self.inner_product.columns("inner_product")


def block_gradients(
    learner: Learner,
    groups: Sequence[Group],
    objectives: Sequence[Objective],
    num_blocks: int,
    chosen_P: np.ndarray | None = None,
) -> Tensor:
    """Compute ascent gradients by objective, half of the samples, and block of prompts.

    Returns float32 [2 halves, objectives, blocks, parameters] on the CPU; with several ranks, each
    returns the parameters that it holds. The sum over blocks estimates the whole gradient over the
    P prompts. Block m holds prompts m, m + M, ... and is what the jackknife leaves out. Prompts are
    exchangeable, so blocks are too. With `chosen_P`, a mask, only these prompts' parts are summed,
    in the same blocks and still as parts of the mean over all P.
    """
    rewards_PG = np.array([group.rewards() for group in groups])
    num_prompts, num_samples = rewards_PG.shape
    half = num_samples // 2
    weights = np.zeros((num_prompts, num_samples, 2, len(objectives)))
    for h, samples in enumerate((slice(0, half), slice(half, 2 * half))):
        for o, objective in enumerate(objectives):
            rewards = rewards_PG[:, samples]
            weights[:, samples, h, o] = advantage_weights(objective.advantages(rewards), rewards)
    if chosen_P is not None:
        weights[~chosen_P] = 0
    weights_PGO = weights.reshape(num_prompts, num_samples, -1)
    gradients = weighted_gradients(learner, groups, weights_PGO, num_blocks)
    return gradients.view(2, len(objectives), num_blocks, -1)


def pass_gradient(learner: Learner, groups: Sequence[Group], k: int, num_blocks: int) -> Tensor:
    """Compute the gradient of Pass@k by block of prompts from all samples, [blocks, parameters]."""
    weights_PG = pass_weights(np.array([group.rewards() for group in groups]), k)
    title = f"gradient of Pass@{k}"
    return weighted_gradients(learner, groups, weights_PG[..., None], num_blocks, title)[0]


def pass_weights(rewards_PG: np.ndarray, k: int) -> np.ndarray:
    """Compute the weight of each sample in the estimated gradient of Pass@k, [P, n]."""
    return advantage_weights(mixture_advantages(rewards_PG, k, 0.0), rewards_PG)


def weighted_gradients(
    learner: Learner,
    groups: Sequence[Group],
    weights_PGO: np.ndarray,
    num_blocks: int,
    title: str = "gradients",
) -> Tensor:
    """Compute sum_i w_i grad log pi(y_i|x) by block of prompts: float32 [O, blocks, parameters].

    The result is on the CPU; with several ranks, each returns the parameters that it holds. Raises
    UserError for too many of them (`require_memory`). `title` is that of the progress.
    """
    # Columns that ask for the same gradient (Pass@1 as regime and as reference) are computed once.
    weights_PGO, columns = np.unique(weights_PGO, axis=2, return_inverse=True)
    num_columns = weights_PGO.shape[2]
    require_memory(learner, num_columns * num_blocks)
    gradients = torch.zeros(num_columns, num_blocks, learner.num_local_parameters())
    with working(title, num_columns * num_blocks, "blocks of prompts") as phase:
        for o in range(num_columns):
            for block in range(num_blocks):
                chosen = slice(block, None, num_blocks)
                rows = make_rows(groups[chosen], weights_PGO[chosen][..., o : o + 1])
                gradients[o, block] = -learner.gradient(rows)
                phase.advance()
    return gradients[columns.ravel()]


def require_memory(
    learner: Learner,
    num_gradients: int,
    purpose: str = "gradient alignment",
    remedy: str = "use fewer diagnostics.num_blocks (of passk diagnose: diagnose.num_blocks), or "
    "diagnostics.every=0",
) -> None:
    """Raise UserError if the gradients would take more than `MAX_GRADIENT_BYTES` on some rank.

    All ranks must call this. `purpose` and `remedy` are words of the message.
    """
    size = max(gather(learner.num_local_parameters()))
    if (needed := 4 * num_gradients * size) > MAX_GRADIENT_BYTES:
        raise UserError(
            f"{purpose} of a model with {size:,} parameters would take {needed / 2**30:.0f} GiB in "
            f"{num_gradients} gradients; {remedy}"
        )


def block_shares(chosen_P: np.ndarray, num_blocks: int) -> FloatArray:
    """Compute the share of all prompts that are in each block and chosen, [M]."""
    return np.array([chosen_P[m::num_blocks].sum() for m in range(num_blocks)]) / len(chosen_P)


def alignment(first: Tensor, second: Tensor, shares_2M: ArrayLike | None = None) -> Alignment:
    """Compute the agreement of two objectives, each [2 halves, blocks, parameters].

    `block_gradients` returns such tensors. The inner product is (<a_A, b_B> + <a_B, b_A>) / 2; the
    cosine divides it by sqrt(<a_A, a_B> <b_A, b_B>). Only products between different blocks count:
    products of a prompt with itself are never negative for our objectives and weigh 1/P, so among
    few prompts they would hide a conflict. The rest estimates the population that the prompts are
    drawn from. The cosine is clipped to [-1, 1]. It is NaN where the estimate of a norm is not
    positive, and its ends are NaN where that holds after leaving out some block.

    Blocks count as equally large, unless `shares_2M` gives the share of all prompts that stands
    behind each block of `first` and of `second` (`block_shares`). With parts of prompts of two
    kinds, the inner product is then the mean of <grad p(x), grad p(x')> over pairs of the two in
    different blocks; NaN if there are none, and without ends if some block holds one of all.

    Intervals: delete-a-block jackknife. It assumes that blocks are independent draws of the same
    population, so a block must hold prompts as they come, however many of each kind those are:
    blocks with as many of each kind would leave the draw of the kinds out of the interval. Where
    the norms are small against the scatter between prompts, the interval of the cosine is too
    narrow (coverage 0.74 instead of 0.95 in the worst case tested); trust the inner product then.
    """
    blocks = first.shape[1]
    half_a, half_b = torch.stack([first, second], dim=1).double()  # [objective, block, parameter]
    # Only sums of inner products between blocks are needed, so compute those once.
    cross = np.sum(gather(torch.einsum("imd,jnd->imjn", half_a, half_b).numpy()), axis=0)
    different = 1.0 - np.eye(blocks)
    shares = np.full((2, blocks), 1 / blocks) if shares_2M is None else np.asarray(shares_2M)

    def products(kept_M: np.ndarray) -> tuple[float, float]:
        kept_MM = different * np.outer(kept_M, kept_M)
        pairs_22 = np.einsum("im,jn,mn->ij", shares, shares, kept_MM)
        pairs_22[pairs_22 == 0] = np.nan
        (aa, ab), (ba, bb) = np.einsum("imjn,mn->ij", cross, kept_MM) / pairs_22
        inner = (ab + ba) / 2
        norm = np.sqrt(aa * bb) if aa > 0 and bb > 0 else np.nan
        return float(inner), float(inner / norm)

    full = products(np.ones(blocks))
    left_out = np.array([products(kept_M) for kept_M in different])
    inner, cosine = (
        jackknife_interval(values_M, value)
        if np.isfinite(values_M).all()
        else Interval(value, np.nan, np.nan)
        for values_M, value in zip(left_out.T, full, strict=True)
    )
    cut = np.clip([cosine.value, cosine.low, cosine.high], -1.0, 1.0)
    return Alignment(cosine=Interval(*cut.tolist()), inner_product=inner)


def needed_weight(passk_MD: Tensor, pass1_MD: Tensor) -> Interval:
    """Find the smallest weight of Pass@1 whose mixture with Pass@k does not lower Pass@1.

    That is so to first order: w f(1) + (1 - w) f(k) >= 0, with f the products between different
    blocks of [blocks, parameters]. See `statistics.jackknife_root` for the interval: its upper end
    is the least weight that is clearly enough, and 1 where f(1) is not clearly above 0.
    """
    num_blocks = len(pass1_MD)
    both = torch.stack([passk_MD, pass1_MD]).double()
    cross_2MM = np.sum(gather(torch.einsum("imd,nd->imn", both, both[1]).numpy()), axis=0)
    cross_2MM *= 1.0 - np.eye(num_blocks)
    full_2 = cross_2MM.sum(axis=(1, 2))
    left_out_2M = full_2[:, None] - cross_2MM.sum(axis=1) - cross_2MM.sum(axis=2)
    left_out_2M *= num_blocks / (num_blocks - 2)
    return jackknife_root(left_out_2M.T, (full_2[0], full_2[1]))


@dataclass(frozen=True, slots=True)
class Products:
    """Agreement and products of P prompts with n samples each, and what they were computed from.

    `cosines` has a row per shown k: `cosine` of the gradients of Pass@k and Pass@1, `cosine_low`
    and `cosine_high`, and the ends of `needed_weight`, `pass1_weight_low` and `pass1_weight_high`;
    None if they were not asked for. `seconds` are those of the `gradient` of Pass@1, of the
    `derivatives` along it, and of `cosines`, which the intervals need too, in all metrics.
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
    metrics: Sequence[Tensor | None],
) -> list[Products]:
    """Run a pass for the gradient of Pass@1, and if asked one per k > 1; measure in each metric.

    A metric takes two forward passes for each of these gradients. `ks` begin with 1. A metric, a
    number per parameter, turns products into <grad J_k, M grad J_1>; None leaves them as they are.
    """
    rewards_PG = np.array([group.rewards() for group in groups])
    times = [time.perf_counter()]
    pass1_MD = pass_gradient(learner, groups, 1, num_blocks)
    times.append(time.perf_counter())
    along = [derivatives_along(learner, groups, pass1_MD, metric=metric) for metric in metrics]
    times.append(time.perf_counter())
    rows = [[_cosine(1, pass1_MD, pass1_MD, metric)] for metric in metrics]
    towards: list[dict[int, np.ndarray]] = [{} for _ in metrics]
    for k in ks[1:] if cosines else ():
        passk_MD = pass_gradient(learner, groups, k, num_blocks)
        for i, metric in enumerate(metrics):
            rows[i].append(_cosine(k, passk_MD, pass1_MD, metric))
            slopes = derivatives_along(
                learner, groups, passk_MD, metric=metric, length=along[i].length
            )
            towards[i][k] = weighted(rewards_PG, slopes.values_PG, 1)
    times.append(time.perf_counter())
    seconds = dict(
        zip(("gradient", "derivatives", "cosines"), np.diff(times).tolist(), strict=True)
    )
    return [
        Products(
            measure(rewards_PG, along[i].values_PG, towards[i] if cosines else None),
            along[i],
            pd.DataFrame(rows[i]) if cosines else None,
            seconds,
        )
        for i in range(len(metrics))
    ]


def _cosine(k: int, passk_MD: Tensor, pass1_MD: Tensor, metric: Tensor | None) -> dict[str, float]:
    """Compute a row of `Products.cosines` from products between blocks, also for the norms."""
    root = 1.0 if metric is None else metric.sqrt()
    passk_MD, pass1_MD = passk_MD * root, pass1_MD * root
    # `alignment` expects halves of the samples; blocks already share no samples.
    halves = (blocks_MD.expand(2, -1, -1) for blocks_MD in (passk_MD, pass1_MD))
    needed = needed_weight(passk_MD, pass1_MD)
    ends = {"pass1_weight_low": needed.low, "pass1_weight_high": needed.high}
    return {"k": k} | alignment(*halves).cosine.columns("cosine") | ends


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
