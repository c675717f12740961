"""What the tests of tensor parallelism run on each rank; spawned processes import this module."""

import json
import os
from pathlib import Path

import torch
from sampling import sample_all

from passk.config.schema import ModelConfig, RolloutConfig
from passk.learner.policy import load_policy, load_tokenizer
from passk.ranks import rank
from passk.rollout.base import SamplingParams


def hold_and_sample(folder: str, prompts: list, seeds_PG: list, num_tokens: int) -> None:
    """Hand two policies over to an engine on two ranks: what it holds of each, samples of the last.

    `folder` has the models `one` and `two`; each rank writes its `RANK.json` there.
    """
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    from passk.rollout.vllm_sampler import VLLMSampler

    cfg = RolloutConfig(memory_fraction=0.1, enforce_eager=True, tensor_parallel=2)
    path = f"{folder}/one"
    tokenizer = load_tokenizer(path)
    sampler = VLLMSampler(path, tokenizer, ModelConfig(), cfg, max_model_len=64, end_ids=[1])
    weights = {
        name: dict(load_policy(ModelConfig(), f"{folder}/{name}", torch.device("cpu")).state_dict())
        for name in ("one", "two")
    }
    held = []
    for step, given in enumerate(("two", "one", "two")):
        sampler.load_weights(weights[given].items(), version=step)
        held += [
            (given == asked, name, sampler.holds(name, tensor))
            for asked, tensors in weights.items()
            for name, tensor in tensors.items()
        ]
    sampled = sample_all(sampler, prompts, seeds_PG, SamplingParams(1.0, num_tokens))
    drawn = [[(c.token_ids, c.logprobs) for c in group] for group in sampled]
    Path(folder, f"{rank()}.json").write_text(json.dumps({"held": held, "drawn": drawn}))
    sampler.close()
