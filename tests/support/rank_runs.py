"""Train on several ranks, and compare the run with that of one rank."""

import os
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from small_runs import metrics

# The run that is compared, and the word that gives it two ranks.
STEPS = 6
WORDS = (f"train.num_steps={STEPS}", "train.save_every=2", "train.keep_last=9", "eval.every=3")
WORDS += ("diagnostics.every=3", "rollout.save_every=1", "learner.max_tokens_per_batch=100")
TWO = "learner.num_processes=2"


def assert_same_up_to_rounding(one: Path, other: Path) -> None:
    """Fail unless two runs of `WORDS` have equal samples and tables, and nearly equal losses."""
    lines, others = metrics(one), metrics(other)
    assert [line["step"] for line in others] == [line["step"] for line in lines]
    for line, also in zip(lines, others, strict=True):
        for name in ("loss", "grad_norm", "alignment", "alignment_low", "inner_product"):
            # Adam divides by the size of a gradient: what is all rounding grows with the steps.
            near = line[name] and pytest.approx(line[name], rel=1e-3, abs=1e-6)  # or null
            assert also[name] == near, name
        for name in ("reward_mean", "reasons", "dead_group_fraction", "pass1", "passk"):
            assert also[name] == line[name], name
    for step in range(STEPS):
        file = f"rollouts/step-{step:06d}.parquet"
        rows, also = pd.read_parquet(one / file), pd.read_parquet(other / file)
        exact = ["problem_id", "sample", "completion", "reward", "reason", "policy_version"]
        pd.testing.assert_frame_equal(rows[exact], also[exact])
        assert also["logprob_learner"].notna().equals(rows["logprob_learner"].notna())
    for file in ("table.csv", "table_by_kind.csv"):
        assert (one / "eval" / file).read_bytes() == (other / "eval" / file).read_bytes()


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The process ids of a run's ranks, rank 0 first: they lead process groups of their own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if os.getpgid(int(pid)) == int(pid)]
