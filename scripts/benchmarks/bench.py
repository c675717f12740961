"""Measure how fast passk is, beside TRL's GRPOTrainer (`make bench`).

    python scripts/benchmarks/bench.py

Prints its tables and puts them into docs/research/benchmarks.md, between two markers; the rest of
that file is left alone. A benchmark, not a test: targets stand beside the figures, and no figure
fails it.

What is timed runs in processes of its own (`bench_workers.py`), so that peak memory is its own too.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench_document import machine, median, quartiles, section, write
from bench_steps import READY, RESULT, Steps

WORKERS = str(Path(__file__).with_name("bench_workers.py"))
# Threads that spin while they wait make a step several times slower where a neighbour is busy.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
ENVIRONMENT = {
    **WAITING,
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
# What to turn off in the passk step, as switches of `bench_workers.py`.
VARIANTS: dict[str, tuple[str, ...]] = {
    "all on": (),
    "no shared prefixes": ("unshared",),
    "no merging of identical completions": ("learner.merge_identical=false",),
    "no skipping of zero advantages": ("learner.skip_zero_advantages=false",),
    "neither merging nor skipping": (
        "learner.merge_identical=false",
        "learner.skip_zero_advantages=false",
    ),
    "none of the three": (
        "unshared",
        "learner.merge_identical=false",
        "learner.skip_zero_advantages=false",
    ),
}
COMMANDS = (
    ("--help",),
    ("train", "--help"),
    ("train", "--cfg", "job"),
    ("train", "regime.k=abc"),
)


class Job(NamedTuple):
    """A worker to run; see `bench_workers.py`."""

    name: str
    threads: int = 1
    switches: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """How much to measure, from the command line."""

    steps: int
    warmup: int
    threads: list[int]

    def measure(self, *jobs: Job) -> list[Steps]:
        """Run workers in processes of their own, and give their steps without the warm-up.

        They take turns step by step, so that a noisy machine is as noisy for each of them.
        """
        print("measuring", *jobs, sep="\n  ", file=sys.stderr, flush=True)
        total, results = self.steps + self.warmup, []
        workers = [_start(job, total) for job in jobs]
        for worker in workers:
            _read_until(READY, worker)
        for step in range(total):
            for worker in workers:
                print(file=worker.stdin, flush=True)
                if step + 1 < total:
                    _read_until(READY, worker)
                else:
                    results.append(Steps(**json.loads(_read_until(RESULT, worker))))
                    worker.communicate()
        for result in results:
            for seconds in (result.seconds, *result.phases.values()):
                del seconds[: self.warmup]
        return results


def _start(job: Job, num_steps: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, WORKERS, job.name, str(num_steps), str(job.threads), *job.switches],
        env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(job.threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _read_until(marker: str, worker: subprocess.Popen[str]) -> str:
    """The rest of the worker's next line that begins with `marker`."""
    seen = []
    for line in worker.stdout or ():
        if line.startswith(marker):
            return line.removeprefix(marker)
        seen.append(line)
    sys.exit(f"{''.join(seen)}\nbench: a worker failed; its output is above")


def compare(settings: Settings) -> str:
    """passk beside TRL: time with quartiles, memory, and whether both sample one policy."""
    rows, ratios = [], []
    for threads in settings.threads:
        sides = settings.measure(Job("passk", threads), Job("trl", threads))
        ours, theirs = (statistics.median(side.seconds) for side in sides)
        ratios.append(f"{theirs / ours:.1f} with {threads} thread{'s' * (threads > 1)}")
        names = ("passk (hybrid, k=8)", "TRL `GRPOTrainer`")
        rows += [[str(threads), *_cells(*pair)] for pair in zip(names, sides, strict=True)]
    header = ["threads", "", "step, s", "quartiles, s", "peak MiB", "MiB before step 1"]
    header += ["completions a step", "mean tokens", "reward, step 1", "reward, all steps"]
    return section(
        f"A training step, times as fast as TRL's: {', '.join(ratios)} (target: at least 4)",
        "64 prompts x 16 samples of the default task, the shipped tiny model, at most 32 new "
        "tokens, temperature 1: sampling, verifying, advantages, one optimiser step, weights "
        f"handed over. Medians of {settings.steps} steps after {settings.warmup} to warm up, each "
        "side in a process of its own, taking turns step by step. TRL: transformers engine, "
        "`beta=0`, `loss_type=dr_grpo`, the 1,024 completions in one batch, no gradient "
        "checkpointing, no bf16, no logging, no saving; same prompts in the same order, same "
        "verifier. Both wait for threads passively "
        f"({', '.join(f'`{name}={value}`' for name, value in WAITING.items())}). Step 1 samples "
        "the same policy on both sides; later the objectives differ.",
        header,
        rows,
    )


def _cells(name: str, steps: Steps) -> list[str]:
    return [
        name,
        median(steps.seconds),
        quartiles(steps.seconds),
        f"{steps.peak_mib:.0f}",
        f"{steps.start_mib:.0f}",
        f"{statistics.fmean(steps.completions):.0f}",
        f"{statistics.fmean(steps.lengths):.2f}",
        f"{steps.rewards[0]:.3f}",
        f"{statistics.fmean(steps.rewards):.3f}",
    ]


