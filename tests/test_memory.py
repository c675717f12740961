"""Running out of memory for real, and what is said about it; and how much is free."""

import math
import os

import pytest
import torch
from small_runs import train

from passk.errors import UserError
from passk.learner.learner import Learner
from passk.memory import _free_in_container, free_bytes, memory_advice
from passk.rollout.torch_sampler import TorchSampler


def test_an_allocation_that_fails_names_the_settings():
    with pytest.raises(UserError) as caught, memory_advice("learner"):
        torch.empty(2**50, dtype=torch.float32)
    sentence = str(caught.value)
    assert sentence.startswith("out of memory in the learner (")
    for key in ("max_tokens_per_batch", "gradient_checkpointing=true", "compute_dtype"):
        assert f"learner.{key}" in sentence
    assert "model.lora_rank" in sentence and "\n" not in sentence


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_the_classes_for_it_are_known(error):
    expected = pytest.raises(UserError, match=r"^out of memory in the rollout .*memory_gib")
    with expected, memory_advice("rollout"):
        raise error


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="inconsistent"), memory_advice("learner"):
        torch.ones(2) @ torch.ones(3)


@pytest.mark.parametrize(
    ("owner", "method", "key"),
    [(Learner, "update", "learner.max_tokens_per_batch"), (TorchSampler, "sample", "rollout.")],
)
def test_a_run_that_meets_the_end_of_memory_says_so(
    tmp_path, capsys, monkeypatch, owner, method, key
):
    monkeypatch.setattr(owner, method, lambda *_: torch.empty(2**50))
    assert train(tmp_path / "run", "train.num_steps=1", "eval.every=0", "diagnostics.every=0") == 2
    err = capsys.readouterr().err
    assert err.startswith("passk: out of memory in the ") and key in err
    assert err.count("\n") == 1


def test_free_memory_is_less_than_there_is():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**20 < free_bytes(torch.device("cpu")) < total


def test_free_memory_of_a_container_is_what_its_limit_leaves(tmp_path):
    assert _free_in_container(tmp_path) == math.inf
    (tmp_path / "memory.stat").write_text("anon 400\nfile 900\nshmem 0\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert _free_in_container(tmp_path) == math.inf
    (tmp_path / "memory.max").write_text("1000\n")
    assert _free_in_container(tmp_path) == 600
    (tmp_path / "memory.max").write_text("300\n")
    assert _free_in_container(tmp_path) == 0
