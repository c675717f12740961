"""Does training on what `passk filter` leaves keep Pass@1, and is it the filter that does it?

    python scripts/studies/filter_study.py [folder] [seeds]

For every seed: SFT with five checkpoints, `passk filter` over all of them and over the last alone,
then Pass@8-only training on all problems, on the filtered ones, on both controls (as many problems
out at random, and as many of like difficulty that do not interfere), and on what is left without
all that are known to interfere; and the hybrid on all problems and on the filtered ones. Of the
embedded task it is known which problems interfere: precision and recall are against the kind
`calculator`.
Writes `filter.md` and `filter.csv` into the folder; a second call goes on where the first stopped.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from passk.cli.main import main as passk
from passk.config.compose import load_run_config
from passk.data.problems import load_data, write_problems
from passk.statistics import seed_interval

FILTERED = ("filter", "filtered")
SETS = {  # name: regime, and (folder of the filter, data file) or None for all problems
    "all": ("passk", None),
    "filtered": ("passk", FILTERED),
    "filtered at one checkpoint": ("passk", ("filter-last", "filtered")),
    "random": ("passk", ("filter", "random")),
    "matched": ("passk", ("filter", "matched")),
    "without the calculator problems": ("passk", ("known", "known")),
    "all, hybrid": ("hybrid", None),
    "filtered, hybrid": ("hybrid", FILTERED),
}
K = 8


def once(folder: Path, *words: str) -> None:
    """A command whose run is in `folder`, unless it has been finished there."""
    manifest = folder / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished":
        return
    resume = str((folder / "config.yaml").is_file()).lower()
    code = passk([*words, f"hydra.run.dir={folder}", f"resume={resume}"])
    if code != 0:
        sys.exit(code)


def run_seed(folder: Path, seed: int) -> None:
    """All runs of one seed."""
    seeds = (f"train.seed={seed}", f"data.seed={seed}")
    sft = folder / "sft"
    # Every 30 of 240 steps; the five newest stay.
    once(sft, "train", "regime=sft", "train.save_every=30", "train.keep_last=5", *seeds)
    for name, words in (("filter", ()), ("filter-last", ("filter.num_checkpoints=1",))):
        once(folder / name, "filter", f"run={sft}", "checkpoint=all", *words)
    write_known(sft, folder / "known")
    for name, (regime, source) in SETS.items():
        given = [f"train.init_from={sft}", "eval.every=0", "diagnostics.every=0"]
        if source:
            given.append(f"data.path={folder / source[0] / source[1]}.jsonl")
        once(run_of(folder, name), "train", f"regime={regime}", *given, *seeds)


def write_known(sft: Path, folder: Path) -> None:
    """What no diagnosis could do better: all calculator problems out, and who is."""
    cfg = load_run_config(sft)
    problems = load_data(cfg.data, cfg.eval).train
    out = [problem.kind == "calculator" for problem in problems]
    kept = [problem for problem in problems if problem.kind != "calculator"]
    write_problems(folder / "known.jsonl", kept, cfg.data)
    table = pd.read_csv(sft.parent / "filter" / "filter.csv").assign(known=out)
    table.to_csv(folder / "filter.csv", index=False)


def run_of(folder: Path, name: str) -> Path:
    """Where the run of a set of problems is."""
    return folder / name.replace(", ", "-").replace(" ", "-")


def final(run: Path) -> tuple[float, float]:
    """Pass@1 and Pass@8 on the held-out problems at the end of a run, %."""
    table = pd.read_csv(run / "eval" / "table.csv")
    last = table[table["step"] == table["step"].max()].set_index("k")["value"]
    return 100 * last[1], 100 * last[K]


def seed_rows(folder: Path, seed: int) -> list[dict[str, str | float]]:
    """A row per set of problems: what is out, whether rightly, and what training made of it."""
    start = final(folder / "sft")
    rows: list[dict[str, str | float]] = []
    for name, (_, source) in SETS.items():
        end = final(run_of(folder, name))
        row: dict[str, str | float] = {"set": name, "seed": seed}
        if source:
            decided = pd.read_csv(folder / source[0] / "filter.csv")
            out, kind = decided[source[1]], decided["kind"]
            right = (out & (kind == "calculator")).sum()
            row |= {
                "out": int(out.sum()),
                "precision": 100 * right / max(1, out.sum()),
                "recall": 100 * right / (kind == "calculator").sum(),
                "skill_kept": 100 * (~out[kind == "skill"]).mean(),
                "success": 100 * decided["success"][out].mean(),
            }
        rows.append(row | {"delta_pass1": end[0] - start[0], "delta_passk": end[1] - start[1]})
    return rows


def markdown(table: pd.DataFrame) -> str:
    """A row per set, means over seeds with Student-t intervals."""
    columns = {
        "out": ("problems out", "{:.0f}"),
        "precision": ("precision (%)", "{:.1f}"),
        "recall": ("recall (%)", "{:.1f}"),
        "skill_kept": ("skill problems kept (%)", "{:.1f}"),
        "success": ("Pass@1 of those out (%)", "{:.1f}"),
        "delta_pass1": ("change of Pass@1 (points)", "{:+.1f}"),
        "delta_passk": (f"change of Pass@{K} (points)", "{:+.1f}"),
    }
    lines = ["| training problems | " + " | ".join(name for name, _ in columns.values()) + " |"]
    lines.append("|---|" + "---:|" * len(columns))
    for name in SETS:
        part, cells = table[table["set"] == name], []
        for column, (_, form) in columns.items():
            values = part[column].dropna().to_numpy()
            if not len(values):
                cells.append("")
            elif len(values) == 1 or column == "out":
                cells.append(form.format(values.mean()))
            else:
                i = seed_interval(values)
                ends = (i.low, i.high)
                if not column.startswith("delta"):  # shares
                    ends = tuple(np.clip(ends, 0, 100))
                cells.append(f"{form} [{form}, {form}]".format(i.value, *ends))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(folder: Path, seeds: int) -> None:
    """Run what is missing, then write the table."""
    rows = []
    for seed in range(seeds):
        run_seed(folder / f"seed-{seed}", seed)
        rows += seed_rows(folder / f"seed-{seed}", seed)
        table = pd.DataFrame(rows)
        table.to_csv(folder / "filter.csv", index=False)
        (folder / "filter.md").write_text(markdown(table))
    print(markdown(table))


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/filter-study"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    )
