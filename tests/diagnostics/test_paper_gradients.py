"""Products of every prompt with gradients of sets: those of gradients that are held whole."""

import numpy as np
import torch
from sampling import NUM_PROMPTS

from passk.diagnostics.alignment import weighted_gradients
from passk.diagnostics.paper_gradients import prompt_products
from passk.diagnostics.paper_sets import plain_coefficients, unbiased_coefficients
from passk.learner.batch import advantage_weights, make_rows
from passk.objectives.advantages import mixture_advantages


def test_products_are_those_of_whole_gradients(learner, groups):
    """Of the plain estimate over all prompts, and of Pass@3 over every other one."""
    rewards_PG = np.array([group.rewards() for group in groups])
    assert 0 < (rewards_PG == 1).sum() < rewards_PG.size
    half_P1 = (np.arange(NUM_PROMPTS) % 2 == 0)[:, None]
    plain_P2, passk_P2 = plain_coefficients(rewards_PG), unbiased_coefficients(rewards_PG, 3)
    coefficients_OP2 = np.stack([plain_P2, passk_P2 * half_P1])
    along_OP2, within_P22 = prompt_products(learner, groups, coefficients_OP2)
    advantages_PG = mixture_advantages(rewards_PG, 3, 0.0) * half_P1
    whole_OD = torch.cat(
        [
            weighted_gradients(learner, groups, weights_PG[..., None] * NUM_PROMPTS, 1)[0]
            for weights_PG in (
                advantage_weights(rewards_PG, rewards_PG),
                advantage_weights(advantages_PG, rewards_PG),
            )
        ]
    ).double()
    for p, group in enumerate(groups):
        sums_2D = torch.stack(
            [
                -learner.gradient(make_rows([group], (rewards_PG[p] == reward)[None, :, None]))
                for reward in (1, 0)
            ]
        ).double()
        entering = torch.from_numpy((plain_P2[p] != 0) | (passk_P2[p] * half_P1[p] != 0))
        sums_2D *= entering[:, None]
        sizes = sums_2D.norm(dim=1, keepdim=True) * whole_OD.norm(dim=1) + 1e-9
        along_2O = torch.from_numpy(along_OP2[:, p].T)
        assert ((along_2O - sums_2D @ whole_OD.T).abs() <= 1e-5 * sizes).all()
        within_22 = torch.from_numpy(within_P22[p])
        torch.testing.assert_close(within_22, sums_2D @ sums_2D.T, rtol=1e-4, atol=1e-6)
