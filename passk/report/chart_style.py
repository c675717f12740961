"""Settings that all figures of the report share: Vega-Lite configuration, and marks of series.

A figure is defined once, with altair: the page draws it interactively, and `passk.report.html` also
writes it as PNG and PDF. Series differ in colour (Okabe and Ito, 2008), dash and shape, so that
nothing depends on colour alone. Areas differ only in colour, and are stacked in the order of their
legend.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import altair as alt
import pandas as pd

from passk.runs.labels import in_order
from passk.runs.reader import RunRecord
from passk.style import FAINT, INK, K_COLORS, REGIME_COLORS

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2, 1, 2], [1, 4])
SIZES = (40, 70, 110, 160, 220, 290)
MOST_NAMED = 8  # series with a colour of their own; a larger sweep is coloured by k and weight
PANEL = 380  # width of a panel in the files; the page fits panels to the window
GRID = "#E6E6E6"
SOFT = "#5D636D"
# The page in dark mode puts these in place of the colours that would be too dark there.
DARK = {
    INK: "#E7E9ED",
    FAINT: "#59606B",
    SOFT: "#A2A9B4",
    GRID: "#2B3038",
    "#595959": "#B4BAC4",
    "#0072B2": "#4FA3E3",
    "#FFFFFF": "#15171B",
}
Titles = Mapping[str, str]  # label of a run -> its title for people


@dataclass(frozen=True, slots=True)
class Legend:
    """The names in one column of a figure's data, each with the marks that stand for it."""

    field: str
    title: str
    entries: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        return [entry["name"] for entry in self.entries]

    @property
    def parameter(self) -> alt.Parameter:
        """Vega-Lite parameter of the names that are shown; the page's legend changes it."""
        return alt.param(name=f"shown_{self.field}", value=self.names)

    @property
    def test(self) -> str:
        return f"indexof(shown_{self.field}, datum['{self.field}']) >= 0"

    def channel(self, kind: Any, mark: str, **more: Any) -> Any:
        """Encode this column: `kind` is `alt.Color` or similar, `mark` a key of the entries."""
        marks = [entry[mark] for entry in self.entries]
        scale = alt.Scale(domain=self.names, range=marks)
        look: dict[str, Any] = {"symbolOpacity": 1}  # otherwise as pale as the bands
        if mark == "dash" and "shape" not in self.entries[0]:
            look["symbolSize"] = 900  # long enough to show dashes
        legend = alt.Legend(title=self.title or None, **look)
        level = "O" if "sort" in more else "N"
        return kind(f"{self.field}:{level}", scale=scale, legend=legend, **more)


@dataclass(frozen=True)
class Drawing:
    """A figure: its chart over the data set named `table`, the data, and the legends."""

    chart: Any
    data: pd.DataFrame
    legends: Sequence[Legend] = field(default_factory=tuple)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Vega-Lite specification, without data."""
        chart = self.chart.properties(data=alt.NamedData(name="table"))
        for legend in self.legends:
            chart = chart.add_params(legend.parameter)
        with alt.data_transformers.enable(consolidate_datasets=False):
            spec: dict[str, Any] = chart.to_dict()
        spec.pop("config", None)
        return spec


@dataclass(frozen=True, slots=True)
class Series:
    """Colours, dashes, shapes and sizes that distinguish the runs of a figure.

    Few runs: each label has a colour, a dash and a shape (legend `run`). More of them, over k and
    the weight of Pass@1: a colour and shape for each k, a dash and size for each weight.
    """

    columns: Mapping[str, Mapping[str, str]]  # label -> the values of the legends' columns
    legends: tuple[Legend, ...]

    def color(self) -> Any:
        return self.legends[0].channel(alt.Color, "color")

    def shape(self) -> Any:
        return self.legends[0].channel(alt.Shape, "shape")

    def dash(self) -> Any:
        return self.legends[-1].channel(alt.StrokeDash, "dash")

    def size(self) -> Any:
        """Build the size of a point: by weight of Pass@1 if that distinguishes runs."""
        if len(self.legends) == 1:
            return alt.value(SIZES[1])
        return self.legends[1].channel(alt.Size, "size", sort=self.legends[1].names)

    def test(self) -> str:
        """Return the Vega expression that is true for rows of series that are shown."""
        return " && ".join(legend.test for legend in self.legends)


def series_of(records: Sequence[RunRecord], titles: Titles) -> Series:
    """Build the series of the runs, in their order; seeds of one label are one series.

    `titles` has the labels of all runs of the report, so that a run looks the same in all figures.
    """
    first: dict[str, RunRecord] = {}
    for label, record in in_order(records):
        first.setdefault(label, record)
    ks, weights = ({getattr(r, name) for r in first.values()} for name in ("k", "pass1_weight"))
    if len(first) > MOST_NAMED and max(len(ks), len(weights)) > 1:
        return _over_k_and_weight(first, sorted(ks), sorted(weights))
    entries = []
    everywhere = list(titles)
    for label in first:
        place = everywhere.index(label)
        look = {"color": label_color(label, everywhere), "dash": DASHES[place % len(DASHES)]}
        look["shape"] = SHAPES[place % len(SHAPES)]
        entries.append({"name": titles[label], **look})
    columns = {label: {"run": titles[label]} for label in first}
    return Series(columns, (Legend("run", "", entries),))


def _over_k_and_weight(
    first: Mapping[str, RunRecord], ks: Sequence[int], weights: Sequence[float]
) -> Series:
    by_k = [
        {
            "name": f"k = {k}",
            "color": K_COLORS[place % len(K_COLORS)],
            "shape": SHAPES[place % len(SHAPES)],
        }
        for place, k in enumerate(ks)
    ]
    by_weight = [
        {
            "name": f"{weight:g}",
            "dash": DASHES[-(place + 1) % len(DASHES)],
            "size": SIZES[min(place, len(SIZES) - 1)],
        }
        for place, weight in enumerate(weights)
    ]
    columns = {
        label: {"k": f"k = {record.k}", "weight": f"{record.pass1_weight:g}"}
        for label, record in first.items()
    }
    legends = (Legend("k", "", by_k), Legend("weight", "Weight of Pass@1", by_weight))
    return Series(columns, legends)


def label_color(label: str, labels: Sequence[str]) -> str:
    """Return a regime's colour, equal in all figures; if all labels are of one regime, vary it."""
    regime = label.split()[0]
    variants = [other for other in labels if other.split()[0] == regime]
    if 1 < len(variants) == len(labels):
        return K_COLORS[variants.index(label) % len(K_COLORS)]
    return REGIME_COLORS.get(regime, INK)


