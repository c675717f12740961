"""What code in the sandbox can and cannot do, tried for real on this machine's kernel."""

import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from processes import assert_ended, descendants

from passk.verifiers.code import landlock, seccomp
from passk.verifiers.code.confinement import Limits
from passk.verifiers.code.process import Check, Outcome, Sandbox
from passk.verifiers.code.scratch import remove_abandoned

MIB = 2**20
LIMITS = Limits(seconds=5.0, memory_bytes=512 * MIB, file_bytes=1 * MIB)
SHORT = Limits(seconds=0.7, memory_bytes=512 * MIB, file_bytes=1 * MIB)
SANDBOX = Sandbox()
# f() tells what became of a statement: the exception's name, or `done`.
TRY = """
def f():
    try:
{body}
    except BaseException as error:
        return type(error).__name__
    return "done"
"""


def check(code: str, tests: str, limits: Limits = LIMITS) -> str:
    return SANDBOX.run(Check("", textwrap.dedent(code), tests), limits).result


def becomes(body: str, expected: str) -> str:
    code = TRY.format(body=textwrap.indent(textwrap.dedent(body).strip(), " " * 8))
    return check(code, f"result = f()\nassert result == {expected!r}, result")


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """After every single check: no process but the server, no file, no open descriptor."""
    check("def f(): return 1", "assert f() == 1")  # the server has started
    descriptors = sorted(os.listdir("/proc/self/fd"))
    yield
    assert os.listdir(SANDBOX.folder) == ["owner.lock"]
    assert_ended(descendants(SANDBOX._servers[-1].pid), within=1.0)
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


REFUSED = {
    "a socket": ("import socket; socket.socket()", "PermissionError"),
    "a unix socket": ("import socket; socket.socket(socket.AF_UNIX)", "PermissionError"),
    "a datagram pair": (
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "PermissionError",
    ),
    "a name server": ("import socket; socket.getaddrinfo('example.org', 80)", "gaierror"),
    "fork": ("import os; os.fork()", "PermissionError"),
    "vfork and exec": ("import subprocess; subprocess.run(['/bin/true'])", "PermissionError"),
    "posix_spawn": (
        "import os; os.posix_spawn('/bin/true', ['true'], {{}})",
        "PermissionError",
    ),
    "exec": ("import os; os.execv('/bin/true', ['true'])", "PermissionError"),
    "setsid": ("import os; os.setsid()", "PermissionError"),
    "killing the tests": ("import os; os.kill(os.getppid(), 9)", "PermissionError"),
    "killing the group": ("import os; os.kill(0, 9)", "PermissionError"),
    "killing everything": ("import os; os.kill(-1, 9)", "PermissionError"),
    "signals by ownership of a pipe": (
        "import fcntl, os; fcntl.fcntl(3, 8, os.getppid())",  # F_SETOWN
        "PermissionError",
    ),
    "limits of the tests": (
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "PermissionError",
    ),
    "more memory": (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "ValueError",
    ),
    "reading a secret": ("open({outside!r}).read()", "PermissionError"),
    "listing a folder": ("import os; os.listdir({folder!r})", "PermissionError"),
    "reading through /proc": ("open('/proc/self/mem', 'rb')", "PermissionError"),
    "reading accounts": ("open('/etc/passwd').read()", "PermissionError"),
    "the package itself": ("open({package!r}).read()", "PermissionError"),
    "writing": ("open({outside!r}, 'w')", "PermissionError"),
    "appending": ("open({outside!r}, 'a')", "PermissionError"),
    "a new file": ("open({folder!r} + '/new', 'w')", "PermissionError"),
    "truncating": ("import os; os.truncate({outside!r}, 0)", "PermissionError"),
    "opening to truncate": ("import os; os.open({outside!r}, os.O_TRUNC)", "PermissionError"),
    "deleting": ("import os; os.unlink({outside!r})", "PermissionError"),
    "renaming": ("import os; os.rename({outside!r}, {outside!r} + '2')", "PermissionError"),
    "a folder": ("import os; os.mkdir('folder')", "PermissionError"),
    "a link into the scratch": ("import os; os.link({outside!r}, 'link')", "PermissionError"),
    "a symbolic link": ("import os; os.symlink({outside!r}, 'link')", "PermissionError"),
    "rights of a file": ("import os; os.chmod({outside!r}, 0o777)", "PermissionError"),
    "an owner": ("import os; os.chown({outside!r}, 1, 1)", "PermissionError"),
    "times of a file": ("import os; os.utime({outside!r}, (0, 0))", "PermissionError"),
    "an attribute": ("import os; os.setxattr({outside!r}, 'user.a', b'')", "PermissionError"),
    "memory outside its limits": ("import os; os.memfd_create('a')", "PermissionError"),
    "standard input": ("input()", "EOFError"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what, tmp_path):
    outside = tmp_path / "secret.txt"
    outside.write_text("secret")
    before = outside.stat()
    body, expected = REFUSED[what]
    package = str(Path(landlock.__file__))
    body = body.format(outside=str(outside), folder=str(tmp_path), package=package)
    assert becomes(body, expected) == "correct"
    after = outside.stat()
    assert outside.read_text() == "secret"
    assert os.listdir(tmp_path) == ["secret.txt"]
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (
        before.st_mode,
        before.st_uid,
        before.st_mtime_ns,
    )


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (101, "ptrace"), (165, "mount"), (250, "keyctl"), (272, "unshare"), (308, "setns"),
        (310, "process_vm_readv"), (311, "process_vm_writev"), (321, "bpf"),
        (425, "io_uring_setup"), (298, "perf_event_open"), (323, "userfaultfd"),
        (424, "pidfd_send_signal"),
        (438, "pidfd_getfd"), (157, "prctl"), (161, "chroot"), (29, "shmget"), (9999, "none"),
    ],
)  # fmt: skip
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")
def test_system_calls_that_are_not_listed_are_refused(number, name):
    code = f"""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    def f():
        return libc.syscall({number}, 0, 0, 0, 0, 0), ctypes.get_errno()
    """
    assert check(code, "assert f() == (-1, 1), f()") == "correct", name


