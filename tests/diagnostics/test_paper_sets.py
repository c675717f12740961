"""Filtered sets: the paper's numbers decoded, both ways by brute force, bias and intervals."""

import numpy as np
import pytest

from passk.diagnostics.paper_sets import (
    PAPER,
    FilteredSet,
    corrected,
    filtered_set,
    intervals,
    papers_way,
    plain_coefficients,
    plug_in_weights,
    summary,
    unbiased_coefficients,
)
from passk.objectives.advantages import mixture_advantages


def rewards_of(counts, n=32):
    """A prompt for each number of right samples."""
    return (np.arange(n)[None] < np.array(counts)[:, None]).astype(float)


def test_the_papers_weights_are_decoded():
    """12, 4 and 1 in its text; without bias at k = n it is 32 for c = 1, and nothing from 2 on."""
    weights = plug_in_weights(rewards_of([1, 2, 3, 0, 32]))
    np.testing.assert_allclose(weights, [11.96, 4.33, 1.51, 32, 0], atol=5e-3)
    assert 1e-28 > plug_in_weights(rewards_of([29]))[0] > 1e-31
    right = 32 * unbiased_coefficients(rewards_of([1, 2, 3]), 32)[:, 0]
    np.testing.assert_allclose(right, [32, 0, 0])


@pytest.mark.parametrize(
    ("easy_above", "least_easy", "hard_below", "most_hard"),
    [(0.8, 26, 0.05, 1), (0.85, 28, 0.1, 3), (0.9, 29, 0.15, 4)],
)
def test_thresholds_are_the_counts_of_the_paper(easy_above, least_easy, hard_below, most_hard):
    rewards_PG, thresholds = rewards_of(range(33)), (easy_above, hard_below)
    for keep in (False, True):
        found = filtered_set(rewards_PG, PAPER, thresholds, keep_unsolved=keep)
        assert np.flatnonzero(found.easy_P).tolist() == list(range(least_easy, 33))
        assert np.flatnonzero(found.hard_P).tolist() == list(range(not keep, most_hard + 1))
    unjudged = filtered_set(np.full((2, 4), np.nan), PAPER, thresholds, keep_unsolved=True)
    assert not unjudged.all_P.any() and not unjudged.has_both


def sums_of(rewards_PG, scores_PGD):
    """Summed scores of right and of wrong samples, [P, 2, D]."""
    sides = [(rewards_PG == reward)[..., None] * scores_PGD for reward in (1, 0)]
    return np.stack([side.sum(axis=1) for side in sides], axis=1)


def both_ways(rewards_PG, scores_PGD, within, k):
    """What `passk.diagnostics.paper_sets` finds for these scores, and the two ways from it."""
    sums_P2D = sums_of(rewards_PG, scores_PGD)
    within_P22 = np.einsum("pid,pjd->pij", sums_P2D, sums_P2D)

    def along(coefficients_P2, inside_P):
        gradient_D = np.einsum("pi,pid,p->d", coefficients_P2, sums_P2D, inside_P)
        return sums_P2D @ gradient_D

    sides = (within.easy_P, within.hard_P)
    ones, ks = (
        np.stack([along(unbiased_coefficients(rewards_PG, j), side) for side in sides])
        for j in (1, k)
    )
    plain_P2 = along(plain_coefficients(rewards_PG), within.all_P)
    return (
        papers_way(rewards_PG, within, plain_P2, within_P22),
        corrected(rewards_PG, within, k, ones, ks, within_P22),
    )


def test_both_ways_are_their_definitions():
    rng, n, k = np.random.default_rng(0), 8, 3
    rewards_PG = (rng.random((9, n)) < rng.random((9, 1))).astype(float)
    rewards_PG[0, 2] = np.nan
    scores_PGD = rng.normal(size=(9, n, 5))
    within = FilteredSet(np.arange(9) < 4, (np.arange(9) >= 4) & (np.arange(9) < 8))
    paper, better = both_ways(rewards_PG, scores_PGD, within, k)
    n_P = (~np.isnan(rewards_PG)).sum(axis=1)
    c_P = np.nansum(rewards_PG, axis=1)
    plain_PD = np.einsum("pg,pgd->pd", np.nan_to_num(rewards_PG), scores_PGD) / n_P[:, None]
    plain_PD, weight_P = plain_PD[:8], (n_P * (1 - c_P / n_P) ** (n_P - 1))[:8]
    a_P = plain_PD @ plain_PD.mean(axis=0)
    np.testing.assert_allclose(paper.agreement_N, a_P)
    np.testing.assert_allclose(paper.contribution_N, weight_P * a_P)
    own_P = (plain_PD**2).sum(axis=1) / 8
    assert paper.own_agreement == pytest.approx(own_P.mean())
    assert paper.own_contribution == pytest.approx((weight_P * own_P).mean())
    g_PD, gk_PD = (
        np.einsum("pg,pgd->pd", mixture_advantages(rewards_PG, j, 0.0), scores_PGD) / n_P[:, None]
        for j in (1, k)
    )
    others = [[q for q in range(8) if q != p] for p in range(8)]
    a_P = np.array([g_PD[p] @ g_PD[others[p]].mean(axis=0) for p in range(8)])
    np.testing.assert_allclose(better.agreement_N, a_P)
    wa_P = np.array([gk_PD[p] @ g_PD[others[p]].mean(axis=0) for p in range(8)])
    np.testing.assert_allclose(better.contribution_N, wa_P)
    means = [a_P.mean(), wa_P.mean(), a_P[:4].mean(), a_P[4:].mean()]
    np.testing.assert_allclose(better.influences_N4.mean(axis=0), means)
    found = summary(better, within)
    w = better.weight_N.mean()
    assert found["contribution_sum"] == pytest.approx(8 * wa_P.mean())
    assert found["shift"] == pytest.approx(wa_P.mean() - a_P.mean())
    assert found["contribution"] == pytest.approx(w * found["agreement"] + found["covariance"])
    assert found["contribution"] == pytest.approx(w * found["reweighted_agreement"])
    assert found["easy_agreement"] == pytest.approx(a_P[:4].mean())


