"""What a worker of `bench.py` measures, and how it takes turns with the others."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

READY, RESULT = "worker-ready", "worker-result "  # start the lines that are meant for the bench


@dataclass
class Steps:
    """What a worker measures: one entry per step, warm-up first; `phases` are seconds too."""

    seconds: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    completions: list[int] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)  # mean tokens of a completion, end included
    phases: dict[str, list[float]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)  # fed to the learner
    start_mib: float = 0.0  # resident memory before the first step
    peak_mib: float = 0.0


def wait_for_turn() -> None:
    print(f"\n{READY}", flush=True)
    if not sys.stdin.readline():
        sys.exit("the bench is gone")


def resident_mib() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def trainer_stopwatch(steps: Steps) -> Any:
    """A callback that times each step of a TRL trainer, with its prompts in memory, to its end."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.start_mib = steps.start_mib or resident_mib()
            wait_for_turn()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.seconds.append(time.perf_counter() - self.started)

    return Stopwatch()
