"""Samples for the report: what is chosen, what stands beside it, and that it keeps its budget."""

import json

import numpy as np
import pandas as pd
import pytest
from run_files import write_rollouts, write_run
from small_runs import SMALL, train

from passk.cli.main import main
from passk.config.schema import mix
from passk.objectives.advantages import Objective, prompt_weights
from passk.report.samples import LONGEST_SHOWN, prompt_weights_of, sample_rows
from passk.runs.reader import find_measured, find_runs

KINDS = ("textbook", "calculator", "skill")
N = 4


def write_samples(run, step, num_problems=30, seed=0, length=10):
    """Groups of N whose success goes from none to all, with few distinct texts."""
    rng = np.random.default_rng([seed, step])
    groups = {}
    for i in range(num_problems):
        right = i % (N + 1)
        texts = [f"{'x' * length}{i}={rng.integers(3)}" for _ in range(N)]
        groups[f"p{i}"] = [
            (f"{t}!" if j < right else t, float(j < right)) for j, t in enumerate(texts)
        ]
    return write_rollouts(run, step, groups)


def a_run(path, num_problems=30, length=10, steps=(0, 3, 6), **kwargs):
    settings = {"regime": {"estimator": kwargs.pop("estimator", "mixture")}}
    counts = {0: [4] * 4, 7: [8] * 4}
    kwargs = {"regime": "hybrid", "k": 3, "settings": settings} | kwargs
    run = write_run(path, counts=counts, kinds=["skill"] * 4, **kwargs)
    text = (run / "config.yaml").read_text() + f"rollout: {{num_samples: {N}}}\n"
    (run / "config.yaml").write_text(text)
    problems = pd.DataFrame(
        {
            "problem_id": [f"p{i}" for i in range(num_problems)],
            "split": "train",
            "kind": [KINDS[i % 3] for i in range(num_problems)],
            "prompt": [f"What is {i} < 5?" for i in range(num_problems)],
            "answer": [str(i) for i in range(num_problems)],
        }
    )
    heldout = problems.assign(split="heldout", prompt="another problem of that name")
    pd.concat([problems, heldout]).to_parquet(run / "problems.parquet")
    for step in steps:
        write_samples(run, step, num_problems, kwargs.get("seed", 0), length)
    return run


def joined(rows):
    """Samples with what their group, problem and file say."""
    groups = rows.groups.reset_index(names="group")
    files = rows.files.drop(columns="split")
    groups = groups.join(rows.problems, on="problem").join(files, on="file")
    return rows.samples.join(groups.drop(columns="group"), on="group")


def test_with_room_everything_of_the_first_and_the_last_file_is_there(tmp_path):
    run = a_run(tmp_path / "run")
    rows = sample_rows(find_runs([run]), 10**7)
    assert rows.files["step"].tolist() == [0, 6] and set(rows.files["source"]) == {"hybrid"}
    assert rows.num_shown == rows.num_in_files == 2 * 30 * N
    assert rows.num_on_disk == 3 * 30 * N
    assert "Shown are 240 of 360 samples, out of 240" in rows.sentence
    shown = joined(rows)
    for step in (0, 6):
        written = pd.read_parquet(run / "rollouts" / f"step-{step:06d}.parquet")
        counts = written.groupby(["problem_id", "completion", "reward"]).size()
        of_step = shown[shown["step"] == step]
        found = of_step.set_index(["problem_id", "completion", "reward"])["count"]
        assert found.sort_index().astype(int).to_dict() == counts.to_dict()
        first = written.drop_duplicates(["problem_id", "completion"])
        expected = first.set_index(["problem_id", "completion"])["logprob_learner"]
        got = of_step.set_index(["problem_id", "completion"])["logprob_learner"]
        assert got.to_dict() == expected.to_dict()
        assert (of_step["policy_version"] == step).all()
    assert (shown["prompt"] == "What is " + shown["answer"] + " < 5?").all()


