"""The figure of how answers were judged: shares of verdict reasons, over steps, for each run."""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.chart_style import PANEL, Drawing, Legend, Titles, rounded, tips
from passk.figure_style import K_COLORS
from passk.verdict_shares import reason_order

MOST_PANELS = 6  # with more runs, one is shown at a time
MOST_STEPS = 30  # points of a run; steps between them are averaged
_RIGHT = "#009E73"
_SPLITS = {"train": "while training", "heldout": "held out"}
_KEYS = ["run", "split", "step", "reason"]


def verdict_reasons(shares: pd.DataFrame, titles: Titles) -> Drawing | None:
    """Shares of reasons stacked to 100 %, a panel per run; `shares` is `verdict_shares`.

    Means over seeds. Training samples are shown, or held-out ones where the reader chooses so.
    """
    data = _thinned(shares.assign(run=shares["regime"].map(titles)))
    if data.empty:
        return None
    reasons = reason_order(data["reason"])
    others = [color for color in K_COLORS if color != _RIGHT]
    colors = {reason: others[place % len(others)] for place, reason in enumerate(reasons)}
    colors |= {"correct": _RIGHT} if "correct" in colors else {}
    legend = Legend("reason", "", [{"name": r, "color": colors[r]} for r in reasons])
    data = data.assign(place=data["reason"].map({r: i for i, r in enumerate(reasons)}))
    names = list(dict.fromkeys(data["run"]))
    splits = [name for split, name in _SPLITS.items() if name in set(data["split"])]
    chosen = [_choice("split", splits, "Samples")] if len(splits) > 1 else []
    if len(names) > MOST_PANELS:
        chosen.append(_choice("run", names, "Run"))
        chart: Any = _panel(legend, "datum.run == run", splits).properties(width=2 * PANEL)
    else:
        panels = [
            _panel(legend, f"datum.run == '{name}'", splits).properties(title=name)
            for name in names
        ]
        chart = alt.concat(*panels, columns=2 if len(panels) in (2, 4) else 3).resolve_scale(
            color="shared"
        )
    return Drawing(chart.add_params(*chosen) if chosen else chart, data, [legend])


def _choice(name: str, options: list[str], title: str) -> Any:
    select = alt.binding_select(options=options, name=f"{title} ")
    return alt.param(name=name, value=options[0], bind=select)


def _panel(legend: Legend, test: str, splits: list[str]) -> Any:
    of_split = "datum.split == split" if len(splits) > 1 else "true"
    return (
        alt.Chart()
        .transform_filter(f"{test} && {of_split} && {legend.test}")
        .mark_area(line=False, opacity=0.85, stroke="#FFFFFF", strokeWidth=0.8)
        .encode(
            x=alt.X(
                "step:Q",
                title="training step",
                axis=alt.Axis(tickMinStep=1, grid=False),
                scale=alt.Scale(nice=False),
            ),
            y=alt.Y("share:Q", title="share (%)", stack="zero", scale=alt.Scale(domain=[0, 100])),
            color=legend.channel(alt.Color, "color"),
            order="place:Q",
            tooltip=tips("run", "reason"),
        )
        .properties(width=PANEL, height=190)
    )


def _thinned(shares: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds, in percent, at no more than MOST_STEPS steps of each run.

    Of runs and splits that have more than one step.
    """
    means = shares.groupby(_KEYS, sort=False, as_index=False)[["share"]].mean()
    frames = []
    for _, rows in means.groupby(["run", "split"], sort=False):
        steps = np.sort(rows["step"].astype(int).unique())
        if len(steps) < 2:
            continue
        parts = np.array_split(steps, min(MOST_STEPS, len(steps)))
        last = {step: int(part[-1]) for part in parts for step in part}
        rows = rows.assign(step=rows["step"].astype(int).map(last))
        frames.append(rows.groupby(_KEYS, sort=False, as_index=False)[["share"]].mean())
    if not frames:
        return means.iloc[:0]
    data = pd.concat(frames, ignore_index=True)
    data = data.assign(share=100 * data["share"], split=data["split"].map(_SPLITS))
    return rounded(data, ["share"])
