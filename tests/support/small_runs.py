"""The smallest runs that still do everything, and what tests ask of their directories.

A run takes about half a second in process; torch must not be needed to import this module.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from passk.cli.main import main

SMALL = (
    "num_threads=1",
    "data.num_train=48",
    "data.num_corpus=64",
    "regime.num_demonstrations=12",
    "regime.k=2",
    "rollout.num_prompts=6",
    "rollout.num_samples=4",
    "eval.ks=[1,2]",
    "eval.num_problems=8",
    "eval.num_samples=8",
    "eval.num_resamples=50",
    "diagnostics.num_prompts=8",
    "diagnostics.num_samples=8",
    "diagnostics.num_blocks=4",
)
LEARNER_FILE = "learner/shard-00001-model-00001-of-00001.safetensors"  # of one process
TIMES = {
    "rollout_seconds",
    "verify_seconds",
    "measure_seconds",
    "learn_seconds",
    "sync_seconds",
    "tokens_per_second",
    "sampled_per_second",
    "fed_per_second",
    "seconds",
}


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def train(directory: Path, *overrides: str) -> int:
    """`passk train` in this process; the exit code."""
    return main(["train", *SMALL, *overrides, f'hydra.run.dir="{directory}"'])


def in_subprocess(arguments: list[str], cwd: Path, **environment: str) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "passk", *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def assert_refused(outcome: Outcome, *says: str) -> None:
    """Exit code 2, one line on stderr that holds `says`, no traceback."""
    assert outcome.code == 2
    assert outcome.err.startswith("passk: ")
    assert outcome.err.count("\n") == 1 and outcome.err.endswith("\n"), outcome.err
    assert "Traceback" not in outcome.out
    for words in says:
        assert words in outcome.err


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content (None for a directory)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def pixels_of(file: Path) -> np.ndarray:
    """The colours of a picture, from 0 to 1: [height, width, 3]."""
    return np.asarray(Image.open(file).convert("RGB")) / 255


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def without_times(lines: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def cut_short(file: Path, keep: int = 1000) -> None:
    """Keep the first bytes of a file, as a full disk does."""
    file.write_bytes(file.read_bytes()[:keep])
