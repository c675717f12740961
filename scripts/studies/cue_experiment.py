"""The controlled experiment: is the loss of Pass@1 really caused by interference?

    python scripts/studies/cue_experiment.py [folder] [seeds]

Pass@k-only training where nothing, half or everything of the convention is betrayed by a prompt's
first letter, in the supervised corpus and in the prompts together, and once in the prompts alone.
Where the model can tell the two kinds of prompt apart, there should be nothing left to interfere.
Writes `cue.md` and `cue.csv` into the folder; a second call goes on where the first one stopped.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from passk.cli.main import main as passk
from passk.statistics import Interval, seed_interval

CONDITIONS = {  # name: (cue of the prompts, cue of the corpus)
    "cue 0": (0.0, 0.0),
    "cue 0.5": (0.5, 0.5),
    "cue 1": (1.0, 1.0),
    "cue 1 in the prompts alone": (1.0, 0.0),
}
# Start and end at temperature 1 are all that the table shows.
FEW = ("eval.temperatures=[]", "eval.every=75", "diagnostics.every=150")


def run_condition(
    folder: Path, cue: float, corpus_cue: float, seeds: int, overrides: Sequence[str]
) -> None:
    """SFT and Pass@k-only training under one condition, for every seed."""
    resume = (folder / "config.yaml").is_file()
    code = passk(
        [
            "reproduce",
            "regimes=[passk]",
            f"seeds={seeds}",
            f"data.cue={cue}",
            f"data.corpus_cue={corpus_cue}",
            *FEW,
            *overrides,
            f"hydra.run.dir={json.dumps(str(folder), ensure_ascii=False)}",
            f"resume={str(resume).lower()}",
        ]
    )
    if code != 0:
        sys.exit(code)


def summarise(name: str, folder: Path) -> dict[str, str | float]:
    """One row: means over seeds with Student-t intervals, from the run files alone."""
    table = pd.read_csv(folder / "table.csv", dtype={"seed": str})
    per_seed = table[table["seed"] != "all"].set_index("regime")
    trained, start = per_seed.loc[["passk"]], per_seed.loc[["sft"]]
    kernels = []
    for path in sorted(folder.glob("seed-*/kernel.csv")):
        kernel = pd.read_csv(path).set_index(["kind_a", "kind_b"])["kernel"]
        kernels.append(kernel[("calculator", "textbook")])
    columns = {
        "start_pass1": 100 * start["pass1"].to_numpy(),
        "delta_pass1": 100 * trained["delta_pass1"].to_numpy(),
        "delta_passk": 100 * trained["delta_passk"].to_numpy(),
        "alignment": trained["alignment"].to_numpy(),
        "kernel": np.array(kernels),
    }
    row: dict[str, str | float] = {"condition": name, "seeds": len(trained)}
    for column, values in columns.items():
        known = np.isfinite(values).all()  # an alignment that is all noise has no value
        interval = seed_interval(values) if known else Interval(np.nan, np.nan, np.nan)
        row |= {
            column: interval.value,
            f"{column}_low": interval.low,
            f"{column}_high": interval.high,
        }
    return row


def markdown(rows: pd.DataFrame) -> str:
    """The table of the README."""
    headings = {
        "start_pass1": "Pass@1 at the start (%)",
        "delta_pass1": "change of Pass@1 (points)",
        "delta_passk": "change of Pass@8 (points)",
        "alignment": "alignment (cosine)",
        "kernel": "mean kernel textbook x calculator",
    }
    digits = {"alignment": 2, "kernel": 2}
    rows = rows.assign(alignment_high=rows["alignment_high"].clip(upper=1.0))
    lines = ["| condition | " + " | ".join(headings.values()) + " |"]
    lines.append("|---|" + "---:|" * len(headings))
    for _, row in rows.iterrows():
        cells = []
        for column in headings:
            d = digits.get(column, 1)
            sign = "" if column == "start_pass1" else "+"
            low, high = row[f"{column}_low"], row[f"{column}_high"]
            span = "" if np.isnan(low) else f" [{low:{sign}.{d}f}, {high:{sign}.{d}f}]"
            cells.append(f"{row[column]:{sign}.{d}f}{span}")
        lines.append(f"| {row['condition']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(folder: Path, seeds: int, overrides: Sequence[str] = ()) -> None:
    """Run what is missing, then write the table. `overrides` go to all runs."""
    rows = []
    for name, (cue, corpus_cue) in CONDITIONS.items():
        place = folder / name.replace(" ", "-")
        run_condition(place, cue, corpus_cue, seeds, overrides)
        rows.append(summarise(name, place))
    table = pd.DataFrame(rows)
    table.to_csv(folder / "cue.csv", index=False)
    text = markdown(table)
    (folder / "cue.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/cue"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    )
