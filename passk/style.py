"""Style and parts that all figures share, and the pictures of Altair's charts.

Colours are those of Okabe and Ito (2008), which colour-blind readers can distinguish. Where series
may be confused they also differ in dash and shape, so that nothing depends on colour alone.
"""

import json
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, pairwise
from typing import Any

import altair as alt
import numpy as np
import vl_convert
from numpy.typing import NDArray

from passk.text import printable

REGIME_COLORS = {"sft": "#595959", "pass1": "#0072B2", "passk": "#D55E00", "hybrid": "#009E73"}
REGIME_COLORS |= {"adaptive_k": "#CC79A7", "curriculum": "#E69F00", "projected": "#56B4E9"}
KIND_COLORS = ("#56B4E9", "#E69F00", "#CC79A7", "#0072B2", "#009E73", "#F0E442")
K_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2, 1, 2], [1, 4])
INK, SOFT, FAINT, GRID, PAPER = "#222222", "#5D636D", "#B8B8B8", "#E6E6E6", "#FFFFFF"
# Cosines from -1 to 1 (ColorBrewer's RdBu): blue interferes.
DIVERGING = (
    *("#053061", "#2166AC", "#4393C3", "#92C5DE", "#D1E5F0", "#F7F7F7"),
    *("#FDDBC7", "#F4A582", "#D6604D", "#B2182B", "#67001F"),
)
PANEL = 380  # width of a panel in the files; the page fits panels to the window
# The version of Vega-Lite that altair writes.
VEGA_LITE = "6.4"
_PNG_SCALE = 2
_TICK_SHARE = 0.07  # least distance of ticks, as a share of the axis
_LEAST_PIXELS = 1200  # of a side of a matrix, so that its squares have sharp edges


def kind_colors(kinds: Iterable[str]) -> dict[str, str]:
    """Map each kind to a colour; kinds come in the order of `tables.kind_order`."""
    return dict(zip(kinds, cycle(KIND_COLORS), strict=False))


def config(
    swap: Mapping[str, str] | None = None, font: str = "Liberation Sans, Arial, sans-serif"
) -> dict[str, Any]:
    """Return the Vega-Lite settings of all figures; `swap` puts other colours in place of some."""
    ink, soft, grid, faint, paper = (
        (swap or {}).get(c, c) for c in (INK, SOFT, GRID, FAINT, PAPER)
    )
    return {
        "font": font,
        "background": paper,
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
            "symbolOpacity": 1,  # otherwise as pale as bands
            "labelLimit": 260,
            "columns": 4,
            "title": None,
        },
        "concat": {"spacing": 36},
        "point": {"filled": True, "opacity": 1},
        "line": {"strokeWidth": 2.4, "strokeJoin": "round"},
        "rule": {"strokeWidth": 1.2},
        "text": {"color": ink, "fontSize": 11.5},
    }


def specification(chart: Any) -> dict[str, Any]:
    """Return the Vega-Lite specification of a chart of any size, without Altair's settings."""
    with alt.data_transformers.enable("default", max_rows=None):
        spec: dict[str, Any] = chart.to_dict()
    spec.pop("config", None)
    return spec


def picture(chart: Any, kind: str = "png") -> bytes:
    """Draw a chart, or whatever has its `to_dict`, on light paper: as PNG, or as PDF."""
    spec = _drawable(specification(chart) | {"padding": 12})
    vega: Any = vl_convert.vegalite_to_vega(spec, vl_version=VEGA_LITE, config=config())
    for legend in vega.get("legends", ()):
        if "shape" in legend:  # dashes would break the outlines of its shapes
            legend.pop("strokeDash", None)
    if kind == "pdf":
        return bytes(vl_convert.vega_to_pdf(vega))
    return bytes(vl_convert.vega_to_png(vega, scale=_PNG_SCALE))


