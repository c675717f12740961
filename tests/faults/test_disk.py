"""A disk that is full: a sentence, no half file under a final name, and a run that can go on."""

import json
import shutil
from pathlib import Path

import pytest
from faults import STEPS, WORDS, losses, without_paths
from faulty import Fault
from safetensors import safe_open
from small_runs import train

# Nothing but lines of metrics between two checkpoints: the disk's pages are 4 KiB, so it is one of
# several lines that finds it full.
LINES_ALONE = (*WORDS, "rollout.save_every=0", "eval.every=0", "train.save_every=6")
# Phase and time of it, what is left of the disk, and the largest file where none can be mounted;
# the file that stderr goes to has to fit.
FEW = [
    ("checkpoint write", 3, 700_000, 600_000),
    ("table write", 2, 4096, 2000),
    ("metrics line", 7, 0, 7000),
]
MORE = [
    *(("checkpoint write", m, room, 40_000 * m) for m, room in ((2, 0), (4, 1_500_000))),
    *(("table write", m, room, 2000) for m, room in ((2, 0), (4, 0))),
    *(("rollout file", m, room, 3000) for m, room in ((4, 4096), (8, 0))),
]


@pytest.fixture(scope="module")
def lines_alone(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("lines") / "run"
    assert train(run, *LINES_ALONE) == 0
    return run


def test_full_disk(passk_process, undisturbed, lines_alone, matrix, is_whole_matrix, tmp_path):
    disk = passk_process.disk
    # Where no disk can be mounted, and in the whole matrix, files that may not grow.
    for folder in [disk] if disk and not is_whole_matrix else [disk, tmp_path]:
        for number, (phase, occurrence, room, largest) in enumerate(
            [*FEW, *(MORE if is_whole_matrix else ())] if folder else ()
        ):
            is_full = folder == disk
            name = "disk full (tmpfs)" if is_full else "file too large (RLIMIT_FSIZE)"
            fault = Fault(phase, occurrence, room=largest)
            if is_full:
                fault = Fault(phase, occurrence, room=room, ballast=str(disk / "ballast"))
            alone = phase == "metrics line"
            words, whole = (LINES_ALONE, lines_alone) if alone else (WORDS, undisturbed)
            run = folder / str(number)
            stopped = passk_process.train(run, *words, fault=fault)
            assert stopped.code == 1, stopped
            assert "could not be written: " in stopped.sentence
            assert "make room, and go on with resume=true" in stopped.sentence
            assert_no_half_files(passk_process.seen(run))
            if is_full:
                passk_process.seen(Path(fault.ballast)).unlink()
            assert passk_process.train(run, *words, "resume=true").code == 0
            found = losses(passk_process.seen(run), whole)
            matrix.add(f"{name}, {phase}", found, without_paths(stopped.sentence, run))
            shutil.rmtree(passk_process.seen(run))


def assert_no_half_files(run: Path) -> None:
    """Whatever has its final name can be read to its end; a line of metrics may be torn."""
    assert json.loads((run / "manifest.json").read_text())["status"] in ("failed", "running")
    lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    assert [json.loads(line)["step"] for line in lines] == list(range(len(lines)))
    assert len(lines) <= STEPS
    for folder in run.glob("checkpoints/step-*"):
        for name, expected in json.loads((folder / "files.json").read_text()).items():
            assert (folder / name).stat().st_size == expected["bytes"]
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as tensors:
                assert all(len(tensors.get_tensor(name)) for name in tensors.keys())  # noqa: SIM118
