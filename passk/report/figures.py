"""Choose the figures of a report, and their names, titles and captions."""

import re
from collections.abc import Sequence

import pandas as pd

from passk.report import curves, prompt_plots, sweep_plots, verdicts
from passk.report.chart_style import Drawing
from passk.report.material import Material
from passk.report.tables import prompt_changes, reported_k, sweep_table, titles_of
from passk.report.verdicts import verdict_shares
from passk.runs.labels import in_order
from passk.runs.reader import RunRecord

AGREEMENT = "weight_against_agreement"
_TOLD = {
    "training_curves": (
        "Held-out success while training",
        "Bands, for few lines, are 95 % intervals over problems; with several seeds, each is a "
        "thin line and their mean a thick one. The level line is where SFT ended.",
    ),
    "pareto_regimes": (
        "What each regime trades",
        "Change in Pass@1 against change in Pass@{k} from {baseline}, with 95 % intervals. Dashed: "
        "those that none beats in both.",
    ),
    "pareto_sweep": (
        "What each cell of the sweep trades",
        "Change in Pass@1 against change in Pass@{k} from {baseline}, with 95 % intervals. Dashed: "
        "cells that no other one beats in both.",
    ),
    "heatmaps": (
        "Pass@1 and Pass@{k} over k and the weight of Pass@1",
        "Where each cell ended, and its change from {baseline}: blue gained, orange lost.",
    ),
    "alignment_at_start": (
        "Alignment with Pass@1 at the start",
        "Direction of each regime's gradient at the starting checkpoint: below 0 it works against "
        "Pass@1. Bars are 95 % intervals, faint points single seeds.",
    ),
    "alignment_curves": (
        "Alignment with Pass@1 while training",
        "The same direction on the policy of that step.",
    ),
    "prompt_scatter": (
        "Success of each problem, before and after",
        "On the line, nothing changed. A point is every problem that lies there; outlined markers "
        "are the means of a kind.",
    ),
    "weight_by_kind": (
        "Which problems Pass@{k} up-weights",
        "Where {run} started: the weight of a problem by its success, how many problems are where, "
        "and the share of all problems and of all weight that falls on each kind.",
    ),
    AGREEMENT: (
        "Weight against agreement: {diagnosis}",
        "Each prompt of passk diagnose: the weight that Pass@{k} gives it against how far its "
        "gradient agrees with that of Pass@1, with standard errors. Prompts at the left with much "
        "weight are those that pull against Pass@1; hollow ones show no gradient.",
    ),
    "verdict_reasons": (
        "Reasons of the verdicts",
        "Shares of the samples of each training step, in the mean over seeds, and of the held-out "
        "evaluations.",
    ),
}


def caption(name: str, **words: object) -> tuple[str, str]:
    """Return title and caption of a figure."""
    title, caption = _TOLD[re.sub(r"_\d+$", "", name)]
    return title.format(**words), caption.format(**words)


def report_figures(found: Material) -> dict[str, Drawing]:
    """Draw the figures that the files allow, by name, in the order of the page."""
    records, titles, cells, k = found.headline, found.titles, found.cells, found.k
    prompts = prompt_changes(records)
    of_focus = prompts[prompts["regime"] == focus(records, k)]
    trained = [r for r in records if r.regime != "sft"]
    is_reproduction = any(r.seed_dir for r in records)
    regimes = None
    if trained and (is_reproduction or not len(cells)):
        points = sweep_table(trained, found.against, found.records)
        regimes = sweep_plots.pareto(points, shown_k(points, k), trained, titles)
    swept = [r for r in found.records if r.seed_dir is None and r.regime != "sft"]
    k_cells = shown_k(cells, k)
    drawn = {
        "training_curves": curves.training_curves(records, titles),
        "pareto_regimes": regimes,
        "pareto_sweep": sweep_plots.pareto(cells, k_cells, swept, titles_of(swept)),
        "heatmaps": sweep_plots.heatmaps(cells, k_cells),
        "alignment_at_start": curves.alignment_at_start(found.table, titles),
        "alignment_curves": curves.alignment_curves(records, titles),
        "prompt_scatter": prompt_plots.prompt_scatter(prompts, titles),
        "weight_by_kind": prompt_plots.weight_by_kind(of_focus, k),
    }
    for place, diagnosis in enumerate(found.diagnoses, 1):
        name = AGREEMENT if place == 1 else f"{AGREEMENT}_{place}"
        drawn[name] = prompt_plots.weight_against_agreement(diagnosis.prompts, diagnosis.k)
    drawn["verdict_reasons"] = verdicts.verdict_reasons(verdict_shares(records), titles)
    return {name: figure for name, figure in drawn.items() if figure is not None}


def shown_k(cells: pd.DataFrame, k: int) -> int:
    """Return k if all cells evaluated it, else the largest k that all did."""
    grid = [int(name[4:]) for name in map(str, cells) if re.fullmatch(r"pass\d+", name)]
    return k if k in grid else max(grid, default=1)


def focus(records: Sequence[RunRecord], k: int) -> str:
    """Return the label whose starting weights are shown: Pass@k-only if present, else the first."""
    at_k = [(label, r) for label, r in in_order(records) if reported_k(r, records) == k]
    return min(at_k, key=lambda item: (not item[1].optimises_passk, item[1].pass1_weight))[0]
