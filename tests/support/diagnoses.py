"""Run `passk diagnose` at small sizes, at which it still writes all of its files."""

from pathlib import Path

from passk.cli.main import main

NUM_PROMPTS, NUM_SAMPLES, NUM_IN_MATRIX = 24, 8, 20
SMALL = ("num_threads=1", "data.num_train=48", "data.num_corpus=64", "eval.ks=[1,2,4]")
SMALL += ("eval.num_resamples=50", f"diagnose.num_prompts={NUM_PROMPTS}")
SMALL += (f"diagnose.num_samples={NUM_SAMPLES}", "diagnose.num_blocks=4")
SMALL += (f"diagnose.matrix_prompts={NUM_IN_MATRIX}",)


def diagnose(directory: Path, *words: str) -> int:
    """`passk diagnose` in this process; the exit code."""
    return main(["diagnose", *SMALL, *words, f'hydra.run.dir="{directory}"'])
