"""Does the weight of Pass@1 that `passk diagnose` asks for keep Pass@1 where it was?

    python scripts/studies/weight_from_diagnosis.py [--folder F] [--seeds 3] [key=value ...]

On the embedded task, for each share of calculator problems and each seed: SFT, the needed weight
w* = -f(8) / (f(1) - f(8)) at its checkpoint (`passk diagnose`), and 150 steps of the hybrid from
there for each weight of a grid. Where Pass@1 starts to fall is the smallest weight from which on
the line through the changes of held-out Pass@1 stays at or above 0; it is read off at the end of
training and at the first evaluation after the start, since w* is of the first step.
Writes `weight_runs.csv`, a row per run, and `weight.csv`, a row per share and seed, anew after each
run; a second call goes on where the first stopped. Smallest form (minutes):

    python scripts/studies/weight_from_diagnosis.py --fractions 0.2 --seeds 1 --weights 0,1 \
        train.num_steps=25
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from passk.cli.main import main as passk
from passk.runs.reader import weight_of_pass1

K, NUM_PROMPTS = 8, 1024


@dataclass(frozen=True)
class Plan:
    """What is measured, and where; `overrides` are settings of the hybrid runs."""

    folder: Path
    fractions: tuple[float, ...]
    num_seeds: int
    weights: tuple[float, ...]
    overrides: tuple[str, ...]


def once(folder: Path, *words: str) -> None:
    """Run a command whose run is in `folder`, unless it has been finished there."""
    manifest = folder / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished":
        return
    begun = (folder / "config.yaml").is_file()
    resume = () if words[0] == "diagnose" else (f"resume={str(begun).lower()}",)
    if (code := passk([*words, f"hydra.run.dir={folder}", *resume])) != 0:
        sys.exit(code)


def pass1_by_step(run: Path) -> pd.Series:
    """Read held-out Pass@1 at each evaluated step of a run."""
    rows = pd.read_csv(run / "eval" / "summary.csv")
    rows = rows[rows["metric"] == "pass_at_1"].sort_values("step")
    return pd.Series(rows["value"].to_numpy(), index=rows["step"].to_numpy())


def turning_weight(weights: np.ndarray, changes: np.ndarray) -> float:
    """Return the smallest weight from which on the line through the changes is not below 0.

    NaN if the change at the largest weight is below 0.
    """
    order = np.argsort(weights)
    weights, changes = weights[order], changes[order]
    if changes[-1] < 0:
        return float("nan")
    below = np.flatnonzero(changes < 0)
    if not len(below):
        return float(weights[0])
    last = below[-1]
    share = -changes[last] / (changes[last + 1] - changes[last])
    return float(weights[last] + share * (weights[last + 1] - weights[last]))


def run_cell(plan: Plan, fraction: float, seed: int) -> list[dict[str, float]]:
    """Run all of one share and seed; a row per weight."""
    place = plan.folder / f"fraction-{fraction:g}" / f"seed-{seed}"
    data = (f"data.calculator_fraction={fraction}", f"data.seed={seed}", f"train.seed={seed}")
    sft, found = place / "sft", place / "diagnose"
    once(sft, "train", "regime=sft", *data)
    asked = (f"diagnose.num_prompts={NUM_PROMPTS}", "diagnose.matrix_prompts=0")
    once(found, "diagnose", f"run={sft}", f"diagnose.ks=[1,{K}]", *asked)
    needed = weight_of_pass1(pd.read_csv(found / "curve.csv"), K)
    rows = []
    for weight in plan.weights:
        run = place / f"weight-{weight:g}"
        mixture = ("regime=hybrid", f"regime.k={K}", f"regime.pass1_weight={weight}")
        rest = ("diagnostics.every=0", f"train.init_from={sft}", *data, *plan.overrides)
        once(run, "train", *mixture, *rest)
        pass1 = pass1_by_step(run)
        early, late = (100 * (pass1.iloc[i] - pass1.iloc[0]) for i in (1, -1))
        row = {"fraction": fraction, "seed": seed, **needed.columns("needed"), "weight": weight}
        row |= {"start_pass1": 100 * pass1.iloc[0], "early_step": int(pass1.index[1])}
        rows.append(
            row | {"early_change": early, "last_step": int(pass1.index[-1]), "change": late}
        )
    return rows


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Compare the needed weight with the weights at which Pass@1 starts to fall."""
    rows = []
    for (fraction, seed), part in runs.groupby(["fraction", "seed"]):
        weights = part["weight"].to_numpy()
        first = part.iloc[0]
        row = {"fraction": fraction, "seed": seed}
        row |= {name: first[name] for name in ("needed", "needed_low", "needed_high")}
        row["turns_early"] = turning_weight(weights, part["early_change"].to_numpy())
        row["turns"] = turning_weight(weights, part["change"].to_numpy())
        rows.append(row)
    return pd.DataFrame(rows)


def main(plan: Plan) -> None:
    """Run everything that is missing, and print the comparison."""
    rows: list[dict[str, float]] = []
    for fraction in plan.fractions:
        for seed in range(plan.num_seeds):
            rows += run_cell(plan, fraction, seed)
            runs = pd.DataFrame(rows)
            runs.to_csv(plan.folder / "weight_runs.csv", index=False)
            summary(runs).to_csv(plan.folder / "weight.csv", index=False)
    print(summary(runs).to_string(index=False))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/weight-from-diagnosis"))
    parser.add_argument("--fractions", type=_numbers, default=(0.1, 0.2, 0.3))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", type=_numbers, default=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the hybrids")
    options = parser.parse_args()
    main(
        Plan(
            options.folder.resolve(),
            options.fractions,
            options.seeds,
            options.weights,
            tuple(options.overrides),
        )
    )
