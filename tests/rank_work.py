"""What the tests of several ranks run on each of them; spawned processes import this module."""

import json
import random
from pathlib import Path

import torch

from passk.batch import TokenRow
from passk.config import LearnerConfig, ModelConfig
from passk.learner import Learner
from passk.ranks import rank
from passk.sharding import load_sharded, whole


def some_rows(count: int, vocabulary: int = 16, seed: int = 0) -> list[TokenRow]:
    """Rows of many lengths, some of which weigh nothing."""
    rng = random.Random(seed)
    return [
        TokenRow(
            tuple(rng.randrange(3, vocabulary) for _ in range(rng.randint(2, 9))),
            tuple(rng.randrange(3, vocabulary) for _ in range(rng.randint(1, 30))),
            (rng.uniform(-1, 1) / count,),
        )
        for _ in range(count)
    ]


def gradients(out: str, models: dict[str, str], settings: list[dict], cases: list) -> None:
    """Write the loss, log-probabilities and gradient of each case, for each model and setting."""
    torch.set_num_threads(1)
    found = {}
    for name, path in models.items():
        for options in settings:
            cfg = LearnerConfig(**options)
            model = load_sharded(ModelConfig(), path, torch.device("cpu"), cfg)
            learner = Learner(model, cfg, 10, 1.0)
            found[f"{name} {options}"] = [list(measured(learner, rows)) for rows in cases]
    if rank() == 0:
        Path(out).write_text(json.dumps(found))


def measured(learner: Learner, rows: list[TokenRow]) -> tuple[float, list[float], list[float]]:
    learner.optimizer.zero_grad()
    loss, logprobs, _ = learner.accumulate_gradient(rows)
    grads = [
        torch.zeros(p.shape) if p.grad is None else whole(p.grad)
        for p in learner.model.parameters()
    ]
    return loss, list(logprobs), torch.cat([g.flatten() for g in grads]).tolist()
