"""The report's page in a real browser: figures, legends, tables, samples, keyboard, phone, dark."""

from pathlib import Path

import pandas as pd
import pytest
from browser import Opened, chromium, on_phone, overlapping_texts, wider_than_the_window
from PIL import Image, ImageColor
from run_files import write_reproduction, write_rollouts, write_sweep

from passk.report.report import SAMPLE_BYTES, write_report

SCREENSHOTS = Path(__file__).parents[2] / "outputs" / "screenshots"
HOSTILE = (
    '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
    "\u2028<!--<script> & $[0] {{ x }}"
)
FIGURES = [
    "training_curves",
    "final_curves",
    "pareto_regimes",
    "pareto_sweep",
    "heatmaps",
    "alignment_at_start",
    "alignment_curves",
    "prompt_scatter",
    "weight_by_kind",
    "weight_against_agreement",
    "verdict_reasons",
]
PROBLEMS = {
    "train-0-0": [("3+4=7", 1.0)] * 12 + [("3+4=8", 0.0)] * 4,
    "train-0-1": [(HOSTILE, 0.0), ("plain", 0.0), ("plain", 0.0), ("late", None)] * 4,
    "train-0-2": [("2*2=4", 1.0)] * 16,
}


def write_diagnosis(folder: Path) -> None:
    folder.mkdir()
    prompts = {"problem_id": list(PROBLEMS), "kind": ["textbook", "skill", HOSTILE]}
    prompts |= {"level": "", "type": "", "n": 8, "c": [6, 0, 8], "p": [0.75, 0.0, 1.0]}
    prompts |= {"signal": ["", "all wrong", "all right"], "agreement": [0.5, 0.0, 0.0]}
    prompts |= {"agreement_error": 0.1, "weight_8": [0.2, 8.0, 0.0], "contribution_8": 0.1}
    pd.DataFrame(prompts).to_csv(folder / "prompts.csv", index=False)
    curve = {"k": [1, 8], "inner_product": 1.0, "inner_product_low": 0, "inner_product_high": 2}
    curve |= {"pass1_weight": 0.25, "pass1_weight_low": 0.125, "pass1_weight_high": 0.5}
    curve |= {"adam_pass1_weight": 0.375}
    pd.DataFrame(curve).to_csv(folder / "curve.csv", index=False)
    (folder / "manifest.json").write_text('{"command": "diagnose", "policy": "model"}')


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    drawn = {"rollout": {"num_samples": 16, "num_prompts": len(PROBLEMS)}}
    write_reproduction(root / "main", seeds=(0, 1), settings=drawn)
    for regime in ("passk", "hybrid"):
        run = root / "main" / "seed-0" / regime
        for step in (0, 29):
            write_rollouts(run, step, PROBLEMS)
        problems = {"problem_id": list(PROBLEMS), "kind": ["textbook", "skill", ""]}
        problems |= {"split": "train", "level": "", "type": ""}
        problems |= {"prompt": ["3+4=", HOSTILE, "2*2="]}
        pd.DataFrame(problems | {"answer": ["7", "1", "4"]}).to_parquet(run / "problems.parquet")
    write_sweep(root / "sweep")
    write_diagnosis(root / "sweep" / "diagnosis")
    return write_report([root / "main", root / "sweep"], root / "out")


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def desktop(browser, report):
    return Opened(browser, report)


def points(opened, figure):
    return opened.count(f"#{figure} svg .mark-symbol path")


def test_the_weight_that_a_diagnosis_asks_for_is_said(report):
    says = "from a weight of Pass@1 of 0.25 [0.12, 0.50] on; along Adam's step, of 0.38."
    assert says in report.read_text()


def test_every_figure_is_drawn_with_its_points(desktop, report):
    shown = desktop.page.locator("[data-figure]").evaluate_all("all => all.map(f => f.id)")
    assert shown == FIGURES
    for name in FIGURES:
        assert desktop.count(f"#{name} svg.marks") == 1, name
        for ending in ("png", "pdf"):
            assert (report.parent / "figures" / f"{name}.{ending}").stat().st_size > 3000
    # Per panel, of three regimes at four steps, means over seeds.
    assert points(desktop, "training_curves") == 2 * 3 * 4
    assert points(desktop, "pareto_regimes") == 3 + 1  # and the start
    assert points(desktop, "pareto_sweep") == 4 + 1
    assert desktop.count("#heatmaps svg .mark-rect path") == 4 * 4
    assert points(desktop, "weight_against_agreement") == 3
    assert points(desktop, "alignment_at_start") == 3 + 3 * 2  # and each of two seeds
    problems = desktop.page.evaluate(
        "figures.find((f) => f.name === 'prompt_scatter').rows"
        ".reduce((sum, row) => sum + (row.role === 'problem' ? row.problems : 0), 0)"
    )
    assert problems == 3 * 2 * 60
    assert desktop.count("#verdict_reasons svg .mark-area path") > 0


