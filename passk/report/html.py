"""Render the report as one HTML file that holds all its figures, tables, scripts and data.

Text that a model or a user wrote reaches the page as escaped HTML, or as JSON that scripts insert
as text, never as markup.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from passk.report.chart_style import DARK, Drawing, config
from passk.text import printable

_PAGE_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'
_FEW_WORDS = 0.5  # code a column of text if it has fewer distinct words per row
_PNG_SCALE = 2
_SECTIONS = {
    "changes": "Changes",
    "sweep": "Sweep",
    "gradients": "Gradients",
    "problems": "Problems",
    "verdicts": "Verdicts",
    "samples": "Samples",
    "costs": "Costs",
    "making": "How it was made",
}
# The version of Vega-Lite that altair writes.
_VEGA_LITE = "6.4"


def render(page: Mapping[str, Any], data: Mapping[str, object], samples: str | None) -> str:
    """Render the page from `assets/report.html.j2`.

    `data` is read by its scripts; `samples` is the JSON of `SampleRows`, if there are any.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("passk", "assets"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_asset("report.js"), *([_asset("samples.js")] if samples else [])]
    if page["figures"]:
        scripts.insert(0, vega_bundle())
    text = environment.get_template("report.html.j2").render(
        page,
        contents=_contents(page),
        style=Markup(_asset("report.css")),
        scripts=[_script(script) for script in scripts],
        data={"page-data": embedded(data)} | ({"page-samples": Markup(samples)} if samples else {}),
    )
    return printable(text)


def _contents(page: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List the sections that the page has: id and short name."""
    figures = page["figures"]
    has = {
        "changes": True,
        "sweep": page["sweep"],
        "gradients": page["kernel"] or {"alignment_at_start", "alignment_curves"} & set(figures),
        "problems": page["kinds"] or page["agreement"] or "prompt_scatter" in figures,
        "verdicts": "verdict_reasons" in figures,
        "samples": page["samples"],
        "costs": page["costs"],
        "making": True,
    }
    return [(name, title) for name, title in _SECTIONS.items() if has[name]]


def figure_data(drawings: Mapping[str, Drawing]) -> dict[str, Any]:
    """Collect what the page's scripts need to draw: specifications, data by column, settings."""
    figures = {
        name: {
            "spec": drawing.spec,
            "data": packed(drawing.data),
            "legends": [
                {"field": legend.field, "title": legend.title, "entries": legend.entries}
                for legend in drawing.legends
            ],
        }
        for name, drawing in drawings.items()
    }
    configs = {"light": config(font=_PAGE_FONT), "dark": config(dark=True, font=_PAGE_FONT)}
    configs["light"]["background"] = "transparent"
    return {"figures": figures, "configs": configs, "dark": DARK}


def save_figures(drawings: Mapping[str, Drawing], folder: Path) -> None:
    """Write NAME.png and NAME.pdf of each drawing, on light paper."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in drawings.items():
        spec = drawing.spec | {"datasets": {"table": _rows(drawing.data)}, "padding": 12}
        vega: dict[str, Any] = vl_convert.vegalite_to_vega(
            _drawable(spec), vl_version=_VEGA_LITE, config=config()
        )
        for legend in vega.get("legends", ()):
            if "shape" in legend:  # dashes would break the outlines of its shapes
                legend.pop("strokeDash", None)
        (folder / f"{name}.png").write_bytes(vl_convert.vega_to_png(vega, scale=_PNG_SCALE))
        (folder / f"{name}.pdf").write_bytes(vl_convert.vega_to_pdf(vega))


def _drawable(value: Any) -> Any:
    """Replace each character that SVG cannot hold: vl-convert aborts on these."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_drawable(key): _drawable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_drawable(inner) for inner in value]
    return value


def packed(table: pd.DataFrame) -> dict[str, Any]:
    """Convert a table to columns for JSON; text that repeats is stored once."""
    columns: dict[str, Any] = {}
    for name in table.columns:
        values = _plain(table[name])
        words = list(dict.fromkeys(v for v in values if isinstance(v, str)))
        is_text = all(v is None or isinstance(v, str) for v in values)
        if is_text and 0 < len(words) < _FEW_WORDS * len(values):
            code = {word: place for place, word in enumerate(words)}
            absent = len(words)
            codes = [absent if v is None else code[v] for v in values]
            columns[str(name)] = {"words": [*words, None], "codes": codes}
        else:
            columns[str(name)] = values
    return columns


def embedded(data: object) -> Markup:
    """Convert data to JSON that is safe in a script element, whatever text it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script from vl-convert, without network."""
    return str(vl_convert.javascript_bundle(None, vl_version=_VEGA_LITE))  # type: ignore[arg-type]


def _script(text: str) -> Markup:
    """Escape a script for the page, so that nothing in it can end its element."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "\\x3c!--"))


def _asset(name: str) -> str:
    return files("passk").joinpath("assets", name).read_text(encoding="utf-8")


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    columns = {str(name): _plain(table[name]) for name in table.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _plain(column: pd.Series) -> list[Any]:
    """Convert values to Python's types; missing and infinite become None, whole numbers int."""
    values = column.astype(object).where(column.notna(), None).tolist()
    return [_number(v) if isinstance(v, float) else v for v in values]


def _number(value: float) -> float | int | None:
    if value != value or value in (float("inf"), float("-inf")):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
