"""The processes that `bench_gpu.py` measures; on a CPU they run too, with small numbers.

Workers as in `bench_workers.py`; their switches are `model=FOLDER` and the names of `Sizes`.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

from bench_model_workers import MODEL, word_problems
from bench_steps import Steps, finish_device, resident_mib, wait_for_turn


@dataclass(frozen=True)
class Sizes:
    """How much is sampled: the batch of a training step, and sequences of random lengths."""

    prompts: int = 64
    samples: int = 32
    new_tokens: int = 256
    sequences: int = 256
    shortest: int = 100
    longest: int = 1024

    def switches(self, model: str) -> tuple[str, ...]:
        """These sizes and a model as switches of a worker."""
        return (f"model={model}", *(f"{name}={value}" for name, value in asdict(self).items()))


REHEARSAL = Sizes(prompts=2, samples=4, new_tokens=8, sequences=4, shortest=5, longest=20)


def read(switches: Sequence[str]) -> tuple[str, Sizes]:
    """The model and the sizes that switches name."""
    given = dict(switch.split("=", 1) for switch in switches)
    sizes = Sizes(**{f.name: int(given[f.name]) for f in fields(Sizes) if f.name in given})
    return given.get("model", MODEL), sizes


def open_sampler(model: str, max_model_len: int) -> Any:
    """The engine as passk starts it, in bfloat16 on a GPU."""
    import torch

    from passk.config.schema import ModelConfig, RolloutConfig
    from passk.learner.policy import load_tokenizer
    from passk.rollout.vllm_sampler import VLLMSampler

    on_gpu = torch.cuda.is_available()
    cfg = RolloutConfig(
        dtype="bfloat16" if on_gpu else None, memory_fraction=0.4 if on_gpu else 0.15
    )
    tokenizer = load_tokenizer(model)
    ends = [tokenizer.eos_token_id]
    return VLLMSampler(
        model, tokenizer, ModelConfig(), cfg, max_model_len=max_model_len, end_ids=ends
    )


def rounds(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """One engine: passk's rollout, the bare engine, the learner on rows and trees, the hand-over.

    Both draw the same requests; the learner is given what passk's rollout drew, half of it right.
    """
    import torch

    from passk.config.schema import LearnerConfig, ModelConfig, PromptConfig
    from passk.data.prompts import PromptEncoder
    from passk.learner.learner import Learner
    from passk.learner.logprobs import tree_limits
    from passk.learner.micro_batches import NO_TREES
    from passk.learner.policy import load_policy
    from passk.rollout.base import SamplingParams
    from passk.rollout.rollout import Actor, SampleKey, rollout
    from passk.training.weight_sync import hand_over
    from passk.types import Problem
    from passk.verifiers.base import ConventionsVerifier

    name, sizes = read(switches)
    on_gpu = torch.cuda.is_available()
    model = load_policy(ModelConfig(), name, torch.device("cuda" if on_gpu else "cpu"))
    cfg = LearnerConfig(
        lr=1e-6,
        compute_dtype="bfloat16" if on_gpu else None,
        max_tokens_per_batch=65536 if on_gpu else 2048,
    )
    learner = Learner(model, cfg, 1000, 1.0)
    ways = {"rows": NO_TREES, "trees": tree_limits(model)}
    sampler = open_sampler(name, 512)
    problems = [Problem(str(i), p, "0") for i, p in enumerate(word_problems(sizes.prompts))]
    actor = Actor(sampler, ConventionsVerifier(), PromptEncoder(sampler.tokenizer, PromptConfig()))
    prompts = actor.encoder.prompts(problems)
    hand_over(learner, sampler, 8)
    steps = Steps(start_mib=resident_mib())

    def time_it(label: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        finish_device()
        steps.phases.setdefault(label, []).append(time.perf_counter() - started)
        return result

    def count(label: str, tokens: int) -> None:
        steps.tokens.setdefault(label, []).append(tokens)

    for step in range(num_steps):
        wait_for_turn()
        key = SampleKey(0, "train", step)
        params = SamplingParams(1.0, sizes.new_tokens)
        sample = partial(rollout, actor, problems, sizes.samples, params, key)
        sampled = time_it("passk", sample)
        count("passk", sampled.num_tokens)
        sampler._llm.reset_prefix_cache()
        drawn = time_it("bare", partial(generate, sampler, prompts, sizes, 1000 * step))
        count("bare", drawn)
        rows = rows_to_learn(sampled.groups, sizes)
        sampler.sleep()
        for way, limits in ways.items():
            learner.tree_limits = limits
            time_it(way, partial(learner.update, rows))
        count("rows", sum(map(len, rows)))
        count("trees", distinct_prefixes([(*r.prompt_ids, *r.completion_ids) for r in rows]))
        time_it("hand-over", partial(hand_over, learner, sampler, 8))
    sampler.close()
    return steps


def rows_to_learn(groups: list[Any], sizes: Sizes) -> list[Any]:
    """The rows of a hybrid step in which every other sample is right."""
    import numpy as np

    from passk.learner.batch import advantage_weights, make_rows
    from passk.objectives.advantages import mixture_advantages

    rewards_PG = np.tile(np.arange(sizes.samples) % 2.0, (sizes.prompts, 1))
    advantages_PG = mixture_advantages(rewards_PG, min(8, sizes.samples), 0.7)
    return make_rows(groups, advantage_weights(advantages_PG, rewards_PG)[..., None])


def generate(sampler: Any, prompts: list[list[int]], sizes: Sizes, seed: int) -> int:
    """The tokens that `LLM.generate` draws on the sampler's own engine."""
    from vllm import SamplingParams, TokensPrompt

    params = [
        SamplingParams(n=sizes.samples, max_tokens=sizes.new_tokens, seed=seed + i, logprobs=0)
        for i in range(len(prompts))
    ]
    outputs = sampler._llm.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids in prompts], params, use_tqdm=False
    )
    return sum(len(c.token_ids) for output in outputs for c in output.outputs)


