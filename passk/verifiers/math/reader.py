r"""Read the form of an answer from its LaTeX.

An answer has at most `passk.verifiers.math.text.MAX_ANSWER_CHARS` characters here, and nesting is
followed four levels deep, so reading takes well under a millisecond. `_READERS` are tried in order;
each returns a form, or None. If all return None, the answer is a `Formula`, for computer algebra.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache

from passk.verifiers.math.forms import (
    Assignment,
    Choice,
    Form,
    Formula,
    Number,
    Numeral,
    Ratio,
    Residue,
    Several,
    Words,
    describe,
    fold,
    is_time,
    is_words,
)
from passk.verifiers.math.spelling import closes_at_end, normalise_latex
from passk.verifiers.math.terms import (
    is_name,
    is_quantity,
    read_number,
    read_number_word,
    split_unit,
)

_ALL_TEXT = re.compile(r"[({\s]*\\text\{\s*(?P<words>[^{}]*)\}[)}\s.]*")
_TEXT = re.compile(r"\\text\{\s*([^{}]*?)\s*\}")
_BARE_WORDS = re.compile(r"(?=.*[A-Za-z]{4})[A-Za-z'.-]+(?: [A-Za-z'.-]+)*")
_SETS_IN_WORDS = {
    **dict.fromkeys(("allrealnumbers", "allreals", "realnumbers", "allreal"), r"\mathbb{R}"),
    **dict.fromkeys(("emptyset", "theemptyset", "nullset"), r"\emptyset"),
}
_REALS = Several("(", ")", (Formula(r"-\infty"), Formula(r"\infty")), r"(-\infty,\infty)")
_NUMERAL = re.compile(r"\(?([0-9A-Z]+)\)?_\s?\{?(\d+)\}?")
_CHOICE = re.compile(
    r"(?:\\text\{\s*\(?(?P<in_text>[A-J])[).:]*\s*\}\s*|\((?P<in_brackets>[A-J])\)\s"
    r"|(?P<plain>[A-J])[.)]\s)\s*(?P<value>[^\s+*/=<>^_!-].*)"
)
_RESIDUE = re.compile(
    r"(?:(?P<name>[^=]+?)\s*\\equiv\s*)?(?P<value>-?\d{1,20})\s*\(?\s*"
    r"(?:\\?[pb]?mod(?![a-z])|\\text\{\s*mod\s*\})\s*\{?\s*(?P<modulus>\d{1,20})\s*\}?\s*\)?"
)
_MATRIX = re.compile(
    r"[\[(]?\s*\\begin\{pmatrix\}((?:(?!\\begin).)*?)\\end\{pmatrix\}\s*[\])]?", re.DOTALL
)
_BETWEEN_SQUARE_BRACKETS = re.compile(
    r"(?P<first>[\[\]])(?P<inner>[^\[\]]*[,;][^\[\]]*)(?P<last>[\[\]])"
)
_LESS = {">": "<", r"\ge": r"\le"}
_DESCENDING = re.compile(r"([^<>\\]+)(>|\\ge(?![a-z]))([^<>\\]+)(>|\\ge(?![a-z]))([^<>\\]+)")
_BUILT_SET = re.compile(
    r"\\\{\s*[a-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|\\vert|\||:)\s*(.*)\\\}"
)
_PLUS_MINUS = re.compile(r"\\pm(?![a-z])")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot)(?![a-z])")
_MAX_DEPTH = 4


@lru_cache(maxsize=8192)
def read_answer(text: str) -> Form:
    """Return the form of an answer, whatever its spelling."""
    return read_number(text) or _read(normalise_latex(text), 0)


def reads_as(text: str) -> str:
    """Return one spelling for answers that are surely equal: `1/2` for `0.5`, `x=\\frac{1}{2}`."""
    return describe(read_answer(text))


def split_outside(text: str, separators: str) -> list[str]:
    """Split at separators outside brackets."""
    parts, depth, start = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if char in separators and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _read(text: str, depth: int) -> Form:
    simple = read_number(text) or _numeral(text)
    if simple is not None:
        return simple
    if depth < _MAX_DEPTH:
        for reader in _READERS:
            form = reader(text, depth + 1)
            if form is not None:
                return form
    return Formula(_for_algebra(text))


def _numeral(text: str) -> Numeral | None:
    found = _NUMERAL.fullmatch(_TEXT.sub(r"\1", text))
    return Numeral(found[1], found[2]) if found else None


def _ratio(text: str, depth: int) -> Form | None:
    if ":" not in text:
        return None
    parts = split_outside(text, ":")
    if not 2 <= len(parts) <= 5:
        return None
    numbers = [read_number(part.strip()) for part in parts]
    if all(number is not None and not number.is_percent for number in numbers):
        values = tuple(number.value for number in numbers if number is not None)
        return Ratio(values, is_time(text) and not re.search(r":\s?\d(?!\d)", text), text)
    if any(is_name(part.strip()) for part in parts) or not all(part.strip() for part in parts):
        return None
    if is_time(_TEXT.sub(r" \1", text)):  # 3:45 and p.m. in \text
        return None
    if "=" in text or "," in text:
        return None
    return Several(":", "", tuple(_read(part.strip(), depth) for part in parts), text)


def _choice(text: str, depth: int) -> Form | None:
    found = _CHOICE.fullmatch(text)
    if found is None:
        return None
    letter = found["in_text"] or found["in_brackets"] or found["plain"]
    return Choice(letter.lower(), _read(found["value"], depth), text)


def _residue(text: str, depth: int) -> Form | None:
    found = _RESIDUE.fullmatch(text)
    if (
        found is None
        or int(found["modulus"]) == 0
        or (found["name"] and not is_name(found["name"]))
    ):
        return None
    return Residue(int(found["value"]), int(found["modulus"]), text)


def _words(text: str, depth: int) -> Form | None:
    in_text = _ALL_TEXT.fullmatch(text)
    unwrapped = _TEXT.sub(r" \1", text).strip()
    if in_text:
        inside = in_text["words"].strip()
        if not is_words(inside):  # `\text{x-1}` is mathematics, however it is set
            return _read(inside, depth)
        parts = [part.strip() for part in inside.split(",") if part.strip()]
        if len(parts) > 1:
            elements = tuple(read_number(part) or _words_or_number(part) for part in parts)
            return Several("", "", elements, text)
        return _words_or_number(inside)
    if is_time(unwrapped) or (_BARE_WORDS.fullmatch(text) and is_words(text)):
        return _words_or_number(unwrapped)
    return None


def _words_or_number(text: str) -> Form:
    words = fold(text)
    known = _SETS_IN_WORDS.get(words)
    if known is not None:
        return _named_set(known, 0) or Words(words)
    return read_number_word(text) or Words(words)


def _named_set(text: str, depth: int) -> Form | None:
    if text == r"\emptyset":
        return Words("emptyset")
    return _REALS if text == r"\mathbb{R}" else None


def _without_unit(text: str, depth: int) -> Form | None:
    if text.endswith(r"^\circ") and not _TRIGONOMETRY.search(text):
        return _read(text.removesuffix(r"^\circ").strip(), depth)
    measured = split_unit(text)
    if measured is None:
        return None
    form = _read(f"{measured.head}%" if measured.is_percent else measured.head, depth)
    if measured.factor == 1:
        return form
    return replace(form, value=form.value * measured.factor) if isinstance(form, Number) else None


def _matrix(text: str, depth: int) -> Form | None:
    found = _MATRIX.fullmatch(text)
    if found is None:
        return None
    rows = [row for row in found[1].split(r"\\") if row.strip()]
    cells = [[_read(cell.strip(), depth) for cell in row.split("&")] for row in rows]
    return Several("matrix", "", tuple(Several("row", "", tuple(row), "") for row in cells), text)


def _built_set(text: str, depth: int) -> Form | None:
    found = _BUILT_SET.fullmatch(text)
    return _read(found[1].strip(), depth) if found else None


def _in_brackets(text: str, depth: int) -> Form | None:
    opening = r"\{" if text.startswith(r"\{") else text[:1]
    closing = r"\}" if text.endswith(r"\}") else text[-1:]
    inner = text[len(opening) : len(text) - len(closing)].strip()
    if opening not in ("(", "[", "{", r"\{") or closing not in (")", "]", "}", r"\}"):
        return None
    if not inner or not closes_at_end(text):
        return None
    if opening in ("{", r"\{"):
        return _read(inner, depth) if closing == opening.replace("{", "}") else None
    parts = split_outside(inner, ",;")
    if len(parts) == 1:
        return _read(inner, depth) if (opening, closing) == ("(", ")") else None
    return Several(opening, closing, tuple(_read(part, depth) for part in parts), text)


def _open_interval(text: str, depth: int) -> Form | None:
    """Read `]0, 1]`, the French way to write (0, 1]."""
    found = _BETWEEN_SQUARE_BRACKETS.fullmatch(text)
    if found is None or (found["first"], found["last"]) == ("[", "]"):
        return None
    opening, closing = "[("[found["first"] == "]"], "])"[found["last"] == "["]
    return _in_brackets(f"{opening}{found['inner']}{closing}", depth)


def _union(text: str, depth: int) -> Form | None:
    parts = text.split(r"\cup")
    if len(parts) == 1 or "\\begin" in text or r"\setminus" in text:
        return None
    elements = tuple(_read(_after_in(part.strip()), depth) for part in parts)
    return Several("union", "", elements, _after_in(text))


def _list(text: str, depth: int) -> Form | None:
    if ";" in text and "=" in text:  # p = 5, q = 2; p = 7, q = 2
        groups = [_read(part, depth) for part in split_outside(text, ";")]
        pairs = [named for group in groups if (named := as_named_pair(group)) is not None]
        if len(pairs) == len(groups) > 1:
            return Several("", "", tuple(pairs), text)
    parts = [part for whole in split_outside(text, ",;") for part in _both_signs(whole)]
    if len(parts) == 1:
        return None
    return Several("", "", tuple(_read(part, depth) for part in parts), text)


def _both_signs(text: str) -> Iterable[str]:
    r"""Split `1 \pm x` into two answers."""
    if len(_PLUS_MINUS.findall(text)) != 1 or r"\mp" in text:
        return [text]
    minus, plus = (_PLUS_MINUS.sub(sign, text).strip() for sign in "-+")
    return [plus.removeprefix("+").strip(), minus]


def _membership(text: str, depth: int) -> Form | None:
    inside = _after_in(text)
    return _read(inside, depth) if inside != text else None


def _approximation(text: str, depth: int) -> Form | None:
    r"""Read `\sqrt{2} \approx 1.41` as \sqrt{2}, exactly, and `x \approx 1.41` as 1.41."""
    parts = [part.strip() for part in text.split(r"\approx")]
    if len(parts) == 1 or not parts[-1]:
        return None
    first = next(part for part in parts if part)
    if is_name(first):
        return Assignment(fold(first), _read(parts[1], depth), text)
    return _read(first, depth)


def _equation(text: str, depth: int) -> Form | None:
    parts = split_outside(text, "=")
    if len(parts) == 1 or not all(parts):
        return None
    left, right = parts[0], parts[-1]
    if len(parts) == 2 and is_name(right) and not is_name(left):
        left, right = right, left
    if left.startswith("(") and _is_pair_of_names(left):
        return _named_pair(left, right, depth)
    if is_name(left):
        name = fold(left).removeprefix("frac")  # \\frac{dy}{dx} is dy/dx
        return Assignment(name, _read(right, depth), _for_algebra(text))
    if not re.search(r"(?<!\\)(?<![A-Za-z])[A-Za-z]", re.sub(r"\\text\{[^{}]*\}", "", text)):
        values = [_read(part, depth) for part in parts]  # 0.56 = 56%, 2 + 3 = 5
        return values[-1] if _may_be_one(values) else None
    if is_quantity(left):
        return Assignment(
            left.replace(" ", ""), _read(right, depth), _for_algebra(text), is_name=False
        )
    return None


def _may_be_one(values: list[Form]) -> bool:
    """Return True if all numbers in a chain of equations agree; 56% counts as 0.56 and as 56."""
    sizes = [
        {value.value, value.value / 100} if value.is_percent else {value.value}
        for value in values
        if isinstance(value, Number)
    ]
    return not sizes or bool(set.intersection(*sizes))


def _is_pair_of_names(text: str) -> bool:
    parts = split_outside(text[1:-1], ",")
    return len(parts) > 1 and text.endswith(")") and all(map(is_name, parts))


def _named_pair(left: str, right: str, depth: int) -> Form | None:
    """Read `(x, y) = (3, 2)` as a pair whose elements have names."""
    names, values = split_outside(left[1:-1], ","), _read(right, depth)
    if not isinstance(values, Several) or len(values.elements) != len(names):
        return values if isinstance(values, Several) and values.opening in ("", "union") else None
    elements = (
        Assignment(fold(name), value, f"{name}={value.latex}")
        for name, value in zip(names, values.elements, strict=True)
    )
    return replace(values, elements=tuple(elements))


def as_named_pair(form: Form) -> Several | None:
    """Convert equations such as `y = 2, x = 3` to a pair in the order of names; else None."""
    if not (isinstance(form, Several) and form.opening == "" and len(form.elements) > 1):
        return None
    named = {e.name: e for e in form.elements if isinstance(e, Assignment) and e.is_name}
    if len(named) < len(form.elements):
        return None
    return Several("(", ")", tuple(named[name] for name in sorted(named)), form.latex)


def _point(text: str, depth: int) -> Form | None:
    """Read `P(3, 2)` as the point (3, 2) with a letter before it."""
    if not re.fullmatch(r"[A-Z]\s?\([^()]*,[^()]*\)", text):
        return None
    form = _in_brackets(text[1:].strip(), depth)
    numbers = isinstance(form, Several) and all(isinstance(e, Number) for e in form.elements)
    return form if numbers else None


_READERS: tuple[Callable[[str, int], Form | None], ...] = (
    _ratio,
    _residue,
    _choice,
    _words,
    _named_set,
    _without_unit,
    _matrix,
    _built_set,
    _in_brackets,
    _open_interval,
    _union,
    _list,
    _membership,
    _approximation,
    _equation,
    _point,
)


def _after_in(text: str) -> str:
    return re.sub(r"^[A-Za-z]\s*\\in(?![A-Za-z])\s*", "", text)


# Adjacent numbers are a product, unless a fraction of integers follows an integer.
_PRODUCTS = (
    (re.compile(r"((?<![\d^_.])\d+|\))\s*(?=\()"), r"\1\\cdot "),
    (re.compile(r"(?<=\d)\s*(?=\\frac\s?\{(?!\s?\d+\s?\}\s?\{\s?\d+\s?\}))"), r"\\cdot "),
)


def _for_algebra(text: str) -> str:
    """Rewrite or remove words, separators and signs that computer algebra reads wrongly."""
    if chain := _DESCENDING.fullmatch(text):
        low, first, middle, second, high = chain.group(5, 4, 3, 2, 1)
        text = " ".join((low, _LESS[first], middle, _LESS[second], high))
    degrees = r"\\cdot\\frac{\\pi}{180}" if _TRIGONOMETRY.search(text) else ""
    text = re.sub(r"\^\\circ", degrees, text)
    text = _TEXT.sub(r"\1", text).rstrip("% ")
    text = re.sub(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?![\d,])", lambda m: m[0].replace(",", ""), text)
    for pattern, replacement in _PRODUCTS:
        text = pattern.sub(replacement, text)
    return as_fractions(text).strip()


def as_fractions(text: str) -> str:
    """Write decimals as fractions, since math-verify rounds them: 0.0000001 would equal 0."""
    return re.sub(r"(?<![\w.])(\d*)\.(\d+)", _as_fraction, text)


def _as_fraction(decimal: re.Match[str]) -> str:
    whole, digits = decimal.groups()
    return rf"(\frac{{{int(whole + digits)}}}{{{10 ** len(digits)}}})"
