"""Is the main effect still there? Compares a reproduction with the published one.

    python scripts/tools/check_effect.py [folder]

The folder is one of `passk reproduce`; by default the newest below `outputs/reproduce`. Pass@k-only
training must move Pass@1 and Pass@k as it does in `docs/results/reproduce.csv`, with intervals that
exclude 0, and no other change may be clearly opposite to one that is published as clear. Exit code
1 where that is not so.
"""

import sys
from pathlib import Path

import pandas as pd

PUBLISHED = Path(__file__).parents[2] / "docs" / "results" / "reproduce.csv"
CHANGES = {"delta_pass1": "Pass@1", "delta_passk": "Pass@k"}
SIGNS = {-1: "below 0", 0: "not distinguished from 0", 1: "above 0"}
MUST_STAND = "passk"


def changes(table: pd.DataFrame) -> dict[tuple[str, str], tuple[float, float]]:
    """The interval of every regime's change of Pass@1 and Pass@k, over all seeds there are."""
    seeds = table["seed"].astype(str)
    rows = table[seeds == "all"] if (seeds == "all").any() else table
    return {
        (row["regime"], change): (row[f"{change}_low"], row[f"{change}_high"])
        for _, row in rows[~rows["regime"].isin(("base", "sft"))].iterrows()
        for change in CHANGES
    }


def sign(interval: tuple[float, float]) -> int:
    """-1 or 1 where the interval lies on one side of 0, else 0."""
    low, high = interval
    return int(low > 0) - int(high < 0)


def missing(found: pd.DataFrame, published: pd.DataFrame) -> list[str]:
    """A sentence for every published effect that is not found again."""
    now, then = changes(found), changes(published)
    sentences = []
    for (regime, change), interval in then.items():
        expected, seen = sign(interval), now.get((regime, change))
        if expected == 0 or (seen is None and regime != MUST_STAND):
            continue
        told = "not measured" if seen is None else f"[{100 * seen[0]:+.1f}, {100 * seen[1]:+.1f}]"
        now_sign = None if seen is None else sign(seen)
        is_wrong = now_sign in (None, -expected)
        if is_wrong or (regime == MUST_STAND and now_sign != expected):
            sentences.append(
                f"{regime}: the change of {CHANGES[change]} is {told} points, but was published "
                f"as {SIGNS[expected]}"
            )
    return sentences


def newest(root: Path) -> Path:
    """The newest reproduction below a folder that has a table."""
    tables = sorted(root.glob("*/table.csv"), key=lambda path: path.stat().st_mtime)
    if not tables:
        sys.exit(f"check_effect: no finished reproduction below {root}; run make reproduce")
    return tables[-1].parent


def main(folder: Path) -> None:
    """Say what is missing, or that nothing is."""
    sentences = missing(pd.read_csv(folder / "table.csv"), pd.read_csv(PUBLISHED))
    if sentences:
        sys.exit("\n".join(f"check_effect: {sentence}" for sentence in sentences))
    print(f"{folder}: the published effects are there")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else newest(Path("outputs/reproduce")))
