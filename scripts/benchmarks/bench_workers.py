"""The processes that the benchmarks measure: passk's step, TRL's step, `pass_at_k`.

`bench_workers.py NAME STEPS THREADS [SWITCH...]` waits for a line of input before each step, and
prints what it measured as JSON. A switch is an override of `passk train`, for both sides, or
`unshared`: passk samples every completion alone, or
`whole_batch`: TRL learns from all completions at once, not in micro-batches.
"""

import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import partial
from typing import Any

import bench_gpu_workers
import bench_model_workers
from bench_steps import (
    RESULT,
    Steps,
    TokenCounter,
    finish_device,
    resident_mib,
    trainer_stopwatch,
    wait_for_turn,
)

_TRL_ROWS = 8  # GRPOConfig.per_device_train_batch_size
FLAGS = ("unshared", "whole_batch")  # switches that are no overrides


def compose(switches: Sequence[str]) -> Any:
    """The configuration of `passk train` with the overrides; a fixed rate, as TRL has it."""
    from hydra import initialize_config_dir

    from passk.config.compose import compose_train, register
    from passk.config.registry import conf_dir

    register()
    with initialize_config_dir(str(conf_dir().resolve()), version_base="1.3"):
        overrides = [switch for switch in switches if switch not in FLAGS]
        return compose_train(["learner.schedule=constant", *overrides])


