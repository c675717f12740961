"""What documented commands need to be run: real things for their placeholders, and small sizes."""

import json
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from passk.cli.main import main

# What makes a command small. It is said after what the document says, which stays as it is but for
# the sizes of MINIMAL; so these fit what documents leave at its default, such as k = 8.
EVALUATION = {
    "num_threads": 1,
    "verifier.num_workers": 1,
    "eval.ks": [1, 2],
    "eval.num_problems": 6,
    "eval.num_samples": 32,
    "eval.num_resamples": 50,
}
TRAINING = {
    **EVALUATION,
    "train.num_steps": 2,
    "train.save_every": 1,
    "regime.num_demonstrations": 8,
    "rollout.num_prompts": 8,
    "rollout.num_samples": 8,
    "diagnostics.num_prompts": 8,
    "diagnostics.num_samples": 16,
    "diagnostics.num_blocks": 4,
}
DIAGNOSIS = {
    **EVALUATION,
    "diagnose.num_prompts": 16,
    "diagnose.num_samples": 8,
    "diagnose.num_blocks": 4,
    "diagnose.matrix_prompts": 8,
    "diagnose.sketch_size": 256,
    "diagnose.ks": [2, 8],
}
SIZES: dict[str, dict[str, Any]] = {
    "train": TRAINING,
    "eval": EVALUATION,
    "reproduce": TRAINING
    | {"seeds": 1, "regimes": ["passk"], "sft_steps": 1}
    | {"alignment_prompts": 8, "alignment_samples": 16},
    "diagnose": DIAGNOSIS,
    "filter": DIAGNOSIS,
    "toy": {"toy.num_steps": 10},
}
MINIMAL = {"train.num_steps", "train.save_every", "eval.num_problems", "diagnose.num_prompts"}
MINIMAL |= {"diagnose.matrix_prompts", "diagnose.ks", "seeds", "regimes"}
OF_CONVENTIONS = {"data.num_train": 48, "data.num_corpus": 64}
DATA_OF = {"gsm8k-smollm2": "gsm8k", "math-diagnostic": "math"}  # of experiments
OF_TEXT = {"rollout.max_new_tokens": 8, "eval.max_new_tokens": 8}


class Places:
    """A folder with what commands need; each thing is made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def model(self) -> Path:
        """A causal LM that reads any text and answers with digits from 1 to 3, briefly."""
        return write_model(self.root / "model")

    @cached_property
    def problems(self) -> Path:
        """A folder with both splits, with the columns of GSM8K and those of MATH."""
        folder = self.root / "problems"
        folder.mkdir()
        for split, count in (("train", 40), ("test", 12)):
            write_lines(folder / f"{split}.jsonl", [in_words(split, i) for i in range(count)])
        return folder

    @cached_property
    def training_file(self) -> Path:
        """Problems of one's own, in the shipped model's alphabet."""
        return write_lines(self.root / "own-train.jsonl", [in_digits(i) for i in range(40)])

    @cached_property
    def heldout_file(self) -> Path:
        """More of them."""
        return write_lines(self.root / "own-heldout.jsonl", [in_digits(i) for i in range(40, 50)])

    @cached_property
    def counts(self) -> Path:
        """Right samples c of n, of a few problems."""
        rows = [{"id": i, "c": i, "n": 8} for i in range(8)]
        return write_lines(self.root / "counts.jsonl", rows)

    @cached_property
    def run(self) -> Path:
        """A finished training run with two checkpoints, both evaluated."""
        return self.made("run", "train", "regime=hybrid", "eval.every=1")

    @cached_property
    def other_run(self) -> Path:
        """Another, of another regime from that one's last checkpoint."""
        return self.made("other-run", "train", "regime=passk", f"train.init_from={self.run}")

    @cached_property
    def sweep(self) -> Path:
        """The directory of a finished sweep of two cells."""
        return self.made("sweep", "train", "-m", "regime=hybrid", "train.seed=0,1")

    @cached_property
    def filtered(self) -> Path:
        """The directory of a `passk filter` over that run."""
        return self.made("filtered", "filter", f"run={self.run}")

    @cached_property
    def evaluation(self) -> Path:
        """The directory of a `passk eval` of that run."""
        return self.made("evaluation", "eval", f"run={self.run}")

    def made(self, name: str, command: str, *words: str) -> Path:
        """The directory of a small run of these words, which has to succeed."""
        path = self.root / name
        if not path.exists():
            place = f"hydra.{'sweep' if '-m' in words else 'run'}.dir={path}"
            code = main([command, *words, *self.smaller(command, words), place])
            assert code == 0, f"{name} could not be made"
        return path

    def unfinished(self, path: Path, command: str, words: Sequence[str]) -> None:
        """Make, at `path`, what a run of these words leaves that is stopped near its end."""
        shutil.copytree(self.made(f"whole-{command}", command, *words), path)
        newest = sorted([*path.glob("checkpoints/step-*"), *path.glob("samples/*.parquet")])[-1]
        shutil.rmtree(newest) if newest.is_dir() else newest.unlink()

    def smaller(self, command: str, words: Sequence[str]) -> list[str]:
        """What is to be said after a command's words to make it small, and to spare it the hub."""
        typed = dict(word.split("=", 1) for word in words if "=" in word)
        said = dict(SIZES.get(command, {}))
        data = typed.get("data") or DATA_OF.get(typed.get("experiment"), "conventions")
        if "eval.num_problems" in said and "run" not in typed:
            said |= OF_CONVENTIONS if data == "conventions" else OF_TEXT
        if data in ("gsm8k", "math"):
            said |= {"data.path": self.problems, "model.path": self.model}
        shown = {key: value for key, value in said.items() if key in MINIMAL or key not in typed}
        return [f"{key}={value}".replace(" ", "") for key, value in shown.items()]


def in_words(split: str, i: int) -> dict[str, Any]:
    """A problem that is read as GSM8K's or as MATH's; its answer is 1, 2 or 3."""
    answer = i % 3 + 1
    text = f"Ann ({split}) has {i} apples, eats {i} and gets {answer}. How many has she?"
    return {
        "question": text,
        "answer": f"She has {i}-{i}+{answer}=<<{i}-{i}+{answer}={answer}>>{answer}.\n#### {answer}",
        "problem": text,
        "solution": rf"She has ${i}-{i}+{answer}=\boxed{{{answer}}}$.",
        "level": f"Level {i % 5 + 1}",
        "type": ("Algebra", "Geometry")[i % 2],
    }


def in_digits(i: int) -> dict[str, Any]:
    """A sum."""
    a, b = i % 9 + 1, i // 9 + 1
    return {"prompt": f"T{a}+{b}=", "answer": str(a + b), "solution": f"{a}+{b}={a + b}"}


def write_lines(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def write_model(folder: Path) -> Path:
    """A Llama of one layer over bytes whose first dimension, constant, is a bias of the logits."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokens = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ids),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=1024,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 4.0  # about 4 after the norm, too
        model.lm_head.weight[:, 0] = 0.0
        for token in ("</s>", "1", "2", "3"):
            model.lm_head.weight[ids[token], 0] = 2.0  # 8 nats above the other tokens
    model.save_pretrained(folder)
    return folder
