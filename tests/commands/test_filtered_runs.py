"""`passk diagnose` with filtered sets, nuclei and parts of the parameters, from end to end."""

import numpy as np
import pandas as pd
import pytest
import yaml
from diagnoses import SMALL, diagnose
from small_runs import assert_refused, train

from passk.cli.main import main

SETS = "diagnose.filtered_sets=[[0.7,0.4],[0.5,0.5],[1,0.4]]"
WORDS = ("diagnose.cosines=false", SETS)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    directory = tmp_path_factory.mktemp("filtered") / "run"
    assert diagnose(directory, *WORDS) == 0
    return directory


def test_the_tables_say_the_same(found):
    table, prompts = (pd.read_csv(found / f"filtered{end}.csv") for end in ("", "_prompts"))
    assert table["way"].tolist() == ["paper", "corrected"] * 3
    assert table["k"].dropna().tolist() == [8, 4] * 2  # of the last set no prompt is easy
    for row in table[:4].to_dict("records"):
        of_set = (prompts["easy_above"] == row["easy_above"]) & (prompts["way"] == row["way"])
        part = prompts[of_set]
        assert len(part) == row["num_prompts"] == row["num_easy"] + row["num_hard"]
        assert (part["side"] == "hard").sum() == row["num_hard"] > 0
        hard = part["side"] == "hard"
        success = part["c"] / part["n"]
        assert ((success < row["hard_below"]) == hard).all() and (success > 0).all()
        assert row["agreement"] == pytest.approx(part["agreement"].mean())
        assert row["hard_agreement"] == pytest.approx(part["agreement"][hard].mean())
        assert row["contribution"] == pytest.approx(part["contribution"].mean(), abs=1e-9)
        assert row["contribution_sum"] == pytest.approx(part["contribution"].sum(), abs=1e-9)
        assert row["mean_weight"] == pytest.approx(part["weight"].mean())
        parts = row["mean_weight"] * row["agreement"] + row["covariance"]
        assert row["contribution"] == pytest.approx(parts, abs=1e-9)
        if row["way"] == "corrected":
            assert row["contribution_low"] <= row["contribution"] <= row["contribution_high"]
        else:
            plug_in = 8 * (1 - success) ** 7
            np.testing.assert_allclose(part["weight"], plug_in)
            np.testing.assert_allclose(part["contribution"], plug_in * part["agreement"])
            assert row["own_agreement"] > 0 and row["agreement"] > 0  # a squared norm


def test_the_page_and_the_figures(found):
    page = (found / "diagnose.md").read_text()
    for words in (
        "### As the paper computes it, k = n = 8",
        "### Corrected, k = 4",
        "[1, 0.4] (paper) has no easy prompts; [1, 0.4] (corrected) has no easy prompts.",
        "![filtered_0.7_0.4](filtered_0.7_0.4.png)",
        "![filtered_0.5_0.5](filtered_0.5_0.5.png)",
    ):
        assert words in page
    assert "filtered_1_0.4" not in page and "top-p" not in page
    assert (found / "filtered_0.7_0.4.png").stat().st_size > 10_000


def test_no_set_with_both_sides_is_told(tmp_path):
    assert (
        diagnose(tmp_path / "run", "diagnose.cosines=false", "diagnose.filtered_sets=[[1,0]]") == 0
    )
    page = (tmp_path / "run" / "diagnose.md").read_text()
    assert "has no easy and no hard prompts" in page and "No set could be measured." in page
    assert len(pd.read_csv(tmp_path / "run" / "filtered.csv")) == 2


def test_unsolved_prompts_are_kept_and_others_samples_tell(found, tmp_path):
    words = ("diagnose.keep_unsolved=true", "diagnose.fresh_sets=true")
    assert diagnose(tmp_path / "run", *WORDS, *words) == 0
    before, now = (pd.read_csv(d / "filtered.csv") for d in (found, tmp_path / "run"))
    prompts = pd.read_csv(found / "prompts.csv")
    unsolved = (prompts["c"] == 0).sum()
    assert unsolved and (now["num_hard"] - before["num_hard"])[0] == unsolved
    kept = pd.read_csv(tmp_path / "run" / "filtered_prompts.csv")
    silent = kept[(kept["c"] == 0) & (kept["way"] == "paper")]
    assert (silent["weight"] == 8).all() and (silent["agreement"] == 0).all()
    by_others, success = kept["way"] == "corrected", kept["c"] / kept["n"]
    elsewhere = (success <= kept["easy_above"]) & (success >= kept["hard_below"])
    assert elsewhere[by_others].any() and not elsewhere[~by_others].any()
    page = (tmp_path / "run" / "diagnose.md").read_text()
    assert "kept among the hard ones" in page and "other samples split easy from hard" in page


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_find_the_same(found, tmp_path):
    assert diagnose(tmp_path / "run", *WORDS, "learner.num_processes=2") == 0
    one, two = (pd.read_csv(d / "filtered.csv") for d in (found, tmp_path / "run"))
    names = [name for name in one if one[name].dtype == float]
    scale = one["agreement"].abs().max() * 8
    np.testing.assert_allclose(two[names], one[names], rtol=1e-4, atol=1e-4 * scale)


