"""Shares of verdict reasons against counts by hand."""

import pandas as pd
import pytest
from run_files import write_run
from small_runs import train

from passk.report.verdicts import reason_order, verdict_shares
from passk.runs.reader import find_runs, load_run

REASONS = [{"correct": 6, "wrong": 2}, {"correct": 3, "wrong": 3, "timeout": 2}, {"wrong": 8}]
KEYS = ["step", "reason"]


def a_run(path, reasons=REASONS, **kwargs):
    lines = [
        {"reasons": counts, "unjudged_fraction": counts.get("timeout", 0) / 8} for counts in reasons
    ]
    counts = {0: [4] * 4, len(reasons): [8] * 4}
    return write_run(
        path, regime="passk", counts=counts, kinds=["skill"] * 4, metrics=lines, **kwargs
    )


def write_summary(run):
    rows = [
        (step, f"share_{reason}", share, share - 0.05, share + 0.05, 4)
        for step, shares in ((0, (0.25, 0.75, 0.0)), (3, (0.5, 0.375, 0.125)))
        for reason, share in zip(("correct", "wrong", "truncated"), shares, strict=True)
    ]
    rows += [(0, "share_error", 0.0, 0.0, 0.0, 4), (0, "pass_at_1", 0.25, 0.2, 0.3, 4)]
    columns = ["step", "metric", "value", "ci_low", "ci_high", "num_problems"]
    pd.DataFrame(rows, columns=columns).to_csv(run / "eval" / "summary.csv", index=False)


def test_shares_of_training_are_those_of_the_counts(tmp_path):
    a_run(tmp_path / "run")
    shares = verdict_shares(find_runs([tmp_path]))
    table = shares.set_index(KEYS)["share"]
    for step, counts in enumerate(REASONS, start=1):
        for reason in ("correct", "wrong", "timeout"):
            assert table[step, reason] == pytest.approx(counts.get(reason, 0) / 8)
    assert shares.groupby("step")["share"].sum().tolist() == pytest.approx([1.0] * 3)
    assert (shares["num_samples"] == 8).all() and set(shares["split"]) == {"train"}
    assert shares.groupby("step")["unjudged"].first().tolist() == [0.0, 0.25, 0.0]


def test_held_out_shares_are_those_of_the_summary(tmp_path):
    write_summary(a_run(tmp_path / "run"))
    shares = verdict_shares(find_runs([tmp_path]))
    held_out = shares[shares["split"] == "heldout"].set_index(KEYS)
    assert set(held_out.index.get_level_values("reason")) == {"correct", "wrong", "truncated"}
    row = held_out.loc[(3, "truncated")]
    assert row[["share", "share_low", "share_high"]].tolist() == pytest.approx(
        [0.125, 0.075, 0.175]
    )
    assert row["num_problems"] == 4


def test_reasons_stand_from_right_to_unknown():
    found = reason_order(["false_positive", "error", "wrong", "correct"])
    assert found == ["correct", "wrong", "error", "false_positive"]


def test_a_real_run(tmp_path):
    run = tmp_path / "run"
    assert train(run, "regime=passk", "train.num_steps=2", "diagnostics.every=0") == 0
    shares = verdict_shares([load_run(run)])
    for step in (0, 1):
        written = pd.read_parquet(run / "rollouts" / f"step-{step:06d}.parquet")
        rows = shares[(shares["split"] == "train") & (shares["step"] == step)]
        expected = written["reason"].value_counts(normalize=True)
        found = rows[rows["share"] > 0].set_index("reason")["share"]
        assert found.to_dict() == pytest.approx(expected.to_dict())
    sums = shares[shares["split"] == "heldout"].groupby("step")["share"].sum()
    assert list(sums.index) == [0, 2] and sums.tolist() == pytest.approx([1.0, 1.0])
