"""`passk diagnose`: its files, what they say of one another and of the task, bad input."""

import json
import shutil
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diagnoses import NUM_IN_MATRIX, NUM_PROMPTS, NUM_SAMPLES, SMALL, diagnose
from small_runs import assert_refused, train

from passk.cli.commands import diagnose as command
from passk.cli.main import main
from passk.config.compose import load_run_config
from passk.diagnostics import alignment
from passk.diagnostics.derivatives import saved_adam_metric
from passk.learner.checkpoint import fingerprint, last_checkpoint
from passk.training.build import open_parts

FILES = {"prompts.csv", "curve.csv", "by_kind.csv", "suspect_golds.csv", "diagnose.md"}
FILES |= {"curve.png", "histograms.png", "weight_against_agreement.png"}
FILES |= {"interference.npy", "interference.png", "interference_prompts.csv"}
FILES |= {"interference_by_kind.csv", "interference_exact.csv", "antagonists.csv"}
FILES |= {"interference_clusters.csv"}
FILES |= {"config.yaml", "overrides.txt", "manifest.json"}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    """A diagnosis of the shipped model."""
    directory = tmp_path_factory.mktemp("found") / "run"
    assert diagnose(directory) == 0
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    words = ("regime=passk", "train.num_steps=2", "diagnostics.every=0", "eval.every=0")
    assert train(run, *words) == 0
    return run


def test_files_and_rows(found):
    assert {file.name for file in found.iterdir()} == FILES
    prompts = pd.read_csv(found / "prompts.csv")
    assert len(prompts) == NUM_PROMPTS == prompts["problem_id"].nunique()
    assert (prompts["n"] == NUM_SAMPLES).all() and prompts["c"].between(0, NUM_SAMPLES).all()
    signal = prompts["signal"].fillna("")
    assert (signal[prompts["c"] == 0] == "none right").all()
    assert (signal[prompts["c"] == NUM_SAMPLES] == "all right").all()
    silent = prompts[signal != ""]
    assert len(silent) and (silent["agreement"] == 0).all()
    # It is 0 where all right answers are the same completion, and all wrong ones too.
    errors = prompts["agreement_error"][signal == ""]
    assert (errors >= 0).all() and (errors > 0).mean() > 0.7
    curve = pd.read_csv(found / "curve.csv")
    assert curve["k"].tolist() == list(range(1, NUM_SAMPLES + 1))
    # Among so few prompts a norm may not differ clearly from 0, and then there is no cosine.
    assert curve["cosine"][~curve["k"].isin([1, 2, 4])].isna().all()
    assert (curve["inner_product_low"] <= curve["inner_product"]).all()
    assert json.loads((found / "manifest.json").read_text())["status"] == "finished"
    assert yaml.safe_load((found / "config.yaml").read_text())["diagnose"]["num_blocks"] == 4


def test_the_tables_say_the_same(found):
    prompts, curve = pd.read_csv(found / "prompts.csv"), pd.read_csv(found / "curve.csv")
    by_kind = pd.read_csv(found / "by_kind.csv")
    for k in (1, 2, 4):
        row = curve.set_index("k").loc[k]
        size = prompts[f"contribution_{k}"].abs().mean()
        assert row["inner_product"] == pytest.approx(
            prompts[f"contribution_{k}"].mean(), abs=1e-10 * size
        )
        assert row["mean_weight"] == pytest.approx(prompts[f"weight_{k}"].mean(), abs=1e-10)
        assert row["inner_product"] == pytest.approx(
            row["mean_weight"] * prompts["agreement"].mean() + row["covariance"], abs=1e-10 * size
        )
    np.testing.assert_allclose(prompts["contribution_1"], prompts["agreement"], rtol=1e-9)
    np.testing.assert_allclose(prompts["weight_2"], 2 * (1 - prompts["p"]), rtol=1e-9)
    assert by_kind["num_prompts"].sum() == NUM_PROMPTS
    assert by_kind["weight_share"].sum() == pytest.approx(1)
    k = 4  # of eval.ks the regime's k is not, so the largest is shown
    assert by_kind["contribution"].sum() == pytest.approx(
        curve["inner_product"][k - 1], abs=1e-10 * prompts[f"contribution_{k}"].abs().mean()
    )


