"""Differences are taken problem by problem, against where a run started or another run."""

import math

import numpy as np
import pandas as pd
import pytest
from run_files import write_reproduction, write_run, write_sweep

from passk.errors import UserError
from passk.report.report import write_report
from passk.report.tables import prompt_changes, reproduction_table, sweep_table
from passk.runs.baselines import baseline_runs, counts_before, have_same_problems
from passk.runs.reader import find_runs, load_run

KINDS = ["textbook", "calculator", "skill", "textbook"]


@pytest.fixture(scope="module")
def three_seeds(tmp_path_factory):
    return write_reproduction(tmp_path_factory.mktemp("runs") / "main", seeds=(0, 1, 2))


def rates(run, step=30):
    counts = pd.read_parquet(run / "eval" / f"step-{step:06d}.parquet")
    return (counts["c"] / counts["n"]).to_numpy()


def test_regimes_are_compared_within_their_seed(three_seeds):
    records = find_runs([three_seeds])
    table = reproduction_table(records, baseline_runs("passk", records))
    rows = table[table["regime"] == "hybrid"].set_index("seed")
    differences = []
    for seed in (0, 1, 2):
        folder = three_seeds / f"seed-{seed}"
        difference = rates(folder / "hybrid") - rates(folder / "passk")
        differences.append(difference.mean())
        row, half = rows.loc[seed], 1.96 * difference.std(ddof=1) / math.sqrt(len(difference))
        assert row["delta_pass1"] == pytest.approx(difference.mean())
        assert row["delta_pass1_low"] == pytest.approx(difference.mean() - half, abs=0.2 * half)
        assert row["delta_pass1_high"] == pytest.approx(difference.mean() + half, abs=0.2 * half)
    half = 4.302652729911275 * np.std(differences, ddof=1) / math.sqrt(3)
    assert rows.loc["all", "delta_pass1"] == pytest.approx(np.mean(differences))
    assert rows.loc["all", "delta_pass1_low"] == pytest.approx(np.mean(differences) - half)
    assert table[table["regime"] == "passk"]["delta_pass1"].isna().all()
    assert table[table["regime"] == "sft"]["delta_pass1"].notna().all()
    plain = reproduction_table(records)
    same = ["regime", "pass1", "passk", "alignment"]
    pd.testing.assert_frame_equal(table[same], plain[same])


def test_a_baseline_goes_by_label_title_or_regime(three_seeds, tmp_path):
    write_sweep(tmp_path / "sweep", ks=(2, 8), weights=(0.5,))
    records = find_runs([three_seeds, tmp_path / "sweep"])
    for name in ("passk", "Pass@8-only"):
        assert {run.regime for run in baseline_runs(name, records)} == {"passk"}
        assert len(baseline_runs(name, records)) == 3
    label = "hybrid k=2 pass1_weight=0.5 num_steps=40"
    (cell,) = baseline_runs(label, records)
    assert cell.k == 2
    with pytest.raises(UserError, match="baseline=hybrid is the regime of several") as several:
        baseline_runs("hybrid", records)
    assert label in str(several.value) and "passk" not in str(several.value)
    with pytest.raises(UserError, match="baseline=grpo is none of the runs; there are: sft"):
        baseline_runs("grpo", records)


def test_cells_of_a_sweep_are_compared_with_one_of_them(tmp_path):
    write_sweep(tmp_path, ks=(2, 8), weights=(0.5, 0.9))
    records = find_runs([tmp_path])
    against = baseline_runs("hybrid k=2 pass1_weight=0.9", records)
    table = sweep_table(records, against).set_index("regime")
    one = tmp_path / "regime.k=8,regime.pass1_weight=0.5"
    other = tmp_path / "regime.k=2,regime.pass1_weight=0.9"
    difference = (rates(one, 40) - rates(other, 40)).mean()
    assert table.loc["hybrid k=8 pass1_weight=0.5", "delta_pass1"] == pytest.approx(difference)
    assert math.isnan(table.loc["hybrid k=2 pass1_weight=0.9", "delta_pass1"])


