"""Sweeps: the ledger, cells as processes, the same line again, launchers, kills."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from small_runs import SMALL, assert_refused, in_subprocess, metrics, snapshot, without_times

from passk.cli.main import main
from passk.cli.sweep.runner import slot_environments
from passk.errors import UserError
from passk.runs.ledger import (
    Attempt,
    Cell,
    attempting,
    cell_file,
    end_attempt,
    plan,
    read_cell,
    read_ledger,
    state,
    write_cell,
)

QUICK = ("explain", "-m", "regime=passk", "hydra.sweep.dir=sweep")  # cells that need no torch
TRAIN = ("train", "-m", *SMALL, "regime.pass1_weight=0.5,0.9", "diagnostics.every=0")
TRAIN += ("train.save_every=1", "rollout.save_every=1", "eval.every=0", "hydra.sweep.dir=sweep")


def a_cell(name="a", *overrides, run_dir=None, attempts=()):
    return Cell(name, 0, "train", overrides or (f"x={name}",), run_dir or name, tuple(attempts))


def an_attempt(code=None, seconds=5):
    start = "2026-01-01T00:00:00.000+00:00"
    end = None if code is None else f"2026-01-01T00:00:{seconds:02d}.000+00:00"
    return Attempt(start, "here", 1, end, code)


def ledger(sweep):
    return {cell.name: cell for cell in read_ledger(sweep)}


def attempts(sweep):
    return {name: [a.code for a in cell.attempts] for name, cell in ledger(sweep).items()}


# The ledger


def test_a_plan_knows_cells_by_their_overrides(tmp_path):
    first = plan(tmp_path, [a_cell("a"), a_cell("b")])
    write_cell(tmp_path, Cell("a", 0, "train", ("x=a",), "a", (an_attempt(0),)))
    again = plan(tmp_path, [a_cell("c"), a_cell("other name", "x=a"), a_cell("b"), a_cell("b")])
    assert [cell.name for cell in again] == ["c", "a", "b"]
    assert [cell.number for cell in again] == [2, 0, 1] and again[1].is_finished
    assert [cell.name for cell in read_ledger(tmp_path)] == ["a", "b", "c"]
    assert [cell.number for cell in first] == [0, 1]


def test_a_directory_of_another_cell_is_refused_and_nothing_is_planned(tmp_path):
    plan(tmp_path, [a_cell("a", "k=2", "lr=1")])
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="it has lr=1 where this line has lr=2"):
        plan(tmp_path, [a_cell("new"), a_cell("a", "k=2", "lr=2")])
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([], "waiting"),
        ([1, 0], "finished"),
        ([130], "interrupted"),
        ([None], "interrupted"),
        ([2], "failed"),
        ([0, -9], "failed"),
    ],
)
def test_states(tmp_path, codes, expected):
    assert state(tmp_path, a_cell(attempts=map(an_attempt, codes))) == expected


def test_an_attempt_holds_its_lock_and_writes_its_end_once(tmp_path):
    plan(tmp_path, [a_cell()])
    file = cell_file(tmp_path, "a")
    with attempting(file) as has_work:
        assert has_work and state(tmp_path, read_cell(file)) == "running"
    assert state(tmp_path, read_cell(file)) == "interrupted", "no word of its end"
    end_attempt(file, 1, "a reason")
    end_attempt(file, 0, "too late")
    assert [(a.code, a.sentence) for a in read_cell(file).attempts] == [(1, "a reason")]
    with attempting(file):
        end_attempt(file, 0, "")
    with attempting(file) as has_work:
        assert not has_work
    assert len(read_cell(file).attempts) == 2


def test_a_damaged_ledger_is_named(tmp_path, passk):
    plan(tmp_path / "sweep", [a_cell()])
    cell_file(tmp_path / "sweep", "a").write_text('{"name": "a"}')
    assert_refused(passk("sweep", "status", "sweep"), "a.json is not a cell of a sweep's ledger")


@pytest.mark.parametrize(
    ("num_parallel", "environment", "expected"),
    [
        (2, {"CUDA_VISIBLE_DEVICES": "0,1,2,5"}, ["0,2", "1,5"]),
        (3, {"CUDA_VISIBLE_DEVICES": "4,7"}, ["4", "7", "4"]),
        (1, {"CUDA_VISIBLE_DEVICES": "0,1"}, ["0,1"]),
    ],
)
def test_cells_share_the_gpus(num_parallel, environment, expected):
    shares = slot_environments(num_parallel, environment)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == expected


def test_gpus_are_counted_by_nvidia_smi_and_else_cores_are_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    threads = slot_environments(2, {})
    assert threads == [{"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}] * 2
    assert slot_environments(2, {"OMP_NUM_THREADS": "3"}) == [{}, {}]
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0; echo 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    shares = slot_environments(2, {})
    assert shares == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


# Cells as processes


def test_the_same_line_again_runs_what_is_left(passk, tmp_path):
    line = [*QUICK, "regime.k=2,40,4", "sweep.num_parallel=2"]
    refused = passk(*line)
    assert refused.code == 2
    assert refused.err.splitlines() == [refused.err.splitlines()[0]] * 2, "at once, and at the end"
    assert "cell regime.k=40: regime.k=40 with rollout.num_samples=16" in refused.err
    expected = {"regime.k=2": [0], "regime.k=40": [2], "regime.k=4": [0]}
    assert attempts(tmp_path / "sweep") == expected, "and bad input is not tried again"
    assert list((tmp_path / "sweep" / "regime.k=4").iterdir())
    assert not (tmp_path / "sweep" / "regime.k=40").exists()
    assert "the same line again goes on" in refused.out

    before = snapshot(tmp_path / "sweep" / "regime.k=2")
    again = passk(*line)
    assert (again.code, attempts(tmp_path / "sweep")) == (2, expected | {"regime.k=40": [2, 2]})
    assert "passk: 3 cells, 2 finished before" in again.out
    assert snapshot(tmp_path / "sweep" / "regime.k=2") == before

    more = passk(*QUICK, "regime.k=2,8")
    assert (more.code, more.err) == (0, "")
    assert list(attempts(tmp_path / "sweep"))[-1] == "regime.k=8"
    shown = passk("sweep", "status", "sweep")
    assert shown.code == 0 and "4 cells: 1 failed, 3 finished" in shown.out
    assert "go on with the same line: passk explain -m regime=passk" in shown.out


def test_lines_find_their_own_directory(passk, tmp_path):
    words = ["explain", "-m", "regime=passk", "explain.p=[0.1,0.5]"]
    assert passk(*words, "regime.k=2").code == 0
    assert passk(*words, "regime.k=2", "sweep.retries=0").code == 0, "the same sweep"
    assert passk(*words, "regime.k=3").code == 0
    sweeps = list((tmp_path / "outputs" / "explain").iterdir())
    assert len(sweeps) == 2
    assert [list(attempts(sweep)) for sweep in sweeps] == [["cell"], ["cell"]]
    assert [list(attempts(sweep).values()) for sweep in sweeps] == [[[0]], [[0]]]


def test_names_of_cells_are_short_and_their_own(passk, tmp_path):
    long = ",".join(f"{'a' * 200}{i}" for i in (1, 2))
    line = ["eval", "-m", f"run=a/b,a_b,{long}", "hydra.sweep.dir=evals", "sweep.num_parallel=2"]
    assert passk(*line).code == 2, "there are no such runs"
    assert "0 of" not in passk("sweep", "status", "evals").out, "steps are of training"
    names = list(attempts(tmp_path / "evals"))
    assert names[:2] == ["run=a_b", "run=a_b'"]
    assert len(set(names)) == 4 and all(len(name) < 140 for name in names)


def test_a_line_that_is_no_configuration_is_refused_whole(passk, tmp_path):
    for words, says in (
        (["regime.k=2,many"], "regime.k"),
        (["regime.kk=2,4"], "regime.kk is not a key"),
        (["regime.k=2,4", "sweep.num_parallel=0"], "sweep.num_parallel=0"),
        (["regime.k=2,4", "sweep.parallel=2"], "did you mean sweep.num_parallel?"),
        (["regime.k=2,4", "hydra/launcher=submitit_local", "sweep.num_parallel=2"], "its own keys"),
        (["regime.k=2,4", "hydra.verbose=true,false"], "hydra.verbose=true,false sweeps over"),
        (["regime.k=2,4", "--info"], "--info is no option of a sweep"),
    ):
        assert_refused(passk("train", "-m", *SMALL, *words), says)
    assert snapshot(tmp_path) == {}


def test_status_of_what_is_no_sweep(passk, tmp_path):
    assert_refused(passk("sweep", "status", "nowhere"), "nowhere is not the directory of a sweep")
    for words in (["sweep"], ["sweep", "status"], ["sweep", "stop", "x"]):
        assert_refused(passk(*words), "passk sweep takes: status DIR")


def test_jobs_leave_the_same_ledger(tmp_path):
    """Each cell is a process of its own there too, and a refused one stops none."""
    local = "hydra/launcher=submitit_local"
    outcome = in_subprocess([*QUICK, "regime.k=2,40", local], tmp_path)
    assert outcome.code == 2
    assert attempts(tmp_path / "sweep") == {"regime.k=2": [0], "regime.k=40": [2]}
    assert outcome.err.count("cell regime.k=40: regime.k=40 with") == 2
    pids = {cell.last.pid for cell in ledger(tmp_path / "sweep").values()}
    assert len(pids) == 2 and os.getpid() not in pids
    again = in_subprocess([*QUICK, "regime.k=2", local], tmp_path)
    assert again.code == 0
    assert attempts(tmp_path / "sweep")["regime.k=2"] == [0]


# Runs that are killed


def start(tmp_path, *words):
    return subprocess.Popen(
        [sys.executable, "-m", "passk", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_steps(run, count, process):
    file, deadline = run / "metrics.jsonl", time.monotonic() + 180
    while not file.is_file() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def same_runs(tmp_path, names, whole):
    for name in names:
        there = without_times(metrics(tmp_path / "sweep" / name))
        assert there == without_times(metrics(whole / name))
        for file in ("eval/table.csv", "eval/step-000030.parquet"):
            ended = (tmp_path / "sweep" / name / file).read_bytes()
            assert ended == (whole / name / file).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The two runs of `TRAIN`, each in this process."""
    whole = tmp_path_factory.mktemp("undisturbed")
    single = [word for word in TRAIN[2:] if not word.startswith(("regime.pass1", "hydra."))]
    for weight in ("0.5", "0.9"):
        name = f"regime.pass1_weight={weight}"
        words = [name, "train.num_steps=30", f'hydra.run.dir="{whole / name}"']
        assert main(["train", *single, *words]) == 0
    return whole


