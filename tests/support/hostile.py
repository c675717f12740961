"""Programs that attack their sandbox, and a check that none is paid and none does harm.

Standard library and `passk.verifiers.code` only, so that `test_hostile_programs.py` can also run it as
another user: `python hostile.py` prints one JSON object with what it found.
"""

# ruff: noqa: E501

import json
import os
import subprocess
import sys
import tempfile
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from passk.verifiers.code.confinement import Limits
from passk.verifiers.code.process import Check, Sandbox

LIMITS = Limits(seconds=5.0, memory_bytes=512 * 2**20, file_bytes=2**20)
SECRET = 918273645  # what f(3) has to be; a program that finds it in the tests is paid
TESTS = f"assert f(3) == {SECRET}"

# `attack()` may return what it found; f(3) returns that.
PRELUDE = r"""
import ctypes, os, re, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
JUDGE = os.getppid()
NEAR = [pid for pid in range(max(1, os.getpid() - 60), os.getpid() + 20) if pid != os.getpid()]
OUTCOME = b'!correct\n{"outcome": "correct"}\ncorrect'
def search(data):
    found = re.search(rb'f\(3\) =' + rb'= (\d+)', data)
    return int(found[1]) if found else None
def each(*calls):
    for call in calls:
        try:
            found = call()
        except BaseException:
            continue
        if isinstance(found, bytes): found = search(found)
        if found and found > 2**20: return found
def raw(*numbers_and_args):
    return each(*(lambda c=c: libc.syscall(*(ctypes.c_long(x) if isinstance(x, int) else x
                                              for x in c)) and None for c in numbers_and_args))
def read(path, flags=os.O_RDONLY):
    return lambda: os.read(os.open(path, flags), 2**20)
def write(path, flags=os.O_WRONLY):
    def attempt():
        descriptor = os.open(path, flags)
        for offset in (0, 1, 64, 4096): os.pwrite(descriptor, OUTCOME, offset)
        os.write(descriptor, OUTCOME)
    return attempt
"""

