"""What distinguishes the series of the report's figures, and what its page needs to draw them.

A figure is defined once: the page draws it interactively, and its files are PNG and PDF. Series
differ in colour, dash and shape. Areas differ only in colour, and are stacked in the order of their
legend.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import pandas as pd

from passk.report.tables import kind_order
from passk.runs.labels import in_order
from passk.runs.reader import RunRecord
from passk.style import DASHES, INK, K_COLORS, REGIME_COLORS, kind_colors, specification, ticks_at

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
SIZES = (40, 70, 110, 160, 220, 290)
MOST_PANELS = 6  # with more runs, the reader chooses one
MOST_NAMED = 8  # series with a colour of their own; a larger sweep is coloured by k and weight
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
    def test(self) -> str:
        """Vega expression that is true for rows of a name that is shown."""
        return f"indexof(shown_{self.field}, datum['{self.field}']) >= 0"

    @property
    def parameter(self) -> alt.Parameter:
        """Vega-Lite parameter of the names that are shown; the page's legend changes it."""
        return alt.param(name=f"shown_{self.field}", value=self.names)

    def channel(self, kind: Any, mark: str, **more: Any) -> Any:
        """Encode this column: `kind` is `alt.Color` or similar, `mark` a key of the entries."""
        scale = alt.Scale(domain=self.names, range=[entry[mark] for entry in self.entries])
        legend = alt.Legend(title=self.title or None)
        if mark == "dash" and "shape" not in self.entries[0]:
            legend = alt.Legend(title=self.title, symbolSize=900)  # long enough to show dashes
        level = "O" if "sort" in more else "N"
        return kind(f"{self.field}:{level}", scale=scale, legend=legend, **more)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure: its chart over the data set named `table`, the data, and the legends."""

    chart: Any
    data: pd.DataFrame
    legends: Sequence[Legend] = field(default_factory=tuple)

    def spec(self) -> dict[str, Any]:
        """Return the Vega-Lite specification, without data."""
        chart = self.chart.properties(data=alt.NamedData(name="table"))
        return specification(chart.add_params(*(legend.parameter for legend in self.legends)))

    def to_dict(self) -> dict[str, Any]:
        """Return the Vega-Lite specification with data."""
        spec, rows = self.spec(), json.loads(self.data.to_json(orient="records"))
        return spec | {"datasets": spec.get("datasets", {}) | {"table": rows}}

    def for_page(self) -> dict[str, Any]:
        """Return what the page's scripts need: specification, data and legends."""
        table = json.loads(self.data.round(4).to_json(orient="split", index=False))
        names = ("field", "title", "entries")
        legends = [{name: getattr(legend, name) for name in names} for legend in self.legends]
        return {"spec": self.spec(), "data": table, "legends": legends}


@dataclass(frozen=True, slots=True)
class Series:
    """Colours, dashes, shapes and sizes that distinguish the runs of a figure.

    Few runs: each label has a colour, a dash and a shape (legend `run`). More of them, over k and
    the weight of Pass@1: a colour and shape for each k, a dash and size for each weight.
    """

    columns: Mapping[str, Mapping[str, str]]  # label -> the values of the legends' columns
    legends: tuple[Legend, ...]

    @property
    def color(self) -> Any:
        return self.legends[0].channel(alt.Color, "color")

    @property
    def shape(self) -> Any:
        return self.legends[0].channel(alt.Shape, "shape")

    @property
    def dash(self) -> Any:
        return self.legends[-1].channel(alt.StrokeDash, "dash")

    @property
    def size(self) -> Any:
        """Size of a point: by weight of Pass@1 if that distinguishes runs."""
        if len(self.legends) == 1:
            return alt.value(SIZES[2])
        return self.legends[1].channel(alt.Size, "size", sort=self.legends[1].names)

    @property
    def test(self) -> str:
        """Vega expression that is true for rows of series that are shown."""
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
    everywhere = list(titles)
    places = {label: everywhere.index(label) for label in first}
    entries = [
        _entry(titles[label], place, dash=DASHES, shape=SHAPES)
        | {"color": label_color(label, everywhere)}
        for label, place in places.items()
    ]
    columns = {label: {"run": titles[label]} for label in first}
    return Series(columns, (Legend("run", "", entries),))


