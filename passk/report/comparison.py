"""Show the comparison of two policies: a page with the findings in words, and a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from passk.evaluation.comparison import LEAST_EFFECTIVE, Comparison
from passk.report.chart_style import over_k
from passk.report.pages import markdown_page
from passk.style import INK, K_COLORS, PANEL, line_at
from passk.text import Table, number_cell

_HEADINGS = {
    "k": "k",
    "a": "A (%)",
    "b": "B (%)",
    "difference": "B \u2212 A, this k (points)",
    "band": "B \u2212 A, all k at once",
    "supported": "supported",
}


def comparison_page(found: Comparison, facts: Mapping[str, Any]) -> str:
    """Write the page of `passk compare`; `facts` are what the template needs besides."""
    ks = [int(k) for k in found.table["k"]]
    shown = {k for k in ks if k & (k - 1) == 0} | {ks[-1]}
    rows = [_row(row) for row in found.table.to_dict("records") if row["k"] in shown]
    return markdown_page(
        "compare",
        table=Table.of(rows, _HEADINGS).markdown("---:"),
        findings=findings(found),
        num_problems=found.num_problems,
        last=ks[-1],
        least_effective=LEAST_EFFECTIVE,
        **facts,
    )


def findings(found: Comparison) -> list[str]:
    """State at which k a gain or a loss is supported, and where the curves may cross."""
    gains, losses = found.supported("gain"), found.supported("loss")
    neither = [int(k) for k in found.table["k"][found.table["supported"] == ""]]
    sentences = [
        f"Gain supported for k = {as_ranges(gains)}." if gains else "No gain is supported.",
        f"Loss supported for k = {as_ranges(losses)}." if losses else "No loss is supported.",
    ]
    if neither and (gains or losses):
        sentences.append(f"Neither for k = {as_ranges(neither)}.")
    return [*sentences, _crossing(found, gains, losses)]


def _crossing(found: Comparison, gains: Sequence[int], losses: Sequence[int]) -> str:
    last = int(found.table["k"].iloc[-1])
    if not gains and not losses:
        return "Nothing is said of a crossing."
    begins = "gain" if gains and gains[0] < min(losses, default=last + 1) else "loss"
    other = {"gain": "loss", "loss": "gain"}[begins]
    low, high = found.first(other)
    if high is not None:
        place = f"lies in {low}..{high}" if high > low else f"is {low}"
        return f"The curves cross: the first k with a {other} {place} (95 % confidence set)."
    if low > last:
        return f"The curves do not cross up to k = {last} (95 % confidence)."
    return f"No crossing is supported: a first k with a {other}, if any, is {low} or later."


def as_ranges(ks: Sequence[int]) -> str:
    """Write ascending whole numbers as ranges: `1, 4..64`."""
    ranges: list[list[int]] = []
    for k in ks:
        if ranges and k == ranges[-1][-1] + 1:
            ranges[-1][1:] = [k]
        else:
            ranges.append([k])
    return ", ".join("..".join(map(str, ends)) for ends in ranges)


def _row(row: Mapping[Any, Any]) -> dict[str, object]:
    """Write the cells of a k for people, signed where they are differences."""
    cells = {"k": str(row["k"]), "supported": row["supported"]}
    cells |= {of: number_cell(row[of], ".1%") + _ends(row, of, ".1%") for of in "ab"}
    cells["difference"] = number_cell(row["difference"], "+.1%")
    cells["difference"] += _ends(row, "difference", "+.1%")
    cells["band"] = _ends(row, "band", "+.1%").strip()
    if not cells["band"]:
        cells["band"] = f"none: {row['effective_problems']:.0f} problems differ"
    return {name: str(text).replace("-", "\u2212") for name, text in cells.items()}


def _ends(row: Mapping[Any, Any], name: str, form: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if low != low:
        return ""
    return f" [{number_cell(low, form)}, {number_cell(high, form)}]"


def comparison_figure(table: pd.DataFrame, names: Sequence[str]) -> Any:
    """Draw Pass@k of A and B with their bands, and B - A with the band over all k."""
    parts = []
    for of, name in zip("ab", names, strict=True):
        part = 100 * table[[of, f"{of}_low", f"{of}_high"]].set_axis(
            ["value", "low", "high"], axis=1
        )
        parts.append(part.assign(k=table["k"], name=name))
    curves = pd.concat(parts, ignore_index=True)
    x = over_k(int(table["k"].max()), "k, log scale")
    colors = alt.Scale(domain=list(names), range=list(K_COLORS[:2]))
    color = alt.Color("name:N", scale=colors, legend=alt.Legend(title=None))
    base = alt.Chart(curves).encode(
        x, alt.Y("value:Q", title=None, scale=alt.Scale(zero=False, padding=6)), color
    )
    band = base.mark_area(opacity=0.16).encode(alt.Y("low:Q", title=None), alt.Y2("high"))
    left = alt.layer(band, base.mark_line()).properties(title="Pass@k (%)")
    difference = 100 * table[["difference", "band_low", "band_high"]].set_axis(
        ["value", "low", "high"], axis=1
    )
    change = alt.Chart(difference.assign(k=table["k"])).encode(x, alt.Y("value:Q", title=None))
    banded = change.transform_filter("isValid(datum.low)").mark_area(color=INK, opacity=0.14)
    right = alt.layer(
        line_at(y=alt.datum(0)),
        banded.encode(alt.Y("low:Q", title=None), alt.Y2("high")),
        change.mark_line(color=INK),
    ).properties(title="B \u2212 A (points)")
    panels = [panel.properties(width=PANEL, height=0.7 * PANEL) for panel in (left, right)]
    return alt.hconcat(*panels)
