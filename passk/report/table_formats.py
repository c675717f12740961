"""Format tables as text for the report's page, and write them as CSV, Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from passk.report.tables import in_order, kind_table, summary_rows, with_all_seeds
from passk.runs.command_lines import Places, rebuilding_lines, shown_name
from passk.runs.labels import config_differences, format_cell, heading, shown_columns
from passk.runs.reader import RunRecord, read_seed_table
from passk.text import printable

_NAMED = (("model", "model.path"), ("data", "data.name"))
_KNOWN_TO_SFT = ("regime.name", "regime.num_demonstrations")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as the page shows it: headings, and rows of text."""

    headings: list[str]
    rows: list[list[str]]


def facts(records: Sequence[RunRecord]) -> list[str]:
    """Summarise the runs of the page in a few words each."""
    unfinished = sum(record.manifest.get("status") != "finished" for record in records)
    seeds, evals = {r.seed for r in records}, [r.evals for r in records if len(r.evals)]
    said = {(what, r.setting(key)) for r in records for what, key in _NAMED if r.setting(key)}
    named = {f"{what} {shown_name(str(name))}" for what, name in said}
    problems = sorted({int(table["num_problems"].iloc[-1]) for table in evals})
    return [
        f"{len(records)} run{'s' * (len(records) > 1)}",
        *([f"{unfinished} not finished"] if unfinished else []),
        *([f"{len(seeds)} seeds"] if len(seeds) > 1 else []),
        *sorted(named),
        *([f"{' or '.join(map(str, problems))} held-out problems"] if problems else []),
    ]


def column_names(ks: set[int]) -> dict[str, str]:
    """Name columns for people; Pass@k stays general if rows differ in k."""
    passk = f"Pass@{ks.pop()}" if len(ks) == 1 else "Pass@k"
    return {
        "regime": "Regime",
        "seed": "Seed",
        "num_seeds": "Seeds",
        "pass1": "Pass@1 (%)",
        "passk": f"{passk} (%)",
        "delta_pass1": "Δ Pass@1 (points)",
        "delta_passk": f"Δ {passk} (points)",
        "alignment": "Alignment (cosine)",
        "kind": "Kind",
        "num_problems": "Problems",
        "pass1_before": "Pass@1 before (%)",
        "passk_before": f"{passk} before (%)",
        "k": "k",
        "pass1_weight": "Weight of Pass@1",
    }


def sheet(table: pd.DataFrame, headings: Mapping[str, str]) -> Sheet:
    """Format a table as text, without the columns that are empty throughout."""
    shown = [column for column in shown_columns(table) if table[column].notna().any()]
    rows = [[format_cell(row, column) for column in shown] for row in table.to_dict("records")]
    return Sheet([heading(column, headings) for column in shown], rows)


def kinds(
    records: Sequence[RunRecord], titles: Mapping[str, str], headings: Mapping[str, str]
) -> Sheet | None:
    """Build the table of success by kind, a row per run and kind; None if no run has kinds."""
    kinds = kind_table(records)
    kinds["regime"] = kinds["regime"].map(titles)
    after = {name: headings[name].replace(" (", " after (") for name in ("pass1", "passk")}
    return sheet(kinds, {**headings, **after}) if len(kinds) else None


def kernel(records: Sequence[RunRecord]) -> Sheet | None:
    """Build the table of mean inner products of two problems' gradients, by their kinds."""
    frames = []
    for seed_dir, record in {record.seed_dir: record for record in records}.items():
        kernel = read_seed_table(record, "kernel.csv")
        if seed_dir is not None and kernel is not None:
            frames.append(kernel.assign(name=seed_dir.parent.name, seed=record.seed))
    if not frames:
        return None
    table = with_all_seeds(pd.concat(frames), ["name", "kind_a", "kind_b"])
    table = table.drop_duplicates(["name", "kind_a", "kind_b"], keep="last")
    rows = []
    for row in table.to_dict("records"):
        value = "{kernel:+.3g} [{kernel_low:+.3g}, {kernel_high:+.3g}]".format_map(row)
        kinds = f"{row['kind_a']} and {row['kind_b']}"
        rows.append([kinds, row["name"], str(row["seed"]), value.replace("-", "\u2212")])
    shown = Sheet(["Kinds", "Reproduction", "Seed", "Kernel"], rows)
    return shown if table["name"].nunique() > 1 else _without(shown, "Reproduction")


def without_empty_columns(table: Sheet) -> Sheet:
    """Drop the columns that are empty in every row; keep all of a table without rows."""
    for name in table.headings if table.rows else []:
        i = table.headings.index(name)
        if not any(row[i] for row in table.rows):
            table = _without(table, name)
    return table


def _without(table: Sheet, heading: str) -> Sheet:
    i = table.headings.index(heading)
    rows = [row[:i] + row[i + 1 :] for row in table.rows]
    return Sheet(table.headings[:i] + table.headings[i + 1 :], rows)


