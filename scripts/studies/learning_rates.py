"""Regimes over learning rates, compared where they are comparable.

    python scripts/studies/learning_rates.py [--folder F] [--seeds 7] [--rates 1e-5,2e-5,5e-5]
        [--sft "key=value ..."] [key=value ...]

On the embedded task, from each seed's SFT checkpoint: every regime at every learning rate. Rates
and regimes move at different speeds, so equal steps compare nothing but speed. The changes of
Pass@1 and Pass@k are read off three ways: at the end of training, where Pass@k has first risen by
so many points, and where the policy has first moved so far from its start (KL per answer, in nats).
Between two evaluations the path is taken to be straight; a run that never gets there counts in
`reached` alone. Writes `runs.csv` (a row an evaluation) and `rates.csv` and `rates.md` (means over
seeds with Student-t intervals). Finished runs are left alone, so the same line goes on.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from passk.cli.main import main as passk
from passk.statistics import seed_interval
from passk.text import Table

REGIMES = ("pass1", "hybrid", "passk")
K = 8
PROBLEMS = ("eval.num_problems=1000", "eval.num_samples=32", f"eval.ks=[1,{K}]")
HEADINGS = {
    "regime": "regime",
    "lr": "learning rate",
    "at": "at",
    "reached": "seeds that reach it",
    "step": "step",
    "kl": "KL an answer (nats)",
    "pass1": "change of Pass@1 (points)",
    "passk": f"change of Pass@{K} (points)",
}
FORMS = {"step": ".0f", "kl": ".2f", "pass1": "+.1f", "passk": "+.1f"}


@dataclass(frozen=True)
class Plan:
    """What is run, and where; settings of the SFT runs, and `overrides` of the RL runs."""

    folder: Path
    num_seeds: int
    rates: tuple[str, ...]
    gains: tuple[float, ...]  # of Pass@k, in points
    distances: tuple[float, ...]  # KL per answer, in nats
    sft: tuple[str, ...]
    overrides: tuple[str, ...]


def train(plan: Plan, seed: int) -> None:
    """Train SFT, then the grid from its checkpoint, as far as this is not done."""
    start = plan.folder / f"seed-{seed}" / "sft"
    seeds = (f"train.seed={seed}", f"data.seed={seed}")
    if not _is_finished(start):
        begun = (start / "config.yaml").is_file()
        where = (f"hydra.run.dir={start}", f"resume={begun}")
        _run("train", "regime=sft", *PROBLEMS, *seeds, *plan.sft, *where)
    grid = (f"regime={','.join(REGIMES)}", f"learner.lr={','.join(plan.rates)}")
    where = (f"train.init_from={start}", f"hydra.sweep.dir={start.parent / 'grid'}")
    quiet = ("diagnostics.every=0", "train.save_every=0", "sweep.num_parallel=2")
    every = ("eval.every=10", *PROBLEMS)
    _run("train", "-m", *grid, *where, *seeds, *every, *quiet, *plan.overrides)


def _is_finished(run: Path) -> bool:
    manifest = run / "manifest.json"
    return manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished"


def _run(*words: str) -> None:
    if code := passk(words):
        sys.exit(code)


def path_of(run: Path) -> pd.DataFrame:
    """Read a run's path: step, kl, and pass1 and passk as changes since its start, in points."""
    table = pd.read_csv(run / "eval" / "table.csv").pivot(index="step", columns="k", values="value")
    rates = 100 * (table - table.iloc[0])
    moved = pd.read_csv(run / "eval" / "distance.csv").set_index("step")["kl_per_answer"]
    path = pd.DataFrame({"kl": moved, "pass1": rates[1], "passk": rates[K]})
    return path.rename_axis("step").reset_index()


def all_paths(plan: Plan) -> pd.DataFrame:
    """Collect the paths of all runs, with the columns seed, regime and lr before those of each."""
    paths = []
    for seed in range(plan.num_seeds):
        grid = plan.folder / f"seed-{seed}" / "grid"
        for regime in REGIMES:
            for rate in plan.rates:
                path = path_of(grid / f"learner.lr={rate},regime={regime}")
                path.insert(0, "lr", rate)
                path.insert(0, "regime", regime)
                path.insert(0, "seed", seed)
                paths.append(path)
    return pd.concat(paths, ignore_index=True)


def where_first(path: pd.DataFrame, column: str, level: float) -> pd.Series | None:
    """Return the point at which `column` first reaches `level`, on the straight path; else None."""
    values = path[column].to_numpy()
    reached = np.flatnonzero(values >= level)
    if not len(reached):
        return None
    after = int(reached[0])
    if after == 0:
        return path.iloc[0]
    before, later = path.iloc[after - 1], path.iloc[after]
    share = (level - before[column]) / (later[column] - before[column])
    point: pd.Series = before + share * (later - before)
    return point


def compared(
    paths: pd.DataFrame, gains: Sequence[float], distances: Sequence[float]
) -> Iterator[dict[str, object]]:
    """Yield a row for each regime, learning rate and place of comparison."""
    places: list[tuple[str, str | None, float]] = [("end", None, np.nan)]
    places += [(f"Pass@{K} +{gain:g}", "passk", gain) for gain in gains]
    places += [(f"KL {distance:g}", "kl", distance) for distance in distances]
    for (regime, rate), runs in paths.groupby(["regime", "lr"], sort=False):
        by_seed = [path.drop(columns=["regime", "lr", "seed"]) for _, path in runs.groupby("seed")]
        for place, column, level in places:
            found = [
                path.iloc[-1] if column is None else where_first(path, column, level)
                for path in by_seed
            ]
            points = pd.DataFrame([point for point in found if point is not None])
            row: dict[str, object] = {
                "regime": regime,
                "lr": rate,
                "at": place,
                "reached": len(points),
            }
            for name in FORMS:
                row |= seed_interval(points[name]).columns(name) if len(points) else {name: np.nan}
            yield row


def main(plan: Plan) -> None:
    """Train what is missing, then write the tables."""
    for seed in range(plan.num_seeds):
        train(plan, seed)
    paths = all_paths(plan)
    paths.to_csv(plan.folder / "runs.csv", index=False)
    table = pd.DataFrame(compared(paths, plan.gains, plan.distances))
    table.to_csv(plan.folder / "rates.csv", index=False)
    text = Table.of(table.to_dict("records"), HEADINGS, FORMS).markdown()
    (plan.folder / "rates.md").write_text(text, encoding="utf-8")
    print(text)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/learning-rates"))
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument(
        "--rates", type=lambda text: tuple(text.split(",")), default=("1e-5", "2e-5", "5e-5")
    )
    parser.add_argument("--gains", type=_numbers, default=(1.0, 2.0, 3.0))
    parser.add_argument("--distances", type=_numbers, default=(0.05, 0.1, 0.2))
    parser.add_argument("--sft", default="", metavar="KEY=VALUE ...", help="settings of SFT")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the RL runs")
    options = parser.parse_args()
    main(
        Plan(
            options.folder.resolve(),
            options.seeds,
            options.rates,
            options.gains,
            options.distances,
            tuple(options.sft.split()),
            tuple(options.overrides),
        )
    )
