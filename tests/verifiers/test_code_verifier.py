"""Verdicts on code: what passes its tests, what does not, and what pretends to."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.programs import Task, mutants, reference

from passk.config.schema import VerifierConfig
from passk.errors import UserError
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.code import process as sandbox
from passk.verifiers.code.verifier import PythonVerifier

CONFIG = VerifierConfig(
    name="python", timeout_seconds=5.0, num_workers=4, max_memory_mib=512, max_file_mib=1
)
ASSERTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0\nassert add('a', 'b') == 'ab'"
GOOD = "def add(a, b):\n    return a + b\n"
HUMAN_PROMPT = '''from typing import List


def halves(number: int) -> List[int]:
    """ Two halves of a number. """
    return [number // 2, number - number // 2]


def total(numbers: List[int]) -> int:
    """ The sum of the halves of all numbers.
    >>> total([3, 4])
    7
    """
'''
HUMAN_TESTS = """

METADATA = {'author': 'test'}


def check(candidate):
    assert candidate([3, 4]) == 7
    assert candidate([]) == 0
"""


@pytest.fixture(scope="module")
def verifier():
    verifier = PythonVerifier(CONFIG)
    yield verifier
    verifier.close()


def completion(text: str, finish: FinishReason = FinishReason.STOP) -> Completion:
    return Completion(text, (1,), (0.0,), finish)


def judge(
    verifier: PythonVerifier, text: str, tests: str = ASSERTS, prompt: str = "", solution: str = ""
) -> tuple[float | None, str]:
    problem = Problem("p", prompt, tests, solution=solution)
    (verdict,) = verifier.verify([(problem, completion(text))])
    return verdict.reward, verdict.reason


def fenced(code: str, language: str = "python") -> str:
    return f"Here it is:\n\n```{language}\n{code}\n```\nDone."


RIGHT, WRONG, UNPARSED = (1.0, "correct"), (0.0, "wrong"), (0.0, "unparsed")
NOT_JUDGED = (None, "error")

FORMS = {
    "a fence": (fenced(GOOD), RIGHT),
    "a fence without a language": (fenced(GOOD, ""), RIGHT),
    "a fence in capitals": (fenced(GOOD, "Python"), RIGHT),
    "an indented fence": ("1. So:\n   ```py\ndef add(a, b): return a + b\n   ```", RIGHT),
    "a fence left open": ("```python\n" + GOOD, RIGHT),
    "the last block counts": (fenced("def add(a, b): return 0") + fenced(GOOD), RIGHT),
    "the last block counts, wrong": (fenced(GOOD) + fenced("def add(a, b): return 0"), WRONG),
    "blocks of another language do not": (fenced(GOOD) + fenced("add 1 2", "bash"), RIGHT),
    "no fence": (GOOD, RIGHT),
    "a script with a main part": (
        GOOD + "if __name__ == '__main__':\n    raise SystemExit(add(1, 2))\n",
        RIGHT,
    ),
    "unicode": (fenced("größe = 'ä🙂'\ndef add(a, b):\n    return a + b  # Größe"), RIGHT),
    "windows line ends": (fenced(GOOD).replace("\n", "\r\n"), RIGHT),
    "a lambda": ("add = lambda a, b: a + b", RIGHT),
    "a function of the library": ("import operator\nadd = operator.add", RIGHT),
    "an import": ("from operator import add", RIGHT),
    "an import of everything": ("from operator import *", RIGHT),
    "a cached function": (fenced("from functools import lru_cache\n@lru_cache\n" + GOOD), RIGHT),
    "a decorated function": (
        "def twice(f):\n    return lambda *a: f(*a)\n@twice\n" + GOOD,
        RIGHT,
    ),
    "a partial function": (
        "from functools import partial\ndef g(c, a, b): return a + b\nadd = partial(g, 0)",
        RIGHT,
    ),
    "a generic function": (
        "from functools import singledispatch\n@singledispatch\n"
        + GOOD
        + "@add.register\ndef _(a: str, b): return a.__add__(b)",
        RIGHT,
    ),
    "a bound method": (
        "class Solution:\n    def add(self, a, b): return a + b\nadd = Solution().add",
        RIGHT,
    ),
    "a callable object": (
        "class Add:\n    def __call__(self, a, b): return a + b\nadd = Add()",
        RIGHT,
    ),
    "a library's function that is wrong": ("import operator\nadd = operator.sub", WRONG),
    "a program that wants input at its end": (GOOD + "print(add(int(input()), 1))", RIGHT),
    "a program that wants input at its start": ("n = int(input())\n" + GOOD, WRONG),
    "a usage that fails": (GOOD + "print(add(1))", WRONG),
    "wrong": (fenced("def add(a, b): return 3"), WRONG),
    "an exception": (fenced("def add(a, b): raise KeyError(a)"), WRONG),
    "an exception of its own": (
        fenced("class E(Exception): pass\ndef add(a, b): raise E(a)"),
        WRONG,
    ),
    "an exception at once": (fenced("1 / 0\n" + GOOD), WRONG),
    "another name": (fenced("def plus(a, b): return a + b"), WRONG),
    "a fence that does not parse": (fenced("def add(a, b) return a + b"), WRONG),
    "prose in a fence": (fenced("I do not know."), WRONG),
    "prose": ("The answer is to add both numbers.", UNPARSED),
    "one word": ("Sorry", UNPARSED),
    "nothing": ("", UNPARSED),
    "blanks": (" \n\t\n", UNPARSED),
    "a null character": ("def add(a, b): return a + b\0", UNPARSED),
    "a lone surrogate": ("def add(a, b): return a + b  # \ud800", UNPARSED),
    "brackets without end": ("x = " + "(" * 100_000, UNPARSED),
    "a sum without end": ("x = " + "-" * 100_000 + "1", UNPARSED),
}


@pytest.mark.parametrize("what", FORMS)
def test_forms_of_an_answer(verifier, what):
    text, expected = FORMS[what]
    assert judge(verifier, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("    return sum(number for n in numbers for number in halves(n))\n", RIGHT),
        ("    return 7\n", WRONG),
        ("```python\n    return sum(sum(halves(n)) for n in numbers)\n```", RIGHT),
        (fenced("def total(numbers: List[int]):\n    return sum(numbers)"), RIGHT),
        (fenced("def total(n):\n    return helper(n)\ndef helper(n):\n    return sum(n)"), RIGHT),
        (fenced("def other(numbers):\n    return sum(numbers)"), WRONG),  # the prompt's own: None
        ("I cannot.", UNPARSED),
    ],
)
def test_prompts_that_are_python(verifier, text, expected):
    """HumanEval: a head of a function to go on with, and `check(candidate)`."""
    assert judge(verifier, text, HUMAN_TESTS, HUMAN_PROMPT) == expected
    assert judge(verifier, text, HUMAN_TESTS + "\ncheck(total)\n", HUMAN_PROMPT) == expected


def test_mutants_are_judged_as_beside_their_tests(verifier):
    """A sample of scripts/benchmarks/programs.py, whose reference is one namespace for both."""
    program = HUMAN_PROMPT + "    result = 0\n    for n in numbers:\n        a, b = halves(n)\n"
    program += (
        "        if n >= 0 or a < b:\n            result = result + a + b\n    return result\n"
    )
    task = Task(Problem("p", HUMAN_PROMPT, HUMAN_TESTS), program, body="yes")
    texts = [program, *mutants(program, 8, random.Random(1))]
    expected = [(1.0, "correct") if reference(task, text) else (0.0, "wrong") for text in texts]
    assert [judge(verifier, fenced(t), HUMAN_TESTS, HUMAN_PROMPT) for t in texts] == expected
    assert expected[0] == RIGHT and {RIGHT, WRONG} == set(expected[1:])


def test_a_prompt_of_one_word_is_no_program(verifier):
    assert judge(verifier, fenced(GOOD), prompt="Add") == RIGHT


HELPER_PROMPT = '''EPSILON = 1e-6


def value(coefficients: list, x: float) -> float:
    """ The polynomial at x. """
    return sum(c * x ** i for i, c in enumerate(coefficients))


def zero(coefficients: list) -> float:
    """ A zero of the polynomial, which value(...) makes 0. """
'''
HELPER_TESTS = """
def check(candidate):
    for coefficients in ([1, 2], [-6, 11, -6, 1]):
        assert abs(value(coefficients, candidate(coefficients))) < EPSILON
