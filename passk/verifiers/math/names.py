r"""Classify the left side of an equation as a name (`x`, `f(3)`, `\frac{dy}{dx}`) or a quantity.

`x = 5` means 5, and so does `a + b = 5`, which no single unknown solves. `x + 1 = 5` means 4.
"""

import re

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
