"""What the tests of several ranks run on each of them; spawned processes import this module."""

import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from passk import saving
from passk.batch import TokenRow
from passk.checkpoint import TrainState, restore
from passk.config import LearnerConfig, ModelConfig
from passk.learner import Learner
from passk.policy import load_policy, load_tokenizer
from passk.ranks import num_ranks, rank
from passk.saving import CheckpointWriter
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


def save_after_steps(
    root: str, model: str, cfg: LearnerConfig, max_file_bytes: int = saving.MAX_FILE_BYTES
) -> None:
    """Two steps, the checkpoint in `root`, and beside it what is in it, put together."""
    torch.set_num_threads(1)
    saving.MAX_FILE_BYTES = max_file_bytes
    learner = Learner(load_sharded(ModelConfig(), model, torch.device("cpu"), cfg), cfg, 10, 1.0)
    for seed in range(2):
        learner.update(some_rows(9, seed=seed))
    writer = CheckpointWriter(Path(root), in_background=True)
    writer.save(learner, load_tokenizer(model), TrainState(2, 18), [])
    _save_whole(learner, Path(root) / "expected.safetensors")
    learner.update(some_rows(9))
    writer.settle()
    writer.close()


def state_after_restore(folder: str, out: str) -> None:
    """Read a checkpoint on as many ranks as there are, and write what they have, put together."""
    torch.set_num_threads(1)
    cfg, device = LearnerConfig(), torch.device("cpu")
    model = (
        load_sharded(ModelConfig(), folder, device, cfg)
        if num_ranks() > 1
        else load_policy(ModelConfig(), folder, device)
    )
    learner = Learner(model, cfg, 10, 1.0)
    assert restore(Path(folder), learner) == TrainState(2, 18)
    assert learner.step == 2
    _save_whole(learner, Path(out))


def _save_whole(learner: Learner, file: Path) -> None:
    tensors = dict(learner.plain_state()) | learner.state_tensors()
    found = {name: whole(tensor).clone() for name, tensor in tensors.items()}
    if rank() == 0:
        save_file(found, file)