"""
ZERO = """
def zero(coefficients):
    x = 0.5
    for _ in range(100):
        slope = (value(coefficients, x + 1e-6) - value(coefficients, x)) / 1e-6
        x -= value(coefficients, x) / slope
    return x
"""
VALUE = HELPER_PROMPT.partition("\n\n\n")[2].partition("\n\n\ndef zero")[0]


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (ZERO, RIGHT),
        (VALUE + "\n\n" + ZERO, RIGHT),
        (HELPER_PROMPT + ZERO.partition("\n")[2].partition("\n")[2], RIGHT),
        ("def value(a, b):\n    return sum(c * b**i for i, c in enumerate(a))\n" + ZERO, RIGHT),
        ("def value(coefficients, x): return 0\ndef zero(coefficients): return 5", WRONG),
        ("EPSILON = 1e9\ndef zero(coefficients): return 5", WRONG),
        ("value = lambda *a: 0\ndef zero(coefficients): return 5", WRONG),
        ("class value:\n    def __new__(cls, *a): return 0\ndef zero(c): return 5", WRONG),
        ("import builtins\nbuiltins.abs = lambda x: 0\ndef zero(c): return 5", WRONG),
        ("value.__code__ = (lambda *a: 0).__code__\ndef zero(c): return 5", WRONG),
        ("del zero\ndef value(c, x=0): return 0", WRONG),
    ],
)
def test_what_the_prompt_defines_is_what_the_tests_use(verifier, program, expected):
    """HumanEval/32, 38 and 50: tests that use a function which the prompt gives."""
    assert judge(verifier, fenced(program), HELPER_TESTS, HELPER_PROMPT) == expected


def test_what_the_prompt_gives_may_use_what_the_program_defines(verifier):
    prompt = (
        "class Node:\n    def __init__(self, x): self.x = x\n\n"
        "def both(a, b):\n    return [first(Node(a)), first(Node(b))]\n\n"
        "def first(node):\n    ''' Its x. '''\n"
    )
    tests = "assert both(1, 2) == [1, 2]\nassert first(Node(3)) == 3\n"
    tests += "assert isinstance(Node(3), Node) and not isinstance(3, Node)"
    assert judge(verifier, "    return node.x", tests, prompt) == RIGHT
    assert judge(verifier, fenced("def first(node): return node.x"), tests, prompt) == RIGHT
    assert judge(verifier, fenced("def first(node): return 1"), tests, prompt) == WRONG


def test_what_the_prompt_imports_is_what_the_tests_use(verifier):
    prompt = "from math import *\nfrom fractions import Fraction\n\ndef area(r):\n    ...\n"
    tests = "assert isclose(area(1), pi) and isclose(area(Fraction(1, 2)), pi / 4)"
    assert judge(verifier, "    return pi * r ** 2", tests, prompt) == RIGHT
    assert judge(verifier, fenced("def area(r): return pi * r ** 2"), tests, prompt) == RIGHT
    cheat = "def isclose(*a): return True\npi = 0\ndef area(r): return 0"
    assert judge(verifier, fenced(cheat), tests, prompt) == WRONG


def test_a_prompt_with_a_fault_to_mend_gives_nothing(verifier):
    prompt = "def double(x):\n    return x + 2\n\ndef half(x):\n    return x - 2\n"
    tests = "assert double(3) == 6\nassert half(6) == 3"
    mended = "def double(x):\n    return x * 2\n\ndef half(x):\n    return x // 2\n"
    assert judge(verifier, fenced(mended), tests, prompt) == RIGHT
    assert judge(verifier, fenced(mended.partition("def half")[0]), tests, prompt) == WRONG


FORMS_OF_TESTS = {
    "MBPP": ("def f(x): return x * 2", "assert f(1) == 2\nassert f(2) == 4", RIGHT),
    "candidate": ("def helper(): pass\ndef f(x): return x", "assert candidate(1) == 1", RIGHT),
    "test functions": ("def f(x): return x", "def test_f():\n    assert f(1) == 1", RIGHT),
    "test functions that fail": (
        "def f(x): return x",
        "def test_f():\n    assert f(1) == 2",
        WRONG,
    ),
    "test functions already called": (
        "n = []\ndef f():\n    n.append(1)\n    return len(n)",
        "def test_f():\n    assert f() == 1\ntest_f()",
        RIGHT,
    ),
    "a class": (
        "class Solution:\n    def twoSum(self, a, t):\n        return [0, 1]",
        "assert Solution().twoSum([1, 2], 3) == [0, 1]",
        RIGHT,
    ),
    "attributes": (
        "class P:\n    def __init__(self, x): self.x = x\ndef f(ps): return [p.x for p in ps]",
        "assert f([P(1), P(2)]) == [1, 2]\np = P(1)\np.x = 5\nassert P(3).x + p.x == 8",
        RIGHT,
    ),
    "equality of its own objects": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
        "def f(x): return P(x)",
        "assert f(1) == P(1)\nassert f(1) != P(2)",
        RIGHT,
    ),
    "a generator": ("def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2]", RIGHT),
    "changes in place": (
        "def f(a, b, c):\n    a.sort(); b['k'] = 1; c.add(2)",
        "a, b, c = [2, 1], {}, {1}\nassert f(a, b, c) is None\n"
        "assert (a, b, c) == ([1, 2], {'k': 1}, {1, 2})",
        RIGHT,
    ),
    "an expected exception": (
        "def f(x):\n    if x < 0: raise ValueError('below 0')",
        "try:\n    f(-1)\n    assert False\n"
        "except ValueError as e:\n    assert str(e) == 'below 0'",
        RIGHT,
    ),
    "an exception that did not come": (
        "def f(x): pass",
        "try:\n    f(-1)\n    assert False\n"
        "except ValueError as e:\n    assert str(e) == 'below 0'",
        WRONG,
    ),
    "a module that only the program imports": (
        "import math\ndef f(): return 1/3",
        "assert math.isclose(f(), 0.3333333333333333)",
        RIGHT,
    ),
    "values": ("answer = 42", "assert answer == 42", RIGHT),
    "keywords": ("def f(*, x=1): return x", "assert f(x=[2]) == [2]", RIGHT),
    "a type": ("def f(x): return type(x)", "assert f(1) is int and f('') is str", RIGHT),
    "an enumeration of numbers": (
        "import enum\nclass E(enum.IntEnum):\n    A = 1\ndef f(): return E.A",
        "assert f() == 1",
        RIGHT,
    ),
    "subclasses of built-in types": (
        "from collections import Counter, OrderedDict, namedtuple\nP = namedtuple('P', 'x y')\n"
        "def f(): return [Counter('aab'), OrderedDict(a=1), P(1, 2)]",
        "assert f() == [{'a': 2, 'b': 1}, {'a': 1}, (1, 2)]",
        RIGHT,
    ),
    "a built-in name that the worked solution defines": (
        "def sum(a, b): return a + b",
        "assert sum(1, 2) == 3",
        RIGHT,
    ),
    "tests that assert nothing": ("def f(): return 1", "x = 1", NOT_JUDGED),
    "no tests": ("def f(): return 1", "", NOT_JUDGED),
    "tests that are no Python": ("def f(): return 1", "assert f( == 1", NOT_JUDGED),
    "tests that are never run": (
        "def f(): return 1",
        "import unittest\nclass T(unittest.TestCase):\n"
        "    def test_f(self): self.assertEqual(f(), 1)",
        NOT_JUDGED,
    ),
}


@pytest.mark.parametrize("what", FORMS_OF_TESTS)
def test_forms_of_tests(verifier, what):
    code, tests, expected = FORMS_OF_TESTS[what]
    assert judge(verifier, fenced(code), tests, solution=code) == expected


# What f returns, and what is true of it beside the program.
EQUALS = {
    "Fraction(1, 2)": "f() == 0.5 and f() + 1 == 1.5 and abs(f() - 0.5) < 1e-9 and f() < 1",
    "Decimal('0.50')": "f() == 0.5 and str(f()) == '0.50' and round(f(), 1) * 2 == 1",
    "Counter('aab')": "f() == {'a': 2, 'b': 1} and f()['c'] == 0 and f().most_common(1)[0][1] == 2",
    "Counter(a=1, b=0)": "f() == Counter(a=1) and f() != {'a': 1} and isinstance(f(), Counter)",
    "OrderedDict(b=1, a=2)": "f() == {'a': 2, 'b': 1} and f() != OrderedDict(a=2, b=1)",
    "defaultdict(list, {1: [2]})": "f() == {1: [2]} and f()[5] == []",
    "defaultdict(lambda: 7, {})": "f() == {} and f()[5] == 7",
    "deque([1, 2], maxlen=2)": "f() == deque([1, 2]) and list(f()) == [1, 2] and f().maxlen == 2",
    "P(1, x=2)": "f() == (1, 2) and f().x == 2 and f()._asdict() == {'y': 1, 'x': 2}",
    "{P(1, 2): P(3, 4)}": "f() == {(1, 2): (3, 4)}",
    "True": "f() == 1 and f() is True",
    "1.0": "f() == 1",
    "Text.A": "f() == 'a' and f() in ('a', 'b')",
    "Number.A": "f() == 1 and sorted([3, f(), 2]) == [1, 2, 3]",
    "{Plain.A: 1}": "f() == {Plain.A: 1} and f() != {Plain.B: 1}",
    "{'b': 1, 'a': 2}.keys()": "f() == {'a', 'b'} and sorted(f()) == ['a', 'b']",
    "{'a': [2]}.values()": "list(f()) == [[2]] and f() != [[2]]",
    "{'a': 2}.items()": "f() == {('a', 2)} and dict(f()) == {'a': 2}",
    "range(0, 5, 2)": "f() == range(0, 6, 2) and f() != [0, 2, 4]",
    "array('i', [1, 2])": "f() == array('i', [1, 2]) and f() != [1, 2] and f().tolist() == [1, 2]",
    "UserList([1])": "f() == [1] and f() + [2] == [1, 2]",
    "date(2020, 2, 29)": "f() == date(2020, 2, 29) and (date(2020, 3, 1) - f()).days == 1",
    "datetime(2020, 1, 1, 1, tzinfo=timezone.utc)": (
        "f() == datetime(2020, 1, 1, 1, tzinfo=f().tzinfo) and f().utcoffset() == timedelta(0)"
        " and f() > datetime(2019, 1, 1, tzinfo=timezone.utc)"
    ),
    "time(1, 2, fold=1)": "f() == time(1, 2) and f().fold == 1",
    "timedelta(hours=36)": "f() == timedelta(days=1.5) and f().total_seconds() == 129600",
    "UUID(int=5)": "f() == UUID(int=5) and f().int == 5",
    "PurePosixPath('a/b')": "f() == PurePosixPath('a') / 'b' and f().name == 'b'",
    "[Fraction(1, 3), (Decimal(2),)]": "f() == [Fraction(2, 6), (2,)]",
}
LIBRARY = """
from array import array
from collections import *
from datetime import *
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import PurePosixPath
from uuid import UUID
"""
OWN_TYPES = """
P = namedtuple('P', 'y x')
class Text(str, Enum):
    A = 'a'
