"""Which text of a completion is the program, and what of a prompt is asked for and given."""

import time

import pytest
from benchmarks.programs import BODIES, DRESSES, fence, indent

from passk.verifiers.code.program import fenced_blocks, find_program, read_prompt

GOOD = """import math


def helper(x):
    return math.floor(x)


def f(x):
    return 2 * helper(x)
"""
FENCES = "    ```\n    f(2)\n    ```\n"
WITH_FENCES = GOOD.replace("    return 2", f'    """\n{FENCES}    """\n    return 2')
BAD = "def f(x):\n    return 0\n"
PROMPT = '''import math


def helper(x: float) -> int:
    """ The whole part. """
    return math.floor(x)


def f(x: float) -> int:
    """ Twice the whole part.
    >>> f(2)
    4
    """
'''
BODY = "    y = helper(x)\n    return 2 * y\n"


def result(text: str, prompt: str = "", wanted: tuple[str, ...] = ("f",)) -> object:
    """f(2.5) of the program in the text; None if there is none, or no f."""
    blocks = find_program(read_prompt(prompt), text, frozenset(wanted))
    if blocks is None:
        return None
    space: dict[str, object] = {"__name__": "solution", "input": lambda: "5"}
    for block in blocks:
        exec(block.code, space)
    function = space.get("f")
    return function(2.5) if callable(function) else None


@pytest.mark.parametrize("dress", DRESSES)
def test_a_program_is_found_in_every_dress(dress):
    assert result(DRESSES[dress](GOOD)) == 4
    assert result(DRESSES[dress](GOOD), PROMPT) == 4
    assert result(DRESSES[dress](GOOD), wanted=()) == 4


@pytest.mark.parametrize("dress", BODIES)
@pytest.mark.parametrize("prompt", [PROMPT, PROMPT.rstrip(), PROMPT.partition('    """ Twice')[0]])
def test_the_rest_of_a_prompt_is_found_in_every_dress(dress, prompt):
    body = BODIES[dress](BODY)
    assert result(body if prompt.endswith("\n") else "\n" + body, prompt) == 4


