"""Stop runs, resume them, and compare what they leave with a run that nothing happened to.

Cut a finished run short (`as_if_killed`), or start one in a process of its own to kill (`start`).
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from small_runs import LEARNER_FILE, SMALL, metrics, without_times


def as_if_killed(run: Path, last_step: int) -> None:
    """Remove the checkpoints after a step: a kill leaves no more, whatever else was written."""
    for folder in (run / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > last_step:
            shutil.rmtree(folder)


def assert_same_run(one: Path, other: Path, last: int) -> None:
    """Fail unless all but times is identical, to the last bit of weights and optimiser."""
    lines = without_times(metrics(one))
    assert [line["step"] for line in lines] == list(range(last))
    assert lines == without_times(metrics(other))
    for folder in ("eval", "rollouts"):
        names = sorted(p.name for p in (one / folder).glob("*"))
        assert names == sorted(p.name for p in (other / folder).glob("*"))
        for name in names:
            mine, theirs = one / folder / name, other / folder / name
            if name.endswith(".parquet"):
                pd.testing.assert_frame_equal(pd.read_parquet(mine), pd.read_parquet(theirs))
            else:
                assert mine.read_text() == theirs.read_text()
    end = f"step-{last:06d}"
    for file in ("model.safetensors", LEARNER_FILE):
        mine, theirs = (load_file(run / "checkpoints" / end / file) for run in (one, other))
        assert mine.keys() == theirs.keys()
        for name in mine:
            assert torch.equal(mine[name], theirs[name]), name
    states = [(run / "checkpoints" / end / "state.json").read_text() for run in (one, other)]
    assert states[0] == states[1]


def start(run: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start `passk train` in a process of its own, on one thread, and do not wait for it."""
    words = ["train", *SMALL, *overrides, f'hydra.run.dir="{run}"']
    return subprocess.Popen(
        [sys.executable, "-m", "passk", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=run.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_lines(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has made so many steps; fail when it ends before, or takes 3 minutes."""
    file, deadline = run / "metrics.jsonl", time.monotonic() + 180
    while not file.is_file() or file.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