def test_a_run_without_step_0_is_held_against_the_run_it_started_from(tmp_path):
    sft = write_run(tmp_path / "sft", regime="sft", counts={20: [8, 8, 8, 8]}, kinds=KINDS)
    counts = {10: [16, 8, 8, 16]}
    for name, start in (("a", sft), ("b", sft / "checkpoints" / "step-000020"), ("c", "tiny")):
        settings = {"train": {"init_from": str(start)}}
        write_run(tmp_path / name, regime="passk", counts=counts, kinds=KINDS, settings=settings)
    records = {record.path.name: record for record in find_runs([tmp_path])}
    every = list(records.values())
    for name in ("a", "b"):
        row = reproduction_table([records["sft"], records[name]]).iloc[-1]
        assert row["delta_pass1"] == pytest.approx(16 / 32 / 4)
        before = counts_before(records[name], every)
        assert before is not None and before["c"].tolist() == [8, 8, 8, 8]
        assert len(sweep_table([records[name]], among=every).dropna(subset="delta_pass1")) == 1
    assert counts_before(records["c"], every) is None
    assert counts_before(records["a"], [records["a"]]) is None  # the report was not given it


def test_other_problems_of_the_same_names_are_not_paired(tmp_path):
    write_run(tmp_path / "a", regime="passk", counts={0: [4] * 4, 9: [8] * 4}, kinds=KINDS)
    more = {"data": {"cue": 1.0}}
    for name, settings, digest in (
        ("other-data", more, None),
        ("other-file", None, "b"),
        ("same", None, "a"),
        ("unknown", None, None),
    ):
        write_run(
            tmp_path / name,
            regime="hybrid",
            counts={0: [4] * 4, 9: [6] * 4},
            kinds=KINDS,
            settings=settings,
            manifest={"heldout_sha256": digest} if digest else None,
        )
    write_run(
        tmp_path / "with-digest",
        regime="passk",
        counts={0: [4] * 4, 9: [8] * 4},
        kinds=KINDS,
        manifest={"heldout_sha256": "a"},
    )
    baseline = load_run(tmp_path / "with-digest")
    paired = {
        name: have_same_problems(baseline, load_run(tmp_path / name))
        for name in ("other-data", "other-file", "same", "unknown")
    }
    assert paired == {"other-data": False, "other-file": False, "same": True, "unknown": True}
    record = load_run(tmp_path / "other-data")
    assert counts_before(record, [record, baseline], [baseline]) is None


def test_prompts_of_sweeps_over_seeds_keep_their_label_and_seed(tmp_path):
    rng = np.random.default_rng(0)
    for k in (2, 8):
        for seed in (0, 1):
            counts = {step: rng.integers(0, 33, 4).tolist() for step in (0, 10)}
            write_run(
                tmp_path / f"k={k},seed={seed}",
                regime="passk",
                counts=counts,
                kinds=KINDS,
                k=k,
                seed=seed,
            )
    prompts = prompt_changes(find_runs([tmp_path]))
    cells = prompts.groupby(["regime", "seed"])
    assert dict(cells.size()) == {(f"passk k={k}", seed): 4 for k in (2, 8) for seed in (0, 1)}
    for (label, seed), rows in cells:
        run = tmp_path / f"{label.removeprefix('passk ')},seed={seed}"
        np.testing.assert_allclose(rows["p_before"], rates(run, 0))
        np.testing.assert_allclose(rows["p_after"], rates(run, 10))
        assert rows["kind"].tolist() == KINDS


def test_the_report_says_what_it_compares_with(three_seeds, tmp_path):
    write_report([three_seeds], tmp_path, "passk")
    words = (tmp_path / "table.md").read_text()
    assert "Deltas are against the last evaluation of passk" in words
    assert "Against the last evaluation of passk, " in words
    table = pd.read_csv(tmp_path / "table.csv")
    assert table[table["regime"] == "passk"]["delta_pass1"].isna().all()


def test_the_command_line_refuses_an_unknown_baseline(three_seeds, tmp_path, passk):
    """A label may hold blanks and = as those of sweeps do."""
    refused = passk("report", str(three_seeds), f"out={tmp_path / 'out'}", "baseline=hybrid k=9")
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert refused.err == (
        "passk: baseline=hybrid k=9 is none of the runs; there are: sft (SFT); pass1 "
        "(Pass@1-only); passk (Pass@8-only); hybrid (Hybrid 0.7/0.3)\n"
    )
    assert not (tmp_path / "out").exists()
