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

import vl_convert
from markupsafe import Markup

from passk.console import working
from passk.report.chart_style import Drawing
from passk.report.pages import environment
from passk.style import FAINT, GRID, INK, PAPER, SOFT, VEGA_LITE, config, picture
from passk.text import printable

_PAGE_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif'
# The page in dark mode puts these in place of the colours that would be too dark there.
DARK = {
    INK: "#E7E9ED",
    FAINT: "#59606B",
    SOFT: "#A2A9B4",
    GRID: "#2B3038",
    "#595959": "#B4BAC4",
    "#0072B2": "#4FA3E3",
    PAPER: "#15171B",
}


def render(page: Mapping[str, Any], data: Mapping[str, object], samples: str | None) -> str:
    """Render the page from `templates/report.html.j2`.

    `data` is read by its scripts; `samples` is the JSON of `SampleRows`, if there are any.
    """
    scripts = [_asset("report.js"), *([_asset("samples.js")] if samples else [])]
    if page["figures"]:
        scripts.insert(0, vega_bundle())
    text = (
        environment()
        .get_template("report.html.j2")
        .render(
            page,
            style=Markup(_asset("report.css")),
            scripts=[_script(script) for script in scripts],
            data={"page-data": embedded(data)}
            | ({"page-samples": Markup(samples)} if samples else {}),
        )
    )
    return printable(text)


def figure_data(drawings: Mapping[str, Drawing]) -> dict[str, Any]:
    """Collect what the page's scripts need to draw: figures, settings and colours."""
    configs = {
        name: config(swap, font=_PAGE_FONT) | {"background": "transparent"}
        for name, swap in (("light", None), ("dark", DARK))
    }
    figures = {name: drawing.for_page() for name, drawing in drawings.items()}
    return {"figures": figures, "configs": configs, "dark": DARK}


def save_figures(drawings: Mapping[str, Drawing], folder: Path) -> None:
    """Write NAME.png and NAME.pdf of each drawing, on light paper."""
    folder.mkdir(parents=True, exist_ok=True)
    with working("drawing figures", len(drawings), "figures") as phase:
        for name, drawing in drawings.items():
            for kind in ("png", "pdf"):
                (folder / f"{name}.{kind}").write_bytes(picture(drawing, kind))
            phase.advance()


def embedded(data: object) -> Markup:
    """Convert data to JSON that is safe in a script element, whatever text it holds."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def vega_bundle() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script from vl-convert, without network."""
    return str(vl_convert.javascript_bundle(None, vl_version=VEGA_LITE))  # type: ignore[arg-type]


def _script(text: str) -> Markup:
    """Escape a script for the page, so that nothing in it can end its element."""
    return Markup(text.replace("</script", "<\\/script").replace("<!--", "\\x3c!--"))


def _asset(name: str) -> str:
    return files("passk").joinpath("assets", name).read_text(encoding="utf-8")
