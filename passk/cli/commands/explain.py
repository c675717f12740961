"""`passk explain`: show what an objective really optimises, as tables, sentences and a figure.

Imports neither torch nor pandas, so that the answer comes at once.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np

from passk.config.commands import ExplainConfig
from passk.config.schema import RegimeConfig, has_k
from passk.errors import UserError
from passk.files import filled_at_once
from passk.objectives.advantages import Objective, as_configured, objective_in_words
from passk.objectives.implied_weights import (
    GroupAdvantages,
    implied,
    objective_advantages,
    ratio,
    target_weight,
)
from passk.objectives.pass_at_k import FloatArray
from passk.report.pages import markdown_page
from passk.style import DASHES, INK, K_COLORS, PANEL, picture, ticks_at
from passk.text import Form, Table

Columns = Mapping[str, Sequence[object] | FloatArray]
_NEGLIGIBLE = 1e-9  # of the largest target; ratios to smaller targets are left out
_MOST_ROWS = 33  # of the table over c in Markdown; the CSV has all
_HEADINGS = {
    "target": "target w",
    "weight": "weight ω",
    "bias": "ω − w",  # noqa: RUF001
    "bias_ratio": "ω / w",
    "signal_to_noise": "signal / noise",
    "relative_noise": "noise against mixture",
    "dead_fail_fraction": "dead: all wrong (%)",
    "dead_solved_fraction": "dead: too many right (%)",
    "right_share": "from right samples (%)",
    "right_advantage": "A of a right sample",
    "wrong_advantage": "A of a wrong sample",
    "has_signal": "signal",
}
_SHOWN_LOGITS = np.linspace(-np.log(999), np.log(999), 161)  # of p from 0.001 to 0.999
_TICKS = np.array([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
_LEAST_SHOWN = 0.02  # lower end of the figure's axis of weights, which may fall to 0
_PERCENT = {"dead_fail_fraction", "dead_solved_fraction", "right_share"}


def run_explain(cfg: ExplainConfig, run_dir: Path, _overrides: Sequence[str]) -> None:
    """Print how the objective weights prompts, and write it to `run_dir`.

    docs/reference/estimators.md explains the figures.

    Writes `weights.csv` (a row per estimator and p), `groups.csv` (per estimator and c),
    `explain.md` (the printed text) and `weights.png`.
    """
    regime, n = cfg.regime, cfg.rollout.num_samples
    objective = as_configured(regime)
    shown = list(dict.fromkeys([regime.estimator, *cfg.explain.compare]))
    groups = {
        name: _groups(replace(objective, estimator=name), n)
        for name in {*shown, "mixture"}  # noise is compared with mixture's
    }
    p_P = np.unique(cfg.explain.p)
    target_P = target_weight(p_P, objective.terms)
    by_p = {name: weight_table(groups[name], groups["mixture"], p_P, target_P) for name in shown}
    by_c = {name: group_table(groups[name]) for name in shown}
    text = _page(regime, groups[regime.estimator], by_p, by_c)
    p_P = 1 / (1 + np.exp(-_SHOWN_LOGITS))
    figure = weight_curves(
        target_weight(p_P, objective.terms),
        {name: implied(groups[name], p_P).weight_P for name in shown},
        f"{objective_in_words(regime)}, n = {n}",
    )
    with filled_at_once(run_dir, last="explain.md", advice="make room, and try again") as folder:
        _write_csv(folder / "weights.csv", by_p)
        _write_csv(folder / "groups.csv", by_c)
        (folder / "weights.png").write_bytes(picture(figure))
        (folder / "explain.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"tables and figure are in {run_dir}")


def _groups(objective: Objective, num_samples: int) -> GroupAdvantages:
    """Compute `objective_advantages`; raise UserError if counts do not describe the estimator."""
    try:
        return objective_advantages(objective, num_samples)
    except ValueError as error:
        raise UserError(f"passk explain cannot show {objective.estimator}: {error}") from error


def weight_table(
    groups: GroupAdvantages, default: GroupAdvantages, p_P: FloatArray, target_P: FloatArray
) -> dict[str, FloatArray]:
    """Compute a column per quantity over p; `relative_noise` compares with `default`."""
    found, usual = implied(groups, p_P), implied(default, p_P)
    matters_P = target_P > _NEGLIGIBLE * target_P.max()
    return {
        "p": p_P,
        "target": target_P,
        "weight": found.weight_P,
        "bias": found.weight_P - target_P,
        "bias_ratio": ratio(found.weight_P, np.where(matters_P, target_P, 0.0)),
        "noise": found.noise_P,
        "signal_to_noise": ratio(found.weight_P, found.noise_P),
        "relative_noise": ratio(found.noise_P * usual.weight_P, usual.noise_P * found.weight_P),
        "dead_fail_fraction": found.dead_fail_P,
        "dead_solved_fraction": found.dead_solved_P,
        "right_share": found.right_share_P,
    }


def group_table(groups: GroupAdvantages) -> dict[str, Sequence[object] | FloatArray]:
    """Compute a column per quantity over c; NaN where a group has no such sample."""
    right_C, wrong_C = groups.right_C.copy(), groups.wrong_C.copy()
    right_C[0] = wrong_C[-1] = np.nan
    right_size_C, wrong_size_C = groups.sizes_C
    return {
        "c": list(range(groups.num_samples + 1)),
        "right_advantage": right_C,
        "wrong_advantage": wrong_C,
        "has_signal": ["yes" if signal else "no" for signal in groups.has_signal_C],
        "right_share": ratio(right_size_C, right_size_C + wrong_size_C),
    }


def reading(
    regime: RegimeConfig, groups: GroupAdvantages, table: Mapping[str, FloatArray]
) -> list[str]:
    """Describe the table over p, one sentence per finding."""
    sentences = [_bias_in_words(table)]
    p_P, weight_P = table["p"], table["weight"]
    least = int(weight_P.argmin())
    if weight_P[-1] > 1.01 * weight_P[least]:
        sentences.append(
            f"ω(p) is least at p = {p_P[least]:g} and rises again to {_number(weight_P[-1])} at "
            f"p = {p_P[-1]:g}: easy prompts are weighted up, which neither Pass@1 nor Pass@k does."
        )
    noise_P = table["relative_noise"]
    if (noise_P > 1.01).any():
        low, high = int(np.nanargmin(noise_P)), int(np.nanargmax(noise_P))
        sentences.append(
            f"At equal expected size its update is {_number(noise_P[low])} (p = {p_P[low]:g}) to "
            f"{_number(noise_P[high])} (p = {p_P[high]:g}) times as noisy as that of mixture."
        )
    alive = np.flatnonzero(groups.has_signal_C)
    if len(alive):
        sentences.append(
            f"Groups with c = {alive[0]} to {alive[-1]} right of n = {groups.num_samples} carry "
            f"signal. A prompt of p = {p_P[0]:g} gives a dead group in {_dead(table, 0)} of its "
            f"steps, one of p = {p_P[-1]:g} in {_dead(table, -1)}."
        )
    else:
        sentences.append("No group carries signal, whatever its c.")
    if not has_k(regime.estimator) and regime.weight < 1:
        sentences.append(
            f"{regime.estimator} knows no k, so its weight is the same for every objective; "
            "passk train takes it with regime.pass1_weight=1 only."
        )
    return sentences


def _bias_in_words(table: Mapping[str, FloatArray]) -> str:
    target_P, weight_P = table["target"], table["weight"]
    if np.allclose(weight_P, target_P, rtol=1e-9, atol=1e-12 * target_P.max()):
        return "No bias: ω(p) is the target at every p."
    if not weight_P.any():
        return "ω(p) is 0 at every p: no prompt is learned from."
    known = ~np.isnan(table["bias_ratio"])
    p_P, ratio_P = table["p"][known], table["bias_ratio"][known]
    low, high = int(ratio_P.argmin()), int(ratio_P.argmax())
    if ratio_P[high] <= 1.001 * ratio_P[low]:
        return (
            f"ω(p) is {_number(ratio_P[low])} times the target at every p: another learning rate, "
            "the same objective."
        )
    return (
        f"Biased: ω(p) is {_number(ratio_P[low])} times the target at p = {p_P[low]:g} and "
        f"{_number(ratio_P[high])} times at p = {p_P[high]:g}; no learning rate makes up for that."
    )


def _dead(table: Mapping[str, FloatArray], row: int) -> str:
    dead = table["dead_fail_fraction"][row] + table["dead_solved_fraction"][row]
    return f"{100 * dead:.0f} %"


def _page(
    regime: RegimeConfig,
    groups: GroupAdvantages,
    by_p: Mapping[str, Mapping[str, FloatArray]],
    by_c: Mapping[str, Columns],
) -> str:
    """Write everything that is printed, as Markdown."""
    chosen = by_p[regime.estimator]
    weights = {name: table["weight"] for name, table in by_p.items()}
    beside = {name: chosen[name] for name in ("p", "target")} | weights
    n = groups.num_samples
    kept = np.unique(np.linspace(0, n, min(n + 1, _MOST_ROWS)).round().astype(int))
    by_count = {name: [column[c] for c in kept] for name, column in by_c[regime.estimator].items()}
    return markdown_page(
        "explain",
        objective=objective_in_words(regime),
        estimator=regime.estimator,
        n=n,
        sentences=reading(regime, groups, chosen),
        by_p=_markdown(chosen),
        beside=_markdown(beside) if len(by_p) > 1 else "",
        by_c=_markdown(by_count),
    ).rstrip()


def _markdown(columns: Columns) -> str:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    headings = {name: _HEADINGS.get(name, name) for name in columns}
    forms: dict[str, Form] = dict.fromkeys(columns, _number)
    forms |= {"p": "g", **dict.fromkeys(_PERCENT, ".1%")}
    return Table.of(rows, headings, forms).markdown("---:")


def _number(value: float) -> str:
    # Round halves up, although floats lie on either side of them.
    text = f"{value * (1 + 1e-12):z.3f}" if abs(value) < 1000 else f"{value:.1e}"
    return text.replace("-", "\u2212")


def weight_curves(target_P: FloatArray, weights: Mapping[str, FloatArray], objective: str) -> Any:
    """Draw the target at `_SHOWN_LOGITS` and a curve per estimator; the first is the chosen one.

    Success probabilities are on a logit scale: logarithmic towards 0 and towards 1.
    """
    target, num_colors = "target w(p)", len(K_COLORS)
    lines = {**weights, target: target_P}
    drawn = np.concatenate(list(lines.values()))
    ends = [max(_LEAST_SHOWN, 0.5 * min(drawn.min(), 1.0)), 1.5 * max(drawn.max(), 1.0)]
    names = list(lines)
    colors = [*(K_COLORS[i % num_colors] for i in range(len(weights))), INK]
    dashes = [*(DASHES[i // num_colors % len(DASHES)] for i in range(len(weights))), [4, 3]]
    legend = alt.Legend(orient="right", columns=1, symbolSize=900)
    x = alt.X(
        "logit:Q",
        title="success probability p of the prompt (logit scale)",
        scale=alt.Scale(nice=False),
        axis=ticks_at(
            np.log(_TICKS / (1 - _TICKS)).tolist(),
            labelExpr="format(1 / (1 + exp(-datum.value)), '.3~g')",
        ),
    )
    y = alt.Y(
        "weight:Q",
        title="implied weight ω(p)",
        scale=alt.Scale(type="log", domain=ends, nice=False),
        axis=ticks_at([m * 10.0**i for i in range(-2, 7) for m in (1, 2, 5)], format="~g"),
    )
    color = alt.Color("name:N", scale=alt.Scale(domain=names, range=colors), legend=legend)
    dash = alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=dashes), legend=legend)
    layers = []
    for name, weight_P in lines.items():
        above_0_P = np.maximum(weight_P, 1e-3 * ends[0])  # what is lower is cut off
        points = zip(_SHOWN_LOGITS.tolist(), above_0_P.tolist(), strict=True)
        rows = [{"logit": logit, "weight": weight, "name": name} for logit, weight in points]
        width = 4.5 if name == names[0] else 1.6
        chart = alt.Chart(alt.InlineData(rows)).mark_line(strokeWidth=width, clip=True)
        layers.append(chart.encode(x, y, color, dash))
    title = f"Weight on a prompt, {objective}"
    return alt.layer(*layers).properties(title=title, width=1.4 * PANEL, height=0.8 * PANEL)


def _write_csv(path: Path, tables: Mapping[str, Columns]) -> None:
    """Write one long table; missing values are left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["estimator", *next(iter(tables.values()))])
        for name, columns in tables.items():
            for row in zip(*columns.values(), strict=True):
                writer.writerow([name, *("" if value != value else value for value in row)])
