"""Files that are whole or not there, in the right order on the disk, and one writer in a folder."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from passk import files
from passk.cli.resume import refuse_changes
from passk.config.schema import ConventionsConfig, TrainConfig
from passk.errors import UserError
from passk.files import recorded
from passk.learner import checkpoint_writer
from passk.learner.checkpoint import checkpoints, last_checkpoint, saved_step
from passk.runs.writer import Run
from passk.types import Problem

HOLD = """
import sys
from pathlib import Path
from passk.files import missing_folders, only_writer
folder = Path(sys.argv[1])
with only_writer(folder, missing_folders(folder)):
    print("in", flush=True)
    sys.stdin.read()
"""
ENTER_AND_LEAVE = """
import os, random, sys, time
from pathlib import Path
from passk.files import missing_folders, only_writer
from passk.errors import UserError
folder, inside, until = Path(sys.argv[1]), Path(sys.argv[2]), time.monotonic() + 2
entered = 0
while time.monotonic() < until:
    made = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)  # as Hydra does
    try:
        with only_writer(folder, made):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another is in it
            entered += 1
            time.sleep(random.random() / 500)
            inside.unlink()
    except UserError:
        pass
print(entered)
"""

STARTER = """
import multiprocessing, sys, time
from pathlib import Path
from passk import files

