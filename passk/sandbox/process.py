"""One check of code that a model wrote, as processes of their own: started, limited, ended.

The child (`judge.py`) confines itself before that code runs: seccomp, Landlock, resource limits.
Here: the wall clock, the scratch folder with what it may hold, and the end of both processes.
docs/sandbox.md says what is limited and what is not.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from passk.sandbox.confinement import Limits
from passk.sandbox.remote_values import pack

# The child ends on time by itself, as long as its tests call the solution; else this is added.
_GRACE_SECONDS = 0.5
_LOOK_EVERY_SECONDS = 0.1
_GONE_SECONDS = 5.0  # for what was killed to be reaped by process 1, if it does that
_START_SECONDS = 30.0  # on a busy machine; not counted as the program's time
_MAX_FILES = 1000
_MAX_THREADS = 128
_PACKAGE_FOLDER = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class Check:
    """A program and its tests. `prompt` may hold code, `solution` is the problem's own answer."""

    prompt: str
    code: str
    tests: str
    solution: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a check ended.

    `result` is `correct`, `wrong`, `unparsed`, `timeout`, `error` (the program was killed: a crash,
    memory, files, threads), `untested` (the tests call nothing or are no Python) or `not_started`:
    the program never ran, and `refused` says what the machine lacks, where that is known.
    """

    result: str
    refused: str = ""


def _memory_file(content: bytes = b"") -> BinaryIO:
    file = os.fdopen(os.memfd_create("passk-check"), "w+b")
    file.write(content)
    file.seek(0)
    return file


def _start(stdin: BinaryIO, stdout: BinaryIO, scratch: Path) -> subprocess.Popen[bytes]:
    # Not -I: it would ignore PYTHONHASHSEED, and the order of sets would differ between runs.
    # The package comes last on the path and leaves it again, so that it hides no module.
    start = f"import sys; sys.path.append({str(_PACKAGE_FOLDER)!r}); import passk.sandbox.judge; "
    start += "sys.path.pop(); passk.sandbox.judge.main()"
    return subprocess.Popen(
        [sys.executable, "-S", "-s", "-P", "-X", "utf8", "-c", start],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.DEVNULL,
        cwd=scratch,
        env={"PYTHONHASHSEED": "0"},
        start_new_session=True,
    )


def _is_too_full(scratch: Path, file_bytes: int) -> bool:
    num_files = num_bytes = 0
    with os.scandir(scratch) as entries:
        for entry in entries:
            try:
                num_bytes += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # removed since
                continue
            num_files += 1
            if num_files > _MAX_FILES or num_bytes > file_bytes:
                return True
    return False


def _beginning(stdout: BinaryIO) -> dict[str, Any]:
    """The child's first line, {} as long as there is none; stdout's position stays."""
    line, complete, _ = os.pread(stdout.fileno(), 1000, 0).partition(b"\n")
    return json.loads(line) if complete else {}


def _num_threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0


def _why_end(stdout: BinaryIO, scratch: Path, limits: Limits, start_by: float) -> str:
    """Why a check that runs has to be ended now; "" if it may go on."""
    began = _beginning(stdout)
    until = began["deadline"] + _GRACE_SECONDS if "deadline" in began else start_by
    if time.monotonic() > until:
        return "timeout"
    too_many_threads = "ready" in began and _num_threads(began["ready"]) > _MAX_THREADS
    return "error" if too_many_threads or _is_too_full(scratch, limits.file_bytes) else ""


def _wait(pid: int, why_end: Callable[[], str]) -> str:
    """Wait for the child, without reaping it: "" if it ended by itself, else why it was ended.

    It is asked first, as it then reaps the program's process: a container's process 1 may not.
    """
    descriptor = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not poll.poll(1000 * _LOOK_EVERY_SECONDS):
            if reason := why_end():
                os.kill(pid, signal.SIGTERM)
                poll.poll(1000 * _GRACE_SECONDS)
                return reason
        return ""
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the child's group, and wait until nothing is."""
    os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still the child's
    process.wait()
    until = time.monotonic() + _GONE_SECONDS
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.005)


def _outcome(lines: list[bytes], ended_for: str) -> Outcome:
    said: dict[str, Any] = {}
    for line in lines:
        said |= json.loads(line)
    if "ready" not in said:
        return Outcome("not_started", said.get("refused", ""))
    # Once the program runs, whatever ends the check is the program's doing.
    return Outcome(ended_for or said.get("outcome", "error"))


def run_check(check: Check, limits: Limits) -> Outcome:
    """Run one check, which takes `limits.seconds` and the start of a process at the most.

    Leaves nothing behind. Any number of threads may call it. OSError where the machine has no room
    for a process.
    """
    start_by = time.monotonic() + _START_SECONDS
    program = {"prompt": check.prompt, "code": check.code}
    first = {
        "limits": limits._asdict(),
        "parent": os.getpid(),
        "start_by": start_by,
        "program": program,
    }
    second = {"tests": check.tests, "solution": check.solution}
    scratch = Path(tempfile.mkdtemp(prefix="passk-check-"))
    try:
        with _memory_file(pack(first) + pack(second)) as stdin, _memory_file() as stdout:
            process = _start(stdin, stdout, scratch)
            try:
                ended_for = _wait(process.pid, lambda: _why_end(stdout, scratch, limits, start_by))
            finally:
                _end(process)
            stdout.seek(0)
            return _outcome(stdout.readlines(), ended_for)
    finally:
        shutil.rmtree(scratch)
