"""Checkpoints are written beside the training, by every rank its part, and read by any number."""

import errno
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
from random_models import mixtral, random_model
from rank_work import save_after_steps, some_rows, state_after_restore
from safetensors.torch import load_file
from small_runs import metrics, train
from transformers import (
    ApertusConfig,
    ApertusForCausalLM,
    AutoModelForCausalLM,
)

from passk.cli.launch import launch
from passk.cli.main import main
from passk.config.schema import LearnerConfig, ModelConfig
from passk.errors import UserError
from passk.learner import checkpoint_writer
from passk.learner.checkpoint import TrainState, best_steps, damage, restore
from passk.learner.checkpoint_writer import CheckpointWriter, check_saving, save_model
from passk.learner.learner import Learner
from passk.learner.policy import TINY, generation_settings, load_policy, load_tokenizer

pytestmark = pytest.mark.usefixtures("forked_ranks")
CPU = torch.device("cpu")


def new_learner(path: str | Path = "tiny") -> Learner:
    return Learner(load_policy(ModelConfig(), str(path), CPU), LearnerConfig(), 10, 1.0)


def tensors_of(learner: Learner) -> dict[str, torch.Tensor]:
    found = dict(learner.plain_state()) | learner.state_tensors()
    return {name: tensor.clone() for name, tensor in found.items()}


def assert_same_tensors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.fixture(scope="module")
def from_four(tmp_path_factory, forked_ranks) -> Path:
    """A checkpoint written by four ranks after two steps, and its tensors put together."""
    root = tmp_path_factory.mktemp("four")
    launch(save_after_steps, 4, str(root), "tiny", LearnerConfig())
    return root


@pytest.mark.parametrize("num_ranks", [1, 2, 8])
def test_a_checkpoint_of_four_ranks_is_read_by_any_number(from_four, tmp_path, num_ranks):
    """Shards of 8 ranks end elsewhere than those of 4, and some parameters have fewer rows."""
    expected = load_file(from_four / "expected.safetensors")
    assert len(expected) > 60 and all(tensor.abs().sum() > 0 for tensor in expected.values())
    found = tmp_path / "found.safetensors"
    launch(state_after_restore, num_ranks, str(from_four / "step-000002"), str(found))
    assert_same_tensors(load_file(found), expected)


def test_ranks_write_what_transformers_reads(from_four):
    folder = from_four / "step-000002"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = load_file(from_four / "expected.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "learner"} <= names
    assert "sharded" not in names and len(list((folder / "learner").iterdir())) == 4
    assert damage(folder) is None


def test_every_file_is_in_the_manifest_and_none_is_pickled(from_four):
    folder = from_four / "step-000002"
    listed = set(json.loads((folder / "files.json").read_text()))
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there == listed | {"files.json"}
    assert {Path(name).suffix for name in there} <= {".json", ".safetensors", ".jinja"}


@pytest.mark.parametrize("name", ["config.json", "state.json"])
def test_any_damaged_file_is_named(from_four, tmp_path, name):
    folder = tmp_path / "step-000002"
    shutil.copytree(from_four / "step-000002", folder)
    (folder / name).write_text("{}")
    assert damage(folder).startswith(f"{name} has 2 bytes where ")


def with_buffers() -> ApertusForCausalLM:
    """Its files hold numbers that are no parameters; here others than a new model has."""
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    torch.manual_seed(0)
    model = ApertusForCausalLM(ApertusConfig(vocab_size=18, **sizes, **heads, eos_token_id=1))
    for layer in model.model.layers:
        layer.mlp.act_fn.beta.fill_(0.7)
    return model


OTHERS = {"mixtral": mixtral, "apertus": with_buffers}


@pytest.mark.parametrize("name", ["mixtral", "gpt2", "apertus"])
def test_ranks_save_what_one_process_saves(tmp_path, name):
    """Experts under the names of their files, a tied head (GPT-2's) not at all, and buffers."""
    model = OTHERS[name]() if name in OTHERS else random_model(name)
    model.save_pretrained(tmp_path / "model")
    load_tokenizer("tiny").save_pretrained(tmp_path / "model")
    launch(save_after_steps, 2, str(tmp_path), str(tmp_path / "model"), LearnerConfig())
    before, after = (
        load_file(tmp_path / folder / "model.safetensors") for folder in ("model", "step-000002")
    )
    assert before.keys() == after.keys()
    assert any("experts.2.w1" in key or "wte" in key or "beta" in key for key in before)
    assert all(after[key] == 0.7 for key in after if key.endswith("act_fn.beta"))
    expected = load_file(tmp_path / "expected.safetensors")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "step-000002", dtype=torch.float32)
    for name, parameter in reloaded.named_parameters():
        assert torch.equal(parameter, expected[name]), name


