"""How the report's page looks: narrow windows, names without a place to break, colour and contrast.

Colour-blindness is simulated with the matrices of Machado, Oliveira and Fernandes (2009) for full
severity, in linear RGB; distances are those of CIELAB.
"""

from itertools import combinations

import numpy as np
import pytest
from browser import Opened, chromium, on_phone, overlapping_texts, wider_than_the_window
from run_files import simulated_counts, write_rollouts, write_run

from passk.report.report import write_report

NAME = "a_name_without_any_place_to_break"
DEUTERANOPIA = [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]
PROTANOPIA = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
SEEN = 12  # CIELAB; two just differ at about 2
SAMPLES = {f"{NAME}_{NAME}": [(3 * NAME, 1.0), ("4", 0.0), ("5", 0.0), ("6", 0.0), ("7", 0.0)] * 4}
REASONS = ["correct", "wrong", "unparsed", "truncated", "timeout"] * 4


@pytest.fixture(scope="module")
def with_long_names(tmp_path_factory):
    """Five runs that differ in a setting with a long value, and so have long names."""
    root = tmp_path_factory.mktemp("long")
    for place, regime in enumerate(("passk", "passk", "hybrid", "hybrid", "pass1")):
        counts, kinds = simulated_counts(regime, (0, 15, 30), seed=0)
        settings = {"data": {"name": f"{place}_{NAME}_{NAME}"}, "rollout": {"num_samples": 20}}
        about = {"counts": counts, "kinds": [f"{kind}_{NAME}" for kind in kinds]}
        run = write_run(root / f"{place}_{NAME}", regime=regime, settings=settings, **about)
        for step in (0, 29):
            write_rollouts(run, step, SAMPLES, reason=REASONS)
    return write_report([root], root / "out")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.mark.parametrize("width", [320, 390])
def test_long_names_do_not_widen_a_phone(browser, with_long_names, width):
    opened = on_phone(browser, with_long_names, width=width)
    assert wider_than_the_window(opened) == []
    assert overlapping_texts(opened) == []
    names = opened.page.locator("#training_curves .legends button").all_inner_texts()
    assert len(names) == 5 and sum(NAME in name for name in names) == 4
    buttons = opened.page.locator(".legends button").evaluate_all(
        "all => all.map((button) => button.getBoundingClientRect().right)"
    )
    assert max(buttons) < width
    assert opened.said == []
    opened.context.close()


def linear(color):
    """Linear RGB of `#RRGGBB` or `rgb(r, g, b)`."""
    if color.startswith("#"):
        values = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        values = [float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    c = np.array(values) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(color, sight):
    white = np.array([0.9505, 1.0, 1.089])
    xyz = np.array(TO_XYZ) @ np.clip(np.array(sight) @ linear(color), 0, 1) / white
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, other):
    """The ratio of WCAG 2.2: text needs 4.5."""
    light, dark = sorted((float(linear(c) @ TO_XYZ[1]) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_measures_are_those_of_the_literature():
    assert contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert contrast("#777777", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)
    assert lab("#FF0000", np.eye(3)) == pytest.approx([53.2, 80.1, 67.2], abs=0.3)
    green, brown = (lab(color, DEUTERANOPIA) for color in ("#5A7D00", "#A06A00"))
    assert np.linalg.norm(green - brown) < SEEN  # a pair that deuteranopes mix up


def legends(opened):
    found = opened.page.evaluate(
        "figures.flatMap((f) => f.legends.map((l) => [f.name, l.entries]))"
    )
    assert {name for name, _ in found} >= {"training_curves", "prompt_scatter", "verdict_reasons"}
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_needs_colour_to_tell_series_apart(browser, with_long_names, scheme):
    opened = Opened(browser, with_long_names, color_scheme=scheme)
    for name, entries in legends(opened):
        looks = {str((e.get("dash"), e.get("shape"), e.get("size"))) for e in entries}
        if len(looks) == len(entries):
            continue
        # Areas have a colour alone: the colour-blind must see that two of them differ.
        shades = [opened.page.evaluate("shade", entry["color"]) for entry in entries]
        for sight in (np.eye(3), DEUTERANOPIA, PROTANOPIA):
            for one, other in combinations(shades, 2):
                distance = np.linalg.norm(lab(one, sight) - lab(other, sight))
                assert distance > SEEN, (name, one, other, sight)
    opened.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(browser, with_long_names, scheme):
    opened = Opened(browser, with_long_names, color_scheme=scheme)
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    places = ["p", "h2", "td", ".interval", "thead th", "figcaption", "summary", "nav a", ".note"]
    places += [".legends button", ".legends span", ".verdict.right", ".verdict.wrong", "option"]
    colors = opened.page.evaluate(
        """(places) => places.flatMap((place) => [...document.querySelectorAll(place)].slice(0, 3)
          .map((element) => [place, getComputedStyle(element).color]))""",
        places,
    )
    drawn = opened.page.evaluate(
        "[...document.querySelectorAll('.plot text')].map((t) => ['plot', t.getAttribute('fill')])"
    )
    assert {place for place, _ in colors} >= {*places} - {".legends span"}
    texts = {(place, color) for place, color in [*colors, *drawn] if color != "transparent"}
    faint = [(place, color) for place, color in texts if contrast(color, paper) < 4.5]
    assert faint == []
    opened.context.close()
