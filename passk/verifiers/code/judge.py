"""Process that runs the tests. It never runs the code under test, only requests its answers.

`server.py` forks it, with the standard library only. It confines itself, forks the process that
runs the model's code (`solution.py`), and lets the tests call that code over a pair of pipes. So
code under test cannot reach the result: if it leaves early, reads the stack, changes built-in
functions or makes objects that equal everything, all that happens in the other process, and its
answers are compared here, as plain values. The solution's process cannot open this one's files or
memory either: it is in a Landlock domain below, and this process is not dumpable.
"""

import ast
import builtins
import contextlib
import importlib
import os
import re
import signal
import socket
import struct
import sys
import time
import types
from collections.abc import Collection, Iterable, Mapping

from passk.errors import UserError
from passk.verifiers.code import landlock, seccomp
from passk.verifiers.code.confinement import Limits, confine, die_with_parent
from passk.verifiers.code.program import Prompt, read_block, read_prompt
from passk.verifiers.code.remote import Link, SolutionEnded
from passk.verifiers.code.remote_values import is_value, unpack
from passk.verifiers.code.solution import run_solution

# Messages of a judge: see `run_judge`.
HEADER = struct.Struct("=i")
STARTED = b"!"
_BEYOND_ALL_FILES = 2**20

_DEFINED = re.compile(r"^(?:async def|def|class) (\w+)", re.MULTILINE)


def _calls(node: ast.stmt, name: str) -> bool:
    calls = (child for child in ast.walk(node) if isinstance(child, ast.Call))
    return any(isinstance(call.func, ast.Name) and call.func.id == name for call in calls)


def _functions_left_to_call(tests: ast.Module) -> list[str]:
    """Return the names `check` and `test_...` that the tests define but do not call themselves."""
    functions = [node for node in tests.body if isinstance(node, ast.FunctionDef)]
    other = [node for node in tests.body if not isinstance(node, ast.FunctionDef)]
    names = [f.name for f in functions if f.name == "check" or f.name.startswith("test_")]
    return [name for name in names if not any(_calls(node, name) for node in other)]


def _assert_something(tests: ast.Module, called: Collection[str]) -> bool:
    """Return True if there is an assertion at the top level or in a function of `called`."""
    functions = [n for n in tests.body if isinstance(n, ast.FunctionDef) and n.name in called]
    return any(isinstance(node, ast.Assert) for node in tests.body) or any(
        isinstance(node, ast.Assert) for function in functions for node in ast.walk(function)
    )


def _modules(tests: ast.Module) -> dict[str, object]:
    """Import the standard library modules that the tests use, whether or not they import them.

    Tests were often written to follow a program that imports what they need. A module from the
    library itself cannot be replaced by the program's own version of, say, `math.isclose`.
    """
    uses = (node.value for node in ast.walk(tests) if isinstance(node, ast.Attribute))
    names = {value.id for value in uses if isinstance(value, ast.Name)}
    modules: dict[str, object] = {}
    for name in names & sys.stdlib_module_names:
        with contextlib.suppress(ImportError):  # a module of another platform
            modules[name] = importlib.import_module(name)
    return modules


def _wanted(prompt: Prompt, secret: Mapping[str, str], modules: Mapping[str, object]) -> set[str]:
    """Return the names that the program must define, by prompt, tests and worked solution."""
    tests, solution = read_block(secret["tests"]), read_block(secret["solution"])
    used = tests.needed if tests is not None else frozenset[str]()
    wanted = used.union(prompt.asked) - prompt.given - modules.keys() - {"candidate"}
    if wanted or solution is None:
        return set(wanted)
    return {node.name for node in solution.tree.body if isinstance(node, ast.FunctionDef)}


def _is_given(name: str, value: object, prompt: Prompt) -> bool:
    if "*" in prompt.given and prompt.code is not None and not name.startswith("__"):
        named = name not in prompt.code.defined.difference(prompt.given).union(prompt.asked)
    else:
        named = name in prompt.given
    return named and (callable(value) or isinstance(value, types.ModuleType) or is_value(value))


def _namespace(
    prompt: Prompt, modules: Mapping[str, object], solution: str, defined: Mapping[str, object]
) -> dict[str, object]:
    """Build the tests' namespace: modules they use, the prompt's names, the program's other names.

    The program cannot put its own `abs` or `math` into the tests, unless the problem itself defines
    a function or class of that name. What the prompt defines besides what it asks for runs here: a
    program may repeat such a function or replace it for itself, but the tests use the prompt's.
    """
    space: dict[str, object] = {"__name__": "tests"}
    if prompt.code is not None and prompt.given:
        exec(prompt.code.code, space)
    given = {name: value for name, value in space.items() if _is_given(name, value, prompt)}
    # The name `__builtins__` is not in vars(builtins), and would replace all built-in names: the
    # program could have written this message itself.
    reserved = {"__builtins__", *vars(builtins), *modules}
    reserved -= set(_DEFINED.findall(f"{prompt.text}\n{solution}"))
    theirs = {name: value for name, value in defined.items() if name not in {*reserved, *given}}
    space.clear()  # keep the same dict: functions of the prompt may call what the program defines
    space |= {**modules, **given, **theirs, "__name__": "tests"}
    return space


