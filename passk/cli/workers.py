"""Run pieces of work side by side in worker processes, each of which imports torch once.

SIGINT and SIGTERM are passed on to the workers, whose runs save and end.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import SpawnProcess
from multiprocessing.resource_tracker import ensure_running
from threading import Thread
from types import FrameType
from typing import Any, TextIO

from passk.cli.slots import end_with
from passk.console import open_streams, say, signals_handled
from passk.errors import DiskFull, Diverged, Interrupted, PolicyMismatch, RankFailure, UserError
from passk.files import keep, locks_held

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_LINES_SECONDS = 5.0
_WITH_SENTENCE = (UserError, PolicyMismatch, Diverged, DiskFull, RankFailure)


@dataclass(frozen=True)
class Piece:
    """A piece of work, and the name of the one that must be done before it begins."""

    name: str
    work: Callable[[], None]
    needs: str | None = None


def run_pieces(
    pieces: Sequence[Piece], slots: Sequence[Mapping[str, str]], prepare: Callable[[], None]
) -> None:
    """Run pieces, as many at a time as there are slots; a slot is the environment of a worker.

    With one slot they run in this process, in the given order. With several, each worker first
    calls `prepare`. The first error stops the pieces that still run, as a signal would, and is
    raised with the name of its piece. Raises Interrupted if a signal came.
    """
    if len(slots) == 1:
        for piece in pieces:
            piece.work()
        return
    workers = _Workers()
    with signals_handled(workers.stop):
        try:
            workers.start(slots, prepare)
            failed = workers.run(pieces)
        finally:
            workers.end()
    for name, error in failed[1:]:
        say(f"{name}: {error}")
    if failed:
        name, error = failed[0]
        raise type(error)(f"{name}: {error}")
    if workers.was_stopped:
        raise Interrupted


class _Workers:
    """Worker processes. State: those that live with their pieces, and if a signal came."""

    def __init__(self) -> None:
        self.was_stopped = False
        self._pieces: dict[Connection, Piece | None] = {}
        self._processes: dict[Connection, SpawnProcess] = {}

    def start(self, slots: Sequence[Mapping[str, str]], prepare: Callable[[], None]) -> None:
        """Start a worker in each slot, all at once. They hold signals back between pieces."""
        context = multiprocessing.get_context("spawn")
        ensure_running()  # else the first start would do so, and let signals through
        for slot in slots:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, os.getpid(), locks_held(), prepare)
            )
            with _signals_held(), _environment(slot):
                process.start()
                self._pieces[ours], self._processes[ours] = None, process
            theirs.close()

    def run(self, pieces: Sequence[Piece]) -> list[tuple[str, Exception]]:
        """Run the pieces; returns the errors, each with the name of its piece."""
        waiting, failed = list(pieces), list[tuple[str, Exception]]()
        while True:
            with _signals_held():
                if not failed and not self.was_stopped:
                    self._begin_pieces(waiting)
            if not any(self._pieces.values()):
                return failed
            ended = set(wait_for(self._pieces))
            for worker in [worker for worker in self._pieces if worker in ended]:
                failed += self._end_piece(worker, is_first=not failed)

    def _begin_pieces(self, waiting: list[Piece]) -> None:
        """Take pieces that are ready from those that wait, one for each idle worker."""
        running = [piece for piece in self._pieces.values() if piece is not None]
        idle = [worker for worker, piece in self._pieces.items() if piece is None]
        for worker, piece in zip(idle, _ready(waiting, running), strict=False):
            waiting.remove(piece)
            self._pieces[worker] = piece
            with suppress(OSError):  # it has died, which waiting for it shows
                worker.send(piece)

    def _end_piece(self, worker: Connection, *, is_first: bool) -> list[tuple[str, Exception]]:
        """Note that the piece of a worker has ended; returns its error, if it was one."""
        piece = self._pieces[worker]
        name = "a worker" if piece is None else piece.name
        try:
            error = worker.recv()
            self._pieces[worker] = None
        except (EOFError, OSError):
            error = RankFailure(_how_it_died(self._processes[worker]))
            del self._pieces[worker]
        if isinstance(error, Interrupted):
            self.was_stopped = True
            return []
        if error is None:
            return []
        if is_first and any(self._pieces.values()) and not self.was_stopped:
            print(f"{name} failed; the others save and stop", flush=True)
            self._signal(signal.SIGTERM)
        return [(name, error)]

    def stop(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal: pass it on, and begin nothing more."""
        self.was_stopped = True
        self._signal(number)

    def _signal(self, number: int) -> None:
        for worker, piece in self._pieces.items():
            pid = self._processes[worker].pid
            if piece is not None and pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def end(self) -> None:
        """End the workers; one that still runs a piece saves first."""
        self._signal(signal.SIGTERM)
        for worker, process in self._processes.items():
            worker.close()
            process.join()


