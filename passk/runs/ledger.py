"""Keep the ledger of a sweep: one file per cell, with its command, its machine and its attempts.

Each cell writes its own file, on whatever machine it runs, and holds a lock as long as it lives. So
states are true even after a kill, and repeating the same line shows what is left to do.
"""

import fcntl
import hashlib
import json
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePath

from passk.errors import UserError
from passk.files import is_free, write_text

FOLDER = "ledger"
STATES = ("waiting", "running", "interrupted", "failed", "finished")
FINISHED, REFUSED, INTERRUPTED = 0, 2, 130  # exit codes
_LONGEST_NAME = 120  # bytes; file names may have 255, and endings are added to ours


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process that ran a cell. `code` is its exit code, or minus the signal that killed it.

    Without an end it is running, or was lost together with the process that started it.
    """

    start: str
    host: str
    pid: int
    end: str | None = None
    code: int | None = None
    sentence: str = ""  # what went wrong

    @property
    def seconds(self) -> float | None:
        """Duration in seconds, once it has ended."""
        if self.end is None:
            return None
        start, end = (datetime.fromisoformat(at) for at in (self.start, self.end))
        return (end - start).total_seconds()


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep: the overrides that make it, and its directory below the sweep's."""

    name: str
    number: int
    command: str
    overrides: tuple[str, ...]
    run_dir: str  # relative to the sweep's directory
    attempts: tuple[Attempt, ...] = ()
    line: str = ""  # the command line that planned it
    owns_dir: bool = False  # True if attempts of this cell made all that is in its directory

    @property
    def last(self) -> Attempt | None:
        """The latest attempt."""
        return self.attempts[-1] if self.attempts else None

    @property
    def code(self) -> int | None:
        """Exit code of the latest attempt; None without attempts, or until it has ended."""
        return self.last.code if self.last else None

    @property
    def is_finished(self) -> bool:
        """True if nothing is left to do. No other file says so of a cell."""
        return self.code == FINISHED

    @property
    def has_failed(self) -> bool:
        """True if its latest attempt ended by itself, and unsuccessfully."""
        return self.code not in (None, FINISHED, INTERRUPTED)


def cell_file(sweep_dir: Path, name: str) -> Path:
    """Return the path of a cell's file in the ledger."""
    return sweep_dir / FOLDER / f"{name}.json"


def log_file(sweep_dir: Path, name: str) -> Path:
    """Return the path for a cell's output when it has no screen of its own."""
    return sweep_dir / FOLDER / f"{name}.log"


def read_cell(file: Path) -> Cell:
    """Read a cell from its ledger file. Raises UserError if the file holds none."""
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        attempts = tuple(Attempt(**attempt) for attempt in known.pop("attempts"))
        cell = Cell(**{**known, "overrides": tuple(known["overrides"])}, attempts=attempts)
        _check(cell)
        return cell
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not a cell of a sweep's ledger: {error}") from error


def _check(cell: Cell) -> None:
    """Raise ValueError or TypeError for values that no sweep writes."""
    texts = (cell.name, cell.command, cell.run_dir, cell.line, *cell.overrides)
    if not all(isinstance(text, str) for text in texts) or not isinstance(cell.number, int):
        raise TypeError("a value is of the wrong kind")
    for attempt in cell.attempts:
        if not isinstance(attempt.code, int | None):
            raise TypeError(f"the exit code {attempt.code!r} is no number")
        for time in (attempt.start, *([] if attempt.end is None else [attempt.end])):
            datetime.fromisoformat(time)
        _ = attempt.seconds  # raises unless both times have a zone, or neither


def cell_dir(file: Path, cell: Cell) -> Path:
    """Return the run directory of the cell in a ledger file."""
    return _sweep_dir(file) / cell.run_dir


def _sweep_dir(file: Path) -> Path:
    return file.parent.parent


def write_cell(sweep_dir: Path, cell: Cell) -> None:
    """Write a cell into the ledger, replacing its old state if there is one."""
    write_text(cell_file(sweep_dir, cell.name), json.dumps(asdict(cell), indent=1) + "\n")


def read_ledger(sweep_dir: Path) -> list[Cell]:
    """Read all cells of a sweep in order; empty without a ledger."""
    files = (sweep_dir / FOLDER).glob("*.json")
    return sorted((read_cell(file) for file in files), key=lambda cell: cell.number)


def plan(sweep_dir: Path, wanted: Sequence[Cell]) -> list[Cell]:
    """Return the wanted cells in their current state, and enter new ones as waiting.

    Cells are the same if their commands and overrides are. A new cell whose name is taken gets
    another. Raises UserError, before anything is changed, where its directory is that of another
    cell, or lies in or around it.
    """
    known = read_ledger(sweep_dir)
    number = max((cell.number for cell in known), default=-1) + 1
    cells = {_identity(cell): cell for cell in known}
    new: list[Cell] = []
    for cell in wanted:
        if _identity(cell) not in cells:
            _check_directory(sweep_dir, cell, cells.values())
            name = free_name(cell.name, {other.name for other in cells.values()})
            new.append(replace(cell, number=number + len(new), name=name))
            cells[_identity(cell)] = new[-1]
    for cell in new:
        write_cell(sweep_dir, cell)
    return list(dict.fromkeys(cells[_identity(cell)] for cell in wanted))


