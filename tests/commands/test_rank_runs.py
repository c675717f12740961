"""Whole runs on several ranks: the same run as on one, and one that ends well when it must end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rank_runs import STEPS, TWO, WORDS, assert_same_up_to_rounding, ranks_of
from resuming import as_if_killed, assert_same_run, start, wait_for_lines
from small_runs import SMALL, metrics, snapshot, train

from passk.cli.main import main

LONG = ("train.num_steps=400", "train.save_every=1000", "eval.every=0", "diagnostics.every=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, forked_ranks) -> tuple[Path, Path]:
    """The same run on one rank and on two."""
    root = tmp_path_factory.mktemp("ranks")
    assert train(root / "one", *WORDS) == 0
    assert train(root / "two", *WORDS, TWO) == 0
    return root / "one", root / "two"


def test_two_ranks_make_the_run_of_one(runs):
    one, two = runs
    assert_same_up_to_rounding(one, two)
    assert metrics(one)[0]["grad_norm"] == pytest.approx(metrics(two)[0]["grad_norm"], rel=1e-5)
    names = {path.name for path in one.iterdir()}
    assert {path.name for path in two.iterdir()} == names, "one directory, written by one rank"
    assert json.loads((two / "manifest.json").read_text())["status"] == "finished"


@pytest.mark.parametrize("first", [0, 1], ids=["from one to two", "from two to one"])
def test_a_checkpoint_resumes_on_another_number_of_ranks(runs, tmp_path, first):
    run = tmp_path / "run"
    subprocess.run(["cp", "-r", runs[first], run], check=True)
    as_if_killed(run, 2)
    processes = () if first else (TWO,)
    assert train(run, *WORDS, *processes, "resume=true") == 0
    assert_same_up_to_rounding(runs[0], run)


def test_ranks_that_torchrun_started_join(runs, tmp_path):
    words = [*SMALL, *WORDS, f'hydra.run.dir="{tmp_path}/run"']
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "-m", "passk", "train", *words],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{STEPS}/{STEPS}") == 1, "one rank prints"
    assert_same_up_to_rounding(runs[0], tmp_path / "run")


def test_an_evaluation_on_two_ranks_has_the_same_samples_and_tables(runs, tmp_path):
    words = [
        "eval",
        f'run="{runs[0]}"',
        "eval.chunk_size=3",
        "eval.temperatures=[0]",
        "num_threads=1",
    ]
    assert main([*words, f'hydra.run.dir="{tmp_path}/one"']) == 0
    assert main([*words, TWO, f'hydra.run.dir="{tmp_path}/two"']) == 0
    assert snapshot(tmp_path / "one" / "eval") == snapshot(tmp_path / "two" / "eval")
    for file in sorted((tmp_path / "one" / "samples").iterdir()):
        rows, also = (
            pd.read_parquet(file),
            pd.read_parquet(tmp_path / "two" / "samples" / file.name),
        )
        pd.testing.assert_frame_equal(rows, also, atol=1e-4)
    last = max((tmp_path / "two" / "samples").iterdir())
    last.unlink()
    assert main([*words, TWO, f'hydra.run.dir="{tmp_path}/two"', "resume=true"]) == 0
    assert last.exists()
    assert snapshot(tmp_path / "one" / "eval") == snapshot(tmp_path / "two" / "eval")


def test_what_does_not_run_under_torchrun_says_so(monkeypatch, capsys):
    group = {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **group}.items():
        monkeypatch.setenv(name, value)
    for words in (["reproduce"], ["train", "-m", "regime.k=2,4"], ["report"]):
        assert main(words) == 2
        assert "run under torchrun; start this by itself" in capsys.readouterr().err


def test_sigterm_saves_and_says_how_to_go_on_once(tmp_path):
    run = tmp_path / "run"
    with start(run, *LONG, TWO) as process:
        wait_for_lines(run, 3, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=180)
    assert process.returncode == 130, err
    done = len(metrics(run))
    assert 3 <= done < 400 and f"saved at step {done}" in out
    assert err.count("go on with: passk train") == 1 and err.count("SIGTERM") == 1, err
    assert json.loads((run / "manifest.json").read_text())["status"] == "interrupted"
    more = f"train.num_steps={done + 2}"
    assert train(run, *LONG, TWO, more, "resume=true") == 2  # another length is another run


KILLED = (*LONG, "train.num_steps=60", "train.save_every=5", TWO)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, forked_ranks) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(run, *KILLED) == 0
    return run


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_rank_ends_the_run_with_a_sentence(undisturbed, tmp_path, number):
    run = tmp_path / "run"
    with start(run, *KILLED) as process:
        wait_for_lines(run, 11, process)
        pids = ranks_of(process)
        os.kill(pids[number], signal.SIGKILL)
        _, err = process.communicate(timeout=180)
    assert process.returncode == 1
    assert re.search(rf"^passk: rank {number} was killed by SIGKILL; resume=true goes on", err), err
    assert "Traceback" not in err
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "ranks are left"
        time.sleep(0.05)
    assert train(run, *KILLED, "resume=true") == 0
    assert_same_run(run, undisturbed, 60)


def test_what_every_rank_refuses_is_said_once(tmp_path):
    words = ["train", *SMALL, TWO, "rollout.max_new_tokens=100000", f"hydra.run.dir={tmp_path}/run"]
    done = subprocess.run(
        [sys.executable, "-m", "passk", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("passk: ") and done.stderr.count("\n") == 1, done.stderr
    assert "rollout.max_new_tokens" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rollout=torch"], "rollout.tensor_parallel=2 needs rollout.engine=vllm"),
        (["rollout=vllm"], "rollout.tensor_parallel=2 does not divide the number of ranks"),
    ],
)
def test_an_engine_that_cannot_be_shared_is_refused(tmp_path, capsys, words, says):
    assert train(tmp_path / "run", *words, "rollout.tensor_parallel=2") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