def _entry_point(asked: Iterable[str], functions: object, space: Mapping[str, object]) -> object:
    """Return the last function asked for that exists, else the last that the program defines."""
    assert isinstance(functions, list)
    there = [name for name in [*functions, *asked] if name in space]
    return space[there[-1]] if there else None


def _run_tests(prompt: str, secret: Mapping[str, str], tests: ast.Module, link: Link) -> str:
    problem, modules = read_prompt(prompt), _modules(tests)
    asked = problem.asked or _DEFINED.findall(secret["solution"])
    wanted = _wanted(problem, secret, modules)
    link.send({"wanted": sorted(wanted), "asked": sorted(asked)})
    started = link.receive()
    if started.get("unparsed") is True:
        return "unparsed"
    if "raised" in started:
        return "wrong"
    names = started["names"]
    assert isinstance(names, list)
    defined = {name: link.value(value) for name, value in names}
    space = _namespace(problem, modules, secret["solution"], defined)
    candidate = space["candidate"] = _entry_point(asked, started["functions"], space)
    # Calls of a built-in type, as in `f = int`, stay here and are not counted.
    may_be_called_unseen = any(isinstance(value, type) for value in space.values())
    exec(compile(tests, "<tests>", "exec"), space)
    left_to_call = _functions_left_to_call(tests)
    for name in left_to_call:
        function = space[name]
        assert isinstance(function, types.FunctionType)
        function(*([candidate] if function.__code__.co_argcount else []))
    # The tests decide first: a program must not be able to make itself untested.
    if link.num_calls or _assert_something(tests, left_to_call):
        return "correct"
    return "wrong" if may_be_called_unseen else "untested"


def _judge(prompt: str, secret: Mapping[str, str], link: Link) -> str:
    """Return `correct`, `wrong`, `unparsed`, `timeout` or `error`; `untested` if nothing is tested.

    If the solution's process has ended, the reason of that takes precedence over the tests' result.
    """
    try:
        tests = ast.parse(secret["tests"])
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "untested"
    try:
        outcome = _run_tests(prompt, secret, tests, link)
    except BaseException:  # any exception is a failed test, SystemExit too
        outcome = "wrong"
    return link.ended or outcome


def _fork_solution(ruleset: int, start_by: float, limits: Limits) -> Link:
    """Start the solution's process, forked before this one has read anything of the check."""
    requests_in, requests_out = os.pipe()
    replies_in, replies_out = os.pipe()
    judge_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent(judge_pid)
            landlock.enter(ruleset)  # in a domain below the judge's, which it cannot reach
            os.dup2(requests_in, 3)
            os.dup2(replies_out, 4)
            os.closerange(5, _BEYOND_ALL_FILES)
            seccomp.install(os.getpid())
            run_solution(3, 4)
        finally:
            os._exit(0)
    for descriptor in (ruleset, requests_in, replies_out):
        os.close(descriptor)
    return Link(pid, requests_out, replies_in, start_by, limits.cpu_seconds)


def _read_from(channel: socket.socket, size: int) -> bytes:
    data = channel.recv(size, socket.MSG_WAITALL)
    if len(data) < size:
        raise EOFError("nobody waits for this check any more")
    return data


def run_judge(channel: socket.socket, scratch: int, limits: Limits, start_by: float) -> None:
    """Run one check, in a process that was forked for it and ends after it.

    `channel`, which the solution does not have, brings the program and the tests. The judge sends
    `HEADER`, the number of the solution's process, with descriptors of this process and that one;
    `STARTED` when the program starts; then the outcome. If the sandbox cannot be set up, a sentence
    replaces the last two, and the number may be 0, without descriptors.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(1, 0)
    os.fchdir(scratch)
    os.close(scratch)
    try:
        ruleset = confine(limits, ".", seccomp.supported_machine())
    except UserError as error:
        channel.sendall(HEADER.pack(0) + str(error).encode())
        return
    link = _fork_solution(ruleset, start_by, limits)
    processes = [os.pidfd_open(os.getpid()), os.pidfd_open(link.pid)]
    socket.send_fds(channel, [HEADER.pack(link.pid)], processes)
    try:
        seccomp.install(os.getpid(), may_signal=[link.pid])
    except UserError as error:
        channel.sendall(str(error).encode())
        return
    job = unpack(lambda size: _read_from(channel, size))
    try:
        link.send({"prompt": job["prompt"], "code": job["code"]})
        link.receive()
        link.deadline = time.monotonic() + limits.seconds
        channel.sendall(STARTED)
        outcome = _judge(job["prompt"], job, link)
    except SolutionEnded:  # before it was ready
        return
    finally:
        link.end()
    channel.sendall(outcome.encode())