def _identity(cell: Cell) -> tuple[str, ...]:
    """Return the key that is equal for equal cells: command and sorted overrides."""
    return (cell.command, *sorted(cell.overrides))


def free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, with apostrophes added while it is taken."""
    while name in taken:
        name += "'"
    return name


def as_name(text: str) -> str:
    """Turn text into a file name that still shows what it names."""
    bare = re.sub(r"[\"']", "", text)
    name = re.sub(r"[^\w.,=+-]+", "_", bare).strip("_.") or "cell"
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    shown = name.encode()[:_LONGEST_NAME].decode(errors="ignore")  # drops a character cut in half
    return f"{shown}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def below_the_sweep(subdir: str) -> str:
    """Shorten a cell's directory; raise UserError if it is not below that of the sweep.

    A retried cell's directory is removed, so it must belong to the sweep.
    """
    path = PurePath(os.path.normpath(subdir))
    if path.is_absolute() or not path.parts or path.parts[0] in ("..", FOLDER):
        raise UserError(
            f"hydra.sweep.subdir={subdir} cannot be the directory of a cell; allowed is a "
            f"directory below that of the sweep, other than {FOLDER}"
        )
    return str(path)


def state(sweep_dir: Path, cell: Cell) -> str:
    """Return one of `STATES`; an attempt without an end is running while it holds its lock."""
    if not cell.attempts:
        return "waiting"
    if cell.code is None:
        return "running" if is_locked(sweep_dir, cell) else "interrupted"
    return {FINISHED: "finished", INTERRUPTED: "interrupted"}.get(cell.code, "failed")


def is_locked(sweep_dir: Path, cell: Cell) -> bool:
    """Return True if a process runs the cell, here or on a machine that shares the directory."""
    lock = _lock_file(cell_file(sweep_dir, cell.name))
    try:
        with lock.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True


@contextmanager
def attempting(file: Path) -> Iterator[bool]:
    """Become the process that runs a cell: wait for one that still does, then enter an attempt.

    Yields False, without an attempt, if the other process has finished the cell. A directory that
    an attempt finds free belongs to the cell from then on, until an attempt ends and leaves it
    free.
    """
    with _lock_file(file).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cell = read_cell(file)
        if not cell.is_finished:
            attempt = Attempt(start=now(), host=socket.gethostname(), pid=os.getpid())
            owns_dir = cell.owns_dir or is_free(cell_dir(file, cell))
            attempts = (*cell.attempts, attempt)
            write_cell(_sweep_dir(file), replace(cell, attempts=attempts, owns_dir=owns_dir))
        yield not cell.is_finished


def end_attempt(file: Path, code: int, sentence: str) -> Cell:
    """Record how the latest attempt ended, unless that is known; returns the updated cell."""
    cell = read_cell(file)
    if cell.last is not None and cell.last.code is None:
        ended = replace(cell.last, end=now(), code=code, sentence=sentence)
        # If nothing was made, as after refused input, later contents do not belong to the cell.
        owns_dir = cell.owns_dir and not is_free(cell_dir(file, cell))
        cell = replace(cell, attempts=(*cell.attempts[:-1], ended), owns_dir=owns_dir)
        write_cell(_sweep_dir(file), cell)
    return cell


def now() -> str:
    """Return the time in the ledger's format: UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _lock_file(file: Path) -> Path:
    return file.with_suffix(".lock")


def _check_directory(sweep_dir: Path, cell: Cell, others: Iterable[Cell]) -> None:
    """Raise UserError if the directory is another cell's, or overlaps with it.

    Removing one must not remove the other.
    """
    mine = PurePath(cell.run_dir)
    for other in others:
        if mine.is_relative_to(other.run_dir) or PurePath(other.run_dir).is_relative_to(mine):
            lies = "is" if cell.run_dir == other.run_dir else f"lies in or around {other.run_dir},"
            raise UserError(
                f"{sweep_dir / mine} {lies} the directory of another cell: "
                f"{_difference(other, cell)}; choose another directory with hydra.sweep.dir= or "
                "hydra.sweep.subdir="
            )


def _difference(one: Cell, other: Cell) -> str:
    """Describe what sets two cells apart."""
    if one.command != other.command:
        return f"passk {one.command}, not passk {other.command}"
    mine, others = set(one.overrides), set(other.overrides)
    only, instead = (
        " ".join(sorted(words)) or "nothing" for words in (mine - others, others - mine)
    )
    return f"it has {only} where this line has {instead}"