def test_the_matrix_is_of_the_first_prompts(found):
    kappa = np.load(found / "interference.npy", allow_pickle=False)
    assert kappa.shape == (NUM_IN_MATRIX, NUM_IN_MATRIX) and kappa.dtype == np.float32
    np.testing.assert_allclose(kappa, kappa.T, rtol=1e-4, atol=1e-6 * np.abs(kappa).max())
    all_prompts = pd.read_csv(found / "prompts.csv")
    prompts = pd.read_csv(found / "interference_prompts.csv")
    assert (prompts["problem_id"] == all_prompts["problem_id"][:NUM_IN_MATRIX]).all()
    assert (prompts["c"] == all_prompts["c"][:NUM_IN_MATRIX]).all()
    silent = prompts["c"].isin([0, NUM_SAMPLES])
    assert silent.any() and (kappa[silent] == 0).all() and (prompts["cluster"][silent] == -1).all()
    clusters = pd.read_csv(found / "interference_clusters.csv")
    sizes = prompts["cluster"][prompts["cluster"] >= 0].value_counts()
    assert clusters["num_prompts"].tolist() == sizes[sizes >= 5].tolist()
    by_kind = pd.read_csv(found / "interference_by_kind.csv")
    assert len(by_kind) == 6
    calculator, textbook = (prompts["kind"] == kind for kind in ("calculator", "textbook"))
    across = by_kind.set_index(["kind", "other_kind"])["kappa"]["textbook", "calculator"]
    assert across == pytest.approx(kappa[np.ix_(textbook, calculator)].mean(), rel=1e-4)
    exact = pd.read_csv(found / "interference_exact.csv")
    assert np.corrcoef(exact["exact"], exact["sketched"])[0, 1] > 0.95
    antagonists = pd.read_csv(found / "antagonists.csv")
    assert 0 < len(antagonists) <= 50 and (antagonists["selected_by"] < 0).all()
    assert antagonists["selected_by"].is_monotonic_increasing
    assert antagonists["first_prompt"].str.endswith("=").all()
    page = (found / "diagnose.md").read_text()
    for words in ("Which prompts interfere with which", "| with textbook |", "interference.png"):
        assert words in page


