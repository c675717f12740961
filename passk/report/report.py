"""Write `passk report`: tables, figures and one self-contained HTML page over any set of runs.

Everything is rebuilt from the files of the runs; sections with nothing to show are left out.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from passk.console import working
from passk.files import filled_at_once, read_manifest
from passk.report import prompt_plots, run_plots, table_formats, verdicts
from passk.report.chart_style import Drawing
from passk.report.costs import cost_sheet, cost_table, price_sheet
from passk.report.distances import distance_curves, distance_sheet, distance_table
from passk.report.fronts import (
    all_titles,
    change_headings,
    front_figure,
    front_sentences,
    front_tables,
    shown_changes,
)
from passk.report.html import figure_data, render, save_figures
from passk.report.reading import cost_sentences, reading, sweep_reading
from passk.report.samples import sample_rows
from passk.report.table_formats import frame_table, write_table
from passk.report.tables import (
    headline_table,
    prompt_changes,
    reported_k,
    reproduction_table,
    summary_rows,
    sweep_table,
    titles_of,
)
from passk.runs.baselines import baseline_runs, repeat_sentences
from passk.runs.command_lines import outermost
from passk.runs.interpolations import InterpolationRecord, find_interpolations
from passk.runs.labels import in_order
from passk.runs.ledger import FOLDER as LEDGER
from passk.runs.reader import DiagnosisRecord, RunRecord, find_diagnoses, find_measured, find_runs
from passk.text import Table

SAMPLE_BYTES = 2_000_000  # samples in the page; the scripts that draw the figures take 900 kB
_NOTE = (
    "Deltas are against {baseline}, in percentage points, with 95 % "
    "intervals in brackets: a paired bootstrap over held-out problems for one seed, Student's t "
    "over seeds for several. Alignment is the cosine of the regime's gradient with the Pass@1 "
    "gradient at the checkpoint that the run started from."
)
_PAGE, _TITLE = "report.html", "passk report: "  # the page's file, and the start of its title
_MOST_READ = 4  # most runs described one by one
_AGREEMENT = "weight_against_agreement"  # figures of diagnoses; _2, _3 ... follow


@dataclass(frozen=True, slots=True)
class Material:
    """Everything the report needs from the files, read once: runs, and tables over them.

    Attributes:
        records: all runs, each once; `headline` those of the first table, with `titles` and the k
            that they report (`ks`) by label; `swept` the RL runs outside a reproduction.
        against: the runs that `baseline` names; None for the starting checkpoints.
        table, costs: `reproduction_table` and `cost_table` of the headline.
        front_points, front_changes: `front_tables` of the headline, empty without temperatures.
        interpolations: evaluations of weights between runs of the headline.
        cells: `sweep_table` of the sweep, if there is one.
        k, swept_k: the largest k that a row of the headline table reports, and that k if all cells
            of the sweep evaluated it, else the largest k that all did.
        diagnoses: by the name of their figure.
    """

    records: list[RunRecord]
    headline: list[RunRecord]
    swept: list[RunRecord]
    against: list[RunRecord] | None
    table: pd.DataFrame
    cells: pd.DataFrame
    titles: Mapping[str, str]
    ks: Mapping[str, int]
    costs: pd.DataFrame
    front_points: pd.DataFrame
    front_changes: pd.DataFrame
    interpolations: list[InterpolationRecord]
    diagnoses: Mapping[str, DiagnosisRecord]

    @property
    def k(self) -> int:
        return max(self.ks.values())

    @property
    def swept_k(self) -> int:
        return _shown_k(self.cells, self.k)


def read_material(dirs: Sequence[str | Path], baseline: str | None) -> Material:
    """Read the runs in `dirs`, each once, and compute the tables over them.

    Raises UserError as `write_report` does.
    """
    records = find_runs(dirs)
    against = baseline_runs(baseline, records) if baseline else None
    reproduced = [record for record in records if record.seed_dir is not None]
    headline = reproduced or records
    swept = [r for r in records if r.seed_dir is None and r.regime != "sft"]
    is_sweep = len(swept) > (0 if reproduced else 1)
    table = reproduction_table(headline, against)
    interpolations = find_interpolations(dirs, headline)
    points, changes = front_tables(headline, against, interpolations)
    return Material(
        records=records,
        headline=headline,
        swept=swept,
        against=against,
        table=table,
        cells=sweep_table(swept, against, records) if is_sweep else pd.DataFrame(),
        titles=titles_of(headline),
        ks={label: reported_k(record, headline) for label, record in in_order(headline)},
        costs=cost_table(headline, None if against else table),
        front_points=points,
        front_changes=changes,
        interpolations=interpolations,
        diagnoses={
            f"{_AGREEMENT}_{number}".removesuffix("_1"): diagnosis
            for number, diagnosis in enumerate(find_diagnoses(dirs), 1)
        },
    )


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
    dirs = list(dirs)
    found = read_material(dirs, baseline)
    cells, titles = found.cells, found.titles
    other = f"the last evaluation of {baseline}" if baseline else ""
    start = other or "the checkpoint that the run started from"
    note = _NOTE.format(baseline=start)
    few = len(titles) <= _MOST_READ or found.headline[0].seed_dir is not None
    sentences = reading(found.table, titles, found.ks, other) if few else []
    sentences += sweep_reading(summary_rows(cells), found.swept_k) if len(cells) else []
    sentences += repeat_sentences(found.records)
    headings = table_formats.column_names(set(found.ks.values()))
    people = found.table.assign(regime=found.table["regime"].map(all_titles(titles)))
    drawings = _figures(found)
    tables = _tables(found, people, headings)
    samples = sample_rows(found.records, SAMPLE_BYTES, find_measured(dirs, "eval"))
    page = {name: table for name, (table, _) in tables.items()} | {
        "title": _page_title(found.headline),
        "kind": _TITLE,
        "sentences": sentences,
        "note": note,
        "facts": table_formats.facts(found.records),
        "figures": list(drawings),
        "diagnoses": {n: diagnosis for n, diagnosis in found.diagnoses.items() if n in drawings},
        "k": found.k,
        "swept_k": found.swept_k,
        "start": start,
        "focus": titles[_focus(found)],
        "samples": samples.sentence if len(samples.samples) else None,
        "cost_words": cost_sentences(found.costs, titles),
        "front_words": front_sentences(
            found.front_changes, titles, found.ks, found.headline[0].temperature
        ),
    }
    data = figure_data(drawings) | {
        "titles": titles_of(found.records),
        "several_seeds": len({record.seed for record in found.records}) > 1,
    }
    words = "".join(f"\n{sentence}\n" for sentence in [*sentences, note])
    out = Path(out_dir)
    with filled_at_once(out, last=_PAGE, advice="make room, and report again") as folder:
        found.table.to_csv(folder / "table.csv", index=False)
        if len(cells):
            cells.to_csv(folder / "sweep.csv", index=False)
        markdown = frame_table(people, headings).without_empty_columns().markdown()
        (folder / "table.md").write_text(markdown + words, encoding="utf-8")
        save_figures(drawings, folder / "figures")
        for name, (table, numbers) in tables.items():
            if table is not None:
                write_table(folder / "tables", name, table, numbers)
        html = render(page, data, samples.as_json() if page["samples"] else None)
        (folder / _PAGE).write_text(html, encoding="utf-8")
    return out / _PAGE


def keeps_report(folder: Path) -> bool:
    """Return True if the report of one directory belongs into it.

    That holds for a sweep, a reproduction, or the folder of an older report. Files in other folders
    must not be overwritten, and a run's directory is written by the run alone.
    """
    page = folder / _PAGE
    if (folder / "metrics.jsonl").is_file():
        return False
    if (folder / LEDGER).is_dir() or read_manifest(folder).get("command") == "reproduce":
        return True
    if not page.is_file():
        return False
    with page.open(encoding="utf-8", errors="replace") as opened:
        return f"<title>{_TITLE}" in opened.read(2000)


@working("tables of the report")
def _tables(
    found: Material, people: pd.DataFrame, headings: Mapping[str, str]
) -> dict[str, tuple[Table | None, pd.DataFrame | None]]:
    """Build the page's tables by name (None without rows), with the numbers for their CSV."""
    first = headline_table(found.headline, found.table)
    first["regime"] = first["regime"].map(all_titles(found.titles))
    cells, costs = found.cells, found.costs
    distance = distance_table(found.headline)
    several = (people["seed"] == "all").any()
    shown = {
        "headline": frame_table(first, headings).without_empty_columns(),
        "per_seed": frame_table(people, headings).without_empty_columns() if several else None,
        "fronts": _front_sheet(found),
        "distance": distance_sheet(distance, found.titles),
        "sweep": table_formats.cells(cells, found.swept_k, headings) if len(cells) else None,
        "kinds": table_formats.kinds(found.headline, found.titles, headings),
        "kernel": table_formats.kernel(found.headline),
        "costs": cost_sheet(costs, found.titles),
        "prices": price_sheet(costs, found.titles),
        "differences": table_formats.differences(found.records),
        "runs": table_formats.runs(found.records),
        "versions": table_formats.versions(found.records),
    }
    numbers = {
        "fronts": found.front_changes,
        "distance": distance,
        "headline": first,
        "per_seed": found.table,
        "sweep": cells,
        "costs": costs,
    }
    return {
        name: (table if table and table.rows else None, numbers.get(name))
        for name, table in shown.items()
    }


