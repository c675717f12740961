"""Split units off an answer: `5 cm`, `18 white eggs`, `3 million`, `20 percent`, `8 N m`."""

import re
from typing import NamedTuple

from passk.verifiers.math.forms import WORDS_FOR_NUMBERS

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
