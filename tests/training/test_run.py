"""The run directory is the contract: files, columns and keys of a real run, read with pandas."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from small_runs import TIMES, metrics, snapshot, train

from passk.cli.main import main
from passk.config.compose import load_run_config
from passk.data.problems import ProblemStream, load_data
from passk.data.prompts import PromptEncoder
from passk.evaluation.tables import pass_table, pass_table_by
from passk.learner.policy import load_tokenizer
from passk.objectives.pass_at_k import pass_at_k

NUM_STEPS, NUM_SAMPLES = 3, 16
KEYS = TIMES | {
    "step",
    "loss",
    "reward_mean",
    "grad_norm",
    "learning_rate",
    "kl",
    "dead_group_fraction",
    "dead_fail_fraction",
    "dead_solved_fraction",
    "mean_weight",
    "alignment",
    "inner_product",
    "inner_product_low",
    "inner_product_high",
    "alignment_low",
    "alignment_high",
    "pass1",
    "passk",
    "k",
    "trained_k",
    "pass1_weight",
    "min_success",
    "products",
    "unjudged_fraction",
    "reasons",
    "logprob_gap_mean",
    "logprob_gap_max",
    "num_processed_tokens",
    "num_sampled_tokens",
    "num_fed_tokens",
    "num_learned_tokens",
    "importance_truncated_fraction",
}
ROLLOUT_COLUMNS = [
    "step",
    "problem_id",
    "sample",
    "completion",
    "num_tokens",
    "finish_reason",
    "reward",
    "reason",
    "logprob_sampler",
    "logprob_learner",
    "policy_version",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """`passk train experiment=smoke`, evaluated on the way too."""
    folder = tmp_path_factory.mktemp("smoke") / "run"
    words = ["experiment=smoke", "eval.every=2", "num_threads=1", f"hydra.run.dir={folder}"]
    assert main(["train", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def sft_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sft") / "run"
    assert train(folder, "regime=sft", "train.num_steps=2", "train.save_every=0") == 0
    return folder


def table(run: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(run / "eval" / name)


def test_files_are_those_of_the_contract(run):
    names = {name for name, content in snapshot(run).items() if content is not None}
    steps = range(NUM_STEPS)
    expected = {"config.yaml", "overrides.txt", "manifest.json", "metrics.jsonl"}
    expected.add("problems.parquet")
    expected |= {"eval/table.csv", "eval/table.md", "eval/table_by_kind.csv"}
    expected |= {"eval/summary.csv", "eval/distance.csv"}
    expected |= {f"eval/step-{step:06d}.parquet" for step in (0, 2, NUM_STEPS)}
    expected |= {f"rollouts/step-{step:06d}.parquet" for step in steps}
    assert {name for name in names if not name.startswith("checkpoints/")} == expected


def test_the_distance_from_the_start_is_measured_at_each_evaluation(run):
    rows = table(run, "distance.csv").set_index("step")
    assert list(rows.index) == [0, 2, NUM_STEPS]
    start, later = rows.loc[0], rows.loc[[2, NUM_STEPS]]
    assert (start[["kl_per_answer", "kl_per_token", "distance", "relative_distance"]] == 0).all()
    assert (later[["kl_per_answer", "kl_per_token", "distance"]] > 0).all(axis=None)
    assert (rows["num_samples"] == 2 * rows["num_problems"]).all()
    assert (rows["entropy_per_answer"] > rows["entropy_per_token"]).all()
    assert (later["kl_per_answer_low"] <= later["kl_per_answer"]).all()


def test_the_distance_is_from_where_the_run_started(run, tmp_path):
    words = ("train.num_steps=1", "diagnostics.every=0", "train.save_every=0", "learner.lr=1e-9")
    assert train(tmp_path / "run", "regime=pass1", f"train.init_from={run}", *words) == 0
    moved = table(tmp_path / "run", "distance.csv").set_index("step").loc[1]
    assert 0 < moved["relative_distance"] < 1e-6 and moved["kl_per_answer"] < 1e-6


@pytest.mark.parametrize("words", [(), ("model.lora_rank=4",)], ids=["whole", "adapters"])
def test_a_kl_weight_keeps_the_policy_near_its_start(tmp_path, words):
    words += ("train.num_steps=4", "diagnostics.every=0", "train.save_every=0", "learner.lr=3e-3")
    distances = []
    for weight in (0, 1):
        folder = tmp_path / f"{weight}"
        assert train(folder, "regime=passk", f"learner.kl_weight={weight}", *words) == 0
        distances.append(table(folder, "distance.csv")["kl_per_answer"].iloc[-1])
        found = [line["kl"] for line in metrics(folder)]
        assert found == [None] * 4 if not weight else found[0] == 0 and min(found[1:]) > 0
    assert distances[1] < distances[0]
    rollouts = pd.read_parquet(tmp_path / "1" / "rollouts" / "step-000000.parquet")
    assert rollouts["logprob_learner"].notna().all()  # no sample was skipped


@pytest.mark.parametrize("words", ["eval.num_distance_samples=0", "eval.top_p=0.9"])
def test_nothing_is_compared_with_the_start_unless_asked(tmp_path, words):
    one = ("train.num_steps=1", "diagnostics.every=0", "train.save_every=0")
    assert train(tmp_path / "run", "regime=pass1", *one, words) == 0
    assert not (tmp_path / "run" / "eval" / "distance.csv").exists()


def test_overrides_and_config_say_what_was_asked(run):
    typed = (run / "overrides.txt").read_text().splitlines()
    assert typed == ["experiment=smoke", "eval.every=2", "num_threads=1"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["regime"]["name"] == "hybrid"
    assert config["train"]["num_steps"] == NUM_STEPS
    assert (config["num_threads"], config["eval"]["every"]) == (1, 2)
    assert config["data"]["corpus_cue"] == config["data"]["cue"]
    cfg = load_run_config(run)
    assert cfg.train.num_steps == NUM_STEPS and cfg.resume is False


def test_manifest_says_where_and_how_it_ran(run):
    manifest = json.loads((run / "manifest.json").read_text())
    assert {"command", "seed", "versions", "git", "host", "device", "start", "end", "seconds"} <= (
        manifest.keys()
    )
    assert (manifest["status"], manifest["command"], manifest["seed"]) == ("finished", "train", 0)
    assert {"passk", "python", "torch", "transformers"} <= manifest["versions"].keys()
    assert manifest["start"] <= manifest["end"] and manifest["seconds"] > 0
    assert manifest["device"] in ("cpu", "cuda:0")
    assert manifest["git"] is None or set(manifest["git"]) == {"commit", "dirty"}


def test_metrics_have_a_line_per_step_with_every_key(run):
    lines = metrics(run)
    assert [line["step"] for line in lines] == list(range(NUM_STEPS))
    for line in lines:
        assert line.keys() == KEYS
        assert all(line[name] >= 0 for name in TIMES)
        assert 0 <= line["reward_mean"] <= 1
        assert line["pass1"] <= line["passk"] <= 1
        assert line["pass1"] == pytest.approx(line["reward_mean"])
        dead = line["dead_fail_fraction"] + line["dead_solved_fraction"]
        assert line["dead_group_fraction"] == pytest.approx(dead)
    measured = [line["inner_product"] is not None for line in lines]
    assert measured == [True, False, True]  # diagnostics.every=2
    first = lines[0]
    assert first["inner_product_low"] <= first["inner_product"] <= first["inner_product_high"]
    # Among so few prompts a norm may be estimated as negative, and then there is no cosine.
    assert first["alignment"] is None or -1 <= first["alignment"] <= 1


def test_tokens_are_counted_by_one_rule(run, sft_run):
    cfg = load_run_config(run)
    encoder = PromptEncoder(load_tokenizer(cfg.model.path), cfg.data.prompt)
    stream = ProblemStream(load_data(cfg.data, cfg.eval).train, cfg.train.seed)
    for step, line in enumerate(metrics(run)):
        drawn = pd.read_parquet(run / "rollouts" / f"step-{step:06d}.parquet")["num_tokens"]
        of_prompts = sum(map(len, encoder.prompts(stream.take(cfg.rollout.num_prompts))))
        assert line["num_sampled_tokens"] == drawn.sum()
        assert line["num_processed_tokens"] == NUM_SAMPLES * of_prompts + drawn.sum()
        assert 0 < line["num_learned_tokens"] <= line["num_sampled_tokens"]
        # Samples without an advantage are not fed, and shared prefixes once.
        assert 0 < line["num_fed_tokens"] < line["num_processed_tokens"]
        step_seconds = line["num_processed_tokens"] / line["tokens_per_second"]
        phases = ("rollout_seconds", "verify_seconds", "learn_seconds", "sync_seconds")
        assert step_seconds >= sum(line[name] for name in phases)
        for name in ("rollout", "learn"):
            speed = line["sampled_per_second" if name == "rollout" else "fed_per_second"]
            count = line["num_sampled_tokens" if name == "rollout" else "num_fed_tokens"]
            assert speed == pytest.approx(count / line[f"{name}_seconds"])
    cfg = load_run_config(sft_run)
    corpus = ProblemStream(load_data(cfg.data, cfg.eval).corpus, cfg.train.seed)
    for line in metrics(sft_run):
        shown = corpus.take(cfg.regime.num_demonstrations)
        of_prompts = sum(map(len, encoder.prompts(shown)))
        of_solutions = sum(map(len, encoder.completions(shown)))
        assert line["num_sampled_tokens"] == 0 and line["sampled_per_second"] is None
        assert line["num_learned_tokens"] == of_solutions
        assert line["num_processed_tokens"] == of_prompts + of_solutions
        assert line["num_fed_tokens"] >= line["num_processed_tokens"]  # padding is computed too


def test_sft_metrics_have_the_same_keys_and_null_where_nothing_was_sampled(run, sft_run):
    line = metrics(sft_run)[0]
    assert line.keys() == metrics(run)[0].keys()
    for name in ("reward_mean", "pass1", "passk", "dead_group_fraction", "rollout_seconds"):
        assert line[name] is None
    assert line["loss"] > 0 and line["tokens_per_second"] > 0
    assert not (sft_run / "rollouts").exists()
    assert [p.name for p in (sft_run / "checkpoints").iterdir()] == ["step-000002"]
    evaluated = sorted(p.stem for p in (sft_run / "eval").glob("*.parquet"))
    assert evaluated == ["step-000000", "step-000002"]  # the base model, and the end


def test_rollouts_have_a_row_per_sample(run):
    cfg = load_run_config(run)
    stream = ProblemStream(load_data(cfg.data, cfg.eval).train, cfg.train.seed)
    for step in range(NUM_STEPS):
        rows = pd.read_parquet(run / "rollouts" / f"step-{step:06d}.parquet")
        assert list(rows.columns) == ROLLOUT_COLUMNS
        problems = stream.take(cfg.rollout.num_prompts)
        assert list(rows["problem_id"].unique()) == [problem.id for problem in problems]
        assert (rows.groupby("problem_id")["sample"].apply(list).map(len) == NUM_SAMPLES).all()
        assert set(rows["sample"]) == set(range(NUM_SAMPLES))
        assert (rows["step"] == step).all() and (rows["policy_version"] == step).all()
        assert set(rows["finish_reason"]) <= {"stop", "length"}
        assert rows["reward"].mean() == pytest.approx(metrics(run)[step]["reward_mean"])
        assert ((rows["reason"] == "correct") == (rows["reward"] == 1)).all()
        assert (rows["logprob_sampler"] < 0).all()
        assert (rows["num_tokens"] >= rows["completion"].str.len()).all()


def test_learner_and_sampler_agree_on_the_samples_that_were_learned_from(run):
    """On-policy: the same weights give the same log-probability, here and there."""
    for step in range(NUM_STEPS):
        rows = pd.read_parquet(run / "rollouts" / f"step-{step:06d}.parquet")
        fed = rows.dropna(subset="logprob_learner")
        assert len(fed) > 0
        np.testing.assert_allclose(fed["logprob_learner"], fed["logprob_sampler"], atol=2e-4)
        dead = rows.groupby("problem_id")["reward"].nunique() == 1
        assert rows[rows["problem_id"].map(dead)]["logprob_learner"].isna().all()


def test_eval_counts_are_of_the_same_problems_at_every_step(run):
    first, *later = (pd.read_parquet(p) for p in sorted((run / "eval").glob("*.parquet")))
    counted = ["temperature", "n", "c", "n_first", "c_first"]
    assert list(first.columns) == ["problem_id", "kind", *counted]
    assert len(first) == 20
    for counts in later:
        assert list(counts["problem_id"]) == list(first["problem_id"])
    assert (first["n"] == 64).all() and first["c"].between(0, 64).all()
    assert set(first["kind"]) <= {"textbook", "calculator", "skill"}


def test_tables_are_long_form(run):
    columns = "k,value,ci_low,ci_high,num_problems,num_samples"
    header = (run / "eval" / "table.csv").read_text().splitlines()[0]
    assert header == f"step,temperature,{columns}"
    header = (run / "eval" / "table_by_kind.csv").read_text().splitlines()[0]
    assert header == f"step,temperature,kind,{columns}"
    rows = table(run, "table.csv")
    expected = [(step, k) for step in (0, 2, 3) for k in (1, 2, 4, 8, 16)]
    assert list(zip(rows["step"], rows["k"], strict=True)) == expected
    assert (rows["ci_low"] <= rows["value"]).all() and (rows["value"] <= rows["ci_high"]).all()
    for _, of_step in rows.groupby("step"):
        assert of_step["value"].is_monotonic_increasing
    assert (rows["num_problems"] == 20).all() and (rows["num_samples"] == 64).all()


def test_tables_are_rebuilt_from_the_counts_alone(run):
    cfg = load_run_config(run).eval
    rebuilt, by_kind = [], []
    for step in (0, 2, NUM_STEPS):
        counts = pd.read_parquet(run / "eval" / f"step-{step:06d}.parquet")
        about = {"step": step, "temperature": 1.0}
        rebuilt.append(pass_table(counts, cfg).assign(**about))
        by_kind.append(pass_table_by(counts, "kind", cfg).assign(**about))
    for name, parts in (("table.csv", rebuilt), ("table_by_kind.csv", by_kind)):
        written = table(run, name)
        again = pd.concat(parts, ignore_index=True)[written.columns]
        pd.testing.assert_frame_equal(again, written, check_dtype=False, rtol=1e-12)


def test_values_are_the_mean_unbiased_estimate(run):
    counts = pd.read_parquet(run / "eval" / "step-000003.parquet")
    rows = table(run, "table.csv").query("step == 3").set_index("k")["value"]
    assert rows[1] == pytest.approx((counts["c"] / counts["n"]).mean())
    expected = pass_at_k(counts["n"].to_numpy(), counts["c"].to_numpy(), 8).mean()
    assert rows[8] == pytest.approx(expected)


def test_table_for_people_has_a_row_per_step(run):
    lines = (run / "eval" / "table.md").read_text().splitlines()
    assert lines[0] == "| step | Pass@1 | Pass@2 | Pass@4 | Pass@8 | Pass@16 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| 0", "| 2", "| 3"]
    value = table(run, "table.csv")["value"][0]
    assert f"| 0 | {100 * value:.1f} [" in lines[2]


def test_only_the_newest_checkpoints_are_kept_whole_and_named(run, tmp_path):
    names = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert names == ["step-000002", "step-000003"]  # train.keep_last=2
    assert not list(run.rglob("*partial*"))
    words = ("train.num_steps=4", "train.save_every=1", "train.keep_last=3", "diagnostics.every=0")
    words += ("train.keep_best=0",)
    assert train(tmp_path / "more", *words) == 0
    kept = sorted(path.name for path in (tmp_path / "more" / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000003", "step-000004"]


def test_checkpoints_load_with_transformers_alone(run):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for folder in sorted((run / "checkpoints").iterdir()):
        assert (folder / "model.safetensors").is_file()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        ids = tokenizer(["T3+4*5="], return_tensors="pt")["input_ids"]
        ended = model.generate(ids, do_sample=False, max_new_tokens=32)
        text = tokenizer.decode(ended[0, ids.shape[1] :], skip_special_tokens=True)
        assert text.split("=")[-1].isdigit()


def test_next_run_starts_from_the_weights_it_is_given(run, tmp_path):
    """The evaluation at step 0 of a run is that at the end of the run it came from."""
    words = ["experiment=smoke", "eval.every=1", "num_threads=1", "train.num_steps=1"]
    folder = tmp_path / "next"
    assert main(["train", *words, f"train.init_from={run}", f"hydra.run.dir={folder}"]) == 0
    end = (run / "eval" / "step-000003.parquet").read_bytes()
    assert (folder / "eval" / "step-000000.parquet").read_bytes() == end


def test_a_run_in_use_is_never_written_into(run, capsys):
    before = snapshot(run)
    assert main(["train", "experiment=smoke", f"hydra.run.dir={run}"]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert snapshot(run) == before


def test_failed_run_says_so_in_its_manifest(tmp_path, monkeypatch, capsys):
    from passk.training import loop

    def broken(*_):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(loop, "explore", broken)
    assert train(tmp_path / "run", "train.num_steps=1") == 1
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "out of luck" in capsys.readouterr().err


def test_a_policy_that_always_fails_is_measured_not_crashed_on(tmp_path):
    """No reward, no gradient, no alignment: null in the log, and the run goes on."""
    words = ("rollout.max_new_tokens=1", "train.num_steps=2", "diagnostics.every=1")
    assert train(tmp_path / "run", *words) == 0
    for line in metrics(tmp_path / "run"):
        assert (line["reward_mean"], line["dead_fail_fraction"]) == (0.0, 1.0)
        assert (line["alignment"], line["grad_norm"]) == (None, 0.0)
    rows = pd.read_parquet(tmp_path / "run" / "rollouts" / "step-000000.parquet")
    assert set(rows["reason"]) == {"truncated"}
