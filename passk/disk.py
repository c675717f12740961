"""Files that are there whole or not at all, a disk that is full, and who may write in a folder.

A file is written under a temporary name, brought to the disk (fsync) and renamed, then its folder
is brought to the disk. A kill or a power cut leaves the old file or the new one.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

from passk.errors import DiskFull, UserError

LOCK = ".passk.lock"  # in each folder that a command writes in, as long as it does
_RESUME = "what was saved before is kept: make room, and go on with resume=true"
_TRIES = 100  # at a folder that others make and remove
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system that knows none
_NO_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF)  # ... or that cannot sync a folder


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block is done.

    A kill or a power cut leaves the old file or the new one, and an error the old one. Raises
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
    """Replace a file by one with this text, as `replacing` does."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def append_line(path: Path, line: str) -> None:
    """Add a line to a file and bring it to the disk. Raises DiskFull."""
    is_new = not path.exists()
    with full_disk_told(path), path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync(path.parent)


@contextmanager
def filled_at_once(folder: Path, last: str, advice: str) -> Iterator[Path]:
    """A folder to write into; its files come into `folder` when all are there, `last` at the end.

    Other files of `folder` stay, and whatever fails leaves all of them as they were. `advice` says
    what to do when the disk is full.
    """
    partial = folder / ".filling.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
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
    """Make a folder and those around it that are missing; the ones made, the innermost first."""
    missing = missing_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)
    return missing


def missing_folders(folder: Path) -> list[Path]:
    """The folder and those around it that do not exist, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_folder(folder: Path) -> None:
    """Remove a folder, if it is there; a kill leaves it whole or under a temporary name."""
    if folder.is_dir():
        dropped = folder.with_name(f".{folder.name}.dropped.partial")
        shutil.rmtree(dropped, ignore_errors=True)
        os.replace(folder, dropped)
        shutil.rmtree(dropped, ignore_errors=True)


def sync(path: Path) -> None:
    """Bring a file, or the list of names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Bring all that lies in a folder to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            sync(path)
    sync_folders(folder)


def sync_folders(folder: Path) -> None:
    """Bring the names in a folder, and in those inside it, to the disk."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync(path)


def is_full(error: OSError) -> bool:
    """Whether there was no room, on a disk or in a quota."""
    return error.errno in _FULL


@contextmanager
def full_disk_told(
    path: Path, partial: Path | None = None, advice: str = _RESUME
) -> Iterator[None]:
    """Turn having no room for `path` into DiskFull with advice; the file `partial` is removed."""
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
    """A locked file, open in this process. It may be handed to processes that this one spawns:
    the lock ends when the last of them has ended, in whatever way.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.descriptor),)

    def is_at(self, path: Path) -> bool:
        """Whether the file of this name is the one that is locked, and not a newer one."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self.descriptor), path.stat())
        return False


def _received(handed: Any) -> _Lock:
    return _Lock(handed.detach())


_HELD: list[_Lock] = []  # by this process, or by the one that spawned it


def locks_held() -> tuple[_Lock, ...]:
    """The locks of this process, for those that it spawns to `keep`."""
    return tuple(_HELD)


def keep(locks: Sequence[_Lock]) -> None:
    """Hold the locks of the process that spawned this one, until this one ends."""
    _HELD.extend(locks)


@contextmanager
def only_writer(folder: Path, made: Sequence[Path] = ()) -> Iterator[None]:
    """Keep every other process that asks out of a folder; UserError where one is in it.

    The folder is made. In the end the lock file goes, and what is still empty of the folders that
    were made here or just before (`made`, the innermost first). The system lets go of the lock when
    this process ends, however it ends.
    """
    if any(lock.is_at(folder / LOCK) for lock in _HELD):
        yield  # a part of what this process already does there
        return
    lock, also_made = _lock(folder)
    _HELD.append(lock)
    try:
        yield
    finally:
        # While it is still locked: who opened the file before looks again once it has the lock.
        if lock.is_at(folder / LOCK):
            (folder / LOCK).unlink()
            with suppress(OSError):  # not empty
                for path in dict.fromkeys([*made, *also_made]):
                    path.rmdir()
        _HELD.remove(lock)
        os.close(lock.descriptor)


def _lock(folder: Path) -> tuple[_Lock, list[Path]]:
    """Lock the folder's lock file; also the folders that were made for it."""
    also_made: list[Path] = []
    for _ in range(_TRIES):
        try:
            with full_disk_told(folder, advice="make room"):
                also_made += make_folder(folder)
                lock = _Lock(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666))
        except FileNotFoundError:  # whoever made the folder has just removed it
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
    raise UserError(f"{folder} cannot be written in: it does not last")


def is_free(folder: Path) -> bool:
    """Whether a folder is not there or holds nothing but what a kill leaves: a temporary name."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(
        path.name == LOCK or path.name.endswith(".partial") for path in folder.iterdir()
    )
