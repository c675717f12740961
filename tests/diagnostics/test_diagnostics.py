"""Gradients by block and half, and their products where exact values exist."""

import copy
import math
from itertools import product

import numpy as np
import pytest
import torch
from bandit import RIGHT, TwoPromptBandit, draw_bandit, exact_gradient, exact_success
from sampling import judged

from passk.cli.commands.reproduce import gradients_by_kind
from passk.config.schema import LearnerConfig, mix
from passk.diagnostics.alignment import alignment, block_gradients
from passk.learner.batch import advantage_weights, make_rows
from passk.learner.learner import Learner
from passk.objectives.advantages import PASS1, Objective
from passk.types import Group, Verdict

NUM_PROMPTS, NUM_SAMPLES, K = 12, 12, 3
PASSK = Objective("mixture", mix(K, 0.0))
HYBRID = Objective("mixture", mix(K, 0.7))


@pytest.fixture(scope="module")
def groups(tiny_model, tiny_tokenizer, tiny_encoder):
    sampled = judged(
        tiny_model, tiny_tokenizer, tiny_encoder, NUM_PROMPTS, NUM_SAMPLES, skill_fraction=0.2
    )
    correct = sampled.rewards_PG.sum(axis=1)
    assert ((correct > 0) & (correct < NUM_SAMPLES)).sum() >= 6
    return sampled.groups


def gradients_of(model, groups, objectives, *, num_blocks=4):
    learner = Learner(model, LearnerConfig(max_tokens_per_batch=1024), 1, temperature=1.0)
    return block_gradients(learner, groups, objectives, num_blocks)


def ascent_of_half(model, groups, half: int, objective: Objective) -> torch.Tensor:
    """The learner's gradient, sign turned, from the groups as if only one half was drawn."""
    size = NUM_SAMPLES // 2
    kept = slice(half * size, (half + 1) * size)
    cut = [
        Group(g.problem, g.prompt_ids, g.completions[kept], g.verdicts[kept], g.policy_version)
        for g in groups
    ]
    rewards_PG = np.array([g.rewards() for g in cut])
    weights_PG = advantage_weights(objective.advantages(rewards_PG), rewards_PG)
    learner = Learner(copy.deepcopy(model), LearnerConfig(), 1, 1.0)
    learner.accumulate_gradient(make_rows(cut, weights_PG[..., None]))
    if not any(p.grad is not None for p in learner.model.parameters()):
        return torch.zeros(sum(p.numel() for p in learner.model.parameters()))
    return -torch.cat([p.grad.flatten() for p in learner.model.parameters()])


def test_the_hybrid_gradient_is_the_mixture_of_the_two(tiny_model, groups):
    g1, gk, mixed = gradients_of(tiny_model, groups, [PASS1, PASSK, HYBRID]).unbind(dim=1)
    assert g1.norm() > 0 and gk.norm() > 0 and not torch.allclose(g1, gk, rtol=0.1)
    expected = 0.7 * g1 + 0.3 * gk
    assert (mixed - expected).norm() < 1e-5 * expected.norm()


def test_objectives_do_not_see_one_another(tiny_model, groups):
    together = gradients_of(tiny_model, groups, [PASSK, PASS1, HYBRID, PASS1, PASSK])
    for o, advantages in enumerate([PASSK, PASS1, HYBRID, PASS1, PASSK]):
        alone = gradients_of(tiny_model, groups, [advantages])[:, 0]
        assert (together[:, o] - alone).norm() < 1e-5 * alone.norm()


@pytest.mark.parametrize("half", [0, 1])
def test_blocks_add_up_to_the_learners_gradient_of_the_half(tiny_model, groups, half):
    objectives = [PASS1, PASSK, HYBRID]
    gradients = gradients_of(tiny_model, groups, objectives, num_blocks=5)
    assert gradients.shape[:3] == (2, 3, 5) and gradients.dtype == torch.float32
    for o, advantages in enumerate(objectives):
        expected = ascent_of_half(tiny_model, groups, half, advantages)
        total = gradients[half, o].sum(dim=0)
        assert (total - expected).norm() < 1e-5 * expected.norm()


def test_block_m_holds_prompts_m_and_every_mth_after(tiny_model, groups):
    by_block = gradients_of(tiny_model, groups, [PASS1], num_blocks=4)
    by_prompt = gradients_of(tiny_model, groups, [PASS1], num_blocks=NUM_PROMPTS)
    for m in range(4):
        expected = by_prompt[:, :, m::4].sum(dim=2)
        torch.testing.assert_close(by_block[:, :, m], expected, rtol=1e-4, atol=1e-6)