def test_it_repeats_exactly_and_prints_its_page(found, tmp_path, capfd):
    assert diagnose(tmp_path / "again") == 0
    out = capfd.readouterr().out
    for name in ("prompts.csv", "curve.csv", "interference.npy", "antagonists.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (found / name).read_bytes()
    page = (tmp_path / "again" / "diagnose.md").read_text()
    assert page.partition("\n![")[0] in out
    assert f"tables and figures are in {tmp_path / 'again'}" in out
    for words in ("24 prompts x 8 samples", "Pass@k point against", "calculator", "halving that"):
        assert words in page


def test_a_seed_draws_others_and_no_matrix_is_made_where_none_is_asked_for(found, tmp_path):
    words = ("diagnose.seed=1", "diagnose.matrix_prompts=0", "diagnose.cosines=false")
    assert diagnose(tmp_path / "other", *words) == 0
    other = pd.read_csv(tmp_path / "other" / "prompts.csv")
    assert set(other["problem_id"]) != set(pd.read_csv(found / "prompts.csv")["problem_id"])
    written = {file.name for file in (tmp_path / "other").iterdir()}
    assert written == {n for n in FILES if not n.startswith(("interference", "antagonists"))}
    assert "Which prompts interfere" not in (tmp_path / "other" / "diagnose.md").read_text()


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_measure_the_same(found, tmp_path):
    """Each holds half of the weights, and moves its half: up to the errors of the differences."""
    assert diagnose(tmp_path / "run", "learner.num_processes=2") == 0
    one, two = (pd.read_csv(d / "prompts.csv") for d in (found, tmp_path / "run"))
    assert (one["problem_id"] == two["problem_id"]).all() and (one["c"] == two["c"]).all()
    for name in ("agreement", "contribution_4"):
        assert (one[name] - two[name]).abs().max() < 3e-3 * one[name].abs().max()
    matrices = [np.load(d / "interference.npy") for d in (found, tmp_path / "run")]
    off = ~np.eye(NUM_IN_MATRIX, dtype=bool)
    assert np.corrcoef(*(kappa[off] for kappa in matrices))[0, 1] > 0.98  # their signs differ
    curves = [pd.read_csv(d / "curve.csv")["inner_product"] for d in (found, tmp_path / "run")]
    np.testing.assert_allclose(*curves, atol=3e-3 * one["contribution_4"].abs().mean())


def test_without_cosines_the_products_are_the_same(found, tmp_path):
    words = ("diagnose.cosines=false", "diagnose.ks=[8]")
    assert diagnose(tmp_path / "run", *words) == 0
    with_them, without = (pd.read_csv(d / "curve.csv") for d in (found, tmp_path / "run"))
    assert "cosine" not in without
    np.testing.assert_array_equal(with_them["inner_product"], without["inner_product"])
    assert "contribution_8" in pd.read_csv(tmp_path / "run" / "prompts.csv")


def test_a_run_is_diagnosed_on_its_own_problems_at_its_k(trained, tmp_path):
    assert main(["diagnose", f'run="{trained}"', *SMALL[4:], f"hydra.run.dir={tmp_path}/out"]) == 0
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert saved["data"]["num_train"] == 48 and saved["run"] == str(trained)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["policy"].endswith("checkpoints/step-000002")
    assert "at k = 2" in (tmp_path / "out" / "diagnose.md").read_text()


def test_a_run_in_a_coarser_precision_is_measured_in_float32(trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["dtype"] = "bfloat16"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    words = [f'run="{run}"', *SMALL[4:], "diagnose.cosines=false"]
    assert main(["diagnose", *words, f'hydra.run.dir="{tmp_path / "out"}"']) == 0
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert saved["model"]["dtype"] == "float32"


def test_products_along_adams_step_stand_beside_the_plain_ones(trained, tmp_path):
    """By default where there are moments; asked for alone, they are the same."""
    tables = []
    for name, words in (("both", ()), ("alone", ("diagnose.preconditioned=true",))):
        out = f'hydra.run.dir="{tmp_path / name}"'
        assert main(["diagnose", f'run="{trained}"', *SMALL[4:], *words, out]) == 0
        tables.append(pd.read_csv(tmp_path / name / "curve.csv"))
    both, alone = tables
    for name in ("inner_product", "inner_product_low", "pass1_weight", "pass1_weight_high"):
        np.testing.assert_allclose(both[f"adam_{name}"], alone[name], rtol=1e-9, equal_nan=True)
    for name in ("inner_product", "inner_product_low"):  # weights may lie at an end in both
        assert not np.allclose(both[name], alone[name], rtol=1e-3, equal_nan=True)
    assert not any(name.startswith("adam_") for name in alone)
    assert "Along Adam's step, by the second moments" in (tmp_path / "both/diagnose.md").read_text()


def test_the_needed_weight_is_that_of_the_products(found):
    curve = pd.read_csv(found / "curve.csv")
    f_1, f_K, weight_K = curve["inner_product"][0], curve["inner_product"], curve["pass1_weight"]
    mixed_K = weight_K * f_1 + (1 - weight_K) * f_K
    inside = (weight_K > 0) & (weight_K < 1)
    np.testing.assert_allclose(mixed_K[inside], 0, atol=1e-9 * f_K.abs().max())
    assert (f_K[weight_K == 0] >= 0).all() and weight_K.between(0, 1).all()
    shown = curve["k"].isin([1, 2, 4])
    assert curve["pass1_weight_low"][~shown].isna().all()
    assert (curve["pass1_weight_low"] <= curve["pass1_weight"])[shown].all()
    assert (curve["pass1_weight"] <= curve["pass1_weight_high"])[shown].all()
    assert "To first order" in (found / "diagnose.md").read_text()


def test_curvature_is_measured_and_leaves_no_trace(found, tmp_path, trained):
    """Learner and sampler have their weights back: all else is measured as without it."""
    words = ("diagnose.curvature=true", "rollout.num_prompts=8", "rollout.num_samples=8")
    words += ("eval.num_problems=6", "eval.num_samples=16", "diagnose.reach=3", "learner.lr=1e-3")
    assert diagnose(tmp_path / "run", *words) == 0
    for name in ("prompts.csv", "curve.csv", "interference.npy"):
        assert (tmp_path / "run" / name).read_bytes() == (found / name).read_bytes()
    table = pd.read_csv(tmp_path / "run" / "curvature.csv")
    assert table["steps"][0] == 1 and (table["change_low"] <= table["change_high"]).all()
    np.testing.assert_allclose(table["first_order"], table["steps"] * table["first_order"][0])
    page = (tmp_path / "run" / "diagnose.md").read_text()
    assert "Adam's steps for Pass@4 (learner.lr 0.001, no warm-up)" in page
    # Of a run of RL, its own objective and moments.
    out, few = f'hydra.run.dir="{tmp_path / "of_run"}"', ("eval.num_samples=64",)
    assert main(["diagnose", f'run="{trained}"', *SMALL[4:], words[0], *few, out]) == 0
    assert "Adam's steps for Pass@2 (learner.lr" in (tmp_path / "of_run/diagnose.md").read_text()


def test_adams_metric_is_that_of_the_checkpoint(trained, tmp_path):
    words = ("diagnose.preconditioned=true", "diagnose.parameters=last_layer")
    out = f'hydra.run.dir="{tmp_path / "out"}"'
    assert main(["diagnose", f'run="{trained}"', *SMALL[4:], *words, out]) == 0
    page = (tmp_path / "out" / "diagnose.md").read_text()
    assert "over the last layer's parameters, each scaled as Adam scales it" in page
    cfg = load_run_config(trained)
    with open_parts(cfg, str(last_checkpoint(trained)), day=date.today()) as parts:
        learner = parts.learner
        found = saved_adam_metric(learner, last_checkpoint(trained))
    state = [learner.optimizer.state[p] for p in learner.model.parameters()]
    moments = torch.cat([s["exp_avg_sq"].flatten() for s in state]) / (1 - 0.999**2)
    assert moments.max() > 0  # of two steps
    torch.testing.assert_close(found, 1 / (moments.sqrt() + 1e-8), rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["diagnose.num_samples=3"], ["diagnose.num_samples=3", "at least 4"]),
        (["diagnose.ks=[9]"], ["diagnose.ks=[9]", "diagnose.num_samples=8"]),
        (["diagnose.num_prompts=3"], ["diagnose.num_prompts=3", "diagnose.num_blocks=4"]),
        (["diagnose.matrix_prompts=2001"], ["diagnose.matrix_prompts=2001", "2 and 2000"]),
        (["diagnose.matrix_prompts=1"], ["diagnose.matrix_prompts=1", "must be 0"]),
        (["diagnose.matrix_prompts=-1"], ["diagnose.matrix_prompts=-1", "at least 0"]),
        (["diagnose.sketch_size=8"], ["diagnose.sketch_size=8", "at least 64"]),
        (["run=no/run"], ["run=no/run does not exist"]),
        (["run=here"], ["here is not a run directory"]),
        (["diagnose.preconditioned=true"], ["diagnose.preconditioned=true", "give run=DIR"]),
        (["diagnose.reach=0"], ["diagnose.reach=0", "at least 1"]),
        (["diagnose.curvature=true"], ["rollout.num_prompts=64", "not 24 prompts"]),
        (
            ["diagnose.curvature=true", "rollout.num_prompts=12"],
            ["rollout.num_samples=16", "k=4 and diagnose.num_samples=8"],
        ),
        (["model.dtype=bfloat16"], ["model.dtype=bfloat16", "float32"]),
        (["data.num_train=2"], ["2 training problems are too few"]),
        (["rollout.max_new_tokens=1", "data.answer_tokens=1"], ["none of 24 prompts x 8 samples"]),
    ],
)
def test_bad_input_is_one_sentence(passk, tmp_path, words, says):
    (tmp_path / "here").mkdir()
    assert_refused(passk("diagnose", *SMALL, *words, "hydra.run.dir=out"), *says)
    assert not (tmp_path / "out").exists()


