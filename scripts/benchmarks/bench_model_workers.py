"""Measure a learner step and vLLM's throughput on a real small model, for `bench.py`.

The model is SmolLM2-135M (`make smollm2`), in float32 on the CPU. Workers as in `bench_workers.py`.
"""

import cProfile
import pstats
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench_steps import Steps, resident_mib, trainer_stopwatch, wait_for_turn

MODEL = str(Path(__file__).parents[2] / "models" / "smollm2-135m")
NUM_ROWS, PROMPT_TOKENS, COMPLETION_TOKENS = 16, 128, 384  # of the learner's batch
NUM_PROMPTS, NUM_SAMPLES, NEW_TOKENS = 64, 16, 24  # of the engine's batch
# What a profile of the engine's batch shows: a label, and the file and function it stands for.
PROFILED = {
    "all": ("bench_model_workers.py", "work"),
    "engine: steps": ("llm_engine.py", "step"),
    "engine: forward passes and sampling": ("uniproc_executor.py", "execute_model"),
    "engine: requests added": ("llm_engine.py", "add_request"),
    "engine: outputs, with its own decoding": ("output_processor.py", "process_outputs"),
    "passk: prompts encoded": ("prompts.py", "prompts"),
    "passk: seeds": ("base.py", "group_seeds"),
    "passk: completions made": ("vllm_sampler.py", "_completions"),
    "passk: of this, decoding": ("codec.py", "decode"),
    "threads waited for (engine's, verifier's)": ("_base.py", "result"),
}


def random_ids(count: int, seed: int) -> list[int]:
    """Token ids that no row shares: nothing to merge, nothing to skip."""
    rng = random.Random(seed)
    return [rng.randrange(100, 49000) for _ in range(count)]


