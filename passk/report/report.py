"""Write `passk report`: tables, figures and one self-contained HTML page over any set of runs.

Everything is rebuilt from the files of the runs; sections with nothing to show are left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from passk.files import filled_at_once, read_manifest
from passk.report import table_formats
from passk.report.costs import cost_sheet, price_sheet
from passk.report.figures import AGREEMENT, caption, focus, report_figures, shown_k
from passk.report.html import figure_data, render, save_figures
from passk.report.material import Material, read_material
from passk.report.reading import cost_sentences, reading, sweep_reading
from passk.report.table_formats import frame_table, write_table
from passk.report.tables import headline_table, summary_rows, titles_of
from passk.runs.command_lines import outermost
from passk.runs.ledger import FOLDER as LEDGER
from passk.runs.reader import RunRecord
from passk.text import Table

_NOTE = (
    "Deltas are against {baseline}, in percentage points, with 95 % "
    "intervals in brackets: a paired bootstrap over held-out problems for one seed, Student's t "
    "over seeds for several. Alignment is the cosine of the regime's gradient with the Pass@1 "
    "gradient at the checkpoint that the run started from."
)
_PAGE, _TITLE = "report.html", "passk report: "  # the page's file, and the start of its title
_MOST_READ = 4  # most runs described one by one


def write_report(
    dirs: Iterable[str | Path], out_dir: str | Path, baseline: str | None = None
) -> Path:
    """Write report.html, table.csv, table.md, sweep.csv, tables/ and figures/; returns the page.

    `dirs` may be runs, reproductions and sweeps, with evaluations and diagnoses beside them. The
    headline table holds the runs of reproductions, or all runs if there is none. RL runs outside a
    reproduction form a sweep if there are reproductions beside them, or if there are several.
    Deltas are against the starting checkpoints, or the runs that `baseline` names.

    Raises:
        UserError: a directory holds no run, a file cannot be read, or no run is `baseline`.
    """
    found = read_material(list(dirs), baseline)
    cells, k, titles = found.cells, found.k, found.titles
    other = f"the last evaluation of {baseline}" if baseline else ""
    start = other or "the checkpoint that the run started from"
    note = _NOTE.format(baseline=start)
    few = len(titles) <= _MOST_READ or found.headline[0].seed_dir is not None
    sentences = reading(found.table, titles, found.ks, other) if few else []
    sentences += sweep_reading(summary_rows(cells), shown_k(cells, k)) if len(cells) else []
    sentences += found.repeats
    headings = table_formats.column_names(set(found.ks.values()))
    people = found.table.assign(regime=found.table["regime"].map(titles))
    drawings = report_figures(found)
    tables = _tables(found, people, headings)
    shown = {name: table for name, (table, _) in tables.items()}
    page = shown | {
        "title": _page_title(found.headline),
        "kind": _TITLE,
        "sentences": sentences,
        "note": note,
        "facts": table_formats.facts(found.records),
        "figures": _told(drawings, found, start),
        "agreement": [name for name in drawings if name.startswith(AGREEMENT)],
        "samples": found.samples.sentence if len(found.samples.samples) else None,
        "cost_words": cost_sentences(found.costs, titles),
    }
    data = figure_data(drawings) | {
        "titles": titles_of(found.records),
        "several_seeds": len({record.seed for record in found.records}) > 1,
    }
    samples = found.samples.as_json() if page["samples"] else None
    words = "".join(f"\n{sentence}\n" for sentence in [*sentences, note])
    out = Path(out_dir)
    with filled_at_once(out, last=_PAGE, advice="make room, and report again") as folder:
        found.table.to_csv(folder / "table.csv", index=False)
        if len(cells):
            cells.to_csv(folder / "sweep.csv", index=False)
        markdown = frame_table(people, headings).markdown()
        (folder / "table.md").write_text(markdown + words, encoding="utf-8")
        save_figures(drawings, folder / "figures")
        for name, (table, numbers) in tables.items():
            if table is not None:
                write_table(folder / "tables", name, table, numbers)
        (folder / _PAGE).write_text(render(page, data, samples), encoding="utf-8")
    return out / _PAGE


def keeps_report(folder: Path) -> bool:
    """Return True if the report of one directory belongs into it.

    That holds for a sweep, a reproduction, or the folder of an older report. Files in other folders
    must not be overwritten, and a run's directory is written by the run alone.
    """
    if (folder / "metrics.jsonl").is_file():
        return False
    is_whole = (folder / LEDGER).is_dir() or read_manifest(folder).get("command") == "reproduce"
    page = folder / _PAGE
    return is_whole or (page.is_file() and f"<title>{_TITLE}" in _beginning(page))


def _beginning(file: Path) -> str:
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(2000)


def _tables(
    found: Material, people: pd.DataFrame, headings: Mapping[str, str]
) -> dict[str, tuple[Table | None, pd.DataFrame | None]]:
    """Build the page's tables by name (None without rows), with the numbers for their CSV."""
    first = headline_table(found.headline, found.table)
    first["regime"] = first["regime"].map(found.titles)
    costs = found.costs
    several = (people["seed"] == "all").any()
    cells, k = found.cells, shown_k(found.cells, found.k)
    shown = {
        "headline": frame_table(first, headings).without_empty_columns(),
        "per_seed": frame_table(people, headings).without_empty_columns() if several else None,
        "sweep": table_formats.cells(cells, k, headings) if len(cells) else None,
        "kinds": table_formats.kinds(found.headline, found.titles, headings),
        "kernel": table_formats.kernel(found.headline),
        "costs": cost_sheet(costs, found.titles),
        "prices": price_sheet(costs, found.titles),
        "differences": table_formats.differences(found.records),
        "runs": table_formats.runs(found.records),
        "versions": table_formats.versions(found.records),
    }
    numbers = {"headline": first, "per_seed": found.table, "sweep": cells, "costs": costs}
    return {
        name: (table if table and table.rows else None, numbers.get(name))
        for name, table in shown.items()
    }


def _told(drawings: Iterable[str], found: Material, start: str) -> dict[str, tuple[str, str]]:
    """Return title and caption of each figure."""
    run = found.titles[focus(found.headline, found.k)]
    of_name = {}
    diagnoses = iter(found.diagnoses)
    for name in drawings:
        swept = name in ("pareto_sweep", "heatmaps")
        k = shown_k(found.cells, found.k) if swept else found.k
        words: dict[str, object] = {"k": k, "run": run, "baseline": start}
        if name.startswith(AGREEMENT):
            diagnosis = next(diagnoses)
            words |= {"k": diagnosis.k, "diagnosis": diagnosis.title}
        of_name[name] = caption(name, **words)
    return of_name


def _page_title(records: Sequence[RunRecord]) -> str:
    """Return the name of the one directory that holds all runs, or else their number."""
    roots = {outermost(record).name for record in records}
    return roots.pop() if len(roots) == 1 else f"{len(records)} runs"
