"""Build the paper's worked example of a conflict: two prompts, two parameters, exact gradients."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import PretrainedConfig

from passk.types import Completion, FinishReason, Group, Problem, Verdict

# An easy and a hard prompt, one answer each way, and parameters that both share, so that what helps
# the hard prompt hurts the easy one.
FEATURES = torch.tensor([[1.0, -0.1], [1.0, 0.1]])  # easy, hard
RIGHT = (0, 1)  # the easy prompt wants answer 0, the hard one answer 1
THETA = (-2.0, -2.0)


class TwoPromptBandit(nn.Module):
    """A causal LM with p(answer 1 | x) = sigmoid(theta . psi(x)) for the prompt token x."""

    device = torch.device("cpu")
    config = PretrainedConfig()

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(THETA))
        self.head = nn.Linear(1, 2, bias=False).requires_grad_(False)
        self.head.weight.copy_(torch.tensor([[0.0], [1.0]]))

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.head((FEATURES[input_ids] @ self.theta)[..., None]))


def exact_success() -> np.ndarray:
    """p of the easy and of the hard prompt."""
    scores = (FEATURES.double() @ torch.tensor(THETA).double()).numpy()
    up = 1 / (1 + np.exp(-scores))
    return np.array([1 - up[0], up[1]])


def exact_gradient(k: int) -> np.ndarray:
    """grad J_k = mean over the two prompts of k (1-p)^(k-1) grad p."""
    p = exact_success()
    sign = np.array([-1.0, 1.0])
    grad_p = (sign * p * (1 - p))[:, None] * FEATURES.double().numpy()
    return (k * (1 - p[:, None]) ** (k - 1) * grad_p).mean(axis=0)


def draw_bandit(rng: np.random.Generator, prompts: np.ndarray, num_samples: int) -> list[Group]:
    """Draw judged samples of each prompt, 0 (easy) or 1 (hard), as a rollout has them."""
    success = exact_success()
    groups = []
    for x in prompts.tolist():
        right = rng.random(num_samples) < success[x]
        answers = np.where(right, RIGHT[x], 1 - RIGHT[x]).tolist()
        groups.append(
            Group(
                problem=Problem(f"x{x}", "", "", kind=("easy", "hard")[x]),
                prompt_ids=(x,),
                completions=tuple(
                    Completion("", (answer,), (0.0,), FinishReason.STOP) for answer in answers
                ),
                verdicts=tuple(Verdict(float(r), "") for r in right.tolist()),
                policy_version=0,
            )
        )
    return groups
