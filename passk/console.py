"""Console input and output: streams, sentences on stderr, progress, Ctrl-C and SIGTERM."""

import codecs
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from passk.errors import UserError


def say(sentence: str) -> None:
    """Print a sentence on stderr."""
    with suppress(OSError):  # no room, or a closed pipe: the exit code still says it
        print(f"passk: {sentence}", file=sys.stderr, flush=True)


def open_streams() -> None:
    """Open the standard streams that this process was started without, as by `>&-`.

    Their output is discarded. Files that are opened later then cannot get the numbers 0 to 2, to
    which libraries print.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            raw = io.FileIO(number, "w" if number else "r", closefd=False)
            buffered = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
            text = io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, text)
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a model may write any text


def restart_in_utf8(environment: Mapping[str, str]) -> None:
    """Start this program again in UTF-8 mode if file names are limited to ASCII, as by LC_ALL=C."""
    is_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if is_ascii and environment.get("PYTHONUTF8") != "1":
        words = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**environment, "PYTHONUTF8": "1"})


def check_words(words: Sequence[str]) -> None:
    """Raise UserError if a word of the command line is not UTF-8."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{word!a} is not UTF-8: rename the file that it names, or type it as UTF-8"
            ) from None


def lose_output() -> None:
    """Discard further output, since nobody reads it or there is no room.

    Otherwise Python reports an error when it flushes stdout at exit.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_PLAIN_EVERY_SECONDS = 5.0


class Display:
    """Progress of a run in steps, or of an evaluation in problems."""

    def __init__(self, name: str, num_steps: int, bar: Progress | None) -> None:
        self.name = name
        self.num_steps = num_steps
        self._bar = bar
        self._task = bar.add_task(name, total=num_steps, shown="") if bar else None
        self._first: tuple[int, float] | None = None
        self._last_plain = -_PLAIN_EVERY_SECONDS

    def step(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Show that `done` steps are complete; `metrics` is the line just logged."""
        shown = _describe(metrics)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, shown=shown)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        if now - self._last_plain >= _PLAIN_EVERY_SECONDS or done == self.num_steps:
            self._last_plain = now
            line = f"{self.name} {done}/{self.num_steps}  {shown}{self._left(done, now)}"
            print(line.rstrip(), flush=True)

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        else:
            print(text, flush=True)

    def _left(self, done: int, now: float) -> str:
        assert self._first is not None
        first_done, first_time = self._first
        if done == first_done or done == self.num_steps:
            return ""
        seconds = (now - first_time) / (done - first_done) * (self.num_steps - done)
        return f"  {seconds:.0f} s left" if seconds < 120 else f"  {seconds / 60:.0f} min left"


@contextmanager
def display(name: str, num_steps: int, done: int = 0) -> Iterator[Display]:
    """Open a `Display` for a run that has completed `done` steps."""
    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:  # a line cannot be redrawn
        yield Display(name, num_steps, None)
        return
    with Progress(
        TextColumn("[bold]{task.description}[/] {task.completed:.0f}/{task.total:.0f}"),
        BarColumn(bar_width=8),  # the line fits a terminal of 80 columns
        TextColumn("{task.fields[shown]}"),
        TimeRemainingColumn(compact=True),
        console=console,
    ) as bar:
        shown = Display(name, num_steps, bar)
        shown.step(done, {})
        yield shown


def _describe(metrics: Mapping[str, Any]) -> str:
    """Format reward (SFT: the loss), batch estimates of Pass@1 and Pass@k, and the speed.

    An evaluation shows Pass@1 alone, over the problems so far.
    """
    shown = []
    if metrics.get("reward_mean") is not None:
        shown.append(f"reward {metrics['reward_mean']:.3f}")
    elif metrics.get("loss") is not None:
        shown.append(f"loss {metrics['loss']:.4f}")
    if "passk" not in metrics and metrics.get("pass1") is not None:
        shown.append(f"Pass@1 {metrics['pass1']:.3f}")
    if metrics.get("passk") is not None:
        shown.append(f"Pass@1/{metrics['k']} {metrics['pass1']:.3f}/{metrics['passk']:.3f}")
    shown += [text] if (text := _speeds(metrics)) else []
    return "  ".join(shown)


def _speeds(metrics: Mapping[str, Any]) -> str:
    """Format tokens a second: of a step, its sampler, its learner; an evaluation only samples."""
    step, sampler, learner = (
        metrics.get(name) for name in ("tokens_per_second", "sampled_per_second", "fed_per_second")
    )
    if step is None:
        return f"{_thousands(sampler)} tok/s" if sampler else ""
    parts = [f"{_thousands(step)} tok/s"]
    parts += [f"sampler {_thousands(sampler)}"] if sampler else []
    parts += [f"learner {_thousands(learner)}"] if learner else []
    return ", ".join(parts)


def _thousands(number: float) -> str:
    return f"{number / 1000:.0f}k" if number >= 1000 else f"{number:.0f}"


_ONE_WORD_SECONDS = 0.3  # a killed launcher signals its ranks once for each of its threads


class InterruptFlag:
    """Flag that the first signal sets. A second signal, a moment later, interrupts at once."""

    def __init__(self, unit: str, *, silent: bool = False) -> None:
        self._unit = unit
        self._silent = silent
        self._set = False
        self._first = 0.0

    def is_set(self) -> bool:
        """Return True if the run should save and stop after the current unit."""
        return self._set

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: set the flag, or raise KeyboardInterrupt if it is set already."""
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
    """Catch SIGINT and SIGTERM inside the block, and restore the former handlers after it.

    The message on stderr says that the current `unit` is finished first; `silent` prints none.
    """
    flag = InterruptFlag(unit, silent=silent)
    with signals_handled(flag.handle):
        yield flag


@contextmanager
def signals_handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGINT and SIGTERM inside the block, and restore the former handlers after it."""
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, handle) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)