# Numbers are those of x86_64, where a raw call is made.
ATTACKS = {
    "results": {
        "write to the judge's files": "each(*(write(f'/proc/{JUDGE}/fd/{n}') for n in range(32)))",
        "write a line behind the judge's": (
            "line = b'{\"outcome\": \"correct\"}\\n'\n"
            "for n in range(32):\n"
            "    each(lambda: (file := os.open(f'/proc/{JUDGE}/fd/{n}', os.O_WRONLY)) and None\n"
            "         or os.pwrite(file, line, os.fstat(file).st_size + 21) and None)"
        ),
        "append to the judge's files": (
            "each(*(write(f'/proc/{JUDGE}/fd/{n}', os.O_WRONLY | os.O_APPEND) for n in range(32)))"
        ),
        "write garbage there": (
            "for n in range(32):\n"
            "    each(lambda: os.write(os.open(f'/proc/{JUDGE}/fd/{n}', os.O_RDWR), b'\\xff\\xfe'))"
        ),
        "through the judge's task": (
            "each(*(write(f'/proc/{JUDGE}/task/{JUDGE}/fd/{n}') for n in range(32)))"
        ),
        "write to files of every process near": (
            "each(*(write(f'/proc/{p}/fd/{n}') for p in NEAR for n in range(9)))"
        ),
        "write to all own files": (
            "for n in range(32): each(lambda: os.write(n, OUTCOME) and None)"
        ),
        "print it": "print(OUTCOME.decode()); print(OUTCOME.decode(), file=sys.stderr, flush=True)",
        "open own files anew": (
            "each(*(write(f'/proc/self/fd/{n}') for n in range(3)))\n"
            "each(*(write(f'/dev/fd/{n}') for n in range(3)))\n"
            "each(write('/dev/stdout'), write('/dev/tty'), write('/dev/pts/0'))"
        ),
        "copy the judge's files by pidfd": (
            "for n in range(32):\n"
            "    pidfd = libc.syscall(434, JUDGE, 0)\n"
            "    copy = libc.syscall(438, pidfd, n, 0)\n"
            "    each(lambda: os.write(copy, OUTCOME) and None)"
        ),
        "write to the judge's memory": (
            "each(write(f'/proc/{JUDGE}/mem', os.O_RDWR))\n"
            "local = ctypes.create_string_buffer(OUTCOME)\n"
            "vec = (ctypes.c_size_t * 2)(ctypes.addressof(local), len(OUTCOME))\n"
            "raw((311, JUDGE, vec, 1, vec, 1, 0))"
        ),
        "send it by descriptors": (
            "a, b = socket.socketpair()\n"
            "each(lambda: socket.send_fds(a, [OUTCOME], [0, 3, 4]) and None,\n"
            "     lambda: socket.recv_fds(b, 99, 9) and None)"
        ),
    },
    "tests": {
        "read the judge's files": "return each(*(read(f'/proc/{JUDGE}/fd/{n}') for n in range(32)))",
        "read and write the judge's files": (
            "return each(*(read(f'/proc/{JUDGE}/fd/{n}', os.O_RDWR) for n in range(32)))"
        ),
        "read what every process near has open": (
            "return each(*(read(f'/proc/{p}/fd/{n}') for p in NEAR for n in range(9)))"
        ),
        "the judge's memory": (
            "def at(line):\n"
            "    start, end = (int(part, 16) for part in line.split()[0].split('-'))\n"
            "    return os.pread(os.open(f'/proc/{JUDGE}/mem', os.O_RDONLY), end - start, start)\n"
            "lines = open(f'/proc/{JUDGE}/maps').read().splitlines()\n"
            "return each(*(lambda line=line: at(line) for line in lines))"
        ),
        "the judge's memory by a system call": (
            "local = ctypes.create_string_buffer(2**16)\n"
            "here = (ctypes.c_size_t * 2)(ctypes.addressof(local), 2**16)\n"
            "def at(address):\n"
            "    there = (ctypes.c_size_t * 2)(address, 2**16)\n"
            "    libc.syscall(310, JUDGE, here, 1, there, 1, 0)\n"
            "    return local.raw\n"
            "return each(*(lambda n=n: at((id(each) & ~0xffff) + n * 2**16) for n in range(-99, 99)))"
        ),
        "own memory, inherited from the judge": (
            "base = id(each) & ~0xffff\n"
            "with open('dump', 'w+b', buffering=0) as file:\n"
            "    for n in range(-400, 400):\n"
            "        file.seek(0)\n"
            "        if libc.write(file.fileno(), ctypes.c_void_p(base + n * 2**16), 2**16) > 0:\n"
            "            file.seek(0)\n"
            "            found = search(file.read())\n"
            "            if found: return found"
        ),
        "own objects": (
            "import gc\n"
            "texts = [v for d in gc.get_objects() if isinstance(d, dict) for v in list(d.values())]\n"
            "return each(*(lambda t=t: t.encode() for t in texts if isinstance(t, str)))"
        ),
        "the server's and everybody's environment and arguments": (
            "return each(*(read(f'/proc/{p}/{w}') for p in [1, *NEAR] for w in\n"
            "              ('environ', 'cmdline', 'auxv', 'stack', 'syscall', 'io', 'personality')))"
        ),
        "folders of other processes": (
            "return each(*(read(f'/proc/{p}/{way}/{name}') for p in NEAR for way in ('cwd', 'root')\n"
            "              for name in ('etc/passwd', 'state', 'tests', '.')))"
        ),
        "scratch folders of others": (
            "here = os.path.dirname(os.getcwd())\n"
            "return each(lambda: ' '.join(os.listdir(here)).encode(), read(here + '/owner.lock'),\n"
            "            lambda: os.chdir('..'), lambda: ' '.join(os.listdir('.')).encode())"
        ),
        "trace the judge": "raw((101, 16, JUDGE, 0, 0), (101, 0x4206, JUDGE, 0, 0), (101, 0, 0, 0, 0))",
        "the stack of callers": (
            "frame, texts = sys._getframe(), []\n"
            "while frame:\n"
            "    texts += [str(v) for v in [*frame.f_locals.values(), *frame.f_globals.values()]]\n"
            "    frame = frame.f_back\n"
            "return each(*(lambda t=t: t.encode() for t in texts))"
        ),
        "requests, read ahead and again": (
            "os.set_blocking(3, False)\n"
            "return each(lambda: os.read(3, 2**16), read('/proc/self/fd/3', os.O_RDONLY | os.O_NONBLOCK),"
            " read('/proc/self/fd/4', os.O_RDONLY | os.O_NONBLOCK))"
        ),
    },
    "signals": {
        "kill the judge": "for n in (9, 15, 19, 2, 11): each(lambda: os.kill(JUDGE, n))",
        "kill every process near": "for p in NEAR: each(lambda: os.kill(p, 9), lambda: os.kill(p, 19))",
        "kill groups and everybody": "for p in (0, -1, -JUDGE): each(lambda: os.kill(p, 9))",
        "by other calls": (
            "for p in [JUDGE, *NEAR]:\n"
            "    raw((200, p, 9), (234, p, p, 9), (129, p, 9, 0), (297, p, p, 9, 0))\n"
            "    raw((424, libc.syscall(434, p, 0), 9, 0, 0))"
        ),
        "by owning a file": (
            "import fcntl\n"
            "for p in (JUDGE, -JUDGE):\n"
            "    each(lambda: fcntl.fcntl(4, fcntl.F_SETOWN, p), lambda: fcntl.fcntl(4, 10, 9))\n"
            "    each(lambda: fcntl.fcntl(4, fcntl.F_SETFL, os.O_ASYNC))"
        ),
        "by a timer": "raw((222, 0, 0, 0), (283, 0, 0), (284, 0, 0)); signal.setitimer(0, 0.01)",
        "stop itself": "os.kill(os.getpid(), signal.SIGSTOP)",
        "outlive its judge": "raw((157, 1, 0, 0, 0, 0), (112,), (109, 0, 0))",
    },
    "rights of others": {
        "limits": "raw(*((302, JUDGE, kind, (ctypes.c_ulong * 2)(0, 0), 0) for kind in range(16)))",
        "priorities": "raw((141, 0, JUDGE, 19), (141, 2, 0, 19), (251, 1, JUDGE, 0), (142, JUDGE, 0))",
        "processors": "raw((203, JUDGE, 8, (ctypes.c_ulong * 1)(1)), (144, JUDGE, 3, 0))",
        "memory of others": "raw((256, JUDGE, 0, 0, 0), (279, JUDGE, 0, 0, 0, 0), (440, 0, 0, 0, 0, 0))",
        "comparing files": "raw((312, JUDGE, os.getpid(), 0, 3, 3), (274, JUDGE, 0, 0))",
        "out-of-memory scores": (
            "each(*(write(f'/proc/{p}/{w}') for p in [JUDGE, 'self', *NEAR]\n"
            "       for w in ('oom_score_adj', 'timerslack_ns', 'coredump_filter', 'comm')))"
        ),
    },
    "shared things": {
        "keys": "raw((248, b'user', b'k', OUTCOME, 9, -3), (250, 0, -5, 1), (249, b'user', b'k', 0, 0))",
        "memory of System V": "raw((29, 7, 4096, 0o1666), (30, 0, 0, 0), (31, 0, 0, 0))",
        "queues and semaphores of System V": "raw((68, 7, 0o1666), (64, 7, 1, 0o1666), (69, 0, OUTCOME, 9, 0))",
        "queues of POSIX": "raw((240, b'q', 0o102, 0o666, 0))",
        "shared memory of POSIX": (
            "from multiprocessing import shared_memory\n"
            "each(lambda: shared_memory.SharedMemory('passk', create=True, size=99) and None)\n"
            "each(write('/dev/shm/passk', os.O_RDWR | os.O_CREAT))"
        ),
        "memory files": "raw((319, b'a', 0), (447, 0)); each(lambda: os.memfd_create('a') and None)",
        "abstract sockets": (
            "each(lambda: socket.socket(socket.AF_UNIX).bind('\\0passk'))\n"
            "each(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect('\\0passk'))\n"
            "raw((49, 3, b'\\1\\0\\0passk', 8), (42, 4, b'\\1\\0\\0passk', 8))"
        ),
        "the network": (
            "each(lambda: socket.create_connection(('127.0.0.1', 22), 1) and None,\n"
            "     lambda: socket.socket(socket.AF_NETLINK) and None,\n"
            "     lambda: socket.socket(socket.AF_VSOCK) and None)\n"
            "raw((41, 2, 1, 0), (41, 16, 3, 0), (41, 40, 1, 0))"
        ),
        "watching files": "raw((253,), (294, 0), (300, 0, 0), (255, 0, 0))",
        "locks of other files": (
            "import fcntl\n"
            "each(lambda: fcntl.flock(os.open(os.__file__, os.O_RDONLY), 6),\n"
            "     lambda: fcntl.lockf(os.open(os.__file__, os.O_RDONLY), 5))"
        ),
        "leases and notes of a folder": (
            "import fcntl\n"
            "each(lambda: fcntl.fcntl(4, 1024, 0) and None, lambda: fcntl.fcntl(4, 1026, 1) and None,\n"
            "     lambda: fcntl.fcntl(4, 1031, 2**20) and None, lambda: fcntl.fcntl(4, 1033, 15) and None)"
        ),
    },
    "the kernel": {
        "tools of the kernel": "raw((425, 8, OUTCOME), (321, 0, 0, 0), (298, OUTCOME, 0, -1, -1, 0), (323, 0))",
        "folders of the system": "raw((165, b'/', b'/', 0, 0, 0), (161, b'/'), (155, b'/', b'/'), (166, b'/', 0))",
        "namespaces": "raw((272, 0x10000000), (272, 0x20000), (308, 3, 0), (56, 0x10000011, 0, 0, 0, 0))",
        "new processes": (
            "for call in ('os.fork()', 'os.execv(\"/bin/true\", [\"true\"])', 'os.system(\"true\")'):\n"
            "    each(lambda: eval(call) and None)\n"
            "raw((57,), (58,), (59, b'/bin/true', 0, 0), (322, -100, b'/bin/true', 0, 0, 0), (435, 0, 0))"
        ),
        "another user": "raw((105, 0), (106, 0), (117, 0, 0, 0), (116, 0, 0), (126, 0, 0), (122, 0))",
        "its own filter": "raw((157, 22, 0, 0, 0, 0), (317, 0, 0, 0), (157, 4, 1, 0, 0, 0), (446, 3, 0))",
        "the machine": "raw((169, 0, 0, 0), (170, b'x', 1), (164, 0, 0), (103, 3, 0, 0), (163, 0), (175, 0, 0, 0))",
        "the old interface of the processor": (
            "code = b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3'  # getpid by int 0x80: other numbers\n"
            "page = libc.mmap; page.restype = ctypes.c_void_p\n"
            "at = page(None, 4096, 7, 0x22, -1, 0)\n"
            "ctypes.memmove(at, code, len(code)); ctypes.CFUNCTYPE(ctypes.c_int)(at)()"
        ),
        "numbers of x32": "raw(*((0x40000000 + n, JUDGE, 9, 0) for n in (0, 57, 62, 521, 528, 534)))",
        "handles instead of paths": (
            "raw((303, -100, CANARY.encode(), bytes(64), bytes(8), 0), (304, 3, bytes(64), 2),\n"
            "    (437, -100, CANARY.encode(), bytes(24), 24))"
        ),
    },
    "files": {
        "write a file outside": "each(write(CANARY), write(CANARY, os.O_RDWR | os.O_TRUNC))",
        "read a file outside": "return each(read(CANARY), read('/etc/passwd'), read('/etc/shadow'))",
        "truncate a file outside": "raw((76, CANARY.encode(), 0)); each(lambda: os.truncate(CANARY, 0))",
        "remove a file outside": (
            "each(lambda: os.unlink(CANARY), lambda: os.rename(CANARY, 'mine'),\n"
            "     lambda: os.rename('mine', CANARY), lambda: os.rmdir(os.path.dirname(CANARY)))"
        ),
        "links to a file outside": (
            "each(lambda: os.link(CANARY, 'a'), lambda: os.symlink(CANARY, 'b'),\n"
            "     lambda: os.mkfifo('c'), lambda: os.mkdir('d'), write('a'), write('b'))"
        ),
        "attributes of a file outside": (
            "each(lambda: os.chmod(CANARY, 0), lambda: os.chown(CANARY, 1, 1),\n"
            "     lambda: os.utime(CANARY, (0, 0)), lambda: os.setxattr(CANARY, 'user.a', b''))"
        ),
        "a path of its own folder": "each(write('../../' + os.path.basename(CANARY)), write('../owner.lock'))",
        "the standard library": (
            "each(write(os.__file__), write(os.__file__ + 'c', os.O_WRONLY | os.O_CREAT),\n"
            "     write(os.path.dirname(os.__file__) + '/__pycache__/x.pyc', os.O_WRONLY | os.O_CREAT))"
        ),
        "names that are hard to remove": (
            "os.umask(0o777)\n"
            "for name in ('\\n', '-rf', 'x' * 255, '\\udcff', ' ', '*', '..a'):\n"
            "    each(lambda: os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0)))"
        ),
        "settings of the system": (
            "each(*(write(path) for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger',\n"
            "       '/sys/power/state', '/dev/mem', '/dev/kmsg', '/dev/sda', '/etc/ld.so.preload')))"
        ),
    },
    "its own end": {
        "leave": "os._exit(0)",
        "leave in a hurry": "raw((231, 0)); raw((60, 0))",
        "crash": "ctypes.string_at(0)",
        "close everything": "os.closerange(0, 64)",
        "swap its pipes": "os.dup2(3, 5); os.dup2(4, 3); os.dup2(5, 4)",
        "raise what ends an interpreter": "raise SystemExit(0)",
    },
}  # fmt: skip