def _over_k_and_weight(
    first: Mapping[str, RunRecord], ks: Sequence[int], weights: Sequence[float]
) -> Series:
    by_k = [_entry(f"k = {k}", i, color=K_COLORS, shape=SHAPES) for i, k in enumerate(ks)]
    by_weight = [
        _entry(f"{weight:g}", place, dash=DASHES[::-1])
        | {"size": SIZES[min(place, len(SIZES) - 1)]}
        for place, weight in enumerate(weights)
    ]
    columns = {
        label: {"k": f"k = {record.k}", "weight": f"{record.pass1_weight:g}"}
        for label, record in first.items()
    }
    legends = (Legend("k", "", by_k), Legend("weight", "Weight of Pass@1", by_weight))
    return Series(columns, legends)


def _entry(name: str, place: int, **marks: Sequence[Any]) -> dict[str, Any]:
    """Build an entry of a legend; marks begin anew where there are more entries."""
    return {"name": name} | {mark: range_[place % len(range_)] for mark, range_ in marks.items()}


def label_color(label: str, labels: Sequence[str]) -> str:
    """Return a regime's colour, equal in all figures; if all labels are of one regime, vary it."""
    regime = label.split()[0]
    variants = [other for other in labels if other.split()[0] == regime]
    if 1 < len(variants) == len(labels):
        return K_COLORS[variants.index(label) % len(K_COLORS)]
    return REGIME_COLORS.get(regime, INK)


def kind_legend(kinds: Sequence[str] | pd.Series) -> Legend:
    """Build the legend for the kinds of problems in a column."""
    colors = kind_colors(kind_order(kinds))
    entries = [
        _entry(kind or "all", place, shape=SHAPES) | {"color": color}
        for place, (kind, color) in enumerate(colors.items())
    ]
    return Legend("kind", "", entries)


def by_run(names: Sequence[str], panel: Callable[[str, str, float], Any]) -> Any:
    """Draw a panel per run; of many runs one larger panel, for which the reader chooses the run.

    `panel` draws the rows that pass a test, under a name, so many times larger than usual.
    """
    if len(names) > MOST_PANELS:
        one = panel("datum.run == run", "one", 1.5).add_params(choice("run", names, "Run"))
        return one.properties(title=alt.TitleParams(alt.ExprRef("run")))
    panels = [
        panel(f"datum.run == {json.dumps(name)}", str(place), 1).properties(title=name)
        for place, name in enumerate(names)
    ]
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    return alt.concat(*panels, columns=columns).resolve_scale(
        color="shared", shape="shared", size="shared"
    )


def choice(name: str, options: Sequence[str], title: str) -> alt.Parameter:
    """Return a parameter that the reader chooses on the page; in the files it is the first."""
    select = alt.binding_select(options=list(options), name=f"{title} ")
    return alt.param(name=name, value=options[0], bind=select)


def rows_where(*tests: str) -> alt.Chart:
    """Return a chart over the rows of the data that pass all tests, which are Vega expressions."""
    return alt.Chart().transform_filter(" && ".join(tests))


def over_steps(**scale: Any) -> alt.X:
    """Return the axis of training steps, which are whole numbers."""
    axis = alt.Axis(tickMinStep=1, grid=False)
    return alt.X("step:Q", title="training step", axis=axis, scale=alt.Scale(nice=False, **scale))


def over_k(most: int, title: str, field: str = "k") -> alt.X:
    """Return the axis of a field of k, from 1 to `most`, logarithmic, with ticks at powers of 2."""
    most = max(most, 2)
    scale = alt.Scale(type="log", base=2, domain=[1, most], padding=10, nice=False)
    axis = ticks_at([2**i for i in range(most.bit_length())], format="d")
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=axis)


def zoom(name: str) -> alt.Parameter:
    """Pan by dragging and zoom by the wheel, both with Shift, so that the page still scrolls."""
    return alt.selection_interval(
        name=f"zoom_{name}",
        bind="scales",
        translate="[pointerdown[event.shiftKey], window:pointerup] > window:pointermove!",
        zoom="wheel![event.shiftKey]",
    )


def tips(*names: str, **numbers: str) -> list[Any]:
    """Build tooltip rows: columns as they are, and columns of numbers under other names."""
    plain = [alt.Tooltip(n if ":" in n else f"{n}:N", title=n.partition(":")[0]) for n in names]
    titled = [alt.Tooltip(f"{c}:Q", title=title, format=".3~g") for title, c in numbers.items()]
    return [*plain, *titled]
