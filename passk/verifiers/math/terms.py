r"""Read the smallest parts of an answer: numbers, names, and units after a number.

Numbers are exact: `1,000`, `2\frac{1}{2}`, `1.6e-19`, `0.\overline{3}`, `20\%`. Exponents are
bounded before anything is computed, so no answer takes long to read. The left side of an equation
is a name (`x`, `f(3)`, `\frac{dy}{dx}`) or a quantity: `x = 5` means 5, and so does `a + b = 5`,
which no single unknown solves, while `x + 1 = 5` means 4. Units: `5 cm`, `18 white eggs`,
`3 million`, `20 percent`, `8 N m`.
"""

import re
from fractions import Fraction
from typing import NamedTuple

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


_CONSTANTS = r"(?!(?:pi|infty|emptyset|pm|mp|cdot|times|sqrt|frac|int|sum|lim|log|ln|exp)(?![a-z]))"
_LETTER = rf"(?:\\{_CONSTANTS}[A-Za-z]+|[A-Za-z])"
_INDEX = r"(?:\s?_\s?(?:\{[^{}]*\}|\w))?"
_LINES = r"\\(?:overline|vec|hat|widehat|bar|dot|ddot|tilde|mathbf|mathcal|operatorname)"
_SIZE = rf"[A-Za-z]{{1,3}}{_INDEX}'?"
_MEASURE = rf"(?:[A-Z]{{2,3}}|[A-Z]{_INDEX})"  # of a figure: AB, S_1
_NAME = re.compile(
    r"(?:"
    rf"(?:\\?{_CONSTANTS}[A-Za-z]{{1,3}}|\\{_CONSTANTS}[a-z]+|\\text\s?\{{[^{{}}]*\}}|{_LINES}\s?\{{[^{{}}]*\}})"
    rf"{_INDEX}'*(?:(?<=[fgh])\^\s?\{{\s?-1\s?\}}(?=\s?\())?"
    r"(?:\s?\((?:[^()+*/^=-]|(?<=\()-)*\)|(?<=[A-Zfgh'])\s?[(\[][^()\[\]=]*[)\]])?"
    r"|m?\s?\\(?:angle|triangle|odot|arc)\s?[A-Za-z]+"
    r"|\\(?:sin|cos|tan|cot|sec|csc)\s?(?:\(?(?:\\angle\s?)?[A-Z]{1,3}\)?|\\[a-z]+)"
    r"|\|\s?[A-Z]{2}\s?\||\|\s?[A-Z]\s?\|"
    rf"|d\s?{_LETTER}\s?/\s?d\s?{_LETTER}"
    rf"|\\frac\s?\{{\s?(?:d|\\partial)\s?(?:\^\s?\{{?\d\}}?)?\s?{_LETTER}?\s?\}}"
    rf"\s?\{{\s?(?:d|\\partial)\s?{_LETTER}\s?(?:\^\s?\{{?\d\}}?)?\s?\}}(?:\s?{_LETTER})?"
    rf"|{_SIZE}(?:\s?:\s?{_SIZE})+|{_MEASURE}\s?/\s?{_MEASURE}"
    rf"|\\frac\s?\{{\s?{_MEASURE}\s?\}}\s?\{{\s?{_MEASURE}\s?\}}"
    r"|[A-Za-z]{4,}(?:\s[A-Za-z]+)*"
    r")"
)
_UNKNOWN = re.compile(
    r"(?:(?<![A-Za-z\\])[A-Za-z]|(?<=(?<![\\A-Za-z])[A-Za-z])[A-Za-z]"
    r"|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|sigma|rho)(?![a-z]))"
    r"(?:\s?_\s?(?:\{\w+\}|\w))?"
)
_BOUND = re.compile(r"\\(?:lim|sum|prod|int|max|min|gcd|lcm|det)(?![a-z])")
_FIXED_CALL = re.compile(r"(?<![A-Za-z\\])[A-Za-z]\s?\(\s?-?\d+\s?\)")


def is_name(text: str) -> bool:
    """Return True if a text is a name and nothing more."""
    return len(text) <= 60 and _NAME.fullmatch(text) is not None


def is_quantity(text: str) -> bool:
    """Return True if a text is a quantity: several unknowns, f(2) + f(3), a limit or a sum."""
    if _BOUND.match(text):
        return True
    without_calls = _FIXED_CALL.sub("", text)
    unknowns = {found.replace(" ", "") for found in _UNKNOWN.findall(without_calls)}
    return len(unknowns) > 1 or (not unknowns and without_calls != text)


