"""Confine the current process before it runs model-written code.

This runs inside the processes that `server.py` forks. The limits hold for the process and for its
later forks, and it cannot undo them.
"""

import ctypes
import math
import os
import resource
import signal
import struct
import sys
from typing import NamedTuple

from passk.errors import UserError
from passk.verifiers.code import landlock

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITIES_V3 = 0x20080522
_MAX_OPEN_FILES = 32


class Limits(NamedTuple):
    """Resources that one check may use. Memory and processor time hold for each of two processes.

    `seconds` is wall clock, `memory_bytes` address space, `file_bytes` the size of one file and of
    all files in the scratch folder.
    """

    seconds: float
    memory_bytes: int
    file_bytes: int

    @property
    def cpu_seconds(self) -> int:
        """Processor time in whole seconds; it ends a check even if no other process is left to."""
        return math.ceil(self.seconds) + 1


def _prctl(option: int, value: int) -> None:
    zeros = (ctypes.c_ulong(0),) * 3
    if _LIBC.prctl(option, ctypes.c_ulong(value), *zeros) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def die_with_parent(parent_pid: int) -> None:
    """Have the kernel send SIGKILL to this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)


def hide() -> None:
    """Make this process unreadable: its memory and files through /proc, ptrace and the like.

    Its forks are unreadable from the start.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Adopt descendants whose parent ends, since process 1 of a container may not reap them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _drop_capabilities(machine: str) -> None:
    """Drop all capabilities: root, as in many containers, has no more rights than other users."""
    header = ctypes.c_char_p(struct.pack("Ii", _CAPABILITIES_V3, 0))
    if _LIBC.syscall(ctypes.c_long(_CAPSET[machine]), header, ctypes.c_char_p(bytes(24))) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _needed_by_python() -> list[str]:
    """Return the paths of the standard library, shared libraries, time zones and random numbers."""
    prefixes = {sys.base_prefix, sys.base_exec_prefix}
    libraries = [f"{prefix}/{folder}" for prefix in prefixes for folder in ("lib", sys.platlibdir)]
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime"]
    other = ["/usr/share/zoneinfo", "/dev/urandom"]
    return [os.path.dirname(os.__file__), *libraries, *system, *other]


def confine(limits: Limits, scratch: str, machine: str) -> int:
    """Apply everything but the seccomp filter, which `seccomp.py` puts on each process separately.

    Return the Landlock rules, for `landlock.enter` in forks of this process. Raises UserError that
    says what the kernel lacks.
    """
    for kind, value in (
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    try:
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _drop_capabilities(machine)
    except OSError as error:
        raise UserError(f"verifier=python cannot give up rights for its sandbox: {error}") from None
    ruleset = landlock.make_ruleset(_needed_by_python(), "/dev/null", scratch)
    landlock.enter(ruleset)
    return ruleset
