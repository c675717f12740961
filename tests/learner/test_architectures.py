"""Any causal LM of transformers through train, resume, evaluate and reload; adapters too."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from random_models import random_model
from resuming import as_if_killed, assert_same_run
from safetensors.torch import load_file
from small_runs import LEARNER_FILE, SMALL, metrics
from transformers import AutoModelForCausalLM

from passk.cli.main import main
from passk.config.schema import ModelConfig
from passk.errors import UserError
from passk.learner.logprobs import token_logprobs
from passk.learner.lora import add_adapters
from passk.learner.policy import load_tokenizer

STEPS = 4
WORDS = tuple(word for word in SMALL if not word.startswith("data."))
WORDS += ("data=jsonl", "verifier=conventions", "rollout.max_new_tokens=5", "eval.every=0")
RL = ("regime=hybrid", f"train.num_steps={STEPS}", "train.save_every=2", "train.keep_last=9")
RL += ("diagnostics.every=2", "learner.lr=1e-3")
LORA = ("model.lora_rank=3", "model.lora_alpha=6")


def write_problems(file: Path, letter: str) -> None:
    """Guess a digit from 1 to 3: a model that has seen the form earns a reward now and then."""
    rng = random.Random(letter)
    rows = []
    for i in range(40):
        digit = rng.randint(1, 3)
        row = {"id": f"{letter}{i}", "prompt": f"{letter}{i}+", "answer": str(digit)}
        rows.append(json.dumps(row | {"solution": f"={digit}"}))
    file.write_text("\n".join(rows))


def passk(command: str, root: Path, run: Path, *overrides: str) -> int:
    files = (f"data.path={root}/train.jsonl", f"data.eval_path={root}/heldout.jsonl")
    return main([command, *WORDS, *files, *overrides, f'hydra.run.dir="{run}"'])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The root folder, and a random model of an architecture after some imitation (made once)."""
    root = tmp_path_factory.mktemp("models")
    write_problems(root / "train.jsonl", "T")
    write_problems(root / "heldout.jsonl", "C")

    def prepare(architecture: str) -> tuple[Path, Path]:
        folder, sft = root / architecture, root / f"{architecture}-sft"
        if not sft.exists():
            random_model(architecture).save_pretrained(folder)
            load_tokenizer("tiny").save_pretrained(folder)
            words = ("regime=sft", "train.num_steps=25", "learner.lr=2e-2")
            words += ("regime.num_demonstrations=40", f"model.path={folder}")
            assert passk("train", root, sft, *words) == 0
        return root, sft

    return prepare


def logprobs_of(model) -> torch.Tensor:
    torch.manual_seed(3)
    ids = torch.randint(18, (4, 12))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, :3] = False
    with torch.no_grad():
        return token_logprobs(model.eval(), ids, mask, 1.0)


