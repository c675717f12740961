"""Run the cells of a sweep as processes that start fresh, resume, and fail independently.

With any launcher, a cell is `passk COMMAND OVERRIDES` in a process of its own, so none leaves
memory, threads or an engine behind for the next.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from passk.cli.slots import end_with, gpu_slots, gpus, num_cores
from passk.config.words import in_quotes
from passk.console import signals_handled
from passk.errors import UserError
from passk.files import only_writer, read_manifest
from passk.runs.ledger import (
    INTERRUPTED,
    REFUSED,
    Attempt,
    Cell,
    attempting,
    cell_dir,
    cell_file,
    end_attempt,
    log_file,
    now,
    read_cell,
    write_cell,
)

CELL = "PASSK_CELL"  # names the ledger file of the cell that a process runs
RESUMABLE = ("train", "eval", "reproduce", "filter")
# A requeued Slurm job does not mean that a cell resumes; the ledger decides that.
_NEW_JOB = {"SLURM_RESTART_COUNT": "0"}


@dataclass(frozen=True)
class HowToRun:
    """How the cells of a sweep are run: further tries, cells at a time, words for every cell."""

    sweep_dir: Path
    retries: int
    num_parallel: int
    flags: Sequence[str]


class Crew:
    """Runs several cells at a time. State: the processes, and if it was asked to stop."""

    def __init__(self, how: HowToRun) -> None:
        """Prepare the slots.

        A cell that runs alone writes where this process does, others to files of the ledger.
        """
        self._how = how
        self._slots = slot_environments(how.num_parallel, os.environ)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._was_stopped = False

    def run(self, cells: Sequence[Cell]) -> bool:
        """Run the cells; returns True if a signal to stop came.

        SIGINT and SIGTERM are passed on to the cells, which save and end, and no others start.
        """
        with signals_handled(self._stop), ThreadPoolExecutor(self._how.num_parallel) as threads:
            try:
                for ended in [threads.submit(self._run_cell, cell) for cell in cells]:
                    ended.result()
            except BaseException:  # also what submitit raises when a job's time is over
                self._stop(signal.SIGTERM)
                raise
        return self._was_stopped

    def _stop(self, number: int, _frame: FrameType | None = None) -> None:
        self._was_stopped = True
        for process in tuple(self._running):
            process.send_signal(number)

    def _run_cell(self, cell: Cell) -> None:
        """Run a cell until it ends well, was tried often enough, or a signal to stop came."""
        slot = self._slots.pop(0)  # there are as many as threads
        for _ in range(1 + self._how.retries):
            if self._was_stopped:
                break
            started, process = now(), self._start(cell, slot)
            self._running.add(process)
            if self._was_stopped:  # a signal came during its start
                process.send_signal(signal.SIGTERM)
            process.wait()
            self._running.remove(process)
            ended = self._note_end(cell, process, started)
            if not ended.has_failed or ended.code == REFUSED:  # it would be refused again
                break
        self._slots.append(slot)

    def _start(self, cell: Cell, slot: Mapping[str, str]) -> subprocess.Popen[bytes]:
        file, run_dir = (
            cell_file(self._how.sweep_dir, cell.name),
            self._how.sweep_dir / cell.run_dir,
        )
        words = [sys.executable, "-m", "passk", cell.command, *cell.overrides, *self._how.flags]
        words += ["hydra.mode=RUN"]  # overrides a file of the configuration
        words += [f"hydra.run.dir={in_quotes(str(run_dir))}"]
        has_screen = self._how.num_parallel == 1
        log = log_file(self._how.sweep_dir, cell.name)
        with nullcontext() if has_screen else log.open("ab") as screen:
            return subprocess.Popen(
                words,
                env=os.environ | slot | {CELL: f"{file}:{os.getpid()}"} | _NEW_JOB,
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
                process_group=0,  # a terminal's Ctrl-C reaches us, and we pass it on
            )

    def _note_end(self, cell: Cell, process: subprocess.Popen[bytes], started: str) -> Cell:
        """Return the ended cell; if it died without recording that, record it here."""
        code = process.returncode
        # Stopped before it had begun; during an import it may end with any code.
        if -code in (signal.SIGINT, signal.SIGTERM) or (code and self._was_stopped):
            code = INTERRUPTED
        file = cell_file(self._how.sweep_dir, cell.name)
        cell = read_cell(file)
        if cell.last is None or cell.last.pid != process.pid:
            if code == 0:  # another process had just finished it
                return cell
            lost = Attempt(start=started, host=os.uname().nodename, pid=process.pid)
            write_cell(self._how.sweep_dir, replace(cell, attempts=(*cell.attempts, lost)))
        return end_attempt(file, code, _how_it_died(code))


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no message"
    name = signal.Signals(-code).name
    hint = " (the system may be short of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def be_cell(announced: str, words: list[str], run: Callable[[list[str]], tuple[int, str]]) -> int:
    """Run `words` as the cell that the environment announced; returns the exit code.

    The last sentence goes into the ledger, and the sweep prints it.
    """
    name, _, parent = announced.rpartition(":")
    file = Path(name)
    end_with(int(parent))
    with attempting(file) as has_work:
        if not has_work:
            return 0
        cell = read_cell(file)
        try:
            more = _going_on(cell, cell_dir(file, cell))
        except UserError as error:  # another process writes there
            end_attempt(file, REFUSED, str(error))
            return REFUSED
        code, said = (0, "") if more is None else run([*words, *more])
        end_attempt(file, code, said)
        return code


def _going_on(cell: Cell, run_dir: Path) -> list[str] | None:
    """Return the words that make a cell resume from earlier attempts, or None if it is done.

    The directory is removed if the command cannot resume. A directory whose contents no attempt of
    this cell made is neither resumed from nor touched: the command refuses it.
    """
    if not cell.owns_dir or not run_dir.is_dir():
        return []
    with suppress(UserError):  # the command itself reports a broken manifest
        if read_manifest(run_dir).get("status") == "finished":
            return None  # killed after its last file, before the ledger's
    if cell.command in RESUMABLE:
        return ["resume=true"] if (run_dir / "config.yaml").is_file() else []
    if not run_dir.is_symlink():  # a link leads to files that the user keeps elsewhere
        with only_writer(run_dir):
            shutil.rmtree(run_dir)
    return []


def slot_environments(num_parallel: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the environment of each slot for parallel cells: its share of GPUs, or of cores.

    With fewer GPUs than cells, cells share a GPU.
    """
    names = gpus(environment)
    if names or num_parallel == 1 or "OMP_NUM_THREADS" in environment:
        return gpu_slots(names, num_parallel)
    return [{"OMP_NUM_THREADS": str(max(1, num_cores(environment) // num_parallel))}] * num_parallel
