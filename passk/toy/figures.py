"""Draw the figures of `passk toy`: interference, the region of conflict, and the ascent.

Each function returns an Altair chart.
"""

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.config.commands import PopulationConfig
from passk.objectives.theory import FloatArray, inner_product, kernel, pass_at_k
from passk.style import FAINT, INK, K_COLORS, PANEL, PAPER, line_at, matrix, symlog
from passk.toy.bandit import best_theta, policy_at, population, sample_prompts

NUM_EASY, NUM_HARD = 120, 80  # prompts of the heatmap, as in the paper
KINDS = ["easy", "hard"]
_GRID = 81  # points per side of the contour plots
_MOST_LEVELS = 14  # of their contours
_CONFLICT = "#DEDEDE"
_STAR = (
    "M0,-1L0.225,-0.309L0.951,-0.309L0.363,0.118L0.588,0.809"
    "L0,0.382L-0.588,0.809L-0.363,0.118L-0.951,-0.309L-0.225,-0.309Z"
)


def kernel_heatmap(cfg: PopulationConfig) -> Any:
    """Draw cosines of grad p(x) and grad p(x') over a sample: easy before hard, by rising s."""
    prompts = sample_prompts(NUM_EASY, NUM_HARD, cfg.delta, cfg.seed)
    products = kernel(policy_at(cfg.theta, prompts))
    norms = np.sqrt(np.diag(products))
    names = ["easy"] * NUM_EASY + ["hard"] * NUM_HARD
    cosines = (products / np.outer(norms, norms)).clip(-1, 1)
    drawn = matrix(cosines, names, 1.0, "cosine of the gradients of success")
    return drawn.properties(title="Who interferes with whom, each kind by rising s")


def contours(cfg: PopulationConfig, path_SD: FloatArray) -> Any:
    """Draw J_1 and J_k over theta, the region where their gradients conflict, and the ascent."""
    best = best_theta(cfg.p_hard, cfg.delta, cfg.k)
    shown = np.vstack([path_SD, best, [[-3, -3], [3, 3]]])
    sides = [
        np.linspace(low - 0.5, high + 0.5, _GRID)
        for low, high in zip(shown.min(axis=0), shown.max(axis=0), strict=True)
    ]
    prompts = population(cfg.p_hard, cfg.delta)
    rows = [
        policy_at(np.stack(np.broadcast_arrays(sides[0], slope), -1), prompts) for slope in sides[1]
    ]
    against = f"gradients of Pass@1 and Pass@{cfg.k} conflict"
    names = [against, "start", f"ascent on Pass@{cfg.k}", f"largest Pass@{cfg.k}"]
    look: dict[str, Any] = {"legend": alt.Legend(symbolStrokeWidth=0)}
    colors = alt.Scale(domain=names, range=[_CONFLICT, INK, K_COLORS[4], INK])
    fill = alt.Fill("name:N", scale=colors, **look)
    shapes = alt.Scale(domain=names, range=["square", "square", "circle", _STAR])
    over, up = (alt.Scale(domain=side[[0, -1]].tolist(), nice=False) for side in sides)
    x = alt.X("bias:Q", scale=over, title="bias")
    y = alt.Y("slope:Q", scale=up, title="slope over s")
    conflict = _below_0(sides, np.stack([inner_product(row, cfg.k) for row in rows]))
    region = alt.Chart(conflict.assign(name=against)).mark_rect(stroke=_CONFLICT, strokeWidth=0.6)
    path = pd.DataFrame(path_SD, columns=["bias", "slope"])
    points = pd.concat([path.iloc[[0, -1]], pd.DataFrame([best], columns=path.columns)])
    marks = alt.layer(
        alt.Chart(path.reset_index()).mark_line(color=K_COLORS[4]).encode(x, y, order="index:Q"),
        alt.Chart(points.assign(name=names[1:]))
        .mark_point(size=90, strokeWidth=0)
        .encode(x, y, fill, alt.Shape("name:N", scale=shapes, **look)),
    )
    panels = [
        alt.layer(
            region.encode(x, y, alt.X2("bias2"), alt.Y2("slope2"), fill),
            *_contour_lines(sides, np.stack([pass_at_k(row, k) for row in rows]), x, y),
            marks,
        ).properties(title=f"Pass@{k} over theta", width=PANEL, height=PANEL * 0.85)
        for k in (1, cfg.k)
    ]
    return alt.hconcat(*panels).resolve_scale(stroke="independent")


def _below_0(sides: list[FloatArray], values: FloatArray) -> pd.DataFrame:
    """Cover where values on a grid, [slope, bias], are below 0 with stripes along the bias."""
    fine = [np.linspace(side[0], side[-1], 4 * _GRID) for side in sides]
    for side, points in zip(sides, fine, strict=True):
        values = np.stack([np.interp(points, side, line) for line in values]).T
    change = np.diff(np.pad(values < 0, ((0, 0), (1, 1))).astype(int))
    (row, start), (_, stop) = np.nonzero(change == 1), np.nonzero(change == -1)
    ends = {"bias": fine[0][start], "bias2": fine[0][stop - 1]}
    ends |= {"slope": fine[1][row], "slope2": fine[1][np.minimum(row + 1, len(fine[1]) - 1)]}
    return pd.DataFrame(ends)


