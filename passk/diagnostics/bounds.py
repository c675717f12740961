"""Compute the guarantees of the paper's bounds at a checkpoint: corollary 4.4, proposition 4.5.

The weight of a prompt depends on its success alone, so <grad J_k, grad J_1> = E[w_k(p) b(p)] with
b(p) = E[a | p]. The bounds therefore hold for groups of prompts of similar success as they do for
prompts, and one noisy prompt does not break them. The proofs need of G^2 only that no agreement
outside the interfering set is above it, so the largest agreement of the groups outside replaces it
here.
"""

from dataclasses import dataclass
from math import nan

import numpy as np

from passk.diagnostics.agreement import weighted
from passk.objectives.pass_at_k import FloatArray
from passk.objectives.theory import PolicyBounds, Separation, k_star, passk_weight

_LEAST_SHARE = 0.05  # smallest share of the prompts in a group


@dataclass(frozen=True, slots=True)
class SuccessGroups:
    """Groups of prompts from hard to easy: their shares, mean success and mean agreement."""

    share_C: FloatArray
    success_C: FloatArray
    agreement_C: FloatArray


@dataclass(frozen=True, slots=True)
class Promise:
    """Guarantee: every k above `k_star` conflicts; at the given k the product is <= -`margin`."""

    separated: Separation
    largest_agreement: float  # outside the interfering set, in place of G^2
    k_star: float
    margin: float  # delta of corollary 4.4; guarantees something only above 0


def success_groups(rewards_PG: FloatArray, derivatives_PG: FloatArray) -> SuccessGroups:
    """Group prompts of similar success, sorted by one half of their samples, measured by the other.

    Then the halves swap roles. So neither the success nor the agreement of a group is selected for
    its noise. Neighbours are joined until each group holds a twentieth of the prompts.
    """
    sorted_by, success, agreement = [], [], []
    even, odd = np.s_[:, ::2], np.s_[:, 1::2]
    for first, second in ((even, odd), (odd, even)):
        judged_P = (~np.isnan(rewards_PG[first])).any(axis=1)
        judged_P &= (~np.isnan(rewards_PG[second])).any(axis=1)
        sorted_by.append(np.nanmean(rewards_PG[first][judged_P], axis=1))
        success.append(np.nanmean(rewards_PG[second][judged_P], axis=1))
        agreement.append(weighted(rewards_PG[second], derivatives_PG[second], 1)[judged_P])
    by_B, success_B, agreement_B = (np.concatenate(x) for x in (sorted_by, success, agreement))
    members: list[np.ndarray] = []
    for value in np.unique(by_B):
        if members and members[-1].mean() < _LEAST_SHARE:
            members[-1] = members[-1] | (by_B == value)
        else:
            members.append(by_B == value)
    if len(members) > 1 and members[-1].mean() < _LEAST_SHARE:
        members[-2:] = [members[-2] | members[-1]]
    return SuccessGroups(
        np.array([within.mean() for within in members]),
        np.array([success_B[within].mean() for within in members]),
        np.array([agreement_B[within].mean() for within in members]),
    )


def promise(groups: SuccessGroups, k: int) -> Promise | None:
    """Find the least k* over all splits into hard and easier groups; None if none qualifies."""
    order = np.argsort(groups.success_C, kind="stable")
    share_C, success_C = groups.share_C[order], groups.success_C[order]
    agreement_C, weight_C = groups.agreement_C[order], passk_weight(success_C, k)
    found = []
    for cut in range(1, len(order)):
        margin, largest = -float(agreement_C[:cut].max()), float(agreement_C[cut:].max())
        most, least = float(success_C[cut - 1]), float(success_C[cut])
        if not (margin > 0 and largest > 0 and most < least < 1):
            continue
        separated = Separation(margin, float(share_C[:cut].sum()), most, least)
        shares_C = share_C * weight_C
        delta = margin * shares_C[:cut].sum() - largest * shares_C[cut:].sum()
        above = k_star(separated, PolicyBounds(score=largest, hessian=nan))
        found.append(Promise(separated, largest, max(1.0, above), float(delta)))
    return min(found, key=lambda each: each.k_star, default=None)
