"""Measure the interference matrix of a model's prompts by sketches of their gradients.

A count sketch (Charikar, Chen and Farach-Colton 2002) adds every entry of a vector, with a random
sign, to one of `size` buckets: a sparse random projection. Products of sketches are unbiased for
products of the vectors, <Su, Sv> = <u, v> with an error of about |u| |v| / sqrt(size), whatever the
number of parameters. At most the signs of one parameter are in memory at a time, as they are drawn
again from the same seed for every gradient. Products of a few prompts are compared with those of
their gradients, and the pairs that look worst are measured without sketches.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import pad

from passk.console import working
from passk.diagnostics.agreement import agreement_scores
from passk.diagnostics.alignment import pass_gradient, pass_weights
from passk.diagnostics.derivatives import derivatives_along
from passk.diagnostics.interference import interference, most_antagonistic
from passk.learner.batch import TokenRow, make_rows
from passk.learner.learner import Learner
from passk.ranks import gather, rank
from passk.types import Group

NUM_PAIRS = 50  # pairs that are measured and listed
_NUM_EXACT = 32  # prompts whose products are also computed from whole gradients
_MOST_EXACT_BYTES = 4 * 2**30
_MOST_AT_ONCE = 1 << 22  # entries whose signs are held at once


@dataclass(frozen=True, slots=True)
class Matrix:
    """Sketches of the gradients of P prompts, and measurements beside them.

    `pairs` has a row for each of the pairs that look most antagonistic in the first halves of the
    samples: `first` and `second` (places of the prompts), `selected_by` (kappa from those halves),
    and from the other halves `kappa` with its standard error, and `cosine`. `exact` has a row per
    pair of a random subset: `exact` and `sketched` kappa of the same samples, and the product
    `norms` of the lengths of the two gradients; it is empty where these would not fit in memory.
    """

    halves_2PD: np.ndarray
    pairs: pd.DataFrame
    exact: pd.DataFrame
    seconds: float  # spent on the sketches
    seconds_beside: float  # spent on the rest


def measure_matrix(
    learner: Learner,
    groups: Sequence[Group],
    size: int,
    *,
    seed: int,
    metric: Tensor | None,
    length: float,
) -> Matrix:
    """Sketch all prompts to `size` entries and check; `length` comes from `derivatives_along`."""
    started = time.perf_counter()
    halves_2PD = sketches(learner, groups, size, seed=seed, metric=metric).numpy()
    sketched = time.perf_counter()
    exact = _compared(learner, groups, halves_2PD, seed, metric)
    chosen = most_antagonistic(halves_2PD[0], NUM_PAIRS)
    pairs = measured_pairs(learner, groups, halves_2PD, chosen, metric, length)
    ended = time.perf_counter()
    return Matrix(halves_2PD, pairs, exact, sketched - started, ended - sketched)


def _compared(
    learner: Learner,
    groups: Sequence[Group],
    halves_2PD: np.ndarray,
    seed: int,
    metric: Tensor | None,
) -> pd.DataFrame:
    """Compare products of sketches with those of the gradients for a few prompts with signal."""
    with_signal = np.flatnonzero(halves_2PD.any(axis=(0, 2)))
    largest = max(gather(learner.num_local_parameters()))
    most = min(_NUM_EXACT, len(with_signal), _MOST_EXACT_BYTES // (2 * 4 * largest))
    if most < 2:
        return pd.DataFrame({"first": [], "second": [], "exact": [], "sketched": [], "norms": []})
    chosen = np.sort(np.random.default_rng(seed).choice(with_signal, most, replace=False))
    exact_2PD = gradient_halves(learner, [groups[p] for p in chosen], metric)
    mean_PD = exact_2PD.mean(dim=0)
    norms2_P = np.sum(gather(mean_PD.square().sum(dim=1).double().numpy()), axis=0)
    products_PP = np.sum(gather((mean_PD @ mean_PD.T).double().numpy()), axis=0)
    sketched_PP = interference(halves_2PD[:, chosen])
    one, two = np.triu_indices(most, k=1)
    return pd.DataFrame(
        {
            "first": chosen[one],
            "second": chosen[two],
            "exact": products_PP[one, two],
            "sketched": sketched_PP[one, two],
            "norms": np.sqrt(norms2_P[one] * norms2_P[two]),
        }
    )


def measured_pairs(
    learner: Learner,
    groups: Sequence[Group],
    halves_2PD: np.ndarray,
    chosen: Sequence[tuple[int, int]],
    metric: Tensor | None,
    length: float,
) -> pd.DataFrame:
    """Measure kappa of chosen pairs without sketches, from their second halves alone.

    The choice of pairs must not depend on these halves, or the worst would look worse than they
    are. The error combines the jackknife errors over the samples of either prompt, with the other's
    fixed. It is NaN where a prompt's samples are all right or all wrong.
    """
    second = halves(groups)[1]
    rows = []
    with working("antagonistic pairs", len(chosen), "pairs") as phase:
        for one, two in chosen:
            both = [second[one], second[two]]
            rewards_PG = np.array([group.rewards() for group in both])
            # Two blocks of one prompt each: derivatives of each are along the other's gradient.
            gradients = pass_gradient(learner, both, 1, 2)
            slopes = derivatives_along(learner, both, gradients, metric=metric, length=length)
            scores_P, errors_P = agreement_scores(rewards_PG, slopes.values_PG)
            sketched = halves_2PD[:, [one, two]].astype(np.float64)
            norm = float(np.prod(np.linalg.norm(sketched[1], axis=1)))
            selected_by = float(sketched[0, 0] @ sketched[0, 1])
            kappa_error = float(np.hypot(*errors_P)) if (errors_P > 0).all() else np.nan
            cosine = float(sketched[1, 0] @ sketched[1, 1]) / norm if norm else np.nan
            rows.append((one, two, selected_by, float(scores_P.mean()), kappa_error, cosine))
            phase.advance()
    columns = ["first", "second", "selected_by", "kappa", "kappa_error", "cosine"]
    return pd.DataFrame(rows, columns=columns)


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
    parts = list(_rows_of_halves(groups))
    with working("sketches of gradients", len(parts), "halves of prompts") as phase:
        for half, p, rows in parts:
            found[half, p] = -count_sketch(learner.gradient_parts(rows), size, seed, root)
            phase.advance()
    total: np.ndarray = np.sum(gather(found.numpy()), axis=0)
    return torch.from_numpy(total) / math.sqrt(learner.cfg.replicas)


def gradient_halves(
    learner: Learner, groups: Sequence[Group], metric: Tensor | None = None
) -> Tensor:
    """Compute the gradients that `sketches` sketches: float32 [2 halves, P, local parameters]."""
    found = torch.zeros(2, len(groups), learner.num_local_parameters())
    parts = list(_rows_of_halves(groups))
    with working("gradients", len(parts), "halves of prompts") as phase:
        for half, p, rows in parts:
            found[half, p] = -learner.gradient(rows)
            phase.advance()
    return found if metric is None else found.mul_(metric.sqrt())


def _rows_of_halves(groups: Sequence[Group]) -> Iterator[tuple[int, int, list[TokenRow]]]:
    """Yield the half, the prompt, and the rows whose gradient is grad p(x).

    Prompts without rows are left out: their gradient is zero.
    """
    for half, members in enumerate(halves(groups)):
        for p, group in enumerate(members):
            weights_PG = pass_weights(np.array([group.rewards()]), 1)
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
