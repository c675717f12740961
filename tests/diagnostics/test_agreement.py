"""Agreement of every prompt and every k from one number per sample: identities, exact values."""

import copy
from itertools import product
from math import comb, inf

import numpy as np
import pytest
import torch
from bandit import TwoPromptBandit, draw_bandit, exact_gradient
from sampling import NUM_PROMPTS, NUM_SAMPLES

from passk.config.schema import LearnerConfig
from passk.diagnostics.agreement import (
    agreement_scores,
    curve_table,
    first_conflict,
    measure,
    promise,
    weighted,
)
from passk.diagnostics.alignment import pass_gradient
from passk.diagnostics.derivatives import derivatives_along
from passk.learner.batch import advantage_weights, make_rows
from passk.learner.layers import freeze_outside
from passk.learner.learner import Learner
from passk.objectives import theory
from passk.objectives.advantages import mixture_advantages

NUM_BLOCKS = 4  # of 6 and of 5 prompts


@pytest.fixture(scope="module")
def rewards_PG(groups):
    rewards = np.array([group.rewards() for group in groups])
    right = rewards.sum(axis=1)
    assert ((right > 0) & (right < NUM_SAMPLES)).sum() >= 8
    return rewards


@pytest.fixture(scope="module")
def derivatives(learner, groups, rewards_PG):
    return derivatives_along(learner, groups, pass_gradient(learner, groups, 1, NUM_BLOCKS))


def others(blocks_MD: torch.Tensor, block: int) -> torch.Tensor:
    """The mean gradient over the prompts outside a block."""
    outside = NUM_PROMPTS - len(range(NUM_PROMPTS)[block::NUM_BLOCKS])
    kept = [m for m in range(NUM_BLOCKS) if m != block]
    return blocks_MD[kept].double().sum(dim=0) * (NUM_PROMPTS / outside)


def test_agreement_is_that_of_a_backward_pass_per_prompt(learner, groups, rewards_PG, derivatives):
    pass1_MD = pass_gradient(learner, groups, 1, NUM_BLOCKS)
    by_prompt = pass_gradient(learner, groups, 1, NUM_PROMPTS).double() * NUM_PROMPTS
    direct_P = np.array(
        [float(by_prompt[p] @ others(pass1_MD, p % NUM_BLOCKS)) for p in range(NUM_PROMPTS)]
    )
    scores_P, errors_P = agreement_scores(rewards_PG, derivatives.values_PG)
    with_signal = np.isin(rewards_PG.sum(axis=1), (0, NUM_SAMPLES), invert=True)
    assert np.corrcoef(scores_P[with_signal], direct_P[with_signal])[0, 1] > 0.999
    assert np.abs(scores_P - direct_P).max() < 2e-3 * np.abs(direct_P).max()
    assert (scores_P[~with_signal] == 0).all() and (errors_P[~with_signal] == 0).all()
    assert (direct_P > 0).any() and (direct_P < 0).any()


def test_agreement_with_other_problems_is_the_product_with_their_whole_gradient(
    learner, groups, rewards_PG
):
    """The last 6 of the groups are the reference, all in one block; the others meet all of it."""
    measured, reference = groups[:-6], groups[-6:]
    trusted_1D = pass_gradient(learner, reference, 1, 1)
    derivatives = derivatives_along(learner, measured, trusted_1D, of_others=True)
    scores_P, _ = agreement_scores(rewards_PG[:-6], derivatives.values_PG)
    by_prompt = pass_gradient(learner, measured, 1, len(measured)).double() * len(measured)
    direct_P = (by_prompt @ trusted_1D[0].double()).numpy()
    assert np.abs(scores_P - direct_P).max() < 2e-3 * np.abs(direct_P).max()
    several = derivatives_along(
        learner, measured, pass_gradient(learner, reference, 1, 3), of_others=True
    )
    error_PG = np.abs(several.values_PG - derivatives.values_PG)
    assert error_PG.max() < 2e-3 * np.abs(derivatives.values_PG).max()


def test_products_are_those_of_the_gradients_of_different_blocks(
    learner, groups, rewards_PG, derivatives
):
    measured = measure(rewards_PG, derivatives.values_PG)
    pass1_MD = pass_gradient(learner, groups, 1, NUM_BLOCKS)
    for k in (1, 2, 5, NUM_SAMPLES):
        passk_MD = pass_gradient(learner, groups, k, NUM_BLOCKS).double()
        terms = [float(passk_MD[m] @ others(pass1_MD, m)) for m in range(NUM_BLOCKS)]
        found = measured.contributions_PK[:, k - 1].mean()
        assert found == pytest.approx(sum(terms), abs=2e-3 * np.abs(terms).sum())


