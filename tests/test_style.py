"""Parts that figures share: ticks of axes that are linear around 0, and pictures of charts."""

import altair as alt
import pytest

from passk.style import picture, symlog


@pytest.mark.parametrize(
    ("low", "high", "linear", "ticks"),
    [
        (0, 500, 1, [0, 1, 10, 100]),
        (0, 8, 0.01, [0, 0.01, 0.1, 1]),
        (-40, 20, 0.5, [-10, -1, 0, 1, 10]),
        (-3, 0, 1, [-1, 0]),
        (0, 0, 1, [0]),
    ],
)
def test_ticks_around_0_have_room_for_their_labels(low, high, linear, ticks):
    axis = symlog(low, high, linear)["axis"].to_dict()
    assert axis["values"] == pytest.approx(ticks) and axis["tickCount"] == len(ticks)


def test_a_chart_becomes_png_or_pdf_whatever_its_names_hold():
    rows = [{"x": x, "name": "a\0b $x$ \x1b"} for x in range(6000)]  # more than Altair lets through
    chart = alt.Chart(alt.Data(values=rows)).mark_point().encode(x="x:Q", color="name:N")
    assert picture(chart)[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture(chart, "pdf")[:4] == b"%PDF"
