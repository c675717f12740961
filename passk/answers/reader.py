"""Reads the form of an answer off its LaTeX.

An answer is at most `answer_text.MAX_ANSWER_CHARS` long here, and nesting is followed four deep:
reading takes well under a millisecond.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from passk.answers.forms import (
    Assignment,
    Form,
    Formula,
    Number,
    Numeral,
    Several,
    Words,
    describe,
    fold,
    is_time,
    is_words,
)
from passk.answers.text import normalise_latex

_RATIO = r"\\frac\s?\{\s?(?P<over>-?\d+)\s?\}\s?\{\s?(?P<under>-?\d+)\s?\}"
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s?(?:"
    r"(?P<plain>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)"
    rf"|(?P<whole>\d*)\s?{_RATIO}"
    r"|(?:(?P<before>\d+)\s)?(?P<left>\d+)\s?/\s?(?P<right>\d+)"
    r")\s?(?P<percent>%?)"
)
_WORDS_FOR_NUMBERS = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("ten", "eleven", "twelve"),
]
_UNITS = (
    "mm|cm|km|nm|ms|Hz|kHz|kW|kWh|mol|mL|USD|EUR|in|ft|yd|mi|mph|kg|mg|gm|lbs?|oz|hrs?|mins?|secs?|ml|units?|sq|square|cubic|degrees?"
    "|dollars?|cents?|percent|inch(?:es)?|feet|foot|yards?|miles?|met(?:er|re)s?|hours?|minutes?"
    "|seconds?|days?|weeks?|months?|years?|pounds?|ounces?|grams?|gallons?|lit(?:er|re)s?"
)
# `18 dollars`, `5cm^2`, `12 white eggs`: known units, or words that begin with four letters.
_BARE_UNIT = re.compile(
    rf"(?P<head>.*[\d}})%])"
    rf"(?P<unit>(?:\s?(?:{_UNITS})(?![A-Za-z{{])|\s(?!sqrt|frac)[A-Za-z]{{4,}})"
    r"(?:\^\s?\{?[23]\}?|[\s./]|[A-Za-z])*)"
)
_MULTIPLIERS = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6}
_MULTIPLIERS |= {"billion": 10**9, "trillion": 10**12}
# After a number these change what is said, where a unit or a noun does not.
_NO_UNITS = {
    *("or", "and", "nor", "not", "no", "but", "by", "if", "than", "least", "most", "either"),
    *("maybe", "perhaps", "except", "negative", "wrong", "false", "pi", "infinity", "mod"),
    *("plus", "minus", "times", "over", "divided", "multiplied", "added", "subtracted", "modulo"),
    *("squared", "cubed", "factorial", "power", "root", "half", "halves", "thirds", "fourths"),
    *("fifths", "tenths", "hundredths", "thousandths", *_WORDS_FOR_NUMBERS, *_MULTIPLIERS),
}
_ONE_LETTER_UNITS = frozenset("mgshlLNJWVKCF")
_TEXT_UNIT = re.compile(
    r"(?P<head>.*[^\s=,+*/<>(-])\s*\\text\{(?P<unit>[^{}]*)\}\s?(?:\^\s?\{?\d\}?)?"
)
_ALL_TEXT = re.compile(r"[({\s]*\\text\{\s*(?P<words>[^{}]*)\}[)}\s.]*")
_TEXT = re.compile(r"\\text\{\s*([^{}]*?)\s*\}")
_BARE_WORDS = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z'.-]+(?: [A-Za-z'.-]+)*")
_NUMERAL = re.compile(r"\(?([0-9A-Z]+)\)?_\s?\{?(\d+)\}?")
_NAME = re.compile(r"(?:\\?[A-Za-z]{1,3}|\\[a-z]+|\\text\{[^{}]*\})(?:_\{?\w+\}?|\([a-z]\))?'*")
_MATRIX = re.compile(r"\\begin\{pmatrix\}(.*?)\\end\{pmatrix\}", re.DOTALL)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot)(?![a-z])")
_MAX_DEPTH = 4


@lru_cache(maxsize=8192)
def read_answer(text: str) -> Form:
    """The form of an answer, whatever its spelling."""
    return _read(normalise_latex(text), 0)


def reads_as(text: str) -> str:
    """One spelling for answers that are surely equal: `1/2` for `0.5` and `x = \\frac{1}{2}`."""
    return describe(read_answer(text))


def split_outside(text: str, separators: str) -> list[str]:
    """Split at characters that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char in separators and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _read(text: str, depth: int) -> Form:
    simple = _number(text) or _numeral(text) or _words(text, depth)
    if simple is not None:
        return simple
    if depth < _MAX_DEPTH:
        for reader in (_without_unit, _matrix, _in_brackets, _union, _list, _equation):
            form = reader(text, depth + 1)
            if form is not None:
                return form
    return Formula(_for_algebra(text))


