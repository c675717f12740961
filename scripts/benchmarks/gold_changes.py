r"""Changes of a gold answer's LaTeX: some keep what it says by construction, others may not.

Each change takes a generator of random numbers and the text, and gives another text, or None where
it does not apply.
"""

import random
import re
from collections.abc import Callable
from fractions import Fraction

Change = Callable[[random.Random, str], str | None]

_INTEGER = re.compile(r"-?\d+")
_LETTERS = re.compile(r"(?<![A-Za-z\\{_])[a-hj-z](?![A-Za-z}])")
_SIMPLE_FRACTION = re.compile(r"\\frac\{(\d+)\}\{(\d+)\}")
_WORDS = re.compile(r"\\(?:text|mbox|textbf|mathrm|begin|end|operatorname)\b")


def _one(draw: random.Random, pattern: str, text: str, new: Callable[[re.Match[str]], str]) -> str:
    """Replace one random match of a pattern."""
    found = draw.choice([*re.finditer(pattern, text)])
    return text[: found.start()] + new(found) + text[found.end() :]


def _applies(pattern: str, change: Change) -> Change:
    def maybe(draw: random.Random, text: str) -> str | None:
        return change(draw, text) if re.search(pattern, text) else None

    return maybe


def _other_digit(draw: random.Random, text: str) -> str:
    return _one(draw, r"\d", text, lambda m: draw.choice("123456789".replace(m[0], "")))


def _swapped_elements(draw: random.Random, text: str) -> str | None:
    found = re.fullmatch(r"(\\left)?([(\[])([^,(){}]*),([^,(){}]*?)(\\right)?([)\]])", text)
    if found is None:
        return None
    return f"{found[1] or ''}{found[2]}{found[4]},{found[3]}{found[5] or ''}{found[6]}"


# What the result says is proved to differ by `numeric_latex.differ`, or it is not used.
PERTURBATIONS: dict[str, Change] = {
    "digit": _applies(r"\d", _other_digit),
    "digit added": _applies(
        r"\d", lambda draw, t: _one(draw, r"\d+", t, lambda m: m[0] + draw.choice("0123456789"))
    ),
    "digit lost": _applies(
        r"\d{2}", lambda draw, t: _one(draw, r"\d{2,}", t, lambda m: m[0][:-1] or "0")
    ),
    "sign": lambda draw, t: t[1:].strip() if t.startswith("-") else f"-{t}",
    "plus and minus": _applies(
        r"(?<=[\w}) ])[-+]",
        lambda draw, t: _one(draw, r"(?<=[\w}) ])[-+]", t, lambda m: "-" if m[0] == "+" else "+"),
    ),
    "one more": lambda draw, t: (
        str(int(t) + draw.choice((-1, 1))) if _INTEGER.fullmatch(t) else None
    ),
    "ten times": lambda draw, t: f"{t}0" if _INTEGER.fullmatch(t) and t != "0" else None,
    "half more": lambda draw, t: f"{t}.5" if _INTEGER.fullmatch(t) else None,
    "exponent": _applies(
        r"\^",
        lambda draw, t: (
            _one(draw, r"\^\{?(\d)", t, lambda m: m[0][:-1] + str(int(m[1]) + 1))
            if re.search(r"\^\{?\d", t)
            else None
        ),
    ),
    "no exponent": _applies(r"\^\d", lambda draw, t: _one(draw, r"\^\d", t, lambda m: "")),
    "letter": lambda draw, t: (
        None
        if _WORDS.search(t) or not _LETTERS.search(t)
        else _one(draw, _LETTERS.pattern, t, lambda m: draw.choice("abcnpqxyz".replace(m[0], "")))
    ),
    "fraction upside down": _applies(
        _SIMPLE_FRACTION.pattern,
        lambda draw, t: _one(
            draw, _SIMPLE_FRACTION.pattern, t, lambda m: rf"\frac{{{m[2]}}}{{{m[1]}}}"
        ),
    ),
    "no root": _applies(
        r"\\sqrt\{\d+\}",
        lambda draw, t: _one(draw, r"\\sqrt\{(\d+)\}", t, lambda m: f"({m[1]})"),
    ),
    "no pi": _applies(
        r"\\pi(?![A-Za-z])",
        lambda draw, t: (
            re.sub(r"\\pi(?![A-Za-z])", "1", t)
            if t in (r"\pi", r"-\pi")
            else re.sub(r"\\pi(?![A-Za-z])", "", t)
        ),
    ),
    "order of a pair": _swapped_elements,
    "last element lost": lambda draw, t: (
        t.rpartition(",")[0] or None if "," in t and t[0] not in "([\\{" else None
    ),
    "one more element": lambda draw, t: (
        f"{t}, {draw.randint(50, 99)}" if "," in t and t[0] not in "([\\{" else None
    ),
    "zero for the answer": lambda draw, t: "0",
    "one for the answer": lambda draw, t: "1",
}


