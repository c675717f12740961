r"""Judge answers with computer algebra: by our own reading first, then by math-verify's.

Nothing here is bounded in time or memory: it runs in `passk.verifiers.math.worker` only. As in
`passk.verifiers.math.equality`, a verdict is True, False or, if unsure, None.
"""

import random
import re
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from latex2sympy2_extended.latex2sympy2 import latex2sympy, normalize_latex
from math_verify import LatexExtractionConfig, parse, verify
from sympy import (
    Abs,
    Basic,
    Derivative,
    Eq,
    Expr,
    Float,
    I,
    MatrixBase,
    MatrixExpr,
    Max,
    Min,
    Piecewise,
    Poly,
    PolynomialError,
    Rational,
    ceiling,
    floor,
    sign,
)

from passk.verifiers.math.equality import same_answer
from passk.verifiers.math.forms import Assignment, Choice, Form, Formula, Several
from passk.verifiers.math.reader import as_fractions, read_answer
from passk.verifiers.math.spelling import normalise_latex

# Without its removal of units, which takes the last letter of `2c` or `a + b + c` for a unit.
_SPELLINGS = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
)
_AS_TRAINERS_DO = (LatexExtractionConfig(),)
_IMAGINARY = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z])|\\(?:det|arg|Re|Im)(?![A-Za-z])|\\imath")
# Numbers side by side, which the parser adds up.
_SIDE_BY_SIDE = re.compile(r"(?<![_^\d])\d+\s+\d")
_LETTER = re.compile(r"(?<![A-Za-z\\])[A-Za-z]+")
_MATRICES = (MatrixBase, MatrixExpr)
_IN_PIECES = (Abs, Max, Min, Piecewise, ceiling, floor, sign)
_NUM_POINTS = 6
_NUM_FAR_POINTS = 40
_ENOUGH = 3  # points at which two expressions agree
_DIGITS = 30
_RELATIVE_ERROR = 1e-15


class GoldUnparsed(Exception):
    """The gold answer cannot be read."""


def same_by_algebra(gold: str, answer: str) -> bool:
    """Return True if an answer means the same as the gold answer; False if that is undecided.

    Raises GoldUnparsed if the gold answer cannot be read.
    """
    same = same_answer(gold, answer, same_formula)
    if same is None:
        same = _same_as_trainers_ask(gold, answer)
        if not same and not _is_readable(read_answer(gold)):
            raise GoldUnparsed(gold)
    return same


def same_formula(gold: str, answer: str) -> bool | None:
    """Return True if two formulas are equal; None if one is unreadable or it is undecided."""
    is_real = not (_IMAGINARY.search(gold) or _IMAGINARY.search(answer))
    gold_read = read_formula(gold, is_real)
    answer_read = read_formula(answer, is_real)
    if gold_read is None or answer_read is None:
        return None
    return _same_expression(gold_read, answer_read)


@lru_cache(maxsize=4096)
def read_formula(latex: str, is_real: bool = True) -> Any:
    """Parse a formula with math-verify's parser; return None if that fails."""
    if _SIDE_BY_SIDE.search(latex):
        return None
    spelled = normalize_latex(_IMAGINARY.sub(r" \g<0> ", latex), _SPELLINGS)
    try:
        read = latex2sympy(
            spelled, is_real=is_real, convert_degrees=False, normalization_config=None
        )
        if not is_real and isinstance(read, Basic | MatrixBase):
            read = read.subs({symbol: I for symbol in read.free_symbols if symbol.name == "i"})
    except MemoryError:
        raise
    except Exception:  # the parser may raise anything for a model's text
        return None
    return read


def _same_expression(gold: Any, answer: Any) -> bool | None:
    if isinstance(gold, _MATRICES) != isinstance(answer, _MATRICES):
        return False  # a determinant is not a matrix
    same = None
    if isinstance(gold, Eq) and isinstance(answer, Eq):
        same = _same_equation(gold, answer)
    elif isinstance(gold, Eq) or isinstance(answer, Eq):
        return False
    elif isinstance(gold, Expr) and isinstance(answer, Expr) and not isinstance(gold, _MATRICES):
        same = _same_in_value(gold, answer)
    # No timeout: math-verify's is an alarm, and the process that runs this is killed instead.
    if same is None and verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None):
        return True
    return same


def _same_in_value(gold: Expr, answer: Expr) -> bool | None:
    r"""Return True if two expressions agree at random points; None if that decides nothing.

    math-verify accepts numbers with a small difference, though 2^{-100} is not 2^{-99}. A point
    where one side is not real does not count: \sqrt{1/n} and 1/\sqrt{n} are equal where both are
    real. Piecewise expressions must agree far out too: |x-39|+44 and |x-44|+39 agree below 39.
    """
    gold, answer = gold.doit(), answer.doit()
    if gold == answer or (gold.is_Rational and answer.is_Rational):
        return bool(gold == answer)
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    is_real = bool(symbols) and all(symbol.is_real for symbol in symbols)
    points, enough = _points(symbols), _ENOUGH
    if symbols and (gold.has(*_IN_PIECES) or answer.has(*_IN_PIECES)):
        points, enough = [*points, *_far_points(symbols)], _NUM_FAR_POINTS
    num_equal = 0
    for point in points:
        one, other = _value_at(gold, point), _value_at(answer, point)
        if one is None or other is None:
            return None
        if is_real and not (_is_real(one) and _is_real(other)):
            continue
        if abs(one - other) > _RELATIVE_ERROR * max(abs(one), abs(other)):
            return False
        num_equal += 1
        if num_equal == enough or not symbols:
            return True
    return None


