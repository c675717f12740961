"""Programs that want to be paid without being right, or to do harm: none is, none does.

`hostile.py` holds those that attack the machine, at import, in the function, in a thread and at the
end. Here are those that lie to the tests, and one that tries to open everything under /proc.
"""

# ruff: noqa: E501, UP031

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import hostile
import pytest
from hostile import LIMITS, SECRET

from passk.verifiers.code.process import Check, Sandbox

SHORT = LIMITS._replace(seconds=0.5)
PACKAGE = Path(__file__).parents[2] / "passk"
NOBODY = 65534
UNPAID = ("wrong", "error", "timeout", "unparsed")


@pytest.fixture(scope="module")
def sandbox():
    sandbox = Sandbox()
    yield sandbox
    sandbox.close()


@pytest.mark.parametrize("family", hostile.ATTACKS)
def test_attacks_are_not_paid_and_do_no_harm(family):
    found = hostile.run_family(family, LIMITS._replace(seconds=1.0))
    assert found["harm"] == []
    paid = {what: how for what, how in found["outcomes"].items() if how not in UNPAID}
    assert paid == {}


def test_there_are_two_hundred_of_them():
    programs = [attack for family in hostile.ATTACKS.values() for attack in family.values()]
    assert len(set(programs)) * len(hostile.PLACES) >= 200


def _as_nobody(folder: str, *arguments: str) -> bytes:
    """What Python prints as nobody, or as this user who is not root, with modules of a folder.

    Root's own interpreter can lie in a home that nobody may enter; then the system's is taken.
    """
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.getuid() == 0 else {}
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(PermissionError):
            done = subprocess.run(
                [python, *arguments],
                capture_output=True,
                env={"PYTHONPATH": folder},
                cwd="/tmp",
                **nobody,
            )
            assert done.returncode == 0, done.stderr.decode()
            return done.stdout
    raise AssertionError("no interpreter that nobody may run")


def test_decisive_attacks_as_nobody():
    """Root has no rights left in the sandbox; another user must not have more."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copytree(PACKAGE, Path(folder, "passk"))
        shutil.copy(hostile.__file__, folder)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        printed = _as_nobody(folder, f"{folder}/hostile.py", "results", "tests", "signals", "files")
    for found in json.loads(printed).values():
        assert found["user"] == (os.getuid() or NOBODY) and found["harm"] == []
        assert {how for how in found["outcomes"].values() if how not in UNPAID} == set()


# Every way into another process that /proc has, for every process whose number is near.
LOOK = """
import os
NAMES = ['mem', 'maps', 'smaps', 'environ', 'auxv', 'cmdline', 'stat', 'status', 'io', 'stack',
         'syscall', 'wchan', 'pagemap', 'personality', 'limits', 'mounts', 'comm', 'cgroup',
         'oom_score_adj', 'timerslack_ns', 'exe', 'cwd', 'root', 'ns/mnt', 'ns/pid', 'attr/current',
         'cwd/.', 'root/etc/passwd', 'fd', 'fdinfo', 'task', 'map_files']
NAMES += [f'{kind}/{n}' for kind in ('fd', 'fdinfo') for n in range(24)]
LINKS = ['exe', 'cwd', 'root', *(f'fd/{n}' for n in range(24))]
def attempt(call, *args):
    try: return call(*args) is not None
    except OSError: return False
def look():
    seen, opened = [], []
    near = range(max(1, os.getpid() - 400), os.getpid() + 100)
    for pid in {1, os.getppid(), *PIDS, *near} - {os.getpid()}:
        base = f'/proc/{pid}'
        if not attempt(os.stat, base): continue
        seen.append(pid)
        for folder in (base, f'{base}/task/{pid}'):
            for name in NAMES:
                for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_NONBLOCK, os.O_RDWR):
                    path = f'{folder}/{name}'
                    if attempt(os.open, path, flags): opened.append([path, flags])
            opened += [[f'{folder}/{n}', 'link'] for n in LINKS if attempt(os.readlink, f'{folder}/{n}')]
    return seen, opened
