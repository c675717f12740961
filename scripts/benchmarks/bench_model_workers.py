"""Measure a learner step and vLLM's throughput on a real small model, for `bench.py`.

The model is SmolLM2-135M (`make smollm2`), in float32 on the CPU. Workers as in `bench_workers.py`.
"""

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_steps import Steps, resident_mib, trainer_stopwatch, wait_for_turn

MODEL = str(Path(__file__).parents[2] / "models" / "smollm2-135m")
NUM_ROWS, PROMPT_TOKENS, COMPLETION_TOKENS = 16, 128, 384  # of the learner's batch
NUM_PROMPTS, NUM_SAMPLES, NEW_TOKENS = 24, 8, 48  # of the engine's batch


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
    steps = Steps(start_mib=resident_mib())
    for step in range(num_steps):
        wait_for_turn()
        sampler._llm.reset_prefix_cache()  # as a change of weights does before every rollout
        started = time.perf_counter()
        sampled = rollout(
            Actor(sampler, ConventionsVerifier(), encoder),
            problems,
            NUM_SAMPLES,
            SamplingParams(1.0, NEW_TOKENS),
            SampleKey(0, "train", step),
        )
        steps.seconds.append(time.perf_counter() - started)
        steps.completions.append(sampled.rewards_PG.size)
        steps.lengths.append(sampled.num_tokens / sampled.rewards_PG.size)
    return steps


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
    steps = Steps(start_mib=resident_mib())
    for step in range(num_steps):
        wait_for_turn()
        llm.reset_prefix_cache()
        started = time.perf_counter()
        outputs = llm.generate(
            [TokensPrompt(prompt_token_ids=prompt) for prompt in ids],
            [
                SamplingParams(
                    n=NUM_SAMPLES, max_tokens=NEW_TOKENS, seed=1000 * step + i, logprobs=0
                )
                for i in range(len(ids))
            ],
            use_tqdm=False,
        )
        steps.seconds.append(time.perf_counter() - started)
        lengths = [len(c.token_ids) for output in outputs for c in output.outputs]
        steps.completions.append(len(lengths))
        steps.lengths.append(sum(lengths) / len(lengths))
    return steps
