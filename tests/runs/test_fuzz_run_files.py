"""Files of a run, broken anywhere, are named; `scripts/stress/fuzz_run_files.py` breaks more."""

from run_files import simulated_counts, write_rollouts, write_run
from stress.fuzz_run_files import fuzz, with_ledger


def test_no_broken_file_ends_in_a_traceback(tmp_path):
    counts, kinds = simulated_counts("hybrid", (0, 4), seed=0, num_problems=6)
    run = write_run(tmp_path / "written", regime="hybrid", counts=counts, kinds=kinds)
    write_rollouts(run, 0, {"train-0": [("1", 1.0), ("2", None)]})
    total, shown = fuzz(with_ledger(run, tmp_path / "run"), every=80, largest=4000, seed=0)
    assert not shown, next(iter(shown.values()))
    assert not [kind for kind in total if kind.startswith("TRACEBACK")]
    assert total["refused"] > 150 and total["read"] > 50
