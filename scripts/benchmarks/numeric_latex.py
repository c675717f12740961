r"""An evaluator of plain LaTeX, to prove that two answers differ without asking what is measured.

It knows numbers, letters (at random values), `+ - \cdot / ^ !`, fractions, roots and the usual
functions, pairs, lists and equations, and says None to all else.
"""

import cmath
import math
import random
import re
from collections.abc import Callable

SEEDS = (1, 2, 3)
_TOKEN = re.compile(
    r"\s+|\d{1,3}(?:,\d{3})+(?![\d,])|\d+\.?\d*|\.\d+|\\[A-Za-z]+|\\.|[A-Za-z]|[-+*/^_{}()\[\]!]"
)
_IGNORED = {r"\left", r"\right", r"\,", r"\;", r"\:", r"\!", r"\ ", r"\displaystyle"}
_FRACTIONS = {r"\frac", r"\dfrac", r"\tfrac", r"\cfrac"}
_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    r"\sin": cmath.sin,
    r"\cos": cmath.cos,
    r"\tan": cmath.tan,
    r"\ln": cmath.log,
    r"\log": lambda z: cmath.log(z) / math.log(10),
    r"\exp": cmath.exp,
}
_CONSTANTS = {r"\pi": math.pi, "e": math.e, "i": 1j}
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class NotPlain(Exception):
    """The text holds something that the evaluator does not know."""


def differ(gold: str, other: str) -> bool:
    """Return whether two answers of the same form certainly differ."""
    pairs = [(signature(gold, seed), signature(other, seed)) for seed in SEEDS]
    known = [(a, b) for a, b in pairs if a is not None and b is not None and a[0] == b[0]]
    if len(known) < len(pairs):
        return False
    if known[0][0][0] == "equation":
        ratios = [a[1][0] / b[1][0] if b[1][0] else math.inf for a, b in known]
        return any(_far(ratio, ratios[0]) for ratio in ratios)
    return all(
        len(a[1]) != len(b[1]) or any(_far(x, y) for x, y in zip(a[1], b[1], strict=True))
        for a, b in known
    )


def signature(latex: str, seed: int) -> tuple[str, tuple[complex, ...]] | None:
    """The form of an answer and its values; those of a list are sorted, as order says nothing."""
    text = latex.replace(r"\left", "").replace(r"\right", "").strip()
    try:
        sides = text.split("=")
        if len(sides) == 2:
            return "equation", (value(sides[0], seed) - value(sides[1], seed),)
        parts = _split(text[1:-1]) if text[:1] in "([" and text[-1:] in ")]" else [text]
        if len(parts) > 1:
            return text[0] + text[-1], tuple(value(part, seed) for part in parts)
        values = [value(part, seed) for part in _split(text)]
    except (NotPlain, ArithmeticError, ValueError, IndexError, RecursionError):
        return None
    return "list" if len(values) > 1 else "value", tuple(sorted(values, key=_order))


def value(latex: str, seed: int) -> complex:
    """The value at random values of the letters; raises NotPlain."""
    tokens, place = [], 0
    while place < len(latex):
        found = _TOKEN.match(latex, place)
        if found is None:
            raise NotPlain(latex)
        place = found.end()
        if found[0].strip() and found[0] not in _IGNORED:
            tokens.append(found[0])
    reader = _Reader(tokens, seed)
    result = reader.sum()
    if reader.tokens or not cmath.isfinite(result):
        raise NotPlain(latex)
    return result


class _Reader:
    """Recursive descent over tokens, which it takes from the front."""

    def __init__(self, tokens: list[str], seed: int) -> None:
        self.tokens = tokens[::-1]
        self._seed = seed

    def _next(self) -> str:
        return self.tokens[-1] if self.tokens else ""

    def sum(self) -> complex:
        sign = -1 if self._next() == "-" else 1
        if self._next() in ("+", "-"):
            self.tokens.pop()
        total = sign * self._product()
        while self._next() in ("+", "-"):
            sign = -1 if self.tokens.pop() == "-" else 1
            total += sign * self._product()
        return total

    def _product(self) -> complex:
        total = self._power()
        before_is_number = False
        while (token := self._next()) not in ("", "+", "-", ")", "]", "}"):
            if token in (r"\cdot", r"\times", "*"):
                self.tokens.pop()
                total *= self._power()
            elif token == "/":
                self.tokens.pop()
                total /= self._power()
            elif token[0].isdigit() or token[0] == "." or before_is_number:
                raise NotPlain("two numbers side by side")
            elif token in _FRACTIONS and not isinstance(total, complex) and total == int(total):
                raise NotPlain("a mixed number, or a product")
            else:
                total *= self._power()
        return total

    def _power(self) -> complex:
        base = self._atom()
        while self._next() == "!":
            self.tokens.pop()
            if base != int(base.real) or not 0 <= base.real < 100:
                raise NotPlain("factorial")
            base = math.factorial(int(base.real))
        if self._next() == "^":
            self.tokens.pop()
            exponent = self._argument()
            if abs(exponent) > 60 or (base == 0 and complex(exponent).real < 0):
                raise NotPlain("a large power")
            base = base**exponent
        return base

    def _argument(self) -> complex:
        """What stands in braces, or one token without."""
        if self._next() == "{":
            return self._group()
        token = self.tokens.pop()
        if token[0].isdigit() and len(token) > 1:  # \frac12 takes one digit at a time
            self.tokens.append(token[1:])
            token = token[0]
        self.tokens.append(token)
        return self._atom()

    def _group(self) -> complex:
        closing = _CLOSING[self.tokens.pop()]
        total = self.sum()
        if not self.tokens or self.tokens.pop() != closing:
            raise NotPlain("brackets")
        return total

    def _atom(self) -> complex:
        token = self._next()
        if token in ("(", "{"):
            return self._group()
        if not token:
            raise NotPlain("the end")
        self.tokens.pop()
        if token[0].isdigit() or token[0] == ".":
            return float(token.replace(",", ""))
        if token in _FRACTIONS:
            over = self._argument()
            return over / self._argument()
        if token == r"\sqrt":
            return self._root()
        if token in _FUNCTIONS:
            return _FUNCTIONS[token](self._power())
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token.isalpha():
            return self._letter(token)
        raise NotPlain(token)

    def _root(self) -> complex:
        index: complex = 2
        if self._next() == "[":
            index = self._group()
        root: complex = complex(self._argument()) ** (1 / index)
        return root

    def _letter(self, name: str) -> float:
        if self._next() == "_":
            self.tokens.pop()
            name += str(self._argument())
        return random.Random(f"{name}/{self._seed}").uniform(0.3, 2.5)


def _split(text: str) -> list[str]:
    """Split at commas that stand in no bracket and separate no thousands."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:place])
            start = place + 1
    parts.append(text[start:])
    if len(parts) > 1 and all(re.fullmatch(r"\s*-?\d{1,3}|\d{3}", part) for part in parts):
        return [text] if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text) else parts
    return parts


def _order(number: complex) -> tuple[float, float]:
    number = complex(number)
    return round(number.real, 9), round(number.imag, 9)


def _far(one: complex, other: complex) -> bool:
    return abs(one - other) > 1e-6 * max(abs(one), abs(other), 1e-12)
