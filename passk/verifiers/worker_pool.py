"""Pool of processes that can be killed: a task that hangs or crashes affects no other task.

A process may be killed for a reason other than its task, such as a machine out of memory. So the
task is tried once more in another process, and such a kill changes no result. For the same reason,
a process that the machine gave too little processor time gets longer.

The pool uses `subprocess` and pipes only: a fork of a process that holds torch or vLLM threads can
deadlock, and an alarm works in the main thread alone.
"""

import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

START_SECONDS = 120.0  # imports, on a busy machine
_LEAST_USED = 0.5  # share of the time limit; a process with less processor time did not hang
_MOST_WAITS = 12  # time limits that a process may take to get that much processor time
_MAX_REQUEST_BYTES = 32_768  # half a pipe's capacity: a write to a waiting worker cannot block


class WorkerHung(Exception):
    """A task took longer than its time limit; its process is gone."""


class WorkerStarved(Exception):
    """The machine gave a process too little processor time for its task; the process is gone."""


class WorkerCrashed(Exception):
    """The process ended before the result, the task is too large, or the pool was closed."""


class WorkerPool:
    """Pool of up to `num_workers` processes of `python -m module`, started when a task needs one.

    A worker reads `limits` as its first line and answers with a line when it is ready. After that
    every line is a task, and one line is its result, all in JSON. State: the processes.
    """

    def __init__(
        self, module: str, limits: Mapping[str, Any], num_workers: int, timeout_seconds: float
    ) -> None:
        workers = [_Worker(module, limits, timeout_seconds) for _ in range(num_workers)]
        # Last in, first out: with few tasks at a time, few processes are busy.
        self._idle = queue.LifoQueue[_Worker]()
        for worker in workers:
            self._idle.put(worker)
        self._workers = workers
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix=module)
        self._is_closed = False

    def map(self, tasks: Sequence[Any]) -> list[Any]:
        """Return the result of each task, in order.

        The result of a lost task is `WorkerHung`, `WorkerStarved` or `WorkerCrashed`. Raises
        RuntimeError if a worker does not start.
        """
        if self._is_closed:
            return [WorkerCrashed("the pool was closed") for _ in tasks]
        return list(self._threads.map(self._run, tasks))

    def _run(self, task: Any) -> Any:
        worker = self._idle.get()
        try:
            try:
                return worker.run(task)
            except WorkerCrashed:
                return worker.run(task)
        except (WorkerHung, WorkerStarved, WorkerCrashed) as lost:
            return lost
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End all processes, including busy ones."""
        self._is_closed = True
        for worker in self._workers:
            worker.stop()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.end()


class _Worker:
    """One process, which is started again after it was lost."""

    def __init__(self, module: str, limits: Mapping[str, Any], timeout_seconds: float) -> None:
        self._module = module
        self._limits = limits
        self._timeout_seconds = timeout_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def run(self, task: Any) -> Any:
        """Return the result of one task."""
        request = json.dumps(task).encode() + b"\n"
        if len(request) > _MAX_REQUEST_BYTES:
            raise WorkerCrashed(f"a task of {len(request)} bytes is more than a worker takes")
        if self._is_stopped:
            raise WorkerCrashed("the pool was closed")
        process = self._process or self._start()
        try:
            return self._ask(process, request, self._timeout_seconds)
        except (WorkerHung, WorkerStarved, WorkerCrashed):
            self.end()
            raise

    def _start(self) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the parent, which may still need the worker
            )
            self._process = process
            try:
                self._ask(process, json.dumps(self._limits).encode() + b"\n", START_SECONDS)
            except (WorkerHung, WorkerStarved, WorkerCrashed) as lost:
                self.end()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RuntimeError(
                    f"a worker (python -m {self._module}) did not start: {said or lost}"
                ) from lost
        if self._is_stopped:
            self.end()
            raise WorkerCrashed("the pool was closed")
        return process

    @staticmethod
    def _ask(process: subprocess.Popen[bytes], request: bytes, timeout_seconds: float) -> Any:
        assert process.stdin is not None and process.stdout is not None
        begun, used_before = time.monotonic(), _processor_seconds(process.pid)
        num_waits = 1
        try:
            process.stdin.write(request)
        except BrokenPipeError as error:
            raise WorkerCrashed("the process has ended") from error
        waiting, answer = select.poll(), b""
        waiting.register(process.stdout, select.POLLIN)
        while not answer.endswith(b"\n"):
            left = begun + num_waits * timeout_seconds - time.monotonic()
            if left <= 0 or not waiting.poll(left * 1000):
                used = _processor_seconds(process.pid) - used_before
                if used >= _LEAST_USED * timeout_seconds:
                    raise WorkerHung(f"no result within {timeout_seconds:g} s")
                if num_waits == _MOST_WAITS:
                    raise WorkerStarved(f"{used:g} s of a processor within {_MOST_WAITS} limits")
                num_waits += 1
                continue
            received = process.stdout.read(1 << 16)
            if not received:
                raise WorkerCrashed("the process ended before its result")
            answer += received
        return json.loads(answer)

    def stop(self) -> None:
        """Kill the process from another thread; the thread that waits for it sees it end."""
        self._is_stopped = True
        process = self._process
        if process is not None:
            process.kill()

    def end(self) -> None:
        """Kill the process and close its pipes."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()


def _processor_seconds(pid: int) -> float:
    """Return the processor time of a process; without /proc, wall-clock time instead."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return time.monotonic()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