def test_large_models_are_written_in_several_files(tmp_path):
    launch(save_after_steps, 2, str(tmp_path), "tiny", LearnerConfig(), 50_000)
    folder = tmp_path / "step-000002"
    assert len(list(folder.glob("model-*.safetensors"))) > 5
    assert len(list((folder / "learner").iterdir())) > 20
    assert_same_tensors(
        dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).named_parameters()),
        {
            name: tensor
            for name, tensor in load_file(tmp_path / "expected.safetensors").items()
            if not name.startswith("optimizer/")
        },
    )
    learner = new_learner(folder)
    restore(folder, learner)
    assert_same_tensors(tensors_of(learner), load_file(tmp_path / "expected.safetensors"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "apertus"])
def test_one_process_resumes_from_its_own(tmp_path, name):
    model = OTHERS[name]() if name in OTHERS else random_model(name)
    model.save_pretrained(tmp_path / "model")
    load_tokenizer("tiny").save_pretrained(tmp_path / "model")
    learner = new_learner(tmp_path / "model")
    learner.update(some_rows(5))
    writer = CheckpointWriter(tmp_path, in_background=False)
    writer.save(learner, load_tokenizer("tiny"), TrainState(1, 7), [])
    again = new_learner(tmp_path / "step-000001")
    assert restore(tmp_path / "step-000001", again) == TrainState(1, 7)
    assert_same_tensors(tensors_of(again), tensors_of(learner))
    assert_same_tensors(again.model.state_dict(), learner.model.state_dict())
    assert again.update(some_rows(5)) == learner.update(some_rows(5))


def test_a_pickled_model_is_refused(tmp_path):
    model = random_model("llama")
    model.save_pretrained(tmp_path)
    load_tokenizer("tiny").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"cannot be loaded \(.*model\.safetensors"):
        load_policy(ModelConfig(), str(tmp_path), CPU)


@pytest.fixture
def held_back(monkeypatch) -> threading.Event:
    """Writing begins when the event is set."""
    allowed, write = threading.Event(), CheckpointWriter._write

    def wait_and_write(*arguments):
        assert allowed.wait(60)
        write(*arguments)

    monkeypatch.setattr(CheckpointWriter, "_write", wait_and_write)
    return allowed


