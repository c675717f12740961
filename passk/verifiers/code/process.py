"""Start, limit and end the processes that check model-written code.

A fork server (`server.py`) makes the two processes of a check, which confine themselves before that
code runs: by seccomp, Landlock and resource limits. This module handles the wall clock, the scratch
folder and the limits of its content, the end of both processes, and their one outcome.
docs/reference/verifiers.md says what is limited and what is not.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from passk.verifiers.code.confinement import Limits
from passk.verifiers.code.judge import HEADER, STARTED
from passk.verifiers.code.remote_values import pack
from passk.verifiers.code.scratch import ScratchFolders
from passk.verifiers.code.server import REQUEST

# Added to the time limit: the judge ends on time by itself only while its tests call the solution.
_GRACE_SECONDS = 0.5
_LOOK_EVERY_SECONDS = 0.1
_GONE_SECONDS = 5.0  # for killed processes to end
_START_SECONDS = 30.0  # on a busy machine; not counted as the program's time
_MAX_FILES = 1000
_MAX_THREADS = 128
_MAX_SAID_BYTES = 1000
_OUTCOMES = ("correct", "wrong", "unparsed", "timeout", "error", "untested")
_PACKAGE_FOLDER = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, slots=True)
class Check:
    """A program and its tests. `prompt` may hold code; `solution` is the worked solution."""

    prompt: str
    code: str
    tests: str
    solution: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a check.

    `result` is `correct`, `wrong`, `unparsed`, `timeout`, `error` (the program was killed: a crash,
    memory, files, threads), `untested` (the tests test nothing or are not Python) or `not_started`:
    the program never ran, or the machine ended it. Then `refused` says what the machine lacks, if
    that is known.
    """

    result: str
    refused: str = ""


class _Server:
    """The fork server's process. It ends with this object or with this process."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_START_SECONDS)
        own = os.pidfd_open(os.getpid())
        # Not -I: it would ignore PYTHONHASHSEED, and the order of sets would differ between runs.
        # The package is last on the path and is removed again, so that it hides no module.
        start = f"import sys; sys.path.append({str(_PACKAGE_FOLDER)!r}); "
        start += "import passk.verifiers.code.server; sys.path.pop(); "
        start += f"passk.verifiers.code.server.serve({own})"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", "-X", "utf8", "-c", start],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                pass_fds=[own],
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(own)
        self.pid = self._process.pid

    def fork(self, start_by: float, limits: Limits, scratch: Path) -> socket.socket:
        """Start a check and return its channel; raise OSError if the server is gone."""
        ours, theirs = socket.socketpair()
        with ExitStack() as on_error, theirs:
            on_error.callback(ours.close)
            folder = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                request = REQUEST.pack(start_by, *limits)
                socket.send_fds(self._control, [request], [theirs.fileno(), folder])
            finally:
                os.close(folder)
            ours.settimeout(_START_SECONDS)
            on_error.pop_all()
        return ours

    def is_gone(self) -> bool:
        """Return True if the server has ended, which may be why a check ended silently."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LOOK_EVERY_SECONDS)
        return self._process.returncode is not None

    def end(self) -> None:
        """Kill the server, and with it the running checks."""
        self._control.close()
        self._process.kill()
        self._process.wait()


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


def _num_threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return 0


def _wait(descriptor: int, seconds: float) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(1000 * seconds)


def _kill(processes: list[int]) -> None:
    """Kill both processes, wait until they are gone, and close their descriptors."""
    for descriptor in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    until = time.monotonic() + _GONE_SECONDS
    for descriptor in processes:
        _wait(descriptor, max(0.0, until - time.monotonic()))
        os.close(descriptor)


def _outcome(said: bytes, ended_for: str) -> Outcome:
    """Read a judge's message: one word of a fixed set after `STARTED`, else a sentence."""
    word = said.removeprefix(STARTED).decode(errors="replace")
    if not said.startswith(STARTED):
        return Outcome("not_started", word)
    # Once the program runs, the program is the cause of any end of the check.
    return Outcome(ended_for or (word if word in _OUTCOMES else "error"))


def _listen(
    channel: socket.socket, pid: int, scratch: Path, limits: Limits, start_by: float
) -> tuple[bytes, str]:
    """Wait for the end; return the judge's message, and a reason if the check must be ended."""
    said, until = b"", start_by
    channel.settimeout(_LOOK_EVERY_SECONDS)
    while len(said) <= _MAX_SAID_BYTES:
        try:
            received = channel.recv(_MAX_SAID_BYTES)
        except TimeoutError:
            received = None
        except ConnectionResetError:  # it ended without reading everything
            break
        if received == b"":
            break
        if received is not None:
            until = until if said else time.monotonic() + limits.seconds + _GRACE_SECONDS
            said += received
            continue
        if time.monotonic() > until:
            return said, "timeout"
        if said and (_is_too_full(scratch, limits.file_bytes) or _num_threads(pid) > _MAX_THREADS):
            return said, "error"
    return said, ""


class Sandbox:
    """Runner of checks. Any number of threads may use it at once."""

    def __init__(self) -> None:
        self._scratch = ScratchFolders()
        self._lock = threading.Lock()
        self._servers: list[_Server] = []
        self.close = weakref.finalize(self, _close, self._servers, self._scratch)

    @property
    def folder(self) -> Path:
        """Folder of the scratch folders."""
        return self._scratch.folder

    def _server(self, lost: _Server | None) -> _Server:
        """Return the running server; start one if there is none but `lost`."""
        with self._lock:
            if self._servers and self._servers[-1] is lost:
                self._servers.pop().end()
            if not self._servers:
                self._servers.append(_Server())
            return self._servers[-1]

    def run(self, check: Check, limits: Limits) -> Outcome:
        """Run one check, in at most `limits.seconds` and the start of a process.

        Leaves nothing behind. Raises OSError if the machine has no room for a process. A check that
        ends because its server was killed is run once more.
        """
        server = self._server(None)
        outcome = self._run_once(server, check, limits)
        if outcome is None:
            server = self._server(server)
            outcome = self._run_once(server, check, limits)
        return outcome or Outcome("not_started")

    def _run_once(self, server: _Server, check: Check, limits: Limits) -> Outcome | None:
        """Run one check; return None if it was lost together with its server."""
        job = pack({name: getattr(check, name) for name in Check.__slots__})
        start_by = time.monotonic() + _START_SECONDS
        said, ended_for = b"", ""
        processes: list[int] = []
        with self._scratch.one() as scratch:
            try:
                with server.fork(start_by, limits, scratch) as channel:
                    with suppress(BrokenPipeError, ConnectionResetError):  # see its message
                        channel.sendall(job)
                    header, processes, *_ = socket.recv_fds(
                        channel, HEADER.size, 2, socket.MSG_CMSG_CLOEXEC
                    )
                    if len(header) == HEADER.size:
                        (pid,) = HEADER.unpack(header)
                        said, ended_for = _listen(channel, pid, scratch, limits, start_by)
            except (BrokenPipeError, ConnectionResetError):  # the server or the judge has ended
                pass
            finally:
                _kill(processes)
        is_silent = said in (b"", STARTED) and not ended_for
        return None if is_silent and server.is_gone() else _outcome(said, ended_for)


def _close(servers: list[_Server], scratch: ScratchFolders) -> None:
    while servers:
        servers.pop().end()
    scratch.close()
