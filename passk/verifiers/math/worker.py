"""Worker process that reads pairs of answers from stdin, one JSON line each, and judges them.

`passk.verifiers.worker_pool` runs it as `python -m passk.verifiers.math.worker`. Whatever happens
to its parent, it ends by itself: at the end of stdin, when it is orphaned, and when a check uses up
its CPU time. It also ends when answers have left so much in sympy's caches that the next check
might lack memory.
"""

import json
import logging
import math
import os
import resource
import select
import sys
from contextlib import suppress
from typing import Any

from passk.verifiers.math.algebra import GoldUnparsed, same_by_algebra

_ORPHAN_CHECK_SECONDS = 5.0


def main() -> None:
    """Answer requests until stdin ends; the first line holds the limits of a check."""
    logging.disable(logging.CRITICAL)  # math-verify warns that its alarms are off
    results = os.dup(1)
    os.dup2(2, 1)  # output of a library must not look like a result
    parent, pending = os.getppid(), bytearray()
    limits = json.loads(_next_line(pending, parent))
    with suppress(GoldUnparsed):
        same_by_algebra(r"\frac{\sqrt{2}}{2}", "x^2")  # the first loads a second's worth of tables
    max_bytes = limits["max_memory_mib"] << 20
    most_bytes_kept = _bytes_in_use() + max_bytes // 2
    _limit_memory(max_bytes)
    _send(results, {"ready": True})
    while line := _next_line(pending, parent):
        _limit_cpu(limits["timeout_seconds"])
        _send(results, _judge(*json.loads(line)))
        if _bytes_in_use() > most_bytes_kept:
            return


def _judge(gold: str, answer: str) -> dict[str, Any]:
    try:
        return {"same": same_by_algebra(gold, answer)}
    except GoldUnparsed:
        return {"same": None}
    except Exception as error:  # sympy may raise anything for a model's text
        return {"error": type(error).__name__}


def _next_line(pending: bytearray, parent: int) -> bytes:
    """Read the next line of stdin; return empty at its end, or if the parent ended without closing.

    Processes that the parent forked keep the pipe open, so the parent's id is checked too.
    """
    while b"\n" not in pending:
        while not select.select([0], [], [], _ORPHAN_CHECK_SECONDS)[0]:
            if os.getppid() != parent:
                return b""
        received = os.read(0, 1 << 16)
        if not received:
            return b""
        pending += received
    line, _, rest = bytes(pending).partition(b"\n")
    pending[:] = rest
    return line


def _send(results: int, message: dict[str, Any]) -> None:
    os.write(results, json.dumps(message).encode() + b"\n")


def _limit_memory(max_bytes: int) -> None:
    """Limit the address space to `max_bytes` above its present size (interpreter and sympy)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if in_use := _bytes_in_use():
        resource.setrlimit(resource.RLIMIT_AS, (in_use + max_bytes, in_use + max_bytes))


def _bytes_in_use() -> int:
    """Return the size of the address space; 0 on systems that do not enforce such a limit."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _limit_cpu(seconds: float) -> None:
    """Let the kernel end this process if one check takes longer and no parent is left to do so."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + seconds) + 1, hard))


if __name__ == "__main__":
    main()
