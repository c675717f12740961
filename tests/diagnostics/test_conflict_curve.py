"""Products of gradients from a training batch: exact on the paper's bandit, and left no trace."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from bandit import TwoPromptBandit, draw_bandit, exact_gradient
from sampling import judged

from passk.config.schema import LearnerConfig
from passk.diagnostics.alignment import batch_products, weighted_gradients
from passk.diagnostics.derivatives import adam_metric
from passk.learner.batch import advantage_weights, make_rows
from passk.learner.learner import Learner
from passk.objectives.advantages import mixture_advantages

NUM_PROMPTS, NUM_SAMPLES, NUM_BLOCKS, K = 12, 8, 4, 4


@pytest.fixture(scope="module")
def groups(tiny_model, tiny_tokenizer, tiny_encoder):
    return judged(
        tiny_model, tiny_tokenizer, tiny_encoder, NUM_PROMPTS, NUM_SAMPLES, skill_fraction=0.3
    ).groups


def test_pooled_over_batches_they_are_unbiased():
    """400 batches of 16 prompts: each mean within 3.5 standard errors of the exact product."""
    model, rng = TwoPromptBandit(), np.random.default_rng(7)
    learner = Learner(model, LearnerConfig(), 1, 1.0)
    found = np.array(
        [
            batch_products(
                learner,
                draw_bandit(rng, rng.integers(2, size=16), NUM_SAMPLES),
                K,
                num_blocks=NUM_BLOCKS,
                preconditioned=False,
            )
            for _ in range(400)
        ]
    )
    exact = np.array([exact_gradient(k) @ exact_gradient(1) for k in range(1, K + 1)])
    errors = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - exact) < 3.5 * errors).all()
    # A prompt with itself, or a sample with itself, would have added many of these errors.
    assert (errors < 0.2 * np.abs(exact[1:]).max()).all() and (exact[1:] < 0).all()


@pytest.mark.parametrize("preconditioned", [False, True])
def test_they_are_sums_over_blocks_in_the_metric_of_adam(tiny_model, groups, preconditioned):
    learner = Learner(
        copy.deepcopy(tiny_model), LearnerConfig(max_tokens_per_batch=1024), 9, temperature=1.0
    )
    rewards_PG = np.array([group.rewards() for group in groups])

    def weights_PG(k):
        return advantage_weights(mixture_advantages(rewards_PG, k, 0.0), rewards_PG)

    def by_block(k):
        return weighted_gradients(learner, groups, weights_PG(k)[..., None], NUM_BLOCKS)[0].double()

    for _ in range(2):
        learner.update(make_rows(groups, weights_PG(1)[..., None]))
    before = [p.detach().clone() for p in learner.model.parameters()]
    moments = copy.deepcopy(learner.optimizer.state_dict())
    options = {"num_blocks": NUM_BLOCKS, "preconditioned": preconditioned}
    found = batch_products(learner, groups, K, **options)
    metric = adam_metric(learner).double() if preconditioned else 1.0
    pass1_MD = by_block(1)
    others_MD = (pass1_MD.sum(dim=0) - pass1_MD) * NUM_BLOCKS / (NUM_BLOCKS - 1) * metric
    for k, product in enumerate(found, 1):
        terms = (by_block(k) * others_MD).sum(dim=1)
        assert product == pytest.approx(float(terms.sum()), abs=2e-3 * float(terms.abs().sum()))
    for parameter, old in zip(learner.model.parameters(), before, strict=True):
        assert torch.equal(parameter, old) and parameter.grad is None
    after = learner.optimizer.state_dict()
    for state, old in zip(after["state"].values(), moments["state"].values(), strict=True):
        assert all(torch.equal(state[name], old[name]) for name in old)


def test_before_adams_first_step_the_product_is_plain(tiny_model, groups):
    learner = Learner(copy.deepcopy(tiny_model), LearnerConfig(), 9, temperature=1.0)
    plain, in_metric = (
        batch_products(learner, groups, K, num_blocks=NUM_BLOCKS, preconditioned=asked)
        for asked in (False, True)
    )
    assert plain == in_metric
    assert not any(learner.optimizer.state.values())


def test_weights_of_problems_count_as_in_the_step(tiny_model, groups):
    """On both sides of the product: what all weigh twice gives four times, what one does not, 0."""
    learner = Learner(copy.deepcopy(tiny_model), LearnerConfig(), 1, 1.0)

    def products(weights):
        weighted = [
            replace(group, problem=replace(group.problem, weight=weight))
            for group, weight in zip(groups, weights, strict=True)
        ]
        return np.array(
            batch_products(learner, weighted, K, num_blocks=NUM_BLOCKS, preconditioned=False)
        )

    plain, double = products([1.0] * NUM_PROMPTS), products([2.0] * NUM_PROMPTS)
    assert double == pytest.approx(4 * plain, rel=1e-2, abs=1e-3 * np.abs(plain).max())
    one_block = [1.0 if p % NUM_BLOCKS == 0 else 0.0 for p in range(NUM_PROMPTS)]
    assert not products(one_block).any()  # its prompts meet the gradient of the others
