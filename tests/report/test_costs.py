"""What runs cost, against sums worked out from their files; and a real run's own account."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from run_files import write_reproduction, write_run
from small_runs import metrics, train

from passk.report.costs import PHASES, cost_sheet, cost_table, price_sheet, run_cost
from passk.report.reading import cost_sentences
from passk.report.tables import reproduction_table
from passk.runs.manifest import Spending
from passk.runs.reader import find_runs, load_run

LINES = [
    {
        "rollout_seconds": 1.0 + step,
        "verify_seconds": 0.25,
        "measure_seconds": 0.0,
        "learn_seconds": 2.0,
        "sync_seconds": 0.125,
        "reasons": {"correct": 5 + step, "wrong": 7 - step},
        "num_sampled_tokens": 100 + step,
        "num_learned_tokens": 60,
        "seconds": 4.0 * (step + 1),
    }
    for step in range(10)
]
KINDS = ["textbook"] * 8
LOW, MIXED, HIGH = [4] * 8, [8, 6, 9, 7, 8, 6, 9, 7], [28] * 8
TITLES = {"passk": "Pass@8-only", "hybrid": "Hybrid 0.7/0.3", "sft": "SFT"}


def a_run(path, regime="passk", counts=None, **kwargs):
    counts = counts or {0: LOW, 10: HIGH}
    lines = kwargs.pop("metrics", LINES)
    return write_run(path, regime=regime, counts=counts, kinds=KINDS, metrics=lines, **kwargs)


def test_a_cost_is_the_sum_of_its_lines(tmp_path):
    facts = {"seconds": 95.0, "num_processes": 2, "device_seconds": 190.0}
    cost = run_cost(load_run(a_run(tmp_path / "run", manifest=facts)))
    for phase in PHASES:
        name = f"{phase}_seconds"
        assert cost[name] == pytest.approx(sum(line[name] for line in LINES))
    assert cost["num_steps"] == 10
    assert cost["num_drawn"] == sum(sum(line["reasons"].values()) for line in LINES) == 120
    assert cost["num_demonstrations"] == 0
    assert cost["num_sampled_tokens"] == sum(line["num_sampled_tokens"] for line in LINES)
    assert cost["num_learned_tokens"] == 600
    assert cost["other_seconds"] == pytest.approx(95.0 - (55.0 + 2.5 + 20.0 + 1.25))
    assert (cost["seconds"], cost["num_processes"], cost["device_seconds"]) == (95.0, 2, 190.0)


def test_a_killed_run_took_what_its_last_line_says(tmp_path):
    facts = {"status": "running", "seconds": 12.0, "num_processes": 2, "device_seconds": 36.0}
    cost = run_cost(load_run(a_run(tmp_path / "run", manifest=facts)))
    assert cost["seconds"] == 40.0  # of its last line
    assert cost["device_seconds"] == 36.0 + 2 * (40.0 - 12.0)


def test_what_the_files_do_not_hold_is_not_known(tmp_path):
    known = {"rollout_seconds": 1.0, "learn_seconds": 2.0}
    cost = run_cost(load_run(a_run(tmp_path / "run", metrics=[known] * 10)))
    unknown = ("num_drawn", "num_sampled_tokens", "num_learned_tokens")
    assert all(math.isnan(cost[name]) for name in unknown)
    assert (cost["rollout_seconds"], cost["learn_seconds"], cost["sync_seconds"]) == (10, 20, 0)


def test_gains_and_losses_have_a_price_and_what_is_not_clear_has_none(tmp_path):
    a_run(tmp_path / "passk")
    a_run(tmp_path / "hybrid", "hybrid", {0: [6, 9, 7, 8, 6, 9, 7, 8], 10: MIXED})
    a_run(tmp_path / "pass1", "pass1", {0: HIGH, 10: LOW})
    records = find_runs([tmp_path])
    table = cost_table(records).set_index("regime")
    gained = (28 - 4) / 32 * 100
    assert table.loc["passk", "pass1_change"] == "gained"
    assert table.loc["passk", "samples_per_pass1"] == pytest.approx(120 / gained)
    assert table.loc["passk", "tokens_per_pass1"] == pytest.approx(1045 / gained)
    assert table.loc["passk", "device_seconds_per_pass1"] == pytest.approx(72.4 / gained)
    assert table.loc["pass1", "pass1_change"] == "lost"
    assert table.loc["pass1", "samples_per_pass1"] == pytest.approx(120 / gained)
    assert table.loc["hybrid", "pass1_change"] == "no clear change"
    prices = [name for name in table if "_per_pass" in name]
    assert len(prices) == 2 * 3 * 3
    assert table.loc["hybrid", [p for p in prices if "pass1" in p]].isna().all()
    sentences = cost_sentences(table.reset_index(), TITLES | {"pass1": "Pass@1-only"})
    step = (
        "A step of Hybrid 0.7/0.3 drew as many samples as one of Pass@8-only (12), took 1.00 times"
    )
    assert any(words.startswith(step) for words in sentences)
    assert any(words.startswith("Seconds are those of a machine") for words in sentences)
    assert any("Hybrid 0.7/0.3 made no clear change to Pass@1" in words for words in sentences)
    assert any("Pass@1-only lost a point of Pass@1 for each 1.6 samples" in s for s in sentences)


def test_the_ends_of_a_price_are_those_of_the_change(tmp_path):
    counts = {0: [4, 6, 8, 2, 4, 6, 8, 2], 10: [20, 30, 18, 9, 20, 28, 31, 8]}
    a_run(tmp_path / "run", counts=counts)
    row = cost_table(find_runs([tmp_path])).iloc[0]
    assert row["delta_pass1_low"] > 0
    assert row["samples_per_pass1_low"] == pytest.approx(120 / (100 * row["delta_pass1_high"]))
    assert row["samples_per_pass1_high"] == pytest.approx(120 / (100 * row["delta_pass1_low"]))
    assert row["samples_per_pass1_low"] < row["samples_per_pass1"] < row["samples_per_pass1_high"]


def test_seeds_are_pooled(tmp_path):
    for seed, seconds in enumerate((50.0, 60.0, 70.0)):
        a_run(tmp_path / f"run-{seed}", seed=seed, manifest={"seconds": seconds})
    records = find_runs([tmp_path])
    (row,) = cost_table(records).to_dict("records")
    assert (row["num_runs"], row["seconds"], row["num_drawn"]) == (3, 60.0, 120)
    pooled = reproduction_table(records).iloc[-1]
    assert pooled["seed"] == "all" and row["delta_passk"] == pooled["delta_passk"]
    pd.testing.assert_frame_equal(
        cost_table(records, reproduction_table(records)), cost_table(records)
    )


def test_sft_imitates_demonstrations(tmp_path):
    write_reproduction(tmp_path / "main", settings={"regime": {"num_demonstrations": 25}})
    table = cost_table(find_runs([tmp_path / "main"])).set_index("regime")
    assert table.loc["sft", ["num_drawn", "num_sampled_tokens"]].tolist() == [0, 0]
    assert table.loc["sft", "num_demonstrations"] == 30 * 25
    assert table.loc["sft", "pass1_change"] == "unknown"  # nothing was measured before it
    assert (table.drop(index="sft")["num_demonstrations"] == 0).all()
    shown = cost_sheet(table.reset_index(), TITLES)
    assert "Samples" not in shown.headings  # those of these files are not known
    assert [row[0] for row in shown.rows] == ["SFT", "pass1", "Pass@8-only", "Hybrid 0.7/0.3"]
    measures = [row[:2] for row in price_sheet(table.reset_index(), TITLES).rows]
    assert measures[:2] == [["pass1", "Pass@1"], ["pass1", "Pass@8"]] and len(measures) == 6


def test_a_session_goes_on_counting_where_the_one_before_stopped():
    killed = Spending({"seconds": 10.0, "device_seconds": 40.0, "num_processes": 4}, 12.5)
    facts = killed.facts()
    assert facts["num_processes"] == 1
    assert facts["seconds"] == pytest.approx(12.5, abs=0.2)
    assert facts["device_seconds"] == pytest.approx(40.0 + 4 * 2.5, abs=0.2)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    run = tmp_path_factory.mktemp("costs") / "run"
    words = ("regime=hybrid", "train.num_steps=4", "train.save_every=2", "diagnostics.every=0")
    assert train(run, *words) == 0
    return run, words


def test_a_real_run_accounts_for_its_samples_and_its_time(real):
    run, _ = real
    cost = run_cost(load_run(run))
    samples = pd.concat(pd.read_parquet(file) for file in sorted((run / "rollouts").iterdir()))
    assert cost["num_drawn"] == len(samples) == 4 * 6 * 4
    assert cost["num_sampled_tokens"] == samples["num_tokens"].sum()
    fed = samples.dropna(subset="logprob_learner").drop_duplicates(
        ["step", "problem_id", "completion", "logprob_learner"]
    )
    assert cost["num_learned_tokens"] == fed["num_tokens"].sum() > 0
    assert cost["num_processes"] == 1 and cost["device_seconds"] == cost["seconds"]
    phases = sum(cost[f"{phase}_seconds"] for phase in PHASES)
    assert phases + cost["other_seconds"] == pytest.approx(max(cost["seconds"], phases))
    seconds = [line["seconds"] for line in metrics(run)]
    assert seconds == sorted(seconds) and seconds[-1] <= cost["seconds"] + 0.1


def test_a_killed_and_resumed_run_has_the_time_of_both_sessions(real):
    run, words = real
    manifest = json.loads((run / "manifest.json").read_text())
    lines = [line | {"seconds": 100.0} for line in metrics(run)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("checkpoints/step-000004", "eval/step-000004.parquet"):
        (run / name).rename(run.parent / name.replace("/", "-"))
    killed = manifest | {"status": "running", "seconds": 0.0, "device_seconds": 0.0}
    (run / "manifest.json").write_text(json.dumps(killed))
    (run / "problems.parquet").unlink()
    assert train(run, *words, "resume=true") == 0
    cost = run_cost(load_run(run))
    assert 100.0 < cost["seconds"] < 160.0 and cost["device_seconds"] == cost["seconds"]
    assert [line["seconds"] > 100.0 for line in metrics(run)] == [False, False, True, True]
    assert cost["num_drawn"] == 4 * 6 * 4  # what is repeated counts once
    assert (run / "problems.parquet").is_file()


def test_problems_are_written_with_their_texts(real):
    run, _ = real
    problems = load_run(run).problems()
    rollouts = pd.read_parquet(run / "rollouts" / "step-000000.parquet")
    of_training = problems[problems["split"] == "train"].set_index("problem_id")
    assert set(rollouts["problem_id"]) <= set(of_training.index) and len(of_training) == 48
    heldout = problems[problems["split"] == "heldout"]["problem_id"]
    assert list(heldout) == list(
        pd.read_parquet(run / "eval" / "step-000004.parquet")["problem_id"]
    )
    assert of_training["prompt"].str.endswith("=").all()
    right = rollouts[rollouts["reward"] == 1]
    ends = right["completion"].str.rpartition("=")[2].str.rstrip()
    assert len(right) and (ends == of_training.loc[right["problem_id"], "answer"].array).all()
    assert np.isin(of_training["kind"], ["textbook", "calculator", "skill"]).all()
