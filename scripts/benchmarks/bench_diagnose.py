"""What the agreement of every prompt costs, in passes of the learner; beside a pass per prompt.

    python scripts/benchmarks/bench_diagnose.py RUN [num_prompts] [num_samples] [repetitions]

Median seconds on the run's last checkpoint: one learner pass over the samples (the gradient of
Pass@1 over all prompts at once), what `passk diagnose` does in its place (the same by blocks, and
the derivatives of all log-probabilities), a backward pass for each prompt, and the sketches of the
interference matrix. The agreement scores of the first two ways are compared.
"""

import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from passk.cli.commands.diagnose import as_training
from passk.config.commands import DiagnoseConfig
from passk.config.compose import load_run_config
from passk.diagnostics.agreement import agreement_scores
from passk.diagnostics.alignment import weighted_gradients
from passk.diagnostics.derivatives import derivatives_along
from passk.diagnostics.matrix import sketches
from passk.learner.batch import advantage_weights
from passk.learner.checkpoint import last_checkpoint
from passk.objectives.advantages import mixture_advantages
from passk.training.build import open_parts, prepare_torch
from passk.training.loop import diagnostic_groups

NUM_BLOCKS = DiagnoseConfig().diagnose.num_blocks
SKETCH_SIZE = DiagnoseConfig().diagnose.sketch_size


def timed(seconds: list[float], work: Callable[[], Any]) -> Any:
    """What `work` gives; its seconds are added to the list."""
    started = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - started)
    return result


def main(run: str, num_prompts: int = 300, num_samples: int = 32, repetitions: int = 5) -> None:
    """Measure and print."""
    prepare_torch(1)
    cfg = as_training(DiagnoseConfig(), load_run_config(Path(run)))
    with open_parts(cfg, str(last_checkpoint(Path(run))), day=date.today()) as parts:
        groups = diagnostic_groups(0, cfg, parts, num_prompts, num_samples)
        learner = parts.learner
        rewards_PG = np.array([group.rewards() for group in groups])
        advantages_PG = mixture_advantages(rewards_PG, 1, 0.0)
        weights_PG1 = advantage_weights(advantages_PG, rewards_PG)[..., None]

        def gradient(num_blocks: int) -> Any:
            return weighted_gradients(learner, groups, weights_PG1, num_blocks)[0]

        ways: tuple[list[float], ...] = ([], [], [], [], [])
        plain, by_block, slopes, by_prompt, sketched = ways
        for _ in range(repetitions):
            timed(plain, lambda: gradient(1))
            blocks_MD = timed(by_block, lambda: gradient(NUM_BLOCKS))
            derivatives = timed(slopes, lambda: derivatives_along(learner, groups, blocks_MD))  # noqa: B023
        timed(sketched, lambda: sketches(learner, groups, SKETCH_SIZE))
        each_PD = timed(by_prompt, lambda: gradient(len(groups))).double() * len(groups)
    scores_P, _ = agreement_scores(rewards_PG, derivatives.values_PG)
    others_MD = (blocks_MD.sum(dim=0) - blocks_MD).double()
    for block in range(NUM_BLOCKS):
        others_MD[block] *= len(groups) / (len(groups) - len(groups[block::NUM_BLOCKS]))
    direct_P = [float(each_PD[p] @ others_MD[p % NUM_BLOCKS]) for p in range(len(groups))]
    learner_pass = float(np.median(plain))
    print(f"{num_prompts} prompts x {num_samples} samples of {run}")
    for name, seconds in (
        ("one learner pass", plain),
        ("gradient of Pass@1 by block", by_block),
        ("derivatives of all samples", slopes),
        ("passk diagnose, both", np.array(by_block) + slopes),
        ("a backward pass for each prompt", by_prompt),
        ("sketches of both halves of each prompt", sketched),
    ):
        median = float(np.median(seconds))
        print(f"| {name} | {median:.2f} | {median / learner_pass:.2f} |")
    print(f"correlation of the agreement scores: {np.corrcoef(scores_P, direct_P)[0, 1]:.7f}")
    print(f"halving the difference changes derivatives by {derivatives.error:.1e}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