def be_rank(locks, folder):
    files.keep(locks)
    with files.only_writer(folder):
        print("a rank is in", flush=True)
    while not (folder / "end").exists():
        time.sleep(0.01)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with files.only_writer(folder):
        words = (files.locks_held(), folder)
        rank = multiprocessing.get_context("spawn").Process(target=be_rank, args=words)
        rank.start()
        rank.join()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that is in `tmp_path/a/run`, a folder that it made."""
    folder = tmp_path / "a" / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    yield process, folder
    process.kill()
    process.wait()
    process.stdout.close()


def refused(folder: Path) -> None:
    with (
        pytest.raises(UserError, match="another process still writes in"),
        files.only_writer(folder),
    ):
        raise AssertionError("two are in it")


def test_a_second_writer_is_refused_by_whatever_name_and_removes_nothing(
    holder, tmp_path, monkeypatch
):
    process, folder = holder
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "to_parent").symlink_to(folder.parent)
    monkeypatch.chdir(tmp_path)
    names = ("a/run", "./a/../a/run", "link", "to_parent/run", str(folder))
    for name in names * 3:  # the first refusal once removed the folder, and the lock with it
        refused(Path(name))
    assert [path.name for path in folder.iterdir()] == [files.LOCK]
    process.stdin.close()
    process.wait()
    assert not (tmp_path / "a").exists(), "what was made and is empty goes"


def test_a_folder_that_was_there_stays_though_it_is_empty(tmp_path):
    with files.only_writer(tmp_path / "a" / "new"):
        (tmp_path / "a" / "kept").mkdir()
    assert (tmp_path / "a" / "kept").is_dir() and not (tmp_path / "a" / "new").exists()
    with files.only_writer(tmp_path / "a" / "kept"):
        pass
    assert list((tmp_path / "a" / "kept").iterdir()) == []


def test_sigkill_lets_go(holder):
    process, folder = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert files.is_free(folder), "its lock file alone is no content"
    with files.only_writer(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_never_two_at_once_though_each_removes_the_folder(tmp_path):
    words = [sys.executable, "-c", ENTER_AND_LEAVE, tmp_path / "a" / "b", tmp_path / "inside"]
    crowd = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    entered = [int(process.communicate()[0]) for process in crowd]
    assert all(process.returncode == 0 for process in crowd)
    assert sum(entered) > 50


def test_a_writer_is_not_kept_out_by_itself(tmp_path):
    with files.only_writer(tmp_path), files.only_writer(tmp_path / "." / ""):
        assert (tmp_path / files.LOCK).is_file()
    assert not (tmp_path / files.LOCK).exists()


def test_a_rank_goes_on_holding_the_lock_of_who_started_it(tmp_path):
    """As `cli/launch.py` hands it over: a killed starter frees nothing as long as a rank writes."""
    script, folder = tmp_path / "starter.py", tmp_path / "run"
    script.write_text(STARTER)
    starter = subprocess.Popen([sys.executable, script, folder], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None and starter.stdout.readline() == "a rank is in\n"
    starter.kill()
    starter.wait()
    refused(folder)
    (folder / "end").touch()
    deadline = time.monotonic() + 60
    while True:
        try:
            with files.only_writer(folder):
                break
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_folder_that_cannot_be_written_in_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", Path("/proc/nothing/run")):
        with pytest.raises(UserError, match=f"{folder} cannot be written in: "):
            files.only_writer(folder).__enter__()


class Cuts:
    """Records what reaches the disk, and in which order, of the real calls below a folder.

    Names change in the order of the calls, as file systems with a journal have it; the content of
    a file is certain only as far as it was synced.
    """

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.states: list[dict[str, tuple[bytes, bytes | None]]] = []
        self._synced: dict[int, bytes] = {}  # by inode
        for module, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (os, "mkdir")):
            monkeypatch.setattr(module, name, self._recorded(name, getattr(module, name)))

    def _recorded(self, name: str, call):
        def recorded(*arguments, **named):
            self._note()
            done = call(*arguments, **named)
            self.calls.append(name)
            if name == "fsync" and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                file = Path(f"/proc/self/fd/{arguments[0]}").resolve()
                self._synced[os.fstat(arguments[0]).st_ino] = file.read_bytes()
            self._note()
            return done

        return recorded

    def _note(self) -> None:
        self.states.append(
            {
                str(path.relative_to(self.folder)): (
                    path.read_bytes(),
                    self._synced.get(path.stat().st_ino),
                )
                for path in self.folder.rglob("*")
                if path.is_file()
            }
        )

    def after_power_cuts(self) -> Iterator[dict[str, bytes]]:
        """Each folder that a power cut may leave: what was not synced is lost, or cut anywhere."""
        seen = set()
        for state in self.states:
            for part in (0.0, 0.3, 0.7, 1.0):
                left = {
                    name: content if content == synced else _cut(content, synced or b"", part)
                    for name, (content, synced) in state.items()
                }
                if (key := tuple(sorted(left.items()))) not in seen:
                    seen.add(key)
                    yield left


def _cut(content: bytes, synced: bytes, part: float) -> bytes:
    """An appended file keeps what was synced of it, and some of the rest."""
    kept = len(synced) if content.startswith(synced) else 0
    return content[: kept + int(part * (len(content) - kept))]


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    cuts = Cuts(tmp_path, monkeypatch)
    files.write_text(tmp_path / "file", "old")
    files.write_text(tmp_path / "file", "new")
    assert cuts.calls == ["fsync", "replace", "fsync"] * 2
    found = {left.get("file") for left in cuts.after_power_cuts()}
    assert found == {None, b"old", b"new"}


def test_without_fsync_the_recorder_sees_a_file_that_is_cut(tmp_path, monkeypatch):
    """So that the tests here can fail."""
    monkeypatch.setattr(files, "sync", lambda path: None)
    cuts = Cuts(tmp_path, monkeypatch)
    files.write_text(tmp_path / "file", "new content")
    assert b"" in {left.get("file") for left in cuts.after_power_cuts()}


def test_whatever_a_power_cut_leaves_of_a_run_resumes(tmp_path, monkeypatch):
    """A run of three steps with its real files; each folder it may leave is read as resuming does.

    The steps before its last checkpoint are there once each, in metrics, tables and rollouts.
    """
    cfg = TrainConfig(data=ConventionsConfig(name="conventions"))
    run_dir = tmp_path / "run"
    cuts = Cuts(run_dir, monkeypatch)
    run = Run(run_dir, "train", 0)
    run.start(cfg, ["regime=hybrid"])
    run.write_problems(train=[Problem("a", "1+1=", "2")])
    table = pd.DataFrame({"k": [1], "value": [0.5]})
    counts = pd.DataFrame({"problem_id": ["a"], "kind": [""], "n": [4], "c": [2]})
    for step in range(3):
        rows = {"table": table.assign(ci_low=0.4, ci_high=0.6, num_problems=1, num_samples=4)}
        run.write_eval(step, counts, rows)
        run.log({"step": step, "grad_norm": 1.0})
        write_checkpoint(run_dir / "checkpoints" / f"step-{step + 1:06d}", step + 1)
    run.finish("finished")
    monkeypatch.undo()
    left_behind = list(cuts.after_power_cuts())
    assert len(left_behind) > 60
    for number, left in enumerate(left_behind):
        again = tmp_path / str(number)
        for name, content in left.items():
            (again / name).parent.mkdir(parents=True, exist_ok=True)
            (again / name).write_bytes(content)
        if not (again / "config.yaml").is_file():  # as docs/research/faults.md says: started anew
            assert files.is_free(again), sorted(left)
            continue
        refuse_changes("train", cfg, again)
        step = saved_step(last_checkpoint(again)) if checkpoints(again) else 0
        resumed = Run(again, "train", 0)
        resumed.rewind(step)
        resumed.start(cfg, [])
        lines, tables = recorded(again)
        assert [row["step"] for _, row in lines] == list(range(step))
        assert all(sorted(rows["step"]) == list(range(step)) for rows in tables.values())
        assert not list(again.rglob("*.partial"))


def write_checkpoint(folder: Path, step: int) -> None:
    """As `CheckpointWriter` writes one, of files that hold next to nothing."""
    unfinished = folder.with_name(f".{folder.name}.partial")
    files.make_folder(unfinished)
    (unfinished / "model.safetensors").write_bytes(b"weights" * step)
    (unfinished / "state.json").write_text(json.dumps({"step": step, "stream_position": step}))
    checkpoint_writer._write_manifest(unfinished, None)
    checkpoint_writer._rename(unfinished, folder)