def test_the_halves_share_no_sample(tiny_model, groups):
    half = NUM_SAMPLES // 2
    turned = []
    for group in groups:
        other = tuple(
            Verdict(1.0 - v.reward, "turned") if i >= half else v
            for i, v in enumerate(group.verdicts)
        )
        turned.append(
            Group(group.problem, group.prompt_ids, group.completions, other, group.policy_version)
        )
    before = gradients_of(tiny_model, groups, [PASS1, HYBRID])
    after = gradients_of(tiny_model, turned, [PASS1, HYBRID])
    # Rows that both halves share change the batches and so the rounding, nothing more.
    difference = (after - before).flatten(2).norm(dim=2)
    scale = before.flatten(2).norm(dim=2)
    assert (difference[0] < 1e-5 * scale[0]).all()
    assert (difference[1] > 0.1 * scale[1]).all()


def test_an_odd_sample_out_is_not_used(tiny_model, groups):
    odd = [
        Group(
            g.problem,
            g.prompt_ids,
            g.completions[: NUM_SAMPLES - 1],
            g.verdicts[: NUM_SAMPLES - 1],
            g.policy_version,
        )
        for g in groups
    ]
    even = [
        Group(
            g.problem,
            g.prompt_ids,
            g.completions[: NUM_SAMPLES - 2],
            g.verdicts[: NUM_SAMPLES - 2],
            g.policy_version,
        )
        for g in groups
    ]
    with_odd, without = (gradients_of(tiny_model, x, [PASS1]) for x in (odd, even))
    torch.testing.assert_close(with_odd, without, rtol=1e-4, atol=1e-6)


def test_the_models_own_gradients_are_left_alone(tiny_model, groups):
    model = copy.deepcopy(tiny_model)
    gradients_of(model, groups[:2], [PASS1], num_blocks=2)
    assert all(p.grad is None for p in model.parameters())


def test_the_bandit_is_the_papers():
    assert exact_success() == pytest.approx([0.85815, 0.09975], abs=1e-5)
    g1, g10 = exact_gradient(1), exact_gradient(10)
    cosine = g1 @ g10 / math.sqrt(g1 @ g1 * (g10 @ g10))
    assert cosine == pytest.approx(-0.774558, abs=1e-6)
    # And the exact gradient is what autograd makes of the module.
    model = TwoPromptBandit()
    answer_probabilities = model(torch.tensor([0, 1])).logits.softmax(-1)
    p = answer_probabilities[torch.tensor([0, 1]), torch.tensor(RIGHT)]
    (autograd,) = torch.autograd.grad((1 - (1 - p) ** 10).mean(), model.theta)
    assert autograd.tolist() == pytest.approx(g10.tolist(), rel=1e-5)


def test_products_across_halves_are_unbiased_and_same_sample_products_are_not():
    k, num_samples, repetitions = 4, 16, 1000
    model, rng = TwoPromptBandit(), np.random.default_rng(0)
    objectives = [PASS1, Objective("mixture", mix(k, 0.0))]
    across, same = np.empty(repetitions), np.empty(repetitions)
    means = np.empty((repetitions, 2, 2))
    for i in range(repetitions):
        groups = draw_bandit(rng, np.array([0, 1]), num_samples)
        gradients = gradients_of(model, groups, objectives, num_blocks=1)
        means[i] = gradients.sum(dim=2).mean(dim=0).numpy()
        (a_1, a_k), (b_1, b_k) = gradients.sum(dim=2).double()
        across[i] = float(a_1 @ b_k + b_1 @ a_k) / 2
        same[i] = float(a_1 @ a_k + b_1 @ b_k) / 2

    exact_1, exact_k = exact_gradient(1), exact_gradient(k)
    for o, exact in enumerate((exact_1, exact_k)):
        error = means[:, o].std(axis=0, ddof=1) / math.sqrt(repetitions)
        assert (np.abs(means[:, o].mean(axis=0) - exact) < 4 * error).all()
    exact = float(exact_1 @ exact_k)
    error = across.std(ddof=1) / math.sqrt(repetitions)
    assert abs(across.mean() - exact) < 4 * error
    # Enough repetitions to see the sign of the conflict, and the one the same samples invent.
    assert exact < 0 and across.mean() + 2 * error < 0
    same_error = same.std(ddof=1) / math.sqrt(repetitions)
    assert same.mean() - exact > 10 * same_error
    assert same.mean() > 4 * same_error


