"""Pages from templates: paragraphs on one line, tables as they are, no fact left out."""

from math import nan
from types import SimpleNamespace

import jinja2
import pandas as pd
import pytest

from passk.report.pages import markdown_page
from passk.statistics import Interval

TABLE = "| a |\n|---|\n| 1 |\n"


def test_tables_and_lists_keep_their_lines_and_gaps_close():
    facts = {"objective": "Pass@2", "estimator": "mixture", "n": 4, "sentences": ["One.", "Two."]}
    text = markdown_page("explain", **facts, by_p=TABLE, beside="", by_c=TABLE)
    assert text.splitlines() == [
        *("# Pass@2 by mixture, n = 4", "", "- One.", "- Two.", ""),
        *("## By success probability p of a prompt", "", *TABLE.splitlines(), ""),
        *("## By right samples c of a group", "", *TABLE.splitlines()),
    ]


def test_a_paragraph_is_one_line():
    toy = SimpleNamespace(p_hard=0.25, delta=0.2, k=8, num_steps=10, step_size=0.5, theta=(-2, 1))
    tables = dict.fromkeys(("two_prompts", "ascent", "population"), TABLE)
    text = markdown_page("toy", toy=toy, end=[0, 1], best=[2, 3], error=1e-9, **tables)
    blocks = text.rstrip("\n").split("\n\n")
    assert all("\n" not in block for block in blocks if not block.startswith("|"))
    assert "0.25 of the prompts are hard, delta = 0.2, k = 8; 10 steps of 0.5 along the" in text
    assert blocks.count(TABLE.rstrip()) == 3


@pytest.mark.parametrize(
    ("without", "solved", "says"),
    [
        (
            1,
            2,
            "3 of 24 prompts carry no gradient signal: on 1 every judged sample was wrong, on 2 ",
        ),
        (1, 0, "1 of 24 prompts carries no gradient signal: every judged sample was wrong. It is"),
        (0, 1, "1 of 24 prompts carries no gradient signal: every judged sample was right. It is"),
        (0, 0, "Each prompt carries a gradient signal."),
    ],
)
def test_prompts_without_signal_are_counted(without, solved, says):
    text = markdown_page(
        "diagnosis",
        found=SimpleNamespace(
            prompts=pd.DataFrame({"p": [0.5] * 24}),
            first=SimpleNamespace(k=SimpleNamespace(value=float("inf")), share=0.1),
            promised=None,
            k=2,
            groups={},
        ),
        asked=SimpleNamespace(num_samples=8, parameters="all", preconditioned=False),
        rollout=SimpleNamespace(top_p=1),
        differences={"length": 1.0, "error": 0.1, "num_tried": 8},
        seconds=dict.fromkeys(("sampling", "gradient", "derivatives", "cosines"), 1.0),
        num_without=without,
        num_solved=solved,
        samples_per_prompt=8,
        min_samples=9,
        grouping="kind",
        signs={},
        weight=Interval(0.4, 0.25, 0.6),
        along_adam=Interval(nan, nan, nan),
        matrix="",
        **dict.fromkeys(("curve", "agreed", "suspects", "injected"), pd.DataFrame()),
    )
    assert f"24 prompts x 8 samples, Pass@1 50.0 %. {says}" in text
    assert "has a weight (regime.pass1_weight) of 0.40 or more (95 % interval" in text
    assert "Along Adam's step" not in text


@pytest.mark.parametrize(
    "name",
    ["diagnosis", "explain", "filter", "filtered_sets", "interference", "second_order", "toy"],
)
def test_a_fact_that_is_missing_is_an_error(name):
    with pytest.raises(jinja2.UndefinedError):
        markdown_page(name)
