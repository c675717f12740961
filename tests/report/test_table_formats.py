"""Tables for other programs: every cell comes back, and LaTeX is escaped."""

import csv
import re

import pandas as pd
import pytest

from passk.report.table_formats import Sheet, sheet_latex, sheet_markdown, write_table

SHEET = Sheet(
    ["Regime & more", "\u0394 Pass@1 (%)", "Command", "n"],
    [
        [
            "a_b",
            "\u22125.2 [\u22127.1, +0.0]",
            r"passk --x={y}$ #1 ~ ^ \end{tabular} | <b> \"",
            "12",
        ],
        ["Pass@8-only", "", "two\nlines", "1,024"],
        ["100 %", "+1.0", "\u03ba \u2013 \u00b1 \u00e9", ""],
    ],
)
# What LaTeX does with commands of ours: back to the letters.
LETTERS = {
    r"\textbackslash ": "\\",
    r"\textasciitilde ": "~",
    r"\textasciicircum ": "^",
    r"\textquotedbl{}": '"',
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    r"$\Delta$": "\u0394",
    r"$\kappa$": "\u03ba",
    r"$\pm$": "\u00b1",
    "$-$": "\u2212",
    "--": "\u2013",
    r"\space": " ",
}


def typeset(cell):
    """What a cell shows; fails for letters that LaTeX would not print as they stand."""
    shown, rest = "", cell
    while rest:
        for command, letter in LETTERS.items():
            if rest.startswith(command):
                shown, rest = shown + letter, rest[len(command) :]
                break
        else:
            escaped = re.match(r"\\([&%$#_{}])", rest)
            assert escaped or rest[0] not in "&%$#_{}~^\\<>|", rest
            shown, rest = shown + (escaped[1] if escaped else rest[0]), rest[1 + bool(escaped) :]
    return " ".join(shown.split())


def latex_rows(text):
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)&", line.removesuffix(r"\\"))] for line in lines
    ]


def one_line(cell):
    return " ".join(cell.split())


def test_latex_shows_every_cell_as_it_is():
    text = sheet_latex(SHEET)
    rows = latex_rows(text)
    assert len(rows) == 4 and all(len(row) == 4 for row in rows)
    for row, expected in zip(rows, [SHEET.headings, *SHEET.rows], strict=True):
        for cell, wanted in zip(row, expected, strict=True):
            plain = one_line(wanted.replace("--x", "\u2013x"))  # LaTeX makes one dash of two
            assert typeset(cell).replace(" ", "") == plain.replace(" ", "")


def test_latex_has_the_rules_of_booktabs_and_columns_by_what_they_hold():
    lines = sheet_latex(SHEET).splitlines()
    assert lines[0].startswith("%") and "booktabs" in lines[0]
    assert lines[1] == r"\begin{tabular}{lrlr}" and lines[-1] == r"\end{tabular}"
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert lines[2] == r"\toprule" and lines[4] == r"\midrule"
    empty = sheet_latex(Sheet(["a", "b"], []))
    assert r"\begin{tabular}{ll}" in empty


def test_markdown_shows_every_cell_as_it_is():
    lines = sheet_markdown(SHEET).splitlines()
    assert lines[1] == "| --- | --- | --- | --- |"
    for line, expected in zip([lines[0], *lines[2:]], [SHEET.headings, *SHEET.rows], strict=True):
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert [cell.strip().replace("\\|", "|") for cell in cells] == list(map(one_line, expected))


@pytest.mark.parametrize("with_numbers", [False, True])
def test_three_files_stand_beside_one_another(tmp_path, with_numbers):
    numbers = pd.DataFrame({"regime": ["a", "b"], "delta": [0.1 + 0.2, None]})
    write_table(tmp_path / "tables", "costs", SHEET, numbers if with_numbers else None)
    files = {file.name for file in (tmp_path / "tables").iterdir()}
    assert files == {"costs.csv", "costs.md", "costs.tex"}
    with open(tmp_path / "tables" / "costs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if with_numbers:
        assert rows == [["regime", "delta"], ["a", repr(0.1 + 0.2)], ["b", ""]]
    else:
        assert rows == [SHEET.headings, *SHEET.rows]
