"""`passk eval run=A interpolate=B:W,W`: a directory for each weight, resumed and refused."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from small_runs import snapshot, train

from passk.cli.main import main

WORDS = ("num_threads=1", "eval.chunk_size=3")
WEIGHTS = ("weight-0", "weight-0.25", "weight-1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, Path]:
    """A run, and one that went on from it in steps that change answers."""
    folder = tmp_path_factory.mktemp("trained")
    words = ("train.num_steps=1", "diagnostics.every=0", "eval.every=0")
    assert train(folder / "a", *words) == 0
    start = f'train.init_from="{folder / "a"}"'
    assert train(folder / "b", *words, "learner.lr=1e-2", start) == 0
    return folder / "a", folder / "b"


def evaluate(run: Path, of: Path, *words: str) -> int:
    return main(["eval", *WORDS, f'run="{of}"', *words, f'hydra.run.dir="{run}"'])


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("between") / "run"
    a, b = trained
    assert evaluate(run, a, f"interpolate={b}:1,0,0.25,0.25") == 0
    return run


def counts(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "eval" / "step-000001.parquet")


def test_each_weight_has_a_directory_and_the_ends_are_the_two_runs(trained, whole, tmp_path):
    assert sorted(path.name for path in whole.glob("weight-*")) == list(WEIGHTS)
    for run, weight in zip(trained, (WEIGHTS[0], WEIGHTS[-1]), strict=True):
        assert evaluate(tmp_path / run.name, run) == 0
        pd.testing.assert_frame_equal(counts(tmp_path / run.name), counts(whole / weight))
        assert snapshot(tmp_path / run.name / "samples") == snapshot(whole / weight / "samples")
    assert not counts(whole / WEIGHTS[0]).equals(counts(whole / WEIGHTS[-1]))
    ends = [str(run / "checkpoints" / "step-000001") for run in trained]
    for weight in (0, 0.25, 1):
        manifest = json.loads((whole / f"weight-{weight:g}" / "manifest.json").read_text())
        assert manifest["interpolation_weight"] == weight and manifest["status"] == "finished"
        assert [manifest[name] for name in ("policy", "interpolated_with")] == ends


def test_one_table_has_all_weights(whole):
    table = pd.read_csv(whole / "interpolation.csv")
    assert sorted(set(table["weight"])) == [0, 0.25, 1]
    assert sorted(set(table["temperature"])) == [0, 1]
    for weight, rows in table.groupby("weight"):
        front = pd.read_csv(whole / f"weight-{weight:g}" / "eval" / "front.csv")
        pd.testing.assert_frame_equal(
            rows.drop(columns="weight").reset_index(drop=True), front, check_dtype=False
        )
    lines = (whole / "interpolation.md").read_text().splitlines()
    assert lines[0].startswith("| weight | Pass@1 | Pass@2 |") and len(lines) == 5


def test_an_interrupted_one_goes_on(trained, whole, tmp_path):
    """As a kill leaves it in the second weight; a further weight may be added."""
    run, (a, b) = tmp_path / "run", trained
    shutil.copytree(whole, run)
    shutil.rmtree(run / WEIGHTS[-1])
    shutil.rmtree(run / WEIGHTS[1] / "eval")
    sorted((run / WEIGHTS[1] / "samples").iterdir())[-1].unlink()
    kept = {file: file.stat().st_mtime_ns for file in run.glob("weight-*/samples/*.parquet")}
    assert evaluate(run, a, f"interpolate={b}:0,0.25,1", "--resume") == 0
    for weight in WEIGHTS:
        for folder in ("samples", "eval"):
            assert snapshot(run / weight / folder) == snapshot(whole / weight / folder)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert snapshot(run)["interpolation.csv"] == snapshot(whole)["interpolation.csv"]
    assert evaluate(run, a, f"interpolate={b}:0.5", "--resume") == 0
    assert (run / "weight-0.5" / "eval" / "table.csv").is_file()


@pytest.mark.parametrize("value", ["B", "B:", ":0.5", "B:half", "B:0.5,1.5", "B:-0.1", "B:nan"])
def test_a_value_of_another_form_is_refused(trained, tmp_path, capsys, value):
    assert evaluate(tmp_path / "run", trained[0], f"interpolate={value}") == 2
    err = capsys.readouterr().err
    assert f"interpolate={value} must be MODEL:W,W,..." in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_and_another_model_on_resume_are_refused(trained, whole, tmp_path, capsys):
    run, (a, b) = tmp_path / "run", trained
    assert evaluate(run, a, "interpolate=nowhere:0.5") == 2
    assert "interpolate=nowhere does not exist" in capsys.readouterr().err
    shutil.copytree(whole, run)
    before = snapshot(run)
    for word in ("interpolate=tiny:0.25", None):
        assert evaluate(run, a, *([word] if word else []), "--resume") == 2
        err = capsys.readouterr().err
        assert "was started with interpolate=" in err and err.count("\n") == 1
    assert evaluate(run, b, f"interpolate={b}:0.25", "--resume") == 2
    assert "would evaluate" in capsys.readouterr().err
    assert snapshot(run) == before
