"""Ctrl-C and SIGTERM end a run between two steps (an evaluation: between two chunks), saved."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptFlag:
    """Set by the first signal; a second one interrupts at once."""

    def __init__(self, unit: str, *, silent: bool = False) -> None:
        self._unit = unit
        self._silent = silent
        self._set = False

    def is_set(self) -> bool:
        """Whether the run should save and stop after the unit at hand."""
        return self._set

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self._set:
            raise KeyboardInterrupt
        self._set = True
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
