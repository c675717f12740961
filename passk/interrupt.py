"""Ctrl-C and SIGTERM end a run between two steps (an evaluation: between two chunks), saved."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ONE_WORD_SECONDS = 0.3  # a killed launcher signals its ranks once for each of its threads


class InterruptFlag:
    """Set by the first signal; a second one, a moment later, interrupts at once."""

    def __init__(self, unit: str, *, silent: bool = False) -> None:
        self._unit = unit
        self._silent = silent
        self._set = False
        self._first = 0.0

    def is_set(self) -> bool:
        """Whether the run should save and stop after the unit at hand."""
        return self._set

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self._set and time.monotonic() - self._first < _ONE_WORD_SECONDS:
            return
        if self._set:
            raise KeyboardInterrupt
        self._set, self._first = True, time.monotonic()
        if self._silent:
            return
        print(
            f"\n{signal.Signals(number).name}: finishing this {self._unit}, then saving "
            "(once more: stop at once)",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def interrupt_flag(unit: str = "step", *, silent: bool = False) -> Iterator[InterruptFlag]:
    """Catch SIGINT and SIGTERM inside the block; the former handlers come back after it.

    `unit` is what the user is told will be finished first, unless `silent`.
    """
    flag = InterruptFlag(unit, silent=silent)
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, flag.handle) for number in signals]
    try:
        yield flag
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
