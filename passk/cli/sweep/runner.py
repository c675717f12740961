"""Run the cells of a sweep as processes that start fresh, resume, and fail independently.

With any launcher, a cell is `passk COMMAND OVERRIDES` in a process of its own, so none leaves
memory, threads or an engine behind for the next.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

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
from passk.text import in_quotes

CELL = "PASSK_CELL"  # names the ledger file of the cell that a process runs
RESUMABLE = ("train", "eval", "reproduce", "filter")
# A requeued Slurm job does not mean that a cell resumes; the ledger decides that.
_NEW_JOB = {"SLURM_RESTART_COUNT": "0"}
_LOOK_EVERY_SECONDS = 0.05
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class _Child:
    """A cell that is running."""

    cell: Cell
    process: subprocess.Popen[bytes]
    started: str
    tries_left: int
    slot: int


class Crew:
    """Runs several cells at a time. State: the processes, and if it was asked to stop."""

    def __init__(
        self,
        sweep_dir: Path,
        *,
        num_parallel: int,
        retries: int,
        to_screen: bool,
        flags: Sequence[str] = (),
    ) -> None:
        """Prepare the slots; `flags` are words for every cell.

        With `to_screen` a cell writes where this process does, else to a file in the ledger's
        folder.
        """
        self._sweep_dir = sweep_dir
        self._retries = retries
        self._flags = flags
        self._to_screen = to_screen
        self._environments = slot_environments(num_parallel, os.environ)
        self._free = deque(range(num_parallel))
        self._children: list[_Child] = []
        self.was_stopped = False

    def start(self, cell: Cell) -> None:
        """Start a cell as soon as there is a slot for it, unless a signal to stop came."""
        while not self._free and not self.was_stopped:
            self._look()
        if not self.was_stopped:
            self._spawn(cell, self._free.popleft(), self._retries)

    def wait(self) -> None:
        """Wait until every cell that was started has ended."""
        while self._children:
            self._look()

    @contextmanager
    def passing_on_signals(self) -> Iterator[None]:
        """Pass SIGINT and SIGTERM on to the cells, which save and end, and start no others."""

        def pass_on(number: int, _frame: FrameType | None) -> None:
            self.was_stopped = True
            for child in self._children:
                child.process.send_signal(number)

        signals = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, pass_on) for number in signals]
        try:
            yield
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def _spawn(self, cell: Cell, slot: int, tries_left: int) -> None:
        file, run_dir = cell_file(self._sweep_dir, cell.name), self._sweep_dir / cell.run_dir
        words = [sys.executable, "-m", "passk", cell.command, *cell.overrides, *self._flags]
        words += ["hydra.mode=RUN"]  # overrides a file of the configuration
        words += [f"hydra.run.dir={in_quotes(str(run_dir))}"]
        screen = None if self._to_screen else log_file(self._sweep_dir, cell.name).open("ab")
        process = subprocess.Popen(
            words,
            env=os.environ | self._environments[slot] | {CELL: f"{file}:{os.getpid()}"} | _NEW_JOB,
            stdin=subprocess.DEVNULL,
            stdout=screen,
            stderr=screen,
            process_group=0,  # a terminal's Ctrl-C reaches us, and we pass it on
        )
        if screen is not None:
            screen.close()
        self._children.append(_Child(cell, process, now(), tries_left, slot))
        if self.was_stopped:  # a signal came during its start
            process.send_signal(signal.SIGTERM)

    def _look(self) -> None:
        """Record cells that have ended, and retry failed ones; otherwise wait a moment."""
        ended = [child for child in self._children if child.process.poll() is not None]
        for child in ended:
            self._children.remove(child)
            cell = self._note_end(child)
            if child.tries_left and _is_worth_retrying(cell) and not self.was_stopped:
                self._spawn(cell, child.slot, child.tries_left - 1)
            else:
                self._free.append(child.slot)
        if not ended:
            time.sleep(_LOOK_EVERY_SECONDS)

    def _note_end(self, child: _Child) -> Cell:
        """Return the ended cell; if it died without recording that, record it here."""
        code = child.process.returncode
        # Stopped before it had begun; during an import it may end with any code.
        if -code in (signal.SIGINT, signal.SIGTERM) or (code and self.was_stopped):
            code = INTERRUPTED
        file = cell_file(self._sweep_dir, child.cell.name)
        cell = read_cell(file)
        if cell.last is None or cell.last.pid != child.process.pid:
            if code == 0:  # another process had just finished it
                return cell
            lost = Attempt(start=child.started, host=os.uname().nodename, pid=child.process.pid)
            write_cell(self._sweep_dir, replace(cell, attempts=(*cell.attempts, lost)))
        return end_attempt(file, code, _how_it_died(code))


def _is_worth_retrying(cell: Cell) -> bool:
    """Return True for failures other than refused input, which would be refused again."""
    return cell.has_failed and cell.last is not None and cell.last.code != REFUSED


def _how_it_died(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code} and no word"
    name = signal.Signals(-code).name
    hint = " (the system may be short of memory)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


def be_cell(announced: str, words: list[str], run: Callable[[list[str]], tuple[int, str]]) -> int:
    """Run `words` as the cell that the environment announced; returns the exit code.

    The last sentence goes into the ledger, and the sweep prints it.
    """
    name, _, parent = announced.rpartition(":")
    file = Path(name)
    _end_with(int(parent))
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
        _remove_empty(cell_dir(file, cell), file.parent.parent)
        end_attempt(file, code, said)
        return code


def _remove_empty(run_dir: Path, sweep_dir: Path) -> None:
    """Remove the folders that Hydra's launcher made for a cell that was refused."""
    with suppress(OSError):  # not empty, or gone
        for folder in (run_dir, *run_dir.parents):
            if sweep_dir not in folder.parents:
                return
            folder.rmdir()


def _end_with(parent: int) -> None:
    """End by SIGTERM when the parent does, so that the current step is finished and saved.

    Only Linux supports this. Elsewhere a cell outlives its sweep, and the same line again waits for
    it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGTERM))
        if os.getppid() != parent:
            sys.exit(INTERRUPTED)


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
    gpus = _gpus(environment)
    if gpus:
        shares = [gpus[i::num_parallel] or [gpus[i % len(gpus)]] for i in range(num_parallel)]
        return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]
    if num_parallel == 1 or "OMP_NUM_THREADS" in environment:
        return [{}] * num_parallel
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return [{"OMP_NUM_THREADS": str(max(1, cores // num_parallel))}] * num_parallel


def _gpus(environment: Mapping[str, str]) -> list[str]:
    """List the names of the GPUs that may be used, without importing torch."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []
