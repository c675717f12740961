"""`passk reproduce` with runs side by side: the same numbers, and what ends them before their time.

Each test starts workers, which import torch.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import assert_ended, descendants
from small_runs import SMALL, assert_refused, in_subprocess, metrics, without_times

from passk.cli.commands import reproduce
from passk.cli.main import main
from passk.cli.workers import Piece, _ready
from passk.config.commands import ReproduceConfig
from passk.config.schema import LearnerConfig, ModelConfig, RolloutConfig, TrainConfig
from passk.learner.policy import TINY

REGIMES = ("pass1", "passk")
WORDS = (
    *SMALL,
    "regimes=[pass1,passk]",
    "train.num_steps=20",
    "sft_steps=3",
    "rollout.save_every=0",
    "eval.every=0",
    "alignment_prompts=12",
    "alignment_samples=8",
    "learner.lr=1e-3",
    "rollout.max_new_tokens=24",
)


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory):
    """One run after another, in this process."""
    root = tmp_path_factory.mktemp("in_turn") / "run"
    words = ["num_parallel=1", f"hydra.run.dir={root}"]
    assert main(["reproduce", *WORDS, *words]) == 0
    return root


def start(tmp_path, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "passk", "reproduce", *WORDS, "hydra.run.dir=run", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(root, count, process):
    """Wait until both regimes of the first seed have made so many steps."""
    deadline = time.monotonic() + 180
    files = [root / "seed-0" / name / "metrics.jsonl" for name in REGIMES]
    while not all(file.is_file() and file.read_bytes().count(b"\n") >= count for file in files):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def status(root, name):
    return json.loads((root / "seed-0" / name / "manifest.json").read_text())["status"]


def assert_same_seed(root, in_turn):
    for name in ("alignment.csv", "kernel.csv"):
        mine, theirs = (at / "seed-0" / name for at in (root, in_turn))
        assert mine.read_bytes() == theirs.read_bytes()
    for name in ("sft", *REGIMES):
        mine, theirs = (at / "seed-0" / name for at in (root, in_turn))
        assert without_times(metrics(mine)) == without_times(metrics(theirs))
        assert (mine / "eval/table.csv").read_bytes() == (theirs / "eval/table.csv").read_bytes()


def test_side_by_side_gives_the_numbers_of_one_after_another(in_turn, tmp_path):
    done = in_subprocess(["reproduce", *WORDS, "num_parallel=2", "hydra.run.dir=run"], tmp_path)
    assert (done.code, done.err) == (0, "")
    root = tmp_path / "run"
    assert (root / "table.csv").read_bytes() == (in_turn / "table.csv").read_bytes()
    assert_same_seed(root, in_turn)
    for name in REGIMES:
        assert f"seed-0/{name}: {name} 20/20  reward" in done.out


def assert_goes_on(root, in_turn):
    """To the same end; one after another here, which is quicker than to start workers."""
    kept = (root / "seed-0" / "sft" / "manifest.json").read_bytes()
    words = ["num_parallel=1", f"hydra.run.dir={root}", "resume=true"]
    assert main(["reproduce", *WORDS, *words]) == 0
    assert (root / "seed-0" / "sft" / "manifest.json").read_bytes() == kept
    assert_same_seed(root, in_turn)


def test_interrupted_side_by_side_all_save_and_the_printed_line_goes_on(in_turn, tmp_path):
    root = tmp_path / "run"
    with start(tmp_path, "num_parallel=2") as process:
        wait_for_steps(root, 2, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert {status(root, name) for name in REGIMES} <= {"interrupted", "finished"}
    assert "saved at step" in out and "Traceback" not in err, err
    assert re.search(r"^seed-0/pass[1k]: SIGINT: finishing this step", err, re.M), err
    line = re.search(r"^passk: interrupted; go on with: passk (.*)$", err, re.M)
    assert line is not None, err
    words = ["reproduce", *WORDS, "num_parallel=2", f'hydra.run.dir="{root}"']
    assert shlex.split(line[1]) == [*words, "resume=true"]
    assert_goes_on(root, in_turn)


def test_runs_save_and_end_with_the_command_that_is_killed(in_turn, tmp_path):
    root = tmp_path / "run"
    with start(tmp_path, "num_parallel=2") as process:
        wait_for_steps(root, 2, process)
        workers = descendants(process.pid)
        process.kill()
        process.communicate()
    assert_ended(workers, within=60)
    assert {status(root, name) for name in REGIMES} <= {"interrupted", "finished"}
    assert_goes_on(root, in_turn)


# Pieces that need no torch


def side_by_side(what, folder):
    """What pieces print, and the notes of those that began."""
    done = subprocess.run(
        [sys.executable, "-m", "pieces", what, str(folder)],
        cwd=Path(__file__).parents[1] / "support",
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    notes = [line.split() for line in (folder / "notes.txt").read_text().splitlines()]
    return done, notes


def test_pieces_wait_for_the_one_they_need_and_their_lines_have_names(tmp_path):
    done, notes = side_by_side("nothing", tmp_path)
    assert sorted(note[0] for note in notes) == ["first", "p0", "p1", "p2", "ready", "ready"]
    assert sorted(done.stdout.splitlines()) == [
        f"{n}: half a line" for n in ("first", "p0", "p1", "p2")
    ]
    assert done.stdout.startswith("first: ")
    assert done.stderr.count(": from another process\n") == 4
    slots = {slot for name, _, slot in notes if name == "ready"}
    assert slots == {"a", "b"}, "each worker has its own"
    assert len({pid for _, pid, _ in notes}) == 2, "and takes several pieces"


@pytest.mark.parametrize(
    ("harm", "raised"),
    [
        ("diverges", "Diverged: harmed: the loss is not finite"),
        ("breaks", "RankFailure: harmed: failed; see its traceback (ValueError: a mistake)"),
        ("is killed", "RankFailure: harmed: its process was killed by SIGKILL; resume=true goes"),
    ],
)
def test_an_error_lets_the_others_save_and_is_raised_with_its_name(tmp_path, harm, raised):
    done, notes = side_by_side(harm, tmp_path)
    assert done.stdout.startswith(f"harmed failed; the others save and stop\nraised {raised}")
    assert (tmp_path / "long.saved").exists()
    assert "never" not in {note[0] for note in notes}
    assert ("harmed: ValueError: a mistake" in done.stderr) == (harm == "breaks")


# How many at a time


def pieces(seeds=1):
    return [
        Piece(f"{seed}/{name}", print, None if name == "sft" else f"{seed}/sft")
        for seed in range(seeds)
        for name in ("sft", "alignment", *REGIMES)
    ]


def test_what_others_need_begins_first():
    waiting = pieces(seeds=3)
    first = _ready(waiting, [])
    assert [piece.name for piece in first] == ["0/sft", "1/sft", "2/sft"]
    left = [piece for piece in waiting if piece.name not in ("0/sft", "1/sft")]
    names = [
        piece.name for piece in _ready(left, [piece for piece in first if piece.name[0] == "1"])
    ]
    assert names == ["2/sft", "0/alignment", "0/pass1", "0/passk"]


def num_slots(seeds=1, **settings):
    cfg = ReproduceConfig(**settings)
    run_cfg = TrainConfig(model=cfg.model, learner=LearnerConfig(device="cpu"), rollout=cfg.rollout)
    return len(reproduce._slots(cfg, run_cfg, pieces(seeds)))


def test_small_models_take_a_core_each_and_others_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert num_slots(seeds=9) == 5
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert (num_slots(), num_slots(seeds=9)) == (3, 6), "no worker without work"
    assert num_slots(seeds=9, num_threads=4) == 1
    assert num_slots(seeds=9, num_threads=3) == 2
    assert num_slots(seeds=9, num_parallel=20) == 20
    assert num_slots(seeds=9, rollout=RolloutConfig(engine="vllm")) == 1
    config = json.loads((TINY / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 1024}))
    large = ModelConfig(path=str(tmp_path))
    assert num_slots(seeds=9, model=large) == 1
    assert num_slots(seeds=9, model=large, num_parallel=2) == 2


def test_no_run_at_a_time_is_refused(passk):
    outcome = passk("reproduce", *WORDS, "num_parallel=0")
    assert_refused(outcome, "num_parallel=0", "at least 1")
