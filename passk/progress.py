"""What a run shows on the screen: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

_PLAIN_EVERY_SECONDS = 5.0


class Display:
    """Shows steps of a run or problems of an evaluation: `step` after some, `say` for a line."""

    def __init__(self, name: str, num_steps: int, bar: Progress | None) -> None:
        self.name = name
        self.num_steps = num_steps
        self._bar = bar
        self._task = bar.add_task(name, total=num_steps, shown="") if bar else None
        self._first: tuple[int, float] | None = None
        self._last_plain = -_PLAIN_EVERY_SECONDS

    def step(self, done: int, metrics: Mapping[str, Any]) -> None:
        """`done` steps are behind us; `metrics` is the line just logged."""
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
    """A `Display` for the length of a run that has `done` steps behind it."""
    console = Console()
    if not sys.stdout.isatty() or console.is_dumb_terminal:  # where a line cannot be drawn again
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
    """Reward and batch estimates of Pass@1 and Pass@k (SFT: the loss), and the speed.

    An evaluation has Pass@1 alone: of the problems so far.
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
    if metrics.get("tokens_per_second") is not None:
        speed = metrics["tokens_per_second"]
        shown.append(f"{speed / 1000:.0f}k tok/s" if speed >= 1000 else f"{speed:.0f} tok/s")
    return "  ".join(shown)