class Number(IntEnum):
    A = 1
class Plain(Enum):
    A, B = 1, 2
"""


@pytest.mark.parametrize("value", EQUALS)
def test_values_of_the_library_are_what_they_are_beside_the_program(verifier, value):
    code, tests = f"{LIBRARY}{OWN_TYPES}def f(): return {value}", f"assert {EQUALS[value]}"
    space: dict[str, object] = {}
    exec(f"{code}\n{tests}", space)  # so it is there
    assert judge(verifier, fenced(code), LIBRARY + tests) == RIGHT


def test_values_of_the_library_can_be_handed_over(verifier):
    code = LIBRARY + OWN_TYPES + "def f(x): x.append(x[0] + 1); return P(type(x).__name__, x)"
    tests = LIBRARY + (
        "for x in deque([Fraction(1, 2)]), array('i', [1]), UserList([Decimal(1)]):\n"
        "    before, kind = x[0], type(x)\n    y, same = f(x)\n"
        "    assert same == x and list(x) == [before, before + 1]\n"
        "    assert y == kind.__name__ and type(same) is kind"
    )
    assert judge(verifier, fenced(code), tests) == RIGHT


VALUES = """
[None, True, 0, -1, 2**200, -(10**6000), 1.5, float('inf'), -0.0, 1e-320, 'a\\0ä\\ud800', '',
 b'\\xff', bytearray(b'a'), 1+2j, (), (1,), [], [[1], (2, [3])], {1, 'a'}, frozenset({(1, 2)}),
 {}, {1: {'a': (1,)}, (1, 2): None, None: 3}, range(3, 9, 2), ..., int, ValueError, '[1, 2]']
