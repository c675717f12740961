"""Write files whole or not at all, read them back, and let one command at a time write in a folder.

A file is written under a temporary name, flushed to the disk (fsync) and renamed, then its folder
is flushed. A kill or a power cut leaves the old file or the new one. A file that cannot be read
back raises UserError with one sentence that names it.
"""

import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from passk.errors import DiskFull, UserError

LOCK = ".passk.lock"  # lies in each folder that a command writes in, while it does
_RESUME = "what was saved before is kept: make room, and go on with resume=true"
_TRIES = 100  # to lock a folder that other processes make and remove
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without locks
_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF)  # ... that cannot sync a folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; rename it to `path` after the block.

    A kill or a power cut leaves the old file or the new one; an error leaves the old one. Raises
    DiskFull.
    """
    make_folder(path.parent)
    partial = path.with_name(f".{path.name}.partial")
    with full_disk_told(path, partial):
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace a file by one with this text, atomically as in `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Append a line to a file and flush it to the disk. Raises DiskFull."""
    is_new = not path.exists()
    with full_disk_told(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)


@contextmanager
def filled_at_once(folder: Path, last: str, advice: str) -> Iterator[Path]:
    """Yield a temporary folder to write to; move its files into `folder` after the block.

    The file named `last` is moved last. Other files of `folder` stay. An error inside the block
    leaves `folder` as it was. `advice` says what to do when the disk is full.
    """
    partial = folder / ".filling.partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    make_folder(partial)
    try:
        with full_disk_told(folder, advice=advice):
            yield partial
            sync_tree(partial)
            files = (path.relative_to(partial) for path in partial.rglob("*") if path.is_file())
            for name in sorted(files, key=lambda name: (str(name) == last, name)):
                make_folder((folder / name).parent)
                os.replace(partial / name, folder / name)
            sync_folders(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def make_folder(folder: Path) -> list[Path]:
    """Make a folder and its missing parents; return those that were made, the innermost first."""
    missing = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)
    return missing


def missing_folders(folder: Path) -> list[Path]:
    """Return the folder and its parents that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_folder(folder: Path) -> None:
    """Remove a folder if it exists; a kill leaves it whole or under a temporary name."""
    if folder.is_dir():
        dropped = folder.with_name(f".{folder.name}.dropped.partial")
        shutil.rmtree(dropped, ignore_errors=True)
        os.replace(folder, dropped)
        shutil.rmtree(dropped, ignore_errors=True)


def sync(path: Path) -> None:
    """Flush a file, or the list of names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush everything in a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
    sync_folders(folder)


