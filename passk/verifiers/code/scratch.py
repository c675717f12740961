"""Scratch folders of checks, below one folder per process that shows whether its owner lives.

That folder holds a file which its owner keeps locked. The kernel releases the lock when the owner
ends, however it ends, so the next start can recognise what a killed process left behind.
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
    """Folder of this process, with one folder per check. Any number of threads may use it."""

    def __init__(self) -> None:
        remove_abandoned(Path(tempfile.gettempdir()))
        self._owner = os.getpid()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # The file gets its final name only once it is locked.
        new = self.folder / "new.lock"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks: the folder never counts as abandoned
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            new.rename(self.folder / _LOCK)

    @contextmanager
    def one(self) -> Iterator[Path]:
        """Make a folder for one check; remove it and its content after the block."""
        folder = Path(tempfile.mkdtemp(prefix="check-", dir=self.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # `close` removes the rest

    def close(self) -> None:
        """Remove everything; a fork of the owner removes nothing."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


def remove_abandoned(parent: Path) -> None:
    """Remove what killed processes left behind. Skip folders of other users."""
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
