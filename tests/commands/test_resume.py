"""A run that was stopped, killed or damaged and then resumed is the run that never was."""

import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
from datetime import date
from pathlib import Path

import pytest
import torch
from resuming import as_if_killed, assert_same_run, start, wait_for_lines
from safetensors.torch import load_file
from small_runs import metrics, snapshot, train

from passk.cli.main import main
from passk.cli.resume import prompt_day
from passk.learner.policy import TINY

STEPS = 6
LAST_ONLY = ("train.keep_last=1", "train.keep_best=0", "train.async_save=false")
RL = ("regime=hybrid", f"train.num_steps={STEPS}", "train.save_every=2", "train.keep_last=9")
RL += ("eval.every=2", "diagnostics.every=2", "learner.lr=1e-3")
SFT = ("regime=sft", f"train.num_steps={STEPS}", "train.save_every=2", "train.keep_last=9")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An RL run that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(run, *RL) == 0
    return run


@pytest.fixture
def stopped(whole, tmp_path) -> Path:
    """The same run as a kill after step 5 leaves it: the last checkpoint is that of step 4."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    as_if_killed(run, last_step=4)
    return run


def test_the_weights_move_so_that_identity_means_something(whole):
    first, last = (
        load_file(whole / "checkpoints" / f"step-{step:06d}" / "model.safetensors")
        for step in (2, STEPS)
    )
    assert not all(torch.equal(first[name], last[name]) for name in first)
    losses = [line["loss"] for line in metrics(whole)]
    assert len(set(losses)) == STEPS


def test_two_runs_are_identical(whole, tmp_path):
    assert train(tmp_path / "again", *RL) == 0
    assert_same_run(tmp_path / "again", whole, STEPS)


def test_resumed_run_is_identical(whole, stopped):
    assert train(stopped, *RL, "resume=true") == 0
    assert_same_run(stopped, whole, STEPS)
    assert json.loads((stopped / "manifest.json").read_text())["status"] == "finished"


def test_half_a_line_and_half_a_file_are_dropped(whole, stopped):
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:5]) + lines[5][:40])
    (stopped / "checkpoints" / ".step-000006.partial").mkdir()
    (stopped / "checkpoints" / ".step-000006.partial" / "model.safetensors").write_bytes(b"half")
    (stopped / "checkpoints" / ".step-000005.partial").mkdir()
    (stopped / "rollouts" / ".step-000005.parquet.partial").write_bytes(b"half")
    assert train(stopped, *RL, "resume=true") == 0
    assert_same_run(stopped, whole, STEPS)
    assert not list(stopped.rglob("*.partial"))


def test_run_without_a_checkpoint_starts_again(whole, stopped):
    as_if_killed(stopped, last_step=0)
    assert train(stopped, *RL, "resume=true") == 0
    assert_same_run(stopped, whole, STEPS)


def test_finished_run_may_be_resumed_and_stays_as_it_is(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    assert train(tmp_path / "run", *RL, "resume=true") == 0
    assert_same_run(tmp_path / "run", whole, STEPS)


@pytest.mark.parametrize("changed", ["learner.lr=0.5", "regime.k=3", "data.cue=1", "train.seed=1"])
def test_resuming_as_another_run_is_refused(stopped, capsys, changed):
    before = snapshot(stopped)
    assert train(stopped, *RL, changed, "resume=true", "eval.num_samples=12") == 2
    err = capsys.readouterr().err
    key = changed.split("=")[0]
    assert re.search(rf"^passk: resume=true with ({re.escape(key)}|eval\.\w+|data\.\w+)=", err)
    assert train(stopped, *RL, "learner.eps=1e-4", "resume=true") == 2
    assert "resume=true with learner.eps=0.0001" in capsys.readouterr().err
    assert snapshot(stopped) == before


def test_changed_learning_rate_is_named(stopped, capsys):
    assert train(stopped, *RL, "learner.lr=0.5", "resume=true") == 2
    err = capsys.readouterr().err
    assert err.startswith("passk: resume=true with learner.lr=0.5, but the run in ")
    assert "learner.lr=0.001" in err and err.count("\n") == 1


def test_what_changes_no_step_may_change(whole, stopped):
    assert train(stopped, *RL, "resume=true", "train.save_every=0", *LAST_ONLY) == 0
    assert_same_run(stopped, whole, STEPS)
    assert [p.name for p in (stopped / "checkpoints").iterdir()] == ["step-000006"]


def test_chat_templates_write_the_day_of_the_run_that_goes_on(tmp_path):
    """The manifest's, of the first directory that has one; without a date in prompts, today."""
    for name, facts in {
        "dated": {"start": "2024-05-06T23:59:59+00:00", "prompt_date": "2024-05-07"},
        "undated": {"start": "2023-01-02T03:04:05+00:00"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(facts))
    assert prompt_day(tmp_path / "undated", tmp_path / "dated") == date(2024, 5, 7)
    assert prompt_day(None, tmp_path / "undated") == prompt_day(tmp_path / "new") == date.today()


def test_empty_directory_cannot_be_resumed(tmp_path, capsys):
    assert train(tmp_path / "empty", *RL, "resume=true") == 2
    assert "holds no run to resume" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()


def test_sft_resumes_where_its_data_stood(tmp_path):
    """12 of 64 demonstrations a step: six steps end in the second pass over the corpus."""
    assert train(tmp_path / "whole", *SFT) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    as_if_killed(tmp_path / "run", last_step=4)
    assert train(tmp_path / "run", *SFT, "resume=true") == 0
    for run in (tmp_path / "whole", tmp_path / "run"):
        (run / "rollouts").mkdir()  # nothing is sampled
    assert_same_run(tmp_path / "run", tmp_path / "whole", STEPS)
    state = tmp_path / "run" / "checkpoints" / "step-000006" / "state.json"
    saved = json.loads(state.read_text())
    assert (saved["step"], saved["stream_position"]) == (6, 72)
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert len(set(losses)) == STEPS


LONG = 30
KILLED = ("regime=passk", f"train.num_steps={LONG}", "train.save_every=3", "eval.every=10")
KILLED += ("diagnostics.every=10", "rollout.save_every=1", "learner.lr=1e-3")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("long") / "run"
    assert train(run, *KILLED) == 0
    return run


def test_killed_run_resumes_to_the_same_end(long_run, tmp_path):
    run = tmp_path / "run"
    with start(run, *KILLED) as process:
        wait_for_lines(run, 11, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert json.loads((run / "manifest.json").read_text())["status"] == "running"
    assert 11 <= len(metrics(run)) < LONG
    assert train(run, *KILLED, "resume=true") == 0
    assert_same_run(run, long_run, LONG)
    assert not list(run.rglob("*.partial"))


def test_interrupt_saves_and_says_how_to_go_on(long_run, tmp_path, monkeypatch):
    run = tmp_path / "a=b, c"  # as a cell of a sweep is named, and with a space
    with start(run, *KILLED) as process:
        wait_for_lines(run, 8, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    line = assert_interrupted(run, out, err)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0
    assert_same_run(run, long_run, LONG)


def assert_interrupted(run: Path, out: str, err: str) -> str:
    """Saved at its last step, and said so; the command line that goes on."""
    done = len(metrics(run))
    assert 0 < done < LONG
    assert f"saved at step {done}" in out
    assert (run / "checkpoints" / f"step-{done:06d}").is_dir()
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    assert "Traceback" not in err
    found = re.search(r"^passk: interrupted; go on with: (passk train .* resume=true)$", err, re.M)
    assert found, err
    return found[1]


def test_sigterm_as_a_scheduler_sends_it(tmp_path, capfd):
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should it come late: harmless
    run = tmp_path / "run"

    def send_when_running() -> None:
        while not (run / "metrics.jsonl").is_file():
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send_when_running, daemon=True)
    try:
        sender.start()
        assert train(run, *KILLED) == 130
        handler_is_back = signal.getsignal(signal.SIGTERM).__name__ == "<lambda>"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert handler_is_back
    assert_interrupted(run, *capfd.readouterr())


@pytest.mark.parametrize("adapters", [(), ("model.lora_rank=2",)], ids=["whole", "adapters"])
def test_training_goes_on_with_the_model_it_started_from(tmp_path, capsys, adapters):
    """Before the first checkpoint, and with adapters also after it, model.path is read again."""
    folder, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(TINY, folder)
    words = (f"model.path={folder}", "train.num_steps=2", "train.save_every=1", "eval.every=0")
    words += ("diagnostics.every=0", *adapters)
    assert train(run, *words) == 0
    as_if_killed(run, last_step=1 if adapters else 0)
    settings = (folder / "generation_config.json").read_text()
    (folder / "generation_config.json").write_text('{"eos_token_id": [1, 4]}')
    capsys.readouterr()
    assert train(run, *words, "resume=true") == 2
    err = capsys.readouterr().err
    assert err.startswith("passk: resume=true, but generation_config.json of the model changed")
    (folder / "generation_config.json").write_text(settings)
    assert train(run, *words, "resume=true") == 0
    if not adapters:  # from a checkpoint on the run needs its start no more
        as_if_killed(run, last_step=1)
        started = json.loads((run / "manifest.json").read_text())
        shutil.rmtree(folder)
        assert train(run, *words, "resume=true") == 0
        assert "eval/distance.csv gets no further rows" in capsys.readouterr().out
        ended = json.loads((run / "manifest.json").read_text())
        assert ended["model_files"] == started["model_files"]