@contextmanager
def _signals_held() -> Iterator[None]:
    """Hold signals back inside the block; a process that starts in it goes on doing so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _environment(slot: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that start in the block, which read them as they import."""
    before = dict(os.environ)
    os.environ.update(slot)
    try:
        yield
    finally:
        for name in slot:
            del os.environ[name]
        os.environ.update(before)


def _ready(waiting: Sequence[Piece], running: Collection[Piece]) -> list[Piece]:
    """Return the pieces that may begin; first those that others need."""
    unfinished = {piece.name for piece in (*waiting, *running)}
    ready = [piece for piece in waiting if piece.needs not in unfinished]
    needed = {piece.needs for piece in waiting}
    return sorted(ready, key=lambda piece: piece.name not in needed)


def _how_it_died(process: SpawnProcess) -> str:
    process.join()
    code = process.exitcode or 0
    if code >= 0:
        return f"its process ended with exit code {code}"
    return (
        f"its process was killed by {signal.Signals(-code).name}; resume=true goes on "
        "(if nobody killed it, the system may be short of memory: num_parallel=1 needs less)"
    )


def _serve(
    parent: Connection, parent_pid: int, locks: Sequence[Any], prepare: Callable[[], None]
) -> None:
    """Run pieces that the parent sends, until it closes the connection or ends.

    The worker holds the locks of the parent, and keeps them even if that is killed.
    """
    open_streams()
    os.setpgrp()  # a terminal's Ctrl-C reaches the parent, which passes it on
    end_with(parent_pid)
    keep(locks)
    prepare()
    with suppress(EOFError, OSError):
        while True:
            piece = parent.recv()
            with named_output(piece.name), signals_handled(_interrupt):
                error = _error_of(piece.work)
            parent.send(error)


def _error_of(work: Callable[[], None]) -> Exception | None:
    """Do the work, with signals let through; return its error."""
    try:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            work()
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    except (Interrupted, KeyboardInterrupt):
        return Interrupted()
    except _WITH_SENTENCE as error:
        return error
    except Exception as error:
        traceback.print_exception(error)
        return RankFailure(f"failed; see its traceback ({type(error).__name__}: {error})")
    return None


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def named_output(name: str) -> Iterator[None]:
    """Put `name: ` before each line that this process, or one that it starts, prints in the block.

    Each line is written at once, so that lines of several processes do not mix.
    """
    with _with_prefix(sys.stdout, f"{name}: "), _with_prefix(sys.stderr, f"{name}: "):
        yield


@contextmanager
def _with_prefix(stream: TextIO, prefix: str) -> Iterator[None]:
    stream.flush()
    kept = os.dup(stream.fileno())
    reader, writer = os.pipe()
    os.dup2(writer, stream.fileno())
    os.close(writer)
    copying = Thread(target=_copy_lines, args=(reader, kept, prefix.encode()), daemon=True)
    copying.start()
    try:
        yield
    finally:
        stream.flush()
        os.dup2(kept, stream.fileno())  # closes the pipe, unless a process of the piece still runs
        copying.join(_LAST_LINES_SECONDS)


def _copy_lines(reader: int, screen: int, prefix: bytes) -> None:
    with open(reader, "rb") as lines, open(screen, "wb", buffering=0) as to:
        for line in lines:
            if line.strip():
                to.write(prefix + line)
