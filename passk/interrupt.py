"""Ctrl-C and SIGTERM end a run between two steps, saved, instead of in the middle of one."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class InterruptFlag:
    """Set by the first signal; a second one interrupts at once."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        """Whether the run should save and stop after the step at hand."""
        return self._set

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if self._set:
            raise KeyboardInterrupt
        self._set = True
        print(
            f"\n{signal.Signals(number).name}: finishing this step, then saving "
            "(once more: stop at once)",
            file=sys.stderr,
            flush=True,
        )


@contextmanager
def interrupt_flag() -> Iterator[InterruptFlag]:
    """Catch SIGINT and SIGTERM inside the block; the former handlers come back after it."""
    flag = InterruptFlag()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, flag.handle) for number in signals]
    try:
        yield flag
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
