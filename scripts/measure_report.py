"""How heavy the report of a 30-cell sweep is, how long it takes to write, and to open in Chromium.

    python scripts/measure_report.py FOLDER

writes a made-up sweep of 5 k x 6 weights from one reproduction's start into FOLDER (500 held-out
problems, 64 samples, 64 prompts x 16 completions of several lines at the first and the last step),
its report, and prints the figures that docs/report.md gives.
"""

import sys
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser import ARGS, DESKTOP, chromium_file
from run_files import simulated_counts, write_rollouts, write_run

from passk.report import write_report

KS, WEIGHTS = (2, 4, 8, 12, 16), (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)
NUM_PROBLEMS, N = 500, 64
NUM_PROMPTS, NUM_SAMPLES, NUM_STEPS = 64, 16, 150
WORDS = [
    "so",
    "we",
    "add",
    "both",
    "parts",
    "and",
    "carry",
    "one",
    "over",
    "which",
    "gives",
    "the",
    "sum",
    "=",
    "41",
    ";",
    "then",
]


def write_sweep(root: Path) -> None:
    """The cells; the smaller the weight of Pass@1, the further they moved."""
    steps = range(0, NUM_STEPS + 1, 25)
    sizes = {"n": N, "num_problems": NUM_PROBLEMS}
    counts, kinds = simulated_counts("passk", steps, seed=0, **sizes)
    for k in KS:
        for weight in WEIGHTS:
            rng = np.random.default_rng([k, round(10 * weight)])
            kept = rng.random(NUM_PROBLEMS) < weight
            moved = {
                step: [int(c) for c in np.where(kept, counts[0], counts[step])] for step in steps
            }
            reasons = {"correct": 540, "wrong": 430, "unparsed": 40, "truncated": 14}
            metrics = [{"reasons": reasons, "unjudged_fraction": 0.0}] * NUM_STEPS
            run = root / f"k={k},weight={weight:g}"
            about = {"kinds": kinds, "n": N, "k": k, "pass1_weight": weight, "metrics": metrics}
            rollout = f"rollout: {{num_prompts: {NUM_PROMPTS}, num_samples: {NUM_SAMPLES}}}\n"
            write_run(run, regime="hybrid", counts=moved, **about)
            with (run / "config.yaml").open("a") as config:
                config.write(rollout)
            for step in (0, NUM_STEPS - 1):
                write_rollouts(run, step, samples(rng))


def samples(rng: np.random.Generator) -> dict[str, list[tuple[str, float | None]]]:
    """Completions of some 60 words each, no two alike."""
    groups = {}
    for problem in rng.choice(2000, NUM_PROMPTS, replace=False):
        p = rng.beta(0.6, 0.6)
        groups[f"train-0-{problem}"] = [
            (" ".join(rng.choice(WORDS, 60)), float(rng.random() < p)) for _ in range(NUM_SAMPLES)
        ]
    return groups


def opened(file: Path) -> tuple[float, float]:
    """Seconds from navigation until the first figure, and until all of them, are drawn."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_file(), args=list(ARGS))
        page = browser.new_page(viewport=DESKTOP)
        page.goto(file.as_uri(), wait_until="commit")
        page.wait_for_function("document.documentElement.dataset.drawn", timeout=60_000)
        first, drawn = page.evaluate(
            "['first figure', 'all figures'].map("
            "(name) => performance.getEntriesByName(name)[0].startTime)"
        )
        browser.close()
    return first / 1000, drawn / 1000


def main(root: Path) -> None:
    """Write, report, open three times."""
    if not (root / "sweep").exists():
        write_sweep(root / "sweep")
    before = time.perf_counter()
    page = write_report([root / "sweep"], root / "report")
    print(f"passk report: {time.perf_counter() - before:.1f} s")
    print(f"page: {page.stat().st_size / 1e6:.2f} MB")
    for _ in range(3):
        first, drawn = opened(page)
        print(f"first figure after {first:.2f} s, all after {drawn:.2f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
