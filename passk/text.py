"""Write numbers, digits and tables as people do: plain decimals, Markdown, CSV and LaTeX."""

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MOST_DIGITS = 10_000  # of a number: 1e999999999 would need 999,999,999 zeros

# A float as Python and pandas write it, and nobody by hand: 1e-05, -2.5e+16.
_PYTHON_EXPONENT = re.compile(r"-?\d(?:\.\d+)?e[+-]\d{2,3}")


def plain_number(number: int | Decimal) -> str | None:
    """Return a finite number in decimal digits, without exponent or trailing zeros.

    Return None if it is not finite, or would need more than `MOST_DIGITS` digits.

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
    """Return a text with ASCII digits and minus signs, and without invisible characters.

    Digits of every script are converted, such as those of Arabic and Devanagari.
    """
    if text.isascii():
        return text
    return "".join(map(_plain_character, text))


def plain_answer(answer: str) -> str:
    """Return an answer as people write it: `plain_text`, and no exponent in Python's notation."""
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


_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Characters of our own headings and cells that LaTeX needs as commands or in maths mode.
_LATEX: dict[str, str | int | None] = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash ",
    "~": r"\textasciitilde ",
    "^": r"\textasciicircum ",
    "\u2212": "$-$",
    "\u00b1": r"$\pm$",
    "\u00d7": r"$\times$",
    "\u2264": r"$\leq$",
    "\u2265": r"$\geq$",
    "\u0394": r"$\Delta$",
    "\u03ba": r"$\kappa$",
    "\u2013": "--",
    "\u2014": "---",
    "\u2026": r"\ldots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
}

Form = str | Callable[[float], str]  # a format of Python, or a function that writes the number


def printable(text: str) -> str:
    """Replace each character that neither XML nor LaTeX can hold, such as NUL."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def shortened(text: str, length: int, end: str = "...") -> str:
    """Return a text on one line, cut to `length` characters with `end` as its last ones."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - len(end)] + end


def number_cell(value: float, form: Form = ".3g") -> str:
    """Write a number; the sign of a percentage, as in `.1%`, is left to the heading."""
    return form(value) if callable(form) else format(value, form).removesuffix("%")


def cell(row: Mapping[Any, Any], column: str, form: Form = ".3g") -> str:
    """Write a value of a row for people: empty if missing, a float in `form`.

    If the row has the columns X_low and X_high of its interval, it follows in brackets:
    `48.1 [45.0, 51.2]`.
    """
    value, low = row[column], row.get(f"{column}_low")
    if not isinstance(value, float):
        return "" if value is None else str(value)
    if value != value:
        return ""
    text = number_cell(value, form)
    if low is None or low != low:
        return text
    return f"{text} [{number_cell(low, form)}, {number_cell(row[f'{column}_high'], form)}]"


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people: headings, and rows of text."""

    headings: list[str]
    rows: list[list[str]]

    @classmethod
    def of(
        cls,
        rows: Iterable[Mapping[Any, Any]],
        headings: Mapping[str, str] | Collection[str],
        forms: Mapping[str, Form] | None = None,
    ) -> "Table":
        """Take columns from rows and write each `cell` in its form.

        `headings` maps columns to their headings, in order; a collection names both.
        """
        names = headings if isinstance(headings, Mapping) else {name: name for name in headings}
        forms = forms or {}
        cells = [[cell(row, name, forms.get(name, ".3g")) for name in names] for row in rows]
        return cls(list(names.values()), cells)

    def without_empty_columns(self) -> "Table":
        """Drop the columns that are empty in every row; keep all of a table without rows."""
        columns = [i for i in range(len(self.headings)) if any(row[i] for row in self.rows)]
        headings, *rows = ([row[i] for i in columns] for row in (self.headings, *self.rows))
        return Table(headings, rows) if self.rows else self

    def markdown(self, rule: str = "---") -> str:
        """Format in GitHub Markdown; `rule` is under each heading, `---:` aligns right."""
        head, *rows = (
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n"
            for row in self._lines()
        )
        return "".join([head, "|", f"{rule}|" * len(self.headings), "\n", *rows])

    def csv(self) -> str:
        """Format as CSV, each cell as it is."""
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.headings, *self.rows])
        return file.getvalue()

    def latex(self) -> str:
        """Format a `tabular` with booktabs rules; columns of numbers are right-aligned."""
        head, *rows = (" & ".join(map(_latex, row)) + r" \\" for row in self._lines())
        columns = ([row[i] for row in self.rows] for i in range(len(self.headings)))
        sides = "".join("r" if _are_numbers(column) else "l" for column in columns)
        lines = [
            r"% \usepackage[T1]{fontenc} \usepackage{booktabs}",
            rf"\begin{{tabular}}{{{sides}}}",
            *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
            r"\end{tabular}",
        ]
        return "".join(f"{line}\n" for line in lines)

    def _lines(self) -> Iterable[list[str]]:
        """Yield headings and rows, each cell on one line and of printable characters."""
        for row in (self.headings, *self.rows):
            yield [printable(" ".join(cell.split())) for cell in row]


def _latex(cell: str) -> str:
    """Escape a cell; a command that ends in a letter would swallow the blank after it."""
    words = re.sub(r"(?<=[\\~^]) ", "\0", cell).translate(str.maketrans(_LATEX))
    return words.replace("\0", r"\space ")


def _are_numbers(cells: Sequence[str]) -> bool:
    """Return True if all non-empty cells begin like numbers, with or without an interval."""
    known = [cell for cell in cells if cell]
    return bool(known) and all(cell.lstrip("+\u2212-")[:1].isdigit() for cell in known)
