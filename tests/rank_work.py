"""What the tests of several ranks run on each of them; spawned processes import this module."""

import json
import random
from pathlib import Path

import torch

from passk.batch import TokenRow
from passk.config import LearnerConfig, ModelConfig, PromptConfig
from passk.conventions import make_problems
from passk.learner import Learner
from passk.policy import load_policy, load_tokenizer
from passk.prompts import PromptEncoder
from passk.ranks import gather, rank
from passk.rollout import Rollout, SampleKey, rollout
from passk.sampler import SamplingParams
from passk.sharding import load_sharded, whole
from passk.torch_sampler import TorchSampler
from passk.verifiers import ConventionsVerifier


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
    problems = make_problems(
        num_problems, split="heldout", seed=0, calculator_fraction=0.3, skill_fraction=0.3, cue=0.0
    )
    encoder = PromptEncoder(tokenizer, PromptConfig())
    params, key = SamplingParams(1.0, 16), SampleKey(0, "eval", 0)
    return rollout(sampler, verifier, encoder, problems, 4, params, key), drawn, judged


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