def split(settings: Settings) -> str:
    """Where the passk step spends its time, and what each way of not repeating work saves."""
    variants = settings.measure(*(Job("passk", 1, switches) for switches in VARIANTS.values()))
    header, rows = ["", "step", *variants[0].phases, "rows", "peak MiB"], []
    for label, steps in zip(VARIANTS, variants, strict=True):
        rows.append(
            [
                label,
                median(steps.seconds),
                *map(median, steps.phases.values()),
                f"{statistics.fmean(steps.rows):.0f}",
                f"{steps.peak_mib:.0f}",
            ]
        )
    return section(
        "The passk step by phase, and without its savings",
        "One torch thread, median seconds; `rows` are what the learner is fed a step, of 1,024.",
        header,
        rows,
    )


def learner_memory(settings: Settings) -> str:
    """Peak memory of a learner step on a model with a real vocabulary, beside TRL's."""
    jobs = {
        f"{name}{', gradient checkpointing' * bool(switches)}": Job(worker, 2, switches)
        for switches in ((), ("checkpointing",))
        for name, worker in (("passk", "learner_passk"), ("TRL `GRPOTrainer`", "learner_trl"))
    }
    rows = []
    for label, job in jobs.items():  # one after the other: together they would not fit
        (steps,) = settings.measure(job)
        rows.append(
            [label, f"{steps.peak_mib:.0f}", f"{steps.start_mib:.0f}", median(steps.seconds)]
        )
    share = float(rows[0][1]) / float(rows[1][1])
    return section(
        f"Peak memory of a learner step, passk's share of TRL's: {share:.2f} (target: at most 0.5)",
        "SmolLM2-135M, vocabulary 49,152, float32: 16 rows of 128 prompt and 384 completion tokens "
        "that share nothing, one AdamW step. Both are handed the rows; nothing is sampled. Peak "
        "resident memory of each process. passk with its default micro-batches, TRL with the 16 "
        f"rows in one. Two threads, medians of {settings.steps} steps after {settings.warmup}.",
        ["", "peak MiB", "MiB before step 1", "step, s"],
        rows,
    )


def vllm_throughput(settings: Settings) -> str:
    """Tokens a second of passk's rollout on vLLM, beside a bare loop over the same requests."""
    sides = settings.measure(Job("vllm_passk", 2), Job("vllm_bare", 2))
    speeds = [
        [
            n * length / s
            for n, length, s in zip(
                side.completions[-settings.steps :],
                side.lengths[-settings.steps :],
                side.seconds,
                strict=True,
            )
        ]
        for side in sides
    ]
    ratios = [mine / bare for mine, bare in zip(*speeds, strict=True)]
    rows = [
        [
            name,
            f"{statistics.median(speed):.1f}",
            f"{side.peak_mib:.0f}",
            f"{statistics.fmean(side.lengths):.1f}",
        ]
        for name, speed, side in zip(
            ("passk `rollout=vllm`", "`LLM.generate`"), speeds, sides, strict=True
        )
    ]
    return section(
        f"vLLM on this CPU, passk's share of the bare engine's tokens/s: "
        f"{statistics.median(ratios):.2f} (target: at least 0.9)",
        "SmolLM2-135M, float32: 24 word problems x 8 samples, at most 48 new tokens, seeded, with "
        "log-probabilities. passk's side also encodes prompts, decodes and judges the answers, and "
        "makes the groups. Both engines run in turns, step by step; medians of "
        f"{settings.steps} after {settings.warmup}.",
        ["", "tokens/s", "peak MiB", "mean tokens"],
        rows,
    )


def start_up(repeats: int = 5) -> str:
    """Commands that do no work, as a user starts them, in an empty folder."""
    passk = str(Path(sys.executable).with_name("passk"))
    rows = []
    for words in COMMANDS:
        seconds, code = [], 0
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(repeats):
                started = time.perf_counter()
                code = subprocess.run([passk, *words], cwd=folder, capture_output=True).returncode
                seconds.append(time.perf_counter() - started)
        rows.append([f"`passk {' '.join(words)}`", median(seconds), quartiles(seconds), str(code)])
    return section(
        "Start-up (target: under 1 s each)",
        f"Medians of {repeats} processes; the last command is refused, with exit code 2.",
        ["command", "s", "quartiles, s", "exit code"],
        rows,
    )


def estimator(settings: Settings) -> str:
    """Unbiased Pass@k at the size of a large evaluation."""
    seconds = settings.measure(Job("estimator"))[0].seconds
    return section(
        "`pass_at_k` (target: under 1 s)",
        "5,000 problems x n = 1,024 samples, c drawn uniformly from 0..n, k = 1, 2, 4, ..., 512.",
        ["s", "quartiles, s"],
        [[median(seconds), quartiles(seconds)]],
    )


def main() -> None:
    """Measure everything, print it and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="torch threads, on both sides"
    )
    parser.add_argument(
        "--model-steps", type=int, default=3, help="timed steps on SmolLM2, after one to warm up"
    )
    args = parser.parse_args()
    settings = Settings(args.steps, args.warmup, args.threads)
    heading = f"## The default task (`make bench`)\n\n{machine()}\n"
    on_model = Settings(args.model_steps, 1, args.threads)
    sections = [compare(settings), split(settings), estimator(settings), start_up()]
    sections += [learner_memory(on_model), vllm_throughput(on_model)]
    generated = "\n".join([heading, *sections])
    print(generated)
    write(generated)


if __name__ == "__main__":
    main()