def test_a_sweep_killed_with_its_cell_goes_on_to_the_same_end(undisturbed, passk, tmp_path):
    """SIGKILL of the sweep while its first cell trains: the cell saves and ends, none is lost."""
    line = [*TRAIN, "train.num_steps=30"]
    names = [f"regime.pass1_weight={weight}" for weight in ("0.5", "0.9")]
    with start(tmp_path, *line) as sweep:
        wait_for_steps(tmp_path / "sweep" / names[0], 4, sweep)
        during = in_subprocess(["sweep", "status", "sweep"], tmp_path)
        sweep.kill()
        sweep.communicate()
    assert "1 waiting, 1 running" in during.out, during
    again = passk(*line)
    assert again.code == 0, again.err
    codes = attempts(tmp_path / "sweep")
    assert codes == {names[0]: [130, 0], names[1]: [0]}
    same_runs(tmp_path, names, undisturbed)
    assert passk(*line).code == 0 and attempts(tmp_path / "sweep") == codes, "none is run twice"


def test_a_killed_cell_is_tried_again_and_ctrl_c_lets_all_save(undisturbed, tmp_path):
    """First a cell is killed, and goes on at once; then the sweep gets SIGINT; then the rest."""
    line = [*TRAIN, "train.num_steps=30", "sweep.num_parallel=2"]
    names = [f"regime.pass1_weight={weight}" for weight in ("0.5", "0.9")]
    with start(tmp_path, *line) as sweep:
        wait_for_steps(tmp_path / "sweep" / names[0], 3, sweep)
        os.kill(ledger(tmp_path / "sweep")[names[0]].last.pid, signal.SIGKILL)
        while len(ledger(tmp_path / "sweep")[names[0]].attempts) < 2:
            assert sweep.poll() is None, sweep.communicate()
            time.sleep(0.01)
        wait_for_steps(tmp_path / "sweep" / names[1], 5, sweep)
        sweep.send_signal(signal.SIGINT)
        out, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 130, (out, err)
    assert "was killed by SIGKILL (the system may be short of memory)" in err
    codes = attempts(tmp_path / "sweep")
    assert codes[names[0]][0] == -9 and all(c[-1] in (0, 130) for c in codes.values())
    assert in_subprocess(line, tmp_path).code == 0
    assert all(c[-1] == 0 and c.count(0) == 1 for c in attempts(tmp_path / "sweep").values())
    same_runs(tmp_path, names, undisturbed)


def test_a_cell_whose_end_was_not_written_down_is_not_run_again(undisturbed, passk, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "sweep")
    line = [*TRAIN, "train.num_steps=30"]
    words = [word for word in line[2:] if not word.startswith(("regime.pass1", "hydra."))]
    for number, name in enumerate(("regime.pass1_weight=0.5", "regime.pass1_weight=0.9")):
        cell = Cell(name, number, "train", (*words, name), name, (an_attempt(),), owns_dir=True)
        write_cell(tmp_path / "sweep", cell)
    before = snapshot(tmp_path / "sweep" / name)
    assert passk(*line).code == 0
    assert list(attempts(tmp_path / "sweep").values()) == [[None, 0], [None, 0]]
    assert snapshot(tmp_path / "sweep" / name) == before