PLACES = {
    "at import": "FOUND = guarded()\ndef f(x): return FOUND or 0",
    "in the function": "def f(x): return guarded() or 0",
    "in a thread": (
        "import threading\n"
        "def f(x):\n"
        "    found = []\n"
        "    thread = threading.Thread(target=lambda: found.append(guarded()), daemon=True)\n"
        "    thread.start(); thread.join(0.3)\n"
        "    return next(iter(found), 0) or 0"
    ),
    "at the end": (
        "import atexit\n"
        "found = []\n"
        "class Last:\n"
        "    def __del__(self): found.append(guarded())\n"
        "atexit.register(lambda: found.append(guarded()))\n"
        "def f(x):\n"
        "    Last()\n"
        "    atexit._run_exitfuncs()\n"
        "    return next(filter(None, found), 0)"
    ),
}


def program(attack: str, place: str, canary: str) -> str:
    """A program that attacks at a place; its `f` is right only if it found out how."""
    body = textwrap.indent(attack, " " * 4)
    guarded = "def guarded():\n    try: return attack()\n    except BaseException: return None\n"
    head = f"{PRELUDE}CANARY = {canary!r}\ndef attack():\n{body}\n{guarded}"
    return head + PLACES[place]


def hurt(canary: Path, process: subprocess.Popen[bytes], sandbox: Sandbox) -> list[str]:
    """What has been harmed: a file, a process, the sandbox itself, what comes after."""
    status = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    honest = Check("", f"def f(x): return {SECRET}", TESTS)
    signs = {
        "the file": canary.read_text() != "canary" or canary.stat().st_mode & 0o777 != 0o666,
        "its folder": os.listdir(canary.parent) != [canary.name],
        "the process": process.poll() is not None or status not in "SR",
        "the scratch folders": os.listdir(sandbox.folder) != ["owner.lock"],
        "a right program": sandbox.run(honest, LIMITS).result != "correct",
    }
    return [sign for sign, is_hurt in signs.items() if is_hurt]