def run_passk(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """Time the step of `passk.training.loop.train`, from the rollout to the new weights."""
    from passk.training.build import open_parts, prepare_torch

    cfg = compose(switches)
    prepare_torch(threads, cfg.train.seed)
    with open_parts(cfg, cfg.model.path, day=date.today()) as parts:
        return _passk_steps(cfg, parts, num_steps, switches)


def _passk_steps(cfg: Any, parts: Any, num_steps: int, switches: Sequence[str]) -> Steps:
    from passk.data.problems import ProblemStream
    from passk.objectives.advantages import as_configured
    from passk.training.experience import explore
    from passk.training.weight_sync import hand_over

    sampler, learner = parts.sampler, parts.learner
    if "unshared" in switches:
        sampler.sample = _alone(sampler.sample)
    stream = ProblemStream(parts.data.train, cfg.train.seed)
    counter = TokenCounter()
    counter.watch(learner.model)
    if parts.engine == "torch":
        counter.watch(sampler.model)
    hand_over(learner, sampler, cfg.rollout.num_synced_checks)
    steps = Steps(start_mib=resident_mib())
    for step in range(num_steps):
        wait_for_turn()
        started = time.perf_counter()
        problems = stream.take(cfg.rollout.num_prompts)
        objective = as_configured(cfg.regime)
        experience = explore(step, cfg, objective, parts.actor, problems)
        explored = time.perf_counter()
        sampler.sleep()
        learner.update(experience.rows)
        finish_device()
        learned = time.perf_counter()
        hand_over(learner, sampler, cfg.rollout.num_synced_checks)
        finish_device()
        ended = time.perf_counter()

        metrics: Any = experience.metrics
        sampled: Any = experience.sampled
        count = cfg.rollout.num_prompts * cfg.rollout.num_samples
        counter.end_step(steps)
        known = {
            "sample": metrics.rollout_seconds,
            "verify": metrics.verify_seconds,
            "learn": learned - explored,
            "sync": ended - learned,
        }
        known["advantages and rows"] = ended - started - sum(known.values())
        for name, seconds in known.items():
            steps.phases.setdefault(name, []).append(seconds)
        steps.seconds.append(ended - started)
        steps.rewards.append(metrics.reward_mean)
        steps.completions.append(count)
        steps.lengths.append(sampled.num_tokens / count)
        steps.rows.append(len(experience.rows))
    return steps


def _alone(sample: Callable[..., Any]) -> Callable[..., Any]:
    """The same sampling with every completion as a prompt of its own, so that nothing is shared."""

    def sample_alone(prompts: Any, seeds_PG: Any, params: Any) -> Any:
        repeated = [p for p, seeds in zip(prompts, seeds_PG, strict=True) for _ in seeds]
        drawn = dict(sample(repeated, [[seed] for seeds in seeds_PG for seed in seeds], params))
        alone = iter([drawn[place][0] for place in sorted(drawn)])
        return enumerate([[next(alone) for _ in seeds] for seeds in seeds_PG])

    return sample_alone


def run_trl(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """Time TRL's step on the same problems, batch and lengths, with its overheads turned off.

    From a step's start, with its prompts in memory, to its end; the trainer's set-up is left out.
    """
    import torch
    from datasets import Dataset
    from trl import GRPOTrainer
    from trl.generation import vllm_generation

    from passk.data.problems import ProblemStream, load_data
    from passk.data.prompts import PromptEncoder
    from passk.learner.policy import load_policy, load_tokenizer, model_location
    from passk.training.build import build_verifier, prepare_torch

    cfg = compose(switches)
    prepare_torch(threads, cfg.train.seed)
    tokenizer, verifier = load_tokenizer(cfg.model.path), build_verifier(cfg.verifier)
    data = load_data(cfg.data, cfg.eval)
    encoder = PromptEncoder(tokenizer, cfg.data.prompt, data.shots)
    stream = ProblemStream(data.train, cfg.train.seed)
    problems = stream.take(cfg.rollout.num_prompts * num_steps)
    prompts, prompt_ids = [*map(encoder.prompt_text, problems)], encoder.prompts(problems)
    if tokenizer(prompts)["input_ids"] != prompt_ids:
        sys.exit("bench: TRL would read other token ids than passk from these prompts")
    longest = max(map(len, prompt_ids)) + cfg.rollout.max_new_tokens
    if cfg.rollout.dtype:  # TRL has no option for the dtype of its engine
        vllm_generation.LLM = partial(vllm_generation.LLM, dtype=cfg.rollout.dtype)
    batch_size = cfg.rollout.num_prompts * cfg.rollout.num_samples
    rows = batch_size if "whole_batch" in switches else rows_that_fit(cfg, longest)
    policy = load_policy(cfg.model, cfg.model.path, torch.device(_device()))
    policy.name_or_path = model_location(cfg.model.path)  # which TRL's vLLM loads
    steps = Steps()
    stopwatch = trainer_stopwatch(steps)

    with tempfile.TemporaryDirectory() as folder:
        GRPOTrainer(
            model=policy,
            processing_class=tokenizer,
            reward_funcs=_trl_reward(verifier, tokenizer.eos_token_id, steps, stopwatch),
            args=_trl_config(cfg, num_steps, folder, rows, longest),
            train_dataset=Dataset.from_list(
                [
                    {"prompt": prompt, "answer": problem.answer}
                    for prompt, problem in zip(prompts, problems, strict=True)
                ]
            ),
            callbacks=[stopwatch],
        ).train()
    return steps


def rows_that_fit(cfg: Any, longest: int) -> int:
    """The power of two of rows that fill `learner.max_tokens_per_batch`, at most a step's rows.

    TRL's own default, 8 rows, if that is not set.
    """
    if cfg.learner.max_tokens_per_batch is None:
        return _TRL_ROWS
    fit = max(1, cfg.learner.max_tokens_per_batch // longest)
    largest = min(fit, cfg.rollout.num_prompts * cfg.rollout.num_samples)
    return int(1 << (largest.bit_length() - 1))


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _trl_reward(
    verifier: Any, end_id: int, steps: Steps, stopwatch: Any
) -> Callable[..., list[float | None]]:
    """A reward function that asks passk's verifier, and notes what TRL sampled."""
    from passk.types import Completion, FinishReason, Problem

    def reward(
        prompts: list[str], completions: list[str], completion_ids: list[list[int]], **rest: Any
    ) -> list[float | None]:
        stopwatch.sampled()
        pairs = []
        for prompt, answer, text, ids in zip(
            prompts, rest["answer"], completions, completion_ids, strict=True
        ):
            reason = FinishReason.STOP if ids[-1] == end_id else FinishReason.LENGTH
            completion = Completion(text, tuple(ids), (), reason)
            pairs.append((Problem("", prompt, answer), completion))
        rewards = [verdict.reward or 0.0 for verdict in verifier.verify(pairs)]
        steps.rewards.append(statistics.fmean(rewards))
        steps.completions.append(len(rewards))
        steps.lengths.append(statistics.fmean(map(len, completion_ids)))
        return [*rewards]

    return reward


def _trl_config(cfg: Any, num_steps: int, folder: str, rows: int, longest: int) -> Any:
    """passk's batch in TRL's words, `rows` at a time; no checkpointing of any kind, no logging."""
    from trl import GRPOConfig

    on_gpu = _device() == "cuda"
    return GRPOConfig(
        output_dir=folder,
        max_steps=num_steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=cfg.rollout.num_prompts * cfg.rollout.num_samples // rows,
        num_generations=cfg.rollout.num_samples,
        max_completion_length=cfg.rollout.max_new_tokens,
        temperature=cfg.rollout.temperature,
        learning_rate=cfg.learner.lr,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        num_iterations=1,
        shuffle_dataset=False,
        use_vllm=cfg.rollout.engine == "vllm",
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=cfg.rollout.memory_fraction,
        vllm_max_model_length=longest,
        vllm_enable_sleep_mode=on_gpu and cfg.rollout.sleep,
        use_cpu=not on_gpu,
        bf16=cfg.learner.compute_dtype == "bfloat16",
        gradient_checkpointing=cfg.learner.gradient_checkpointing,
        dataloader_pin_memory=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def run_estimator(threads: int, num_steps: int, switches: Sequence[str]) -> Steps:
    """Time unbiased Pass@k of 5,000 problems with 1,024 samples each, at ten values of k."""
    import numpy as np

    from passk.objectives.pass_at_k import pass_at_k

    c_P = np.random.default_rng(0).integers(0, 1025, size=5000)
    ks = 2 ** np.arange(10)
    steps = Steps()
    for _ in range(num_steps):
        wait_for_turn()
        started = time.perf_counter()
        pass_at_k(1024, c_P[:, None], ks)
        steps.seconds.append(time.perf_counter() - started)
    return steps


WORKERS: dict[str, Callable[[int, int, Sequence[str]], Steps]] = {
    "passk": run_passk,
    "trl": run_trl,
    "estimator": run_estimator,
    "learner_passk": bench_model_workers.learner_passk,
    "learner_trl": bench_model_workers.learner_trl,
    "vllm_passk": bench_model_workers.vllm_passk,
    "vllm_bare": bench_model_workers.vllm_bare,
    "gpu_rounds": bench_gpu_workers.rounds,
    "gpu_engine": bench_gpu_workers.engine,
}


def work(name: str, num_steps: int, threads: int, switches: Sequence[str]) -> None:
    """Run one worker in this process and print what it measured."""
    steps = WORKERS[name](threads, num_steps, switches)
    steps.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    print(f"\n{RESULT}{json.dumps(asdict(steps))}", flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