def distinct_prefixes(rows: Sequence[Sequence[int]]) -> int:
    """The number of distinct prefixes of all rows: the tokens that trees must compute."""
    root: dict[int, Any] = {}
    count = 0
    for row in rows:
        node = root
        for token in row:
            if token not in node:
                node[token] = {}
                count += 1
            node = node[token]
    return count


def engine(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """Sequences of random tokens and lengths, as nano-vllm's bench has them, to their full length.

    `as=passk`: the engine as passk starts it, asked for what passk asks; else with vLLM's defaults.
    """
    import torch
    from vllm import LLM, SamplingParams, TokensPrompt

    ours = "as=passk" in switches
    name, sizes = read(switches)
    rng = random.Random(0)
    prompts = [
        [rng.randint(0, 10000) for _ in range(rng.randint(sizes.shortest, sizes.longest))]
        for _ in range(sizes.sequences)
    ]
    lengths = [rng.randint(sizes.shortest, sizes.longest) for _ in range(sizes.sequences)]
    if ours:
        llm = open_sampler(name, 2 * sizes.longest)._llm
    else:
        on_gpu = torch.cuda.is_available()
        llm = LLM(
            model=name,
            dtype="bfloat16" if on_gpu else "float32",
            max_model_len=2 * sizes.longest,
            gpu_memory_utilization=0.4 if on_gpu else 0.15,
            seed=0,
        )
    asked = {"logprobs": 0, "flat_logprobs": True, "detokenize": False} if ours else {}
    params = [
        SamplingParams(temperature=0.6, ignore_eos=True, max_tokens=length, **asked)
        for length in lengths
    ]
    requests = [TokensPrompt(prompt_token_ids=ids) for ids in prompts]
    steps = Steps(start_mib=resident_mib())
    for _ in range(num_steps):
        wait_for_turn()
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate(requests, params, use_tqdm=False)
        steps.seconds.append(time.perf_counter() - started)
        steps.completions.append(len(outputs))
        steps.lengths.append(sum(lengths) / len(lengths))
    return steps
