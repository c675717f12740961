"""A disk that is full: a sentence, no half file under a final name, and a run that can go on."""

import json
import subprocess
from pathlib import Path

import pytest
from faults import STEPS, WORDS, Passk, losses, without_paths
from faulty import Fault
from safetensors import safe_open
from small_runs import train

DISK_MIB = 16
# Nothing but lines of metrics between two checkpoints: the disk's pages are 4 KiB, so it is one of
# several lines that finds it full.
LINES_ALONE = (*WORDS, "rollout.save_every=0", "eval.every=0", "train.save_every=6")
# Phase and time of it, what is left of the disk, and the largest file where none can be mounted.
FEW = [
    ("checkpoint write", 3, 700_000, 600_000),
    ("table write", 2, 4096, 1000),
    ("metrics line", 7, 0, 7000),
]
MORE = [
    *(("checkpoint write", m, room, 1000 * m) for m, room in ((2, 0), (3, 8192), (4, 1_500_000))),
    *(("table write", m, room, 100) for m, room in ((2, 0), (3, 8192), (4, 0))),
    *(("rollout file", m, room, 100) for m, room in ((4, 4096), (5, 0), (8, 0), (12, 0))),
]


def can_mount(folder: Path) -> bool:
    """Whether the system lets us have a file system of our own, as some containers do not."""
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "passk-faults", str(folder)]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def lines_alone(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("lines") / "run"
    assert train(run, *LINES_ALONE) == 0
    return run


@pytest.fixture(scope="module")
def small_disks(tmp_path_factory, is_whole_matrix):
    """A small disk of its own, where one can be mounted; else, and in the whole matrix, files that
    may not grow."""
    root = tmp_path_factory.mktemp("disk")
    on_disk = can_mount(root)
    processes = [Passk(root / "mounted", DISK_MIB)] if on_disk else []
    if is_whole_matrix or not on_disk:
        processes.append(Passk(root / "limited"))
    yield processes
    for process in processes:
        process.close()


def test_full_disk(small_disks, undisturbed, lines_alone, matrix, is_whole_matrix):
    for passk in small_disks:
        for number, case in enumerate(FEW + (MORE if is_whole_matrix else [])):
            phase = case[0]
            words = LINES_ALONE if phase == "metrics line" else WORDS
            whole = lines_alone if phase == "metrics line" else undisturbed
            run = passk.root / str(number)
            fault = no_room(passk, *case)
            stopped = passk.train(run, *words, fault=fault)
            assert stopped.code == 1, stopped
            assert "could not be written: " in stopped.sentence
            assert "make room, and go on with resume=true" in stopped.sentence
            assert_no_half_files(passk.seen(run))
            if fault.ballast:
                passk.seen(Path(fault.ballast)).unlink()
            assert passk.train(run, *words, "resume=true").code == 0
            found = losses(passk.seen(run), whole)
            name = "disk full (tmpfs)" if fault.ballast else "file too large (RLIMIT_FSIZE)"
            matrix.add(f"{name}, {phase}", found, without_paths(stopped.sentence, run))
            subprocess.run(["rm", "-r", str(passk.seen(run))], check=True)


def no_room(passk: Passk, phase: str, occurrence: int, room: int, largest: int) -> Fault:
    if passk.has_disk:
        ballast = str(passk.root / "ballast")
        return Fault(phase, occurrence, room=room, ballast=ballast)
    return Fault(phase, occurrence, room=largest)


def assert_no_half_files(run: Path) -> None:
    """Whatever has its final name can be read to its end; a line of metrics may be torn."""
    assert json.loads((run / "manifest.json").read_text())["status"] in ("failed", "running")
    lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["step"] for line in lines] == list(range(len(lines)))
    assert len(lines) < STEPS
    for folder in run.glob("checkpoints/step-*"):
        for name, expected in json.loads((folder / "files.json").read_text()).items():
            assert (folder / name).stat().st_size == expected["bytes"]
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                assert all(len(tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