"""


@pytest.mark.parametrize("place", ["SEEN = look()\ndef f(): return SEEN", "def f(): return look()"])
def test_nothing_of_another_process_can_be_opened(sandbox, place):
    """Neither of the judge, the server, this process, nor of another check that runs."""
    memory, (reader, writer) = os.memfd_create("canary"), os.pipe()
    sandbox.run(Check("", "x = 1", "assert x == 1"), LIMITS)
    pids = {os.getpid(), sandbox._servers[-1].pid}
    others = [p for p in pids if os.access(f"/proc/{p}/fd/{memory}", os.F_OK)]
    assert os.getpid() in others  # there is something to be opened
    code = f"PIDS = {sorted(pids)}\n{LOOK}{place}"
    tests = textwrap.dedent(
        f"""
        seen, opened = f()
        assert set({sorted(pids)}) <= set(seen) and len(seen) >= 3
        assert opened == []
        """
    )
    try:
        assert sandbox.run(Check("", code, tests), LIMITS._replace(seconds=30)).result == "correct"
    finally:
        for descriptor in (memory, reader, writer):
            os.close(descriptor)


# What tests do with an answer. A reply that lets one of these pass has fooled the tests.
FORMS = [
    f"assert f(3) == {SECRET}",
    f"assert {SECRET} == f(3)",
    f"assert not f(3) != {SECRET}",
    f"assert abs(f(3) - {SECRET}) < 1e-6",
    f"assert f(3) in ({SECRET}, [{SECRET}], '{SECRET}')",
    f"assert {{f(3): 1}} == {{{SECRET}: 1}}",
    f"assert sorted(f(3)) == [{SECRET}] or list(f(3)) == [{SECRET}] or tuple(f(3)) == ({SECRET},)",
    f"assert len(f(3)) == {SECRET}",
    f"assert isinstance(f(3), int) and {SECRET - 1} < f(3) < {SECRET + 1}",
    f"assert str(f(3)) == '{SECRET}' or repr(f(3)) == '{SECRET}'",
    f"assert all(map(lambda pair: f(pair[0]) == pair[1], [(3, {SECRET}), (4, {SECRET})]))",
    f"assert not any(map(lambda pair: f(pair[0]) != pair[1], [(3, {SECRET}), (4, {SECRET})]))",
    f"assert not list(filter(lambda x: f(x) != {SECRET}, [3, 4]))",
    f"assert all(f(x) == {SECRET} for x in [3, 4])",
    f"expected = [{SECRET}]\nassert [f(3)] == expected and expected == [{SECRET}]",
    f"def check(candidate):\n    assert candidate(3) == {SECRET}\ncheck(candidate)",
    f"xs = [3, 1, 2]\nf(xs)\nassert xs == [{SECRET}]",
    f"d = {{3: 1}}\nf(d)\nassert d == {{3: {SECRET}}}",
    f"try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == '{SECRET}'",
    f"import math\nassert math.isclose(f(3), {SECRET})",
]
FOOLED = f"""
passed = []
for form in {FORMS!r}:
    try:
        exec(form, globals())
    except Exception:
        continue
    passed.append(form)
assert passed
"""
SERVE = """
import os, sys, time
def send(body):
    os.write(4, len(body).to_bytes(8, 'big') + body)
def receive():
    size = int.from_bytes(os.read(3, 8), 'big')
    return os.read(3, size)
send(NAMES)
while receive():
    send(REPLY)