_BARE = (
    "mm|cm|km|nm|ms|Hz|kHz|kW|kWh|mol|mL|USD|EUR|in|ft|yd|mi|mph|kg|mg|gm|lbs?|oz|hrs?|mins?|secs?|ml|units?|sq|square|cubic|degrees?"
    "|dollars?|cents?|percent|pct|inch(?:es)?|feet|foot|yards?|miles?|met(?:er|re)s?|hours?|minutes?"
    "|seconds?|days?|weeks?|months?|years?|pounds?|ounces?|grams?|gallons?|lit(?:er|re)s?"
)
_PREFIXED = ("m", "g", "s", "A", "K", "mol", "Hz", "N", "Pa", "J", "W", "C", "V", "F", "T", "L")
_SYMBOLS = {
    *(prefix + unit for prefix in "kMGcdmnpu" for unit in (*_PREFIXED, "eV", "cal", "ohm", "bar")),
    *("eV", "cal", "ohm", "bar", "mol", "Hz", "Pa", "erg", "dyn", "atm", "AU", "ly", "pc", "kpc"),
    *("Mpc", "yr", "Gyr", "Myr", "amu", "ppm", "rpm", "rad", "sr", "Jy", "gal", "dB", "hp", "psi"),
    *("cu", "kph", "kmh", "micro", "u"),
}
_ONE_LETTER = frozenset("mgshlLNJWVKCF")
_MULTIPLIERS = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6}
_MULTIPLIERS |= {"billion": 10**9, "trillion": 10**12}
# After a number these words change the meaning; a unit or a noun does not.
_NO_UNITS = {
    *("or", "and", "nor", "not", "no", "but", "by", "if", "than", "least", "most", "either"),
    *("maybe", "perhaps", "except", "negative", "wrong", "false", "pi", "infinity", "mod"),
    *("plus", "minus", "times", "over", "divided", "multiplied", "added", "subtracted", "modulo"),
    *("squared", "cubed", "factorial", "power", "root", "half", "halves", "thirds", "fourths"),
    *("fifths", "tenths", "hundredths", "thousandths", *WORDS_FOR_NUMBERS, *_MULTIPLIERS),
}
_POWER = r"\^\s?(?:-?\d|\{-?\d\})"
# `18 dollars`, `5cm^2`, `12 white eggs`: known units, or words that begin with four letters.
_BARE_UNIT = re.compile(
    rf"(?P<head>.*[\d}})%])"
    rf"(?P<unit>(?:\s?(?:{_BARE})(?![A-Za-z{{])|\s(?!sqrt|frac)[A-Za-z]{{4,}})"
    rf"(?:{_POWER}|[\s./]|[A-Za-z])*)"
)
_IN_TEXT = r"\\text\{[^{}]*\}"
_TEXT_UNIT = re.compile(
    r"(?P<head>.*?[^\s=,+*/<>(\\^-])\s*"
    rf"(?P<unit>(?:{_IN_TEXT}|\\frac\s?\{{\s?{_IN_TEXT}\s?\}}|\\Omega(?![A-Za-z])|\^\\circ\s?[CFK]"
    rf"|\^\\circ\s?{_IN_TEXT}|\\mu\s?{_IN_TEXT})"
    rf"(?:{_IN_TEXT}|\{{\s?{_IN_TEXT}\s?\}}|\\Omega(?![A-Za-z])|\\cdot(?![A-Za-z])|{_POWER}"
    r"|[\s/()])*)"
)
_FLAT = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text|frac)|[{}()*~]|\\cdot(?![A-Za-z])|\^\\circ", " "),
        (r"\\Omega(?![A-Za-z])", "ohm"),
        (r"\\mu(?![A-Za-z])\s*", "u"),
        (r"\N{LATIN CAPITAL LETTER A WITH RING ABOVE}", "angstrom"),
    )
)


class Measured(NamedTuple):
    """Text before a unit, and the unit's effect on it: a factor, or a percent sign."""

    head: str
    factor: int = 1
    is_percent: bool = False


def split_unit(text: str) -> Measured | None:
    """Split an answer from its unit; return None if it does not end in a unit alone."""
    unit = _TEXT_UNIT.fullmatch(text) or _BARE_UNIT.fullmatch(text)
    if unit is None:
        return None
    head, tail = unit["head"].strip(), unit["unit"]
    after = text[len(unit["head"]) :].removeprefix(r"\text{")
    first = re.match(r"[A-Za-z]{2,3}(?![A-Za-z])", after)
    if first and not (first[0] in _SYMBOLS or re.fullmatch(_BARE, first[0])):
        return None  # `5\text{ab}` is a product
    for pattern, replacement in _FLAT:
        tail = pattern.sub(replacement, tail)
    if not re.fullmatch(rf"(?:[A-Za-z\s./]|{_POWER})*", tail):
        return None
    words, factor = re.findall(r"[A-Za-z]+", tail), 1
    while words and words[0].lower() in _MULTIPLIERS:
        factor *= _MULTIPLIERS[words.pop(0).lower()]
    is_percent = bool(words) and words[0].lower() in ("percent", "pct", "percentage")
    if not all(_is_unit(word, head, len(words)) for word in words):
        return None
    return Measured(head, factor, is_percent)


def _is_unit(word: str, head: str, num_words: int) -> bool:
    if len(word) > 1:
        return word.lower() not in _NO_UNITS
    if word == "a":  # 18 eggs a day
        return num_words > 1
    return word in _ONE_LETTER and re.search(r"(?:[\d})%]|\\circ)$", head) is not None