"""


def test_values_arrive_as_they_were(verifier):
    tests = f"for value in {VALUES.strip()}:\n    got = f(value)\n"
    tests += "    assert got == value and type(got) is type(value), value\n"
    tests += "    assert isinstance(value, int | set) or repr(got) == repr(value), value\n"
    tests += "nan = f(float('nan'))\nassert nan != nan\n"
    assert judge(verifier, fenced("def f(x): return x"), tests) == RIGHT


ALWAYS = """
class Always(BASE):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __bool__(self): return True
    def __lt__(self, other): return True
    def __abs__(self): return 0
    def __sub__(self, other): return 0
    def __contains__(self, item): return True
    def __hash__(self): return 0
    def __len__(self): return 3
    def __instancecheck__(self, other): return True
"""
LIBRARIES = "import fractions, collections, datetime, enum, unittest.mock\n"
FORGED_NAMES = """
import json, os
def send(message):
    body = json.dumps(message).encode()
    os.write(4, len(body).to_bytes(8, 'big') + body)
"""
CHEATS = {
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "os._exit(0)": "import os\nos._exit(0)",
    "sys.exit(0) when called": "import sys\ndef add(a, b): sys.exit(0)",
    "os._exit(0) when called": "import os\ndef add(a, b): os._exit(0)",
    "success as text": (
        "import os\nfor number in range(64):\n    try: os.write(number, "
        'b\'{"ready": 1}\\n{"outcome": "correct"}\\n\')\n    except OSError: pass\n'
        "def add(a, b): os._exit(0)"
    ),
    "equal to everything": ALWAYS.replace("BASE", "object") + "def add(a, b): return Always()",
    "a list equal to everything": ALWAYS.replace("BASE", "list") + "def add(a, b): return Always()",
    "a text equal to everything": ALWAYS.replace("BASE", "str") + "def add(a, b): return Always()",
    "a number equal to everything": ALWAYS.replace("BASE", "int")
    + "def add(a, b): return Always()",
    "a fraction equal to everything": LIBRARIES
    + ALWAYS.replace("BASE", "fractions.Fraction")
    + "def add(a, b): return Always(5, 7)",
    "a counter equal to everything": LIBRARIES
    + ALWAYS.replace("BASE", "collections.Counter")
    + "def add(a, b): return Always('ab')",
    "a date equal to everything": LIBRARIES
    + ALWAYS.replace("BASE", "datetime.date")
    + "def add(a, b): return Always(2020, 1, 1)",
    "a list of the library equal to everything": LIBRARIES
    + ALWAYS.replace("BASE", "collections.UserList")
    + "def add(a, b): return Always()",
    "a named tuple equal to everything": LIBRARIES
    + ALWAYS.replace("BASE", "collections.namedtuple('T', 'x')")
    + "def add(a, b): return Always(1)",
    "an enumeration equal to everything": LIBRARIES
    + ALWAYS.replace("BASE", "enum.Enum")
    + "    A = 1\ndef add(a, b): return Always.A",
    "the library's object equal to everything": LIBRARIES
    + "def add(a, b): return unittest.mock.ANY",
    "the library's type taken over": LIBRARIES
    + "fractions.Fraction.__eq__ = lambda *a: True\n"
    + "def add(a, b): return fractions.Fraction(5, 7)",
    "a hash and a text of its own": ALWAYS.replace("BASE", "object")
    + "    __repr__ = __str__ = lambda self: '3'\ndef add(a, b): return Always()",
    "comparison taken over": (
        "import builtins, operator\nbuiltins.AssertionError = ZeroDivisionError\n"
        "operator.eq = lambda a, b: True\nbuiltins.bool = lambda x: True\ndef add(a, b): return 0"
    ),
    "assertion errors caught in the stack": (
        "import sys\ndef add(a, b):\n    sys.settrace(lambda *a: None)\n"
        "    frame = sys._getframe()\n    while frame:\n"
        "        frame.f_globals['AssertionError'] = KeyError\n        frame = frame.f_back\n"
        "    return 0"
    ),
    "the fork's memory searched for tests": (
        "import gc, sys\n"
        "def texts():\n"
        "    for thing in gc.get_objects():\n"
        "        if isinstance(thing, dict):\n"
        "            yield from (v for v in list(thing.values()) if isinstance(v, str))\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        yield from (v for v in frame.f_locals.values() if isinstance(v, str))\n"
        "        frame = frame.f_back\n"
        "def add(a, b):\n"
        "    if any('assert ' + 'add' in text for text in texts()): return a + b\n"
        "    return 0"
    ),
    "replaced test functions": (
        "def check(candidate): pass\ndef test_add(): pass\ncandidate = None\n"
        "def add(a, b): return 0"
    ),
    "a forged built-in namespace": (
        FORGED_NAMES + "send({'names': [['__builtins__', {}], ['add', ['type', 'int']]], "
        "'functions': []})\nimport time; time.sleep(9)"
    ),
    "a forged skip": FORGED_NAMES + "send({'outcome': 'correct', 'unparsed': False})",
    "an exception that ends the tests": "def add(a, b): raise SystemExit(0)",
    "an exception that ends a thread": "def add(a, b): raise GeneratorExit",
    "a dead process": "import os, signal\ndef add(a, b): os.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("what", CHEATS)
def test_cheats(verifier, what):
    reward, reason = judge(verifier, fenced(CHEATS[what]))
    assert reward == 0.0 and reason in ("wrong", "error"), (reward, reason)


def test_a_forged_namespace_cannot_replace_what_tests_use(verifier):
    """The message that the harness sends at the start, with `abs` and `len` of its own in it."""
    code = FORGED_NAMES + (
        "one = ['type', 'int']\n"
        "send({'names': [['__builtins__', ['dict', [['abs', one], ['len', one]]]], "
        "['abs', one], ['len', one], ['f', one]], 'functions': ['f']})\n"
        "import time; time.sleep(9)"
    )
    assert judge(verifier, fenced(code), "assert abs(f() - 5) < 1") == WRONG
    assert judge(verifier, fenced(code), "assert f() == 0 and abs(f()) == 0") == RIGHT


def test_built_in_names_stay_those_of_the_tests(verifier):
    code = "def f(): return 5\ndef abs(x): return 0\ndef all(x): return True"
    assert judge(verifier, fenced(code), "assert abs(f() - 3) < 1e-6") == WRONG
    assert judge(verifier, fenced(code), "assert all([f() == 3])") == WRONG
    assert judge(verifier, fenced(code), "assert abs(f() - 5) < 1e-6") == RIGHT


def test_modules_stay_those_of_the_tests(verifier):
    code = "class math:\n    isclose = staticmethod(lambda *a: True)\ndef f(): return 5.0"
    assert judge(verifier, fenced(code), "assert math.isclose(f(), 3.0)") == WRONG
    assert judge(verifier, fenced(code), "assert math.isclose(f(), 5.0)") == RIGHT
    tests = "assert math.isclose(f(), 3.0)"  # a problem about a class of this name is another thing
    assert judge(verifier, fenced(code), tests, solution="class math:\n    pass") == RIGHT


def test_imported_names_are_not_taken_from_the_program(verifier):
    code = "from math import isclose\ndef f(): return 1.0"
    assert judge(verifier, fenced(code), "assert isclose(f(), 1.0)") == WRONG
    tests = "from math import isclose\nassert isclose(f(), 1.0)"
    assert judge(verifier, fenced(code), tests) == RIGHT


def test_running_out_of_time_costs_the_time_limit_and_the_reward():
    cfg = VerifierConfig(timeout_seconds=0.5, num_workers=2, max_memory_mib=512)
    verifier = PythonVerifier(cfg)
    started = time.monotonic()
    problem = Problem("p", "", ASSERTS)
    texts = ["def add(a, b):\n    while True: pass", "import time\ntime.sleep(99)", GOOD]
    verdicts = verifier.verify([(problem, completion(text)) for text in texts])
    timeout = Verdict(0.0, "timeout")
    assert verdicts == [timeout, timeout, Verdict(1.0, "correct")]
    assert time.monotonic() - started < 3
    verifier.close()


def test_what_met_the_length_limit_is_truncated_even_if_it_passes(verifier):
    problem = Problem("p", "", ASSERTS)
    (verdict,) = verifier.verify([(problem, completion(GOOD, FinishReason.LENGTH))])
    assert verdict == Verdict(0.0, "truncated")


def test_verdicts_come_in_the_order_of_the_pairs(verifier):
    pairs = [
        (Problem(f"p-{i}", "", f"assert f() == {i}"), completion(f"def f(): return {i - i % 3}"))
        for i in range(24)
    ]
    expected = ["wrong" if i % 3 else "correct" for i in range(24)]
    assert [verdict.reason for verdict in verifier.verify(pairs)] == expected
    assert verifier.verify([]) == []


def test_the_order_of_sets_is_the_same_in_every_run(verifier):
    """A program that depends on it gets the same verdict whenever it is judged."""
    code = "print(''.join(set('abcdefgh')))"
    environment = {"PYTHONHASHSEED": "0"}
    order = subprocess.check_output([sys.executable, "-c", code], env=environment, text=True)
    tests = f"assert f() == {order.strip()!r}"
    for _ in range(5):
        assert judge(verifier, "def f(): return ''.join(set('abcdefgh'))", tests) == RIGHT


def test_self_test_holds_and_is_quick(verifier):
    started = time.monotonic()
    examples = verifier.self_test()
    verdicts = verifier.verify([(problem, completion(text)) for problem, text, _ in examples])
    assert [verdict.reason for verdict in verdicts] == [reason for *_, reason in examples]
    assert {"correct", "wrong", "error", "unparsed"} <= {verdict.reason for verdict in verdicts}
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("body", ["    return sum(numbers)\n", "    return 3\n"])
def test_worked_solutions_as_completions(verifier, body):
    problem = Problem("p", HUMAN_PROMPT, HUMAN_TESTS, solution=body)
    text = verifier.demonstrate(problem)
    assert text is not None
    (verdict,) = verifier.verify([(problem, completion(text))])
    assert verdict.reason == ("correct" if "sum" in body else "wrong")
    assert verifier.demonstrate(Problem("p", "", ASSERTS)) is None


def test_a_machine_that_cannot_confine_is_refused_at_once(monkeypatch):
    cfg = VerifierConfig(timeout_seconds=0.0001)
    with pytest.raises(UserError, match=r"cannot run a program in its sandbox .*timeout_seconds"):
        PythonVerifier(cfg)
    uname = os.uname_result(("Linux", "host", "6.1", "1", "riscv64"))
    monkeypatch.setattr("os.uname", lambda: uname)
    with pytest.raises(UserError, match=r"needs Linux on x86_64 or aarch64 .*riscv64"):
        PythonVerifier(CONFIG)


@pytest.mark.parametrize(
    ("module", "broken", "sentence"),
    [
        ("landlock", "_CREATE_RULESET = 9999", "needs Landlock"),
        ("seccomp", "_SECCOMP_MODE_FILTER = 77", "needs seccomp filters"),
        ("confinement", "_PR_SET_NO_NEW_PRIVS = 7777", "cannot give up rights"),
    ],
)
def test_a_kernel_without_one_of_the_layers_is_refused(
    monkeypatch, tmp_path, module, broken, sentence
):
    """A copy of the package whose system call does not exist, as on a kernel without it."""
    shutil.copytree(Path(sandbox.__file__).parents[2], tmp_path / "passk")
    with (tmp_path / "passk" / "verifiers" / "code" / f"{module}.py").open("a") as file:
        file.write(f"\n{broken}\n")
    monkeypatch.setattr(sandbox, "_PACKAGE_FOLDER", tmp_path)
    with pytest.raises(UserError, match=sentence):
        PythonVerifier(CONFIG)


def test_no_room_for_another_process_is_not_the_programs_fault(verifier, monkeypatch):
    def no_room(*args: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(sandbox._Server, "fork", no_room)
    assert judge(verifier, fenced(GOOD)) == NOT_JUDGED
    with pytest.raises(UserError, match=r"cannot start a check: .*temporarily unavailable"):
        PythonVerifier(CONFIG)


def test_json_is_what_travels():
    """The reader of the program's messages makes plain values, and nothing that runs."""
    from passk.verifiers.code.remote_values import decode

    hostile = [
        *('["type", "eval"]', '["code", ""]', "[]", '["list"]', "5", '{"a": 1}', '["keys", [[]]]'),
        *('["os.system", ["true"]]', '["array.array", ["Z", []]]', '["uuid.UUID", ["x"]]'),
        *('["fractions.Fraction", ["x"]]', '["collections.defaultdict", [5, {}]]'),
        *('["namedtuple", ["P", ["x", "x"], [1, 2]]]', '["namedtuple", ["P(", ["x"], [1]]]'),
    ]
    for text in hostile:
        with pytest.raises((TypeError, KeyError, ValueError, AttributeError)):
            decode(json.loads(text), lambda number: number)
