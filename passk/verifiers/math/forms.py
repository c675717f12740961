r"""Forms of answers: number, words, numeral with a base, several answers, equation, formula.

Only leaves such as `\frac{\sqrt{2}}{2}` are left to computer algebra. passk itself reads and
compares the structure around them, because math-verify errs most there
(docs/research/benchmarks.md).
"""

import re
from dataclasses import dataclass
from fractions import Fraction

# Mathematical signs; hyphens and slashes inside words, as in `two-thirds`, do not count.
_MATHEMATICAL_SIGN = re.compile(r"[-+*/<>=^_\\|&!]")
_INSIDE_WORDS = re.compile(r"(?<=[^\W\d_]{2})[-/](?=[^\W\d_]{2})")
_INDEX = re.compile(r"_\s?\{[^{}]*\}")
_TIME = re.compile(r"[\d:\s]+[ap]\.?\s?m\.?|\d{1,2}(?:\s?:\s?\d{2})+", re.IGNORECASE)
WORDS_FOR_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve"),
)


@dataclass(frozen=True, slots=True)
class Number:
    """A rational number as it is written; `19%` has the value 19 and a percent sign."""

    value: Fraction
    is_percent: bool = False

    @property
    def latex(self) -> str:
        over, under = abs(self.value.numerator), self.value.denominator
        size = str(over) if under == 1 else rf"\frac{{{over}}}{{{under}}}"
        return f"-{size}" if self.value < 0 else size


@dataclass(frozen=True, slots=True)
class Words:
    """Words, folded by `fold`: the words of `Lake Erie` are `lakeerie`."""

    words: str

    @property
    def latex(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True)
class Numeral:
    """A numeral that names its base: `1011_2`."""

    digits: str
    base: str

    @property
    def latex(self) -> str:
        return f"{self.digits}_{self.base}"


@dataclass(frozen=True, slots=True)
class Residue:
    """A number modulo another: `7 \\pmod{9}`."""

    value: int
    modulus: int
    latex: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """Numbers with colons: `3:2`. A time of day is one value, never reduced."""

    parts: tuple[Fraction, ...]
    is_time: bool
    latex: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A letter of multiple choice with its value: `(B) 5`."""

    letter: str
    value: "Form"
    latex: str


@dataclass(frozen=True, slots=True)
class Several:
    """More than one answer. `opening` is empty for lists and sets, a bracket, `union` or `matrix`.

    Lists, sets and unions are not ordered; pairs, intervals and matrices are.
    """

    opening: str
    closing: str
    elements: tuple["Form", ...]
    latex: str

    @property
    def is_ordered(self) -> bool:
        return self.opening not in ("", "union")


@dataclass(frozen=True, slots=True)
class Assignment:
    """A name and its value: `x = 5`, `f(x) = 2x`.

    `a + b = 5` is an assignment too, to a quantity that is not a name (`is_name` is False).
    """

    name: str
    value: "Form"
    latex: str
    is_name: bool = True


@dataclass(frozen=True, slots=True)
class Formula:
    """Anything else, for computer algebra."""

    latex: str

    @property
    def is_equation(self) -> bool:
        """True if the formula holds an equals sign, other than one in an index, as of a sum."""
        return "=" in _INDEX.sub("", self.latex)


Form = Number | Words | Numeral | Residue | Ratio | Choice | Several | Assignment | Formula


def describe(form: Form) -> str:
    """Return one spelling for answers that are surely equal; majority votes use it."""
    match form:
        case Number(value, is_percent):
            return f"{value}%" if is_percent else str(value)
        case Several(opening, closing, elements):
            inner = [describe(element) for element in elements]
            return f"{opening}{','.join(inner if form.is_ordered else sorted(inner))}{closing}"
        case Assignment(_, value):
            return describe(value)
        case Choice(letter):
            return letter
        case Residue(value, modulus):
            return f"{value % modulus}mod{modulus}"
        case Ratio(parts, False):
            return ":".join(str(part / parts[0]) if parts[0] else str(part) for part in parts)
    return form.latex.replace(" ", "")


def fold(text: str) -> str:
    """Return the letters, digits and colons of a text in lower case: what distinguishes words."""
    return "".join(c for c in text.casefold() if c.isalnum() or c == ":")


def is_time(text: str) -> bool:
    """Return True if a text is a time of day: `8:34`, `9 p.m.`."""
    return _TIME.fullmatch(text) is not None


def is_words(text: str) -> bool:
    """Return True if a text reads as words: letters, and nothing that reads as mathematics.

    `June 20` is words; `2x`, `x-1` and `20` are not. A time of day counts as words.
    """
    if is_time(text):
        return True
    if _MATHEMATICAL_SIGN.search(_INSIDE_WORDS.sub(" ", text)):
        return False
    has_letter = any(char.isalpha() for char in text)
    has_digit = any(char.isdigit() for char in text)
    return has_letter and (not has_digit or re.search(r"[^\W\d_]{2}", text) is not None)