ALLOWED = {
    "its own files": """
        import os, tempfile
        with open('a', 'w') as file: file.write('text')
        os.rename('a', 'b')
        assert open('b').read() == 'text' and os.listdir() == ['b']
        os.remove('b')
        with tempfile.NamedTemporaryFile(dir='.') as file: file.write(b'text')
    """,
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        assert list(ThreadPoolExecutor(4).map(abs, range(-3, 1))) == [3, 2, 1, 0]
    """,
    "asyncio": """
        import asyncio
        async def main():
            await asyncio.sleep(0.001)
            return await asyncio.to_thread(abs, -1)
        assert asyncio.run(main()) == 1
    """,
    "the standard library": """
        import collections, ctypes, decimal, hashlib, heapq, itertools, json, random, re, sqlite3
        import dataclasses, datetime, functools, math, statistics, string, typing, zoneinfo
        assert sqlite3.connect(':memory:').execute('select 1').fetchone() == (1,)
        assert hashlib.sha256(b'').hexdigest().startswith('e3b0')
        random.seed(); datetime.datetime.now()
    """,
    "signals to itself": """
        import os, signal
        signal.signal(signal.SIGUSR1, lambda *_: None)
        os.kill(os.getpid(), signal.SIGUSR1)
    """,
    "an empty environment": """
        import os
        assert not set(os.environ) - {'PYTHONHASHSEED', 'LC_CTYPE'}, dict(os.environ)
        assert os.listdir() == []
    """,
    "a lot of output": """
        import os, sys
        for _ in range(60):
            print('x' * 2**20); print('y' * 2**20, file=sys.stderr); os.write(1, b'z' * 2**20)
    """,
}


@pytest.mark.parametrize("what", ALLOWED)
def test_allowed(what):
    assert becomes(ALLOWED[what], "done") == "correct"


def test_the_programs_environment_is_not_that_of_the_user(monkeypatch):
    monkeypatch.setenv("API_TOKEN", "secret")
    assert becomes("import os; os.environ['API_TOKEN']", "KeyError") == "correct"


ENDINGS = {
    "a loop": ("def f():\n    while True: pass", "timeout", SHORT),
    "a loop that catches everything": (
        "def f():\n    while True:\n        try:\n            while True: pass\n"
        "        except BaseException: pass",
        "timeout",
        SHORT,
    ),
    "a sleep": ("import time\ndef f(): time.sleep(1000)", "timeout", SHORT),
    "a sleep before anything is defined": ("import time\ntime.sleep(1000)", "timeout", SHORT),
    "an endless iterator": ("import itertools\ndef f(): return itertools.count()", "wrong", SHORT),
    "ignored signals": (
        "import signal, time\n"
        "for number in set(signal.valid_signals()) - {9, 19}:\n"
        "    try: signal.signal(number, signal.SIG_IGN)\n"
        "    except OSError: pass\n"
        "def f():\n    while True: pass",
        "timeout",
        SHORT,
    ),
    "memory": ("def f(): return len(bytearray(2**32))", "wrong", LIMITS),
    "memory bit by bit": (
        "def f():\n    kept = []\n    while True: kept.append([0] * 10**6)",
        "wrong",
        LIMITS,
    ),
    "deep recursion": ("def f(): return f()", "wrong", LIMITS),
    "deep recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n=0): return repr(g(n)) if n else g(n)\n"
        "class g:\n    def __init__(self, n): pass\n    def __repr__(self): return repr(self)",
        "wrong",
        LIMITS,
    ),
    "a crash": ("import ctypes\ndef f(): ctypes.string_at(0)", "error", LIMITS),
    "a crash at once": ("import ctypes\nctypes.string_at(0)", "error", LIMITS),
    "abort": ("import os\ndef f(): os.abort()", "error", LIMITS),
    "a huge file": (
        "def f():\n    with open('a', 'wb') as file:\n        while True: file.write(bytes(2**16))",
        "wrong",  # OSError: file too large
        LIMITS,
    ),
    "many files": (
        "def f():\n    i = 0\n    while True:\n"
        "        i += 1; open(str(i), 'wb').write(bytes(2**19))",
        "error",
        LIMITS,
    ),
    "many empty files": (
        "def f():\n    i = 0\n    while True:\n        i += 1; open(str(i), 'wb').close()",
        "error",
        LIMITS,
    ),
    "a fork bomb": (
        "import os\ndef f():\n    while True: os.fork()",
        "wrong",  # PermissionError
        LIMITS,
    ),
    "a fork bomb that does not give up": (
        "import os\ndef f():\n    while True:\n        try: os.fork()\n"
        "        except OSError: pass",
        "timeout",
        SHORT,
    ),
    "a thread bomb": (
        "import threading, time\ndef f():\n"
        "    while True: threading.Thread(target=time.sleep, args=(99,)).start()",
        "wrong",  # no memory for another stack
        LIMITS,
    ),
    "a thread bomb of small stacks": (
        "import threading, time\nthreading.stack_size(2**15)\ndef f():\n"
        "    while True: threading.Thread(target=time.sleep, args=(99,)).start()",
        "error",
        LIMITS,
    ),
    "endless answers": (
        "import os\ndef f():\n    while True: os.write(4, bytes(2**16))",
        "wrong",  # what comes is no message
        SHORT,
    ),
    "an answer without an end": (
        "import os\ndef f():\n    os.write(4, (2**20).to_bytes(8, 'big'))\n    while True: pass",
        "timeout",
        SHORT,
    ),
    "closed pipes": ("import os\nos.closerange(3, 9)\nwhile True: pass", "error", LIMITS),
}


@pytest.mark.parametrize("what", ENDINGS)
def test_endings(what):
    code, expected, limits = ENDINGS[what]
    started = time.monotonic()
    assert SANDBOX.run(Check("", code, "assert f() == 1"), limits) == Outcome(expected)
    assert time.monotonic() - started < limits.seconds + 5


def test_the_limits_are_those_asked_for():
    code = """
    from resource import *
    def f():
        kinds = (RLIMIT_CPU, RLIMIT_AS, RLIMIT_FSIZE, RLIMIT_CORE)
        return [getrlimit(kind) for kind in kinds]
    """
    expected = [(6, 6), (512 * MIB,) * 2, (MIB, MIB), (0, 0)]
    assert check(code, f"assert f() == {expected}, f()") == "correct"


def test_processor_time_is_limited():
    """Where there are two cores or more, the processor's three seconds are over before two pass."""
    code = """
    import threading, zlib
    data = bytes(2**24)
    def burn():
        while True: zlib.crc32(data)
    def f():
        threads = [threading.Thread(target=burn) for _ in range(4)]
        for thread in threads: thread.start()
        threads[0].join()
    """
    limits = Limits(seconds=2.0, memory_bytes=512 * MIB, file_bytes=MIB)
    assert check(code, "f()", limits) == "timeout"


def test_tests_that_loop_by_themselves_are_ended_too():
    assert check("def f(): return 1", "while True: pass", SHORT) == "timeout"


def test_what_cannot_start_is_told_apart(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    sandbox = Sandbox()
    check = Check("", "def f(): return 1", "assert f() == 1")
    assert sandbox.run(check, LIMITS) == Outcome("not_started")
    sandbox.close()
    assert not sandbox.folder.exists()


def test_many_threads_may_check_at_once():
    results: dict[int, str] = {}

    def run(i: int) -> None:
        code = "import os\ndef f(i):\n    open('same', 'w').write(str(i))\n    return os.listdir()"
        results[i] = check(code, f"assert f({i}) == ['same']")

    threads = [threading.Thread(target=run, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(12), "correct")


HANGS = (
    "import os, sys\nfrom passk.verifiers.code.process import *\n"
    "from passk.verifiers.code.confinement import Limits\n"
    "sandbox = Sandbox()\nprint(sandbox.folder, flush=True)\n"
    "sandbox.run(Check('', {code!r}, 'f()'), Limits(30.0, 2**29, 2**20))"
)


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(1000)"])
def test_a_killed_parent_leaves_no_process_and_its_folder_goes_at_the_next_start(code, tmp_path):
    """SIGKILL of the process that checks, while the program hangs. All processes must go."""
    code = f"open('scratch', 'w').write('left')\n{code}"
    with subprocess.Popen(
        [sys.executable, "-c", HANGS.format(code=code)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        folder = Path(parent.stdout.readline().strip())
        assert folder.parent == tmp_path
        until = time.monotonic() + 30
        while not list(folder.glob("check-*/scratch")):
            assert time.monotonic() < until, "the check did not start"
            time.sleep(0.01)
        running = descendants(parent.pid)
        assert len(running) == 3  # the server, the judge, the solution
        remove_abandoned(tmp_path)
        assert list(folder.glob("check-*/scratch"))  # it is not abandoned: its owner lives
        parent.kill()
    assert_ended(running, within=5.0)
    assert list(folder.glob("check-*/scratch"))
    remove_abandoned(tmp_path)
    assert os.listdir(tmp_path) == []


def test_only_folders_of_this_kind_are_removed(tmp_path):
    """Names that a user could have chosen, a link to another folder, and one that is being made."""
    (tmp_path / "passk-sandbox-mine").mkdir()
    (tmp_path / "passk-sandbox-mine" / "data").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "owner.lock").touch()
    (tmp_path / "passk-sandbox-link").symlink_to(tmp_path / "other")
    (tmp_path / "passk-sandbox-new").mkdir()
    (tmp_path / "passk-sandbox-new" / "new.lock").touch()
    (tmp_path / "passk-sandbox-file").touch()
    (tmp_path / "passk-sandbox-old").mkdir()
    (tmp_path / "passk-sandbox-old" / "owner.lock").touch()
    before = set(tmp_path.rglob("*"))
    remove_abandoned(tmp_path)
    gone = {tmp_path / "passk-sandbox-old", tmp_path / "passk-sandbox-old" / "owner.lock"}
    assert set(tmp_path.rglob("*")) == before - gone


def test_a_server_that_was_killed_is_started_again(tmp_path):
    """Also while checks run: these are run once more."""
    sandbox = Sandbox()
    code = "import time\ndef f(): time.sleep(0.5); return 1"
    outcomes: list[Outcome] = []
    checks = [
        threading.Thread(
            target=lambda: outcomes.append(sandbox.run(Check("", code, "assert f() == 1"), LIMITS))
        )
        for _ in range(4)
    ]
    for thread in checks:
        thread.start()
    while len(os.listdir(sandbox.folder)) < 5:
        time.sleep(0.01)
    time.sleep(0.2)
    first = sandbox._servers[-1].pid
    os.kill(first, signal.SIGKILL)
    for thread in checks:
        thread.join()
    assert outcomes == [Outcome("correct")] * 4
    assert sandbox._servers[-1].pid != first
    os.kill(sandbox._servers[-1].pid, signal.SIGKILL)  # and between checks
    assert sandbox.run(Check("", code, "assert f() == 1"), LIMITS) == Outcome("correct")
    sandbox.close()


def test_checks_end_when_their_sandbox_is_closed_or_forgotten():
    server = sandbox = None
    for way in ("closed", "forgotten"):
        sandbox = Sandbox()
        assert sandbox.run(Check("", "x = 1", "assert x == 1"), LIMITS) == Outcome("correct")
        folder, server = sandbox.folder, sandbox._servers[-1].pid
        if way == "closed":
            sandbox.close()
        del sandbox
        assert not folder.exists()
        assert server not in descendants(os.getpid())


STATE = """
import gc, random, sys, time, os
state = [gc.get_count(), gc.isenabled(), sorted(sys.modules), sys.path, sorted(globals()),
         ''.join(set('abcdefgh')), sys.getrecursionlimit(), os.listdir(), os.environ]
with open('new', 'w') as file:
    print(repr(state), random.random(), sep='\\n', file=file)
os.rename('new', 'state')
time.sleep(30)
"""


def test_a_program_finds_the_same_state_whatever_ran_before():
    """Modules, counters of the collector, hashes, its folder; but random numbers of its own."""
    states, drawn = [], set()
    for _ in range(3):
        thread = threading.Thread(target=check, args=(STATE, "1", SHORT))
        thread.start()
        while not (files := list(SANDBOX.folder.glob("check-*/state"))):
            time.sleep(0.005)
        state, number = files[0].read_text().split("\n")[:2]
        states.append(state)
        drawn.add(number)
        thread.join()
        check("import sqlite3, random\nrandom.seed(0)\nx = [[] for _ in range(999)]", "1")
    assert states[0] == states[1] == states[2]
    assert len(drawn) == 3


ALLOW, KILL, REFUSE, NO_SUCH_CALL = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def filtered(machine: str, number: int, *arguments: int, architecture: int | None = None) -> int:
    """What the filter of a process 10 that may signal 20 returns, by carrying it out."""
    code = seccomp.filter_program(machine, 10, [20])
    architecture = seccomp._ARCHITECTURES[machine] if architecture is None else architecture
    padded = (*arguments, *[0] * (6 - len(arguments)))
    data = struct.pack("<IIQ6Q", number, architecture, 0, *padded)
    at, loaded = 0, 0
    while True:
        kind, if_true, if_false, k = struct.unpack_from("<HBBI", code, 8 * at)
        at += 1
        if kind == 0x20:  # load
            (loaded,) = struct.unpack_from("<I", data, k)
        elif kind == 0x54:  # and
            loaded &= k
        elif kind == 0x15:  # jump if equal
            at += if_true if loaded == k else if_false
        else:
            assert kind == 0x06  # return
            return k


BY_MACHINE = [
    # x86_64, aarch64: number; arguments; result
    (0, 63, (), ALLOW),  # read
    (257, 56, (0, 0, 0o2), ALLOW),  # openat, O_RDWR
    (257, 56, (0, 0, 0o1000), REFUSE),  # O_RDONLY | O_TRUNC
    (257, 56, (0, 0, 0o1101), ALLOW),  # O_WRONLY | O_CREAT | O_TRUNC
    (56, 220, (0x3D0F00,), ALLOW),  # clone, as pthread_create does it
    (56, 220, (0x1200011,), REFUSE),  # clone, as fork does it
    (435, 435, (), NO_SUCH_CALL),  # clone3
    (59, 221, (), REFUSE),  # execve
    (41, 198, (1, 1), REFUSE),  # socket
    (53, 199, (1, 0x80801), ALLOW),  # socketpair, AF_UNIX, SOCK_STREAM with flags
    (53, 199, (1, 2), REFUSE),
    (53, 199, (2, 1), REFUSE),
    (62, 129, (10, 9), ALLOW),  # kill
    (62, 129, (20, 9), ALLOW),
    (62, 129, (30, 9), REFUSE),
    (62, 129, (2**32 - 1, 9), REFUSE),
    (62, 129, (0, 9), REFUSE),
    (234, 131, (10, 11, 6), ALLOW),  # tgkill
    (234, 131, (20, 20, 6), REFUSE),
    (302, 261, (0, 7, 0, 2**47), ALLOW),  # prlimit64
    (302, 261, (0, 7, 2**47, 0), REFUSE),
    (302, 261, (0, 7, 1, 0), REFUSE),
    (302, 261, (10, 7, 0, 2**47), REFUSE),
    (72, 25, (3, 8, 20), REFUSE),  # fcntl, F_SETOWN
    (72, 25, (3, 1030, 20), ALLOW),  # F_DUPFD_CLOEXEC
    (16, 29, (0, 0x5412), REFUSE),  # ioctl, TIOCSTI
    (16, 29, (0, 0x5401), ALLOW),  # TCGETS
    (101, 117, (), REFUSE),  # ptrace
    (161, 51, (), REFUSE),  # chroot
    (0x40000000, 5000, (), REFUSE),  # x32, and what there is not
]


@pytest.mark.parametrize(("x86_64", "aarch64", "arguments", "expected"), BY_MACHINE)
def test_the_filter_step_by_step(x86_64, aarch64, arguments, expected):
    """On both machines, of which a test can run on one only."""
    assert filtered("x86_64", x86_64, *arguments) == expected
    assert filtered("aarch64", aarch64, *arguments) == expected
    other = seccomp._ARCHITECTURES["aarch64"]
    assert filtered("x86_64", x86_64, *arguments, architecture=other) == KILL
