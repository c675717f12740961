"""A user's own estimator: what it is given, what is refused, and that reports do not execute it."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_runs import assert_refused, snapshot

from passk.errors import UserError
from passk.objectives.advantages import Objective, dr_grpo, find_estimator

NAN = float("nan")
GOOD = """
from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Settings:
    scale: float = 2.0


def scaled(rewards):
    rewards -= np.nanmean(rewards, axis=1, keepdims=True)  # a copy: the caller's stay
    return Settings().scale * np.nan_to_num(rewards)


def of_batch(rewards):
    return np.nan_to_num(rewards - np.nanmean(rewards))


def by_place(rewards):
    return np.arange(rewards.shape[1]) * np.nan_to_num(rewards)


def as_lists(rewards):
    return np.nan_to_num(rewards).tolist()


def short(rewards):
    return rewards[:, 1:]


def untouched(rewards):
    return rewards


def not_zero(rewards):
    return np.ones_like(rewards)


def failing(rewards):
    raise RuntimeError("no\\nidea")


def words(rewards):
    return [["a"]]


number = 3
"""
REWARDS = np.array([[1.0, 0, 0, 1], [0, 0, 1, NAN]])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine (1).py"
    path.write_text(GOOD)
    return path


def advantages(file: Path, function: str) -> np.ndarray:
    return Objective(f"{file}:{function}").advantages(REWARDS)


def test_it_gets_a_copy_of_the_rewards_and_its_numbers_are_used(file):
    before = REWARDS.copy()
    np.testing.assert_array_equal(advantages(file, "scaled"), 2 * dr_grpo(REWARDS, 1))
    np.testing.assert_array_equal(REWARDS, before)
    np.testing.assert_array_equal(advantages(file, "as_lists"), np.nan_to_num(REWARDS))
    assert not find_estimator(f"{file}:scaled").uses_k


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("short", r"returned \[2, 3\] for rewards of \[2, 4\]"),
        ("untouched", r"returned nan at \[1, 3\]"),
        ("not_zero", r"must return 0 for samples that were not judged"),
        ("failing", r"failed on rewards of \[2, 4\]: RuntimeError: no idea$"),
        ("words", r"failed on rewards of \[2, 4\]: ValueError"),
        ("number", r"is not there: .* defines dataclass, Settings, scaled"),
        ("absent", r"is not there"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(file, function, says):
    with pytest.raises(UserError, match=says) as refused:
        advantages(file, function)
    assert str(refused.value).startswith(f"regime.estimator={file}:{function} ")
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_loaded_is_named(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("def f(:")
    for path, says in ((broken, "SyntaxError"), (tmp_path / "none.py", "FileNotFoundError")):
        with pytest.raises(UserError, match=f"{path}:f cannot be loaded: {says}"):
            advantages(path, "f")


def test_explain_shows_the_weight_of_functions_of_counts_alone(passk, file):
    ours = passk("explain", "regime=pass1", f"regime.estimator={file}:scaled", "explain.compare=[]")
    assert (ours.code, ours.err) == (0, "")
    assert "1.875 times the target at every p" in ours.out  # 2 (1 - 1/n) at n = 16
    for function in ("of_batch", "by_place"):
        refused = passk("explain", "regime=pass1", f"regime.estimator={file}:{function}")
        assert_refused(refused, "passk explain cannot show", f"{function}: it depends on more")


def test_a_run_uses_it_and_a_report_does_not_execute_it(passk, tmp_path, file):
    words = ["regime=pass1", f"regime.estimator={file.name}:scaled", "hydra.run.dir=run"]
    small = ["train.num_steps=2", "rollout.num_prompts=4", "rollout.num_samples=4"]
    small += ["eval.num_problems=4", "eval.num_samples=4", "eval.ks=[1]", "regime.k=1"]
    small += ["diagnostics.every=0", "eval.every=0", "train.save_every=1"]
    outcome = passk("train", *words, *small)
    assert outcome.code == 0, outcome.err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2 and json.loads(lines[0])["mean_weight"] is None
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert len(manifest["estimator_sha256"]) == 64
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["regime"]["estimator"] == f"{file}:scaled"  # absolute
    file.write_text(GOOD + "\nopen('executed', 'w')\n")
    again = passk("train", *words, *small, "resume=true")
    assert_refused(again, "the file of regime.estimator changed since the run")
    (tmp_path / "executed").unlink(missing_ok=True)  # training may execute what the user names
    report = passk("report", "run", "out=report")
    assert report.code == 0, report.err
    assert "executed" not in snapshot(tmp_path)


def test_training_refuses_it_before_anything_is_sampled(passk, tmp_path, file):
    words = ["regime=pass1", f"regime.estimator={file}:untouched", "hydra.run.dir=run"]
    assert_refused(passk("train", *words), "returned nan at", "use numbers")
    assert not (tmp_path / "run").exists()
    mixed = passk("train", f"regime.estimator={file}:scaled")
    assert_refused(mixed, "knows no k: it goes with regime.pass1_weight=1 only, not 0.7")
    assert_refused(passk("train", "regime.estimator=mine.py"), "is unknown", "FILE.py:FUNCTION")
