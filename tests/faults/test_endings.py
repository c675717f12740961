"""What is left when a run has ended, however it ended: no process, no temporary file."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import WORDS, losses
from formulas import formulas
from rank_runs import ranks_of
from small_runs import SMALL, metrics, train

TWO = "learner.num_processes=2"
ENDLESS = ("train.num_steps=10000", "train.save_every=5", "eval.every=0", "diagnostics.every=0")


class Marked:
    """A run in a process of its own, whose descendants can be told by a mark and a TMPDIR."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.run = folder / "run"
        self._temporary = folder / "tmp"
        self._temporary.mkdir()
        self._mark = f"PASSK_TEST_MARK={uuid.uuid4().hex}"
        small = [w for w in SMALL if not (w.startswith("data.num_") and "data=jsonl" in overrides)]
        words = ["train", *small, *overrides, f'hydra.run.dir="{self.run}"']
        name, value = self._mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "passk", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {name: value, "TMPDIR": str(self._temporary), "OMP_NUM_THREADS": "1"},
        )

    def wait_for_step(self, count: int) -> None:
        file, deadline = self.run / "metrics.jsonl", time.monotonic() + 240
        while not file.is_file() or file.read_bytes().count(b"\n") < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> tuple[int, str]:
        """Exit code and what was said on stderr."""
        _, err = self.process.communicate(timeout=240)
        return self.process.returncode, err

    def processes(self) -> list[str]:
        """What still runs of it: the mark is inherited; a check of code has neither, but works in
        TMPDIR. Threads and the dead do not count."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_marked = self._mark in (folder / "environ").read_text().split("\0")
                is_inside = os.readlink(folder / "cwd").startswith(str(self._temporary))
                if is_marked or is_inside:
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:  # it has just ended
                continue
        return found

    def assert_nothing_is_left(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        # torch makes an empty folder for its compiler, one per user, when it is imported.
        files = {path.name for path in self._temporary.rglob("*")}
        assert {name for name in files if not name.startswith("torchinductor_")} == set()


def send(number: int, whom: int | None = None) -> Callable[[Marked], None]:
    """Signal the process that was started, or one of its ranks, after a few steps."""

    def act(marked: Marked) -> None:
        marked.wait_for_step(6)
        process = marked.process
        os.kill(process.pid if whom is None else ranks_of(process)[whom], number)

    return act


ENDINGS = {
    "finished": (("train.num_steps=2",), lambda marked: None, 0),
    "failed": (("regime=sft", "learner.lr=1e30"), lambda marked: None, 1),
    "refused": (("rollout.max_new_tokens=100000",), lambda marked: None, 2),
    "SIGTERM": (ENDLESS, send(signal.SIGTERM), 130),
}
OF_RANKS = {
    "two ranks, finished": ((TWO, "train.num_steps=2"), lambda marked: None, 0),
    "two ranks, SIGTERM": ((*ENDLESS, TWO), send(signal.SIGTERM), 130),
    "two ranks, one killed": ((*ENDLESS, TWO), send(signal.SIGKILL, 1), 1),
}


def test_nothing_is_left(is_whole_matrix, tmp_path):
    """Workers of verifier=math are started in each of these."""
    endings = ENDINGS | OF_RANKS
    for number, name in enumerate(endings if is_whole_matrix else ("SIGTERM",)):
        words, act, code = endings[name]
        folder = tmp_path / str(number)
        folder.mkdir()
        own = () if "regime=sft" in words else formulas(folder, 0)
        marked = Marked(folder, *own, "learner.lr=1e-3", "verifier.timeout_seconds=60", *words)
        act(marked)
        ended, err = marked.end()
        assert ended == code, (name, err)
        marked.assert_nothing_is_left(0 if "rank" not in name else 20)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, forked_ranks) -> Path:
    """The run on two ranks that nothing happens to."""
    run = tmp_path_factory.mktemp("ranks") / "run"
    assert train(run, *WORDS, TWO) == 0
    return run


@pytest.mark.usefixtures("forked_ranks")
def test_killed_launcher_takes_its_ranks_along(is_whole_matrix, matrix, tmp_path, request):
    """They are told that it is gone, finish their step and save; nothing of it is resumed twice."""
    for number in range(3 if is_whole_matrix else 1):
        (tmp_path / str(number)).mkdir()
        marked = Marked(tmp_path / str(number), *WORDS, TWO)
        marked.wait_for_step(2 + 2 * number)
        marked.process.kill()
        assert marked.end()[0] == -signal.SIGKILL
        if marked.processes():  # else they were faster
            assert train(marked.run, *WORDS, TWO, "resume=true") in (0, 2)
        while marked.processes():
            time.sleep(0.05)
        steps = [line["step"] for line in metrics(marked.run)]
        assert steps == list(range(len(steps)))
        assert train(marked.run, *WORDS, TWO, "resume=true") == 0
        found = losses(marked.run, request.getfixturevalue("two_ranks"))
        matrix.add("SIGKILL of the process that started two ranks", found)
