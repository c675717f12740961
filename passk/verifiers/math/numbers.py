r"""Read rational numbers exactly: `1,000`, `2\frac{1}{2}`, `1.6e-19`, `0.\overline{3}`, `20\%`.

Exponents are bounded before anything is computed, so no answer takes long to read.
"""

import re
from fractions import Fraction

from passk.verifiers.math.forms import WORDS_FOR_NUMBERS, Number, fold

_MAX_EXPONENT = 1000  # of ten; beyond it a text does not count as a number
_SEPARATED = (
    r"\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d{1,3}(?:'\d{3})+|\d{1,3}(?:_\d{3})+"
    r"|\d{1,2}(?:,\d{2})+,\d{3}"
)
_DECIMAL = rf"(?:(?:{_SEPARATED}|\d+)(?:\.\d*)?|\.\d+)"
_INTEGER = r"\s?(?P<{}>-?\d+)\s?"
_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s?(?:"
    rf"(?P<plain>{_DECIMAL})"
    r"|(?P<stem>\d*\.\d*)(?:\\overline\s?\{(?P<period>\d+)\}|\((?P<in_brackets>\d+)\))"
    r"|(?P<written_out>\d*\.\d*?)(?P<block>\d{1,12}?)(?P=block){2,}\s?(?:\.{2,3}|\\l?dots)"
    rf"|(?P<mantissa>{_DECIMAL})(?:[eE]|\\text\s?\{{[eE]\}})(?P<exponent>[-+]?\d+)"
    rf"|(?:(?P<factor>{_DECIMAL})\s?(?:\\times|\\cdot|\*|x)\s?)?"
    r"10\s?\^\s?(?:\{\s?(?P<power>[-+]?\d+)\s?\}|(?P<short>-?\d+))"
    rf"|(?P<whole>\d*)\s?\\frac\s?\{{{_INTEGER.format('over')}\}}\s?"
    rf"\{{{_INTEGER.format('under')}\}}"
    r"|(?:(?P<before>\d+)\s)?(?P<left>\d+)\s?/\s?(?P<right>\d+)"
    r")\s?(?P<percent>%?)"
)
_SEPARATORS = str.maketrans("", "", ",' _")


def read_number(text: str) -> Number | None:
    """Read a text, in the spelling of `normalise_latex`, as a number; None if it is not one."""
    found = _NUMBER.fullmatch(text)
    value = _value(found) if found else None
    if found is None or value is None:
        return None
    return Number(-value if found["sign"] == "-" else value, found["percent"] == "%")


def read_number_word(text: str) -> Number | None:
    """Read a word from zero to twelve as a number; None for any other word."""
    word = fold(text)
    return Number(Fraction(WORDS_FOR_NUMBERS.index(word))) if word in WORDS_FOR_NUMBERS else None


def _value(found: re.Match[str]) -> Fraction | None:
    if found["plain"]:
        return _decimal(found["plain"])
    if found["period"] or found["in_brackets"]:
        return _periodic(found["stem"], found["period"] or found["in_brackets"])
    if found["block"]:
        return _periodic(found["written_out"], found["block"])
    if found["mantissa"]:
        return _scaled(_decimal(found["mantissa"]), found["exponent"])
    if found["power"] or found["short"]:
        factor = _decimal(found["factor"]) if found["factor"] else Fraction(1)
        return _scaled(factor, found["power"] or found["short"])
    if int(found["under"] or found["right"]) == 0:
        return None
    if found["under"]:
        return Fraction(found["whole"] or 0) + Fraction(int(found["over"]), int(found["under"]))
    return int(found["before"] or 0) + Fraction(int(found["left"]), int(found["right"]))


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.translate(_SEPARATORS).removesuffix("."))


def _periodic(stem: str, period: str) -> Fraction:
    places = len(stem.partition(".")[2])
    repeated = Fraction(int(period), (10 ** len(period) - 1) * 10**places)
    return Fraction(f"0{stem}".removesuffix(".")) + repeated


def _scaled(factor: Fraction, exponent: str) -> Fraction | None:
    if len(exponent) > 5 or abs(int(exponent)) > _MAX_EXPONENT:
        return None
    return factor * Fraction(10) ** int(exponent)
