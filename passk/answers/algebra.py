r"""Whether two LaTeX formulas are equal, by math-verify, with guards where it is known to err.

Nothing here is bounded in time or memory: it runs in `passk.answers.worker` only.
"""

import random
from functools import lru_cache
from typing import Any

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Expr, Pow

# Without its removal of units, which takes the last letter of `2c` or `a + b + c` for one.
_SPELLINGS = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
)
_LATEX = (LatexExtractionConfig(boxed_match_priority=0, normalization_config=_SPELLINGS),)
_NUM_POINTS = 8
_RELATIVE_ERROR = 1e-12


class GoldUnparsed(Exception):
    """A formula of the gold answer cannot be read."""


def same_formula(gold: str, answer: str) -> bool:
    """Whether two formulas are equal; one of an answer that cannot be read equals nothing.

    Raises GoldUnparsed when the gold one cannot be read.
    """
    gold_read = read_formula(gold)
    if gold_read is None:
        raise GoldUnparsed(gold)
    answer_read = read_formula(answer)
    if answer_read is None:
        return False
    if _differ_in_value(gold_read, answer_read):
        return False
    # No timeout: math-verify's is an alarm, and the process that runs this is killed instead.
    same = verify(gold_read, answer_read, allow_set_relation_comp=True, timeout_seconds=None)
    return bool(same) or _same_over_the_reals(gold_read, answer_read)


@lru_cache(maxsize=4096)
def read_formula(latex: str) -> Any:
    """What math-verify makes of a formula, None where it makes nothing of it."""
    text = rf"\boxed{{{latex}}}"
    found = parse(text, _LATEX, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def _differ_in_value(gold: Any, answer: Any) -> bool:
    """Two numbers that differ, which spares the search for a proof that they do not.

    math-verify calls numbers equal whose difference is small; 2^{-100} is not 2^{-99}.
    """
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    if gold.free_symbols or answer.free_symbols:
        return False
    values = [expression.doit().evalf(30) for expression in (gold, answer)]
    if not all(value.is_number and value.is_finite for value in values):
        return False
    size = max(abs(value) for value in values)
    return bool(size > 0 and abs(values[0] - values[1]) > _RELATIVE_ERROR * size)


def _same_over_the_reals(gold: Any, answer: Any) -> bool:
    r"""Equal where real: \sqrt{1/n} and 1/\sqrt{n}, which differ by a sign where neither is.

    Equal at random points; where both are not real a point says nothing, and two must say
    something. Only tried for roots, where math-verify gives up.
    """
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if not symbols or gold.free_symbols != answer.free_symbols:
        return False
    if not any(power.exp.is_Rational and not power.exp.is_Integer for power in gold.atoms(Pow)):
        return False
    draw = random.Random(0)
    num_equal = 0
    for _ in range(_NUM_POINTS):
        point = {symbol: draw.choice((-1, 1, 1)) * draw.uniform(0.1, 3) for symbol in symbols}
        values = [expression.subs(point).doit().evalf(20) for expression in (gold, answer)]
        if not all(value.is_number and value.is_finite for value in values):
            return False
        is_real = [abs(value.as_real_imag()[1]) < _RELATIVE_ERROR for value in values]
        if is_real[0] != is_real[1]:
            return False
        if is_real[0]:
            if abs(values[0] - values[1]) > 1e-9 * max(abs(value) for value in values):
                return False
            num_equal += 1
    return num_equal >= 2
