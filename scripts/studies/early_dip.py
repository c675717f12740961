"""Does the second-order prediction of `passk diagnose` foretell the first steps of training?

    python scripts/studies/early_dip.py REPRODUCTION [--folder F] [--seeds 3]
        [--rates 2e-5,6e-5,2e-4] [key=value ...]

At the SFT checkpoint of each seed of a reproduction, for each learning rate: `passk diagnose
diagnose.curvature=true` predicts the change of held-out Pass@1 under Pass@k-only training, and ten
steps of it at that rate, held constant, are measured on the same problems. Writes `dip.csv`, a row
for each rate, seed and number of steps, and `dip.md`, means over seeds with Student-t intervals.
What is finished is left alone, so the same line goes on; keys go to both commands.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from weight_from_diagnosis import once

from passk.statistics import seed_interval
from passk.text import Table

NUM_STEPS = 10
TERMS = ("first_order", "with_noise", "change")
HEADINGS = {
    "lr": "learning rate",
    "steps": "steps",
    "first_order": "first order",
    "with_noise": "and noise of batches",
    "change": "and common curvature",
    "measured": "measured",
    "error": "error of all terms",
}


@dataclass(frozen=True)
class Plan:
    """What is run, and where; `overrides` go to both commands."""

    starts: Path
    folder: Path
    num_seeds: int
    rates: tuple[str, ...]
    overrides: tuple[str, ...]


def run_cell(plan: Plan, rate: str, seed: int) -> pd.DataFrame:
    """Predict and measure for one rate and seed; return a row for each number of steps."""
    start = plan.starts / f"seed-{seed}" / "sft"
    place = plan.folder / f"rate-{rate}" / f"seed-{seed}"
    same = (f"learner.lr={rate}", "eval.temperatures=[]", "eval.num_problems=500", *plan.overrides)
    asked = ("diagnose.curvature=true", "diagnose.matrix_prompts=0", "diagnose.cosines=false")
    once(place / "diagnose", "diagnose", f"run={start}", *asked, *same)
    seeds = (f"train.seed={seed}", f"data.seed={seed}", f"train.init_from={start}")
    steps = (f"train.num_steps={NUM_STEPS}", "learner.schedule=constant", "eval.every=1")
    rest = ("eval.num_distance_samples=0", "diagnostics.every=0")
    once(place / "passk", "train", "regime=passk", *seeds, *steps, *rest, *same)
    predicted = pd.read_csv(place / "diagnose" / "curvature.csv").set_index("steps")
    table = pd.read_csv(place / "passk" / "eval" / "table.csv")
    pass1 = table[table["k"] == 1].set_index("step")["value"]
    rows = 100 * predicted[[*TERMS]]
    rows["measured"] = 100 * (pass1 - pass1.loc[0]).loc[rows.index]
    rows["error"] = rows["change"] - rows["measured"]
    return rows.reset_index().assign(lr=rate, seed=seed)


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute means over seeds with Student-t intervals, for each rate and number of steps."""
    found = []
    for (rate, steps), cell in rows.groupby(["lr", "steps"], sort=False):
        row: dict[str, object] = {"lr": rate, "steps": steps}
        for name in (*TERMS, "measured", "error"):
            row |= seed_interval(cell[name]).columns(name)
        found.append(row)
    return pd.DataFrame(found)


def main(plan: Plan) -> None:
    """Run what is missing, then write the tables."""
    cells = [run_cell(plan, rate, seed) for rate in plan.rates for seed in range(plan.num_seeds)]
    rows = pd.concat(cells, ignore_index=True)
    rows.to_csv(plan.folder / "dip.csv", index=False)
    forms = dict.fromkeys((*TERMS, "measured", "error"), "+.2f")
    text = Table.of(over_seeds(rows).to_dict("records"), HEADINGS, forms).markdown()
    (plan.folder / "dip.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("starts", type=Path, metavar="REPRODUCTION")
    parser.add_argument("--folder", type=Path, default=Path("outputs/early-dip"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--rates", type=lambda text: tuple(text.split(",")), default=("2e-5", "6e-5", "2e-4")
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of both")
    options = parser.parse_intermixed_args()
    main(
        Plan(
            options.starts.resolve(),
            options.folder.resolve(),
            options.seeds,
            options.rates,
            tuple(options.overrides),
        )
    )
