"""Files that are there whole or not at all, and a disk that is full, told in one sentence."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from passk.errors import DiskFull

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


def _system_error(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    passed_on = _PASSED_ON.search(str(error))
    return int(passed_on[1]) if passed_on else None