def test_the_error_of_the_differences_is_small_and_told(learner, groups, rewards_PG, derivatives):
    assert 0 < derivatives.error < 2e-3 and derivatives.num_tried > 10
    # Against a backward pass per sample, over all prompts: at most three times the error found.
    pass1_MD = pass_gradient(learner, groups, 1, NUM_BLOCKS)
    exact_PG = np.zeros(rewards_PG.shape)
    for p in np.flatnonzero(np.isin(rewards_PG.sum(axis=1), range(1, NUM_SAMPLES))):
        direction = others(pass1_MD, p % NUM_BLOCKS)
        for row in make_rows([groups[p]], np.ones((1, NUM_SAMPLES, 1))):
            slope = float(-learner.gradient([row]).double() @ direction) / len(row.samples)
            exact_PG[p, [i for _, i in row.samples]] = slope
    difference = np.linalg.norm(derivatives.values_PG - exact_PG) / np.linalg.norm(exact_PG)
    assert difference < 3 * derivatives.error


@pytest.mark.parametrize(
    ("parameters", "prefix"), [("last_layer", "model.layers.1."), ("final_norm", "model.norm.")]
)
def test_gradients_of_a_part_are_a_slice_of_the_whole_gradient(
    tiny_model, learner, groups, rewards_PG, parameters, prefix
):
    model = copy.deepcopy(tiny_model)
    freeze_outside(model, parameters)
    part = Learner(model, LearnerConfig(max_tokens_per_batch=1024), 1, 1.0)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert named and all(name.startswith(prefix) for name, _ in named)
    inside = torch.cat(
        [
            torch.full((p.numel(),), name.startswith(prefix))
            for name, p in learner.model.named_parameters()
        ]
    )
    pass1_MD, passk_MD = (pass_gradient(part, groups, k, NUM_BLOCKS) for k in (1, 4))
    for k, found in ((1, pass1_MD), (4, passk_MD)):
        whole_MD = pass_gradient(learner, groups, k, NUM_BLOCKS)
        torch.testing.assert_close(found, whole_MD[:, inside], rtol=1e-5, atol=1e-7)
    found = derivatives_along(part, groups, pass1_MD)
    terms = [float(passk_MD[m].double() @ others(pass1_MD, m)) for m in range(NUM_BLOCKS)]
    value = weighted(rewards_PG, found.values_PG, 4).mean()
    assert value == pytest.approx(sum(terms), abs=2e-3 * np.abs(terms).sum())


def test_intervals_on_the_papers_bandit_cover_the_exact_product():
    """Two prompts whose gradients are known in closed form, in conflict from k = 2 on."""
    ks, num_samples, repetitions = (2, 4), 16, 40
    model, rng = TwoPromptBandit(), np.random.default_rng(3)
    learner = Learner(model, LearnerConfig(max_tokens_per_batch=4096), 1, temperature=1.0)
    pass1 = exact_gradient(1)
    values, covered, firsts = [], [], []
    for _ in range(repetitions):
        groups = draw_bandit(rng, rng.integers(2, size=192), num_samples)
        rewards_PG = np.array([group.rewards() for group in groups])
        slopes = {
            k: derivatives_along(learner, groups, pass_gradient(learner, groups, k, 8))
            for k in (1, *ks)
        }
        towards = {k: weighted(rewards_PG, slopes[k].values_PG, 1) for k in ks}
        measured = measure(rewards_PG, slopes[1].values_PG, towards)
        table = curve_table(measured, num_resamples=400, seed=0).set_index("k")
        rows = [(table.loc[k], float(pass1 @ exact_gradient(k))) for k in (1, *ks)]
        values.append([row["inner_product"] for row, _ in rows])
        covered.append(
            [row["inner_product_low"] <= exact <= row["inner_product_high"] for row, exact in rows]
        )
        firsts.append(first_conflict(measured, num_resamples=400, seed=0).k)
    exact_K = [float(pass1 @ exact_gradient(k)) for k in (1, *ks)]
    errors_K = np.std(values, axis=0, ddof=1) / np.sqrt(repetitions)
    assert (np.abs(np.mean(values, axis=0) - exact_K) < 4 * errors_K).all()
    # 0.95, and 0.035 is one standard error. Not for k = 1: among so few prompts the norm of the
    # Pass@1 gradient hardly differs from 0, and its estimate is skewed.
    assert (np.mean(covered, axis=0)[1:] >= 0.85).all()
    assert np.mean([k.low <= 2 <= k.high for k in firsts]) >= 0.9
    assert np.median([k.value for k in firsts]) == 2


