"""How often do intervals of Pass@k, and bands over all k, hold the truth?

    python scripts/studies/interval_coverage.py [num_experiments]

Problems are drawn from the populations of `populations.py`, 64 samples each, and the truth is
exact. Prints three tables in Markdown: intervals of Pass@k by the percentile bootstrap and by
`rate_intervals`, with their width in points; bands of one curve by `rate_band`; bands of a
difference as `passk compare` shows it, and without leaving out the k at which fewer than
`LEAST_EFFECTIVE` problems differ.
"""

import sys

import numpy as np
from populations import (
    EVEN,
    HARD,
    KS,
    NEARLY_SOLVED,
    OF_COUNT_CK,
    UNEVEN,
    FloatArray,
    draw_pairs,
    draw_rates,
    true_difference,
    true_pass_at_k,
)

from passk.evaluation.comparison import LEAST_EFFECTIVE
from passk.statistics import (
    bootstrap_intervals,
    effective_problems,
    rate_band,
    rate_intervals,
    simultaneous_band,
)
from passk.text import Table

POPULATIONS = {"uneven": UNEVEN, "even": EVEN, "nearly solved": NEARLY_SOLVED, "hard": HARD}
# Of A, and of the problems that B has anew; in the last pair both have the same Pass@k.
PAIRS = (
    *(("uneven", "even"), ("nearly solved", "uneven"), ("hard", "uneven")),
    *(("even", "nearly solved"), ("nearly solved", "nearly solved")),
)
SIZES, SHOWN, NUM_RESAMPLES = (50, 200, 500), (1, 4, 16), 1000


def intervals(num_experiments: int, rng: np.random.Generator) -> Table:
    """Tabulate coverage and mean width of either interval, at the k of SHOWN."""
    places, rows = [k - 1 for k in SHOWN], []
    for name, shares in POPULATIONS.items():
        truth_K = true_pass_at_k(shares)[places]
        for size in SIZES:
            found = []
            for _ in range(num_experiments):
                rates_PK = draw_rates(shares, size, rng)[:, places]
                found.append(
                    [
                        [(i.low, i.high) for i in method(rates_PK, num_resamples=NUM_RESAMPLES)]
                        for method in (bootstrap_intervals, rate_intervals)
                    ]
                )
            ends = np.array(found)  # experiments, methods, K, 2
            inside = (ends[..., 0] <= truth_K) & (truth_K <= ends[..., 1])
            covered, width = 100 * inside.mean(axis=0), 100 * np.ptp(ends, axis=-1).mean(axis=0)
            for j, k in enumerate(SHOWN):
                cells = [f"{covered[i, j]:.1f} ({width[i, j]:.1f})" for i in range(2)]
                rows.append([name, str(size), str(k), f"{100 * truth_K[j]:.1f}", *cells])
    return Table(
        ["population", "problems", "k", "Pass@k (%)", "bootstrap: covers % (width)", "rates"], rows
    )


def curves(num_experiments: int, rng: np.random.Generator) -> Table:
    """Tabulate how often the band of one curve holds all of it."""
    rows = []
    for name, shares in POPULATIONS.items():
        truth_K = true_pass_at_k(shares)
        row = [name]
        for size in SIZES:
            bands = (
                rate_band(draw_rates(shares, size, rng), num_resamples=NUM_RESAMPLES)
                for _ in range(num_experiments)
            )
            inside = [((b.low_K <= truth_K) & (truth_K <= b.high_K)).all() for b in bands]
            row.append(f"{100 * np.mean(inside):.1f}")
        rows.append(row)
    return Table(["population", *(f"{size} problems" for size in SIZES)], rows)


def differences(num_experiments: int, rng: np.random.Generator) -> Table:
    """Tabulate how often the band of a difference holds all of what is shown of it."""
    rows = []
    for names in PAIRS:
        of_a, other = (POPULATIONS[name] for name in names)
        truth_K = true_difference(of_a, other)
        for size in SIZES:
            shown, all_k, shares = [], [], []
            for _ in range(num_experiments):
                c_a, c_b = draw_pairs(of_a, other, size, rng)
                difference_PK = OF_COUNT_CK[c_b] - OF_COUNT_CK[c_a]
                inside_K = _inside(difference_PK, truth_K)
                is_shown_K = effective_problems(difference_PK) >= LEAST_EFFECTIVE
                shown.append(inside_K[is_shown_K].all())
                all_k.append(inside_K.all())
                shares.append(is_shown_K.mean())
            cells = [f"{100 * np.mean(of):.1f}" for of in (shown, shares, all_k)]
            rows.append([*names, str(size), *cells])
    headings = [
        "A",
        "70 % of B",
        "problems",
        "shown k: covers %",
        "of all k shown, %",
        "all k: covers %",
    ]
    return Table(headings, rows)


def _inside(difference_PK: FloatArray, truth_K: FloatArray) -> np.ndarray:
    band = simultaneous_band(difference_PK, num_resamples=NUM_RESAMPLES)
    return np.asarray((band.low_K <= truth_K) & (truth_K <= band.high_K))


def main() -> None:
    """Print the tables."""
    num_experiments = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rng = np.random.default_rng(0)
    print(f"{num_experiments} experiments, 64 samples, all k from 1 to {KS[-1]}\n")
    for table in (intervals, curves, differences):
        print(table(num_experiments, rng).markdown("---:"), flush=True)


if __name__ == "__main__":
    main()
