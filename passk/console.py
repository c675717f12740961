"""Console input and output: streams, sentences on stderr, progress, Ctrl-C and SIGTERM."""

import codecs
import io
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from threading import Event, Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

from passk.errors import UserError

if TYPE_CHECKING:  # imported with the first bar: most commands start without a terminal or end soon
    from rich.progress import Progress


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


SILENT_SECONDS = 5.0  # of a phase, before it shows anything
LINE_EVERY_SECONDS = 30.0  # of a phase, where there is no terminal
_STEP_EVERY_SECONDS = 5.0  # between lines of steps

# What shows progress at present: phases inside a phase are silent, those inside a run are not.
_SHOWN: ContextVar["Display | Phase | None"] = ContextVar("shown", default=None)
# Time of the last line, so that many short phases in a row do not add up to a long silence.
_LAST_LINE: ContextVar[float] = ContextVar("last_line")


class Display:
    """Progress of a run in steps, or of an evaluation in problems."""

    def __init__(self, name: str, num_steps: int, bar: "Progress | None") -> None:
        self.name = name
        self.num_steps = num_steps
        self._bar = bar
        self._task = bar.add_task(name, total=num_steps, shown="") if bar else None
        self._first: tuple[int, float] | None = None
        self._last_step = -_STEP_EVERY_SECONDS

    def step(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Show that `done` steps are complete; `metrics` is the line just logged."""
        shown = _describe(metrics)
        now = time.monotonic()
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, shown=shown)
            _LAST_LINE.set(now)
            return
        if self._first is None:
            self._first = (done, now)
        if now - self._last_step >= _STEP_EVERY_SECONDS or done == self.num_steps:
            self._last_step = now
            _LAST_LINE.set(now)
            line = f"{self.name} {done}/{self.num_steps}  {shown}{self._left(done, now)}"
            print(line.rstrip(), flush=True)

    def say(self, text: str) -> None:
        """Print a line above the live one."""
        _LAST_LINE.set(time.monotonic())
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
        return f"  {_duration(seconds)} left"


@contextmanager
def display(name: str, num_steps: int, done: int = 0) -> Iterator[Display]:
    """Open a `Display` for a run that has completed `done` steps."""
    if not _redraws_lines():
        shown = Display(name, num_steps, None)
        with _showing(shown):
            yield shown
        return
    from rich import get_console, progress

    with progress.Progress(
        progress.TextColumn("[bold]{task.description}[/] {task.completed:.0f}/{task.total:.0f}"),
        progress.BarColumn(bar_width=8),  # the line fits a terminal of 80 columns
        progress.TextColumn("{task.fields[shown]}"),
        progress.TimeRemainingColumn(compact=True),
        console=get_console(),  # that of all bars: they are drawn below one another
    ) as bar:
        shown = Display(name, num_steps, bar)
        shown.step(done, {})
        with _showing(shown):
            yield shown


class Phase:
    """Progress of one phase, shown by a thread. State: units done, the time of the last line."""

    def __init__(self, title: str, total: int | None, unit: str) -> None:
        self._title = title
        self._total = total
        self._unit = unit
        self._num_done = 0
        self._started = time.monotonic()
        self.last_line = _LAST_LINE.get(self._started)
        self._ended = Event()
        self._bar: Progress | None = None
        self._thread = Thread(target=self._show, name="progress", daemon=True)

    def advance(self, num_units: int = 1) -> None:
        """Show that so many more units are done."""
        self._num_done += num_units
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._num_done)

    def start(self) -> None:
        """Start the thread; it shows nothing before `SILENT_SECONDS`."""
        self._thread.start()

    def end(self) -> None:
        """End the thread and remove the bar."""
        self._ended.set()
        self._thread.join()
        if self._bar is not None:
            self.last_line = time.monotonic()
            self._bar.stop()
            self._bar.live.refresh()  # redraws the run's bar, without this one below it

    def _show(self) -> None:
        due = min(self._started + SILENT_SECONDS, self.last_line + LINE_EVERY_SECONDS)
        wait = due - time.monotonic()
        while not self._ended.wait(wait):
            if _redraws_lines():
                self._bar = self._open_bar()
                return
            with suppress(OSError, ValueError):  # nobody reads it: the command's own output says so
                print(self._line(), flush=True)
            self.last_line = time.monotonic()
            wait = LINE_EVERY_SECONDS

    def _line(self) -> str:
        done, seconds = self._num_done, time.monotonic() - self._started
        if self._total is None:
            return f"{self._title} ({_duration(seconds)})"
        line = f"{self._title} {done:,}/{self._total:,} {self._unit}"
        if not 0 < done < self._total:
            return f"{line} ({_duration(seconds)})"
        return f"{line}, {_duration(seconds / done * (self._total - done))} left"

    def _open_bar(self) -> "Progress":
        from rich import get_console, progress

        words = "{task.description}"
        if self._total is not None:
            words += " {task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"
        bar = progress.Progress(
            progress.TextColumn(words, markup=False),
            progress.BarColumn(bar_width=8),
            progress.TimeElapsedColumn()
            if self._total is None
            else progress.TimeRemainingColumn(compact=True),
            console=get_console(),
            transient=True,
        )
        bar.add_task(self._title, total=self._total, completed=self._num_done, unit=self._unit)
        bar.start()
        return bar


@contextmanager
def working(title: str, total: int | None = None, unit: str = "") -> Iterator[Phase]:
    """Show the progress of a phase that may take long, counted in `unit`s by `Phase.advance`.

    Nothing is shown for `SILENT_SECONDS`. Then there is a bar on a terminal, elsewhere a line every
    `LINE_EVERY_SECONDS`, also if nothing advances. A phase inside another one shows nothing.
    """
    outer = _SHOWN.get()
    phase = Phase(f"{outer.name}: {title}" if isinstance(outer, Display) else title, total, unit)
    if isinstance(outer, Phase):
        yield phase
        return
    with _showing(phase):
        try:
            phase.start()
            yield phase
        finally:
            phase.end()
            _LAST_LINE.set(phase.last_line)


@contextmanager
def _showing(shown: Display | Phase) -> Iterator[None]:
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def _redraws_lines() -> bool:
    """Return True if stdout is a terminal on which a line can be redrawn."""
    stdout = getattr(sys.stdout, "rich_proxied_file", sys.stdout)  # while another bar is shown
    if not stdout.isatty():
        return False
    from rich import get_console

    return not get_console().is_dumb_terminal


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


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
