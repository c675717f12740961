"""Tables against numbers worked out by hand from the files."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import yaml
from run_files import exact_pass_at_k, write_reproduction, write_run, write_sweep

from passk.errors import UserError
from passk.report.reading import reading
from passk.report.tables import (
    kind_table,
    prompt_changes,
    reported_k,
    reproduction_table,
    sweep_table,
)
from passk.runs.labels import config_differences, in_order, run_labels, run_title
from passk.runs.reader import find_runs, load_run

COLUMNS = (
    "regime,seed,pass1,passk,delta_pass1,delta_pass1_low,delta_pass1_high,delta_passk,"
    "delta_passk_low,delta_passk_high,alignment,alignment_low,alignment_high,"
    "greedy,majk"
)


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    return write_reproduction(tmp_path_factory.mktemp("runs") / "main", seeds=(0, 1, 2))


@pytest.fixture(scope="module")
def table(three_seeds):
    return reproduction_table(find_runs([three_seeds]))


def counts_of(run, step):
    return pd.read_parquet(run / "eval" / f"step-{step:06d}.parquet")


def mean_pass(frame, k):
    return np.mean([exact_pass_at_k(n, c, k) for n, c in zip(frame["n"], frame["c"], strict=True)])


def test_columns_and_rows_are_the_contract(table):
    assert ",".join(table.columns) == COLUMNS
    assert list(dict.fromkeys(table["regime"])) == ["sft", "pass1", "passk", "hybrid"]
    for _, rows in table.groupby("regime"):
        assert list(rows["seed"]) == [0, 1, 2, "all"]


def test_values_and_deltas_are_those_of_the_counts(three_seeds, table):
    before = counts_of(three_seeds / "seed-1" / "sft", 30)
    after = counts_of(three_seeds / "seed-1" / "passk", 30)
    row = table[(table["regime"] == "passk") & (table["seed"] == 1)].iloc[0]
    assert row["pass1"] == pytest.approx((after["c"] / after["n"]).mean())
    assert row["passk"] == pytest.approx(mean_pass(after, 8))
    assert row["delta_pass1"] == pytest.approx(mean_pass(after, 1) - mean_pass(before, 1))
    assert row["delta_passk"] == pytest.approx(mean_pass(after, 8) - mean_pass(before, 8))


def test_delta_interval_is_paired(three_seeds, table):
    """The interval is that of the difference per problem, about 1.96 standard errors wide."""
    before = counts_of(three_seeds / "seed-0" / "sft", 30)
    after = counts_of(three_seeds / "seed-0" / "hybrid", 30)
    difference = (after["c"] / after["n"] - before["c"] / before["n"]).to_numpy()
    half = 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
    row = table[(table["regime"] == "hybrid") & (table["seed"] == 0)].iloc[0]
    assert row["delta_pass1_low"] == pytest.approx(difference.mean() - half, abs=0.15 * half)
    assert row["delta_pass1_high"] == pytest.approx(difference.mean() + half, abs=0.15 * half)


def test_problems_are_joined_by_id_not_by_place(tmp_path):
    write_reproduction(tmp_path / "main")
    expected = reproduction_table(find_runs([tmp_path / "main"]))
    file = tmp_path / "main" / "seed-0" / "sft" / "eval" / "step-000030.parquet"
    pd.read_parquet(file).sample(frac=1, random_state=0).to_parquet(file)
    shuffled = reproduction_table(find_runs([tmp_path / "main"]))
    # The bootstrap sees problems in another order, so only the values are equal to the last digit.
    columns = ["pass1", "passk", "delta_pass1", "delta_passk"]
    pd.testing.assert_frame_equal(shuffled[columns], expected[columns])


def test_all_rows_are_means_with_student_t_intervals(table):
    of_regime = table[table["regime"] == "passk"]
    seeds, summary = of_regime[of_regime["seed"] != "all"], of_regime.iloc[-1]
    for name in ("delta_pass1", "delta_passk", "alignment"):
        values = seeds[name].to_numpy(float)
        half = 4.302652729911275 * values.std(ddof=1) / math.sqrt(3)  # t(0.975, 2 degrees)
        assert summary[name] == pytest.approx(values.mean())
        assert summary[f"{name}_low"] == pytest.approx(values.mean() - half)
        assert summary[f"{name}_high"] == pytest.approx(values.mean() + half)
    assert summary["pass1"] == pytest.approx(seeds["pass1"].mean())


def test_sft_has_no_deltas_and_takes_k_of_the_others(table):
    sft = table[table["regime"] == "sft"]
    assert sft[["delta_pass1", "delta_passk", "delta_pass1_low", "alignment"]].isna().all(axis=None)
    assert (sft["passk"] > sft["pass1"]).all()


def test_alignment_comes_from_the_seeds_file(three_seeds, table):
    file = pd.read_csv(three_seeds / "seed-2" / "alignment.csv").set_index("regime")
    for regime in ("pass1", "passk", "hybrid"):
        row = table[(table["regime"] == regime) & (table["seed"] == 2)].iloc[0]
        assert row["alignment"] == file.loc[regime, "alignment"]
        assert row["alignment_high"] == file.loc[regime, "alignment_high"]


def test_table_survives_csv(table, tmp_path):
    table.to_csv(tmp_path / "table.csv", index=False)
    again = pd.read_csv(tmp_path / "table.csv")
    assert again[again["seed"] == "all"]["pass1"].notna().all()
    np.testing.assert_allclose(again["delta_passk"], table["delta_passk"].astype(float))


def test_run_outside_a_reproduction_starts_from_its_own_step_0(tmp_path):
    kinds = ["textbook"] * 4
    counts = {0: [32, 16, 0, 8], 10: [30, 20, 4, 8], 20: [28, 24, 8, 8]}
    write_run(tmp_path / "run", regime="hybrid", counts=counts, kinds=kinds, k=4)
    row = reproduction_table([load_run(tmp_path / "run")]).iloc[0]
    assert row["delta_pass1"] == pytest.approx((-4 + 8 + 8 + 0) / 32 / 4)
    expected = [exact_pass_at_k(32, c, 4) for c in counts[20]]
    assert row["passk"] == pytest.approx(np.mean(expected))
    assert row["alignment"] == pytest.approx(0.4 * 0.996)  # its own first step
    assert row["alignment_low"] == pytest.approx(0.4 * 0.996 - 0.1)


def test_sweep_uses_one_grid_of_k_for_all_cells(tmp_path):
    write_sweep(tmp_path / "sweep", ks=(2, 8), weights=(0.5, 0.9))
    table = sweep_table(find_runs([tmp_path / "sweep"]))
    assert list(table["k"]) == [2, 2, 8, 8]
    assert list(table["pass1_weight"]) == [0.9, 0.5, 0.9, 0.5]
    for k in (1, 2, 4, 8):
        assert {f"pass{k}", f"pass{k}_low", f"delta_pass{k}", f"delta_pass{k}_high"} <= {*table}
    run = tmp_path / "sweep" / "regime.k=2,regime.pass1_weight=0.5"
    cell = table[(table["k"] == 2) & (table["pass1_weight"] == 0.5)].iloc[0]
    before, after = counts_of(run, 0), counts_of(run, 40)
    assert cell["pass8"] == pytest.approx(mean_pass(after, 8))
    assert cell["delta_pass8"] == pytest.approx(mean_pass(after, 8) - mean_pass(before, 8))
    assert cell["delta_pass8_low"] < cell["delta_pass8"] < cell["delta_pass8_high"]


def test_sweep_over_seeds_adds_a_row_per_cell(tmp_path):
    for seed in (0, 1):
        counts = {0: [4, 8, 16], 10: [8 + seed, 8, 20]}
        kwargs = {"counts": counts, "kinds": ["skill"] * 3, "seed": seed}
        write_run(tmp_path / f"run-{seed}", regime="hybrid", **kwargs)
    table = sweep_table(find_runs([tmp_path]))
    assert list(table["seed"]) == [0, 1, "all"]
    assert table["delta_pass1"].iloc[2] == pytest.approx(table["delta_pass1"].iloc[:2].mean())


def test_passk_weight_of_a_prompt_is_unbiased(three_seeds):
    prompts = prompt_changes(find_runs([three_seeds]))
    before = counts_of(three_seeds / "seed-0" / "sft", 30)
    rows = prompts[(prompts["regime"] == "passk") & (prompts["seed"] == 0)]
    expected = [8 * (1 - exact_pass_at_k(n, c, 7)) for n, c in before[["n", "c"]].to_numpy()]
    np.testing.assert_allclose(rows["passk_weight"], expected, atol=1e-12)
    np.testing.assert_allclose(rows["p_before"], before["c"] / before["n"])
    assert "sft" not in set(prompts["regime"])


def test_kind_table_holds_before_and_after(three_seeds):
    kinds = kind_table(find_runs([three_seeds])).set_index(["regime", "kind"])
    by_kind = []
    for seed in (0, 1, 2):
        frame = counts_of(three_seeds / f"seed-{seed}" / "passk", 30)
        by_kind.append(mean_pass(frame[frame["kind"] == "calculator"], 8))
    assert kinds.loc[("passk", "calculator"), "passk"] == pytest.approx(np.mean(by_kind))
    assert kinds.loc[("passk", "calculator"), "pass1_before"] == pytest.approx(
        kinds.loc[("hybrid", "calculator"), "pass1_before"]
    )


def test_labels_name_what_sets_runs_apart(tmp_path):
    for cue in (0.0, 1.0):
        write_reproduction(tmp_path / f"cue-{cue}", seeds=(0, 1), settings={"data": {"cue": cue}})
    records = find_runs([tmp_path])
    assert {"sft cue=0.0", "passk cue=1.0"} <= set(run_labels(records))
    table = reproduction_table(records)
    assert len(table) == 4 * 2 * 3
    assert list(config_differences(records).index) == [
        "data.cue",
        "regime.name",
        "regime.pass1_weight",
    ]
    record = next(r for r in records if r.regime == "passk")
    assert run_title(record, "passk") == "Pass@8-only"
    assert run_title(record, "passk cue=0.0") == "Pass@8-only, cue=0.0"


def test_mixtures_of_several_k_are_told_apart_by_their_terms(tmp_path):
    regimes = (
        {"k": 8, "pass1_weight": 0.7, "ks": None, "weights": None},
        {"k": 4, "pass1_weight": 0.5, "ks": [1, 4], "weights": None},
        {"k": 4, "pass1_weight": 0.25, "ks": [1, 4], "weights": [1.0, 3.0]},
    )
    for i, regime in enumerate(regimes):
        settings = {"regime": regime, "learner": {"betas": [0.9, 0.99 + i / 1000]}}
        write_run(
            tmp_path / str(i),
            regime="hybrid",
            counts={0: [3] * 6, 10: [4] * 6},
            kinds=["x"] * 6,
            settings=settings,
        )
    records = find_runs([tmp_path])
    titles = [run_title(r, label) for r, label in zip(records, run_labels(records), strict=True)]
    assert titles == [
        "Hybrid 0.7/0.3, betas=[0.9,0.99], k=8",
        "Hybrid of Pass@1, 4, betas=[0.9,0.991]",
        "Hybrid of Pass@1, 4, betas=[0.9,0.992], weights=[1.0,3.0]",
    ]
    assert [record.optimises_passk for record in records] == [True] * 3


def test_runs_are_ordered_by_the_size_of_their_numbers(tmp_path):
    for lr in (1e-3, 1e-5, 2e-5):
        for k in (16, 2, 8):
            settings = {"learner": {"lr": lr}}
            run = tmp_path / f"{lr}-{k}"
            write_run(run, regime="hybrid", counts={0: [3]}, kinds=["a"], k=k, settings=settings)
    ordered = [(r.setting("learner.lr"), r.k) for _, r in in_order(find_runs([tmp_path]))]
    assert ordered == sorted(ordered)


def test_reported_k_of_a_run_without_k(tmp_path):
    kwargs = {"counts": {0: [4, 8]}, "kinds": ["skill"] * 2}
    write_run(tmp_path / "a", regime="pass1", k=1, **kwargs)
    write_run(tmp_path / "b", regime="passk", k=4, **kwargs)
    one, both = find_runs([tmp_path / "a"]), find_runs([tmp_path])
    assert reported_k(one[0], one) == 8  # the largest it evaluated
    assert [reported_k(record, both) for record in both] == [4, 4]


def test_unfinished_run_gives_what_it_has(tmp_path):
    write_run(tmp_path / "run", regime="passk", counts={0: [4, 8]}, kinds=["skill"] * 2)
    with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "lo')  # killed while writing
    (tmp_path / "run" / "manifest.json").unlink()
    record = load_run(tmp_path / "run")
    row = reproduction_table([record]).iloc[0]
    assert record.metrics["step"].max() == 10
    assert row["pass1"] == pytest.approx(12 / 64)
    assert math.isnan(row["delta_pass1"])


def test_runs_are_found_once_in_any_mixture(three_seeds, tmp_path):
    write_sweep(tmp_path / "sweep", ks=(2, 4, 10), weights=(0.5,))
    hydra = tmp_path / "sweep" / "regime.k=2,regime.pass1_weight=0.5" / ".hydra"
    hydra.mkdir()
    (hydra / "config.yaml").write_text("regime: {name: hybrid}")
    records = find_runs([three_seeds, three_seeds / "seed-0", tmp_path])
    assert len(records) == 12 + 3
    assert [r.k for r in records[-3:]] == [2, 4, 10]  # in the order of numbers, not of letters


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_a_directory_without_runs_is_refused(tmp_path, path):
    (tmp_path / "empty").mkdir()
    for read in (load_run, lambda p: find_runs([p])):
        with pytest.raises(UserError, match=path):
            read(tmp_path / path)


def test_broken_files_are_named(tmp_path):
    run = write_run(tmp_path / "run", regime="passk", counts={0: [4]}, kinds=["skill"])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(["{oops", *lines]))
    with pytest.raises(UserError, match=r"metrics\.jsonl is broken in line 1"):
        load_run(run)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1}))
    (run / "eval" / "table.csv").write_text("step,k\n0,1\n")
    with pytest.raises(UserError, match=r"table\.csv lacks the column 'value'"):
        load_run(run)
    (run / "config.yaml").write_text("regime: [\n")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        load_run(run)
    assert yaml.safe_load((tmp_path / "run" / "overrides.txt").read_text())


def row_of(**changes):
    numbers = dict.fromkeys(COLUMNS.split(","), np.nan)
    return numbers | {"regime": "passk", "seed": 0, "pass1": 0.4512, "passk": 0.8} | changes


def test_reading_says_no_clear_change_when_the_interval_holds_0():
    rows = [
        row_of(delta_pass1=-0.052, delta_pass1_low=-0.071, delta_pass1_high=-0.03)
        | {"delta_passk": 0.11, "delta_passk_low": 0.09, "delta_passk_high": 0.13}
        | {"alignment": -0.3, "alignment_low": -0.4, "alignment_high": -0.2},
        row_of(regime="hybrid", delta_pass1=-0.01, delta_pass1_low=-0.02, delta_pass1_high=0.001)
        | {"delta_passk": 0.07, "delta_passk_low": 0.05, "delta_passk_high": 0.09}
        | {"alignment": 0.05, "alignment_low": -0.1, "alignment_high": 0.2},
    ]
    titles = {"passk": "Pass@8-only", "hybrid": "Hybrid 0.7/0.3"}
    changes, directions = reading(pd.DataFrame(rows), titles, {"passk": 8, "hybrid": 8})
    assert "Pass@8-only changed Pass@1 by \u22125.2 points [\u22127.1, \u22123.0]" in changes
    assert "and Pass@8 by +11.0 points [+9.0, +13.0]" in changes
    assert "Hybrid 0.7/0.3 made no clear change to Pass@1 (\u22121.0 points" in changes
    assert "Pass@8-only points against it (cosine \u22120.30" in directions
    assert "Hybrid 0.7/0.3 shows no clear direction" in directions