def _number(text: str) -> Number | None:
    found = _NUMBER.fullmatch(text)
    if found is None or int(found["under"] or found["right"] or 1) == 0:
        return None
    if found["plain"]:
        value = Fraction(found["plain"].replace(",", "").removesuffix("."))
    elif found["under"]:
        value = Fraction(found["whole"] or 0) + Fraction(int(found["over"]), int(found["under"]))
    else:
        value = int(found["before"] or 0) + Fraction(int(found["left"]), int(found["right"]))
    return Number(-value if found["sign"] == "-" else value, found["percent"] == "%")


def _numeral(text: str) -> Numeral | None:
    found = _NUMERAL.fullmatch(_TEXT.sub(r"\1", text))
    return Numeral(found[1], found[2]) if found else None


def _words(text: str, depth: int) -> Form | None:
    in_text = _ALL_TEXT.fullmatch(text)
    unwrapped = _TEXT.sub(r" \1", text).strip()
    if in_text and depth < _MAX_DEPTH:
        inside = in_text["words"].strip()
        if not is_words(inside):  # `\text{x-1}` is mathematics, however it is set
            return _read(inside, depth + 1)
        parts = [part.strip() for part in inside.split(",") if part.strip()]
        if len(parts) > 1:
            elements = tuple(_number(part) or _words_or_number(part) for part in parts)
            return Several("", "", elements, text)
        return _words_or_number(inside)
    if is_time(unwrapped) or (_BARE_WORDS.fullmatch(text) and is_words(text)):
        return _words_or_number(unwrapped)
    return None


def _words_or_number(text: str) -> Form:
    words = fold(text)
    if words in _WORDS_FOR_NUMBERS:
        return Number(Fraction(_WORDS_FOR_NUMBERS.index(words)))
    return Words(words)


def _without_unit(text: str, depth: int) -> Form | None:
    if text.endswith(r"^\circ") and not _TRIGONOMETRY.search(text):
        return _read(text.removesuffix(r"^\circ").strip(), depth)
    unit = _TEXT_UNIT.fullmatch(text) or _BARE_UNIT.fullmatch(text)
    if unit is None:
        return None
    after = text[len(unit["head"]) :].removeprefix(r"\text{")
    first = re.match(r"[A-Za-z]{2,3}(?![A-Za-z])", after)
    if first and not re.fullmatch(_UNITS, first[0]):  # `5\text{ab}` is a product
        return None
    return _with_unit(unit["head"].strip(), unit["unit"], depth)


def _with_unit(head: str, unit: str, depth: int) -> Form | None:
    """What `head` is worth before `unit`, None where that is more than a unit."""
    if not re.fullmatch(r"(?:[A-Za-z\s./]|\^\s?\{?[23]\}?)*", unit):
        return None
    words, factor = re.findall(r"[A-Za-z]+", unit), 1
    while words and words[0].lower() in _MULTIPLIERS:
        factor *= _MULTIPLIERS[words.pop(0).lower()]
    if words and words[0].lower() == "percent":
        head, words = f"{head}%", words[1:]
    if not all(_is_unit(word, head, len(words)) for word in words):
        return None
    form = _read(head, depth)
    if factor == 1:
        return form
    return replace(form, value=form.value * factor) if isinstance(form, Number) else None


def _is_unit(word: str, head: str, num_words: int) -> bool:
    if len(word) > 1:
        return word.lower() not in _NO_UNITS
    if word == "a":  # 18 eggs a day
        return num_words > 1
    return word in _ONE_LETTER_UNITS and re.search(r"(?:[\d})%]|\\circ)$", head) is not None


