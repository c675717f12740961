"""Files that are whole or not there, in the right order on the disk, and one writer in a folder."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from passk import disk
from passk.errors import UserError

HOLD = """
import sys
from pathlib import Path
from passk.disk import missing_folders, only_writer
folder = Path(sys.argv[1])
with only_writer(folder, missing_folders(folder)):
    print("in", flush=True)
    sys.stdin.read()
"""
ENTER_AND_LEAVE = """
import os, random, sys, time
from pathlib import Path
from passk.disk import missing_folders, only_writer
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
from passk import disk

def be_rank(locks, folder):
    disk.keep(locks)
    with disk.only_writer(folder):
        print("a rank is in", flush=True)
    while not (folder / "end").exists():
        time.sleep(0.01)

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with disk.only_writer(folder):
        words = (disk.locks_held(), folder)
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
        disk.only_writer(folder),
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
    assert [path.name for path in folder.iterdir()] == [disk.LOCK]
    process.stdin.close()
    process.wait()
    assert not (tmp_path / "a").exists(), "what was made and is empty goes"


def test_a_folder_that_was_there_stays_though_it_is_empty(tmp_path):
    with disk.only_writer(tmp_path / "a" / "new"):
        (tmp_path / "a" / "kept").mkdir()
    assert (tmp_path / "a" / "kept").is_dir() and not (tmp_path / "a" / "new").exists()
    with disk.only_writer(tmp_path / "a" / "kept"):
        pass
    assert list((tmp_path / "a" / "kept").iterdir()) == []


def test_sigkill_lets_go(holder):
    process, folder = holder
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert disk.is_free(folder), "its lock file alone is no content"
    with disk.only_writer(folder):
        (folder / "file").touch()
    assert [path.name for path in folder.iterdir()] == ["file"]


def test_never_two_at_once_though_each_removes_the_folder(tmp_path):
    words = [sys.executable, "-c", ENTER_AND_LEAVE, tmp_path / "a" / "b", tmp_path / "inside"]
    crowd = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    entered = [int(process.communicate()[0]) for process in crowd]
    assert all(process.returncode == 0 for process in crowd)
    assert sum(entered) > 50


def test_a_writer_is_not_kept_out_by_itself(tmp_path):
    with disk.only_writer(tmp_path), disk.only_writer(tmp_path / "." / ""):
        assert (tmp_path / disk.LOCK).is_file()
    assert not (tmp_path / disk.LOCK).exists()


def test_a_rank_goes_on_holding_the_lock_of_who_started_it(tmp_path):
    """As `launch` hands it over: a killed starter frees nothing as long as a rank writes."""
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
            with disk.only_writer(folder):
                break
        except UserError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_folder_that_cannot_be_written_in_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "run", Path("/proc/nothing/run")):
        with pytest.raises(UserError, match=f"{folder} cannot be written in: "):
            disk.only_writer(folder).__enter__()
