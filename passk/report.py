"""`passk report`: tables, figures and one self-contained HTML page over any set of runs.

Everything is rebuilt from the files of the runs; a section without material is left out.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from passk import plots, prompt_plots, sheets
from passk.baselines import baseline_runs
from passk.breakdown import prompt_changes
from passk.records import RunRecord, find_runs
from passk.tables import in_order, reported_k, reproduction_table, sweep_table
from passk.wording import markdown, reading, run_title, sweep_reading

_NOTE = (
    "Deltas are against {baseline}, in percentage points, with 95 % "
    "intervals in brackets: a paired bootstrap over held-out problems for one seed, Student's t "
    "over seeds for several. Alignment is the cosine of the regime's gradient with the Pass@1 "
    "gradient at the checkpoint that the run started from."
)
_MOST_READ = 4  # runs that are told one by one in words
_CAPTIONS = {
    "training_curves": "Held-out success while training. Bands, for few lines, are 95 % intervals "
    "over problems; with several seeds, each is a thin line and their mean a thick one.",
    "pareto_regimes": "What each regime trades: change in Pass@1 against change in Pass@{k} from "
    "the starting checkpoint, with 95 % intervals. Dashed: those that none beats in "
    "both.",
    "alignment_at_start": "Direction of each regime's gradient at the starting checkpoint: below 0 "
    "it works against Pass@1. Bars are 95 % intervals.",
    "alignment_curves": "The same direction while training, on the policy of that step.",
    "prompt_scatter": "Each held-out problem before and after; on the line, nothing changed. Large "
    "markers are the means of a kind.",
    "weight_by_kind": "Which problems Pass@{k} up-weights, where {run} started: the weight of a "
    "problem by its success (top), how many problems are where (bottom), and the share of "
    "all weight that falls on each kind (right).",
    "pareto_sweep": "The sweep: change in Pass@1 against change in Pass@{k} from the starting "
    "checkpoint, a line per optimised k, with 95 % intervals. Dashed: cells that no other one "
    "beats in both.",
}


def write_report(
    dirs: Iterable[str | Path], out_dir: str | Path, baseline: str | None = None
) -> Path:
    """Write table.csv, table.md, figures/*.png and report.html (and sweep.csv); returns the page.

    `dirs` may be runs, reproductions and sweeps. The headline table holds the runs of
    reproductions, or all runs where there is none. RL runs outside a reproduction make a sweep
    where they are not all there is, or more than one. Deltas are against the starting checkpoints,
    or the runs that `baseline` names.

    Raises:
        UserError: a directory holds no run, a file cannot be read, or no run is `baseline`.
    """
    records = find_runs(dirs)
    against = baseline_runs(baseline, records) if baseline else None
    reproduced = [record for record in records if record.seed_dir is not None]
    headline = reproduced or records
    swept = [r for r in records if r.seed_dir is None and r.regime != "sft"]
    is_sweep = len(swept) > (0 if reproduced else 1)
    cells = sweep_table(swept, against, records) if is_sweep else pd.DataFrame()
    table = reproduction_table(headline, against)
    titles = {label: run_title(record, label) for label, record in in_order(headline)}
    ks = {label: reported_k(record, headline) for label, record in in_order(headline)}
    k = max(ks.values())
    other = f"the last evaluation of {baseline}" if baseline else ""
    few = reproduced or len(titles) <= _MOST_READ
    sentences = reading(table, titles, ks, other) if few else []
    sentences += sweep_reading(cells, _shown_k(cells, k)) if len(cells) else []
    headings = sheets.column_names(set(ks.values()))
    people = table.assign(regime=table["regime"].map(titles))
    figures = _figures(headline, table, titles, cells, k)

    note = _NOTE.format(baseline=other or "the checkpoint that the run started from")
    out = Path(out_dir)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table.csv", index=False)
    if len(cells):
        cells.to_csv(out / "sweep.csv", index=False)
    words = "".join(f"\n{sentence}\n" for sentence in [*sentences, note])
    (out / "table.md").write_text(markdown(people, headings) + words, encoding="utf-8")
    run = titles[_focus(headline, k)]
    page = {
        "title": _page_title(headline),
        "sentences": sentences,
        "note": note,
        "facts": sheets.facts(records),
        "headline": sheets.sheet(sheets.summary_rows(people), headings),
        "per_seed": sheets.sheet(people, headings) if (people["seed"] == "all").any() else None,
        "kinds": sheets.kinds(headline, titles, headings),
        "kernel": sheets.kernel(headline),
        "figures": {
            name: (
                *_save(figure, out / "figures" / f"{name}.png"),
                _CAPTIONS[name].format(k=_shown_k(cells, k) if "sweep" in name else k, run=run),
            )
            for name, figure in figures.items()
        },
        "sweep": sheets.cells(cells, _shown_k(cells, k), headings) if len(cells) else None,
        "differences": sheets.differences(records),
        "runs": sheets.runs(records, out),
        "versions": sheets.versions(records),
    }
    file = out / "report.html"
    file.write_text(_render(page), encoding="utf-8")
    return file


def _render(page: Mapping[str, object]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("passk", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(page)


def _figures(
    records: Sequence[RunRecord],
    table: pd.DataFrame,
    titles: Mapping[str, str],
    cells: pd.DataFrame,
    k: int,
) -> dict[str, Figure]:
    """The figures that the material allows, by name, in the order of the page."""
    prompts = prompt_changes(records)
    of_focus = prompts[prompts["regime"] == _focus(records, k)]
    trained = [r for r in records if r.regime != "sft"]
    regimes = sweep_table(trained) if trained else pd.DataFrame()
    swept_alone = len(cells) > 0 and not any(r.seed_dir for r in records)
    drawn = {
        "training_curves": plots.training_curves(records, titles),
        "pareto_regimes": None
        if swept_alone
        else plots.pareto(regimes, _shown_k(regimes, k), titles),
        "alignment_at_start": plots.alignment_at_start(table, titles),
        "alignment_curves": plots.alignment_curves(records, titles),
        "prompt_scatter": prompt_plots.prompt_scatter(prompts, titles),
        "weight_by_kind": prompt_plots.weight_by_kind(of_focus, k),
        "pareto_sweep": plots.pareto(cells, _shown_k(cells, k)),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _shown_k(cells: pd.DataFrame, k: int) -> int:
    """k where all cells evaluated it, else the largest that all did."""
    grid = [int(name[4:]) for name in map(str, cells) if re.fullmatch(r"pass\d+", name)]
    return k if k in grid else max(grid, default=1)


def _focus(records: Sequence[RunRecord], k: int) -> str:
    """The label whose start the weights are shown for: Pass@k-only if there, else the first."""
    at_k = [(label, r) for label, r in in_order(records) if reported_k(r, records) == k]
    return min(at_k, key=lambda item: (not item[1].optimises_passk, item[1].pass1_weight))[0]


def _page_title(records: Sequence[RunRecord]) -> str:
    """The reproduction's name, or the run's where there is only one."""
    roots = {r.seed_dir.parent.name if r.seed_dir else r.path.name for r in records}
    return roots.pop() if len(roots) == 1 else f"{len(records)} runs"


def _save(figure: Figure, file: Path) -> tuple[str, int]:
    """Write a PNG; returns it as a data URI, so that the page needs no other file, and its width.

    The width is in CSS pixels and keeps letters of all figures at one size.
    """
    figure.savefig(file)
    uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    return uri, round(90 * figure.get_figwidth())
