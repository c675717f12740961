"""What do a verifier's errors cost, and can they be found? On the embedded task.

    python scripts/verifier_noise.py [folder] [seeds]

From one SFT checkpoint per seed, Pass@1, Pass@k and hybrid training with a verifier that errs at
several rates; held-out problems are judged without errors. A second call goes on where the first
one stopped.
"""

import sys
from itertools import product
from pathlib import Path

from passk.cli import main as passk

FALSE_NEGATIVE_RATES = (0.0, 0.05, 0.1, 0.2)
FALSE_POSITIVE_RATES = (0.0, 0.05)
REGIMES = ("pass1", "passk", "hybrid")
K = 8
QUIET = ("num_threads=1", "eval.every=0", "diagnostics.every=0", "rollout.save_every=0")


def run(folder: Path, *words: str) -> Path:
    """A run of passk in `folder`, unless it is there and finished."""
    manifest = folder / "manifest.json"
    if manifest.is_file() and '"status": "finished"' in manifest.read_text():
        return folder
    resume = words[0] == "train" and (folder / "config.yaml").is_file()
    more = ("resume=true",) if resume else ()
    code = passk([*words, *more, f'hydra.run.dir="{folder}"'])
    if code != 0:
        sys.exit(code)
    return folder


def train(folder: Path, seed: int, *words: str) -> Path:
    """A training run whose seed also draws the data, as `passk reproduce` has it."""
    return run(folder, "train", f"train.seed={seed}", f"data.seed={seed}", *QUIET, *words)


def noise(misses: float, passes: float, seed: int) -> tuple[str, ...]:
    """The words that make a verifier err; each seed errs elsewhere."""
    return (
        f"verifier.false_negative_rate={misses}",
        f"verifier.false_positive_rate={passes}",
        f"verifier.noise_seed={seed}",
    )


def train_seed(folder: Path, seed: int) -> None:
    """SFT, and every regime at every pair of rates."""
    sft = train(folder / "sft", seed, "regime=sft", "eval.ks=[1,2,4,8,16]")
    for misses, passes in product(FALSE_NEGATIVE_RATES, FALSE_POSITIVE_RATES):
        for regime in REGIMES:
            place = folder / f"{regime}-fn{misses:g}-fp{passes:g}"
            words = (f"regime={regime}", f"regime.k={K}", f'train.init_from="{sft}"')
            train(place, seed, *words, *noise(misses, passes, seed))


def main(folder: Path, seeds: int) -> None:
    """Run what is missing, then write the tables."""
    for seed in range(seeds):
        train_seed(folder / f"seed-{seed}", seed)


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/verifier_noise"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    )