def _separated(draw: random.Random, text: str, separator: str) -> str | None:
    """A whole number of four digits or more with a separator of thousands."""
    plain = text.replace(",", "").replace(r"\!", "")
    is_one = re.fullmatch(r"\d+|\d{1,3}(?:,(?:\\!)?\d{3})+", text)
    if not is_one or not 4 <= len(plain) <= 15:
        return None
    return f"{int(plain):,}".replace(",", separator)


def _as_division(draw: random.Random, text: str) -> str | None:
    return (m := _SIMPLE_FRACTION.fullmatch(text)) and f"{m[1]}/{m[2]}"


def _as_decimal(draw: random.Random, text: str) -> str | None:
    found = _SIMPLE_FRACTION.fullmatch(text)
    if found is None:
        return None
    exact = Fraction(int(found[1]), int(found[2]))
    decimal = f"{float(exact):.8f}".rstrip("0")
    return decimal if Fraction(decimal) == exact else None


def _scientific(draw: random.Random, text: str, form: str) -> str | None:
    if not re.fullmatch(r"[1-9]\d{2,12}", text):
        return None
    digits = text.rstrip("0")
    mantissa = f"{digits[0]}.{digits[1:]}" if len(digits) > 1 else digits
    return form.format(mantissa, len(text) - 1)


def _commuted(draw: random.Random, text: str) -> str | None:
    """`b + a` for `a + b` where both are plain terms."""
    if "=" in text or "," in text or _WORDS.search(text):
        return None
    terms = re.fullmatch(r"((?:[^-+(){}]|\{[^{}+-]*\})+)([-+])((?:[^-+(){}]|\{[^{}+-]*\})+)", text)
    if terms is None or not terms[1].strip() or not terms[3].strip():
        return None
    if r"\pm" in text or r"\circ" in text or r"\in" in text or "<" in text:
        return None
    first, last = terms[1].strip(), terms[3].strip()
    return f"{last} + {first}" if terms[2] == "+" else f"-{last} + {first}"


def _reordered(draw: random.Random, text: str) -> str | None:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) < 2 or not all(re.fullmatch(r"-?\d+(?:\.\d+)?|-?\w", part) for part in parts):
        return None
    if all(re.fullmatch(r"\d{3}", part) for part in parts[1:]):
        return None
    return ", ".join(parts[::-1])


def _spaced(draw: random.Random, text: str) -> str | None:
    """Blanks around signs outside words; a sign after another, or at the start, stays."""
    if _WORDS.search(text) or not re.search(r"(?<=[\w})])[-+=]", text):
        return None
    return re.sub(r"(?<=[\w})])([-+=])(?=[\w({\\])", r" \1 ", text)


def _is_scalar(text: str) -> bool:
    return not re.search(r"[=,<>]|\\(?:text|mbox|in|le|ge|pm|cup|begin|infty|mathrm|ne|quad)", text)


def _in_unicode(draw: random.Random, text: str) -> str | None:
    signs = {r"\pi": "π", r"\infty": "∞", r"\cup": "\N{UNION}", r"\le": "≤", r"\cdot": "·"}
    new = text.replace("^2", "²").replace("^3", "³") if not re.search(r"\^[23]\d", text) else text
    for command, sign in signs.items():
        new = re.sub(re.escape(command) + r"(?![A-Za-z])\s?", sign, new)
    new = new.replace("-", "\N{MINUS SIGN}") if "begin" not in text and "text" not in text else new
    return new if new != text else None


def _prefixed(name: str) -> Change:
    def change(draw: random.Random, text: str) -> str | None:
        return f"{name} = {text}" if _is_scalar(text) and name not in text else None

    return change


def _swap(pattern: str, replacement: str, unless: str = "(?!)") -> Change:
    """Replace all matches, None where there are none."""

    def change(draw: random.Random, text: str) -> str | None:
        if re.search(unless, text) or not re.search(pattern, text):
            return None
        return re.sub(pattern, replacement, text)

    return change