sys.exit()
"""
NAMES = b'{"names": [["f", ["ref", 0]]], "functions": ["f"]}'
BUILTIN_ERRORS = [
    *("StopIteration", "GeneratorExit", "KeyboardInterrupt", "SystemExit", "AssertionError"),
    *("StopAsyncIteration", "SyntaxError", "UnicodeDecodeError", "OSError", "ImportError"),
    *("ExceptionGroup", "BaseException", "RecursionError", "MemoryError", "Warning", "ValueError"),
]
REPLIES = {
    **{f"raised {n}": '{"raised": ["%s"], "arguments": []}' % n for n in BUILTIN_ERRORS},
    **{f"raised {n}, odd": '{"raised": ["%s", 7], "arguments": [[], {}, null]}' % n for n in BUILTIN_ERRORS},
    "raised nothing": '{"raised": [], "arguments": []}',
    "raised no class": '{"raised": ["print", "eval"], "arguments": []}',
    "raised a builder of classes": '{"raised": ["type"], "arguments": ["a"]}',
    "raised a method": '{"raised": ["__import__"], "arguments": ["os"]}',
    "raised without arguments": '{"raised": ["ValueError"]}',
    "true": '{"value": true}',
    "nothing": '{"value": null}',
    "no value": "{}",
    "NaN": '{"value": NaN}',
    "infinity": '{"value": Infinity}',
    "a set of NaN": '{"value": ["set", [NaN, NaN]]}',
    "a raw number": '{"value": 918}',
    "a raw number of a million digits": '{"value": ["int", %s]}' % ("9" * 10**6),
    "hexadecimal digits": '{"value": ["int", "%s"]}' % ("f" * 10**6),
    "decimal digits as hexadecimal": '{"value": ["int", "9_1_8"]}',
    "a float of many digits": '{"value": %s.5}' % ("9" * 10**6),
    "keys given twice": '{"value": 1, "value": true, "args": ["tuple", []], "args": 3}',
    "an unknown tag": '{"value": ["code", "f(3)"]}',
    "a tag that is a list": '{"value": [["int"], "0x1"]}',
    "three things": '{"value": ["int", "0x1", "0x2"]}',
    "an object that there is not": '{"value": ["ref", 10]}',
    "an object below 0": '{"value": ["ref", -1]}',
    "an object without end": '{"value": ["ref", "%s"]}' % ("9" * 9999),
    "the function itself": '{"value": ["ref", 0]}',
    "an object equal to itself": '{"value": ["list", [["ref", 0]]]}',
    "a set of lists": '{"value": ["set", [["list", []]]]}',
    "a dictionary of one": '{"value": ["dict", [[1]]]}',
    "the type of all types": '{"value": ["type", "type"]}',
    "the type of everything": '{"value": ["type", "object"]}',
    "a view of memory": '{"value": ["type", "memoryview"]}',
    "the loader": '{"value": ["type", "__loader__"]}',
    "a function as a type": '{"value": ["type", "eval"]}',
    "an endless range": '{"value": ["range", ["0x0", "0x%s", "0x1"]]}' % ("f" * 60),
    "a range without steps": '{"value": ["range", ["0x0", "0x1", "0x0"]]}',
    "odd bytes": '{"value": ["bytes", "zz"]}',
    "a complex of texts": '{"value": ["complex", ["1", "2"]]}',
    "an ellipsis": '{"value": ["ellipsis", null]}',
    "lists in lists": '{"value": %s%s}' % ('["list", [' * 90_000, "]]" * 90_000),
    "brackets": "[" * 200_000,
    "braces": '{"a":' * 200_000,
    "fewer arguments": '{"value": null, "args": ["tuple", []]}',
    "more arguments": '{"value": null, "args": ["tuple", [1, 2, 3, 4, 5, 6]]}',
    "other arguments": '{"value": null, "args": ["tuple", [["ref", 0], ["list", [["ref", 0]]]]]}',
    "arguments that are no tuple": '{"value": null, "args": ["list", []]}',
    "arguments emptied": '{"value": null, "args": ["tuple", [["ref", 0], ["list", []]]]}',
    "a list": "[1, 2]",
    "a text": '"correct"',
    "no JSON": "correct",
    "another encoding": "\ufeff{}",
    "an outcome": '{"outcome": "correct", "value": true}',
    "no Python": '{"unparsed": true}',
    "names again": '{"names": [["AssertionError", ["type", "int"]]], "functions": []}',
}  # fmt: skip


@pytest.mark.parametrize("what", REPLIES)
def test_replies_do_not_fool_the_tests(sandbox, what):
    code = f"NAMES, REPLY = {NAMES!r}, {REPLIES[what]!r}.encode()\n{SERVE}"
    limits = LIMITS._replace(seconds=2.0)
    assert sandbox.run(Check("", code, FOOLED), limits).result in ("wrong", "timeout")


def test_the_harness_of_replies_can_tell_that_tests_were_fooled(sandbox):
    reply = json.dumps({"value": ["int", hex(SECRET)]})
    code = f"NAMES, REPLY = {NAMES!r}, {reply!r}.encode()\n{SERVE}"
    assert sandbox.run(Check("", code, FOOLED), LIMITS).result == "correct"


STREAMS = {
    "nothing but a length": "os.write(4, (99).to_bytes(8, 'big')); os._exit(0)",
    "half a length": "os.write(4, b'\\0\\0'); os._exit(0)",
    "half a message": "os.write(4, (99).to_bytes(8, 'big') + b'{'); time.sleep(9)",
    "a length without end": "os.write(4, b'\\xff' * 8); time.sleep(9)",
    "the longest length": "os.write(4, (64 * 2**20).to_bytes(8, 'big') + b'{}'); os._exit(0)",
    "no length": "os.write(4, bytes(8)); time.sleep(9)",
    "noise": "os.write(4, os.urandom(9999)); time.sleep(9)",
    "replies before anything is asked": "send(NAMES)\nfor n in range(99): send(b'{\"value\": true}')",
    "names, and silence": "send(NAMES); time.sleep(9)",
    "names, and the end": "send(NAMES); os._exit(0)",
    "names twice": "send(NAMES); send(NAMES); send(NAMES)",
    "no function": "send(b'{\"names\": [], \"functions\": []}')",
    "functions without names": "send(b'{\"names\": [], \"functions\": [\"f\", \"check\", \"__name__\"]}')",
    "names that are no texts": "send(b'{\"names\": [[[], 1], [null, 2]], \"functions\": [[]]}')",
    "names of the tests": (
        "send(b'{\"names\": [[\"__builtins__\", [\"dict\", []]], [\"passed\", [\"list\", [1]]],'\n"
        "     b'[\"AssertionError\", [\"type\", \"ValueError\"]], [\"exec\", [\"type\", \"int\"]],'\n"
        "     b'[\"Exception\", [\"type\", \"int\"]], [\"globals\", [\"type\", \"dict\"]]], '\n"
        "     b'\"functions\": []}')"
    ),
    "the first message again": "send(b'{}'); send(b'{}')",
    "an exception at once": "send(b'{\"raised\": [\"SystemExit\"], \"arguments\": [0]}')",
    **{
        f"the built-in type {name} for a function": (
            "send(b'{\"names\": [[\"f\", [\"type\", \"%s\"]]], \"functions\": [\"f\"]}')" % name
        )
        for name in ("int", "bool", "type", "object", "list", "map", "super", "property", "slice")
    },
}  # fmt: skip


@pytest.mark.parametrize("what", STREAMS)
def test_streams_that_are_no_protocol(sandbox, what):
    code = SERVE.partition("send(NAMES)")[0] + f"NAMES = {NAMES!r}\n{STREAMS[what]}\nos._exit(0)"
    assert sandbox.run(Check("", code, FOOLED), SHORT).result in ("wrong", "timeout")


COSTLY = {
    "keys of one hash": (
        "pairs = b', '.join(b'[[\"int\", \"%x\"], 1]' % (i * (2**61 - 1)) for i in range(2 * 10**5))\n"
        "REPLY = b'{\"value\": [\"dict\", [' + pairs + b']]}'"
    ),
    "sixty megabytes": "REPLY = b'{\"value\": [\"list\", [' + b'1.5, ' * (12 * 10**6) + b'1]]}'",
    "a number of a hundred million bits": "REPLY = b'{\"value\": [\"int\", \"%s\"]}' % (b'f' * (25 * 10**6))",
}  # fmt: skip


@pytest.mark.parametrize("what", COSTLY)
def test_replies_that_cost_the_judge_time_or_memory(sandbox, what):
    head, tail = SERVE.split("send(NAMES)")
    code = f"{head}NAMES = {NAMES!r}\n{COSTLY[what]}\nsend(NAMES){tail}"
    tests = f"assert f(3) == {SECRET}"
    assert sandbox.run(Check("", code, tests), LIMITS).result in ("wrong", "timeout", "error")


def test_a_program_cannot_leave_the_counts(sandbox):
    """Whatever it does, tests that test something give a verdict: never `untested`."""
    tests = "def check(candidate):\n    assert candidate('7') == 7"
    forged = 'import os\nbody = b\'{"names": [["f", ["type", "int"]]], "functions": ["f"]}\'\n'
    forged += "os.write(4, len(body).to_bytes(8, 'big') + body)\nimport time; time.sleep(9)"
    assert sandbox.run(Check("", forged, tests), SHORT).result == "correct"
    assert sandbox.run(Check("", forged, "candidate('7')"), SHORT).result == "wrong"
    honest = "def f(x): return 7"
    assert sandbox.run(Check("", honest, "candidate('7')"), SHORT).result == "correct"
    assert sandbox.run(Check("", honest, "x = 1"), SHORT).result == "untested"
