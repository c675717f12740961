"""How long the report of a 30-cell sweep takes to be written and to open, and how heavy it is.

    python scripts/tools/measure_report.py FOLDER

writes a made-up sweep of 5 k x 6 weights from one starting checkpoint into FOLDER (500 held-out
problems, 64 samples; 150 steps, with 64 prompts x 16 completions of 60 words at the first and the
last one), runs `passk report` on it in a process of its own, opens the page in headless Chromium,
and prints the figures that docs/research/benchmarks.md gives. It ends with 1 where one of them is
not met.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

from browser import Opened, chromium, overlapping_texts
from run_files import simulated_counts, write_rollouts, write_run

KS, WEIGHTS = (2, 4, 8, 12, 16), (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)
NUM_PROBLEMS, N = 500, 64
NUM_PROMPTS, NUM_SAMPLES, NUM_STEPS = 64, 16, 150
TEXT = "so we add both parts and carry one over which gives the sum = 41 ; then"
OPENED = 7  # times; the median counts
MOST_BYTES, MOST_SECONDS = 5_000_000, 2.0


def write_sweep(root: Path) -> None:
    """The cells; the smaller the weight of Pass@1, the further they moved."""
    steps = range(0, NUM_STEPS + 1, 25)
    sizes = {"n": N, "num_problems": NUM_PROBLEMS}
    counts, kinds = simulated_counts("passk", steps, seed=0, **sizes)
    reasons = {"correct": 540, "wrong": 430, "unparsed": 40, "truncated": 14}
    about: dict[str, Any] = {
        "kinds": kinds,
        "n": N,
        "ks": (1, *KS),
        "metrics": [{"reasons": reasons, "unjudged_fraction": 0.0}] * NUM_STEPS,
        "settings": {"rollout": {"num_prompts": NUM_PROMPTS, "num_samples": NUM_SAMPLES}},
    }
    for k in KS:
        for weight in WEIGHTS:
            rng = np.random.default_rng([k, round(10 * weight)])
            kept = rng.random(NUM_PROBLEMS) < weight * (0.8 + 0.01 * k)
            moved = {
                step: [int(c) for c in np.where(kept, counts[0], counts[step])] for step in steps
            }
            regime = "pass1" if weight == 1 else "hybrid"
            run = root / f"regime.k={k},regime.pass1_weight={weight:g}"
            write_run(run, regime=regime, counts=moved, k=k, pass1_weight=weight, **about)
            for step in (0, NUM_STEPS - 1):
                write_rollouts(run, step, samples(rng))


def samples(rng: np.random.Generator) -> dict[str, list[tuple[str, float | None]]]:
    """Completions of some 60 words each, no two alike."""
    groups: dict[str, list[tuple[str, float | None]]] = {}
    for problem in rng.choice(2000, NUM_PROMPTS, replace=False):
        p = rng.beta(0.6, 0.6)
        groups[f"train-0-{problem}"] = [
            (" ".join(rng.choice(TEXT.split(), 60)), float(rng.random() < p))
            for _ in range(NUM_SAMPLES)
        ]
    return groups


def opened(file: Path) -> tuple[float, float, int, list[str]]:
    """Seconds from navigation until the first and until all figures are drawn, in a new browser.

    And how many figures there are, and the texts in them that lie on one another.
    """
    with chromium() as browser:
        shown = Opened(browser, file)
        first, drawn = shown.page.evaluate(
            "['first figure', 'all figures'].map("
            "(name) => performance.getEntriesByName(name)[0].startTime)"
        )
        if shown.said:
            raise SystemExit(f"the page said: {shown.said}")
        overlaps = overlapping_texts(shown)
        return first / 1000, drawn / 1000, shown.count("[data-figure]"), overlaps


def main(root: Path) -> int:
    """Write, report, open several times."""
    if not (root / "sweep").exists():
        write_sweep(root / "sweep")
    before = time.perf_counter()
    command = [sys.executable, "-m", "passk", "report", str(root / "sweep")]
    subprocess.run([*command, f"out={root / 'report'}"], check=True, stdout=subprocess.DEVNULL)
    print(f"passk report: {time.perf_counter() - before:.1f} s")
    page = root / "report" / "report.html"
    num_bytes = page.stat().st_size
    print(f"page: {num_bytes / 1e6:.2f} MB (limit {MOST_BYTES / 1e6:g})")
    times = [opened(page) for _ in range(OPENED)]
    firsts, lasts = np.array([time[:2] for time in times]).T
    num_figures, overlaps = times[0][2:]
    print(
        f"{num_figures} figures: the first after {np.median(firsts):.2f} s, all after "
        f"{np.median(lasts):.2f} s (medians of {OPENED}; {min(lasts):.2f} to {max(lasts):.2f} s; "
        f"limit {MOST_SECONDS:g})"
    )
    print(f"texts of figures that lie on one another: {overlaps or 'none'}")
    met = num_bytes <= MOST_BYTES and np.median(lasts) <= MOST_SECONDS and not overlaps
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
