"""Five tables of `docs/results`, trained on the embedded task in one go.

    python scripts/studies/reproduce_full.py [--folder FOLDER] [--results FOLDER] [--seeds 7]
        [--ks 2,4,8,16] [--weights 0.5,0.7,0.9] [key=value ...]

All regimes over seeds, the cue experiment, and the grid of k and the weight of Pass@1 from the
first seed's SFT checkpoint; keys go to all runs (those of the grid not to its own). Finished runs
are left alone, so the same line, after a kill too, goes on. At the end the tables are copied to the
folder of results, and its README.md gets a row for each: what it is, how, from which commit, when
and on what it was made. Those facts are read from the manifests of the runs.
"""

import argparse
import json
import shlex
import shutil
import sys
from dataclasses import dataclass, fields
from pathlib import Path

import cue_experiment
from results_index import Source, Sources, source

from passk.cli.main import main as passk
from passk.config.commands import ReproduceConfig
from passk.config.schema import TrainConfig

_NOT_OF_CELLS = {field.name for field in fields(ReproduceConfig)} - {
    field.name for field in fields(TrainConfig)
}
_NOT_OF_CELLS |= {"regime.k", "regime.pass1_weight"}  # the grid


@dataclass(frozen=True)
class Plan:
    """What is run, where, and the user's settings."""

    folder: Path
    seeds: int
    ks: str
    weights: str
    overrides: tuple[str, ...]

    def reproduce(self) -> Path:
        """Train all regimes over seeds; return the table of them."""
        folder = self.folder / "reproduce"
        begun = (folder / "config.yaml").is_file()
        words = [
            f"seeds={self.seeds}",
            "interpolate=[0.5]",
            *self.overrides,
            f"hydra.run.dir={quoted(folder)}",
        ]
        run("reproduce", *words, f"resume={str(begun).lower()}")
        return folder / "table.csv"

    def fronts(self) -> Path:
        """Return the table of the fronts of `reproduce`."""
        return self.folder / "reproduce" / "tables" / "fronts.csv"

    def distance(self) -> Path:
        """Return the table of how far each run of `reproduce` moved."""
        return self.folder / "reproduce" / "tables" / "distance.csv"

    def cue(self) -> Path:
        """Pass@k-only training under every condition of the cue experiment."""
        cue_experiment.main(self.folder / "cue", self.seeds, self.overrides)
        return self.folder / "cue" / "cue.csv"

    def sweep(self) -> Path:
        """The grid, from the SFT checkpoint of the first seed."""
        seeds = [w.split("=", 1)[1] for w in self.overrides if w.startswith("train.seed=")]
        first = f"seed-{seeds[-1] if seeds else 0}"
        folder, start = self.folder / "sweep", self.folder / "reproduce" / first / "sft"
        grid = [f"regime.k={self.ks}", f"regime.pass1_weight={self.weights}"]
        words = [word for word in self.overrides if word.split("=")[0] not in _NOT_OF_CELLS]
        places = [f"train.init_from={quoted(start)}", f"hydra.sweep.dir={quoted(folder)}"]
        run("train", "-m", "regime=hybrid", *grid, *words, *places)
        run("report", str(folder))
        return folder / "sweep.csv"


def quoted(path: Path) -> str:
    """A path as a value of an override."""
    return json.dumps(str(path), ensure_ascii=False)


def run(*words: str) -> None:
    """`passk ...`; what it says and its exit code are the user's."""
    if code := passk(words):
        sys.exit(code)


STUDIES = {  # file of docs/results: the work, and what the table is
    "reproduce.csv": (Plan.reproduce, "all regimes from SFT, each seed and their mean"),
    "fronts.csv": (Plan.fronts, "areas of fronts and three questions to them, beside no training"),
    "distance.csv": (Plan.distance, "KL, entropy and the way in weights at the end of each run"),
    "cue.csv": (Plan.cue, "Pass@k-only training by how far a prompt's letter tells its kind"),
    "sweep.csv": (Plan.sweep, "hybrid over k and the weight of Pass@1, from one SFT checkpoint"),
}


def main(plan: Plan, results: Path, command: str) -> None:
    """Run what is missing; then write the tables and their rows, all at once.

    Not one by one: the first table would make the checkout dirty for the studies after it.
    """
    tables = {name: study(plan) for name, (study, _) in STUDIES.items()}
    found: list[Source] = []
    results.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        shutil.copyfile(table, results / name)
        runs = table.parent.parent if table.parent.name == "tables" else table.parent
        found.append(source(name, STUDIES[name][1], command, runs))
    sources = Sources(results)
    sources.update(found)
    print(sources.page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("outputs/reproduce-full"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--seeds", type=int, default=7)
    parser.add_argument("--ks", default="2,4,8,16")
    parser.add_argument("--weights", default="0.5,0.7,0.9")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs")
    options = parser.parse_args()
    plan = Plan(
        options.folder.resolve(),
        options.seeds,
        options.ks,
        options.weights,
        tuple(options.overrides),
    )
    args = f' args="{shlex.join(sys.argv[1:])}"' if sys.argv[1:] else ""
    main(plan, options.results, f"make reproduce-full{args}")