def test_training_goes_on_while_a_copy_is_written(tmp_path, held_back):
    learner = new_learner()
    learner.update(some_rows(5))
    then = tensors_of(learner)
    writer, old = CheckpointWriter(tmp_path, in_background=True), tmp_path / "step-000000"
    old.mkdir()
    writer.save(learner, load_tokenizer("tiny"), TrainState(1, 5), [old])
    for _ in range(2):
        learner.update(some_rows(5, seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000"], "nothing is there yet"
    held_back.set()
    writer.settle()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    again = new_learner(tmp_path / "step-000001")
    restore(tmp_path / "step-000001", again)
    assert_same_tensors(tensors_of(again), then)


def test_a_checkpoint_waits_for_the_one_before(tmp_path, held_back):
    learner = new_learner()
    learner.update(some_rows(5))
    writer = CheckpointWriter(tmp_path, in_background=True)
    writer.save(learner, load_tokenizer("tiny"), TrainState(1, 5), [])
    threading.Timer(0.2, held_back.set).start()
    writer.save(learner, load_tokenizer("tiny"), TrainState(2, 10), [])
    assert (tmp_path / "step-000001").is_dir()
    writer.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


@pytest.mark.parametrize("in_background", [True, False])
def test_what_cannot_be_written_is_said_and_nothing_is_lost(tmp_path, monkeypatch, in_background):
    learner = new_learner()
    learner.update(some_rows(5))
    writer = CheckpointWriter(tmp_path, in_background=in_background)
    writer.save(learner, load_tokenizer("tiny"), TrainState(1, 5), [])
    writer.settle()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    monkeypatch.setattr(checkpoint_writer, "_write_manifest", full)
    with pytest.raises(OSError, match="No space left on device"):
        writer.save(learner, load_tokenizer("tiny"), TrainState(2, 9), [tmp_path / "step-000001"])
        writer.settle()
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"], "and no half of another"
    assert damage(tmp_path / "step-000001") is None
    writer.close()


def test_a_background_error_is_raised_when_it_happens(tmp_path, held_back, monkeypatch):
    writer = CheckpointWriter(tmp_path, in_background=True)
    monkeypatch.setattr(checkpoint_writer, "_write_manifest", lambda *_: 1 / 0)
    writer.save(new_learner(), load_tokenizer("tiny"), TrainState(1, 5), [])
    writer.check()  # says nothing of what is still being written, and does not wait for it
    held_back.set()
    deadline = time.monotonic() + 60
    with pytest.raises(ZeroDivisionError):
        while time.monotonic() < deadline:
            writer.check()
    writer.check()  # once
    writer.close()


def test_a_run_ends_when_its_checkpoint_could_not_be_written(tmp_path, monkeypatch):
    """Not 29 steps later, with the next checkpoint."""
    monkeypatch.setattr(checkpoint_writer, "_write_manifest", lambda *_: 1 / 0)
    words = ("regime=sft", "train.num_steps=59", "train.save_every=30", "eval.every=0")
    assert train(tmp_path / "run", *words, "diagnostics.every=0") == 1
    assert 30 <= len(metrics(tmp_path / "run")) < 55


# Each loads, and transformers refuses to write it again.
UNSAVABLE = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "length_penalty": 2.0}
UNSAVABLE |= {"early_stopping": True, "pad_token_id": -1, "num_beams": 0, "not_yet_known": [1]}


def test_the_generation_config_stays_as_it_is(tmp_path):
    """In checkpoints and exports, byte by byte; `test_export.py` has that of a plain one."""
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(TINY, model)
    written = json.dumps(UNSAVABLE | {"eos_token_id": [1, 99]}, indent=1) + "  "
    (model / "generation_config.json").write_text(written)
    words = ("regime=sft", "train.num_steps=1", "eval.every=0", "diagnostics.every=0")
    assert train(run, *words, f"model.path={model}") == 0
    assert train(tmp_path / "next", *words, f"train.init_from={run}") == 0
    out = tmp_path / "out"
    assert main(["export", f"run={run}", "export.dtype=bfloat16", f"out={out}"]) == 0
    (tmp_path / "next" / "checkpoints" / "step-000001").rename(tmp_path / "last")
    for folder in (run / "checkpoints" / "step-000001", tmp_path / "last", out):
        assert (folder / "generation_config.json").read_text() == written
    assert "An answer ends with `</s>`." in (out / "README.md").read_text()


@pytest.mark.parametrize("setting", [*UNSAVABLE.items(), ("temperature", 0), ("top_k", 0)])
def test_no_setting_of_the_generation_config_stands_in_the_way(tmp_path, setting):
    shutil.copytree(TINY, tmp_path / "model")
    file = tmp_path / "model" / "generation_config.json"
    file.write_text(json.dumps(dict([setting])))
    model = load_policy(ModelConfig(), str(tmp_path / "model"), CPU)
    check_saving(model, load_tokenizer("tiny"), "it")
    settings = generation_settings(str(tmp_path / "model"))
    save_model(tmp_path / "saved", model, None, settings)
    assert (tmp_path / "saved" / "generation_config.json").read_bytes() == file.read_bytes()
    file.unlink()
    save_model(tmp_path / "saved", model, None, generation_settings(str(tmp_path / "model")))
    assert not (tmp_path / "saved" / "generation_config.json").exists()


def test_what_cannot_be_saved_is_refused_before_it_is_trained():
    model, tokenizer = load_policy(ModelConfig(), "tiny", CPU), load_tokenizer("tiny")
    check_saving(model, tokenizer, "it")
    tokenizer.init_kwargs["a"] = {1, 2}
    with pytest.raises(UserError, match=r"^it can be loaded but not saved.*TypeError"):
        check_saving(model, tokenizer, "it")
    model.config.extra = object()
    with pytest.raises(UserError, match=r"^it can be loaded but not saved.*TypeError"):
        check_saving(model, load_tokenizer("tiny"), "it")


def test_the_best_checkpoint_stays(tmp_path):
    """A learning rate that is too high: the policy is worse from step to step."""
    words = ("regime=passk", "train.num_steps=6", "train.save_every=1", "eval.every=1")
    words += ("learner.lr=3e-3", "learner.schedule=constant", "train.keep_last=1")
    assert train(tmp_path / "run", *words, "diagnostics.every=0") == 0
    rows = (tmp_path / "run" / "eval" / "summary.csv").read_text().splitlines()
    values = {
        int(step): float(value)
        for step, _, metric, value, *_ in (row.split(",") for row in rows)
        if metric == "pass_at_1"
    }
    best = max(range(1, 6), key=lambda step: (values[step], -step))
    kept = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert values[best] > values[6] and best < 5, "the case that this is about"
    assert kept == [f"step-{best:06d}", "step-000006"]


def test_an_evaluation_takes_the_checkpoint_it_is_told(tmp_path, capsys):
    words = ("regime=passk", "train.num_steps=3", "train.save_every=1", "eval.every=1")
    words += ("learner.lr=3e-3", "learner.schedule=constant", "diagnostics.every=0")
    run = tmp_path / "run"
    assert train(run, *words, "train.keep_last=9") == 0
    steps = best_steps(run)
    assert sorted(steps) == [0, 1, 2, 3] and steps[0] == 0, "step 0 has no checkpoint"
    for which, step in (("best", steps[1]), ("2", 2), ("last", 3)):
        out = tmp_path / which
        eval_words = ["eval", f'run="{run}"', f"checkpoint={which}", "eval.temperatures=[]"]
        assert main([*eval_words, f'hydra.run.dir="{out}"']) == 0
        name = f"step-{step:06d}.parquet"
        assert (out / "eval" / name).read_bytes() == (run / "eval" / name).read_bytes()
    capsys.readouterr()
    for word, says in (
        ("checkpoint=7", "checkpoint=7 is not among those of"),
        ("checkpoint=newest", "checkpoint=newest must be last, best or the number of a step"),
    ):
        assert main(["eval", f'run="{run}"', word, f'hydra.run.dir="{tmp_path}/none"']) == 2
        assert says in capsys.readouterr().err
    assert main(["eval", "checkpoint=best"]) == 2
    assert "checkpoint=best needs the run it belongs to" in capsys.readouterr().err
