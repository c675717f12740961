"""Rebuild the shipped model: python scripts/tools/build_tiny.py [--folder F] [--num-steps N] ...

A Llama of 133k parameters, trained from scratch on worked answers that are mostly textbook and
rarely skill sums, so that it starts out sure on one kind, unsure on another and weak on the third.
The run is seeded and single-threaded, so that it repeats; it takes about three minutes. Success
rates on held-out problems are measured by sampling and written beside the weights.
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from tokenizers import decoders as token_decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from passk.config.schema import LearnerConfig, PromptConfig
from passk.data.conventions import KINDS, Mix, make_problems
from passk.data.prompts import PromptEncoder
from passk.learner.learner import Learner
from passk.objectives.pass_at_k import pass_at_k
from passk.rollout.base import SamplingParams
from passk.rollout.rollout import Actor, SampleKey, rollout
from passk.rollout.torch_sampler import TorchSampler
from passk.training.experience import imitate
from passk.verifiers.base import ConventionsVerifier

ALPHABET = "0123456789+*=;TC"
SPECIAL = ["<pad>", "</s>"]
BATCH_SIZE, LEARNING_RATE, SEED = 256, 4e-3, 0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; no token before the prompt."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *ALPHABET])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = token_decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained model; head_dim 32 is the smallest that vLLM's kernels take."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=32,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def success_rates(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, float]:
    """Pass@1 and Pass@8 per kind on 400 held-out problems of each, 64 samples a problem."""
    rates = {}
    for kind in KINDS:
        problems = make_problems(
            400,
            Mix(float(kind == "calculator"), float(kind == "skill")),
            split="heldout",
            seed=0,
            duplicates=False,
        )
        sampled = rollout(
            Actor(
                TorchSampler(model, tokenizer),
                ConventionsVerifier(),
                PromptEncoder(tokenizer, PromptConfig()),
            ),
            problems,
            64,
            SamplingParams(temperature=1.0, max_new_tokens=32),
            SampleKey(0, "eval", 0),
        )
        correct_P = sampled.rewards_PG.sum(axis=1).astype(int)
        for k in (1, 8):
            rates[f"{kind}_pass@{k}"] = round(float(pass_at_k(64, correct_P, k).mean()), 4)
    return rates


def main(folder: Path, mix: Mix, num_steps: int) -> None:
    """Train on `num_steps` batches of solutions of this mix, measure, save."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    started = time.time()
    tokenizer = build_tokenizer()
    cfg = LearnerConfig(
        lr=LEARNING_RATE,
        schedule="linear",
        warmup_steps=100,
        weight_decay=0.01,
        betas=[0.9, 0.98],
        max_grad_norm=1.0,
        max_tokens_per_batch=16384,
    )
    learner = Learner(build_model(tokenizer), cfg, num_steps, temperature=1.0)
    corpus = make_problems(num_steps * BATCH_SIZE, mix, split="corpus", seed=1000, duplicates=True)
    random.Random(SEED).shuffle(corpus)
    for step in range(num_steps):
        batch = corpus[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
        stats = learner.update(imitate(PromptEncoder(tokenizer, PromptConfig()), batch).rows)
        if step % 100 == 0 or step + 1 == num_steps:
            assert math.isfinite(stats.loss)
            print(f"step {step}  loss {stats.loss:.4f}  {time.time() - started:.0f} s", flush=True)
    learner.model.eval()
    learner.model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rates = success_rates(learner.model, tokenizer)
    facts = {
        "command": "python scripts/tools/build_tiny.py",
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "corpus": asdict(mix),
        "steps": num_steps,
        "batch_size": BATCH_SIZE,
        "learning_rate": LEARNING_RATE,
        "seed": SEED,
        "torch": torch.__version__,
        "held_out_success": rates,
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(rates))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("passk/assets/tiny"))
    parser.add_argument("--num-steps", type=int, default=900)
    parser.add_argument("--calculator-fraction", type=float, default=0.12)
    parser.add_argument("--skill-fraction", type=float, default=0.04)
    args = parser.parse_args()
    main(args.folder, Mix(args.calculator_fraction, args.skill_fraction), args.num_steps)
