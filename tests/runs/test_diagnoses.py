"""Diagnoses read back for the report, beside the runs that they are of."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml
from run_files import write_run
from small_runs import SMALL, train

from passk.cli.main import main
from passk.errors import UserError
from passk.runs.reader import AGREEMENT_COLUMNS, agreement_rows, find_diagnoses, find_runs


def write_diagnosis(folder, policy, ks=(1, 4), **columns):
    folder.mkdir(parents=True)
    facts = {"command": "diagnose", "status": "finished", "policy": str(policy)}
    (folder / "manifest.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(yaml.safe_dump({"diagnose": {"num_prompts": 3}}))
    prompts = {
        "problem_id": ["1", "2", "3"],
        "kind": ["NA", "", "textbook"],
        "n": 8,
        "c": [0, 2, 8],
        "p": [0, 0.25, 1],
        "signal": ["none right", "", "all right"],
        "agreement": [0.0, -1.5, 0.0],
        "agreement_error": [0.0, 0.5, 0.0],
    }
    for k in ks:
        prompts |= {f"weight_{k}": [k, 1.0, 0.0], f"contribution_{k}": [0.0, -1.5 * k, 0.0]}
    pd.DataFrame(prompts | columns).to_csv(folder / "prompts.csv", index=False)
    pd.DataFrame({"k": ks, "inner_product": -0.1}).to_csv(folder / "curve.csv", index=False)
    return folder


def a_run(path, k):
    return write_run(path, regime="passk", counts={0: [4] * 3}, kinds=["skill"] * 3, k=k)


def test_a_row_per_prompt_at_the_k_of_the_run(tmp_path):
    run = a_run(tmp_path / "run", 4)
    write_diagnosis(tmp_path / "found", run / "checkpoints" / "step-000120", ks=(1, 4, 8))
    (found,) = find_diagnoses([tmp_path])
    assert (found.title, found.ks, found.k) == ("run at step 120", [1, 4, 8], 4)
    assert found.run == run
    rows = agreement_rows([found])
    assert list(rows) == AGREEMENT_COLUMNS
    assert rows["weight"].tolist() == [4, 1, 0] and rows["contribution"].tolist() == [0, -6, 0]
    assert rows["agreement"].tolist() == [0, -1.5, 0]
    assert rows["kind"].tolist() == ["NA", "(none)", "textbook"]
    assert rows["problem_id"].tolist() == ["1", "2", "3"]
    assert rows["signal"].tolist() == ["none right", "", "all right"]
    assert agreement_rows([found], 8)["weight"].tolist() == [8, 1, 0]
    assert agreement_rows([found], 2).empty
    assert np.isnan(found.needed_weight().value)  # of a version that did not measure it


def test_the_weight_of_pass1_is_that_of_the_shown_k(tmp_path):
    folder = write_diagnosis(tmp_path / "found", "org/model-7b", ks=(1, 4))
    curve = pd.read_csv(folder / "curve.csv").assign(pass1_weight=[0.0, 0.5])
    curve["adam_pass1_weight"], curve["adam_pass1_weight_low"] = [0.0, 0.25], [0.0, 0.125]
    curve.to_csv(folder / "curve.csv", index=False)
    (found,) = find_diagnoses([tmp_path])
    weights = [found.needed_weight(), found.needed_weight("adam_")]
    assert [weight.value for weight in weights] == [0.5, 0.25]
    assert np.isnan(weights[0].low) and weights[1].low == 0.125


def test_of_a_model_the_largest_k_and_its_name(tmp_path):
    write_diagnosis(tmp_path / "found", "org/model-7b")
    (found,) = find_diagnoses([tmp_path / "found"])
    assert (found.title, found.k, found.run) == ("model-7b", 4, None)


def test_levels_stand_for_kinds_where_problems_have_none(tmp_path):
    write_diagnosis(tmp_path / "found", "tiny", kind="", level=["1", "5", "5"])
    assert agreement_rows(find_diagnoses([tmp_path]))["kind"].tolist() == ["1", "5", "5"]


def test_several_at_or_below_the_paths_once_each(tmp_path):
    run = a_run(tmp_path / "run", 4)
    for step in (10, 2):
        write_diagnosis(tmp_path / "all" / f"at-{step}", run / "checkpoints" / f"step-{step:06d}")
    cut = write_diagnosis(tmp_path / "all" / "cut", "tiny")
    (cut / "curve.csv").unlink()
    found = find_diagnoses([tmp_path / "all", tmp_path / "all" / "at-2", tmp_path / "run"])
    assert [record.title for record in found] == ["run at step 2", "run at step 10"]
    assert agreement_rows(found).groupby("diagnosis").size().tolist() == [3, 3]


def test_runs_are_found_beside_diagnoses_but_not_without_a_run(tmp_path):
    run = a_run(tmp_path / "run", 4)
    found = write_diagnosis(tmp_path / "found", "tiny")
    assert [record.path for record in find_runs([run, found])] == [run]
    with pytest.raises(UserError, match="found holds no run of passk train"):
        find_runs([found])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no run"):
        find_runs([run, tmp_path / "empty"])


def test_a_real_diagnosis(tmp_path):
    run, found = tmp_path / "run", tmp_path / "found"
    assert train(run, "regime=passk", "train.num_steps=1", "diagnostics.every=0") == 0
    small = [word for word in SMALL if word.startswith("num_threads")]
    asked = [f"diagnose.{w}" for w in ("num_prompts=12", "num_samples=8", "matrix_prompts=0")]
    words = [f"run={run}", *small, *asked, "diagnose.num_blocks=3", f"hydra.run.dir={found}"]
    assert main(["diagnose", *words]) == 0
    (record,) = find_diagnoses([tmp_path])
    assert (record.run, record.k, record.title) == (run, 2, "run at step 1")
    rows = agreement_rows([record]).set_index("problem_id")
    written = pd.read_csv(found / "prompts.csv").set_index("problem_id")
    assert len(rows) == 12
    pd.testing.assert_series_equal(rows["weight"], written["weight_2"], check_names=False)
    pd.testing.assert_series_equal(rows["agreement"], written["agreement"])
    assert [r.path for r in find_runs([tmp_path])] == [run]