def draw(rng, num_prompts, n, success_P, slopes_PD):
    """Scores of mean 0 whose covariance with reward is p (1 - p) times the slope."""
    rewards_PG = (rng.random((num_prompts, n)) < success_P[:, None]).astype(float)
    away_PG1 = (rewards_PG - success_P[:, None])[..., None]
    noise_PGD = rng.normal(size=(num_prompts, n, slopes_PD.shape[1]))
    return rewards_PG, away_PG1 * slopes_PD[:, None] + noise_PGD


def test_own_products_lift_the_papers_means_and_not_the_corrected_ones():
    """Scores that know nothing of rewards: every true product of gradients is 0."""
    rng, num_prompts, n = np.random.default_rng(1), 40, 16
    success_P = np.where(np.arange(num_prompts) < 30, 0.9, 0.1)
    within = FilteredSet(success_P > 0.5, success_P < 0.5)
    found = []
    for _ in range(200):
        drawn = draw(rng, num_prompts, n, success_P, np.zeros((num_prompts, 4)))
        paper, better = both_ways(*drawn, within, 4)
        found.append(
            [
                *(paper.agreement_N.mean(), paper.contribution_N.mean()),
                *(paper.own_agreement, paper.own_contribution),
                *(better.agreement_N.mean(), better.contribution_N.mean()),
            ]
        )
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(200)
    # What a mean is, in the mean over draws, is what own products add to it, and that is positive.
    assert (means[[0, 2, 3]] > 10 * errors[[0, 2, 3]]).all()
    differences = np.array(found)[:, :2] - np.array(found)[:, 2:4]
    assert (np.abs(differences.mean(axis=0)) < 4 * differences.std(axis=0) / np.sqrt(200)).all()
    assert (np.abs(means[4:]) < 4 * errors[4:]).all()


def test_corrected_means_are_unbiased_and_their_intervals_cover():
    """Hard prompts whose gradient points against that of the easy ones, drawn anew each time."""
    rng, num_prompts, n, k, repetitions = np.random.default_rng(2), 120, 16, 4, 150
    slopes = {0.9: np.array([3.0, 0.0, 0.5]), 0.2: np.array([-1.0, 1.0, 0.0])}
    share = {0.9: 0.7, 0.2: 0.3}
    gradients = {p: p * (1 - p) * slope for p, slope in slopes.items()}
    weights = {p: k * (1 - p) ** (k - 1) for p in slopes}
    pass1 = sum(share[p] * gradients[p] for p in slopes)
    passk = sum(share[p] * weights[p] * gradients[p] for p in slopes)
    exact = {
        "agreement": pass1 @ pass1,
        "contribution": passk @ pass1,
        "shift": (passk - pass1) @ pass1,
        "hard_agreement": gradients[0.2] @ pass1,
        "easy_agreement": gradients[0.9] @ pass1,
        "mean_weight": sum(share[p] * weights[p] for p in slopes),
    }
    assert exact["contribution"] < 0 < exact["agreement"]
    values, covered = [], []
    for _ in range(repetitions):
        success_P = np.where(rng.random(num_prompts) < share[0.2], 0.2, 0.9)
        slopes_PD = np.where(success_P[:, None] > 0.5, slopes[0.9], slopes[0.2])
        within = FilteredSet(success_P > 0.5, success_P < 0.5)
        _, better = both_ways(*draw(rng, num_prompts, n, success_P, slopes_PD), within, k)
        found, ends = summary(better, within), intervals(better, 300)
        values.append([found[name] for name in exact])
        covered.append(
            [ends[f"{name}_low"] <= value <= ends[f"{name}_high"] for name, value in exact.items()]
        )
    errors = np.std(values, axis=0) / np.sqrt(repetitions)
    assert (np.abs(np.mean(values, axis=0) - list(exact.values())) < 4 * errors).all()
    # 0.95 is meant, and 0.018 is one standard error.
    assert (np.mean(covered, axis=0) >= 0.88).all(), np.mean(covered, axis=0)