FOUND = {
    "the last of two that define it": (fence(BAD) + fence(GOOD), 4),
    "the last of two, wrong": (fence(GOOD) + fence(BAD), 0),
    "not a later block that does not": (fence(GOOD) + fence("g = 3"), 4),
    "not a later stub": (fence(GOOD) + fence("def f(x):\n    ..."), 4),
    "not a later import of it": (fence(GOOD) + fence("from a import f\nassert f(1) == 5"), 4),
    "helpers in a later block": (fence("def f(x): return g(x)") + fence("def g(x): return 4"), 4),
    "helpers of helpers": (
        fence("a = 1") + fence("def g(): return a + 1") + fence("def f(x): return 2 * g()"),
        4,
    ),
    "the nearest helper before it": (
        fence("def g(): return 2") + fence("def f(x): return 2 * g()") + fence("def g(): return 9"),
        4,
    ),
    "no block that is not needed": (fence("1 / 0") + fence(GOOD) + fence("def g(): 1\n1 / 0"), 4),
    "imports in a block of their own": (
        fence("from math import floor") + fence("def f(x): return 2 * floor(x)"),
        4,
    ),
    "fences in a docstring": (fence(WITH_FENCES), 4),
    "fences in a docstring, plain": (WITH_FENCES, 4),
    "a block in a block": (fence(fence(GOOD), "````", "markdown"), 4),
    "a block that another one ends": ("```\nSo:\n" + fence(GOOD), 4),
    "a longer closing fence": (f"```python\n{GOOD}`````\nDone.", 4),
    "code indented more than its fence": (f"```\n{indent(GOOD)}```", 4),
    "code indented less than its fence": (f"1. So:\n   ```\n{GOOD}   ```", 4),
    "a fence beside the number": ("1. ```python\n" + indent(GOOD) + "   ```\n", 4),
    "a list in a list": (indent(f"- a\n\n{indent(fence(GOOD), '  ')}", "  "), 4),
    "a list in a quotation": (indent(f"- a\n\n{indent(fence(GOOD), '  ')}", "> "), 4),
    "old line ends": (fence(GOOD).replace("\n", "\r"), 4),
    "blanks that do not break": (GOOD.replace("    ", "\u00a0   "), 4),
    "a mark of no width in a text": ("def f(x): return len('\u200b') + 3", 4),
    "a thought without its beginning": (f"{fence(BAD)}</think>{fence(GOOD)}", 4),
    "nothing after the thought": (f"<think>{fence(GOOD)}</think>", None),
    "a thought's end in a text": ("```python\ns = '</think>'\n" + GOOD + "```", 4),
    "pieces between prose": (
        "First:\n\nimport math\n\nThen, as it's said:\n\n"
        "def f(x):\n    return 2 * math.floor(x)\n\nDone",
        4,
    ),
    "a word after it": (f"Here it is:\n\n{GOOD}\nExplanation\n\nIt's simple.", 4),
    "a fence behind the last line": (f"```python\n{GOOD.rstrip()}```\nIt's simple.", 4),
    "a fence behind the last line, not opened": (f"{GOOD.rstrip()}```\nIt's simple.", 4),
    "code that is all indented": (f"So:\n\n{indent(GOOD, '    ')}\nIt's simple.", 4),
    "a command of a notebook": (fence("!pip install x\n" + GOOD), 4),
    "tags": (f"[PYTHON]\n{GOOD}[/PYTHON]", 4),
    "a body that breaks off is no function": ("def f(x):\n    y = 2\n    retrun 4 x\n", None),
    "nothing is cut inside a function": ("def f(x):\n    return 4\n    if x then\n", None),
    "nothing is cut inside a block": ("if True:\n    def f(x): return 4\n    oh no\n", None),
    "prose that holds the name": ("The function f is def f(x) and so on.", None),
    "another function": (fence("def g(x): return 4"), None),
    "another language": (fence("function f(x) { return 4 }", info="javascript"), None),
    "tabs in a list": ("- ```\n\tdef f(x):\n\t\treturn 4\n  ```\n", 4),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_which_text_is_the_program(what):
    text, expected = FOUND[what]
    assert result(text) == expected


def test_a_body_that_is_cut_is_not_paid_by_the_prompt():
    """What goes on after a prompt must add to it: the prompt alone is no answer."""
    complete = "def f(x):\n    return 4\n"
    assert find_program(read_prompt(complete), "I do not know.", frozenset({"f"})) is None
    assert result("    retrun 4 x\n", PROMPT) is None
    assert result("    y = 4\n    retrun y z\n", PROMPT) is None
    assert result("    return 4\nand that is all\n", PROMPT) == 4


def test_a_program_runs_after_the_prompts_own_code():
    assert result(fence("def f(x):\n    return 2 * helper(x)"), PROMPT) == 4
    prose = f"Complete this function:\n\n{fence(PROMPT)}\nAnswer with a block."
    assert result(fence("def f(x):\n    return 2 * helper(x)"), prose) == 4
    assert result(BODY, prose) == result(fence(BODY), prose) == 4
    assert result(BODY, f"It's this function:\n\n{PROMPT}") == 4
    head = PROMPT.partition('    """ Twice')[0]
    assert result(fence("def f(x):\n    return 2 * helper(x)"), head) == 4


@pytest.mark.parametrize(
    ("prompt", "asked", "given"),
    [
        (PROMPT, ("f",), {"helper", "math"}),
        (PROMPT.partition('    """ Twice')[0], ("f",), {"helper", "math"}),
        ("LIMIT = 3\ndef f(x):\n    raise NotImplementedError\n", ("f",), {"LIMIT"}),
        ("def f(x): ...\ndef g(x): pass\ndef h(x): return x\n", ("f", "g"), {"h"}),
        ("class Node:\n    x = 1\ndef f(node):\n    '''It.'''\n", ("f",), set()),
        ("import re\nclass Solution:\n    def f(self, x):\n", ("Solution",), {"re"}),
        ("def f(x):\n    return 1 # a fault to mend\n", ("f",), set()),
        ("def g(x): return 2\ndef f(x):\n    return 1 # a fault\n", ("g", "f"), set()),
        (f"Mend this:\n{fence('def f(x): return 1')}", ("f",), set()),
        ("Write it, as it's said.\n\nimport re\ndef f(x):\n", ("f",), {"re"}),
        ("Write f.\n\ndef f(x: int) -> int:\n    '''It.'''\n", ("f",), set()),
        ("Add", (), set()),
        ("Write f(x) that doubles x.", (), set()),
        ("", (), set()),
    ],
)  # fmt: skip
def test_what_a_prompt_asks_for_and_gives(prompt, asked, given):
    read = read_prompt(prompt)
    assert (read.asked, read.given) == (asked, given)


def test_fenced_blocks():
    assert fenced_blocks("no code") == []
    assert fenced_blocks("```json\n{}\n```") == []
    assert fenced_blocks("```\na\n```\ntext\n~~~py\nb\n  c\n~~~\n") == ["a\n", "b\n  c\n"]
    assert fenced_blocks("````python\n```\ninner\n```\n````") == ["```\ninner\n```\n"]
    assert fenced_blocks("```\na\n    ```\nb\n```\n") == ["a\n    ```\nb\n"]


def test_long_texts_take_little_time():
    long = "```" * 200_000
    started = time.monotonic()
    fenced_blocks(long + "\n" + "`" * 400_000 + "\n" + " " * 400_000)
    find_program(read_prompt(""), "Once upon a time, it's said.\n" * 3000, frozenset({"f"}))
    find_program(read_prompt(""), "from here on it goes\n" * 1000, frozenset({"f"}))
    assert time.monotonic() - started < 3
