"""What the tests of several ranks run on each of them; spawned processes import this module."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from passk.config.schema import LearnerConfig, ModelConfig, PromptConfig
from passk.data.conventions import Mix, make_problems
from passk.data.prompts import PromptEncoder
from passk.diagnostics.interference import interference
from passk.diagnostics.matrix import sketches
from passk.errors import UserError
from passk.learner import checkpoint_writer
from passk.learner.batch import TokenRow
from passk.learner.checkpoint import TrainState, restore
from passk.learner.checkpoint_writer import CheckpointWriter
from passk.learner.fsdp import full_tensor
from passk.learner.layers import freeze_outside
from passk.learner.learner import Learner
from passk.learner.lora import adapter_parameters, add_adapters, base_fingerprint
from passk.learner.policy import load_policy, load_sharded, load_tokenizer
from passk.learner.reference import at_start, distance_from, read_reference
from passk.ranks import gather, num_ranks, rank
from passk.rollout.base import SamplingParams
from passk.rollout.rollout import Actor, Rollout, SampleKey, rollout
from passk.rollout.torch_sampler import TorchSampler
from passk.training.build import prepare_torch
from passk.types import Group
from passk.verifiers.base import ConventionsVerifier


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
            model = load_sharded(ModelConfig(), path, torch.device("cpu"), cfg, seed=0)
            learner = Learner(model, cfg, 10, 1.0)
            found[f"{name} {options}"] = [list(measured(learner, rows)) for rows in cases]
    if rank() == 0:
        Path(out).write_text(json.dumps(found))


def frozen(out: str, parts: list[str], rows: list[TokenRow]) -> None:
    """Write what `measured` says, and log-probabilities afterwards, with gradients of each part."""
    torch.set_num_threads(1)
    found = []
    for parameters in parts:
        cfg, device = LearnerConfig(max_tokens_per_batch=100), torch.device("cpu")
        if num_ranks() == 1:
            model = load_policy(ModelConfig(), "tiny", device)
            freeze_outside(model, parameters)
        else:
            model = load_sharded(ModelConfig(), "tiny", device, cfg, 0, parameters)
        learner = Learner(model, cfg, 10, 1.0)
        loss, logprobs, gradient = measured(learner, rows)
        size = float(sum(gather(learner.num_local_parameters())))
        found.append([[loss], logprobs, gradient, learner.logprobs(rows), [size]])
    if rank() == 0:
        Path(out).write_text(json.dumps(found))


def adapted(out: str, jobs: dict[str, tuple[str, ModelConfig, dict]], rows: list[TokenRow]) -> None:
    """For each job write `OUT-JOB`: the first adapters, two updates, a gradient, what leaves."""
    torch.set_num_threads(1)
    for name, (path, cfg, options) in jobs.items():
        learner_cfg = LearnerConfig(**options)
        if num_ranks() == 1:
            model = load_policy(cfg, path, torch.device("cpu"))
            add_adapters(model, cfg, seed=7)
        else:
            model = load_sharded(cfg, path, torch.device("cpu"), learner_cfg, seed=7)
        learner = Learner(model, learner_cfg, 10, 1.0)
        found = {
            f"first/{n}": full_tensor(p.detach()).clone() for n, p in adapter_parameters(model)
        }
        for turn in (1, 2):  # in the first, B is zero, and so is the gradient of A
            learned = learner.update(rows)
            found[f"loss and norm {turn}"] = torch.tensor([learned.loss, learned.grad_norm])
            found[f"logprobs {turn}"] = torch.tensor(learned.logprobs)
        found["gradient"] = torch.tensor(measured(learner, rows)[2])
        found |= {f"weights/{n}": tensor for n, tensor in learner.weights()}
        assert learner.weight_names() == [n for n, _ in learner.weights()]
        found["base"] = base_fingerprint(model)
        found |= {f"plain/{n}": full_tensor(tensor) for n, tensor in learner.plain_state()}
        found |= {
            f"state/{n}": full_tensor(tensor) for n, tensor in learner.state_tensors().items()
        }
        if rank() == 0:
            save_file({n: t.contiguous().clone() for n, t in found.items()}, f"{out}-{name}")


def measured(learner: Learner, rows: list[TokenRow]) -> tuple[float, list[float], list[float]]:
    learner.optimizer.zero_grad()
    loss, logprobs, *_ = learner.accumulate_gradient(rows)
    grads = [
        torch.zeros(p.shape) if p.grad is None else full_tensor(p.grad)
        for p in learner.model.parameters()
    ]
    return loss, list(logprobs), torch.cat([g.flatten() for g in grads]).tolist()


def compared_with_start(out: str, path: str, cfg: ModelConfig, replicas: int) -> None:
    """Write log-probabilities of a moved learner and of its start, and how far it has moved."""
    torch.set_num_threads(1)
    options = {"lr": 0.02, "eps": 0.1, "schedule": "constant", "replicas": replicas}
    learner_cfg, device = LearnerConfig(**options), torch.device("cpu")
    if num_ranks() == 1:
        model = load_policy(cfg, path, device)
        add_adapters(model, cfg, seed=7)
    else:
        model = load_sharded(cfg, path, device, learner_cfg, seed=7)
    learner = Learner(model, learner_cfg, 10, 1.0)
    for seed in range(2):
        learner.update(some_rows(9, seed=seed))
    before = {name: part.clone() for name, part in learner.trained_parts().items()}
    rows = some_rows(12)
    own = learner.token_logprobs(rows)
    reference = read_reference(learner, cfg, path)
    with at_start(learner, reference):
        starts = learner.token_logprobs(rows)
    moved = distance_from(learner, reference)
    same = all(torch.equal(part, before[name]) for name, part in learner.trained_parts().items())
    found = {
        "own": [logp_T.tolist() for logp_T in own],
        "start": [logp_T.tolist() for logp_T in starts],
        "distance": list(moved),
        "unchanged": all(gather(same)),
    }
    if rank() == 0:
        Path(out).write_text(json.dumps(found))


def save_after_steps(
    root: str,
    model: str,
    cfg: LearnerConfig,
    max_file_bytes: int = checkpoint_writer.MAX_FILE_BYTES,
) -> None:
    """Two steps, the checkpoint in `root`, and beside it what is in it, put together."""
    torch.set_num_threads(1)
    checkpoint_writer.MAX_FILE_BYTES = max_file_bytes
    learner = Learner(load_sharded(ModelConfig(), model, torch.device("cpu"), cfg, 0), cfg, 10, 1.0)
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
        load_sharded(ModelConfig(), folder, device, cfg, seed=0)
        if num_ranks() > 1
        else load_policy(ModelConfig(), folder, device)
    )
    learner = Learner(model, cfg, 10, 1.0)
    assert restore(Path(folder), learner) == TrainState(2, 18)
    assert learner.step == 2
    _save_whole(learner, Path(out))


def _save_whole(learner: Learner, file: Path) -> None:
    tensors = dict(learner.plain_state()) | learner.state_tensors()
    found = {name: full_tensor(tensor).clone() for name, tensor in tensors.items()}
    if rank() == 0:
        save_file(found, file)


def rolled_out(num_problems: int, ranks_per_engine: int) -> tuple[Rollout, list, list[str]]:
    """A rollout, the prompts this rank has drawn from, and the problems it has judged."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer("tiny")
    sampler = TorchSampler(load_policy(ModelConfig(), "tiny", torch.device("cpu")), tokenizer)
    sampler.ranks_per_engine = ranks_per_engine
    drawn, judged = [], []
    draw, verifier = sampler.sample, ConventionsVerifier()
    verify = verifier.verify

    def sample(prompts, seeds_PG, params):
        drawn.extend(list(prompt) for prompt in prompts)
        return draw(prompts, seeds_PG, params)

    def judge(pairs):
        judged.extend(problem.id for problem, _ in pairs)
        return verify(pairs)

    sampler.sample, verifier.verify = sample, judge
    problems = make_problems(num_problems, Mix(0.3, 0.3), split="heldout", seed=0, duplicates=False)
    encoder = PromptEncoder(tokenizer, PromptConfig())
    params, key = SamplingParams(1.0, 16), SampleKey(0, "eval", 0)
    return rollout(Actor(sampler, verifier, encoder), problems, 4, params, key), drawn, judged


