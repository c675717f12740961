"""Run records in, tables out: the reproduction, the sweep, the kinds, the prompts.

All values are probabilities in [0, 1] (alignments are cosines); `passk.wording` writes percent.
A quantity X with an interval has the columns X, X_low, X_high. What cannot be computed from the
files at hand is NaN, never a guess.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from passk.baselines import counts_before, last_counts
from passk.estimators import pass_at_k
from passk.records import RunRecord, find_runs, load_run, read_seed_table
from passk.statistics import Interval, bootstrap_intervals, seed_interval
from passk.wording import in_order

__all__ = ["RunRecord", "find_runs", "in_order", "load_run", "reproduction_table", "sweep_table"]

ALL_SEEDS = "all"
NOTHING = Interval(np.nan, np.nan, np.nan)
REPRODUCTION_COLUMNS = [
    "regime",
    "seed",
    "pass1",
    "passk",
    *("delta_pass1", "delta_pass1_low", "delta_pass1_high"),
    *("delta_passk", "delta_passk_low", "delta_passk_high"),
    *("alignment", "alignment_low", "alignment_high"),
]


def reproduction_table(
    records: Sequence[RunRecord], baseline: Sequence[RunRecord] | None = None
) -> pd.DataFrame:
    """What each regime did to Pass@1 and Pass@k: a row per regime and seed, SFT first.

    `pass1` and `passk` are of the last evaluation; k is `reported_k`. Deltas are against the
    starting checkpoint, or the last evaluation of the baseline's run of the same seed
    (`baselines.counts_before`), with a paired bootstrap over held-out problems.
    A regime with several runs ends in a row of seed `all`, see `with_all_seeds`. `regime` is the
    label of `run_labels`. Columns: `REPRODUCTION_COLUMNS`.
    """
    rows = []
    for label, record in in_order(records):
        k = reported_k(record, records)
        row: dict[str, object] = {"regime": label, "seed": record.seed}
        before, after = counts_before(record, records, baseline), last_counts(record)
        ks = {"pass1": 1, "passk": k}
        deltas = paired_deltas(before, after, list(ks.values()))
        for (name, this_k), delta in zip(ks.items(), deltas, strict=True):
            row[name] = _mean_pass_at_k(after, this_k)
            row |= _columns(f"delta_{name}", delta)
        rows.append(row | _alignment(record))
    table = pd.DataFrame(rows, columns=REPRODUCTION_COLUMNS)
    return with_all_seeds(table, ["regime"])


def sweep_table(
    records: Sequence[RunRecord],
    baseline: Sequence[RunRecord] | None = None,
    among: Sequence[RunRecord] | None = None,
) -> pd.DataFrame:
    """Cells of a sweep at a grid of k that all of them evaluated, whatever k each one optimised.

    A row per run: regime (label), k, pass1_weight, seed, then for each j of the grid the columns
    `pass{j}` and `delta_pass{j}`, each with `_low` and `_high`. Values carry the intervals of
    `eval/table.csv`; deltas are as in `reproduction_table`, where the runs that others started from
    are looked for `among` those given. Cells with several runs end in a row of seed `all`.
    """
    grid = common_ks(records)
    rows = []
    for label, record in in_order(records):
        row: dict[str, object] = {"regime": label, "k": record.k}
        row |= {"pass1_weight": record.pass1_weight, "seed": record.seed}
        before, after = counts_before(record, among or records, baseline), last_counts(record)
        for k, delta in zip(grid, paired_deltas(before, after, grid), strict=True):
            row |= _columns(f"pass{k}", _last_value(record, k))
            row |= _columns(f"delta_pass{k}", delta)
        rows.append(row)
    table = pd.DataFrame(rows).sort_values(
        ["k", "pass1_weight", "regime", "seed"], ascending=[True, False, True, True]
    )
    return with_all_seeds(table, ["regime", "k", "pass1_weight"])


def reported_k(record: RunRecord, records: Sequence[RunRecord]) -> int:
    """The k of the `passk` column: the run's own where it optimises Pass@k.

    SFT and Pass@1-only runs take the largest k that the runs of their seed optimise (of all runs
    given, where none of their seed does), and without any such run the largest k they evaluated.
    """
    if record.optimises_passk:
        return record.k
    ks = [r.k for r in records if r.optimises_passk and r.path.parent == record.path.parent]
    ks = ks or [r.k for r in records if r.optimises_passk]
    return max(ks or [int(k) for k in record.evals["k"]], default=1)


def common_ks(records: Sequence[RunRecord]) -> list[int]:
    """Every k that all runs with an evaluation have evaluated."""
    grids = [set(record.evals["k"].astype(int)) for record in records if len(record.evals)]
    return sorted(set.intersection(*grids)) if grids else []


def with_all_seeds(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """After the rows of each cell that has several, a row of seed `all`: means over seeds.

    Runs of one seed share its data, so they are averaged first and count as one. Intervals are
    Student-t over seeds: each seed has its own data and its own start, so they cover the sampling
    of problems as well. Those of cosines end at -1 and 1. Of one seed alone the ends of its runs'
    intervals are averaged: no narrower than the interval of their mean.
    """
    frames = []
    for _, cell in table.groupby(keys, sort=False):
        frames.append(cell.astype({"seed": object}))
        if len(cell) < 2:
            continue
        numbers = cell.drop(columns=keys).astype(
            dict.fromkeys(cell.columns.drop([*keys, "seed"]), float)
        )
        of_seed = numbers.groupby("seed").mean()
        row: dict[Any, Any] = cell.iloc[0].to_dict() | of_seed.mean().to_dict()
        for name in map(str, of_seed) if len(of_seed) > 1 else ():
            if f"{name}_low" in of_seed:
                values = of_seed[name].dropna().to_numpy()
                row |= _columns(name, seed_interval(values) if len(values) else NOTHING)
        row["seed"] = ALL_SEEDS
        frames.append(pd.DataFrame([row], columns=table.columns).astype({"seed": object}))
    merged = pd.concat(frames, ignore_index=True) if frames else table
    cosines = merged.columns.intersection(["alignment", "alignment_low", "alignment_high"])
    merged[cosines] = merged[cosines].astype(float).clip(-1, 1)
    return merged


def _mean_pass_at_k(counts: pd.DataFrame | None, k: int) -> float:
    """Pass@k averaged over the problems with at least k judged samples."""
    counts = None if counts is None else counts[counts["n"] >= k]
    if counts is None or counts.empty:
        return np.nan
    return float(pass_at_k(counts["n"].to_numpy(), counts["c"].to_numpy(), k).mean())


def paired_deltas(
    before: pd.DataFrame | None, after: pd.DataFrame | None, ks: Sequence[int]
) -> list[Interval]:
    """Change in Pass@k for each k, after minus before, over the problems that both evaluated.

    All k share their resamples of the problems, as long as all problems have samples for each.
    """
    if before is None or after is None:
        return [NOTHING] * len(ks)
    both = before.merge(after, on="problem_id", suffixes=("_before", "_after"), validate="1:1")
    least_P = both[["n_before", "n_after"]].min(axis=1).to_numpy()
    if len(ks) > 1 and not (least_P >= max(ks)).all():
        return [interval for k in ks for interval in paired_deltas(before, after, [k])]
    both = both[least_P >= max(ks, default=1)]
    if both.empty or not ks:
        return [NOTHING] * len(ks)
    n_P, c_P, later_n_P, later_c_P = (
        both[f"{count}_{when}"].to_numpy() for when in ("before", "after") for count in "nc"
    )
    gains = [pass_at_k(later_n_P, later_c_P, k) - pass_at_k(n_P, c_P, k) for k in ks]
    return bootstrap_intervals(np.stack(gains, axis=1))


def _last_value(record: RunRecord, k: int) -> Interval:
    last = record.evals[record.evals["step"] == record.evals["step"].max()]
    row = last[last["k"] == k]
    if row.empty:
        return NOTHING
    return Interval(*row[["value", "ci_low", "ci_high"]].iloc[0].astype(float))


def _alignment(record: RunRecord) -> dict[str, float]:
    """Cosine with the Pass@1 gradient at the starting checkpoint, with its interval.

    From the seed's `alignment.csv`; for a run on its own, what it measured at its first step.
    """
    names = ["alignment", "alignment_low", "alignment_high"]
    table = read_seed_table(record, "alignment.csv")
    if table is not None:
        rows = table[table["regime"] == record.regime]
        if len(rows) > 1:
            rows = rows[(rows["k"] == record.k) & (rows["pass1_weight"] == record.pass1_weight)]
    else:
        rows = record.metrics.reindex(columns=names).head(1)
    first = rows[names].astype(float).head(1).to_dict("list")
    return {str(name): values[0] for name, values in first.items() if values}


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
