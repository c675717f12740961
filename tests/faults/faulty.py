"""Starts passk again and again, each time with something that happens to it. Run as a program.

Reads a `Job` a line, forks a child that is that run, and answers with a line of how it ended. The
imports, which take longer than the runs, are made once; no thread but an allocator's runs before
the fork. In the child every phase marks its beginning and end in a file. Where the job has a fault,
it strikes in the course of a phase's m-th time: after a part of the seconds the phase took before.
"""

import ctypes
import json
import os
import re
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any

_DEFAULT_SECONDS = 0.005  # of a phase that has not come to an end before
_PARTIAL_CHECKPOINT = re.compile(r"checkpoints/\.step-\d+\.partial$")


@dataclass(frozen=True)
class Fault:
    """What happens: `signal` a part of the way through the phase, or no more `room` from its start.

    `room` is what is left on the disk at `ballast`, or, without one, of the size of a file.
    """

    phase: str
    occurrence: int = 1
    part: float = 0.0
    signal: int = 0
    room: int = 0
    ballast: str = ""


@dataclass(frozen=True)
class Job:
    """A command line of passk, the folder for what it says and does, and its fault."""

    arguments: list[str]
    notes: str
    fault: Fault | None = None


class Phases:
    """Marks phases in a file that outlives a kill, and lets the fault strike. State: its counts."""

    def __init__(self, marks: Path, fault: Fault | None) -> None:
        self._file = os.open(marks, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fault = fault
        self._counts: Counter[str] = Counter()
        self._began: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._kill_after = alarm(fault.signal) if fault and fault.signal else None

    def enter(self, phase: str) -> None:
        self._write(f"+{phase}\n")
        self._counts[phase] += 1
        self._began[phase] = time.perf_counter()
        fault = self._fault
        if fault is None or (phase, self._counts[phase]) != (fault.phase, fault.occurrence):
            return
        if self._kill_after:
            self._kill_after(fault.part * self._seconds.get(phase, _DEFAULT_SECONDS))
        elif fault.ballast:
            fill_disk(Path(fault.ballast), fault.room)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (fault.room, resource.RLIM_INFINITY))

    def leave(self, phase: str) -> None:
        self._seconds[phase] = time.perf_counter() - self._began.pop(phase)
        self._write(f"-{phase}\n")

    def _write(self, line: str) -> None:
        with suppress(OSError):  # files may not grow any more: that is the fault
            os.write(self._file, line.encode())

    def mark(self, owner: Any, name: str, phase: str) -> None:
        """Make every call of `owner.name` a phase."""
        function: Callable[..., Any] = getattr(owner, name)

        @wraps(function)
        def marked(*arguments: Any, **named: Any) -> Any:
            self.enter(phase)
            try:
                return function(*arguments, **named)
            finally:
                self.leave(phase)

        setattr(owner, name, marked)

    def watch_checkpoints(self) -> None:
        """A checkpoint is written from when its folder is made until that gets its own name."""

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event not in ("os.mkdir", "os.rename"):
                return
            is_begun = "checkpoint write" in self._began  # made in vain before its parent is
            if _PARTIAL_CHECKPOINT.search(os.fsdecode(arguments[0])):
                if event == "os.rename":
                    self.leave("checkpoint write")
                elif not is_begun:
                    self.enter("checkpoint write")

        sys.addaudithook(hook)


class _Sigevent(ctypes.Structure):
    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class _Timespecs(ctypes.Structure):
    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


def alarm(number: int) -> Callable[[float], None]:
    """Lets the kernel signal this process after some seconds, whatever it does then.

    A thread or a handler would have to wait until Python lets it run.
    """
    libc, timer = ctypes.CDLL(None, use_errno=True), ctypes.c_void_p()
    event = _Sigevent(None, number, 0)
    if libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
        raise OSError(ctypes.get_errno(), "timer_create")

    def after(seconds: float) -> None:
        once = _Timespecs((0, 0), divmod(max(1, int(seconds * 1e9)), 10**9))
        if libc.timer_settime(timer, 0, ctypes.byref(once), None):
            raise OSError(ctypes.get_errno(), "timer_settime")

    return after


def fill_disk(ballast: Path, room: int) -> None:
    """Write a file until the disk is full, and cut it so that `room` bytes are free."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\1" * 4096)
        except OSError:
            file.truncate(max(0, file.tell() - room))


def mark_phases(phases: Phases) -> None:
    """Before the commands are imported."""
    import passk.rollout.rollout

    phases.mark(passk.rollout.rollout, "rollout", "rollout")  # first: others import it by name
    import passk.learner.learner
    import passk.runs.writer
    import passk.verifiers.base
    import passk.verifiers.math.verifier

    for verifier in (
        passk.verifiers.base.ConventionsVerifier,
        passk.verifiers.math.verifier.MathVerifier,
    ):
        phases.mark(verifier, "verify", "verify")
    phases.mark(passk.learner.learner.Learner, "accumulate_gradient", "backward")
    for method, phase in (
        ("start", "start"),
        ("rewind", "rewind"),
        ("write_eval", "table write"),
        ("write_rollouts", "rollout file"),
        ("log", "metrics line"),
    ):
        phases.mark(passk.runs.writer.Run, method, phase)
    phases.watch_checkpoints()


def be(job: Job) -> None:
    """Be the run, to its end."""
    notes = Path(job.notes)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(notes / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    mark_phases(Phases(notes / "marks", job.fault))
    from passk.cli.main import main

    code = main(job.arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def serve() -> None:
    import_libraries()
    for line in sys.stdin:
        words = json.loads(line)
        fault = Fault(**words["fault"]) if words["fault"] else None
        child = os.fork()
        if child == 0:
            be(Job(words["arguments"], words["notes"], fault))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def import_libraries() -> None:
    """All that takes long: what passk itself imports, but not passk, whose parts are marked."""
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import pandas  # noqa: F401
    import scipy.stats  # noqa: F401
    import torch.distributed.launcher.api
    import torch.optim  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401


def as_line(job: Job) -> str:
    return json.dumps(asdict(job)) + "\n"


if __name__ == "__main__":
    serve()