REWRITINGS: dict[str, Change] = {
    "itself": lambda draw, t: t,
    "dfrac": _swap(r"\\frac", r"\\dfrac"),
    "tfrac": _swap(r"\\frac", r"\\tfrac"),
    "left and right": _swap(r"\(([^()]*)\)", r"\\left(\1\\right)", r"\\left|\\right|[\[\]]"),
    "big brackets": _swap(r"\(([^()]*)\)", r"\\bigl(\1\\bigr)", r"\\left|\\right|[\[\]]"),
    "blanks around signs": _spaced,
    "thin space after a comma": _swap(r"(?<!\d),\s?(?=[^\\])|,\s", r",\\, ", _WORDS.pattern),
    "display style": lambda draw, t: rf"\displaystyle {t}",
    "braces": lambda draw, t: f"{{{t}}}",
    "dollars inside": lambda draw, t: f"${t}$" if "$" not in t else None,
    "spaces inside": lambda draw, t: rf"\,{t}\;",
    "full stop": lambda draw, t: f"{t}.",
    "x = ": _prefixed("x"),
    "named": _prefixed("A"),
    "braces around exponents": _swap(r"\^(\d)(?!\d)", r"^{\1}"),
    "no braces around exponents": _swap(r"\^\{(\d)\}(?!\d)", r"^\1"),
    "times": _swap(r"\\cdot(?![A-Za-z])", r"\\times"),
    "unicode": _in_unicode,
    "comma": lambda draw, t: _separated(draw, t, ","),
    "comma in braces": lambda draw, t: _separated(draw, t, "{,}"),
    "comma and back": lambda draw, t: _separated(draw, t, r",\!"),
    "thin space": lambda draw, t: _separated(draw, t, r"\,"),
    "backslash space": lambda draw, t: _separated(draw, t, r"\ "),
    "space for thousands": lambda draw, t: _separated(draw, t, " "),
    "narrow space": lambda draw, t: _separated(draw, t, "\u202f"),
    "no separator": lambda draw, t: (
        t.replace(",", "").replace(r"\!", "").replace(" ", "")
        if re.fullmatch(r"\d{1,3}(?:,(?:\\!)?\s?\d{3})+", t)
        else None
    ),
    "decimals of money": lambda draw, t: f"{t}.00" if _INTEGER.fullmatch(t) else None,
    "dollar sign": lambda draw, t: rf"\${t}" if re.fullmatch(r"\d+", t) else None,
    "unit in words": lambda draw, t: (
        rf"{t} \text{{ {draw.choice(('dollars', 'cm', 'units', 'hours'))}}}"
        if re.fullmatch(r"\d+", t)
        else None
    ),
    "noun": lambda draw, t: (
        f"{t} {draw.choice(('apples', 'students', 'miles', 'eggs'))}"
        if re.fullmatch(r"\d+", t)
        else None
    ),
    "division": _as_division,
    "decimal": _as_decimal,
    "times a power of ten": lambda draw, t: _scientific(draw, t, r"{} \times 10^{{{}}}"),
    "dot a power of ten": lambda draw, t: _scientific(draw, t, r"{}\cdot 10^{{{}}}"),
    "e-notation": lambda draw, t: _scientific(draw, t, "{}e{}"),
    "commuted sum": _commuted,
    "list in another order": _reordered,
    "list with and": lambda draw, t: (
        " and ".join(t.rsplit(", ", 1)) if _reordered(draw, t) else None
    ),
    "root as a power": _swap(
        r"\\sqrt\{(\d+)\}", r"\1^{1/2}", r"\\frac|\^|\d\\sqrt|[A-Za-z]\\sqrt|\)\\sqrt"
    ),
    "bold": lambda draw, t: rf"\mathbf{{{t}}}" if re.fullmatch(r"-?[\d.]+", t) else None,
    "colour": lambda draw, t: rf"\color{{red}}{{{t}}}" if _is_scalar(t) else None,
    "parentheses": lambda draw, t: f"({t})" if _is_scalar(t) and t[0] != "(" else None,
    "degrees": _swap(r"\^\\circ|\^\{\\circ\}", r"^{\\circ}", r"\\(?:sin|cos|tan)"),
    "other matrix": _swap(r"\{pmatrix\}", "{bmatrix}"),
}

# A completion around an answer.
PROSE: dict[str, str] = {
    "in a formula": "So we get $$\\boxed{{{}}}$$ as the final answer.",
    "in brackets": "Hence\n\\[\n\\boxed{{{}}}\n\\]\nThis completes the solution.",
    "bold": "**Final Answer:** $\\boxed{{{}}}$",
    "a heading": "#### Final Answer\n\nThe answer is $\\boxed{{{}}}$.",
    "after another": "At first it was $\\boxed{{17}}$, but that is not so. It is $\\boxed{{{}}}$.",
    "twice": "The answer is $\\boxed{{{0}}}$.\n\nFinal answer: $\\boxed{{{0}}}$",
    "thought": "<think>Try \\boxed{{3}}.</think> The result is \\(\\boxed{{{}}}\\).",
}