def sync_folders(folder: Path) -> None:
    """Flush the lists of names in a folder and in its subfolders to the disk."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync(path)


def is_full(error: OSError) -> bool:
    """Return True if the error means that a disk or a quota has no room."""
    return error.errno in _FULL


@contextmanager
def full_disk_told(
    path: Path, partial: Path | None = None, advice: str = _RESUME
) -> Iterator[None]:
    """Raise DiskFull with advice if `path` finds no room; remove `partial` on any OSError."""
    try:
        yield
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        if not is_full(error):
            raise
        inside = getattr(error, "filename", None) if path.is_dir() else None
        raise DiskFull(
            f"{inside or path} could not be written: {error.strerror}; {advice}"
        ) from error


class _Lock:
    """A locked file, open in this process.

    It may be handed to processes that this one spawns. The lock ends when the last of them has
    ended, however it ends.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor),)

    def is_at(self, path: Path) -> bool:
        """Return True if the file at this path is the locked one, and not a newer one."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.descriptor), path.stat())
        return False


def _received(handed: Any) -> _Lock:
    return _Lock(handed.detach())


_HELD: list[_Lock] = []  # locks of this process, or of the one that spawned it


def locks_held() -> tuple[_Lock, ...]:
    """Return the locks of this process, for spawned processes to `keep`."""
    return tuple(_HELD)


def keep(locks: Sequence[_Lock]) -> None:
    """Hold the locks of the process that spawned this one, until this one ends."""
    _HELD.extend(locks)


@contextmanager
def only_writer(folder: Path, made: Sequence[Path] = ()) -> Iterator[None]:
    """Hold the lock of a folder inside the block; raise UserError if another process holds it.

    The folder is made if it is missing. After the block the lock file is removed, and so are those
    folders made here or just before (`made`, the innermost first) that are still empty. The system
    releases the lock when this process ends, however it ends.
    """
    if any(lock.is_at(folder / LOCK) for lock in _HELD):
        yield  # this process already holds the lock
        return
    lock, also_made = _lock(folder)
    _HELD.append(lock)
    try:
        yield
    finally:
        # Remove the file while it is still locked: a process that opened it before checks again
        # once it has the lock.
        if lock.is_at(folder / LOCK):
            (folder / LOCK).unlink()
            with suppress(OSError):  # not empty
                for path in dict.fromkeys([*made, *also_made]):
                    path.rmdir()
        _HELD.remove(lock)
        os.close(lock.descriptor)


def _lock(folder: Path) -> tuple[_Lock, list[Path]]:
    """Lock the folder's lock file; return the lock and the folders that were made for it."""
    also_made: list[Path] = []
    for _ in range(_TRIES):
        try:
            with full_disk_told(folder, advice="make room"):
                also_made += make_folder(folder)
                lock = _Lock(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666))
        except FileNotFoundError:  # the process that made the folder has just removed it
            continue
        except OSError as error:
            raise UserError(f"{folder} cannot be written in: {error.strerror}") from None
        try:
            fcntl.flock(lock.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock.descriptor)
            raise UserError(
                f"another process still writes in {folder}; wait until it has ended, or end it"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        if lock.is_at(folder / LOCK):
            return lock, also_made
        os.close(lock.descriptor)  # its holder removed it while we opened it
    raise UserError(f"{folder} cannot be written in: something removes it each time")


def is_free(folder: Path) -> bool:
    """Return True if a folder is missing, or holds only lock and partial files, as after a kill."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(
        path.name == LOCK or path.name.endswith(".partial") for path in folder.iterdir()
    )


if TYPE_CHECKING:  # at run time it is imported with the first table: a refusal does not wait for it
    import pandas as pd

# Columns of text, also where a value looks like a number or like a missing value.
_TEXT = ("kind", "level", "type", "problem_id", "signal", "metric")
_WITHOUT = "put it back from a copy, or remove it, and "
# Advice for a broken file of a run; any other file can only be put back.
_ADVICE = {
    "manifest.json": _WITHOUT + "the run goes on without its times and the hashes of its problems",
    "metrics.jsonl": "put it back from a copy, or remove the lines that are broken",
    "overrides.txt": _WITHOUT + "nothing but lines in reports is lost",
    **dict.fromkeys(
        (
            *("table.csv", "summary.csv", "front.csv", "front_summary.csv", "distance.csv"),
            *(f"table_by_{name}.csv" for name in _TEXT[:3]),
        ),
        _WITHOUT + "it begins anew with the next evaluation",
    ),
}
_NUMBER = (int, float)
_MANIFEST_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("command", "status", "policy", "engine", "start", "end", "device"), (str,)),
    **dict.fromkeys(("seconds", "device_seconds"), _NUMBER),
    **dict.fromkeys(("seed", "num_processes"), (int,)),
    "versions": (dict,),
    "git": (dict, type(None)),
}


def broken(file: Path, reason: str) -> UserError:
    """Return the error for a broken file: its sentence names the file, the reason and a remedy."""
    return UserError(f"{file} {reason}; {_ADVICE.get(file.name, 'put it back from a copy')}")


def read_file(reader: Any, file: Path, default: Any = None) -> Any:
    """Return `reader(file)`; if the file is missing and a default is given, return the default.

    Raises:
        UserError: the file cannot be read; the sentence names the file, the reason and a remedy.
    """
    if default is not None and not file.is_file():
        return default
    try:
        return reader(file)
    except UserError:
        raise
    except Exception as error:  # a broken file may raise anything inside a library
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif file.stat().st_size == 0:
            reason = "it is empty"
        else:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise broken(file, f"cannot be read: {reason}") from error


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    found = read_file(lambda f: json.loads(f.read_text(encoding="utf-8")), file)
    if not isinstance(found, dict):
        raise broken(file, f"holds {_named(found)} where a JSON object is needed")
    return found


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds keys and values."""
    found = read_file(lambda f: yaml.safe_load(f.read_text(encoding="utf-8")), file)
    if not isinstance(found, dict):
        raise broken(file, f"holds {_named(found)} where keys and values are needed")
    return found


def _named(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def read_table(
    file: Path,
    default: "pd.DataFrame | None" = None,
    *,
    columns: Iterable[str] = (),
    numbers: Iterable[str] = (),
) -> "pd.DataFrame":
    """Read a CSV file; names of groups and problems are text.

    Raises UserError if one of `columns` or `numbers` is missing, or if one of `numbers` holds text.
    """
    table: pd.DataFrame = read_file(_read_csv, file, default=default)
    return with_columns(file, table, columns=columns, numbers=numbers)


def with_columns(
    file: Path,
    table: "pd.DataFrame",
    *,
    columns: Iterable[str] = (),
    numbers: Iterable[str] = (),
) -> "pd.DataFrame":
    """Return the table of a file; raise UserError if it lacks a needed column."""
    from pandas.api.types import is_numeric_dtype

    needed = list(dict.fromkeys([*columns, *numbers]))
    for name in needed:
        if name not in table:
            raise broken(file, f"lacks the column {name!r}: it needs {', '.join(needed)}")
    for name in numbers:
        if len(table) and not is_numeric_dtype(table[name]):
            raise broken(file, f"has text in the column {name!r}, which holds numbers")
    return table


def _read_csv(file: Path) -> "pd.DataFrame":
    """Read a CSV file; an empty cell is a missing value only in columns of numbers."""
    import pandas as pd

    columns = pd.read_csv(file, nrows=0).columns
    return pd.read_csv(
        file,
        dtype={name: str for name in columns if name in _TEXT},
        keep_default_na=False,
        na_values={name: [""] for name in columns if name not in _TEXT},
    )


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """Read `manifest.json` of a directory that a command wrote; empty if there is none."""
    file = folder / "manifest.json"
    if not file.is_file():
        return {}
    manifest = read_object(file)
    for key, types in _MANIFEST_TYPES.items():
        if key in manifest and not isinstance(manifest[key], types):
            raise broken(file, f"has {key}={str(manifest[key])[:40]}, of the wrong kind")
    return manifest


def read_lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read the lines of `metrics.jsonl`, as text and as values; empty if there is no file.

    The last line is left out if it is incomplete: it was being written when the machine stopped.
    """
    text: str = read_file(lambda f: f.read_bytes().decode("utf-8", "replace"), file, default="")
    lines = text.split("\n")
    is_whole = lines[-1] == ""
    lines = lines[:-1] if is_whole else lines
    rows = [_metrics(line) for line in lines]
    if (rows and rows[-1] is None) or (rows and not is_whole):
        rows.pop()
    if None in rows:
        number = rows.index(None) + 1
        raise broken(file, f"is broken in line {number}: a line is the JSON object of one step")
    return [(line, row) for line, row in zip(lines, rows, strict=False) if row is not None]


def _metrics(line: str) -> dict[str, Any] | None:
    """Parse one step's line; return None if it is broken."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_step = isinstance(row, dict) and type(row.get("step")) is int
    is_timed = is_step and isinstance(row.get("seconds", 0.0), _NUMBER)
    return row if is_timed else None


def recorded(run_dir: Path) -> tuple[list[tuple[str, dict[str, Any]]], "dict[Path, pd.DataFrame]"]:
    """Read what a resumed run continues: the lines of its metrics, and its evaluation tables."""
    tables = {file: read_file(_read_rows, file) for file in (run_dir / "eval").glob("*.csv")}
    return read_lines(run_dir / "metrics.jsonl"), tables


def _read_rows(file: Path) -> "pd.DataFrame":
    """Read a CSV file as text, so that numbers keep their digits; only `step` becomes an int."""
    import pandas as pd

    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    if "step" not in rows:
        raise ValueError("it lacks the column 'step'")
    return rows.assign(step=rows["step"].map(int))


def overrides_text(words: Sequence[str]) -> str:
    """Format `overrides.txt`: an override per line, as JSON if a plain line would not read back."""
    lines = (word if _overrides(word) == (word,) else json.dumps(word) for word in words)
    return "".join(f"{line}\n" for line in lines)


def read_overrides(folder: Path) -> tuple[str, ...]:
    """Read `overrides.txt` of a directory that a command wrote: the overrides as typed."""
    file = folder / "overrides.txt"
    text: str = read_file(lambda f: f.read_text(encoding="utf-8"), file, default="")
    return _overrides(text)


def _overrides(text: str) -> tuple[str, ...]:
    """Parse the lines of `overrides.txt`. No override begins with a quotation mark."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(_unquoted(line) for line in lines if line)


def _unquoted(line: str) -> str:
    try:
        return str(json.loads(line)) if line.startswith('"') else line
    except ValueError:
        return line


def step_name(step: int) -> str:
    """Return the name of the files and folders of a step, which sorts by step."""
    return f"step-{step:06d}"


def step_of(name: str) -> int | None:
    """Return the step of a file or folder, `step-NNNNNN`; None for any other name."""
    found = re.fullmatch(r"step-(\d+)", name)
    return int(found[1]) if found else None


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the files `step-NNNNNN.parquet` in a folder, ascending."""
    return list(steps_of(folder, ".parquet"))


def steps_of(folder: Path, ending: str = "") -> dict[int, Path]:
    """Map each step to its `step-NNNNNN` in a folder, ascending; skip copies under other names."""
    named = ((re.fullmatch(rf"step-(\d{{6,}}){ending}", p.name), p) for p in folder.glob("step-*"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))
