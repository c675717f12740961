"""`docs/results`: where every table comes from, and whether a reproduction still says the same."""

import json
from dataclasses import replace
from pathlib import Path

import check_effect
import pandas as pd
import pytest
import reproduce_full
from check_effect import PUBLISHED, missing
from results_index import Source, Sources, source, told

from passk.cli.main import main as passk

RESULTS = PUBLISHED.parent


@pytest.fixture
def published() -> pd.DataFrame:
    return pd.read_csv(PUBLISHED)


def test_every_table_has_its_row_and_the_page_shows_them():
    sources = Sources(RESULTS)
    assert sorted(sources.rows) == sorted(
        file.name for file in RESULTS.glob("*.csv") if file.name != "sources.csv"
    )
    assert (RESULTS / "README.md").read_text() == sources.markdown()
    for row in sources.rows.values():
        assert row.what and row.command and row.commit and row.date, row.file


def moved(table: pd.DataFrame, regime: str, change: str, low: float, high: float) -> pd.DataFrame:
    """The table with another interval of one change over all seeds."""
    table = table.copy()
    row = (table["regime"] == regime) & (table["seed"] == "all")
    assert row.sum() == 1
    table.loc[row, [f"{change}_low", f"{change}_high"]] = [low, high]
    return table


def test_what_was_published_is_found_in_itself_and_in_one_seed(published):
    assert missing(published, published) == []
    assert missing(published[published["seed"] == "0"].astype({"seed": int}), published) == []


@pytest.mark.parametrize(
    ("regime", "change", "interval", "says"),
    [
        ("passk", "delta_pass1", (-0.1, 0.01), "passk: the change of Pass@1 is [-10.0, +1.0]"),
        ("passk", "delta_passk", (-0.2, -0.1), "was published as above 0"),
        ("pass1", "delta_passk", (0.1, 0.2), "pass1: the change of Pass@k is [+10.0, +20.0]"),
        ("pass1", "delta_passk", (-0.1, 0.1), None),  # weaker, not opposite
        ("hybrid", "delta_passk", (-0.2, -0.1), None),  # never distinguished from 0
    ],
)
def test_an_effect_that_is_gone_is_said(published, regime, change, interval, says):
    sentences = missing(moved(published, regime, change, *interval), published)
    assert len(sentences) == (says is not None)
    assert says is None or says in sentences[0]


def test_the_base_model_is_no_effect(published):
    base = published[published["regime"] == "sft"].assign(regime="base")
    assert missing(pd.concat([base, published]), pd.concat([base, published])) == []


def test_pass_at_k_must_have_been_measured(published, tmp_path):
    published[published["regime"] != "passk"].to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(SystemExit, match=r"passk: the change of Pass@1 is not measured"):
        check_effect.main(tmp_path)


def test_the_newest_table_is_taken(tmp_path):
    with pytest.raises(SystemExit, match="run make reproduce"):
        check_effect.newest(tmp_path)
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.csv").write_text("")
    assert check_effect.newest(tmp_path).name == "a"


def write_manifest(folder: Path, command: str, seconds: float, end: str, dirty: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"command": command, "seconds": seconds, "start": end, "end": end, "device": "cpu"}
    manifest |= {"machine": "x86_64, 2 CPUs", "git": {"commit": "a" * 40, "dirty": dirty}}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_row_is_read_from_manifests(tmp_path):
    study = tmp_path / "study"
    write_manifest(study / "one", "reproduce", 100.4, "2026-05-02T10:00:00", dirty=False)
    write_manifest(study / "one" / "seed-0" / "sft", "train", 40, "2026-05-02T09:00:00", dirty=True)
    write_manifest(study / "two", "train", 20, "2026-05-03T10:00:00", dirty=False)
    row = source("x.csv", "a table", "make x", study)
    assert row == Source(
        "x.csv",
        "a table",
        "make x",
        "aaaaaaa (changed), aaaaaaa",
        "2026-05-03",
        "cpu (x86_64, 2 CPUs)",
        "120",  # the 40 are in the 100
    )
    old = Source("y.csv", "another", "by hand", "bbbbbbb", "2026-01-01", "", "")
    Sources(tmp_path).update([old, replace(row, what="what it was before")])
    Sources(tmp_path).update([row])
    assert list(Sources(tmp_path).rows.values()) == [row, old]
    assert "| [y.csv](y.csv) | another | `by hand` |" in (tmp_path / "README.md").read_text()
    assert [told(seconds) for seconds in ("", "59.6", "150")] == ["", "60 s", "2 min"]


def test_every_line_of_the_full_reproduction_is_accepted(tmp_path, monkeypatch, capsys):
    """Each is composed and checked, none is run."""
    said = []

    def composed(words) -> int:
        said.append(list(words))
        return passk([word for word in words if word != "-m"] + ["--cfg", "job"])

    monkeypatch.setattr(reproduce_full, "passk", composed)
    plan = reproduce_full.Plan(
        tmp_path / "a b", 2, "4", "0.5", ("regime.k=2", "sft_steps=7", "train.seed=3")
    )
    assert plan.reproduce() == tmp_path / "a b" / "reproduce" / "table.csv"
    assert "sft_steps: 7" in capsys.readouterr().out
    assert plan.sweep() == tmp_path / "a b" / "sweep" / "sweep.csv"
    out = " ".join(capsys.readouterr().out.split())  # YAML breaks long lines at blanks
    assert " k: 4 " in out and f"init_from: {tmp_path}/a b/reproduce/seed-3/sft " in out
    assert [words[0] for words in said] == ["reproduce", "train", "report"]
