"""Which processes there are, by what anybody may read: for tests that nothing is left running."""

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def _parents() -> dict[int, int]:
    """The parent of every process that has not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # ended meanwhile
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    found[int(entry.name)] = int(parent)
    return found


def descendants(pid: int) -> set[int]:
    """Processes that this one started, and those that they did."""
    parents = _parents()
    found: set[int] = set()
    while new := {p for p, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found


def assert_ended(pids: Iterable[int], within: float) -> None:
    """Fail unless all of these end within so many seconds."""
    until = time.monotonic() + within
    while left := set(pids) & set(_parents()):
        assert time.monotonic() < until, f"still running: {left}, as {os.getpid()} sees it"
        time.sleep(0.005)
