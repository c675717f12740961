"""What prefix trees save the learner: the same samples fed as trees and as rows, in turns.

    python scripts/benchmarks/bench_trees.py RUN [num_prompts] [num_samples] [repetitions]

Samples come from the run's last checkpoint. Prints the tokens that the model computes (padding
included), and median seconds of a gradient of the hybrid and of all log-probabilities, which are
the two things that training and `passk diagnose` spend the learner's time on. One thread.
"""

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from bench_diagnose import timed

from passk.cli.commands.diagnose import as_training
from passk.config.commands import DiagnoseConfig
from passk.config.compose import load_run_config
from passk.learner.batch import advantage_weights, make_rows
from passk.learner.checkpoint import last_checkpoint
from passk.learner.logprobs import tree_limits
from passk.learner.micro_batches import NO_TREES, micro_batches
from passk.objectives.advantages import mixture_advantages
from passk.training.build import open_parts, prepare_torch
from passk.training.loop import diagnostic_groups


def main(run: str, num_prompts: int = 64, num_samples: int = 16, repetitions: int = 5) -> None:
    """Measure and print."""
    prepare_torch(1)
    cfg = as_training(DiagnoseConfig(), load_run_config(Path(run)))
    with open_parts(cfg, str(last_checkpoint(Path(run))), day=date.today()) as parts:
        groups = diagnostic_groups(0, cfg, parts, num_prompts, num_samples)
        learner = parts.learner
        rewards_PG = np.array([group.rewards() for group in groups])
        advantages_PG = mixture_advantages(rewards_PG, min(8, num_samples), 0.7)
        all_rows = make_rows(groups, np.ones((*rewards_PG.shape, 1)))
        rows = make_rows(groups, advantage_weights(advantages_PG, rewards_PG)[..., None])
        ways = {"rows": NO_TREES, "trees": tree_limits(learner.model)}
        works: dict[str, Callable[[], Any]] = {
            "gradient": lambda: learner.gradient_parts(rows),
            "log-probabilities": lambda: learner.logprobs(all_rows),
        }
        measured: dict[tuple[str, str], list[float]] = {}
        for _ in range(repetitions):
            for way, limits in ways.items():
                learner.tree_limits = limits
                for name, work in works.items():
                    timed(measured.setdefault((name, way), []), work)
        limit, device = learner.max_tokens_per_batch, learner.model.device
        fed = {
            way: sum(b.num_fed for b in micro_batches(rows, limit, device, limits=limits))
            for way, limits in ways.items()
        }
    print(f"{run}: {num_prompts} prompts x {num_samples} samples, {len(rows)} distinct rows")
    print(
        f"tokens fed: rows {fed['rows']}, trees {fed['trees']}: {fed['rows'] / fed['trees']:.2f}x"
    )
    for name in works:
        by_row, by_tree = (float(np.median(measured[name, way])) for way in ways)
        print(f"{name}: rows {by_row:.3f} s, trees {by_tree:.3f} s: {by_tree / by_row:.2f} of rows")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
