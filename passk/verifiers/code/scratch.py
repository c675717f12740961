"""Scratch folders of checks, below one folder per process that says whether its owner lives.

That folder holds a file which its owner keeps locked. The kernel gives a lock back when its owner
ends, however it ends, so what a killed process left behind is known at the next start.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX, _LOCK = "passk-sandbox-", "owner.lock"


class ScratchFolders:
    """The folder of this process, and those of its checks. Any number of threads may use it."""

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self._owner = os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Under its name, the file is locked from the beginning.
        new = self.folder / "new.lock"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # no locks on this file system: then nobody takes it for abandoned
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(self.folder / _LOCK)

    @contextmanager
    def one(self) -> Iterator[Path]:
        """Make a folder for one check, and remove it with what is in it."""
        folder = Path(tempfile.mkdtemp(prefix="check-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # what is left goes with `close`

    def close(self) -> None:
        """Remove everything; a fork of the owner removes nothing."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def remove_abandoned(parent: Path) -> None:
    """Remove what processes left behind that were killed. Other users' folders are passed over."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.lstat().st_uid != os.getuid():
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(lock)