def rollouts(out: str, sizes: list[int], counts: list[int]) -> None:
    """What all ranks have, drew and judged, for each size of groups and number of problems."""
    found = []
    for size in sizes:
        for count in counts:
            sampled, drawn, judged = rolled_out(count, size)
            groups = [
                [g.problem.id, [c.text for c in g.completions], list(g.rewards())]
                for g in sampled.groups
            ]
            found.append(gather([groups, drawn, judged]))
    if rank() == 0:
        Path(out).write_text(json.dumps(found))


def sketched_products(out: str, groups: list[Group], size: int, settings: list[dict]) -> None:
    """Write the interference matrices of a sharded model, which all ranks have alike."""
    torch.set_num_threads(1)
    matrices = []
    for options in settings:
        cfg = LearnerConfig(**options)
        model = load_sharded(ModelConfig(), "tiny", torch.device("cpu"), cfg, seed=0)
        found = sketches(Learner(model, cfg, 10, 1.0), groups, size)
        assert all(torch.equal(found, other) for other in gather(found))
        matrices.append(interference(found.numpy()))
    if rank() == 0:
        np.save(out, np.stack(matrices))


def refusals(out: str, folders: dict[str, str]) -> None:
    """Load each folder in shards; write what each rank says of it, empty where nothing."""
    torch.set_num_threads(1)
    prepare_torch(None)
    found = {}
    for name, folder in folders.items():
        try:
            load_sharded(ModelConfig(), folder, torch.device("cpu"), LearnerConfig(), seed=0)
            found[name] = gather("")
        except UserError as error:
            found[name] = gather(str(error))
    if rank() == 0:
        Path(out).write_text(json.dumps(found))