@pytest.mark.parametrize("name", ["training_curves", "pareto_sweep"])
def test_saved_figures_have_legends_in_full_colour(desktop, report, name):
    """Not as pale as the bands and the lines of single seeds."""
    entries = desktop.page.evaluate(f"figures.find((f) => f.name === '{name}').legends[0].entries")
    picture = Image.open(report.parent / "figures" / f"{name}.png").convert("RGB")
    above = picture.crop((0, 0, picture.width, 60))
    colors = {color for _, color in above.getcolors(above.width * above.height)}
    assert {ImageColor.getrgb(entry["color"]) for entry in entries} <= colors


def test_nothing_is_asked_of_a_network_and_nothing_fails(desktop, report):
    assert desktop.requests == [report.as_uri()]
    assert desktop.said == []


def test_no_text_lies_on_another_or_is_cut_off(desktop):
    assert overlapping_texts(desktop) == []
    label = "document.querySelector('#pareto_regimes .role-axis-label text')"
    desktop.page.evaluate(f"{label}.after({label}.cloneNode(true))")
    try:
        assert len(overlapping_texts(desktop)) == 1
    finally:
        desktop.page.evaluate(f"{label}.nextSibling.remove()")


def test_a_legend_hides_and_shows_by_keyboard(desktop):
    button = desktop.page.locator("#pareto_regimes .legends button", has_text="Pass@8-only")
    assert button.get_attribute("aria-pressed") == "true"
    button.focus()
    desktop.page.keyboard.press("Enter")
    desktop.page.wait_for_function(
        "document.querySelectorAll('#pareto_regimes svg .mark-symbol path').length === 3"
    )
    assert button.get_attribute("aria-pressed") == "false"
    desktop.page.keyboard.press("Enter")
    desktop.page.wait_for_function(
        "document.querySelectorAll('#pareto_regimes svg .mark-symbol path').length === 4"
    )


def test_a_figure_lists_its_data(desktop):
    figure = desktop.page.locator("#pareto_regimes")
    figure.locator("details", has_text="Data of this figure").locator("> summary").press("Enter")
    figure.locator("tbody tr").first.wait_for()
    assert figure.locator("tbody tr").count() == 3
    assert "Pass@8-only" in figure.locator("tbody").inner_text()
    with desktop.page.expect_download() as saved:
        figure.get_by_role("button", name="Save as CSV").click()
    assert len(pd.read_csv(saved.value.path())) == 3


def test_tables_sort_by_value(desktop):
    table = desktop.page.locator("main table").first
    heading = table.locator("thead th", has_text="Δ Pass@1")
    place = table.locator("thead th").all_inner_texts().index(heading.inner_text())

    def column():
        cells = table.locator(f"tbody tr :nth-child({place + 1})").all_inner_texts()
        words = [cell.split() for cell in cells if cell.strip()]
        return [float(word[0].replace("\u2212", "-")) for word in words if word[0][0] in "+\u2212"]

    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    heading.get_by_role("button").click()
    assert column() == sorted(column(), reverse=True)


def shown_samples(opened):
    return opened.page.locator("#browser output").inner_text().partition(" \u00b7 ")[0]


def set_filter(opened, name, value):
    control = opened.page.locator(f"#filter-{name}")
    is_list = control.evaluate("element => element.tagName") == "SELECT"
    control.select_option(value) if is_list else control.fill(value)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "12 prompts, 192 samples"),
        ({"run": "Pass@8-only, seed 0"}, "6 prompts, 96 samples"),
        ({"step": "29"}, "6 prompts, 96 samples"),
        ({"kind": "skill"}, "4 prompts, 64 samples"),
        ({"verdict": "timeout"}, "4 prompts, 16 samples"),
        ({"success-from": "50", "success-to": "90"}, "4 prompts, 64 samples"),
        ({"success-to": "10"}, "4 prompts, 64 samples"),
        ({"text": "PLAIN"}, "4 prompts, 32 samples"),
        ({"verdict": "correct", "success-to": "80"}, "4 prompts, 48 samples"),
        # 8 (1-p)^7 is 8 where all fail; the hybrid's weight there is 0.7 + 0.3 * 8.
        ({"weight-from": "5"}, "2 prompts, 32 samples"),
    ],
)
def test_filters(desktop, filters, expected):
    desktop.page.get_by_role("button", name="Clear filters").click()
    for name, value in filters.items():
        set_filter(desktop, name, value)
    assert shown_samples(desktop) == expected


