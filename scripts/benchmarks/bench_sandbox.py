"""Checks per second of verifier=python, as a Markdown table.

    python scripts/benchmarks/bench_sandbox.py [--workers 1 2] [--checks 100] [--repeats 5]

Each figure is the median of the repeats, with the smallest and the largest. Two kinds of program:
one that imports nothing, and one that imports what solutions of such problems often do. The time of
a bare interpreter (`python -S -c 0`) of the same machine and run is given for comparison.
"""

import argparse
import statistics
import subprocess
import sys
import time

from passk.config.schema import VerifierConfig
from passk.types import Completion, FinishReason, Problem
from passk.verifiers.code.verifier import PythonVerifier

PROGRAMS = {
    "no imports": "def add(a, b):\n    return a + b\n",
    "usual imports": (
        "from typing import List\nimport collections, functools, heapq, itertools, math, re\n"
        "def add(a, b):\n    return a + b\n"
    ),
}
TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add('a', 'b') == 'ab'"


def rates(program: str, num_workers: int, num_checks: int, num_repeats: int) -> list[float]:
    """Checks per second of each repeat, after a first one that is not counted."""
    verifier = PythonVerifier(VerifierConfig(name="python", num_workers=num_workers))
    completion = Completion(f"```python\n{program}```", (), (), FinishReason.STOP)
    pairs = [(Problem("p", "", TESTS), completion)] * num_checks
    found = []
    for _ in range(num_repeats + 1):
        started = time.perf_counter()
        verdicts = verifier.verify(pairs)
        found.append(num_checks / (time.perf_counter() - started))
        assert {verdict.reason for verdict in verdicts} == {"correct"}
    verifier.close()
    return found[1:]


def bare_interpreter_seconds() -> float:
    """The median time that an interpreter takes to start and end."""
    times = []
    for _ in range(11):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-S", "-c", "0"], check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--checks", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"bare interpreter: {1000 * bare_interpreter_seconds():.0f} ms\n")
    print("| program | workers | checks per second | range |\n|---|---:|---:|---|")
    for name, program in PROGRAMS.items():
        for num_workers in options.workers:
            found = rates(program, num_workers, options.checks, options.repeats)
            span = f"{min(found):.0f} to {max(found):.0f}"
            print(f"| {name} | {num_workers} | {statistics.median(found):.0f} | {span} |")


if __name__ == "__main__":
    main()
