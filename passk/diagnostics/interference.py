"""Analyse the interference matrix kappa(x, x') = <grad p(x), grad p(x')> (paper eq. 5).

Everything is computed from vectors that represent gradients, [2 halves, P, D]: sketches of them
(`passk.diagnostics.matrix`) or the gradients themselves. Two prompts share no samples, so the
product of their estimates from all samples is unbiased; the product of a prompt with itself must be
between its halves.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform

from passk.objectives.pass_at_k import FloatArray, IntArray
from passk.statistics import resample_counts

# Clusters are joined while the mean cosine between their prompts is at least this. It is small
# because noise shrinks the cosines of estimates; it is about twice the error of a sketch of 4,096
# numbers for one pair, 1 / 64. docs/research/interference.md shows the clusters that it finds.
LEAST_COSINE = 0.03
_TAILS = (0.025, 0.975)


def interference(halves_2PD: FloatArray) -> FloatArray:
    """Compute kappa [P, P], each entry without bias."""
    first_PD, second_PD = halves_2PD.astype(np.float64)
    mean_PD = (first_PD + second_PD) / 2
    kappa_PP: FloatArray = mean_PD @ mean_PD.T
    np.fill_diagonal(kappa_PP, (first_PD * second_PD).sum(axis=1))
    return kappa_PP


def cosines(halves_2PD: FloatArray) -> FloatArray:
    """Compute cosines of the estimates from all samples [P, P], shrunk towards 0 by their noise.

    Prompts without signal have cosine 0, also with themselves.
    """
    mean_PD = halves_2PD.astype(np.float64).mean(axis=0)
    norms_P1 = np.linalg.norm(mean_PD, axis=1, keepdims=True)
    unit_PD = np.divide(mean_PD, norms_P1, out=np.zeros_like(mean_PD), where=norms_P1 > 0)
    cosines_PP: FloatArray = np.clip(unit_PD @ unit_PD.T, -1, 1)
    return cosines_PP


def most_antagonistic(vectors_PD: FloatArray, most: int) -> list[tuple[int, int]]:
    """Return at most `most` pairs of prompts with products below 0, lowest product first."""
    products_PP = vectors_PD.astype(np.float64) @ vectors_PD.T.astype(np.float64)
    rows, columns = np.triu_indices(len(products_PP), k=1)
    products = products_PP[rows, columns]
    lowest = np.argsort(products, kind="stable")[:most]
    return [(int(rows[i]), int(columns[i])) for i in lowest if products[i] < 0]


def like_prompts(cosines_PP: FloatArray, least_cosine: float = LEAST_COSINE) -> IntArray:
    """Assign each prompt a cluster, numbered from the largest (0); -1 for prompts without signal.

    Clusters are joined, closest first, while the mean of the cosines between their prompts is
    `least_cosine` or more (average linkage), so their number need not be known.
    """
    signal_P = np.diag(cosines_PP) > 0
    labels_P: IntArray = np.where(signal_P, 0, -1)
    if signal_P.sum() > 1:
        joined = _linkage(cosines_PP[np.ix_(signal_P, signal_P)])
        found = fcluster(joined, 1 - least_cosine, "distance")
        by_size = np.argsort(-np.bincount(found), kind="stable")
        labels_P[signal_P] = np.argsort(by_size)[found]
    return labels_P


def clustered_order(cosines_PP: FloatArray, names: Sequence[str], order: Sequence[str]) -> IntArray:
    """Order the prompts with signal name by name, similar prompts together within a name."""
    signal_P, names_P = np.diag(cosines_PP) > 0, np.array(names)
    parts = []
    for name in order:
        members = np.flatnonzero(signal_P & (names_P == name))
        if len(members) > 2:
            members = members[leaves_list(_linkage(cosines_PP[np.ix_(members, members)]))]
        parts.append(members)
    places: IntArray = np.concatenate(parts)
    return places


def _linkage(cosines_PP: FloatArray) -> FloatArray:
    distances_PP = 1 - cosines_PP
    np.fill_diagonal(distances_PP, 0)
    joined: FloatArray = linkage(squareform(distances_PP, checks=False), "average")
    return joined


def recovered(labels: Sequence[int], names: Sequence[str]) -> tuple[float, float]:
    """Measure how well clusters separate the names: their purity, and the adjusted Rand index.

    Purity is the share of prompts that have the most frequent name of their cluster. The index
    (Hubert and Arabie 1985) counts pairs that are together in both; it is 0 by chance and 1 at
    best.
    """
    counts = pd.crosstab(np.array(labels), np.array(names)).to_numpy()

    def pairs(sizes: np.ndarray) -> float:
        return float((sizes * (sizes - 1) / 2).sum())

    both, of_labels, of_names = (pairs(counts), pairs(counts.sum(1)), pairs(counts.sum(0)))
    chance = of_labels * of_names / max(pairs(counts.sum()[None]), 1)
    best = (of_labels + of_names) / 2
    index = (both - chance) / (best - chance) if best > chance else 1.0
    return float(counts.max(axis=1).sum() / counts.sum()), index


def between_groups(
    kappa_PP: FloatArray, members: Mapping[str, IntArray], grouping: str, num_resamples: int
) -> pd.DataFrame:
    """Compute the mean kappa between the prompts of each pair of groups, with its interval.

    Within a group the products of prompts with themselves are left out, also where a resample holds
    a prompt twice. The interval is a bootstrap; each group is resampled by itself. `cosine` is the
    cosine of the mean gradients of the two groups, NaN where the estimate of a squared norm is not
    above 0.
    """
    kappa_PP = kappa_PP - np.diag(np.diag(kappa_PP))
    counts = {
        name: np.concatenate([*resample_counts(len(places), num_resamples, seed)])
        for seed, (name, places) in enumerate(members.items())
    }
    everyone = {name: np.ones((1, len(places))) for name, places in members.items()}

    def means_R(weights: Mapping[str, FloatArray], name: str, other: str) -> FloatArray:
        block = kappa_PP[np.ix_(members[name], members[other])]
        own_R = (weights[name] ** 2).sum(axis=1) if name == other else 0.0
        return _pair_means(block, weights[name], weights[other], own_R)

    norms2 = {name: means_R(everyone, name, name)[0] for name in members}
    rows = []
    for name, other in combinations_with_replacement(members, 2):
        value = means_R(everyone, name, other)[0]
        # One prompt has no spread; a resample of few prompts may hold only one, many times.
        enough = min(len(members[name]), len(members[other])) > 1
        spread_R = means_R(counts, name, other)
        low, high = np.nanquantile(spread_R, _TAILS) if enough else (np.nan, np.nan)
        norm = np.sqrt(max(norms2[name], 0) * max(norms2[other], 0))
        rows.append(
            {
                grouping: name,
                f"other_{grouping}": other,
                "num_prompts": len(members[name]),
                "num_others": len(members[other]),
                "kappa": value,
                "kappa_low": low,
                "kappa_high": high,
                "cosine": value / norm if norm > 0 else np.nan,
            }
        )
    return pd.DataFrame(rows)


def cluster_agreements(
    kappa_PP: FloatArray, labels_P: IntArray, least_size: int, num_resamples: int
) -> pd.DataFrame:
    """Compute the mean kappa of each cluster with all other prompts, and its interval.

    Clusters with fewer than `least_size` prompts are left out. The mean is that of the agreements
    (equation 8) of the cluster's prompts with the gradient over all prompts, without products of a
    prompt with itself. The bootstrap over prompts draws both sides, so it includes the noise of the
    gradient. `labels_P` must not come from the samples that kappa comes from.
    """
    kappa_PP = kappa_PP - np.diag(np.diag(kappa_PP))
    counts_RP = np.concatenate([*resample_counts(len(kappa_PP), num_resamples, 0)])
    draws_RP = np.concatenate([np.ones((1, len(kappa_PP))), counts_RP])
    rows = []
    for label in range(labels_P.max() + 1):
        members = np.flatnonzero(labels_P == label)
        if len(members) < least_size:
            continue
        inside_RP = draws_RP[:, members]
        own_R = (inside_RP**2).sum(axis=1)
        value, *spread = _pair_means(kappa_PP[members], inside_RP, draws_RP, own_R)
        low, high = np.nanquantile(spread, _TAILS)
        rows.append((label, len(members), float(value), float(low), float(high)))
    columns = ["cluster", "num_prompts", "agreement", "agreement_low", "agreement_high"]
    return pd.DataFrame(rows, columns=columns)


def _pair_means(
    kappa_PP: FloatArray, one_RP: FloatArray, two_RP: FloatArray, own_R: FloatArray | float
) -> FloatArray:
    """Compute the mean of kappa over each resample's pairs of prompts, [R]; NaN without a pair.

    `one_RP` and `two_RP` count the prompts of rows and columns, `own_R` the pairs of a prompt with
    itself, whose kappa is 0 here.
    """
    sums_R = (one_RP @ kappa_PP * two_RP).sum(axis=1)
    num_pairs_R = one_RP.sum(axis=1) * two_RP.sum(axis=1) - own_R
    means_R: FloatArray = np.divide(
        sums_R, num_pairs_R, out=np.full(len(sums_R), np.nan), where=num_pairs_R > 0
    )
    return means_R
