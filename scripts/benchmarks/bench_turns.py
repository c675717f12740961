"""Run workers of the benchmarks in processes of their own, which take turns step by step."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

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


class Job(NamedTuple):
    """A worker to run; see `bench_workers.py`."""

    name: str
    threads: int = 1
    switches: tuple[str, ...] = ()


class WorkerFailed(Exception):
    """A worker ended before it gave a result; `output` is what it wrote."""

    def __init__(self, job: Job, output: str) -> None:
        super().__init__(f"{output}\nbench: the worker {job.name} failed; its output is above")
        self.job = job
        self.output = output

    @property
    def reason(self) -> str:
        """The last line of the worker that names an error."""
        named = re.findall(r"\w*Error\b.*", self.output)
        return named[-1].strip() if named else "no error was printed"


@dataclass(frozen=True)
class Settings:
    """How much to measure, from the command line."""

    steps: int
    warmup: int
    threads: list[int] = field(default_factory=lambda: [1])

    def measure(self, *jobs: Job) -> list[Steps]:
        """Run workers in processes of their own, and return their steps without the warm-up.

        They take turns step by step, so that a noisy machine is as noisy for each of them. Raises
        WorkerFailed, after ending the others, for one that ends early.
        """
        print("measuring", *jobs, sep="\n  ", file=sys.stderr, flush=True)
        total, results = self.steps + self.warmup, []
        workers = [_start(job, total) for job in jobs]
        try:
            for job, worker in zip(jobs, workers, strict=True):
                _read_until(READY, job, worker)
            for step in range(total):
                for job, worker in zip(jobs, workers, strict=True):
                    print(file=worker.stdin, flush=True)
                    if step + 1 < total:
                        _read_until(READY, job, worker)
                    else:
                        results.append(Steps(**json.loads(_read_until(RESULT, job, worker))))
                        worker.communicate()
        finally:
            for worker in workers:
                worker.kill()
                worker.wait()
        return [result.without(self.warmup) for result in results]


def _start(job: Job, num_steps: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, WORKERS, job.name, str(num_steps), str(job.threads), *job.switches],
        env={**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(job.threads)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _read_until(marker: str, job: Job, worker: subprocess.Popen[str]) -> str:
    """The rest of the worker's next line that begins with `marker`."""
    seen = []
    for line in worker.stdout or ():
        if line.startswith(marker):
            return line.removeprefix(marker)
        seen.append(line)
    raise WorkerFailed(job, "".join(seen))
