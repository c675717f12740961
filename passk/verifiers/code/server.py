"""Fork server: one warm interpreter that every check is forked from, at the cost of a fork.

`process.py` starts it, with the standard library only. It never reads a program or tests: for each
check it gets two descriptors, the check's channel and its scratch folder, and forks a judge that
reads the rest. So no check can find another one's texts in its memory, and every check starts from
the same state, whatever ran before.
"""

import gc
import importlib
import io
import os
import select
import signal
import socket
import struct
from contextlib import suppress

from passk.verifiers.code import seccomp
from passk.verifiers.code.confinement import Limits, adopt_orphans, die_with_parent, hide
from passk.verifiers.code.judge import HEADER, run_judge
from passk.verifiers.code.program import find_program, read_prompt
from passk.verifiers.code.remote_values import decode, encode, pack, unpack

# A request: the time by which the program must have started, and its limits.
REQUEST = struct.Struct("=ddQQ")
# Imported once, here, instead of by every program.
_OFTEN_IMPORTED = (
    *("bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "hashlib", "heapq", "inspect", "itertools", "json", "math"),
    *("operator", "random", "re", "statistics", "string", "textwrap", "threading", "typing"),
)


def _be_killed_first() -> None:
    """Make a machine out of memory kill checks first, not their caller. Inherited by forks."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _warm_up() -> None:
    """Do once what every check does, so that forks find imports done and memory written to."""
    for name in _OFTEN_IMPORTED:
        importlib.import_module(name)
    seccomp.filter_program(seccomp.supported_machine(), os.getpid())
    prompt = read_prompt('def f(x: int) -> int:\n    """Return x."""\n')
    find_program(prompt, "```python\ndef f(x):\n    return x\n```", frozenset({"f"}))
    unpack(io.BytesIO(pack(decode(encode({"f": [1, 2.5, (None,)]}, id), id))).read)


def _run_judge(server_pid: int, request: bytes, channel: socket.socket, scratch: int) -> None:
    die_with_parent(server_pid)
    gc.enable()
    gc.collect()  # so that the counters of gc are the same, whatever the server did before
    start_by, *limits = REQUEST.unpack(request)
    run_judge(channel, scratch, Limits(*limits), start_by)


def serve(parent: int) -> None:
    """Serve requests on standard input until it is closed or the process `parent` (pidfd) ends."""
    _be_killed_first()
    hide()
    adopt_orphans()
    _warm_up()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps ended judges
    gc.collect()
    gc.disable()
    gc.freeze()
    server_pid = os.getpid()
    control = socket.socket(fileno=os.dup(0))
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(parent, select.POLLIN)
    while parent not in dict(poll.poll()):
        request, files, _, _ = socket.recv_fds(control, REQUEST.size, 2, socket.MSG_CMSG_CLOEXEC)
        if not request:
            return
        scratch = files.pop()
        with socket.socket(fileno=files.pop()) as channel:
            try:
                pid = os.fork()
            except OSError as error:  # no room for another process
                sentence = f"verifier=python cannot start a check: {error}"
                with suppress(OSError):
                    channel.sendall(HEADER.pack(0) + sentence.encode())
                pid = -1
            if pid == 0:
                try:
                    control.close()
                    os.close(parent)
                    _run_judge(server_pid, request, channel, scratch)
                finally:
                    os._exit(0)
        os.close(scratch)
