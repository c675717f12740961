"""Sketch the interference matrix of a model's prompts, check it, and measure its worst pairs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch import Tensor

from passk.diagnostics.agreement import agreement_scores
from passk.diagnostics.alignment import weighted_gradients
from passk.diagnostics.derivatives import derivatives_along
from passk.diagnostics.interference import interference, most_antagonistic
from passk.diagnostics.sketch import gradient_halves, halves, sketches
from passk.learner.batch import advantage_weights
from passk.learner.learner import Learner
from passk.objectives.advantages import mixture_advantages
from passk.ranks import gather
from passk.types import Group

NUM_PAIRS = 50  # pairs that are measured and listed
_NUM_EXACT = 32  # prompts whose products are also computed from whole gradients
_MOST_EXACT_BYTES = 4 * 2**30


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
    for one, two in chosen:
        both = [second[one], second[two]]
        rewards_PG = np.array([group.rewards() for group in both])
        weights_PG = advantage_weights(mixture_advantages(rewards_PG, 1, 1.0), rewards_PG)
        # Two blocks of one prompt each: derivatives of each are along the gradient of the other.
        gradients = weighted_gradients(learner, both, weights_PG[..., None], 2)[0]
        slopes = derivatives_along(learner, both, gradients, metric=metric, length=length)
        scores_P, errors_P = agreement_scores(rewards_PG, slopes.values_PG)
        sketched = halves_2PD[:, [one, two]].astype(np.float64)
        norm = float(np.prod(np.linalg.norm(sketched[1], axis=1)))
        kappa = float(scores_P.mean())
        rows.append(
            {
                "first": one,
                "second": two,
                "selected_by": float(sketched[0, 0] @ sketched[0, 1]),
                "kappa": kappa,
                "kappa_error": float(np.hypot(*errors_P)) if (errors_P > 0).all() else np.nan,
                "cosine": float(sketched[1, 0] @ sketched[1, 1]) / norm if norm else np.nan,
            }
        )
    columns = ["first", "second", "selected_by", "kappa", "kappa_error", "cosine"]
    return pd.DataFrame(rows, columns=columns)
