"""Files that are there whole or not at all, a disk that is full, and who may write in a folder."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from passk.errors import DiskFull, UserError

_RESUME = "what was saved before is kept: make room, and go on with resume=true"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block is done.

    A kill leaves the old file or the new one, and an error the old one. Raises DiskFull.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with full_disk_told(path, partial):
        yield partial
        os.replace(partial, path)


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
        if error.errno not in _FULL:
            raise
        inside = getattr(error, "filename", None) if path.is_dir() else None
        raise DiskFull(
            f"{inside or path} could not be written: {os.strerror(error.errno)}; {advice}"
        ) from error


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep every other process that asks out of a folder; UserError where one is in it.

    The system lets go of it when this process ends, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system that knows no locks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process still writes in {folder}; wait until it has ended, or end it"
                ) from None
        yield
    finally:
        os.close(descriptor)
