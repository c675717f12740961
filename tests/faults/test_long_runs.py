"""A short form of `scripts/stress/soak.py`: what a run holds at its steps, and after its end."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

SOAK = Path(__file__).parents[2] / "scripts" / "stress" / "soak.py"
COUNTS = ("descriptors", "threads", "processes", "temporary_files")


def test_a_run_holds_no_more_at_its_end_than_at_its_beginning(tmp_path):
    """A tensor, a figure or a file that each step kept would show; memory is known to some MiB."""
    out = tmp_path / "samples.json"
    words = ["eval.every=10", "train.save_every=10", "diagnostics.every=10", "num_threads=1"]
    done = subprocess.run(
        [sys.executable, str(SOAK), "--num-steps", "40", "--out", str(out), *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    steps = found["steps"]
    assert len(steps) == 40
    for name in COUNTS:
        # All that happens has happened once; a checkpoint may be on its way at some steps.
        first, last = (
            median(sample[name] for sample in part) for part in (steps[11:21], steps[30:])
        )
        assert last == first, name
        assert found["after"][name] <= last, name
    assert found["after"]["processes"] == 0
    beginning, end = (
        sum(sample["memory_kib"] for sample in part) / 10 for part in (steps[11:21], steps[30:])
    )
    assert end - beginning < 24 * 1024


def test_the_slope_is_that_of_the_line_and_its_interval_holds_it():
    sys.path.insert(0, str(SOAK.parent))
    try:
        from soak import slope
    finally:
        sys.path.pop(0)
    growth, half = slope([100 + 3 * step for step in range(200)])
    assert growth == pytest.approx(3) and half == pytest.approx(0, abs=1e-6)
    growth, half = slope([100 + 3 * step + 40 * (step // 10 % 2) for step in range(400)])
    assert abs(growth - 3) < half < 1