def test_identities_of_the_paper(rewards_PG, derivatives):
    measured = measure(rewards_PG, derivatives.values_PG)
    table = curve_table(measured, num_resamples=50, seed=0)
    scale = np.abs(measured.contributions_PK).mean(axis=0)
    rows = zip(table.to_dict("records"), scale, strict=True)
    pass1_norm2 = measured.scores_P.mean()
    for i, (row, size) in enumerate(rows):
        weighted_mean = measured.contributions_PK[:, i].mean()
        parts = row["mean_weight"] * pass1_norm2 + row["covariance"]
        reweighted = row["mean_weight"] * row["reweighted_agreement"]
        for other in (weighted_mean, parts, reweighted):
            assert row["inner_product"] == pytest.approx(other, abs=1e-10 * max(size, scale[0]))
        assert row["inner_product_low"] <= row["inner_product"] <= row["inner_product_high"]
    np.testing.assert_allclose(  # 0 of a prompt may be rounded in one of the two
        measured.contributions_PK[:, 0], measured.scores_P, rtol=1e-12, atol=1e-12 * scale[0]
    )


def test_all_is_unbiased_by_enumeration():
    """One prompt, two answers with derivatives of their own: every outcome of 5 samples."""
    n, p, right, wrong = 5, 0.3, 1.4, -0.6  # 0 in the mean, as derivatives of log pi are
    means = np.zeros((3, n))
    for outcome in product((0.0, 1.0), repeat=n):
        rewards = np.array([outcome])
        chance = p ** rewards.sum() * (1 - p) ** (n - rewards.sum())
        measured = measure(rewards, np.where(rewards == 1, right, wrong))
        means[0] += chance * measured.weights_PK[0]
        means[1] += chance * measured.contributions_PK[0]
        means[2] += chance * measured.scores_P[0]
    ks = np.arange(1, n + 1)
    weight, agreement = ks * (1 - p) ** (ks - 1), p * right
    np.testing.assert_allclose(means[0], weight, rtol=1e-12)
    np.testing.assert_allclose(means[1], weight * agreement, rtol=1e-12)
    np.testing.assert_allclose(means[2], agreement, rtol=1e-12)


def test_the_error_of_a_score_is_its_jackknife():
    rng = np.random.default_rng(0)
    rewards = (rng.random((6, 9)) < 0.4).astype(float)
    rewards[0, 2:4] = np.nan
    rewards[1] = 1.0
    rewards[2, 2:] = np.nan
    derivatives = rng.normal(size=rewards.shape)
    scores, errors = agreement_scores(rewards, derivatives)
    for p in (0, 1, 3, 4, 5):
        judged = np.flatnonzero(~np.isnan(rewards[p]))
        r, d, n = rewards[p, judged], derivatives[p, judged], len(judged)
        assert scores[p] == pytest.approx(np.cov(r, d)[0, 1])
        without = [np.cov(np.delete(r, i), np.delete(d, i))[0, 1] for i in range(n)]
        assert errors[p] == pytest.approx(np.sqrt((n - 1) * np.var(without)))
    assert np.isnan(errors[2])


def test_errors_of_scores_cover_the_truth():
    """200 prompts of one success: 95 % of a +- 2 errors hold it, and 0.02 is one standard error."""
    rng = np.random.default_rng(1)
    rewards = (rng.random((400, 32)) < 0.4).astype(float)
    derivatives = np.where(rewards == 1, 0.5, -0.2) + rng.normal(size=rewards.shape)
    scores, errors = agreement_scores(rewards, derivatives)
    truth = 0.4 * 0.6 * 0.7
    assert 0.9 < np.mean(np.abs(scores - truth) < 2 * errors) < 0.99