def cells(cells: pd.DataFrame, k: int, headings: Mapping[str, str]) -> Sheet:
    """Format the sweep with Pass@1 and one Pass@k; a seed has a row only if it is the only one.

    The regime is left out if k, weight and seed already distinguish all rows.
    """
    columns = ["regime", "k", "pass1_weight", "seed"]
    for name in dict.fromkeys(["pass1", f"pass{k}"]):
        for column in (name, f"delta_{name}"):
            columns += [column, f"{column}_low", f"{column}_high"]
    if not cells.duplicated(["k", "pass1_weight", "seed"]).any():
        columns.remove("regime")
    return sheet(summary_rows(cells).reindex(columns=columns), headings)


def differences(records: Sequence[RunRecord]) -> Sheet | None:
    """Build the table of settings in which the runs differ: a row per label, as seeds count as one.

    SFT has no objective over samples, so settings of the objective are left empty there.
    """
    first = dict(reversed(in_order(records)))
    different = list(reversed(first.values()))
    differing = config_differences(different)
    if differing.empty:
        return None
    keys = ["regime.name", *(key for key in differing.index if key != "regime.name")]
    places = Places(records)
    return Sheet(keys, [[_setting(run, key, places) for key in keys] for run in different])


def _setting(record: RunRecord, key: str, places: Places) -> str:
    value = record.setting(key)
    is_idle = record.regime == "sft" and key.startswith("regime.") and key not in _KNOWN_TO_SFT
    return "" if value is None or is_idle else places.as_shown(str(value))


def runs(records: Sequence[RunRecord]) -> Sheet:
    """Build the table of progress and of the commands from `command_lines.rebuilding_lines`."""
    rows = []
    for line in rebuilding_lines(records):
        manifest, record = line.manifest, line.record
        seconds = manifest.get("seconds")
        steps = record and f"{len(record.metrics)} of {record.setting('train.num_steps', '?')}"
        rows.append(
            [
                line.directory,
                str(manifest.get("status", "unknown" if record else "")),
                steps or "",
                "" if seconds is None else f"{float(seconds):.0f} s",
                str(manifest.get("device") or "") if record else "",  # a whole has none of its own
                line.command,
            ]
        )
    return Sheet(["Run", "Status", "Steps", "Time", "Device", "Command"], rows)


def versions(records: Sequence[RunRecord]) -> Sheet | None:
    """Build the table of recorded versions and commits; several where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        facts: dict[str, Any] = dict(record.manifest.get("versions") or {})
        git = record.manifest.get("git") or {}
        if isinstance(git, Mapping) and git.get("commit"):
            facts["git commit"] = f"{git['commit']}{' (changed)' if git.get('dirty') else ''}"
        facts["machine"] = record.manifest.get("machine")
        for name, value in facts.items():
            if value is not None:
                found.setdefault(name, {})[str(value)] = None
    rows = [[name, ", ".join(values)] for name, values in found.items()]
    return Sheet(["What", "Version"], rows) if rows else None


# Characters of our own headings and cells that LaTeX needs as commands or in maths mode.
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
    """Write `NAME.csv`, `NAME.md` and `NAME.tex` to a folder, which is created.

    The CSV holds the numbers of `table` to full precision, or without one the text of `shown`; the
    others hold the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = pd.DataFrame(shown.rows, columns=shown.headings)
    (text if table is None else table).to_csv(folder / f"{name}.csv", index=False)
    (folder / f"{name}.md").write_text(sheet_markdown(shown), encoding="utf-8")
    (folder / f"{name}.tex").write_text(sheet_latex(shown), encoding="utf-8")


def sheet_markdown(shown: Sheet) -> str:
    """Format a sheet in GitHub Markdown."""
    rows = [shown.headings, ["---"] * len(shown.headings), *shown.rows]
    lines = (
        "| " + " | ".join(_one_line(c).replace("|", "\\|") for c in row) + " |" for row in rows
    )
    return "\n".join(lines) + "\n"


def sheet_latex(shown: Sheet) -> str:
    """Format a `tabular` with booktabs rules; columns of numbers are right-aligned."""
    cells = [[_one_line(cell) for cell in row] for row in shown.rows]
    headings = [_one_line(heading) for heading in shown.headings]
    sides = "".join("r" if _are_numbers(column) else "l" for column in zip(*cells, strict=True))
    table = pd.DataFrame(cells, columns=headings)
    latex = table.to_latex(index=False, escape=True, column_format=sides or "l" * len(headings))
    for letter, command in _LATEX.items():
        latex = latex.replace(letter, command)
    return f"% \\usepackage[T1]{{fontenc}} \\usepackage{{booktabs}}\n{latex}"


def _are_numbers(cells: tuple[str, ...]) -> bool:
    """Return True if all non-empty cells begin like numbers, with or without an interval."""
    known = [cell for cell in cells if cell]
    return bool(known) and all(cell.lstrip("+\u2212-")[:1].isdigit() for cell in known)


def _one_line(cell: str) -> str:
    return printable(" ".join(cell.split()))
