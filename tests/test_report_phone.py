"""The report's page on narrow windows, of runs whose names have no place to break."""

import pytest
from browser import chromium, on_phone, overlapping_texts, wider_than_the_window
from run_files import simulated_counts, write_rollouts, write_run

from passk.report import write_report

NAME = "a_name_without_any_place_to_break"
SAMPLES = {f"{NAME}_{NAME}": [(3 * NAME, 1.0), ("4", 0.0)] * 8}


@pytest.fixture(scope="module")
def with_long_names(tmp_path_factory):
    """Five runs that differ in a setting with a long value, and so have long names."""
    root = tmp_path_factory.mktemp("long")
    for place, regime in enumerate(("passk", "passk", "hybrid", "hybrid", "pass1")):
        counts, kinds = simulated_counts(regime, (0, 15, 30), seed=0)
        settings = {"data": {"name": f"{place}_{NAME}_{NAME}"}, "rollout": {"num_samples": 16}}
        about = {"counts": counts, "kinds": [f"{kind}_{NAME}" for kind in kinds]}
        run = write_run(root / f"{place}_{NAME}", regime=regime, settings=settings, **about)
        for step in (0, 29):
            write_rollouts(run, step, SAMPLES)
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
