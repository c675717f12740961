"""The figures of the report: tables and records in, matplotlib figures out.

Each function returns a new `Figure` (object interface, no pyplot state) or None where the files at
hand hold nothing to draw. Rates are in percent, changes in percentage points; a regime keeps its
colour through all figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator

from passk.figure_style import (
    FAINT,
    INK,
    K_COLORS,
    REGIME_COLORS,
    STYLE,
    error_bars,
    label_ends,
    note,
    regime_style,
)
from passk.records import RunRecord
from passk.tables import in_order, reported_k

MOST_BANDS = 5  # more of them would hide one another
Titles = Mapping[str, str]  # label of a run -> what people read


@matplotlib.rc_context(STYLE)
def training_curves(records: Sequence[RunRecord], titles: Titles) -> Figure | None:
    """Held-out Pass@1 and Pass@k over training steps, a colour per regime.

    One run: its line with the bootstrap interval over problems. Several seeds: each a thin line,
    their mean a thick one. SFT is the level the others start from, unless there is nothing else.
    """
    groups = _by_label([r for r in records if len(r.evals)])
    if not groups:
        return None
    ks = {reported_k(record, records) for record in records if record.regime != "sft"}
    k_name = f"Pass@{ks.pop()}" if len(ks) == 1 else "Pass@k, k of each run"
    only_sft = all(label_records[0].regime == "sft" for label_records in groups.values())
    figure = Figure(figsize=(10.5, 4.2), layout=ConstrainedLayoutEngine(wspace=0.05))
    band = len(groups) <= MOST_BANDS
    for axes, name in zip(figure.subplots(1, 2), ("Pass@1", k_name), strict=True):
        ends = []
        for label, members in groups.items():
            k = 1 if name == "Pass@1" else reported_k(members[0], records)
            lines = [_curve(record, k) for record in members]
            lines = [line for line in lines if len(line)]
            if not lines:
                continue
            style = regime_style(label, groups)
            if members[0].regime == "sft" and not only_sft:
                level = 100 * float(np.mean([line["value"].iloc[-1] for line in lines]))
                axes.axhline(level, color=style["color"], linewidth=1.2, linestyle=(0, (4, 3)))
                ends.append((level, titles[label], style["color"]))
            else:
                ends.append(
                    (_draw_seeds(axes, lines, style, band=band), titles[label], style["color"])
                )
        axes.set(title=f"Held-out {name} (%)", xlabel="training step")
        label_ends(axes, ends)
    return figure


@matplotlib.rc_context(STYLE)
def pareto(cells: pd.DataFrame, k: int, titles: Titles | None = None) -> Figure | None:
    """Change in Pass@1 against change in Pass@k from the starting checkpoint, with intervals.

    `cells` comes from `tables.sweep_table`. With `titles`, a labelled point per regime; without, a
    line per optimised k through its weights of Pass@1. Dashed: cells that none beats in both.
    """
    x, y = "delta_pass1", f"delta_pass{k}"
    if y not in cells or k < 2:
        return None
    several = cells[cells["seed"] == "all"]["regime"]
    cells = cells[(cells["seed"] == "all") | ~cells["regime"].isin(several)].dropna(subset=[x, y])
    if cells.empty:
        return None
    figure = Figure(figsize=(8.0, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=FAINT, linewidth=1.2, zorder=1)
    axes.axvline(0, color=FAINT, linewidth=1.2, zorder=1)
    front = pareto_front(100 * cells[[x, y]].to_numpy(float))
    axes.plot(*front.T, color="#777777", linewidth=1.2, linestyle=(0, (4, 3)), zorder=1.5)
    axes.plot(0, 0, "s", color=INK, ms=7, zorder=4)
    below: dict[str, Any] = {
        "xytext": (-7, -14),
        "textcoords": "offset points",
        "ha": "right",
        "fontsize": 10,
    }
    axes.annotate("start", (0, 0), color=INK, **below)
    groups = cells.groupby("regime" if titles else "k", sort=False)
    for place, (group, points) in enumerate(groups):
        color = regime_style(str(group))["color"] if titles else K_COLORS[place % len(K_COLORS)]
        center_x, center_y = 100 * points[x], 100 * points[y]
        x_bars, y_bars = 100 * error_bars(points, x), 100 * error_bars(points, y)
        dots: dict[str, Any] = {"fmt": "o", "color": color, "ms": 8, "elinewidth": 1.1}
        axes.errorbar(center_x, center_y, xerr=x_bars, yerr=y_bars, **dots)
        if not titles:
            axes.plot(center_x, center_y, color=color, alpha=0.5, label=f"optimised k = {group}")
        for at_x, at_y, weight in zip(center_x, center_y, points["pass1_weight"], strict=True):
            note(axes, at_x, at_y, titles[str(group)] if titles else f"{weight:g}", color)
    if not titles:
        axes.legend(title="labels: weight of Pass@1", alignment="left")
    axes.set(xlabel="change in Pass@1 (points)", ylabel=f"change in Pass@{k} (points)")
    axes.margins(0.12)
    return figure


@matplotlib.rc_context(STYLE)
def alignment_curves(records: Sequence[RunRecord], titles: Titles) -> Figure | None:
    """Cosine of each regime's gradient with the Pass@1 gradient while training, with intervals."""
    groups = _by_label([r for r in records if len(_alignment(r)) > 1])
    if not groups:
        return None
    figure = Figure(figsize=(8.0, 4.2), layout="constrained")
    axes, ends, band = figure.subplots(), [], len(groups) <= MOST_BANDS
    axes.axhline(0, color="#777777", linewidth=1.2)
    for label, members in groups.items():
        style = regime_style(label, groups)
        end = _draw_seeds(
            axes, [_alignment(record) for record in members], style, band=band, scale=1
        )
        ends.append((end, titles[label], style["color"]))
    axes.set(xlabel="training step", ylabel="cosine with the Pass@1 gradient")
    label_ends(axes, ends)
    return figure


