"""The distance of a run from its start: on disk, resumed, on two ranks, and without a trace."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from resuming import as_if_killed, assert_same_run
from small_runs import train
from transformers import AutoModelForCausalLM

from passk.config.compose import load_run_config
from passk.learner.policy import load_policy

STEPS = 4
WORDS = (f"train.num_steps={STEPS}", "train.save_every=2", "train.keep_last=9", "eval.every=2")
WORDS += ("diagnostics.every=0", "learner.lr=1e-3", "eval.num_distance_samples=3")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distance") / "run"
    assert train(folder, *WORDS) == 0
    return folder


def weights(folder) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return torch.cat([p.detach().double().flatten() for p in model.parameters()])


def test_every_evaluation_has_its_distance(run):
    table = pd.read_csv(run / "eval" / "distance.csv")
    assert table["step"].tolist() == [0, 2, 4]
    assert (table["num_problems"] == 8).all() and (table["num_samples"] == 3 * 8).all()
    start = table.iloc[0]
    assert start["kl_per_answer"] == start["distance"] == start["relative_distance"] == 0
    assert (table["entropy_per_answer"] > 0).all() and (table["kl_per_answer"].iloc[1:] > 0).all()
    per_token = table["kl_per_answer"] / table["kl_per_token"]
    per_token_too = table["entropy_per_answer"] / table["entropy_per_token"]
    np.testing.assert_allclose(per_token.iloc[1:], per_token_too.iloc[1:])  # tokens of an answer
    tiny = load_policy(load_run_config(run).model, "tiny", torch.device("cpu"))
    theta_0 = torch.cat([p.detach().double().flatten() for p in tiny.parameters()])
    theta = weights(run / "checkpoints" / "step-000004")
    assert table["distance"].iloc[-1] == pytest.approx(float((theta - theta_0).norm()), rel=1e-6)
    relative = float((theta - theta_0).norm() / theta_0.norm())
    assert table["relative_distance"].iloc[-1] == pytest.approx(relative, rel=1e-6)


def test_it_changes_nothing_else(run, tmp_path):
    words = [word for word in WORDS if "distance" not in word]
    assert train(tmp_path / "run", *words, "eval.num_distance_samples=0") == 0
    assert not (tmp_path / "run" / "eval" / "distance.csv").exists()
    end = "checkpoints/step-000004/model.safetensors"
    assert (run / end).read_bytes() == (tmp_path / "run" / end).read_bytes()
    table = "eval/table.csv"
    assert (run / table).read_bytes() == (tmp_path / "run" / table).read_bytes()


def test_a_resumed_run_measures_from_its_first_start(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    as_if_killed(copy, last_step=2)
    assert train(copy, *WORDS, "resume=true") == 0
    assert_same_run(copy, run, STEPS)


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_measure_as_one(run, tmp_path):
    assert train(tmp_path / "run", *WORDS, "learner.num_processes=2") == 0
    one, two = (pd.read_csv(p / "eval" / "distance.csv") for p in (run, tmp_path / "run"))
    np.testing.assert_allclose(two.iloc[0], one.iloc[0], atol=1e-5)
    np.testing.assert_allclose(two["distance"], one["distance"], rtol=1e-3)