def _contour_lines(sides: list[FloatArray], values: FloatArray, x: alt.X, y: alt.Y) -> list[Any]:
    """Draw contours of values on a grid, [slope, bias], and their levels along a diagonal."""
    rough = np.ptp(values) / _MOST_LEVELS
    unit = 10 ** np.floor(np.log10(rough))
    step = next(unit * m for m in (1, 1.5, 2, 2.5, 4, 5, 10) if unit * m >= rough)
    levels = step * np.arange(np.ceil(values.min() / step), values.max() / step)
    pieces = _contour_pieces(sides, values, levels)
    along, up = (
        (pieces[name] - side.mean()) / np.ptp(side)
        for name, side in zip(("bias", "slope"), sides, strict=True)
    )
    off = (along + up - 0.08).abs()[(along.abs() < 0.45) & (up.abs() < 0.45)]
    labels = pieces.loc[off.groupby(pieces["level"]).idxmin()]
    stroke = alt.Stroke("level:Q", scale=alt.Scale(scheme="viridis"), legend=None)
    words = alt.Chart(labels).encode(x, y, alt.Text("level:Q", format=".3~f"))
    return [
        alt.Chart(pieces)
        .mark_rule(strokeCap="round")
        .encode(x, y, alt.X2("bias2"), alt.Y2("slope2"), stroke),
        words.mark_text(fontSize=10, color=PAPER, stroke=PAPER, strokeWidth=4),
        words.mark_text(fontSize=10),
    ]


def _contour_pieces(
    sides: list[FloatArray], values: FloatArray, levels: FloatArray
) -> pd.DataFrame:
    """Compute straight pieces of contours: their level, and where they start and end.

    Each square of the grid is cut into two triangles. Where a level crosses a triangle, one corner
    lies alone on its side, and the piece joins the two sides that meet there.
    """
    corners = np.stack([*np.meshgrid(*sides), values], axis=-1)
    a, b, c, d = corners[:-1, :-1], corners[:-1, 1:], corners[1:, :-1], corners[1:, 1:]
    triangles = np.concatenate([np.stack((a, at, d), axis=2).reshape(-1, 3, 3) for at in (b, c)])
    frames = []
    for level in levels:
        above = triangles[..., 2] > level
        alone = above != (above.sum(axis=1, keepdims=True) > 1)
        crossed = alone.any(axis=1)
        found, alone = triangles[crossed], alone[crossed]
        corner, others = found[alone][:, None], found[~alone].reshape(-1, 2, 3)
        share = (level - corner[..., 2]) / (others[..., 2] - corner[..., 2])
        ends = corner + share[..., None] * (others - corner)
        frame = pd.DataFrame(ends[..., :2].reshape(-1, 4))
        frames.append(
            frame.set_axis(["bias", "slope", "bias2", "slope2"], axis=1).assign(level=level)
        )
    return pd.concat(frames, ignore_index=True)


def agreement_histogram(table: pd.DataFrame) -> Any:
    """Draw the distribution of a(x) for easy and hard prompts, at the start and at the end."""
    data = table.assign(density=table["share"] / (table["high"] - table["low"]))
    colors = alt.Scale(domain=KINDS, range=K_COLORS[:2])
    panels = []
    for iteration, rows in data.groupby("iteration"):
        bars = alt.Chart(rows).mark_rect(opacity=0.6)
        bars = bars.encode(
            alt.X("low:Q", title="agreement a(x); below 0, raising x lowers Pass@1"),
            alt.X2("high"),
            alt.Y("density:Q", title="density over the population"),
            alt.Y2(datum=0),
            alt.Color("kind:N", scale=colors),
        )
        title = f"After {iteration!s} iterations" if iteration else "At the start"
        panel = alt.layer(bars, line_at(INK, x=alt.datum(0)))
        panels.append(panel.properties(title=title, width=PANEL, height=260))
    return alt.hconcat(*panels).resolve_scale(x="shared")


def ascent_curves(table: pd.DataFrame, k: int) -> Any:
    """Draw Pass@1 and Pass@k during an ascent on Pass@k, for all, easy and hard prompts."""
    last = float(table["iteration"].iloc[-1])
    colors = alt.Scale(domain=["all", *KINDS], range=[INK, *K_COLORS[:2]])
    x = alt.X("iteration:Q", title=f"iterations of ascent on Pass@{k}", **symlog(0, last, 1))
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[-2, 102], nice=False))
    color = alt.Color("kind:N", scale=colors, legend=None)
    panels = []
    for column, name in (("pass1", "Pass@1"), ("passk", f"Pass@{k}")):
        lines = {"all": column} | {kind: f"{column}_{kind}" for kind in KINDS}
        wide = 100 * table[list(lines.values())].set_axis(list(lines), axis=1)
        data = wide.assign(iteration=table["iteration"]).melt("iteration", var_name="kind")
        first, end = (data[data["iteration"] == at] for at in (0, last))
        names = end.assign(value=apart(end["value"].to_numpy(), 6.5, highest=98))
        panels.append(
            alt.layer(
                alt.Chart(first).mark_rule(color=FAINT, strokeDash=[4, 3]).encode(y),
                alt.Chart(data).mark_line().encode(x, y, color),
                alt.Chart(names)
                .mark_text(align="left", dx=6, fontSize=12)
                .encode(x, y, color, text="kind:N"),
            ).properties(title=f"{name} (%)", width=PANEL, height=260)
        )
    return alt.hconcat(*panels)


def apart(heights_N: FloatArray, gap: float, highest: float) -> FloatArray:
    """Push heights apart until neighbours are `gap` from each other, around the same mean."""
    order = np.argsort(heights_N, kind="stable")
    steps = gap * np.arange(len(order))
    pushed = np.maximum.accumulate(heights_N[order] - steps) + steps
    moved = np.empty_like(heights_N)
    moved[order] = pushed + heights_N.mean() - pushed.mean()
    moved -= max(0.0, moved.max() - highest)
    return moved