def _matrix(text: str, depth: int) -> Form | None:
    found = _MATRIX.fullmatch(text)
    if found is None:
        return None
    rows = [row for row in found[1].split(r"\\") if row.strip()]
    cells = [[_read(cell.strip(), depth) for cell in row.split("&")] for row in rows]
    return Several("matrix", "", tuple(Several("row", "", tuple(row), "") for row in cells), text)


def _in_brackets(text: str, depth: int) -> Form | None:
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    inner = text[len(opening) : len(text) - len(closing)].strip()
    if opening not in ("(", "[", "{", r"\{") or closing not in (")", "]", "}", r"\}"):
        return None
    if not inner or not _closes_at_end(text):
        return None
    parts = split_outside(inner, ",;")
    if opening in ("{", r"\{"):
        return _read(inner, depth) if closing == opening.replace("{", "}") else None
    if len(parts) == 1:
        return _read(inner, depth) if (opening, closing) == ("(", ")") else None
    return Several(opening, closing, tuple(_read(part, depth) for part in parts), text)


def _closes_at_end(text: str) -> bool:
    """Whether the first bracket's partner is the last character."""
    level = 0
    for place, char in enumerate(text):
        level += (char in "([{") - (char in ")]}")
        if level == 0 and char in ")]}":
            return place == len(text) - 1
    return False


def _union(text: str, depth: int) -> Form | None:
    parts = text.split(r"\cup")
    if len(parts) == 1 or "\\begin" in text:
        return None
    elements = tuple(_read(_after_in(part.strip()), depth) for part in parts)
    return Several("union", "", elements, _after_in(text))


def _list(text: str, depth: int) -> Form | None:
    parts = [part for whole in split_outside(text, ",;") for part in _both_signs(whole)]
    if len(parts) == 1:
        return None
    return Several("", "", tuple(_read(part, depth) for part in parts), text)


def _both_signs(text: str) -> Iterable[str]:
    """`1 \\pm x` is two answers."""
    if text.count(r"\pm") != 1 or r"\mp" in text:
        return [text]
    minus = text.replace(r"\pm", "-")
    plus = text.replace(r"\pm", "+").strip().removeprefix("+").strip()
    return [plus, minus]


def _equation(text: str, depth: int) -> Form | None:
    inside = _after_in(text)
    if inside != text:
        return _read(inside, depth)
    exact = [part.strip() for part in text.split(r"\approx") if part.strip()]
    if exact and exact[0] != text:
        return _read(exact[0], depth)
    parts = split_outside(text, "=")
    if len(parts) == 1 or not all(parts):
        return None
    if _NAME.fullmatch(parts[0]):
        return Assignment(fold(parts[0]), _read(parts[-1], depth), _for_algebra(text))
    if len(parts) == 2 and _NAME.fullmatch(parts[1]):
        return Assignment(fold(parts[1]), _read(parts[0], depth), _for_algebra(text))
    if not re.search(r"(?<!\\)(?<![A-Za-z])[A-Za-z]", parts[0]):  # 0.56 = 56%
        return _read(parts[-1], depth)
    return None


def _after_in(text: str) -> str:
    return re.sub(r"^[A-Za-z]\s*\\in(?![A-Za-z])\s*", "", text)


def _for_algebra(text: str) -> str:
    """LaTeX without words, separators and signs that computer algebra reads wrongly.

    Decimals become fractions: math-verify rounds them, and calls 0.0000001 and 0 equal.
    """
    degrees = r"\\cdot\\frac{\\pi}{180}" if _TRIGONOMETRY.search(text) else ""
    text = re.sub(r"\^\\circ", degrees, text)
    text = _TEXT.sub(r"\1", text).rstrip("% ")
    text = re.sub(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda m: m[0].replace(",", ""), text)
    return re.sub(r"(?<![\w.])(\d*)\.(\d+)", _as_fraction, text).strip()


def _as_fraction(decimal: re.Match[str]) -> str:
    whole, digits = decimal.groups()
    return rf"(\frac{{{int(whole + digits)}}}{{{10 ** len(digits)}}})"
