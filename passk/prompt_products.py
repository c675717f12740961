"""Every prompt against the gradient of any set of prompts: two passes over the samples, no more.

Whatever estimates the gradient of a prompt weights its right samples alike, and its wrong ones
alike. So sums of grad log pi over the one and over the other say all there is to say of a prompt,
and gradients of sets, of Pass@1 or of Pass@k, are sums of these with coefficients. The first pass
adds them up, the second multiplies each prompt's with them, and with each other: what a prompt
adds to a product by meeting itself is then known, and can be taken out again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from passk.batch import make_rows
from passk.diagnostics import MAX_GRADIENT_BYTES
from passk.errors import UserError
from passk.estimators import FloatArray
from passk.learner import Learner
from passk.ranks import gather
from passk.types import Group


@dataclass(frozen=True, slots=True)
class PromptProducts:
    """Products of each prompt's two sums (over right samples, over wrong ones): [P, 2, ...].

    `along_P2O` are those with each of O gradients, `within_P22` those with each other. Of a prompt
    that enters no gradient they are 0.
    """

    along_P2O: FloatArray
    within_P22: FloatArray


def prompt_products(
    learner: Learner, groups: Sequence[Group], coefficients_P2O: FloatArray
) -> PromptProducts:
    """Products with O gradients: coefficients times the sums over right and over wrong samples."""
    num_gradients, size = coefficients_P2O.shape[2], learner.num_local_parameters()
    if (needed := 4 * num_gradients * size) > MAX_GRADIENT_BYTES:
        raise UserError(
            f"diagnose.filtered_sets asks for {num_gradients} gradients of {size:,} parameters, "
            f"{needed / 2**30:.0f} GiB; use diagnose.parameters=last_layer or fewer thresholds"
        )
    gradients_OD = torch.zeros(num_gradients, size)
    entering = np.argwhere(coefficients_P2O.any(axis=2)).tolist()
    for p, side in entering:
        coefficients_O = torch.from_numpy(coefficients_P2O[p, side]).float()
        chosen_O = coefficients_O != 0
        sums_D = _score_sums(learner, groups[p], side)
        gradients_OD[chosen_O] += coefficients_O[chosen_O, None] * sums_D
    along_P2O = np.zeros(coefficients_P2O.shape)
    within_P22 = np.zeros((len(groups), 2, 2))
    for p in dict.fromkeys(p for p, _ in entering):
        sides = [side for q, side in entering if q == p]
        sums_2D = torch.zeros(2, size)
        for side in sides:
            sums_2D[side] = _score_sums(learner, groups[p], side)
        along_P2O[p] = (sums_2D @ gradients_OD.T).numpy()
        within_P22[p] = (sums_2D @ sums_2D.T).numpy()
    # Each rank has products over the parameters that it holds.
    return PromptProducts(np.sum(gather(along_P2O), axis=0), np.sum(gather(within_P22), axis=0))


def _score_sums(learner: Learner, group: Group, side: int) -> Tensor:
    """The sum of grad log pi over the right (0) or the wrong (1) samples of a prompt, [D]."""
    chosen_1G = np.array([group.rewards()]) == 1 - side
    rows = make_rows([group], chosen_1G[..., None].astype(np.float64))
    return -learner.gradient(rows)