def kind_legend(colors: Mapping[str, str]) -> Legend:
    """Build the legend for kinds of problems, with the colours of `style.kind_colors`."""
    return Legend(
        "kind",
        "",
        [
            {"name": kind or "all", "color": color, "shape": SHAPES[place % len(SHAPES)]}
            for place, (kind, color) in enumerate(colors.items())
        ],
    )


def config(dark: bool = False, font: str = "Liberation Sans, Arial, sans-serif") -> dict[str, Any]:
    """Return the Vega-Lite settings of all figures, for light or dark paper."""
    swap = DARK if dark else {}
    ink, soft, grid, faint = (swap.get(color, color) for color in (INK, SOFT, GRID, FAINT))
    return {
        "font": font,
        "background": "transparent" if dark else "#FFFFFF",
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft,
            "titleColor": soft,
            "titleFontWeight": "normal",
            "labelFontSize": 12,
            "titleFontSize": 12.5,
            "titlePadding": 8,
            "tickCount": 6,
            "gridColor": grid,
            "domainColor": faint,
            "tickColor": faint,
            "labelOverlap": True,
        },
        # Labels at an end stay beside the axis, so that titles of panels in a row are level.
        "axisYQuantitative": {"labelFlush": True},
        "title": {"color": ink, "fontSize": 14, "anchor": "start", "frame": "group", "offset": 10},
        "legend": {
            "orient": "top",
            "labelColor": ink,
            "titleColor": soft,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "symbolStrokeWidth": 2,
            "symbolSize": 90,
            "labelLimit": 260,
            "columns": 4,
        },
        "concat": {"spacing": 36},
        "line": {"strokeWidth": 2.4, "strokeJoin": "round"},
        "rule": {"strokeWidth": 1.2},
        "text": {"color": ink, "fontSize": 11.5},
    }


def line_at(**at: Any) -> Any:
    """Draw one faint line; a chart over the data would draw one for each row."""
    return alt.Chart(alt.InlineData([{}])).mark_rule(color=FAINT).encode(**at)


def zoom(name: str) -> alt.Parameter:
    """Pan by dragging and zoom by the wheel, both with Shift, so that the page still scrolls."""
    return alt.selection_interval(
        name=f"zoom_{name}",
        bind="scales",
        translate="[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
        zoom="wheel![event.shiftKey]",
    )


def rounded(data: pd.DataFrame, columns: Iterable[str], decimals: int = 3) -> pd.DataFrame:
    """Round some columns to the digits that a page needs."""
    return data.assign(**{name: data[name].astype(float).round(decimals) for name in columns})


def tips(*names: str, **numbers: str) -> list[Any]:
    """Build tooltip rows: columns as they are, and columns of numbers under other names."""
    plain = [alt.Tooltip(n if ":" in n else f"{n}:N", title=n.partition(":")[0]) for n in names]
    titled = [alt.Tooltip(f"{c}:Q", title=title, format=".3~g") for title, c in numbers.items()]
    return [*plain, *titled]
