"""Sweeps: what a line may touch, what makes a cell, and all ways to ask for a sweep."""

import subprocess
import sys

import pytest
from small_runs import SMALL, assert_refused, snapshot

from passk.errors import UserError
from passk.files import only_writer
from passk.runs.ledger import (
    Cell,
    attempting,
    cell_file,
    end_attempt,
    plan,
    read_cell,
    read_ledger,
)

EXPLAIN = ("explain", "-m", "hydra.sweep.dir=sweep")  # its cells need no torch
MINE = "hydra.sweep.subdir=mine"
START = "2026-01-01T00:00:00.000+00:00"


def a_cell(name="a", *overrides, command="train", run_dir=None):
    return Cell(name, 0, command, overrides or (f"x={name}",), run_dir or name)


def codes(sweep):
    return {cell.name: [a.code for a in cell.attempts] for cell in read_ledger(sweep)}


def config_dir(folder, **options):
    """A folder for --config-dir with an option of `experiment` for each text."""
    (folder / "experiment").mkdir(parents=True)
    for name, text in options.items():
        (folder / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    return folder


# Directories: a cell removes and goes on with only what its own attempts made


@pytest.mark.parametrize("command", ["toy", "explain"])
def test_what_lies_in_a_cells_directory_is_never_removed(passk, tmp_path, command):
    notes = tmp_path / "sweep" / "mine" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    for _ in range(3):
        outcome = passk(command, "-m", "hydra.sweep.dir=sweep", MINE)
        assert outcome.code == 2 and "sweep/mine is not empty" in outcome.err
        assert snapshot(notes.parent) == {"notes.txt": b"mine"}
    assert codes(tmp_path / "sweep") == {"mine": [2, 2, 2]}


def test_what_came_after_a_refused_attempt_is_not_removed(passk, tmp_path):
    assert passk(*EXPLAIN, MINE, "regime.k=40").code == 2, "bad input: no directory is made"
    notes = tmp_path / "sweep" / "mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    assert passk(*EXPLAIN, MINE, "regime.k=40").code == 2
    assert snapshot(notes.parent) == {"notes.txt": b"mine"}


def test_a_run_of_someone_else_is_never_taken_for_the_cell(passk, tmp_path):
    assert passk("toy", "toy.k=5", "hydra.run.dir=sweep/a").code == 0
    before = snapshot(tmp_path / "sweep" / "a")
    for _ in range(2):
        outcome = passk("toy", "-m", "toy.k=7", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=a")
        assert outcome.code == 2 and "sweep/a is not empty" in outcome.err
    assert snapshot(tmp_path / "sweep" / "a") == before
    assert codes(tmp_path / "sweep") == {"a": [2, 2]}


def test_nor_in_a_job_that_slurm_runs_again(passk, tmp_path, monkeypatch):
    words = [*SMALL, "train.num_steps=1", "eval.every=0", "diagnostics.every=0"]
    assert passk("train", *words, "hydra.run.dir=sweep/a").code == 0
    before = snapshot(tmp_path / "sweep" / "a")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    outcome = passk("train", "-m", *words, "hydra.sweep.dir=sweep", "hydra.sweep.subdir=a")
    assert outcome.code == 2 and "sweep/a is not empty" in outcome.err
    assert snapshot(tmp_path / "sweep" / "a") == before


KILLED = """
import os, signal, sys
from pathlib import Path
from passk.cli.sweep.runner import be_cell

def run(words):
    Path(sys.argv[2]).mkdir()
    Path(sys.argv[2], "half.txt").write_text("written")
    os.kill(os.getpid(), signal.SIGKILL)

be_cell(f"{sys.argv[1]}:{os.getppid()}", [], run)
"""


def test_what_a_killed_attempt_left_is_removed(passk, tmp_path):
    """A SIGKILL of the cell and of its sweep: nobody writes down how it ended."""
    sweep = tmp_path / "sweep"
    plan(sweep, [a_cell("mine", "regime.k=2", command="explain")])
    file, run_dir = cell_file(sweep, "mine"), sweep / "mine"
    words = [sys.executable, "-c", KILLED, str(file), str(run_dir)]
    assert subprocess.run(words, check=False).returncode == -9
    assert (run_dir / "half.txt").is_file() and read_cell(file).owns_dir
    assert passk(*EXPLAIN, "regime.k=2").code == 0
    assert codes(sweep) == {"mine": [None, 0]}
    assert (run_dir / "explain.md").is_file() and not (run_dir / "half.txt").exists()


def test_what_a_killed_attempt_left_stays_while_another_process_writes_there(passk, tmp_path):
    sweep = tmp_path / "sweep"
    plan(sweep, [a_cell("mine", "regime.k=2", command="explain")])
    file, run_dir = cell_file(sweep, "mine"), sweep / "mine"
    words = [sys.executable, "-c", KILLED, str(file), str(run_dir)]
    assert subprocess.run(words, check=False).returncode == -9
    with only_writer(run_dir):  # as an evaluation by hand
        refused = passk(*EXPLAIN, "regime.k=2")
        assert (run_dir / "half.txt").read_text() == "written"
    assert refused.code == 2 and "another process still writes in" in refused.err
    assert codes(sweep) == {"mine": [None, 2]}
    assert passk(*EXPLAIN, "regime.k=2").code == 0
    assert (run_dir / "explain.md").is_file() and not (run_dir / "half.txt").exists()


def test_a_directory_is_a_cells_own_from_when_it_was_free(tmp_path):
    plan(tmp_path, [a_cell()])
    file = cell_file(tmp_path, "a")
    with attempting(file):
        assert read_cell(file).owns_dir
    assert not end_attempt(file, 2, "refused").owns_dir, "nothing was made"
    with attempting(file):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").touch()
    assert end_attempt(file, -9, "killed").owns_dir
    with attempting(file):
        assert read_cell(file).owns_dir


@pytest.mark.parametrize(
    "subdir", ["{tmp}/else", "../else", "a/../../else", "ledger/a", "a/..", "''"]
)
def test_a_directory_outside_the_sweep_is_refused(passk, tmp_path, subdir):
    (tmp_path / "else").mkdir()
    typed = subdir.format(tmp=tmp_path)
    says = f"hydra.sweep.subdir={typed.strip(chr(39))} cannot be the directory of a cell; allowed"
    assert_refused(passk(*EXPLAIN, f"hydra.sweep.subdir={typed}"), says)
    assert snapshot(tmp_path) == {"else": None}


# What makes a cell


def test_a_taken_name_is_marked_and_directories_do_not_overlap(tmp_path):
    plan(tmp_path, [a_cell("a_b", "x=1", run_dir="a/b")])
    planned = plan(
        tmp_path, [a_cell("a_b", "x=2", run_dir="a_b"), a_cell("a_b", "x=3", run_dir="c")]
    )
    assert [cell.name for cell in planned] == ["a_b'", "a_b''"]
    before = snapshot(tmp_path)
    for run_dir, says in (
        ("a", "a lies in or around a/b, the directory of another cell: it has x=1 where"),
        ("a_b/c", "a_b/c lies in or around a_b, the directory of another cell"),
        ("c", "c is the directory of another cell: it has x=3 where this line has x=4; choose"),
    ):
        with pytest.raises(UserError, match=says):
            plan(tmp_path, [a_cell("new", "x=4", run_dir=run_dir)])
    assert snapshot(tmp_path) == before


def test_a_finished_cell_is_not_forgotten_for_one_of_its_name(passk, tmp_path):
    for subdir, k in (("a+b/c", 2), ("a+b_c", 4)):
        line = (*EXPLAIN, f"hydra.sweep.subdir={subdir}", f"regime.k={k}")
        assert passk(*line).code == 0
    cells = {cell.name: cell for cell in read_ledger(tmp_path / "sweep")}
    assert {name: cell.run_dir for name, cell in cells.items()} == {
        "a+b_c": "a+b/c",
        "a+b_c'": "a+b_c",
    }
    assert codes(tmp_path / "sweep") == {"a+b_c": [0], "a+b_c'": [0]}


def test_cells_of_two_commands_are_two(tmp_path):
    cells = [a_cell("a", "x=1"), a_cell("b", "x=1", command="eval")]
    assert [cell.name for cell in plan(tmp_path, cells)] == ["a", "b"]
    assert [cell.name for cell in plan(tmp_path, cells[::-1])] == ["b", "a"]
    assert len(read_ledger(tmp_path)) == 2


def test_a_config_dir_makes_a_cell(passk, tmp_path):
    """However it is typed; and two of them with the same words are two sweeps."""
    for name, p in (("one", 0.1), ("two", 0.2)):
        config_dir(tmp_path / name, mine=f"explain:\n  p: [{p}]")
    words = ["+experiment=mine", "regime.k=2"]
    whole = str(tmp_path / "one")
    for typed in (["--config-dir", "one"], ["--config-dir=one"], ["-cd", "one"], ["-cd", whole]):
        outcome = passk("explain", "-m", words[0], *typed, words[1])
        assert (outcome.code, outcome.err) == (0, "")
    (sweep,) = (tmp_path / "outputs" / "explain").iterdir()
    assert codes(sweep) == {"cell": [0]}
    assert "| 0.1 |" in (sweep / "cell" / "explain.md").read_text()
    assert passk("explain", "-m", *words, "--config-dir=two").code == 0
    assert len(list((tmp_path / "outputs" / "explain").iterdir())) == 2

    assert_refused(
        passk("explain", "-m", *words, "--config-dir=two", f"hydra.sweep.dir={sweep}"),
        "cell is the directory of another cell: it has --config-dir=",
    )
    assert_refused(passk("explain", "-m", "-cd", "three"), "--config-dir=three is not a directory")


def test_status_tells_the_lines_whose_cells_are_left(passk, tmp_path):
    for values in ("regime.k=40,41", "regime.k=40", "regime.k=2,4", "regime.k=42,2"):
        passk(*EXPLAIN, values)
    told = passk("sweep", "status", "sweep").out.splitlines()
    line = "go on with the same line: passk explain -m hydra.sweep.dir=sweep"
    assert [words for words in told if words.startswith("go on")] == [
        f"{line} regime.k=40,41",
        f"{line} regime.k=42,2",
    ]


SWEPT = "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      regime.k: 2,4"
# A line, the end of its directory, and the words of its cells in the order of their numbers.
PLANS = [
    (
        "train -m regime.k=choice(2,4) regime.pass1_weight=0.5,0.7 train.seed=3",
        "train/sweep-k-pass1_weight-b0138c84",
        [f"regime.k={k} regime.pass1_weight={w} train.seed=3" for k in (2, 4) for w in (0.5, 0.7)],
    ),
    (
        "train -m train.seed=range(0,3)",
        "train/sweep-seed-0045078e",
        ["train.seed=0", "train.seed=1", "train.seed=2"],
    ),
    (
        "train -m regime=glob(*,exclude=p*)",
        "train/sweep-regime-826ffbe5",
        [f"regime={name}" for name in ("adaptive_k", "curriculum", "hybrid", "sft")],
    ),
    (
        "train -m regime=passk,hybrid ++train.seed=0,1 sweep.retries=0",
        "train/sweep-seed-regime-45b77cb2",
        [f"regime={name} ++train.seed={seed}" for name in ("passk", "hybrid") for seed in (0, 1)],
    ),
    ("train -m +train.x=1,2", "train/sweep-x-18637388", ["+train.x=1", "+train.x=2"]),
    ("train -m eval.ks=[1,2],[1,4]", "train/sweep-ks-521a4e58", ["eval.ks=[1,2]", "eval.ks=[1,4]"]),
    (
        "train -m regime.k=2,4 train.seed=1 regime.k=8,16",
        "train/sweep-k-k-ffae7cf0",
        ["regime.k=8 train.seed=1", "regime.k=16 train.seed=1"],
    ),
    (
        "train -m ~tracker regime.k=2,4",
        "train/sweep-k-459eb701",
        ["~tracker=null regime.k=2", "~tracker=null regime.k=4"],
    ),
    (
        "explain regime.pass1_weight=0.5,0.9 +experiment=swept --config-dir=more",
        "",
        [
            f"FOLDER regime.k={k} regime.pass1_weight={w} +experiment=swept"
            for k in (2, 4)
            for w in (0.5, 0.9)
        ],
    ),
    (
        "explain -m -cd more +experiment=glob(m?ne*)",
        "",
        ["FOLDER +experiment=mine", "FOLDER +experiment=mine2"],
    ),
    (
        "explain -m +experiment=mine -cd=more hydra.searchpath=[pkg://passk]",
        "",
        ["FOLDER +experiment=mine"],
    ),
]


@pytest.mark.parametrize(("line", "directory", "words"), PLANS)
def test_cells_are_numbered_as_hydra_does(passk, tmp_path, monkeypatch, line, directory, words):
    mine = "explain:\n  p: [0.1]"
    folder = config_dir(tmp_path / "more", swept=SWEPT, mine=mine, mine2=mine)
    monkeypatch.setattr("passk.cli.sweep.plan.Crew.run", lambda crew, cells: False)
    outcome = passk(*line.split())
    assert (outcome.code, outcome.err) == (1, "")
    (sweep,) = (tmp_path / "outputs" / line.split()[0]).iterdir()
    cells = read_ledger(sweep)
    assert [cell.number for cell in cells] == list(range(len(words)))
    folders = f"--config-dir={folder}"
    assert [" ".join(cell.overrides).replace(folders, "FOLDER") for cell in cells] == words
    assert str(sweep).endswith(directory)


# Launchers, sweepers, and ways to ask for a sweep


def test_cells_that_run_beside_others_have_a_log_each(passk, tmp_path):
    outcome = passk(*EXPLAIN, "regime.k=2,4", "sweep.num_parallel=2")
    assert outcome.code == 0 and "Pass@" not in outcome.out.split("| cell |")[0]
    for k in (2, 4):
        log = tmp_path / "sweep" / "ledger" / f"regime.k={k}.log"
        assert log.read_text().startswith(f"# 0.7 Pass@1 + 0.3 Pass@{k} ")


@pytest.mark.parametrize("word", ["hydra.mode=MULTIRUN", "++hydra.mode='MULTIRUN'", "--multi"])
def test_every_way_to_ask_for_a_sweep_keeps_a_ledger(passk, tmp_path, word):
    assert passk("explain", "regime.k=2,4", word, "hydra.sweep.dir=sweep").code == 0
    assert codes(tmp_path / "sweep") == {"regime.k=2": [0], "regime.k=4": [0]}


def test_a_file_may_ask_for_a_sweep_and_say_over_what(passk, tmp_path):
    config_dir(tmp_path / "more", swept=SWEPT)
    line = ["explain", "+experiment=swept", "hydra.sweep.dir=sweep", "--config-dir=more"]
    assert passk(*line).code == 0
    assert codes(tmp_path / "sweep") == {"regime.k=2": [0], "regime.k=4": [0]}
    assert passk(line[0], "regime.k=8", *line[1:]).code == 0, "what is typed goes first"
    assert len(codes(tmp_path / "sweep")) == 3


def test_what_is_typed_for_the_sweeper_is_refused(passk, tmp_path):
    for word in ("+hydra.sweeper.params={regime.k: '2,4'}", "hydra.sweeper.max_batch_size=2"):
        says = f"{word} cannot be typed; write what is swept as key=value,value"
        assert_refused(passk(*EXPLAIN, word), says)
    assert snapshot(tmp_path) == {}


def test_another_sweeper_is_refused(passk, tmp_path):
    more = config_dir(tmp_path / "more")
    (more / "hydra" / "sweeper").mkdir(parents=True)
    (more / "hydra" / "sweeper" / "odd.yaml").write_text("_target_: some.Thing\n")
    before = snapshot(tmp_path)
    assert_refused(
        passk(*EXPLAIN, "hydra/sweeper=odd", "--config-dir=more"),
        "hydra/sweeper=odd chooses cells as it goes",
        "allowed: basic",
    )
    assert snapshot(tmp_path) == before
