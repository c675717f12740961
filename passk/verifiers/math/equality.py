"""Compare two answers by rules for each form; a function of the caller judges formulas.

Every rule returns True or False if it is certain, and None if it is unsure. Only unsure cases may
be judged elsewhere.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction

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
    is_words,
)
from passk.verifiers.math.reader import as_named_pair, read_answer
from passk.verifiers.math.spelling import normalise_latex

MAX_ELEMENTS = 50
SameFormula = Callable[[str, str], bool | None]  # of gold and answer; None: unknown
_RELATIONS = ("<", ">", r"\le", r"\ge", r"\ne")


def same_answer(gold: str, answer: str, same_formula: SameFormula) -> bool | None:
    """Return True if an answer, as written, means the same as the gold answer.

    `same_formula` judges pairs of LaTeX formulas. Return None if the result depends on it and it is
    unsure.
    """
    gold_form, answer_form = read_answer(gold), read_answer(answer)
    # 100,200 is one number, unless the other side is a list.
    if isinstance(gold_form, Several) and isinstance(answer_form, Number):
        answer_form = read_answer(answer.replace(",", ", "))
    elif isinstance(gold_form, Number) and isinstance(answer_form, Several):
        gold_form = read_answer(gold.replace(",", ", "))
    same = _same(gold_form, answer_form, same_formula)
    if same or (isinstance(gold_form, Number) and isinstance(answer_form, Number)):
        return same
    return same_text(normalise_latex(gold), normalise_latex(answer)) or same


def same_text(gold: str, answer: str) -> bool:
    """Return True if two texts differ only in blanks between signs."""
    return gold == answer or gold.split() == answer.split() or _closed(gold) == _closed(answer)


def _closed(text: str) -> str:
    """Remove blanks, except those that separate two numbers or two words."""
    written = ""
    for part in text.split():
        needs_blank = written and written[-1].isalnum() and part[0].isalnum()
        written += f" {part}" if needs_blank else part
    return written


def _same(gold: Form, answer: Form, same_formula: SameFormula) -> bool | None:
    match gold, answer:
        case (Choice(), _) | (_, Choice()):
            return _same_choice(gold, answer, same_formula)
        case (Assignment(), _) | (_, Assignment()):
            return _same_assigned(gold, answer, same_formula)
        case (Several(), _) | (_, Several()):
            return _same_several(gold, answer, same_formula)
        case Number(), Number():
            return _same_number(gold, answer)
        case (Residue() | Ratio(), _) | (_, Residue() | Ratio()):
            return _same_residue_or_ratio(gold, answer)
        case (Words(), _) | (_, Words()):
            return _same_words(gold, answer)
        case (Numeral(), Numeral()):
            return gold == answer
        case (Numeral(digits), other) | (other, Numeral(digits)):
            return digits == describe(other)  # the base may be left out if the question names it
    if _is_equation(gold) != _is_equation(answer):
        return False  # one side of an equation is not an equation
    same = same_formula(gold.latex, answer.latex)
    return True if same is None and gold.latex == answer.latex else same


def _is_equation(form: Form) -> bool:
    return isinstance(form, Formula) and form.is_equation


def _same_choice(gold: Form, answer: Form, same_formula: SameFormula) -> bool | None:
    """Compare a choice: `(B) 5` matches B and 5; against another choice both must agree."""
    letter, value = _letter_and_value(gold)
    other_letter, other_value = _letter_and_value(answer)
    if letter and other_letter and letter != other_letter:
        return False
    if letter and other_letter and not (isinstance(gold, Choice) and isinstance(answer, Choice)):
        return True
    return _same(value, other_value, same_formula)


def _letter_and_value(form: Form) -> tuple[str, Form]:
    if isinstance(form, Choice):
        return form.letter, form.value
    letter = fold(form.latex)
    return (letter if letter in tuple("abcdefghij") else ""), form


def _same_residue_or_ratio(gold: Form, answer: Form) -> bool:
    """Compare residues and ratios.

    7 matches 7 (mod 9), since the question names the modulus, and 3/10 matches 3:10.
    """
    match gold, answer:
        case Residue(value, modulus), Residue(other, other_modulus):
            return modulus == other_modulus and (value - other) % modulus == 0
        case (Residue(value), Number(other_value)) | (Number(other_value), Residue(value)):
            return other_value == value
        case Ratio(parts, is_time), Ratio(other_parts, is_other_time):
            if is_time or is_other_time or len(parts) != len(other_parts):
                return parts == other_parts
            return all(
                p * other_parts[0] == q * parts[0] for p, q in zip(parts, other_parts, strict=True)
            )
        case (Ratio((over, under)), Number(value)) | (Number(value), Ratio((over, under))):
            return under not in (0, 1) and value == Fraction(over, under)
    return fold(gold.latex) == fold(answer.latex)


def _same_words(gold: Form, answer: Form) -> bool:
    """Compare words by `fold`, which drops every sign; so both sides must read as words."""
    are_words = all(isinstance(form, Words) or is_words(form.latex) for form in (gold, answer))
    return are_words and fold(gold.latex) == fold(answer.latex)


def _same_assigned(gold: Form, answer: Form, same_formula: SameFormula) -> bool | None:
    """Compare assignments: `x = 5` matches `5`, and `5` matches `x = 5`, but not `y = 5`.

    The answer `a + b = 5` matches a gold answer of 5; a gold answer of `a + b = 5` asks for the
    equation, so 5 alone does not match it.
    """
    if isinstance(gold, Assignment) and isinstance(answer, Assignment):
        if gold.name == answer.name:
            same = _same(gold.value, answer.value, same_formula)
            if same is not False or gold.is_name:
                return same
        return same_formula(gold.latex, answer.latex)
    if _is_equation(gold) or _is_equation(answer):
        return same_formula(gold.latex, answer.latex)  # an equation, in another form
    if isinstance(gold, Assignment):
        return _same(gold.value, answer, same_formula) if gold.is_name else False
    assert isinstance(answer, Assignment)
    return _same(gold, answer.value, same_formula)


def _same_number(gold: Number, answer: Number) -> bool:
    """Compare numbers; with a percent sign on one side only, 19% matches 19 and 0.19."""
    if gold.is_percent == answer.is_percent:
        return gold.value == answer.value
    percent, plain = (gold, answer) if gold.is_percent else (answer, gold)
    return plain.value in (percent.value, percent.value / 100)


def _same_several(gold: Form, answer: Form, same_formula: SameFormula) -> bool | None:
    if not (isinstance(gold, Several) and isinstance(answer, Several)):
        return same_formula(gold.latex, answer.latex) if _may_be_one(gold, answer) else False
    gold, answer = _as_pair(gold, answer), _as_pair(answer, gold)
    gold, answer = _as_union(gold, answer), _as_union(answer, gold)
    if (gold.opening, gold.closing) != (answer.opening, answer.closing):
        return False
    if len(gold.elements) != len(answer.elements) or len(gold.elements) > MAX_ELEMENTS:
        return False
    if gold.is_ordered and not (_has_names(gold) and _has_names(answer)):
        if _is_out_of_order(gold) or _is_out_of_order(answer):
            return False  # (y, x) = (3, 2) where (3, 2) is asked for
        pairs = zip(gold.elements, answer.elements, strict=True)
        return _all(_same(g, a, same_formula) for g, a in pairs)
    left, unsure = list(answer.elements), False
    for element in gold.elements:  # equality is transitive, so the first match is as good as any
        for place, candidate in enumerate(left):
            same = _same(element, candidate, same_formula)
            unsure |= same is None
            if same:
                del left[place]
                break
        else:
            return None if unsure else False
    return True


def _may_be_one(gold: Form, answer: Form) -> bool:
    """Return True if algebra may compare several values with a formula on the other side.

    An interval may be 2 <= x < 5 there, and a matrix a sum of matrices.
    """
    several, other = (gold, answer) if isinstance(gold, Several) else (answer, gold)
    if isinstance(several, Several) and several.opening == "matrix":
        return r"\begin{pmatrix}" in other.latex
    is_set = isinstance(several, Several) and several.opening in ("(", "[", "union", "")
    is_difference = isinstance(other, Formula) and r"\setminus" in other.latex
    return is_set and (_is_condition(other) or is_difference)


def _as_pair(form: Several, other: Several) -> Several:
    """Convert a vector, or equations such as `y = 2, x = 3`, to a pair if `other` is one."""
    if other.opening != "(" or form.opening == "(":
        return form
    if form.opening != "matrix":
        return as_named_pair(form) or form
    rows = [row.elements for row in form.elements if isinstance(row, Several)]
    if len(rows) > 1 and any(len(row) > 1 for row in rows):
        return form
    elements = rows[0] if len(rows) == 1 else tuple(row[0] for row in rows)
    return Several("(", ")", elements, form.latex)


def _as_union(form: Several, other: Several) -> Several:
    """Convert conditions such as `x < 2 or x > 5` to a union if `other` is one."""
    are_conditions = form.opening == "" and all(map(_is_condition, form.elements))
    return replace(form, opening="union") if other.opening == "union" and are_conditions else form


def _is_condition(form: Form) -> bool:
    return isinstance(form, Formula) and any(sign in form.latex for sign in _RELATIONS)


def _has_names(form: Several) -> bool:
    return len(set(_names(form))) == len(form.elements)


def _names(form: Several) -> list[str]:
    return [e.name for e in form.elements if isinstance(e, Assignment) and e.is_name]


def _is_out_of_order(form: Several) -> bool:
    """Return True if neighbours in the alphabet name the elements out of order: y before x."""
    names = _names(form)
    if len(names) < 2 or any(len(name) != 1 for name in names):
        return False
    letters = sorted(names)
    are_neighbours = ord(letters[-1]) - ord(letters[0]) == len(letters) - 1
    return are_neighbours and names != letters


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    unsure = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unsure |= verdict is None
    return None if unsure else True
