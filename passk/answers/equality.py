"""When two answers are equal: the rules for each form, with a judge of formulas left open."""

from collections.abc import Callable, Iterable

from passk.answers.forms import (
    Assignment,
    Form,
    Formula,
    Number,
    Numeral,
    Several,
    Words,
    describe,
    fold,
    is_words,
)
from passk.answers.reader import read_answer

MAX_ELEMENTS = 50
SameFormula = Callable[[str, str], bool | None]  # of gold and answer; None: cannot tell
_INEQUALITIES = ("<", ">", r"\le", r"\ge", r"\ne")


def same_answer(gold: str, answer: str, same_formula: SameFormula) -> bool | None:
    """Whether an answer as it was written says what the gold answer says.

    `same_formula` judges pairs of LaTeX formulas; None where it would have to decide and cannot.
    """
    gold_form, answer_form = read_answer(gold), read_answer(answer)
    # 100,200 is a number, unless the other side is a list.
    if isinstance(gold_form, Several) and isinstance(answer_form, Number):
        answer_form = read_answer(answer.replace(",", ", "))
    elif isinstance(gold_form, Number) and isinstance(answer_form, Several):
        gold_form = read_answer(gold.replace(",", ", "))
    return _same(gold_form, answer_form, same_formula)


def _same(gold: Form, answer: Form, same_formula: SameFormula) -> bool | None:
    if isinstance(gold, Assignment) or isinstance(answer, Assignment):
        return _same_assigned(gold, answer, same_formula)
    if isinstance(gold, Several) and isinstance(answer, Several):
        return _same_several(gold, answer, same_formula)
    for several, other in ((gold, answer), (answer, gold)):
        if isinstance(several, Several):
            # The numbers from 2 to below 5 may be an interval here and 2 <= x < 5 there.
            is_set = several.opening in ("(", "[", "union") and isinstance(other, Formula)
            if is_set and any(sign in other.latex for sign in _INEQUALITIES):
                return same_formula(gold.latex, answer.latex)
            return False
    match gold, answer:
        case Number(), Number():
            return _same_number(gold, answer)
        case (Words(), _) | (_, Words()):
            return _same_words(gold, answer)
        case (Numeral(), Numeral()):
            return gold == answer
        case (Numeral(digits), other) | (other, Numeral(digits)):
            return digits == describe(other)  # the base is left out where the question names it
    return same_formula(gold.latex, answer.latex)


def _same_words(gold: Form, answer: Form) -> bool:
    """`fold` drops every sign, so only what reads as words on both sides may be compared by it."""
    are_words = all(isinstance(form, Words) or is_words(form.latex) for form in (gold, answer))
    return are_words and fold(gold.latex) == fold(answer.latex)


def _same_assigned(gold: Form, answer: Form, same_formula: SameFormula) -> bool | None:
    """`x = 5` answers for `5` and the other way round, but not for `y = 5`."""
    if isinstance(gold, Assignment) and isinstance(answer, Assignment):
        if gold.name == answer.name:
            return _same(gold.value, answer.value, same_formula)
        return same_formula(gold.latex, answer.latex)
    value = gold.value if isinstance(gold, Assignment) else gold
    other = answer.value if isinstance(answer, Assignment) else answer
    if any(isinstance(form, Formula) and "=" in form.latex for form in (gold, answer)):
        return same_formula(gold.latex, answer.latex)  # an equation, in another form
    return _same(value, other, same_formula)


def _same_number(gold: Number, answer: Number) -> bool:
    """A percent sign on one side only: 19% answers for 19 and for 0.19."""
    if gold.is_percent == answer.is_percent:
        return gold.value == answer.value
    percent, plain = (gold, answer) if gold.is_percent else (answer, gold)
    return plain.value in (percent.value, percent.value / 100)


def _same_several(gold: Several, answer: Several, same_formula: SameFormula) -> bool | None:
    if (gold.opening, gold.closing) != (answer.opening, answer.closing):
        return False
    if len(gold.elements) != len(answer.elements) or len(gold.elements) > MAX_ELEMENTS:
        return False
    if gold.is_ordered:
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


def _all(verdicts: Iterable[bool | None]) -> bool | None:
    unsure = False
    for verdict in verdicts:
        if verdict is False:
            return False
        unsure |= verdict is None
    return None if unsure else True