def _same_equation(gold: Eq, answer: Eq) -> bool | None:
    """Return True if two equations have the same solutions; None if values cannot show that."""
    if gold.free_symbols != answer.free_symbols:
        return False
    sides = (gold.lhs, gold.rhs, answer.lhs, answer.rhs)
    if not gold.free_symbols or not all(isinstance(side, Expr) for side in sides):
        return None
    if gold.atoms(Derivative) != answer.atoms(Derivative):
        return False
    one, other = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    symbols = sorted(gold.free_symbols, key=str)
    ratios = []
    for point in _points(symbols):
        values = _value_at(one, point), _value_at(other, point)
        if not values[0] or not values[1]:
            return None
        ratios.append(values[0] / values[1])
    if all(abs(ratio - ratios[0]) <= _RELATIVE_ERROR * abs(ratio) for ratio in ratios):
        return True
    unknown, *others = symbols
    known = {symbol: value for symbol, value in _points(symbols)[0].items() if symbol in others}
    try:
        roots = [Poly(side.subs(known), unknown).nroots(n=_DIGITS) for side in (one, other)]
    except (PolynomialError, ValueError):
        return None
    return _have_same_elements(*roots)


def _have_same_elements(gold: list[Expr], answer: list[Expr]) -> bool:
    return all(
        any(abs(root - other) < _RELATIVE_ERROR * (1 + abs(root)) for other in others)
        for roots, others in ((gold, answer), (answer, gold))
        for root in roots
    )


def _points(symbols: list[Any]) -> list[dict[Any, Expr]]:
    """Draw random points, the same for the same symbols; complex for symbols not known as real."""
    draw = random.Random(0)

    def coordinate(symbol: Any) -> Expr:
        value = Rational(draw.choice((-1, 1, 1)) * draw.randint(100, 3000), 1009)
        return value if symbol.is_real else value + I * Rational(draw.randint(100, 3000), 1013)

    return [{symbol: coordinate(symbol) for symbol in symbols} for _ in range(_NUM_POINTS)]


def _far_points(symbols: list[Any]) -> list[dict[Any, Expr]]:
    """Draw random real points of all sizes from a thousandth to a million."""
    draw = random.Random(1)
    return [
        {
            symbol: Rational(draw.choice((-1, 1)) * round(10 ** draw.uniform(3, 12)), 10**6)
            for symbol in symbols
        }
        for _ in range(_NUM_FAR_POINTS)
    ]


def _value_at(expression: Expr, point: dict[Any, Expr]) -> Any:
    """Evaluate to a finite number; None if there is none, or if only rounding (of a 0) is left."""
    value = expression.evalf(_DIGITS, subs=point) if point else expression.evalf(_DIGITS)
    is_rounding = any(part._prec == 1 for part in value.atoms(Float))
    return value if value.is_number and value.is_finite and not is_rounding else None


def _is_real(value: Any) -> bool:
    return bool(abs(value.as_real_imag()[1]) <= _RELATIVE_ERROR * abs(value))


def _same_as_trainers_ask(gold: str, answer: str) -> bool:
    """Return True if math-verify, called as trainers call it, accepts a pair, without known errors.

    It takes the last letter for a unit and one side of an equation for the whole. So no letter may
    be lost, and both answers must be equations, or neither (`x = 5` counts as an assignment).
    """
    forms = read_answer(gold), read_answer(answer)
    equations = [isinstance(form, Formula) and form.is_equation for form in forms]
    if equations[0] != equations[1]:
        return False
    read = []
    for text in (gold, answer):
        found = [one for one in _parse(text) if isinstance(one, Basic | MatrixBase)]
        if not found or _loses_a_letter(text, found[0]):
            return False
        read.append(found[0])
    return _same_expression(*read) is True


def _parse(text: str) -> list[Any]:
    if _SIDE_BY_SIDE.search(text):
        return []
    boxed = rf"\boxed{{{as_fractions(text)}}}"
    return list(parse(boxed, _AS_TRAINERS_DO, fallback_mode="no_fallback", parsing_timeout=None))


def _loses_a_letter(text: str, read: Any) -> bool:
    kept = "".join(map(str, read.free_symbols)) + str(read)
    written = normalise_latex(text).replace(r"\text", "")
    return any(letter not in kept for letters in _LETTER.findall(written) for letter in letters)


def _is_readable(form: Form) -> bool:
    match form:
        case Several(elements=elements):
            return all(map(_is_readable, elements))
        case Assignment(value=value) | Choice(value=value):
            return _is_readable(value)
        case Formula(latex):
            return read_formula(latex) is not None
    return True