def _drawable(value: Any) -> Any:
    """Replace each character that SVG cannot hold: vl-convert aborts on these."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_drawable(key): _drawable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_drawable(inner) for inner in value]
    return value


def line_at(color: str = FAINT, **at: Any) -> Any:
    """Draw one line; a chart over the data would draw one for each row."""
    return alt.Chart(alt.InlineData([{}])).mark_rule(color=color).encode(**at)


def ticks_at(values: Sequence[float], **more: Any) -> alt.Axis:
    """Return an axis with a tick at each of the values; Vega would thin them to `tickCount`."""
    return alt.Axis(values=list(values), tickCount=len(values), **more)


def symlog(low: float, high: float, linear: float, padding: float = 0) -> dict[str, Any]:
    """Return scale and axis that are linear up to about `linear` from 0, and logarithmic beyond.

    Ticks are at 0 and at powers of ten, with room for their labels.
    """
    length = sum(np.log1p(max(end, 0) / linear) for end in (-low, high))
    ticks = [0.0]
    for sign, end in ((-1, -low), (1, high)):
        last, power = np.inf, 10.0 ** np.floor(np.log10(max(end, linear / 10)))
        while (place := np.log1p(power / linear)) > _TICK_SHARE * length:
            if place <= min(last - _TICK_SHARE * length, np.log1p(max(end, 0) / linear)):
                ticks.append(sign * power)
                last = place
            power /= 10
    return {
        "scale": alt.Scale(
            type="symlog", constant=linear, domain=[low, high], nice=False, padding=padding
        ),
        "axis": ticks_at(sorted(ticks), labelExpr="format(datum.value, '~g')"),
    }


def matrix(values_PP: NDArray[np.float64], names: Sequence[str], limit: float, label: str) -> Any:
    """Draw a matrix in colours from -`limit` to `limit`, with borders and names of its groups.

    Rows of one name lie together; NaN is left white; `label` is the title of the colours. The
    matrix is drawn as one image, as it may have millions of entries.
    """
    starts = [0, *(i for i in range(1, len(names)) if names[i] != names[i - 1]), len(names)]
    labels = {f"{(i + j) / 2:g}": [printable(names[i]), str(j - i)] for i, j in pairwise(starts)}
    shown = f"{json.dumps(labels)}[format(datum.value, '~f')]"
    middles = [float(at) for at in labels]
    bare = {"grid": False, "ticks": False}
    ends = {"from": 0, "to": len(names)}
    square = alt.Chart(alt.InlineData([ends])).encode(
        alt.X(
            "from:Q",
            title=None,
            scale=alt.Scale(domain=list(ends.values()), nice=False),
            axis=ticks_at(
                middles, labelExpr=f"{shown}[0]", labelAngle=-90 * (len(labels) > 4), **bare
            ),
        ),
        alt.Y(
            "from:Q",
            title=None,
            scale=alt.Scale(domain=list(ends.values())[::-1], nice=False),
            axis=ticks_at(middles, labelExpr=shown, **bare),
        ),
        alt.X2("to"),
        alt.Y2("to"),
    )
    beyond = "≥≤" if np.nanmax(np.abs(values_PP)) > limit else "  "
    sign = f"datum.value >= {limit} ? '{beyond[0]}' : datum.value <= {-limit} ? '{beyond[1]}' : ''"
    legend = alt.Legend(
        title=label,
        titleOrient="right",
        orient="right",
        gradientLength=1.2 * PANEL,
        gradientOpacity=1,
        values=(limit * np.linspace(-1, 1, 9)).tolist(),
        labelExpr=f"({sign}) + format(datum.value, '.2~g')",
        titleLimit=2 * PANEL,
        labelOverlap=False,
    )
    colors = alt.Scale(domain=[-limit, limit], range=list(DIVERGING), interpolate="rgb")
    borders = [
        line_at(INK, **{side: alt.datum(border)}) for border in starts[1:-1] for side in "xy"
    ]
    return alt.layer(
        square.mark_image(url=_as_image(values_PP, limit), aspect=False),
        square.mark_rect(opacity=0).encode(alt.Color("from:Q", scale=colors, legend=legend)),
        *borders,
    ).properties(width=1.4 * PANEL, height=1.4 * PANEL)


def _as_image(values_PP: NDArray[np.float64], limit: float) -> str:
    """Encode a matrix as the address of a PNG image in the colours of `DIVERGING`."""
    stops = np.linspace(0, 254, len(DIVERGING))
    colors = np.array([list(bytes.fromhex(color[1:])) for color in DIVERGING])
    palette = np.stack([np.interp(np.arange(255), stops, channel) for channel in colors.T], axis=-1)
    places = np.interp(values_PP, [-limit, limit], [0, 254])
    pixels = np.where(np.isnan(places), 255, places.round()).astype(np.uint8)  # 255 is white
    times = -(-_LEAST_PIXELS // len(pixels))
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    lines = np.pad(pixels, ((0, 0), (1, 0))).tobytes()  # each begins with its filter, none
    chunks = {b"IHDR": struct.pack(">2I5B", *pixels.shape[::-1], 8, 3, 0, 0, 0)}  # 256 colours
    chunks |= {b"PLTE": palette.round().astype(np.uint8).tobytes() + b"\xff" * 3}
    chunks |= {b"IDAT": zlib.compress(lines), b"IEND": b""}
    parts = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks.items()
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    return f"data:image/png;base64,{b64encode(png).decode()}"