def test_a_nucleus_of_the_last_layer_or_norm(tmp_path):
    """The page says that it is off-policy; gradients then have no importance weights."""
    words = (*WORDS, "rollout.temperature=0.7", "rollout.top_p=0.9")
    for parameters, name in (
        ("last_layer", "the last layer's"),
        ("final_norm", "the final norm's"),
    ):
        out = tmp_path / parameters
        assert diagnose(out, *words, f"diagnose.parameters={parameters}") == 0
        page = (out / "diagnose.md").read_text()
        assert f"Products are over {name} parameters" in page
        assert "top-p 0.9" in page and "off-policy" in page
        saved = yaml.safe_load((out / "config.yaml").read_text())
        assert saved["rollout"]["top_p"] == 0.9 and saved["rollout"]["importance_cap"] is None
        assert (pd.read_csv(out / "prompts.csv")["agreement"] != 0).any()


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_read_adams_moments_of_the_last_layer_alone(tmp_path):
    words = ("regime=passk", "train.num_steps=2", "diagnostics.every=0", "eval.every=0")
    assert train(tmp_path / "run", *words) == 0
    words = ("diagnose.preconditioned=true", "diagnose.parameters=last_layer", *WORDS)
    for ranks in (1, 2):
        out = f"hydra.run.dir={tmp_path / str(ranks)}"
        words_of_run = (f"run={tmp_path / 'run'}", *SMALL[4:], f"learner.num_processes={ranks}")
        assert main(["diagnose", *words_of_run, *words, out]) == 0
    one, two = (pd.read_csv(tmp_path / name / "prompts.csv")["agreement"] for name in "12")
    assert one.abs().max() > 0 and (one - two).abs().max() < 3e-3 * one.abs().max()


def test_a_run_with_adapters_is_measured_without_them(tmp_path):
    words = ("regime=passk", "train.num_steps=1", "diagnostics.every=0", "eval.every=0")
    assert train(tmp_path / "run", *words, "model.lora_rank=2") == 0
    words = (f"run={tmp_path / 'run'}", *SMALL[4:], "diagnose.parameters=last_layer", *WORDS)
    assert (
        main(["diagnose", *words, "rollout.top_p=0.95", f"hydra.run.dir={tmp_path / 'out'}"]) == 0
    )
    saved = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (saved["model"]["lora_rank"], saved["rollout"]["top_p"]) == (0, 0.95)
    assert (pd.read_csv(tmp_path / "out" / "prompts.csv")["agreement"] != 0).any()


@pytest.mark.parametrize("pair", ["0.5", "[0.5]", "[0.2,0.8]", "[1.2,0.1]", "[a,b]", "[0.9,0.1,0]"])
def test_what_is_no_set_is_refused(passk, pair):
    outcome = passk("diagnose", f"diagnose.filtered_sets=[{pair}]", "hydra.run.dir=out")
    assert_refused(outcome, "diagnose.filtered_sets: ", "[EASY_ABOVE,HARD_BELOW]")


@pytest.mark.parametrize("command", ["train", "reproduce"])
def test_training_on_a_nucleus_is_refused(passk, command):
    outcome = passk(command, "rollout.top_p=0.95", "hydra.run.dir=out")
    assert_refused(outcome, "rollout.top_p=0.95", "off-policy", "use rollout.top_p=1")


@pytest.mark.parametrize(("top_p", "says"), [("0", "must be above 0"), ("1.1", "between 0 and 1")])
@pytest.mark.parametrize("key", ["rollout.top_p", "eval.top_p"])
def test_a_share_that_is_none_is_refused(passk, key, top_p, says):
    assert_refused(passk("eval", f"{key}={top_p}", "hydra.run.dir=out"), key, says)
