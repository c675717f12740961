"""Sweeps whose cells are jobs, several tasks of Slurm, and jobs that Slurm runs again."""

import json
import signal
import subprocess
import sys

import pytest
from resuming import as_if_killed
from small_runs import SMALL, assert_refused, metrics, train, without_times

from passk.cli.sweep.runner import Crew, HowToRun
from passk.cli.sweep.slurm import is_one_of_ranks
from passk.errors import UserError
from passk.runs.ledger import Cell, plan, read_ledger

SHORT = ("train.num_steps=2", "eval.every=0", "diagnostics.every=0")
CELLS = "hydra.sweep.subdir=cell-${hydra.job.num}"
RANKS = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
LOCAL = "hydra/launcher=submitit_local"


def metrics_of(run):
    return without_times(metrics(run))


def test_cells_that_are_jobs_leave_what_cells_here_leave(passk, tmp_path):
    """And the sweep ends as it would here: the same exit code, the same sentences."""
    words = [*SMALL, *SHORT, "regime.k=2,9", CELLS]
    here = passk("train", "-m", *words, "hydra.sweep.dir=here")
    jobs = passk("train", "-m", *words, "hydra.sweep.dir=jobs", LOCAL)
    assert here.code == 2 and here.err.startswith("passk: cell cell-1: regime.k=9 with rollout.")
    assert here.err.splitlines() == here.err.splitlines()[:1] * 2
    manifest = json.loads((tmp_path / "here" / "cell-0" / "manifest.json").read_text())
    assert manifest["status"] == "finished", "it goes on past a bad cell"
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["cell-0", "ledger"]
    assert (jobs.code, jobs.err) == (2, here.err)
    assert jobs.out.startswith(
        "passk: each cell is a job; what it prints is in .submitit/ of the sweep's directory\n"
    )
    assert metrics_of(tmp_path / "jobs" / "cell-0") == metrics_of(tmp_path / "here" / "cell-0")
    files, also = (
        {str(path.relative_to(sweep)) for path in sweep.glob("cell-*/**/*")}
        for sweep in (tmp_path / "here", tmp_path / "jobs")
    )
    assert also == files and "cell-0/manifest.json" in files


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([LOCAL], ["hydra/launcher=submitit_local", "add -m"]),
        (["-m", "hydra/launcher=submitit_slurm"], ["finds no Slurm here", "submitit_local"]),
        (["-m", LOCAL, "hydra.launcher.tasks_per_node=2"], ["tasks_per_node=2", "torchrun"]),
        (["-m", LOCAL, "hydra.launcher.nodes=2"], ["hydra.launcher.nodes=2", "torchrun"]),
        (["-m", LOCAL, "hydra.launcher.partitions=a"], ["hydra.launcher.partitions is not a key"]),
        (["-m", "hydra/launcher=slurm"], ["hydra/launcher=slurm is unknown", "submitit_slurm"]),
        (["-m", "hydra/launcher=joblib"], ["joblib is not", "basic (sweep.num_parallel=N runs N"]),
        (["-m", "hydra/launcher=ray"], ["ray is not", "submitit_local, submitit_slurm"]),
    ],
)
def test_what_no_job_can_do_is_refused(passk, tmp_path, monkeypatch, words, says):
    monkeypatch.setenv("PATH", "")
    assert_refused(passk("train", *words, *SMALL, "hydra.sweep.dir=sweep"), *says)
    assert not (tmp_path / "sweep" / ".submitit").exists()


def test_a_job_whose_time_is_over_lets_its_cell_save(tmp_path, monkeypatch):
    """submitit asks for the job again, and ends it by an exception from its signal handler."""
    (cell,) = plan(tmp_path, [Cell("a", 0, "train", ("x=1",), "a")])
    monkeypatch.setattr(Crew, "_start", lambda *_: subprocess.Popen(["sleep", "60"]))
    before = signal.signal(signal.SIGALRM, lambda *_: sys.exit(-1))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    how = HowToRun(tmp_path, 1, 1, [])
    with pytest.raises(SystemExit):
        Crew(how).run([cell])
    signal.signal(signal.SIGALRM, before)
    assert [attempt.code for attempt in read_ledger(tmp_path)[0].attempts] == [130]


LEFT_OVER = [
    ({"WORLD_SIZE": "abc", "RANK": "0"}, "WORLD_SIZE=abc and RANK=0 do not name a rank of a run"),
    ({"WORLD_SIZE": "2", "RANK": "2"}, "WORLD_SIZE=2 and RANK=2 do not name a rank of a run"),
    ({"WORLD_SIZE": "2", "RANK": "-1"}, "do not name a rank of a run"),
    ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE=2 and RANK=0 are set, but not MASTER_ADDR"),
    ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": ""}, "not MASTER_PORT"),
    (RANKS | {"LOCAL_RANK": "x"}, "LOCAL_RANK=x is no number"),
]


@pytest.mark.parametrize(("environment", "says"), LEFT_OVER)
def test_what_is_left_over_of_ranks_is_refused(environment, says):
    with pytest.raises(UserError, match=says):
        is_one_of_ranks(environment)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "", "RANK": ""},
        {"WORLD_SIZE": "abc"},
        {"WORLD_SIZE": "2"},
        {"RANK": "0"},
        {"RANK": "abc"},
        {"WORLD_SIZE": "1", "RANK": "0"},
    ],
)
def test_what_names_no_ranks_is_one_process(environment):
    assert not is_one_of_ranks(environment)
    assert is_one_of_ranks(RANKS)


def test_a_missing_extra_is_named(passk, tmp_path, monkeypatch):
    monkeypatch.setattr("passk.cli.sweep.slurm.find_spec", lambda name: None)
    outcome = passk("train", "-m", *SMALL, "hydra/launcher=submitit_slurm")
    assert_refused(
        outcome,
        "needs hydra-submitit-launcher, which is not installed: pip install 'passk-rl[slurm]'",
    )
    assert not list(tmp_path.iterdir())


def test_tasks_that_would_all_do_the_same_run_are_refused_once(passk, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert_refused(passk("train", *SMALL), "srun started 4 tasks", "srun torchrun")
    monkeypatch.setenv("SLURM_PROCID", "3")
    outcome = passk("train", *SMALL)
    assert (outcome.code, outcome.err) == (2, "")
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert passk("train", *SMALL, *SHORT).code == 0


def test_a_job_that_slurm_runs_again_goes_on_by_itself(tmp_path, monkeypatch, capsys):
    words = (*SHORT, "train.num_steps=4", "train.save_every=2")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert train(tmp_path / "whole", *words) == 0, "it was stopped before it had begun"
    subprocess.run(["cp", "-r", tmp_path / "whole", tmp_path / "run"], check=True)
    as_if_killed(tmp_path / "run", 2)
    monkeypatch.delenv("SLURM_RESTART_COUNT")
    assert train(tmp_path / "run", *words) == 2
    assert "is not empty" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert train(tmp_path / "run", *words) == 0
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    assert train(tmp_path / "run", *words, "learner.lr=1e-5") == 2, "another run"