@matplotlib.rc_context(STYLE)
def alignment_at_start(table: pd.DataFrame, titles: Titles) -> Figure | None:
    """Alignment at the starting checkpoint: a point with its interval per regime, seeds faint."""
    table = table.dropna(subset=["alignment"])
    labels = list(dict.fromkeys(table["regime"]))
    if not labels:
        return None
    figure = Figure(figsize=(8.0, 1.3 + 0.55 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="#777777", linewidth=1.2)
    for place, label in enumerate(labels):
        rows, color = table[table["regime"] == label], regime_style(label)["color"]
        summary = rows[rows["seed"] == "all"] if (rows["seed"] == "all").any() else rows
        seeds = rows[rows["seed"] != "all"]["alignment"]
        if len(summary) < len(rows):
            axes.plot(seeds, [place] * len(seeds), "o", color=color, alpha=0.35, ms=5)
        bars = error_bars(summary, "alignment")
        at = [place] * len(summary)
        axes.errorbar(summary["alignment"], at, xerr=bars, fmt="o", color=color, ms=9, elinewidth=2)
    axes.set_yticks(range(len(labels)), [titles[label] for label in labels])
    axes.set(xlabel="cosine with the Pass@1 gradient", ylim=(len(labels) - 0.5, -0.5))
    axes.grid(axis="y", visible=False)
    return figure


@matplotlib.rc_context(STYLE)
def pass_at_k_curve(curve: pd.DataFrame) -> Figure:
    """Pass@k at every k of one evaluation, with its interval; `curve` is `eval_tables.pass_curve`.

    Dashed beyond n/4, where the estimate is noisy.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    k, value = curve["k"].to_numpy(), 100 * curve["value"].to_numpy()
    color = REGIME_COLORS["pass1"]
    low, high = 100 * curve["ci_low"].to_numpy(), 100 * curve["ci_high"].to_numpy()
    axes.fill_between(k, low, high, color=color, alpha=0.15, linewidth=0)
    steady = k <= max(int(curve["num_samples"].iloc[0]) // 4, 1)
    axes.plot(k, np.where(steady, value, np.nan), color=color, marker="o", markersize=3)
    last_steady = max(int(steady.sum()) - 1, 0)  # where the dashes take over
    axes.plot(k[last_steady:], value[last_steady:], color=color, linestyle=(0, (4, 3)))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: f"{at:g}"))
    num_problems = int(curve["num_problems"].iloc[0])
    axes.set(
        title=f"Pass@k of {num_problems} problems (%)", xlabel="k, log scale; dashed beyond n/4"
    )
    return figure


def _by_label(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    groups: dict[str, list[RunRecord]] = {}
    for label, record in in_order(records):
        groups.setdefault(label, []).append(record)
    return groups


def _curve(record: RunRecord, k: int) -> pd.DataFrame:
    rows = record.evals[record.evals["k"] == k]
    return rows.rename(columns={"ci_low": "low", "ci_high": "high"})


def _alignment(record: RunRecord) -> pd.DataFrame:
    columns = ["step", "alignment", "alignment_low", "alignment_high"]
    rows = record.metrics.reindex(columns=columns).dropna(subset=["alignment"]).astype(float)
    return rows.set_axis(["step", "value", "low", "high"], axis=1)


def _draw_seeds(
    axes: Axes,
    lines: Sequence[pd.DataFrame],
    style: Mapping[str, Any],
    *,
    band: bool,
    scale: float = 100,
) -> float:
    """One line with its band, or thin lines and their mean; returns where it ends."""
    if len(lines) == 1:
        steps, value = lines[0]["step"].to_numpy(), lines[0]["value"].to_numpy()
        low, high = scale * lines[0]["low"], scale * lines[0]["high"]
        if band:
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
    else:
        for line in lines:
            axes.plot(line["step"], scale * line["value"], linewidth=0.8, alpha=0.6, **style)
        shared = pd.concat([line.set_index("step")["value"] for line in lines], axis=1).dropna()
        steps, value = shared.index.to_numpy(), shared.mean(axis=1).to_numpy()
    axes.plot(steps, scale * value, marker="o", markersize=4, **style)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    return scale * float(value[-1] if len(value) else lines[0]["value"].iloc[-1])


def pareto_front(points: np.ndarray) -> np.ndarray:
    """The points no other one beats in both coordinates, by the first coordinate: [N, 2]."""
    ordered = points[np.lexsort((-points[:, 1], -points[:, 0]))]
    best = np.maximum.accumulate(ordered[:, 1])
    front: np.ndarray = ordered[np.r_[True, ordered[1:, 1] > best[:-1]]][::-1]
    return front
