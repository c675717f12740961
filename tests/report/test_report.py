"""The report over complete and partial material: its files, its page, its figures."""

import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from run_files import exact_pass_at_k, simulated_counts, write_reproduction, write_run, write_sweep
from small_runs import pixels_of, snapshot

from passk.errors import UserError
from passk.report.report import write_report
from passk.report.run_plots import final_curves, pareto_front
from passk.report.tables import kind_order, titles_of
from passk.runs.reader import find_runs, load_run
from passk.style import kind_colors, picture

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags close in order, and collects what the page points to."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.headings, self.text = [], [], [], text
        self.figures = []
        self.feed(text)
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self.figures += [value for name, value in attrs if name == "data-figure"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def read_page(file):
    text = file.read_text()
    page = Page(text)
    assert all(source.startswith(("#", "data:,")) for source in page.sources)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "@import" not in style and "url(" not in style
    return page


def assert_drawn(file):
    pixels = pixels_of(file)
    assert min(pixels.shape[:2]) > 200
    assert (pixels < 0.9).any(axis=-1).mean() > 0.002, f"{file.name} is blank"
    assert pixels.std() > 0.02


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    write_reproduction(root / "main", seeds=(0, 1))
    write_sweep(root / "sweep")
    return write_report([root / "main", root / "sweep"], root / "out")


def test_everything_is_written(full):
    out = full.parent
    table = pd.read_csv(out / "table.csv")
    assert list(table.columns[:4]) == ["regime", "seed", "pass1", "passk"]
    assert len(table) == 4 * 3
    assert len(pd.read_csv(out / "sweep.csv")) == 4
    assert "| Pass@8-only | all |" in (out / "table.md").read_text()
    assert {file.stem for file in (out / "figures").glob("*.png")} == {
        "training_curves",
        "final_curves",
        "pareto_regimes",
        "alignment_at_start",
        "alignment_curves",
        "prompt_scatter",
        "weight_by_kind",
        "pareto_sweep",
        "heatmaps",
    }
    for name in ("headline", "per_seed", "sweep", "kinds", "costs", "runs"):
        for ending in ("csv", "md", "tex"):
            assert (out / "tables" / f"{name}.{ending}").stat().st_size > 0


def test_figures_are_drawn(full):
    for file in (full.parent / "figures").glob("*.png"):
        assert_drawn(file)


def test_page_is_one_file_with_every_section(full):
    page = read_page(full)
    assert len(page.figures) == 9
    assert page.headings == [
        "What each regime did to Pass@1 and Pass@k",
        "Sweep over k and the weight of Pass@1",
        "Where the gradients point",
        "Which problems changed, and which were up-weighted",
        "What it cost",
        "How it was made",
    ]
    for words in (
        "Pass@8-only",
        "Against the starting checkpoint",
        "Each seed",
        "textbook and calculator",
        "regime.pass1_weight",
        "passk train regime=hybrid",
        "0123abc",
        "2.12.0",
    ):
        assert words in page.text


def test_report_repeats_exactly(full, tmp_path):
    root = full.parent.parent
    again = write_report([root / "main", root / "sweep"], tmp_path)
    for name in ("table.csv", "table.md", "sweep.csv"):
        assert (tmp_path / name).read_bytes() == (full.parent / name).read_bytes()
    strip = re.compile(r"<th scope=\"row\">[^<]*</th>")  # run folders are relative to the page
    assert strip.sub("", again.read_text()) == strip.sub("", full.read_text())


def test_sft_alone(tmp_path):
    counts, kinds = simulated_counts("sft", (30,), seed=0)
    write_run(tmp_path / "run", regime="sft", counts=counts, kinds=kinds)
    page = read_page(write_report([tmp_path / "run"], tmp_path / "out"))
    assert page.headings[0].startswith("What each regime")
    assert "Sweep over k and the weight of Pass@1" not in page.headings
    assert "Where the gradients point" not in page.headings


def test_unfinished_run_without_evaluations(tmp_path):
    run = tmp_path / "run"
    write_run(run, regime="passk", counts={}, kinds=[], with_alignment=False, status="running")
    page = read_page(write_report([run], run))
    assert page.figures == []
    assert "1 not finished" in page.text
    assert page.headings[0].startswith("What each regime")
    assert page.headings[-1] == "How it was made"
    assert "vegaEmbed=" not in page.text


def test_final_curves_have_bands_for_one_seed_and_a_start(tmp_path):
    runs = [
        write_run(tmp_path / f"{regime}-{seed}", regime=regime, seed=seed, **counted(regime, seed))
        for regime, seed in (("hybrid", 0), ("passk", 0), ("passk", 1))
    ]
    records = list(map(load_run, runs))
    data = final_curves(records, titles_of(records)).data
    hybrid = data[data["run"] == "Hybrid 0.7/0.3"]
    assert hybrid["at_k"].tolist() == list(range(1, 33))
    c_P = counted("hybrid", 0)["counts"][10]
    by_hand = [100 * np.mean([exact_pass_at_k(32, c, k) for c in c_P]) for k in hybrid["at_k"]]
    assert hybrid["value"].tolist() == pytest.approx(by_hand)
    assert (hybrid["low"] < hybrid["value"]).all() and (hybrid["value"] < hybrid["high"]).all()
    passk = data[data["run"] == "Pass@8-only"]
    assert passk["seed"].value_counts().to_dict() == {"0": 32, "1": 32, "mean": 32}
    assert passk["low"].isna().all()
    start = data[data["role"] == "start"]
    seeds = [counted("passk", seed)["counts"][0] for seed in (0, 1)]
    assert start["value"].iloc[0] == pytest.approx(100 * np.mean(seeds) / 32)
    assert len(start) == 32 and start["low"].isna().all()
    assert len(picture(final_curves(records, titles_of(records)))) > 10_000


def test_a_large_sweep_alone_has_a_report(tmp_path):
    """Its legends are k and the weight, and its figures may not take these names for others."""
    write_sweep(tmp_path / "sweep", ks=(2, 4, 8, 16), weights=(0.5, 0.7, 0.9))
    page = write_report([tmp_path / "sweep"], tmp_path / "out")
    drawn = {file.stem for file in (page.parent / "figures").glob("*.png")}
    assert {"training_curves", "final_curves", "pareto_sweep", "heatmaps"} <= drawn
    records = find_runs([tmp_path / "sweep"])
    data = final_curves(records, titles_of(records)).data
    ends = data[data["role"] == "main"].groupby(["k", "weight"])["at_k"].max()
    assert len(ends) == 12 and (ends == ends.iloc[0]).all()


def counted(regime: str, seed: int) -> dict:
    counts, kinds = simulated_counts(regime, (0, 10), seed=seed, num_problems=20)
    return {"counts": counts, "kinds": kinds}


def test_run_without_alignment_or_kinds(tmp_path):
    counts, kinds = simulated_counts("hybrid", (0, 10), seed=0, num_problems=20)
    run = tmp_path / "run"
    write_run(run, regime="hybrid", counts=counts, kinds=kinds, with_alignment=False)
    (run / "eval" / "table_by_kind.csv").unlink()
    page = read_page(write_report([run], tmp_path / "out"))
    assert "Where the gradients point" not in page.headings
    assert len(page.figures) == 5
    assert "Hybrid 0.7/0.3" in page.text


def test_sweep_alone(tmp_path):
    write_sweep(tmp_path / "sweep", weights=(0.5, 0.7, 0.9))
    page = read_page(write_report([tmp_path / "sweep"], tmp_path / "out"))
    assert "Of 6 cells of the sweep" in page.text
    assert not (tmp_path / "out" / "figures" / "pareto_regimes.png").exists()
    assert_drawn(tmp_path / "out" / "figures" / "pareto_sweep.png")


def test_what_users_typed_is_escaped(tmp_path):
    counts, kinds = simulated_counts("hybrid", (0, 10), seed=0, num_problems=20)
    write_run(tmp_path / "run", regime="hybrid", counts=counts, kinds=kinds)
    (tmp_path / "run" / "overrides.txt").write_text("model.path=<img src=x onerror=alert(1)>\n")
    page = read_page(write_report([tmp_path / "run"], tmp_path / "out"))
    assert "&lt;img src=x" in page.text


def test_a_directory_without_runs_leaves_nothing_behind(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        write_report([tmp_path / "empty"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pareto_front_keeps_what_none_beats_in_both():
    points = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [1.0, 1.0], [-1.0, 2.0], [2.0, 0.5]])
    assert pareto_front(points).tolist() == [[1.0, 2.0], [2.0, 1.0]]


def test_kinds_keep_their_colour_whatever_else_is_there():
    colors = kind_colors(kind_order(["skill", "textbook", "calculator", "skill"]))
    assert list(colors) == ["textbook", "calculator", "skill"]
    assert len(set(colors.values())) == 3


def test_names_that_no_figure_can_hold_abort_nothing(tmp_path):
    """vl-convert ends the process at what XML cannot hold; no font has letters for some."""
    names = ("a\0b", "\x1b[31mred\uffff", "数学", "cost $x$ and $\\frac")
    counts = {step: [4, 9, 16, 30, 2, 8, 12, 20] for step in (0, 10)}
    run = write_run(tmp_path / "run", regime="hybrid", counts=counts, kinds=names * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        page = write_report([run], tmp_path / "out")
    assert_drawn(tmp_path / "out" / "figures" / "prompt_scatter.png")
    assert (tmp_path / "out" / "figures" / "prompt_scatter.pdf").read_bytes()[:4] == b"%PDF"
    assert "\0" not in page.read_text()
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_a_report_that_fails_leaves_the_one_before(tmp_path, monkeypatch):
    counts = {step: [4, 9, 16, 30] for step in (0, 10)}
    run = write_run(tmp_path / "run", regime="hybrid", counts=counts, kinds=("a", "b") * 2)
    write_report([run], tmp_path / "out")
    before = snapshot(tmp_path / "out")
    monkeypatch.setattr("passk.report.report.render", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_report([run], tmp_path / "out")
    assert snapshot(tmp_path / "out") == before
