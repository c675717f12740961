"""Random overrides: a sample of scripts/stress/fuzz_config.py, on a seed of its own."""

from stress import fuzz_config


def test_random_overrides_are_taken_or_refused(capsys):
    assert fuzz_config.main(["--examples=400", "--whole=4", "--seed=13"]) == 0
    counts = capsys.readouterr().out.strip().splitlines()[-1]
    assert "taken" in counts and "refused" in counts and "failed" not in counts
