"""The other side of `faulty.py`: lets faults happen to runs, and counts what is left of them."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from faulty import Fault, Job, as_line
from resuming import assert_same_run
from small_runs import SMALL, metrics, without_times

DISK_MIB = 16
STEPS = 12
WORDS = ("regime=hybrid", f"train.num_steps={STEPS}", "train.save_every=3", "train.keep_last=2")
WORDS += ("eval.every=4", "diagnostics.every=6", "rollout.save_every=1", "learner.lr=1e-3")


@dataclass(frozen=True)
class Ending:
    """How a run ended: exit code (minus the signal that killed it), what it said, where it was."""

    code: int
    out: str
    err: str
    inside: set[str]

    @property
    def sentence(self) -> str:
        """What passk said on stderr: one line, and no traceback."""
        lines = self.err.strip().splitlines()
        said = [line for line in lines if line.startswith("passk: ")]
        assert len(said) == 1 and "Traceback" not in self.err, self.err
        return said[0]


class Passk:
    """passk in processes of its own, forked from one that has imported the libraries.

    With a small disk of its own, mounted at `disk`, unless the system forbids that (None).
    """

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, str(Path(__file__).parent / "faulty.py")]
        self.disk = folder / "disk" if can_mount(folder) else None
        if self.disk is not None:
            self.disk.mkdir()
            mount = f'mount -t tmpfs -o size={DISK_MIB}m passk-faults "$0" && exec "$@"'
            command = ["unshare", "-rm", "sh", "-c", mount, str(self.disk), *command]
        self._notes = folder / "notes"
        self._notes.mkdir()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def train(self, run: Path, *overrides: str, fault: Fault | None = None) -> Ending:
        """`passk train`; what it said, and where a signal found it."""
        arguments = ["train", *SMALL, *overrides, f'hydra.run.dir="{run}"']
        (self._notes / "marks").unlink(missing_ok=True)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(as_line(Job(arguments, str(self._notes), fault)))
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        out, err, marks = ((self._notes / name).read_text() for name in ("out", "err", "marks"))
        return Ending(code, out, err, begun(marks))

    def seen(self, path: Path) -> Path:
        """A path as this process finds it: the disk is mounted for the other alone."""
        return Path(f"/proc/{self._process.pid}/root{path}")

    def close(self) -> None:
        self._process.communicate()


def can_mount(folder: Path) -> bool:
    """Whether the system lets us have a file system of our own, as some containers do not."""
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "passk-faults", str(folder)]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def begun(marks: str) -> set[str]:
    """The phases that had not ended: one inside another, or a checkpoint in the background."""
    lines = marks.splitlines()
    return {line[1:] for line in lines if lines.count(f"+{line[1:]}") > lines.count(f"-{line[1:]}")}


@dataclass(frozen=True)
class Losses:
    """Steps whose line is missing or there twice, and metrics, tables and weights that differ."""

    steps: int
    differing: int


def losses(run: Path, whole: Path, num_steps: int = STEPS) -> Losses:
    """What tells a run from one that nothing happened to."""
    lines, undisturbed = without_times(metrics(run)), without_times(metrics(whole))
    steps = [line["step"] for line in lines]
    wrong = sum(steps.count(step) != 1 for step in range(num_steps))
    by_step = {line["step"]: line for line in lines}
    differing = sum(
        by_step.get(line["step"], line).get(key, None) != value
        for line in undisturbed
        for key, value in line.items()
    )
    differing += sum(not same_table(run / name, whole / name) for name in tables(run, whole))
    if not wrong and not differing:
        assert_same_run(run, whole, num_steps)
        assert not [*run.rglob("*.partial"), *run.rglob(".*.partial")]
    return Losses(wrong, differing)


def tables(*runs: Path) -> list[str]:
    found = {
        str(file.relative_to(run))
        for run in runs
        for folder in ("eval", "rollouts")
        for file in (run / folder).glob("*")
    }
    return sorted(found)


def same_table(one: Path, other: Path) -> bool:
    if not (one.is_file() and other.is_file()):
        return False
    if one.suffix == ".parquet":
        return pd.read_parquet(one).equals(pd.read_parquet(other))
    return one.read_bytes() == other.read_bytes()


@dataclass
class Row:
    """A line of the matrix."""

    fault: str
    tried: int = 0
    lost: int = 0
    differing: int = 0
    said: str = ""


class Matrix:
    """The rows, by fault in the order in which faults were first tried."""

    HEAD = ("fault", "times tried", "lost steps", "differing metrics", "what the run said")

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def add(self, fault: str, found: Losses, said: str = "", *, tried: int = 1) -> None:
        row = self._rows.setdefault(fault, Row(fault))
        row.tried += tried
        row.lost += found.steps
        row.differing += found.differing
        row.said = said or row.said

    def markdown(self) -> str:
        lines = [self.HEAD, ["---"] * len(self.HEAD)]
        for row in self._rows.values():
            cells = (row.fault, row.tried, row.lost, row.differing, row.said or "nothing: killed")
            lines.append([str(cell) for cell in cells])
        return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def without_paths(sentence: str, *folders: Path) -> str:
    """A sentence without the folders of this machine."""
    for folder in folders:
        sentence = sentence.replace(f"{folder}/", "")
    return sentence