def test_the_first_conflict_and_its_interval():
    """Prompts that fail and interfere beside prompts that succeed: f(k) in closed form."""
    n = 16
    easy, hard = np.zeros((300, n)), np.zeros((100, n))
    easy[:, :12], hard[:, :2] = 1, 1
    rewards = np.vstack([easy, hard])
    derivatives = np.where(rewards == 1, 1.0, 0.0)
    derivatives[300:] *= -2.0
    measured = measure(rewards, derivatives)

    def product_of_gradients(k: int) -> float:
        def part(c: int, slope: float) -> float:  # k C(n-c, k-1)/C(n-1, k-1) for a right one
            mean = sum(
                (comb(n - 1 - (c - r), k - 1) / comb(n - 1, k - 1))
                * k
                * share
                * (r - (c - r) / (n - 1))
                * r
                for r, share in ((1, c / n), (0, 1 - c / n))
            )
            return mean * slope

        return 0.75 * part(12, 1.0) + 0.25 * part(2, -2.0)

    expected = [product_of_gradients(k) for k in range(1, n + 1)]
    np.testing.assert_allclose(measured.contributions_PK.mean(axis=0), expected, atol=1e-12)
    first = next(k for k, value in enumerate(expected, 1) if value < 0)
    found = first_conflict(measured, num_resamples=500, seed=0)
    assert found.k.value == first and found.k.low <= first <= found.k.high
    assert found.share > 0.99
    nothing = first_conflict(measure(easy, derivatives[:300]), num_resamples=50, seed=0)
    assert nothing.k.value == nothing.k.low == inf and nothing.share == 0


def test_the_papers_bound_holds_for_groups_of_like_success():
    """Hard prompts that interfere beside easy ones: what is promised is measured too."""
    rng, n = np.random.default_rng(2), 32
    success = np.where(rng.random(600) < 0.3, 0.08, 0.8)
    rewards = (rng.random((600, n)) < success[:, None]).astype(float)
    slopes = np.where(success < 0.5, -1.5, 0.8)[:, None]
    derivatives = slopes * (rewards - success[:, None])  # a(x) = slope p (1-p)
    for k in (2, 8, 20):
        promised = promise(rewards, derivatives, k)
        assert promised is not None
        # q, m, epsilon and what stands for G^2 are those of the two kinds, up to noise.
        apart = promised.separated
        assert apart.share == pytest.approx((success < 0.5).mean(), abs=0.05)
        assert apart.margin == pytest.approx(1.5 * 0.08 * 0.92, rel=0.35)
        assert apart.most_within < 0.3 < apart.least_outside
        product_k = weighted(rewards, derivatives, k).mean()
        if promised.margin > 0:
            assert product_k <= -promised.margin
        assert (promised.margin > 0) >= (k > promised.k_star)
    first = first_conflict(measure(rewards, derivatives), num_resamples=50, seed=0).k.value
    assert 1 < first <= np.floor(promised.k_star) + 1
    assert promise(rewards, np.abs(slopes) * (rewards - success[:, None]), 8) is None


def test_propositions_4_1_a_and_b_on_the_tiny_model(learner, groups, rewards_PG):
    """The theory, fed with a gradient per prompt, gives what backward passes over all give."""
    by_prompt_PD = pass_gradient(learner, groups, 1, NUM_PROMPTS).double().numpy()
    policy = theory.PromptGradients(
        np.full(NUM_PROMPTS, 1 / NUM_PROMPTS), rewards_PG.mean(axis=1), NUM_PROMPTS * by_prompt_PD
    )
    pass1_PG = advantage_weights(mixture_advantages(rewards_PG, 1, 0.0), rewards_PG)
    whole = {}
    for k in (1, 2, 8):
        weights_P1 = theory.passk_weight(policy.success_P, k)[:, None]
        rows = make_rows(groups, (weights_P1 * pass1_PG)[..., None])
        whole[k] = -learner.gradient(rows).double().numpy()
        assert np.allclose(
            whole[k], theory.passk_gradient(policy, k), rtol=0, atol=1e-6 * np.abs(whole[k]).max()
        )
    for k in (2, 8):
        parts = theory.decompose(policy, k)
        size = np.linalg.norm(whole[k]) * np.linalg.norm(whole[1])
        product = whole[k] @ whole[1]
        assert product == pytest.approx(parts.weighted_agreement, abs=1e-5 * size)  # (9)
        assert product == pytest.approx(  # (10)
            parts.mean_weight * parts.pass1_norm**2 + parts.covariance, abs=1e-5 * size
        )
        reweighted = parts.mean_weight * parts.reweighted_agreement
        assert product == pytest.approx(reweighted, abs=1e-5 * size)  # (11)
        below = parts.correlation < parts.critical_correlation
        assert abs(product) > 1e-4 * size and below == (product < 0)  # appendix A
        for m in (1, 2, 8):  # proposition B.1
            other = np.linalg.norm(whole[k]) * np.linalg.norm(whole[m])
            assert whole[k] @ whole[m] == pytest.approx(
                theory.kernel_form(policy, k, m), abs=1e-5 * other
            )