CASES = {
    "llama": ("llama", ()),
    "qwen3": ("qwen3", ()),
    "gpt_neox": ("gpt_neox", ()),
    "gemma3": ("gemma3", ()),
    "llama, adapters": ("llama", LORA),
    "gpt2, adapters, checkpointing": ("gpt2", (*LORA, "learner.gradient_checkpointing=true")),
    "qwen3, checkpointing": ("qwen3", ("learner.gradient_checkpointing=true",)),
    "llama, bfloat16 activations": (
        "llama",
        ("learner.compute_dtype=bfloat16", "rollout.max_logprob_gap=0.2"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_train_resume_evaluate_reload(prepared, tmp_path, case):
    architecture, extra = CASES[case]
    root, start = prepared(architecture)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    words = (*RL, f"train.init_from={start}", f"model.path={root / architecture}", *extra)
    assert passk("train", root, whole, *words) == 0
    lines = metrics(whole)
    assert all(line["grad_norm"] > 0 for line in lines)
    tolerance = 0.2 if "learner.compute_dtype=bfloat16" in extra else 1e-5
    assert all(0 <= line["logprob_gap_mean"] < tolerance for line in lines)
    assert tolerance == 1e-5 or lines[0]["logprob_gap_mean"] > 1e-4  # it really computed in it

    shutil.copytree(whole, stopped)
    as_if_killed(stopped, last_step=2)
    assert passk("train", root, stopped, *words, "resume=true") == 0
    assert_same_run(stopped, whole, STEPS)

    assert main(["eval", f"run={whole}", f'hydra.run.dir="{tmp_path}/eval"']) == 0
    last = whole / "checkpoints" / f"step-{STEPS:06d}"
    counts = [(d / "eval" / "table.csv").read_text() for d in (whole, tmp_path / "eval")]
    assert counts[0] == counts[1]

    reloaded = AutoModelForCausalLM.from_pretrained(last, dtype=torch.float32)
    before = AutoModelForCausalLM.from_pretrained(
        start / "checkpoints" / "step-000025", dtype=torch.float32
    )
    assert dict(reloaded.named_parameters()).keys() == dict(before.named_parameters()).keys()
    assert (logprobs_of(reloaded) - logprobs_of(before)).abs().max() > 1e-4
    if "model.lora_rank=3" in extra:
        cfg = ModelConfig(lora_rank=3, lora_alpha=6)
        assert_adapters_are_merged(before, cfg, last, reloaded)


def assert_adapters_are_merged(base, cfg: ModelConfig, checkpoint: Path, reloaded) -> None:
    """The base with the adapters of the checkpoint says what its plain model says."""
    add_adapters(base, cfg, seed=0)
    trained = {name: p for name, p in base.named_parameters() if p.requires_grad}
    tensors = load_file(checkpoint / LEARNER_FILE)
    saved = {key.partition("/")[2]: t for key, t in tensors.items() if key.startswith("adapter/")}
    assert trained.keys() == saved.keys()
    for name, tensor in saved.items():
        trained[name].data.copy_(tensor)
    torch.testing.assert_close(logprobs_of(base), logprobs_of(reloaded), rtol=0, atol=1e-4)


def test_adapters_resume_only_on_the_base_they_belong_to(prepared, tmp_path, capsys):
    root, start = prepared("llama")
    moved = tmp_path / "start"
    shutil.copytree(start / "checkpoints" / "step-000025", moved)
    run, words = tmp_path / "run", (*RL, *LORA, f"model.path={moved}")
    assert passk("train", root, run, *words) == 0
    shutil.rmtree(moved)
    shutil.copytree(root / "llama", moved)
    as_if_killed(run, last_step=2)
    assert passk("train", root, run, *words, "resume=true") == 2
    err = capsys.readouterr().err
    assert "step-000002 holds adapters of other base weights than those of" in err


@pytest.mark.parametrize(
    ("targets", "sentence"),
    [
        ("no_such_module", "model.lora_targets=no_such_module does not fit the model"),
        ("lm_head", "model.lora_targets=lm_head names the embedding or the head"),
        ("embed_tokens q_proj", "names the embedding or the head"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets, sentence):
    with pytest.raises(UserError, match=sentence):
        add_adapters(random_model("llama"), ModelConfig(lora_rank=2, lora_targets=targets), 0)


def test_a_model_that_reads_no_trees_is_noted(prepared, tmp_path, capsys):
    root, sft = prepared("gemma3")  # with windows shorter than any path
    for trees in (True, False):
        words = ("regime=pass1", "train.num_steps=1", f"train.init_from={sft}")
        words += (f"learner.prefix_trees={trees}".lower(), "eval.num_problems=2")
        assert passk("train", root, tmp_path / str(trees), *words) == 0
        out = capsys.readouterr().out
        assert ("note: Gemma3ForCausalLM with sdpa attention reads no prefix trees" in out) == trees


def test_flex_attention_is_refused_on_a_cpu(prepared, tmp_path, capsys):
    root, sft = prepared("llama")
    words = ("regime=pass1", f"train.init_from={sft}", "model.attn_implementation=flex_attention")
    assert passk("train", root, tmp_path / "run", *words) == 2
    assert "model.attn_implementation=flex_attention needs a GPU" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path, capsys):
    for architecture in ("llama", "qwen3"):  # transformers makes up an empty one for qwen3
        folder = tmp_path / architecture
        random_model(architecture).save_pretrained(folder)
        capsys.readouterr()
        words = ["train", *SMALL, f"model.path={folder}", f"hydra.run.dir={tmp_path}/run"]
        assert main(words) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"passk: the model in {folder} holds no tokenizer")
        assert err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_code_of_a_model_is_not_run_unasked(tmp_path, capsys):
    """A folder whose config names a class of its own, in a file that lies beside it."""
    folder = tmp_path / "own"
    random_model("llama").save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForCausalLM": "own.OwnForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    words = ["train", *SMALL, f"model.path={folder}", "train.num_steps=1", "eval.every=0"]
    words += ["diagnostics.every=0", "regime=sft"]
    capsys.readouterr()
    assert main([*words, f"hydra.run.dir={tmp_path}/refused"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.rstrip().endswith("add model.trust_remote_code=true")
    trusted = "model.trust_remote_code=true"
    assert main([*words, trusted, f"hydra.run.dir={tmp_path}/run"]) == 0


def test_a_sampler_of_another_precision_stops_the_run_with_a_sentence(tmp_path, capsys):
    """The shipped model sampled in bfloat16, with a limit that only float32 keeps."""
    words = ["train", *SMALL, "train.num_steps=2", "eval.every=0", "diagnostics.every=0"]
    words += ["rollout.dtype=bfloat16", f"hydra.run.dir={tmp_path}/run"]
    assert main([*words, "rollout.max_logprob_gap=1e-4"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("passk: step 0: sampler and learner differ by ")
    assert "rollout.max_logprob_gap=0.0001" in err and err.count("\n") == 1
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
    shutil.rmtree(tmp_path / "run")
    assert main(words) == 0
    assert all(1e-4 < line["logprob_gap_mean"] < 0.05 for line in metrics(tmp_path / "run"))