def test_the_address_keeps_the_filters(browser, report):
    place = "#samples?verdict=timeout&run=Pass%408-only%2C+seed+0"
    opened = Opened(browser, report, place=place)
    assert shown_samples(opened) == "2 prompts, 8 samples"
    set_filter(opened, "step", "0")
    assert "step=0" in opened.page.evaluate("location.hash")
    assert shown_samples(opened) == "1 prompt, 4 samples"
    opened.context.close()


def test_pages_of_samples(desktop):
    desktop.page.get_by_role("button", name="Clear filters").click()
    assert desktop.count("#browser article") == 10
    desktop.page.get_by_role("button", name="Next").click()
    assert desktop.count("#browser article") == 2
    assert desktop.page.get_by_role("button", name="Next").is_disabled()


def test_text_of_a_model_is_never_markup(desktop):
    desktop.page.get_by_role("button", name="Clear filters").click()
    set_filter(desktop, "text", "onerror")
    completion = desktop.page.locator("#browser .completion", has_text="onerror").first
    assert completion.evaluate("element => element.textContent") == HOSTILE
    prompt = desktop.page.locator("#browser .text").first
    assert prompt.evaluate("element => element.textContent") == HOSTILE
    point = desktop.page.locator("#weight_against_agreement svg .mark-symbol path").last
    point.dispatch_event("pointermove")
    assert desktop.page.evaluate("window.hacked") is None
    assert desktop.count("img") == 0
    assert desktop.said == []


def test_the_keyboard_reaches_the_samples_and_focus_is_seen(browser, report):
    opened = Opened(browser, report)
    for _ in range(200):
        opened.page.keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement.id") == "filter-run":
            break
    focused = "getComputedStyle(document.activeElement)"
    assert opened.page.evaluate("document.activeElement.id") == "filter-run"
    assert opened.page.evaluate(f"{focused}.outlineStyle") == "solid"
    assert opened.page.evaluate(f"{focused}.outlineWidth") == "3px"
    opened.page.keyboard.press("ArrowDown")
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#filter-run").input_value() == "Pass@8-only, seed 0"
    assert shown_samples(opened) == "6 prompts, 96 samples"
    labels = opened.page.locator("#browser input, #browser select").evaluate_all(
        "all => all.map((e) => e.labels?.[0]?.textContent || e.getAttribute('aria-label'))"
    )
    assert all(labels)
    opened.context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 390), ("light", 320)])
def test_a_phone_shows_all_without_scrolling_sideways(browser, report, scheme, width):
    opened = on_phone(browser, report, width=width, color_scheme=scheme)
    assert wider_than_the_window(opened) == []
    assert overlapping_texts(opened) == []
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    opened.page.screenshot(path=SCREENSHOTS / f"phone_{width}_{scheme}.png", full_page=True)
    assert opened.said == []
    opened.context.close()


def test_dark_mode_changes_colours_and_is_followed(browser, report):
    opened = Opened(browser, report)
    look = """() => [
      getComputedStyle(document.body).backgroundColor,
      document.querySelector('#pareto_regimes .role-axis-label text').getAttribute('fill'),
      [...document.querySelectorAll('#pareto_regimes .mark-symbol path')].map(
        (path) => path.getAttribute('fill')).join(),
    ]"""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    light = opened.page.evaluate(look)
    opened.page.screenshot(path=SCREENSHOTS / "desktop_light.png", full_page=True)
    opened.page.evaluate("delete document.documentElement.dataset.drawn")
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(f"(before) => ({look})()[1] !== before", arg=light[1])
    opened.wait()
    dark = opened.page.evaluate(look)
    opened.page.screenshot(path=SCREENSHOTS / "desktop_dark.png", full_page=True)
    assert all(before != after for before, after in zip(light, dark, strict=True)), (light, dark)
    assert opened.said == []
    opened.context.close()


def test_the_page_is_light_even_with_all_the_samples_it_may_hold(report):
    size = report.stat().st_size
    assert 900_000 < size < 2_000_000  # Vega alone is most of it
    assert size + SAMPLE_BYTES < 5_000_000