def _front_sheet(found: Material) -> Table | None:
    if found.front_changes.empty:
        return None
    shown = shown_changes(found.front_changes, found.titles, found.interpolations)
    shown = shown.drop(columns="seed")
    return frame_table(shown, change_headings(found.k)).without_empty_columns()


@working("figures of the report")
def _figures(found: Material) -> dict[str, Drawing]:
    """Draw the figures that the files allow, by name, in the order of the page."""
    records, titles, cells, k = found.headline, found.titles, found.cells, found.k
    prompts = prompt_changes(records)
    trained = [r for r in records if r.regime != "sft"]
    of_regimes = pd.DataFrame()
    if trained and (records[0].seed_dir or not len(cells)):
        of_regimes = sweep_table(trained, found.against, found.records)
    of_focus = prompts[prompts["regime"] == _focus(found)]
    drawn = {
        "training_curves": run_plots.training_curves(records, titles),
        "fronts": front_figure(found.front_points, records, titles, k, found.interpolations),
        "distance_curves": distance_curves(records, titles),
        "final_curves": run_plots.final_curves(records, titles),
        "pareto_regimes": run_plots.pareto(of_regimes, _shown_k(of_regimes, k), trained, titles),
        "pareto_sweep": run_plots.pareto(cells, found.swept_k, found.swept, titles_of(found.swept)),
        "heatmaps": run_plots.heatmaps(cells, found.swept_k),
        "alignment_at_start": run_plots.alignment_at_start(found.table, titles),
        "alignment_curves": run_plots.alignment_curves(records, titles),
        "prompt_scatter": prompt_plots.prompt_scatter(prompts, titles),
        "weight_by_kind": prompt_plots.weight_by_kind(of_focus, k),
        **{
            name: prompt_plots.weight_against_agreement(diagnosis.prompts, diagnosis.k)
            for name, diagnosis in found.diagnoses.items()
        },
        "verdict_reasons": verdicts.verdict_reasons(verdicts.verdict_shares(records), titles),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _shown_k(cells: pd.DataFrame, k: int) -> int:
    """Return k if all cells evaluated it, else the largest k that all did."""
    grid = [int(name[4:]) for name in map(str, cells) if re.fullmatch(r"pass\d+", name)]
    return k if k in grid else max(grid, default=1)


def _focus(found: Material) -> str:
    """Return the label whose starting weights are shown: Pass@k-only if present, else the first."""
    at_k = [(label, r) for label, r in in_order(found.headline) if found.ks[label] == found.k]
    return min(at_k, key=lambda item: (not item[1].optimises_passk, item[1].pass1_weight))[0]


def _page_title(records: Sequence[RunRecord]) -> str:
    """Return the name of the one directory that holds all runs, or else their number."""
    roots = {outermost(record).name for record in records}
    return roots.pop() if len(roots) == 1 else f"{len(records)} runs"