def learner_passk(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """passk's learner on 16 rows of 512 tokens: forward, backward, AdamW."""
    import torch

    from passk.config.schema import LearnerConfig, ModelConfig
    from passk.learner.batch import TokenRow
    from passk.learner.learner import Learner
    from passk.learner.policy import load_policy

    torch.set_num_threads(threads)
    cfg = LearnerConfig(lr=1e-6, gradient_checkpointing="checkpointing" in switches)
    model = load_policy(ModelConfig(), MODEL, torch.device("cpu"))
    learner = Learner(model, cfg, num_steps, temperature=1.0)
    steps = Steps(start_mib=resident_mib())
    for step in range(num_steps):
        rows = [
            TokenRow(
                tuple(random_ids(PROMPT_TOKENS, seed=step * NUM_ROWS + i)),
                tuple(random_ids(COMPLETION_TOKENS, seed=-1 - step * NUM_ROWS - i)),
                ((-1.0) ** i / NUM_ROWS,),
            )
            for i in range(NUM_ROWS)
        ]
        wait_for_turn()
        started = time.perf_counter()
        learner.update(rows)
        steps.seconds.append(time.perf_counter() - started)
    return steps


def learner_trl(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """TRL's GRPOTrainer on rows of the same shape, which it is handed in place of sampling."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from passk.config.schema import ModelConfig
    from passk.learner.policy import load_policy, load_tokenizer

    torch.set_num_threads(threads)
    steps = Steps()

    def handed_over(prompts: list[str], trainer: Any) -> dict[str, Any]:
        first = len(steps.seconds) * NUM_ROWS
        return {
            "prompt_ids": [random_ids(PROMPT_TOKENS, seed=first // 8) for _ in prompts],
            "completion_ids": [
                random_ids(COMPLETION_TOKENS, seed=-1 - first - i) for i in range(len(prompts))
            ],
            "logprobs": [[0.0] * COMPLETION_TOKENS for _ in prompts],
        }

    def alternating(completions: list[str], **_: Any) -> list[float]:
        return [float(i % 2) for i in range(len(completions))]

    with tempfile.TemporaryDirectory() as folder:
        GRPOTrainer(
            model=load_policy(ModelConfig(), MODEL, torch.device("cpu")),
            processing_class=load_tokenizer(MODEL),
            reward_funcs=alternating,
            rollout_func=handed_over,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=num_steps,
                per_device_train_batch_size=NUM_ROWS,
                num_generations=8,
                max_completion_length=COMPLETION_TOKENS,
                learning_rate=1e-6,
                beta=0.0,
                loss_type="dr_grpo",
                scale_rewards="none",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing="checkpointing" in switches,
                dataloader_pin_memory=False,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([{"prompt": "q"}] * NUM_ROWS * num_steps),
            callbacks=[trainer_stopwatch(steps)],
        ).train()
    return steps


def word_problems(count: int) -> list[str]:
    """Questions of the length of GSM8K's, made up."""
    rng = random.Random(0)
    return [
        f"Question: A baker makes {rng.randint(20, 90)} rolls in the morning and twice as many in "
        f"the afternoon. She sells {rng.randint(10, 19)} boxes of {rng.randint(3, 6)} rolls each, "
        "and gives the rest to her neighbours. How many rolls does she give away?\nAnswer:"
        for _ in range(count)
    ]


def run_rounds(
    num_steps: int, profiled: bool, prepare: Callable[[], Any], work: Callable[[int], list[int]]
) -> Steps:
    """Time `work`, which returns the length of each completion, after an untimed `prepare`.

    Profiled, its functions are phases; times of a profiled step are longer than those of others.
    """
    steps = Steps(start_mib=resident_mib())
    for step in range(num_steps):
        wait_for_turn()
        prepare()
        profile = cProfile.Profile()
        started = time.perf_counter()
        lengths = profile.runcall(work, step) if profiled else work(step)
        steps.seconds.append(time.perf_counter() - started)
        steps.completions.append(len(lengths))
        steps.lengths.append(sum(lengths) / len(lengths))
        if profiled:
            seconds = profiled_seconds(profile)
            for label in PROFILED:
                steps.phases.setdefault(label, []).append(seconds.get(label, 0.0))
    steps.phases = {label: found for label, found in steps.phases.items() if any(found)}
    return steps


def profiled_seconds(profile: cProfile.Profile) -> dict[str, float]:
    """Cumulative seconds of each function in PROFILED."""
    seconds: dict[str, float] = {}
    stats: Any = pstats.Stats(profile)
    for (path, _, function), (*_, cumulative, _) in stats.stats.items():
        for label, wanted in PROFILED.items():
            if (Path(path).name, function) == wanted:
                seconds[label] = seconds.get(label, 0.0) + cumulative
    return seconds


def vllm_passk(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """passk's rollout on vLLM: encode prompts, sample, judge, make groups."""

    from passk.config.schema import ModelConfig, PromptConfig, RolloutConfig
    from passk.data.prompts import PromptEncoder
    from passk.learner.policy import load_tokenizer
    from passk.rollout.base import SamplingParams
    from passk.rollout.rollout import Actor, SampleKey, rollout
    from passk.rollout.vllm_sampler import VLLMSampler
    from passk.types import Problem
    from passk.verifiers.base import ConventionsVerifier

    tokenizer = load_tokenizer(MODEL)
    cfg = RolloutConfig(memory_fraction=0.25)
    end_ids = [tokenizer.eos_token_id]
    sampler = VLLMSampler(MODEL, tokenizer, ModelConfig(), cfg, max_model_len=256, end_ids=end_ids)
    problems = [Problem(str(i), p, "0") for i, p in enumerate(word_problems(NUM_PROMPTS))]
    encoder = PromptEncoder(tokenizer, PromptConfig())
    actor = Actor(sampler, ConventionsVerifier(), encoder)
    params = SamplingParams(1.0, NEW_TOKENS)

    def work(step: int) -> list[int]:
        key = SampleKey(0, "train", step)
        groups = rollout(actor, problems, NUM_SAMPLES, params, key).groups
        return [len(completion.token_ids) for group in groups for completion in group.completions]

    # a change of weights resets the cache before every rollout
    return run_rounds(num_steps, "profile" in switches, sampler._llm.reset_prefix_cache, work)


def vllm_bare(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """The same requests through `LLM.generate` alone."""
    from vllm import LLM, SamplingParams, TokensPrompt

    from passk.learner.policy import load_tokenizer

    llm = LLM(
        model=MODEL,
        dtype="float32",
        max_model_len=256,
        gpu_memory_utilization=0.25,
        logprobs_mode="processed_logprobs",
        enable_chunked_prefill=False,  # with seeds it stops the CPU engine
        max_num_batched_tokens=8192,
        seed=0,
    )
    ids = load_tokenizer(MODEL)(word_problems(NUM_PROMPTS))["input_ids"]

    def work(step: int) -> list[int]:
        params = [
            SamplingParams(n=NUM_SAMPLES, max_tokens=NEW_TOKENS, seed=1000 * step + i, logprobs=0)
            for i in range(len(ids))
        ]
        prompts = [TokensPrompt(prompt_token_ids=prompt) for prompt in ids]
        outputs = llm.generate(prompts, params, use_tqdm=False)
        return [len(c.token_ids) for output in outputs for c in output.outputs]

    return run_rounds(num_steps, "profile" in switches, llm.reset_prefix_cache, work)
