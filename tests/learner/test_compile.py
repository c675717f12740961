"""Compiled layers learn what the others learn, from batches of any shape."""

import copy
import json

import pytest
import torch
from gradient_cases import CASES, assert_as_one_process
from random_models import model_of
from rank_work import gradients, measured, some_rows
from small_runs import SMALL, assert_refused, in_subprocess
from torch._dynamo.utils import counters

from passk.cli.launch import launch
from passk.cli.main import main
from passk.config.schema import LearnerConfig, ModelConfig
from passk.errors import UserError
from passk.learner.batch import TokenRow
from passk.learner.learner import Learner
from passk.learner.lora import add_adapters

COMPILED = {"compile": True}
SAVING = {"gradient_checkpointing": True, "max_tokens_per_batch": 100}


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch.compiler.reset()
    counters.clear()


def learners(name: str, options: dict, lora_rank: int = 0) -> tuple[Learner, Learner]:
    """The same model, as it is and compiled."""
    model = model_of(name)
    add_adapters(model, ModelConfig(lora_rank=lora_rank), seed=0)
    for parameter_name, parameter in model.named_parameters():
        if ".lora_B." in parameter_name:
            torch.nn.init.normal_(parameter, std=0.1)
    return tuple(
        Learner(copy.deepcopy(model), LearnerConfig(**options | extra), 10, 1.0)
        for extra in ({}, COMPILED)
    )


@pytest.mark.parametrize(
    ("name", "options", "lora_rank"), [("llama", {}, 0), ("gemma3", SAVING, 0), ("gpt2", SAVING, 4)]
)
def test_the_gradient_is_the_same(name, options, lora_rank):
    plain, compiled = learners(name, options, lora_rank)
    for rows in (some_rows(20), some_rows(3)):
        expected, found = measured(plain, rows), measured(compiled, rows)
        assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
        assert found[1] == pytest.approx(expected[1], rel=1e-5)
        gradient, also = torch.tensor(expected[2]), torch.tensor(found[2])
        assert (also - gradient).norm() <= 1e-5 * gradient.norm()
    assert counters["stats"]["unique_graphs"] > 0, "nothing was compiled"


def test_in_bfloat16_it_is_as_near_to_float32():
    plain, compiled = learners("llama", {"compute_dtype": "bfloat16"}, 4)
    exact, _ = learners("llama", {}, 4)
    gradient, *others = (learner.gradient(some_rows(20)) for learner in (exact, plain, compiled))
    off, also_off = ((other - gradient).norm() / gradient.norm() for other in others)
    assert 0 < also_off <= 1.5 * off


def test_many_shapes_are_few_compilations():
    plain, compiled = learners("llama", {})
    for length in (2, 3, 5, 8, 13):
        for count in (1, 2, 5, length):
            rows = [TokenRow((3,) * length, (4,) * length, (0.5,)) for _ in range(count)]
            expected = plain.gradient(rows)
            assert (compiled.gradient(rows) - expected).norm() <= 1e-5 * expected.norm()
    assert 1 <= counters["stats"]["unique_graphs"] <= 6  # rows and trees are fed differently
    assert not counters["recompile_limit"] and not counters["graph_break"]


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_compute_what_one_does(tmp_path):
    out, settings = tmp_path / "found.json", (COMPILED, COMPILED | SAVING)
    launch(gradients, 2, str(out), {"tiny": "tiny"}, settings, list(CASES.values()))
    for setting in json.loads(out.read_text()).values():
        assert_as_one_process(setting, "tiny")


def test_without_a_compiler_it_is_refused_with_a_sentence(tmp_path):
    words = ["train", *SMALL, "learner.compile=true", f"hydra.run.dir={tmp_path}/run"]
    outcome = in_subprocess(words, tmp_path, PATH=str(tmp_path))
    assert_refused(outcome, "learner.compile=true, but torch.compile does not work on cpu here")
    assert not (tmp_path / "run").exists()


def test_layers_that_cannot_be_compiled_are_refused():
    model = model_of("llama")
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(UserError, match=r"learner\.compile=true, but Llama"):
        Learner(model, LearnerConfig(compile=True), 10, 1.0)


def test_a_compiled_run_is_not_resumed_without(tmp_path, capsys):
    words = ["train", *SMALL, "train.num_steps=2", "eval.every=0", "diagnostics.every=0"]
    words += [f"hydra.run.dir={tmp_path}/run"]
    assert main([*words, "learner.compile=true"]) == 0
    assert main([*words, "resume=true"]) == 2
    assert "learner.compile=False" in capsys.readouterr().err
