"""Limit the files that a checked program may open, by Landlock (Linux 5.13 and later).

Everything is refused except the rights given here: to read below the folders that Python needs, and
to read, write, make and remove regular files in one scratch folder. So the scratch folder stays
flat: no folders, links, sockets or devices in it.
"""

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from passk.errors import UserError

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
# System call numbers, the same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION, _RULE_PATH_BENEATH = 1, 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_FILE, _MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
_TRUNCATE = 1 << 14
_READ = _READ_FILE | _READ_DIR
_SCRATCH = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_REG | _TRUNCATE
_OF_A_FILE = _READ_FILE | _WRITE_FILE | _TRUNCATE
_NUM_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version; from version 5 on there are 16


def _call(number: int, *arguments: object) -> int:
    """Make a Landlock system call; return -1 if it fails (then errno is set)."""
    return int(_LIBC.syscall(ctypes.c_long(number), *arguments))


def version() -> int:
    """Return the Landlock version of the running kernel; 0 if it has none."""
    size = ctypes.c_size_t(0)
    return max(0, _call(_CREATE_RULESET, None, size, ctypes.c_uint(_CREATE_RULESET_VERSION)))


def _ruleset(abi: int) -> tuple[int, int]:
    """Make a ruleset; return its file descriptor and the rights that it governs."""
    handled = (1 << _NUM_RIGHTS.get(abi, 16)) - 1
    attributes = [handled]
    if abi >= 4:
        attributes.append(0b11)  # TCP: bind, connect
    if abi >= 6:
        attributes.append(0b11)  # outside the domain: abstract unix sockets, signals
    packed = struct.pack(f"{len(attributes)}Q", *attributes)
    pointer = ctypes.c_char_p(packed)
    descriptor = _call(_CREATE_RULESET, pointer, ctypes.c_size_t(len(packed)), ctypes.c_uint(0))
    return descriptor, handled


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_A_FILE
        rule = ctypes.c_char_p(struct.pack("=Qi", rights, descriptor))
        kind = ctypes.c_int(_RULE_PATH_BENEATH)
        if _call(_ADD_RULE, ctypes.c_int(ruleset), kind, rule, ctypes.c_uint(0)) != 0:
            raise OSError(ctypes.get_errno(), f"Landlock took no rule for {path}")
    finally:
        os.close(descriptor)


def make_ruleset(readable: Iterable[str], writable_device: str, scratch: str) -> int:
    """Make the rules that `enter` applies. Missing paths of `readable` are skipped.

    Raises UserError if the kernel has no Landlock: without it a program could read and write
    whatever the user can, and nothing else here would prevent that.
    """
    abi = version()
    if abi == 0:
        raise UserError(
            "verifier=python needs Landlock to keep model-written code from your files; this "
            "kernel or container has none (Linux 5.13 or later, with landlock among its LSMs)"
        )
    ruleset, handled = _ruleset(abi)
    for path in readable:
        if os.path.exists(path):
            _allow(ruleset, path, _READ & handled)
    _allow(ruleset, writable_device, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled)
    _allow(ruleset, scratch, _SCRATCH & handled)
    return ruleset


def enter(ruleset: int) -> None:
    """Confine this process, for good, in a new domain below its present one.

    It must have NO_NEW_PRIVS. Processes of a domain cannot read or trace those of another one, nor,
    from Landlock version 6 on, signal them, except in domains below their own.
    """
    if _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)) != 0:
        raise UserError(f"verifier=python: Landlock refused: errno {ctypes.get_errno()}")
