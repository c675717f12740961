"""Tables for other programs: every cell comes back, and LaTeX is escaped."""

import csv
import math
import re

import pandas as pd
import pytest

from passk.report.table_formats import frame_table, write_table
from passk.text import Table
from passk.text import cell as cell_of

TABLE = Table(
    ["Regime & more", "\u0394 Pass@1 (%)", "Command", "n"],
    [
        [
            "a_b",
            "\u22125.2 [\u22127.1, \u22120.0]",
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
    text = TABLE.latex()
    rows = latex_rows(text)
    assert len(rows) == 4 and all(len(row) == 4 for row in rows)
    for row, expected in zip(rows, [TABLE.headings, *TABLE.rows], strict=True):
        for cell, wanted in zip(row, expected, strict=True):
            plain = one_line(wanted.replace("--x", "\u2013x"))  # LaTeX makes one dash of two
            assert typeset(cell).replace(" ", "") == plain.replace(" ", "")


def test_latex_has_the_rules_of_booktabs_and_columns_by_what_they_hold():
    lines = TABLE.latex().splitlines()
    assert lines[0].startswith("%") and "booktabs" in lines[0]
    assert lines[1] == r"\begin{tabular}{lrlr}" and lines[-1] == r"\end{tabular}"
    rules = [line for line in lines if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert lines[2] == r"\toprule" and lines[4] == r"\midrule"
    empty = Table(["a", "b"], []).latex()
    assert r"\begin{tabular}{ll}" in empty


def test_markdown_shows_every_cell_as_it_is():
    lines = TABLE.markdown().splitlines()
    assert lines[1] == "|---|---|---|---|"
    assert TABLE.markdown("---:").splitlines()[1] == "|---:|---:|---:|---:|"
    for line, expected in zip([lines[0], *lines[2:]], [TABLE.headings, *TABLE.rows], strict=True):
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        assert [cell.strip().replace("\\|", "|") for cell in cells] == list(map(one_line, expected))


@pytest.mark.parametrize("with_numbers", [False, True])
def test_three_files_stand_beside_one_another(tmp_path, with_numbers):
    numbers = pd.DataFrame({"regime": ["a", "b"], "delta": [0.1 + 0.2, None]})
    write_table(tmp_path / "tables", "costs", TABLE, numbers if with_numbers else None)
    files = {file.name for file in (tmp_path / "tables").iterdir()}
    assert files == {"costs.csv", "costs.md", "costs.tex"}
    with open(tmp_path / "tables" / "costs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if with_numbers:
        assert rows == [["regime", "delta"], ["a", repr(0.1 + 0.2)], ["b", ""]]
    else:
        assert rows == [TABLE.headings, *TABLE.rows]


def test_cells_have_their_form_and_their_interval():
    row = {"a": 0.4512, "a_low": 0.4, "a_high": 0.5, "b": -0.0004, "b_low": math.nan, "b_high": 1.0}
    assert cell_of(row, "a") == "0.451 [0.4, 0.5]"
    assert cell_of(row, "a", ".1%") == "45.1 [40.0, 50.0]"
    assert cell_of(row, "b", "+z.1%") == "+0.0"
    assert cell_of(row, "a", lambda value: f"<{value}>") == "<0.4512> [<0.4>, <0.5>]"
    missing = {"a": None, "b": math.nan, "c": 3, "d": "x"}
    assert [cell_of(missing, name) for name in missing] == ["", "", "3", "x"]


def test_empty_columns_are_dropped_if_there_are_rows():
    table = Table.of([{"a": None, "b": 1}, {"a": math.nan, "b": None}], ["a", "b"])
    assert table.without_empty_columns() == Table(["b"], [["1"], [""]])
    assert Table(["a"], []).without_empty_columns() == Table(["a"], [])


def test_frames_are_in_percent_and_points():
    row = {"regime": "passk", "k": 8.0, "pass1": 0.4512, "pass4": math.nan, "alignment": -0.3}
    row |= {"delta_pass1": -0.0521, "delta_pass1_low": -0.071, "delta_pass1_high": -0.0004}
    table = frame_table(pd.DataFrame([row]), {"pass1": "Pass@1"})
    cells = dict(zip(table.headings, table.rows[0], strict=True))
    assert cells == {
        "regime": "passk",
        "k": "8",
        "Pass@1": "45.1",
        "Pass@4 (%)": "",
        "alignment": "\u22120.30",
        "\u0394 Pass@1 (points)": "\u22125.2 [\u22127.1, \u22120.0]",
    }