def test_weights_and_advantages_are_those_of_the_objective_of_the_step(tmp_path):
    logged = [{}, {}, {}, {}, {}, {"trained_k": 2, "pass1_weight": 0.25, "min_success": 0.5}]
    run = a_run(tmp_path / "run", metrics=logged)  # metrics begin at step 1
    shown = joined(sample_rows(find_runs([run]), 10**7))
    for step, objective in (
        (0, Objective("mixture", mix(3, 0.7))),
        (6, Objective("mixture", mix(2, 0.25), 0.5)),
    ):
        written = pd.read_parquet(run / "rollouts" / f"step-{step:06d}.parquet")
        rewards_PG = written["reward"].to_numpy().reshape(-1, N)
        names = written["problem_id"].unique()
        weights = dict(zip(names, objective.prompt_weights(rewards_PG), strict=True))
        written["advantage"] = objective.advantages(rewards_PG).ravel()
        of_step = shown[shown["step"] == step]
        for row in of_step.to_dict("records"):
            assert row["weight"] == pytest.approx(weights[row["problem_id"]], rel=1e-3)
            same = written[written["problem_id"] == row["problem_id"]]
            same = same[same["completion"] == row["completion"]]
            assert row["advantage"] == pytest.approx(same["advantage"].iloc[0], rel=1e-3)
            assert (row["n"], row["c"]) == (N, int(row["problem_id"][1:]) % (N + 1))


def test_a_run_over_several_k_has_the_weights_of_its_terms(tmp_path):
    terms = {"regime": {"ks": [1, 3], "weights": [0.5, 2.0], "k": 3, "pass1_weight": 0.2}}
    run = a_run(tmp_path / "run", settings=terms)
    shown = joined(sample_rows(find_runs([run]), 10**7))
    objective = Objective("mixture", ((1, 0.5), (3, 2.0)))
    written = pd.read_parquet(run / "rollouts" / "step-000000.parquet")
    weights_P = objective.prompt_weights(written["reward"].to_numpy().reshape(-1, N))
    expected = dict(zip(written["problem_id"].unique(), weights_P, strict=True))
    for row in shown[shown["step"] == 0].to_dict("records"):
        assert row["weight"] == pytest.approx(expected[row["problem_id"]], rel=1e-3)


def test_the_weight_of_another_estimator_is_what_it_comes_to():
    rewards_PG = np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    mixture = Objective("mixture", mix(2, 0.0))
    np.testing.assert_allclose(
        prompt_weights_of(mixture, rewards_PG), prompt_weights(rewards_PG, 2, 0.0)
    )
    # Without a baseline PKPO's estimator has the same mean as the mixture at every p.
    plain = prompt_weights_of(Objective("s", mix(2, 0.0)), rewards_PG)
    np.testing.assert_allclose(plain, 2 * (1 - rewards_PG.mean(axis=1)), atol=1e-6)


@pytest.mark.parametrize("budget", [2_000, 20_000, 60_000])
def test_the_budget_is_kept_and_used(tmp_path, budget):
    for seed in range(3):
        a_run(tmp_path / f"run-{seed}", seed=seed, length=200)
    rows = sample_rows(find_runs([tmp_path]), budget)
    size = len(rows.as_json().encode())
    assert size <= budget
    largest_group = N * 700  # four texts of 200 characters, with their rows
    assert size > budget - largest_group
    assert rows.num_shown == rows.samples["count"].sum()
    again = sample_rows(find_runs([tmp_path]), budget)
    assert again.as_json() == rows.as_json()
    assert sample_rows(find_runs([tmp_path]), budget, seed=1).as_json() != rows.as_json()


def test_a_small_budget_still_shows_every_file_kind_and_success(tmp_path):
    for seed in range(2):
        a_run(tmp_path / f"run-{seed}", seed=seed, num_problems=60)
    rows = sample_rows(find_runs([tmp_path]), 16_000)
    groups = rows.groups.join(rows.problems, on="problem")
    assert len(groups) < 4 * 60 / 2
    for _, of_file in groups.groupby("file"):
        assert set(of_file["kind"]) == set(KINDS)
        assert set(of_file["c"]) == set(range(N + 1))
        by_stratum = of_file.groupby(["kind", "c"]).size()
        assert len(by_stratum) == 15 and by_stratum.max() - by_stratum.min() <= 1
    assert groups.groupby("file").size().agg(np.ptp) <= 1


