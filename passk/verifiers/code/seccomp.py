"""Limit the system calls of a checked program by a seccomp filter, an allowlist.

Calls that are not listed are refused with EPERM, so a call that a later kernel adds is refused as
well. Python threads work (`clone` with CLONE_THREAD), new processes do not. The only sockets are
connected pairs inside the process (asyncio needs one). No file's mode, owner, times or attributes
can be changed. Signals reach only the process itself and those named to `install`.
"""

import ctypes
import functools
import os
import struct
import sys
from collections.abc import Collection
from typing import NamedTuple

from passk.errors import UserError

_LIBC = ctypes.CDLL(None, use_errno=True)
# name, number on x86_64, number on aarch64 (- where it has no such call)
_ALLOWED = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69,
pwritev 296 70, lseek 8 62, close 3 57, close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24,
pipe 22 -, pipe2 293 59, stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291,
statfs 137 43, fstatfs 138 44, access 21 -, faccessat 269 48, readlink 89 -, readlinkat 267 78,
getcwd 79 17, chdir 80 49, fchdir 81 50, umask 95 166, getdents 78 -, getdents64 217 61,
unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, ftruncate 77 46,
fallocate 285 47, fadvise64 221 223, fsync 74 82, fdatasync 75 83,
mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, msync 26 227, brk 12 214,
futex 202 98, set_robust_list 273 99, set_tid_address 218 96, rseq 334 293,
sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, restart_syscall 219 128,
alarm 37 -, pause 34 -, setitimer 38 103, getitimer 36 102, nanosleep 35 101,
clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
time 201 -, times 100 153, getpid 39 172, gettid 186 178, getppid 110 173, getpgrp 111 -,
getpgid 121 155, getsid 124 156, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getresuid 118 148, getresgid 120 150, getgroups 115 158, getrlimit 97 163, getrusage 98 165,
sysinfo 99 179, uname 63 160, getrandom 318 278, capget 125 90,
select 23 -, pselect6 270 72, poll 7 -, ppoll 271 73, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, sendto 44 206, recvfrom 45 207,
shutdown 48 210, getsockname 51 204, wait4 61 260, exit 60 93, exit_group 231 94
"""
# Allowed with some arguments only, see _RULES.
_BY_ARGUMENT = """
open 2 -, openat 257 56, socketpair 53 199, fcntl 72 25, ioctl 16 29, clone 56 220,
prlimit64 302 261
"""
# Allowed only for some target processes, which the first argument names.
_SIGNALS = "kill 62 129, tkill 200 130, tgkill 234 131"
# glibc does without these if the kernel reports that it lacks them. Their arguments lie in memory,
# which a filter cannot read.
_UNKNOWN = "clone3 435 435, openat2 437 437, faccessat2 439 439"

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE, _NO_SUCH_CALL = 0x00050000 | 1, 0x00050000 | 38  # EPERM, ENOSYS
_LOAD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2


class _Condition(NamedTuple):
    """Condition that `argument & mask` is one of `values`, in the lower or the upper 32 bits."""

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    upper: bool = False


def supported_machine() -> str:
    """Return the processor's name; raise UserError if there is no table of its system calls."""
    machine = os.uname().machine
    if not sys.platform.startswith("linux") or machine not in _ARCHITECTURES:
        raise UserError(
            f"verifier=python needs Linux on {' or '.join(_ARCHITECTURES)} for its sandbox; "
            f"this is {sys.platform} on {machine}"
        )
    return machine


def _numbers(table: str, machine: str) -> dict[str, int]:
    column = 1 + list(_ARCHITECTURES).index(machine)
    rows = [row.split() for row in table.replace("\n", " ").split(",")]
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


# O_ACCMODE and O_TRUNC: all but O_RDONLY|O_TRUNC, which old Landlock treats as reading
_OPENED = (0, 1, 2, 3, 0x201, 0x202, 0x203)
_RULES = {
    "open": (_Condition(1, _OPENED, mask=0x203),),
    "openat": (_Condition(2, _OPENED, mask=0x203),),
    # AF_UNIX, SOCK_STREAM: a datagram socket could send to an address
    "socketpair": (_Condition(0, (1,)), _Condition(1, (1,), mask=0xF)),
    # dup, flags, locks, dup with close-on-exec; not F_SETOWN, which sends signals
    "fcntl": (_Condition(1, (0, 1, 2, 3, 4, 5, 6, 7, 1030)),),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": (_Condition(1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),),
    "clone": (_Condition(0, (0x10000,), mask=0x10000),),  # CLONE_THREAD
    # only reading the process's own limits
    "prlimit64": (_Condition(0, (0,)), _Condition(2, (0,)), _Condition(2, (0,), upper=True)),
}


def _instruction(code: int, k: int, if_true: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, 0, k)


def _when(number: int, body: list[bytes]) -> list[bytes]:
    """Run `body`, which ends in a return, for this system call; else continue after it."""
    skip = struct.pack("HBBI", _JUMP_IF_EQUAL, 0, len(body), number)
    return [skip, *body]


def _check(condition: _Condition) -> list[bytes]:
    offset = 16 + 8 * condition.argument + (4 if condition.upper else 0)
    count = len(condition.values)
    return [
        _instruction(_LOAD, offset),
        _instruction(_AND, condition.mask),
        *(_instruction(_JUMP_IF_EQUAL, v, count - i) for i, v in enumerate(condition.values)),
        _instruction(_RETURN, _REFUSE),
    ]


@functools.cache
def _same_for_all(machine: str) -> bytes:
    """Build the rules that name no process, and the end of the filter."""
    allow, program = [_instruction(_RETURN, _ALLOW)], list[bytes]()
    for number in _numbers(_ALLOWED, machine).values():
        program += _when(number, allow)
    for name, number in _numbers(_BY_ARGUMENT, machine).items():
        checks = [step for condition in _RULES[name] for step in _check(condition)]
        program += _when(number, checks + allow)
    for number in _numbers(_UNKNOWN, machine).values():
        program += _when(number, [_instruction(_RETURN, _NO_SUCH_CALL)])
    return b"".join([*program, _instruction(_RETURN, _REFUSE)])


def filter_program(machine: str, own_pid: int, may_signal: Collection[int] = ()) -> bytes:
    """Return the filter of a process; the first call takes longer, as the common part is cached."""
    program = [
        _instruction(_LOAD, 4),
        _instruction(_JUMP_IF_EQUAL, _ARCHITECTURES[machine], 1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, 0),
    ]
    for name, number in _numbers(_SIGNALS, machine).items():
        allowed = (own_pid, *may_signal) if name == "kill" else (own_pid,)
        body = [*_check(_Condition(0, allowed)), _instruction(_RETURN, _ALLOW)]
        program += _when(number, body)
    return b"".join([*program, _same_for_all(machine)])


def install(own_pid: int, may_signal: Collection[int] = ()) -> None:
    """Put the filter on this process, for good. It must have NO_NEW_PRIVS and one thread.

    `may_signal` are the processes that it may signal besides itself. Raises UserError if the kernel
    has no seccomp filters or refuses this one.
    """
    program = filter_program(supported_machine(), own_pid, may_signal)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    arguments = (ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.c_char_p(described))
    if _LIBC.prctl(_PR_SET_SECCOMP, *arguments, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise UserError(
            "verifier=python needs seccomp filters (CONFIG_SECCOMP_FILTER), and the kernel or "
            f"container refused one: errno {ctypes.get_errno()}"
        )
