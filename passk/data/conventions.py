"""Embedded task: arithmetic that can be read in two ways, so that interference is known.

A prompt such as `T3+4*5=` asks for a worked answer in short steps. A *textbook* problem multiplies
first (`4*5=20;3+20=23`), a *calculator* problem goes from left to right (`3+4=7;7*5=35`). Nothing
in the expression shows which is meant: making one likelier makes the other less likely. A *skill*
problem (`T37+48+59=`) has one reading and is merely hard. The first letter shows the convention
with probability `cue`, and is a coin toss otherwise.
"""

import hashlib
import random
from collections.abc import Callable

from passk.types import Problem

TEXTBOOK, CALCULATOR, SKILL = "textbook", "calculator", "skill"
KINDS = (TEXTBOOK, CALCULATOR, SKILL)
_LETTER = {TEXTBOOK: "T", CALCULATOR: "C"}
_HELD_OUT_SHARE = 4  # every fourth expression, by hash, is never trained on


def is_held_out(expression: str) -> bool:
    """Return True if an expression belongs to the held-out side, fixed for all seeds."""
    return hashlib.blake2b(expression.encode(), digest_size=1).digest()[0] % _HELD_OUT_SHARE == 0


def make_problems(
    count: int,
    *,
    split: str,
    seed: int,
    calculator_fraction: float,
    skill_fraction: float,
    cue: float,
) -> list[Problem]:
    """Draw `count` problems from the task, each with its worked solution.

    `split` is `train`, `corpus` or `heldout`; the first two use the same side of the expressions.
    Fractions are of all problems; the rest is textbook. The same arguments give the same problems.
    """
    rng = random.Random(f"conventions/{split}/{seed}")
    held_out = split == "heldout"
    problems = []
    for i in range(count):
        u = rng.random()
        is_calculator = u < calculator_fraction
        is_skill = not is_calculator and u < calculator_fraction + skill_fraction
        kind = CALCULATOR if is_calculator else SKILL if is_skill else TEXTBOOK
        draw = _sum_of_three if kind == SKILL else _mixed_expression
        expression, solution, answer = _draw_from_side(draw, rng, held_out, kind)
        betrays = rng.random() < cue and kind in _LETTER
        letter = _LETTER[kind] if betrays else rng.choice("TC")
        problems.append(
            Problem(f"{split}-{seed}-{i}", f"{letter}{expression}=", answer, kind, solution)
        )
    return problems


def _draw_from_side(
    draw: Callable[[random.Random, str], tuple[str, str, str]],
    rng: random.Random,
    held_out: bool,
    kind: str,
) -> tuple[str, str, str]:
    """Draw until the expression falls on the wanted side of the split."""
    while True:
        expression, solution, answer = draw(rng, kind)
        if is_held_out(expression) == held_out:
            return expression, solution, answer


def _mixed_expression(rng: random.Random, kind: str) -> tuple[str, str, str]:
    """Draw a+b*c; its two readings always differ because a > 0 and c > 1."""
    a, b, c = rng.randint(1, 12), rng.randint(2, 9), rng.randint(2, 9)
    if kind == TEXTBOOK:
        answer = a + b * c
        steps = f"{b}*{c}={b * c};{a}+{b * c}={answer}"
    else:
        answer = (a + b) * c
        steps = f"{a}+{b}={a + b};{a + b}*{c}={answer}"
    return f"{a}+{b}*{c}", steps, str(answer)


def _sum_of_three(rng: random.Random, _kind: str) -> tuple[str, str, str]:
    """Draw a+b+c of two-digit numbers: one reading, hard for a model this small."""
    a, b, c = (rng.randint(10, 99) for _ in range(3))
    return f"{a}+{b}+{c}", f"{a}+{b}={a + b};{a + b}+{c}={a + b + c}", str(a + b + c)
