"""Files that are there whole or not at all, a disk that is full, and who may write in a folder."""

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from passk.errors import DiskFull, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How safetensors, whose errors are no OSError, passes on what the system said.
_PASSED_ON = re.compile(r"\(os error (\d+)\)")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block is done.

    A kill leaves the old file or the new one, and an error the old one. Raises DiskFull.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    with full_disk_told(path, partial):
        yield partial
        os.replace(partial, path)


def partial_name(path: Path) -> Path:
    """What a file or folder is called while it is written."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def full_disk_told(path: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn having no room for `path` into DiskFull; what was written as `partial` is removed."""
    try:
        yield
    except Exception as error:
        if partial is not None and partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        elif partial is not None:
            partial.unlink(missing_ok=True)
        number = _system_error(error)
        if number not in _FULL:
            raise
        raise DiskFull(
            f"{path} could not be written: {os.strerror(number)}; what was saved before is kept: "
            "make room, and go on with resume=true"
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


def _system_error(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    passed_on = _PASSED_ON.search(str(error))
    return int(passed_on[1]) if passed_on else None
