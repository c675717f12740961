"""What a worker of the benchmarks measures, and how it takes turns with the others."""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

READY, RESULT = "worker-ready", "worker-result "  # start the lines that are meant for the bench


@dataclass
class Steps:
    """What a worker measures: one entry per step, warm-up first.

    `phases` are seconds. `tokens` counts what models computed, padding included: `sampler` without
    gradients, `learner` with them.
    """

    seconds: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    completions: list[int] = field(default_factory=list)
    lengths: list[float] = field(default_factory=list)  # mean tokens of a completion, end included
    phases: dict[str, list[float]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)  # fed to the learner
    start_mib: float = 0.0  # resident memory before the first step
    peak_mib: float = 0.0

    def without(self, warmup: int) -> "Steps":
        """Drop the times and counts of the first steps; rewards and lengths stay, of all steps."""
        for seconds in (self.seconds, *self.phases.values()):
            del seconds[:warmup]
        for tokens in self.tokens.values():
            del tokens[:warmup]
        return self


def wait_for_turn() -> None:
    print(f"\n{READY}", flush=True)
    if not sys.stdin.readline():
        sys.exit("the bench is gone")


def resident_mib() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss / 2**20)


def finish_device() -> None:
    """Wait for the work that a GPU has queued, if there is one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


class TokenCounter:
    """Count the tokens that models compute, from the input of their embeddings."""

    def __init__(self) -> None:
        self.counts = {"sampler": 0, "learner": 0}

    def watch(self, model: Any) -> None:
        """Count the tokens of this model from now on."""
        model.get_input_embeddings().register_forward_hook(self._count)

    def _count(self, module: Any, inputs: Any, output: Any) -> None:
        import torch

        side = "learner" if torch.is_grad_enabled() else "sampler"
        self.counts[side] += inputs[0].numel()

    def end_step(self, steps: Steps) -> None:
        """Add what was counted since the last step, and begin anew."""
        for side, count in self.counts.items():
            steps.tokens.setdefault(side, []).append(count)
            self.counts[side] = 0


def trainer_stopwatch(steps: Steps) -> Any:
    """A callback that times each step of a TRL trainer, with its prompts in memory, to its end.

    Its method `sampled` ends the phase `sample` of a step.
    """
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        def __init__(self) -> None:
            self.counter = TokenCounter()
            self.started = 0.0

        def on_train_begin(self, *_: Any, model: Any = None, **__: Any) -> None:
            self.counter.watch(model)

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.start_mib = steps.start_mib or resident_mib()
            wait_for_turn()
            self.started = time.perf_counter()

        def sampled(self) -> None:
            steps.phases.setdefault("sample", []).append(time.perf_counter() - self.started)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            finish_device()
            steps.seconds.append(time.perf_counter() - self.started)
            self.counter.end_step(steps)

    return Stopwatch()