def test_gradients_that_are_too_large_are_refused_first(tiny_model, tmp_path, monkeypatch, capsys):
    """Those of four blocks before anything is sampled, those of sets before anything is written."""
    room = 4 * 4 * tiny_model.num_parameters()
    monkeypatch.setattr(alignment, "MAX_GRADIENT_BYTES", room)
    sets = "diagnose.filtered_sets=[[0.5,0.5]]"
    assert diagnose(tmp_path / "run", sets, "diagnose.keep_unsolved=true") == 2
    assert "GiB in 6 gradients; use diagnose.parameters=last_layer" in capsys.readouterr().err
    monkeypatch.setattr(alignment, "MAX_GRADIENT_BYTES", room - 1)
    monkeypatch.setattr(command, "diagnostic_groups", lambda *_: pytest.fail("sampled"))
    assert diagnose(tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "GiB in 4 gradients; use fewer" in said and "diagnose.num_blocks" in said
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_architecture_is_refused(passk, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (step,) = (run / "checkpoints").glob("step-*")
    config = json.loads((step / "config.json").read_text())
    written = json.dumps(config | {"hidden_size": 128})
    (step / "config.json").write_text(written)
    files = json.loads((step / "files.json").read_text())
    now = fingerprint(step / "config.json")
    files["config.json"] = {"bytes": now.bytes, "sha256": now.sha256}
    (step / "files.json").write_text(json.dumps(files))
    outcome = passk("diagnose", f'run="{run}"', *SMALL[4:], "hydra.run.dir=out")
    assert_refused(outcome, "another architecture", "hidden_size=128", "hidden_size=64")
    assert not (tmp_path / "out").exists()
