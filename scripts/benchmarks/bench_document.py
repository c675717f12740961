"""Write the tables of `bench.py`: Markdown, in a section of docs/research/benchmarks.md."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "research" / "benchmarks.md"
BEGIN, END = "<!-- begin: make bench -->", "<!-- end: make bench -->"
TITLE = "# Benchmarks\n\nMeasured, not promised: each section says on what machine and how.\n"
PACKAGES = ("passk-rl", "torch", "transformers", "trl", "accelerate", "numpy")


def median(seconds: Sequence[float]) -> str:
    """The median of seconds, for a cell."""
    return f"{statistics.median(seconds):.4f}"


def quartiles(seconds: Sequence[float]) -> str:
    """The first and the third quartile of seconds, for a cell."""
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return f"{low:.4f} to {high:.4f}"


def section(title: str, text: str, header: list[str], rows: list[list[str]]) -> str:
    """A heading, what was measured, and the table."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"### {title}\n\n{text}\n\n{table}\n"


def machine() -> str:
    """Date, processor and versions; nothing that names the host or a path."""
    info = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.is_file() else [])
        if line.startswith("model name")
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{date.today()}, {models[0] if models else platform.machine()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, {versions}. Command: `make bench`."
    )


def write(generated: str) -> None:
    """Replace what stands between the markers in DOCUMENT, or append it with them."""
    block = f"{BEGIN}\n{generated}{END}\n"
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.is_file() else TITLE
    before, found, rest = text.partition(BEGIN)
    if not found:
        text = f"{text.rstrip()}\n\n{block}"
    else:
        _, closed, after = rest.partition(END)
        if not closed:
            sys.exit(f"bench: {DOCUMENT.name} has {BEGIN!r} but not {END!r}; put it back")
        text = before + block + after.removeprefix("\n")
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(text, encoding="utf-8")
