"""Embedded task: arithmetic that can be read in two ways, so that interference is known.

A prompt such as `T3+4*5=` asks for a worked answer in short steps. A *textbook* problem multiplies
first (`4*5=20;3+20=23`), a *calculator* problem goes from left to right (`3+4=7;7*5=35`). Nothing
in the expression shows which is meant: making one likelier makes the other less likely. A *skill*
problem (`T37+48+59=`) has one reading and is merely hard. The first letter shows the convention
with probability `cue`, and is a coin toss otherwise.

Held-out problems have an expression each, so they are independent of one another. Training problems
do too unless `duplicates` is set: then one and the same prompt may ask for both readings.
"""

import hashlib
import random
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import cache

from passk.errors import UserError
from passk.types import Problem

TEXTBOOK, CALCULATOR, SKILL = "textbook", "calculator", "skill"
KINDS = (TEXTBOOK, CALCULATOR, SKILL)
_LETTER = {TEXTBOOK: "T", CALCULATOR: "C"}
_HELD_OUT_SHARE = 2  # every second expression, by hash, is never trained on
_ADDENDS, _FACTORS = range(1, 25), range(2, 13)  # of a+b*c: a, and b and c
_NUM_PROBLEMS_KEY = {"train": "data.num_train", "heldout": "eval.num_problems"}


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of kinds among problems, the rest textbook, and how far the letter shows them."""

    calculator_fraction: float
    skill_fraction: float
    cue: float = 0.0

    def kind(self, u: float) -> str:
        """Return the kind of a problem whose draw from [0, 1) is u."""
        if u < self.calculator_fraction:
            return CALCULATOR
        return SKILL if u < self.calculator_fraction + self.skill_fraction else TEXTBOOK


def is_held_out(expression: str) -> bool:
    """Return True if an expression belongs to the held-out side, fixed for all seeds."""
    return hashlib.blake2b(expression.encode(), digest_size=1).digest()[0] % _HELD_OUT_SHARE == 0


def make_problems(
    count: int,
    mix: Mix,
    *,
    split: str,
    seed: int,
    duplicates: bool,
) -> list[Problem]:
    """Draw `count` problems from the task, each with its worked solution.

    `split` is `train`, `corpus` or `heldout`; the first two use the same side of the expressions.
    Without `duplicates` no expression is drawn twice. The same arguments give the same problems,
    and a smaller count the first of them.

    Raises:
        UserError: the side has too few expressions with two readings for that.
    """
    rng = random.Random(f"conventions/{split}/{seed}")
    held_out = split == "heldout"
    problems: list[Problem] = []
    drawn = set[str]()
    num_left = len(_mixed_expressions(held_out))
    for i in range(count):
        kind = mix.kind(rng.random())
        draw = _sum_of_three if kind == SKILL else _mixed_expression
        if kind != SKILL and not duplicates:
            if num_left == 0:
                raise UserError(_too_few(split, count, len(problems)))
            num_left -= 1
        expression, solution, answer = _draw_from_side(draw, rng, held_out, kind, drawn)
        if not duplicates:
            drawn.add(expression)
        betrays, tossed = rng.random() < mix.cue, rng.choice("TC")
        letter = _LETTER.get(kind, tossed) if betrays else tossed
        problems.append(
            Problem(f"{split}-{seed}-{i}", f"{letter}{expression}=", answer, kind, solution)
        )
    return problems


def _draw_from_side(
    draw: Callable[[random.Random, str], tuple[str, str, str]],
    rng: random.Random,
    held_out: bool,
    kind: str,
    drawn: Set[str],
) -> tuple[str, str, str]:
    """Draw until the expression falls on the wanted side of the split and is not in `drawn`."""
    while True:
        expression, solution, answer = draw(rng, kind)
        if expression not in drawn and is_held_out(expression) == held_out:
            return expression, solution, answer


def _mixed_expression(rng: random.Random, kind: str) -> tuple[str, str, str]:
    """Draw a+b*c; its two readings always differ because a > 0 and c > 1."""
    a, b, c = rng.choice(_ADDENDS), rng.choice(_FACTORS), rng.choice(_FACTORS)
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


@cache
def _mixed_expressions(held_out: bool) -> frozenset[str]:
    """List the expressions with two readings on one side of the split."""
    every = (f"{a}+{b}*{c}" for a in _ADDENDS for b in _FACTORS for c in _FACTORS)
    return frozenset(text for text in every if is_held_out(text) == held_out)


def _too_few(split: str, count: int, most: int) -> str:
    available = len(_mixed_expressions(split == "heldout"))
    way_out = " or data.duplicates=true" if split == "train" else ""
    return (
        f"{_NUM_PROBLEMS_KEY[split]}={count} is too many: at these fractions of kinds the embedded "
        f"task has {most} problems of different expressions, {available} with two readings; "
        f"use at most {most}, a larger data.skill_fraction{way_out}"
    )
