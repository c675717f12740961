"""A table of the report as files for other programs: CSV, Markdown and LaTeX beside one another."""

from pathlib import Path

import pandas as pd

from passk.reading import printable
from passk.sheets import Sheet

# Letters of our own headings and cells that LaTeX sets only by command or in its maths mode.
_LATEX = {
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


def write_table(folder: Path, name: str, shown: Sheet, table: pd.DataFrame | None = None) -> None:
    """`NAME.csv`, `NAME.md` and `NAME.tex` in a folder, which is made.

    The CSV holds the numbers of `table`, to full precision, or without one the text of `shown`; the
    others hold the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = pd.DataFrame(shown.rows, columns=shown.headings)
    (text if table is None else table).to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.md").write_text(sheet_markdown(shown), encoding="utf-8")
    (folder / f"{name}.tex").write_text(sheet_latex(shown), encoding="utf-8")


def sheet_markdown(shown: Sheet) -> str:
    """In GitHub's Markdown."""
    rows = [shown.headings, ["---"] * len(shown.headings), *shown.rows]
    lines = (
        "| " + " | ".join(_one_line(c).replace("|", "\\|") for c in row) + " |" for row in rows
    )
    return "\n".join(lines) + "\n"


def sheet_latex(shown: Sheet) -> str:
    """A `tabular` with the rules of booktabs; columns of numbers are set to the right."""
    cells = [[_one_line(cell) for cell in row] for row in shown.rows]
    headings = [_one_line(heading) for heading in shown.headings]
    sides = "".join("r" if _are_numbers(column) else "l" for column in zip(*cells, strict=True))
    table = pd.DataFrame(cells, columns=headings)
    latex = table.to_latex(index=False, escape=True, column_format=sides or "l" * len(headings))
    for letter, command in _LATEX.items():
        latex = latex.replace(letter, command)
    return f"% \\usepackage[T1]{{fontenc}} \\usepackage{{booktabs}}\n{latex}"


def _are_numbers(cells: tuple[str, ...]) -> bool:
    """Whether all cells that hold something begin as numbers do: with an interval too."""
    known = [cell for cell in cells if cell]
    return bool(known) and all(cell.lstrip("+\u2212-")[:1].isdigit() for cell in known)


def _one_line(cell: str) -> str:
    return printable(" ".join(cell.split()))