def run_family(family: str, limits: Limits = LIMITS) -> dict[str, object]:
    """Run the attacks of a family at all places: outcomes by program, and what was harmed."""
    sandbox = Sandbox()
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder, "canary")
        canary.write_text("canary")
        canary.chmod(0o666)
        with subprocess.Popen(["sleep", "600"]) as process:
            programs = {
                f"{name}, {place}": program(attack, place, str(canary))
                for name, attack in ATTACKS[family].items()
                for place in PLACES
            }
            sandbox.run(Check("", "", TESTS), limits)
            descriptors = os.listdir("/proc/self/fd")
            server = sandbox._servers[-1].pid
            with ThreadPoolExecutor(2) as pool:
                results = pool.map(
                    lambda code: sandbox.run(Check("", code, TESTS), limits).result,
                    programs.values(),
                )
                outcomes = dict(zip(programs, results, strict=True))
            harm = hurt(canary, process, sandbox)
            if len(os.listdir("/proc/self/fd")) != len(descriptors):
                harm.append("descriptors")
            if sandbox._servers[-1].pid != server:
                harm.append("the server")
            process.kill()
    sandbox.close()
    return {"user": os.getuid(), "outcomes": outcomes, "harm": harm}


if __name__ == "__main__":
    families = sys.argv[1:] or list(ATTACKS)
    print(json.dumps({family: run_family(family) for family in families}))