def test_texts_are_stored_once_and_nothing_ends_a_script(tmp_path):
    for k in (2, 3):
        a_run(tmp_path / f"k={k}", k=k)  # the same seed: the same samples
    rows = sample_rows(find_runs([tmp_path]), 10**7)
    page = rows.as_json()
    assert "<" not in page
    read = json.loads(page)
    assert len(set(read["texts"])) == len(read["texts"])
    assert len(read["problems"]) == 30 and len(read["groups"]) == 4 * 30
    column = {name: read["columns"]["samples"].index(name) for name in read["columns"]["samples"]}
    completions = [read["texts"][row[column["completion"]]] for row in read["samples"]]
    assert completions == rows.samples["completion"].tolist()
    prompt = read["columns"]["problems"].index("prompt")
    assert {read["texts"][row[prompt]] for row in read["problems"]} == {
        f"What is {i} < 5?" for i in range(30)
    }


def test_long_texts_lose_their_middle(tmp_path):
    run = a_run(tmp_path / "run", num_problems=2, length=3 * LONGEST_SHOWN)
    rows = sample_rows(find_runs([run]), 10**6)
    assert rows.samples["completion"].str.len().max() < LONGEST_SHOWN + 60
    assert rows.samples["completion"].str.contains(r"\[\.\.\. 8,00\d characters left out").all()


def test_unjudged_samples_and_sft(tmp_path):
    run = a_run(tmp_path / "run", steps=())
    groups = {"p0": [("a", None), ("b", 1.0), ("b", 1.0), ("c", 0.0)]}
    write_rollouts(run, 2, groups)
    write_run(tmp_path / "sft", regime="sft", counts={0: [1]}, kinds=["skill"])
    rows = sample_rows(find_runs([tmp_path]), 10**6)
    (group,) = rows.groups.to_dict("records")
    assert (group["n"], group["c"]) == (3, 2)
    assert rows.samples["completion"].tolist() == ["b", "a", "c"]
    assert rows.samples["reward"].tolist() == [1.0, None, 0.0]
    assert rows.problems.loc[0, ["prompt", "answer"]].tolist() == ["What is 0 < 5?", "0"]
    assert json.loads(rows.as_json())["samples"][1][3] is None
    assert sample_rows(find_runs([tmp_path / "sft"]), 10**6).num_on_disk == 0


def test_too_few_samples_for_the_objective_are_shown_without_a_weight(tmp_path):
    run = a_run(tmp_path / "run", k=N + 1)
    rows = sample_rows(find_runs([run]), 10**7)
    assert rows.num_shown == 2 * 30 * N
    assert rows.groups["weight"].isna().all() and rows.samples["advantage"].isna().all()


def test_a_real_run_and_its_evaluation(tmp_path):
    run, measured = tmp_path / "run", tmp_path / "eval"
    assert train(run, "regime=passk", "train.num_steps=2", "diagnostics.every=0") == 0
    small = [word for word in SMALL if word.startswith(("num_threads", "eval"))]
    words = [f"run={run}", *small, "eval.chunk_size=2", "eval.temperatures=[0]"]
    assert main(["eval", *words, f"hydra.run.dir={measured}"]) == 0
    (folder,) = find_measured([tmp_path], "eval")
    rows = sample_rows(find_runs([tmp_path]), 10**6, [folder])
    assert rows.files["source"].tolist() == ["passk", "passk", "eval"]
    assert rows.files["split"].tolist() == ["train", "train", "heldout"]
    assert rows.num_on_disk == 2 * 6 * 4 + 8 * 8
    shown = joined(rows)
    heldout = shown[shown["source"] == "eval"]
    assert heldout["weight"].isna().all() and (heldout["step"] == 2).all()
    written = pd.concat(pd.read_parquet(f) for f in sorted((measured / "samples").iterdir()))
    drawn = written[written["temperature"] == 1]
    assert heldout["count"].sum() == len(drawn) == 8 * 8
    counts = drawn.groupby("problem_id")["reward"].sum()
    assert heldout.groupby("problem_id")["c"].first().to_dict() == counts.to_dict()
    assert shown["prompt"].str.endswith("=").all()
    assert set(shown["kind"]) <= set(KINDS)
    right = shown[shown["reward"] == 1]
    assert len(right)
    for row in right.to_dict("records"):
        assert row["completion"].split("=")[-1].strip() == row["answer"]