def test_intervals_cover_the_exact_inner_product():
    k, num_prompts, num_samples, repetitions = 4, 192, 16, 60
    model, rng = TwoPromptBandit(), np.random.default_rng(1)
    exact = float(exact_gradient(1) @ exact_gradient(k))
    objectives = [PASS1, Objective("mixture", mix(k, 0.0))]
    covered = told_conflict = told_agreement = 0
    for _ in range(repetitions):
        # Drawn one by one: with as many easy as hard ones, two prompts would not be independent.
        groups = draw_bandit(rng, rng.integers(2, size=num_prompts), num_samples)
        gradients = gradients_of(model, groups, objectives, num_blocks=12)
        measured = alignment(gradients[:, 0], gradients[:, 1])
        covered += measured.inner_product.low <= exact <= measured.inner_product.high
        told_conflict += measured.cosine.high < 0
        told_agreement += measured.cosine.low > 0
    assert covered >= 0.85 * repetitions
    # The ends of the cosine (exactly -0.774) are too narrow here, where so few prompts hardly tell
    # the norm of the Pass@1 gradient from zero; its sign is right all the same.
    assert told_conflict >= 0.3 * repetitions and told_agreement <= 0.025 * repetitions


def test_gradients_by_kind_give_the_mean_kernel_and_add_up_block_by_block(tiny_model, groups):
    """As `reproduce` uses them: the mean of <grad p(x), grad p(x')> over pairs of two kinds."""
    num_blocks = 5  # of 3 and of 2 prompts
    of_prompt = np.array([group.problem.kind for group in groups])
    kinds = sorted(set(of_prompt))
    assert kinds == ["calculator", "skill", "textbook"]
    learner = Learner(tiny_model, LearnerConfig(max_tokens_per_batch=1024), 1, temperature=1.0)
    by_kind = gradients_by_kind(learner, groups, [PASS1, HYBRID], num_blocks)
    together = gradients_of(tiny_model, groups, [PASS1, HYBRID], num_blocks=num_blocks)
    added = sum(part.gradients for part in by_kind.values())
    assert (added - together).norm() < 1e-5 * together.norm()
    shares_M = sum(part.shares_M for part in by_kind.values())
    assert shares_M.tolist() == pytest.approx([3 / 12, 3 / 12, 2 / 12, 2 / 12, 2 / 12])

    # Each prompt's own gradient of p, from each half: [half, prompt, parameters].
    per_prompt = torch.stack(
        [
            torch.stack([ascent_of_half(tiny_model, [group], half, PASS1) for group in groups])
            for half in (0, 1)
        ]
    ).double()
    products = (per_prompt[0] @ per_prompt[1].T).numpy()  # <grad of x in A, grad of x' in B>

    def mean_of_pairs(rows: np.ndarray, columns: np.ndarray) -> float:
        pairs = [
            (products[x, y] + products[y, x]) / 2
            for x, y in product(rows.tolist(), columns.tolist())
            if x % num_blocks != y % num_blocks
        ]
        return float(np.mean(pairs))

    close = {"rel": 1e-4, "abs": 1e-6 * np.abs(products).max()}
    for first, second in product(kinds, kinds):
        a, b = by_kind[first], by_kind[second]
        shares = [a.shares_M, b.shares_M]
        kernel = alignment(a.gradients[:, 0], b.gradients[:, 0], shares).inner_product.value
        expected = mean_of_pairs(*(np.flatnonzero(of_prompt == kind) for kind in (first, second)))
        assert kernel == pytest.approx(expected, **close)
    whole = alignment(together[:, 0], together[:, 0], [shares_M, shares_M]).inner_product.value
    assert whole == pytest.approx(mean_of_pairs(np.arange(12), np.arange(12)), **close)


def test_the_mean_kernel_of_the_bandit_is_the_exact_one():
    """grad p(easy) . grad p(hard) = -0.0108: the interference that the paper prints."""
    model, rng = TwoPromptBandit(), np.random.default_rng(2)
    groups = draw_bandit(rng, np.arange(400) % 2, 64)
    easy, hard = (gradients_of(model, groups[x::2], [PASS1], num_blocks=20)[:, 0] for x in (0, 1))
    kernel = alignment(easy, hard).inner_product
    assert kernel.low < -0.010822 < kernel.high < 0
    assert kernel.value == pytest.approx(-0.010822, rel=0.15)
