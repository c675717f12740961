"""Numbers and digits as a person writes them: `14` for 14.0, `0.00001` for 1e-05, ASCII digits."""

import re
import unicodedata
from decimal import Decimal

MOST_DIGITS = 10_000  # of a number: 1e999999999 would be written with as many zeros

# A float as Python and pandas write it, which nobody does by hand: 1e-05, -2.5e+16.
_PYTHON_EXPONENT = re.compile(r"-?\d(?:\.\d+)?e[+-]\d{2,3}")


def plain_number(number: int | Decimal) -> str | None:
    """Return a finite number in decimal digits, without exponent or zeros that say nothing.

    None where it is not finite, or would need more than `MOST_DIGITS` digits.

    Example:
        plain_number(Decimal("1.50e-5"))  # "0.000015"
    """
    value = Decimal(number)
    if not value.is_finite():
        return None
    exponent = value.as_tuple().exponent
    assert isinstance(exponent, int)
    if max(abs(value.adjusted()), abs(exponent)) >= MOST_DIGITS:
        return None
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def plain_text(text: str) -> str:
    """Return a text with ASCII digits and minus signs, and without characters that nobody sees.

    Digits of every script count, such as those of Arabic and Devanagari.
    """
    if text.isascii():
        return text
    return "".join(map(_plain_character, text))


def plain_answer(answer: str) -> str:
    """Return an answer as people write it: `plain_text`, and no exponent that a program wrote."""
    answer = plain_text(answer)
    if not _PYTHON_EXPONENT.fullmatch(answer.strip()):
        return answer
    return plain_number(Decimal(answer.strip())) or answer


def _plain_character(character: str) -> str:
    if character == "\u2212":
        return "-"
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    return "" if kind == "Cf" else character  # direction marks, joiners, byte order marks
