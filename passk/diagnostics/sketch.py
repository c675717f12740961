"""Sketch the gradients of many prompts: vectors short enough to keep that preserve products.

A count sketch (Charikar, Chen and Farach-Colton 2002) adds every entry of a vector, with a random
sign, to one of `size` buckets: a sparse random projection. Products of sketches are unbiased for
products of the vectors, <Su, Sv> = <u, v> with an error of about |u| |v| / sqrt(size), whatever the
number of parameters. At most the signs of one parameter are in memory at a time, as they are drawn
again from the same seed for every gradient.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from passk.learner.batch import TokenRow, advantage_weights, make_rows
from passk.learner.learner import Learner
from passk.objectives.advantages import mixture_advantages
from passk.ranks import gather, rank
from passk.types import Group

_MOST_AT_ONCE = 1 << 22  # entries whose signs are held at once


def halves(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """Split the samples of each prompt: the prompts with the first halves, and with the second."""
    middle = len(groups[0].completions) // 2
    first, second = (
        [replace(g, completions=g.completions[part], verdicts=g.verdicts[part]) for g in groups]
        for part in (slice(middle), slice(middle, None))
    )
    return first, second


def sketches(
    learner: Learner,
    groups: Sequence[Group],
    size: int,
    *,
    seed: int = 0,
    metric: Tensor | None = None,
) -> Tensor:
    """Sketch grad p(x) of each prompt from each half of its samples: float32 [2 halves, P, size].

    The estimates use RLOO's advantages and are unbiased. A half whose samples are all right or all
    wrong shows no gradient and has a sketch of zeros. With `metric`, a number per parameter,
    products of sketches estimate <u, M v>. With several ranks each sketches the parameters that it
    holds, and all get the sum, which is a sketch of the whole.
    """
    root = None if metric is None else metric.sqrt()
    found = torch.zeros(2, len(groups), size)
    for half, p, rows in _rows_of_halves(groups):
        found[half, p] = -count_sketch(learner.gradient_parts(rows), size, seed, root)
    total: np.ndarray = np.sum(gather(found.numpy()), axis=0)
    return torch.from_numpy(total) / math.sqrt(learner.cfg.replicas)


def gradient_halves(
    learner: Learner, groups: Sequence[Group], metric: Tensor | None = None
) -> Tensor:
    """Compute the gradients that `sketches` sketches: float32 [2 halves, P, local parameters]."""
    found = torch.zeros(2, len(groups), learner.num_local_parameters())
    for half, p, rows in _rows_of_halves(groups):
        found[half, p] = -learner.gradient(rows)
    return found if metric is None else found.mul_(metric.sqrt())


def _rows_of_halves(groups: Sequence[Group]) -> Iterator[tuple[int, int, list[TokenRow]]]:
    """Yield the half, the prompt, and the rows whose gradient is grad p(x).

    Prompts without rows are left out: their gradient is zero.
    """
    for half, members in enumerate(halves(groups)):
        for p, group in enumerate(members):
            rewards_PG = np.array([group.rewards()])
            weights_PG = advantage_weights(mixture_advantages(rewards_PG, 1, 1.0), rewards_PG)
            if rows := make_rows([group], weights_PG[..., None]):
                yield half, p, rows


def count_sketch(parts: Sequence[Tensor], size: int, seed: int, root: Tensor | None) -> Tensor:
    """Sketch a vector given in parts, of which this rank holds its own; with `root`, root * vector.

    The same seed gives the same projection, so sketches add up as the vectors do.
    """
    total = torch.zeros(size, device=parts[0].device)
    generator = torch.Generator(parts[0].device).manual_seed(seed + rank())
    roots = [None] * len(parts) if root is None else root.split([len(part) for part in parts])
    step = max(_MOST_AT_ONCE // size, 1) * size
    for part, scale in zip(parts, roots, strict=True):
        for start in range(0, len(part), step):
            piece = part[start : start + step]
            if scale is not None:
                piece = piece * scale[start : start + step].to(piece.device)
            total += _folded(piece, size, generator)
    return total.cpu()


def _folded(values: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Sum rows of `size` entries with random signs, each row rotated by a random number of places.

    Two entries of one row never share a bucket, and others do with a chance of 1 / size, as if each
    had drawn its own bucket; and the sum over rows needs no writes to the same place.
    """
    device, num_rows = values.device, -(-len(values) // size)
    signs = torch.randint(2, (len(values),), generator=generator, device=device, dtype=torch.int8)
    turns = torch.randint(size, (num_rows, 1), generator=generator, device=device)
    signed = pad(values * (2 * signs - 1), (0, num_rows * size - len(values)))
    places = (torch.arange(size, device=device) + turns) % size
    return signed.view(num_rows, size).gather(1, places).sum(dim=0)
