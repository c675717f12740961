"""regime.pass1_weight=auto: measured once, recorded, kept by resumed runs, shown by the report."""

import json
import math
import shutil
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
import yaml
from resuming import as_if_killed, assert_same_run
from small_runs import SMALL, assert_refused, metrics, train

from passk.cli.main import main
from passk.config.compose import load_run_config
from passk.runs.reader import find_runs
from passk.training.build import open_parts, run_preflight
from passk.training.measured_weight import measure_weight

STEPS = 4
WORDS = ("regime=hybrid", "regime.pass1_weight=auto", f"train.num_steps={STEPS}")
WORDS += ("train.save_every=2", "train.keep_last=9", "eval.every=0", "diagnostics.every=0")
# Many samples, so that the weight lies between 0 and 1.
WORDS += ("diagnostics.num_prompts=48", "diagnostics.num_samples=32", "regime.k=8")
WORDS += ("rollout.num_samples=8", "eval.num_samples=32", "data.calculator_fraction=0.4")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("auto") / "run"
    assert train(directory, *WORDS) == 0
    return directory


def test_the_weight_is_measured_recorded_and_used(run):
    manifest = json.loads((run / "manifest.json").read_text())
    value, low, high = manifest["pass1_weight_needed"]
    assert 0 <= low <= value <= high <= 1
    assert manifest["pass1_weight"] == math.ceil(1000 * high) / 1000
    assert {line["pass1_weight"] for line in metrics(run)} == {manifest["pass1_weight"]}
    assert yaml.safe_load((run / "config.yaml").read_text())["regime"]["pass1_weight"] == "auto"
    (record,) = find_runs([run])
    assert record.pass1_weight == manifest["pass1_weight"]
    cfg = load_run_config(run)
    with open_parts(cfg, "tiny", day=date.today()) as parts:
        parts, _ = run_preflight(cfg, parts, parts.data.train)
        again = measure_weight(cfg, parts)
    assert (again.value, again.low, again.high) == (value, low, high)


def test_a_resumed_run_keeps_the_weight(run, tmp_path, capsys):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    as_if_killed(again, last_step=2)
    assert train(again, *WORDS, "resume=true") == 0
    assert "weight of Pass@1" not in capsys.readouterr().out
    assert_same_run(again, run, STEPS)
    facts = [json.loads((d / "manifest.json").read_text()) for d in (run, again)]
    assert facts[0]["pass1_weight_needed"] == facts[1]["pass1_weight_needed"]


def test_a_resumed_run_without_its_weight_is_refused(run, tmp_path, capsys):
    again = tmp_path / "run"
    shutil.copytree(run, again)
    as_if_killed(again, last_step=2)
    manifest = json.loads((again / "manifest.json").read_text())
    del manifest["pass1_weight"]
    (again / "manifest.json").write_text(json.dumps(manifest))
    assert train(again, *WORDS, "resume=true") == 2
    assert "does not say which weight was measured" in capsys.readouterr().err


def test_reproduce_takes_it_and_the_report_shows_it(tmp_path):
    words = ["train.num_steps=2", "sft_steps=2", "eval.every=2", "alignment_prompts=8"]
    words += ["alignment_samples=8", "regime.pass1_weight=auto", "regimes=[pass1,hybrid]"]
    run = tmp_path / "run"
    assert main(["reproduce", *SMALL, *words, f'hydra.run.dir="{run}"']) == 0
    manifest = json.loads((run / "seed-0" / "hybrid" / "manifest.json").read_text())
    aligned = pd.read_csv(run / "seed-0" / "alignment.csv").set_index("regime")
    assert aligned["pass1_weight"].to_dict() == {
        "pass1": 1.0,
        "hybrid": manifest["pass1_weight"],
    }
    assert "Hybrid, weight measured" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["regime=passk"], ["regime=hybrid", "not with regime=passk"]),
        (["regime=projected"], ["regime=hybrid", "not with regime=projected"]),
        (["regime=hybrid", "regime.k=1"], ["regime.k>=2", "regime.k=1"]),
        (["regime=hybrid", "regime.estimator=chen"], ["regime.estimator=mixture", "chen"]),
        (["regime=hybrid", "regime.estimator=grpo"], ["regime.estimator=grpo knows no k"]),
        (
            ["regime=hybrid", "regime.k=4", "diagnostics.num_samples=2", "diagnostics.every=0"],
            ["regime.k=4", "diagnostics.num_samples=4 or more, not 2"],
        ),
        (
            ["regime=hybrid", "diagnostics.num_prompts=3", "diagnostics.every=0"],
            ["diagnostics.num_prompts=3", "diagnostics.num_blocks=4"],
        ),
        (["regime=hybrid", "data.num_train=2"], ["2 are too few, 3 are needed"]),
    ],
)
def test_bad_input_is_one_sentence(passk, tmp_path, words, says):
    outcome = passk("train", *SMALL, "regime.pass1_weight=auto", *words, "hydra.run.dir=out")
    assert_refused(outcome, *says)
    assert not (tmp_path / "out").exists()


def test_other_words_and_explain_are_refused(passk):
    outcome = passk("train", *SMALL, "regime=hybrid", "regime.pass1_weight=some")
    assert_refused(outcome, "regime.pass1_weight=some must be a number between 0 and 1, or auto")
    outcome = passk("explain", "regime=hybrid", "regime.pass1_weight=auto")
    assert_refused(outcome, "regime.pass1_weight=auto is measured at the start of training")
