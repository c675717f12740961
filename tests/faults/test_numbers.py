"""Numbers that are none, answers that hang, workers that are killed: told, counted or repaired."""

import json
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from answers import worker_pids
from faults import Losses, losses, without_paths
from formulas import formulas
from safetensors.torch import load_file, save_file
from small_runs import SMALL, metrics, train
from torch.optim import AdamW

from passk.learner.policy import TINY

TWO = "learner.num_processes=2"
# Diverges really: the first step throws the weights so far off that the next gradient is NaN.
DIVERGES = ("regime=sft", "learner.lr=1e30", "train.num_steps=8", "train.save_every=1")


@pytest.mark.parametrize("processes", [(), (TWO,)], ids=["one process", "two ranks"])
def test_divergence_is_told_once(matrix, is_whole_matrix, tmp_path, capfd, processes):
    run = tmp_path / "run"
    # Resumed too: nothing but another learning rate can help it.
    for words in ((), ("resume=true",))[: 2 if is_whole_matrix or not processes else 1]:
        assert train(run, *DIVERGES, *processes, *words) == 1
        err = capfd.readouterr().err
        assert err.startswith("passk: step 1: the loss is ") and err.count("\n") == 1, err
        assert "the run has diverged; the steps before it are kept" in err
        assert json.loads((run / "manifest.json").read_text())["status"] == "failed"
        (line,) = metrics(run)
        assert line["step"] == 0 and math.isfinite(line["loss"])
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000001"]
    name = f"NaN in a loss, {'two ranks' if processes else 'one process'} (stops)"
    matrix.add(name, Losses(0, 0), without_paths(err.strip(), run))


def test_weights_that_are_no_numbers_are_refused(matrix, tmp_path, capfd):
    shutil.copytree(TINY, tmp_path / "model")
    for value in (math.nan, math.inf):
        tensors = load_file(TINY / "model.safetensors")
        tensors["model.norm.weight"].view(-1)[7] = value
        save_file(tensors, tmp_path / "model" / "model.safetensors", {"format": "pt"})
        assert train(tmp_path / "run", f"model.path={tmp_path}/model") == 2
        err = capfd.readouterr().err
        assert err.startswith("passk: the model in ") and err.count("\n") == 1
        assert "its weights hold NaN or infinity" in err
        assert not (tmp_path / "run").exists()
    said = without_paths(err.strip(), tmp_path)
    matrix.add("NaN in the starting weights (stops)", Losses(0, 0), said, tried=2)


@pytest.mark.parametrize("num_checks", [1000, 0])
def test_a_policy_that_breaks_on_the_way_stops_the_run(tmp_path, capfd, monkeypatch, num_checks):
    """All its samples are wrong then, no group has an advantage, and no loss would be NaN."""
    step_of = AdamW.step

    def breaking(self, *arguments):
        step_of(self, *arguments)
        if self.param_groups[0]["lr"] < 1e-4:  # the third step
            self.param_groups[0]["params"][-1].data.fill_(math.nan)

    monkeypatch.setattr(AdamW, "step", breaking)
    words = ("learner.lr=1.5e-4", "train.num_steps=4", "regime=passk", "diagnostics.every=0")
    assert train(tmp_path / "run", *words, f"rollout.num_synced_checks={num_checks}") == 1
    err = capfd.readouterr().err
    says = "the learner's model" if num_checks else "the policy's log-probabilities are not"
    assert err.startswith(f"passk: step 3: {says}") and err.count("\n") == 1, err
    assert len(metrics(tmp_path / "run")) == (2 if num_checks else 3)


def train_on_formulas(run: Path, *words: str) -> int:
    """SMALL without the sizes of the embedded task, which a file does not have."""
    from passk.cli.main import main

    small = [word for word in SMALL if not word.startswith("data.num_")]
    return main(["train", *small, *words, f'hydra.run.dir="{run}"'])


def test_golds_that_hang_are_counted_and_the_run_goes_on(matrix, is_whole_matrix, tmp_path):
    words = (*formulas(tmp_path, 1), "verifier.timeout_seconds=2", "rollout.num_samples=2")
    words += ("train.num_steps=2", "eval.every=0", "diagnostics.every=0")
    runs = [tmp_path / name for name in ("one", "other")[: 1 + is_whole_matrix]]
    for run in runs:
        assert train_on_formulas(run, *words) == 0
    for line in metrics(runs[0]):
        reasons = line["reasons"]
        assert 1 <= reasons["timeout"] <= 2 and "error" not in reasons
        assert sum(reasons.values()) == 24 and reasons["correct"] > 0
        assert line["unjudged_fraction"] == pytest.approx(reasons["timeout"] / 24)
    found = losses(runs[-1], runs[0], 2)
    matrix.add(
        "a check that its gold answer hangs",
        found,
        "nothing: `timeout` is counted, no reward",
        tried=2,
    )
    assert worker_pids(os.getpid()) == []


def kill_while_judging(run: Path, after_steps: list[int]) -> list[int]:
    """From a thread of its own: each time that so many steps are done, kill every worker once.

    While it runs, in the state R: one that waits for a task sleeps.
    """
    killed: list[int] = []

    def kill() -> None:
        file = run / "metrics.jsonl"
        for count in after_steps:
            while not file.is_file() or file.read_bytes().count(b"\n") < count:
                time.sleep(0.001)
            waiting = set(worker_pids(os.getpid()))
            while waiting:
                for pid in list(waiting):
                    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    if stat[0] == "R":
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        waiting.remove(pid)

    threading.Thread(target=kill, daemon=True).start()
    return killed


def test_a_worker_killed_while_it_judges_costs_nothing(matrix, is_whole_matrix, tmp_path):
    words = (*formulas(tmp_path, 0), "verifier.timeout_seconds=60", "train.num_steps=8")
    words += ("eval.every=4", "diagnostics.every=0", "train.save_every=3")
    assert train_on_formulas(tmp_path / "whole", *words) == 0
    killed = kill_while_judging(tmp_path / "run", [1, 3, 5] if is_whole_matrix else [2])
    assert train_on_formulas(tmp_path / "run", *words) == 0
    assert len(killed) == len(set(killed)) == (6 if is_whole_matrix else 2)
    found = losses(tmp_path / "run", tmp_path / "whole", 8)
    assert found == Losses(0, 0)
    said = "nothing: the answer is judged again by another"
    matrix.add("SIGKILL of a worker of verifier=math", found, said, tried=len(killed))
    assert worker_pids(os.getpid()) == []
