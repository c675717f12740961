"""Compute tables from run records: headline, reproduction, sweep, kinds, and prompts.

All values are probabilities in [0, 1] (alignments are cosines); `passk.runs.labels` writes percent.
A quantity X with an interval has the columns X, X_low, X_high. What cannot be computed from the
files at hand is NaN, never a guess.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from passk.config.schema import AUTO
from passk.console import working
from passk.evaluation.tables import at_temperature
from passk.objectives.pass_at_k import all_wrong, pass_at_k
from passk.runs.baselines import (
    Evaluated,
    counts_before,
    last_counts,
    last_evaluated,
    sft_of,
    untrained,
)
from passk.runs.labels import in_order, run_title
from passk.runs.reader import RunRecord, read_seed_table
from passk.statistics import Interval, bootstrap_intervals, seed_interval

ALL_SEEDS = "all"
BASE = "base"  # regime of the row of the model before any training
NOTHING = Interval(np.nan, np.nan, np.nan)
REPRODUCTION_COLUMNS = [
    *("regime", "seed", "pass1", "passk"),
    *("delta_pass1", "delta_pass1_low", "delta_pass1_high"),
    *("delta_passk", "delta_passk_low", "delta_passk_high"),
    *("alignment", "alignment_low", "alignment_high"),
    *("greedy", "majk"),
]


@working("comparing runs")
def reproduction_table(
    records: Sequence[RunRecord], baseline: Sequence[RunRecord] | None = None
) -> pd.DataFrame:
    """Compute how each regime changed Pass@1 and Pass@k: a row per regime and seed.

    First the base model, where SFT evaluated it, then SFT; neither has deltas. `pass1` and `passk`
    are of the last evaluation; k is `reported_k`. Deltas are against the starting checkpoint, or
    the last evaluation of the baseline's run of the same seed (`baselines.counts_before`), with a
    paired bootstrap over held-out problems. `greedy` is the share of greedy answers that are right,
    `majk` maj@k; NaN where they were not measured (eval.temperatures with 0, eval.measures with
    maj). A regime with several runs ends in a row of seed `all`, see `with_all_seeds`. `regime` is
    the label of `run_labels`. Columns: `REPRODUCTION_COLUMNS`.
    """
    rows = [
        {"regime": BASE, "seed": record.seed} | _levels(base, reported_k(record, records))
        for _, record in in_order(records)
        if record.regime == "sft" and (base := untrained(record)) is not None
    ]
    for label, record in in_order(records):
        k = reported_k(record, records)
        row: dict[str, object] = {"regime": label, "seed": record.seed}
        before, after = counts_before(record, records, baseline), last_counts(record)
        deltas = paired_deltas(before, after, [1, k])
        for name, delta in zip(("pass1", "passk"), deltas, strict=True):
            row |= delta.columns(f"delta_{name}")
        rows.append(row | _levels(last_evaluated(record), k) | _alignment(record))
    table = pd.DataFrame(rows, columns=REPRODUCTION_COLUMNS)
    return with_all_seeds(table, ["regime"])


@working("comparing cells of the sweep")
def sweep_table(
    records: Sequence[RunRecord],
    baseline: Sequence[RunRecord] | None = None,
    among: Sequence[RunRecord] | None = None,
) -> pd.DataFrame:
    """Compute a row per run of a sweep, at a grid of k that all of its runs evaluated.

    Columns: regime (label), k, pass1_weight, seed, then for each j of the grid `pass{j}` and
    `delta_pass{j}`, each with `_low` and `_high`, whatever k each run optimised. Values have the
    intervals of `eval/table.csv`. Deltas are as in `reproduction_table`; the runs that others
    started from are searched in `among`. Cells with several runs end in a row of seed `all`.
    """
    grid = common_ks(records)
    rows = []
    for label, record in in_order(records):
        row: dict[str, object] = {"regime": label, "k": record.k}
        row |= {"pass1_weight": record.pass1_weight, "seed": record.seed}
        before, after = counts_before(record, among or records, baseline), last_counts(record)
        for k, delta in zip(grid, paired_deltas(before, after, grid), strict=True):
            row |= recorded_value(record, k).columns(f"pass{k}")
            row |= delta.columns(f"delta_pass{k}")
        rows.append(row)
    table = pd.DataFrame(rows)
    for label, members in by_label(records).items():
        if members[0].setting("regime.pass1_weight") == AUTO:  # measured anew for each seed
            mean = np.mean([record.pass1_weight for record in members])
            table.loc[table["regime"] == label, "pass1_weight"] = mean
    table = table.sort_values(
        ["k", "pass1_weight", "regime", "seed"], ascending=[True, False, True, True]
    )
    return with_all_seeds(table, ["regime", "k", "pass1_weight"])


def reported_k(record: RunRecord, records: Sequence[RunRecord]) -> int:
    """Return the k of the `passk` column: the run's own if it optimises Pass@k.

    SFT and Pass@1-only runs take the largest k that the runs of their seed optimise (or, if none of
    their seed does, any run given), and without any such run the largest k that they evaluated.
    """
    if record.optimises_passk:
        return record.k
    ks = [r.k for r in records if r.optimises_passk and r.path.parent == record.path.parent]
    ks = ks or [r.k for r in records if r.optimises_passk]
    return max(ks or [int(k) for k in record.evals["k"]], default=1)


def common_ks(records: Sequence[RunRecord]) -> list[int]:
    """Return every k that all runs with an evaluation have evaluated."""
    grids = [set(record.evals["k"].astype(int)) for record in records if len(record.evals)]
    return sorted(set.intersection(*grids)) if grids else []


def with_all_seeds(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Add a row of seed `all` after the rows of each cell that has several: means over seeds.

    Runs of one seed share its data, so they are averaged first and count as one. Intervals are
    Student's t over seeds: each seed has its own data and its own start, so they cover the sampling
    of problems as well. Those of cosines are clipped to [-1, 1]. With one seed alone, the ends of
    its runs' intervals are averaged: no narrower than the interval of their mean.
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
                row |= (seed_interval(values) if len(values) else NOTHING).columns(name)
        row["seed"] = ALL_SEEDS
        frames.append(pd.DataFrame([row], columns=table.columns).astype({"seed": object}))
    merged = pd.concat(frames, ignore_index=True) if frames else table
    cosines = merged.columns.intersection(["alignment", "alignment_low", "alignment_high"])
    merged[cosines] = merged[cosines].astype(float).clip(-1, 1)
    return merged


def _levels(evaluated: Evaluated | None, k: int) -> dict[str, float]:
    """Compute pass1, passk, greedy and majk of an evaluation; NaN for what was not measured."""
    if evaluated is None:
        return dict.fromkeys(("pass1", "passk", "greedy", "majk"), np.nan)
    counts, summary = evaluated.front_counts, evaluated.record.summary
    own = at_temperature(counts, evaluated.record.temperature)
    majority = summary[(summary["step"] == evaluated.step) & (summary["metric"] == f"maj_{k}")]
    return {
        "pass1": _mean_pass_at_k(own, 1),
        "passk": _mean_pass_at_k(own, k),
        "greedy": _mean_pass_at_k(at_temperature(counts, 0.0), 1),
        "majk": float(majority["value"].iloc[-1]) if len(majority) else np.nan,
    }


def _mean_pass_at_k(counts: pd.DataFrame | None, k: int) -> float:
    """Average Pass@k over the problems with at least k judged samples."""
    counts = None if counts is None else counts[counts["n"] >= k]
    if counts is None or counts.empty:
        return np.nan
    return float(pass_at_k(counts["n"].to_numpy(), counts["c"].to_numpy(), k).mean())


def paired_deltas(
    before: pd.DataFrame | None, after: pd.DataFrame | None, ks: Sequence[int]
) -> list[Interval]:
    """Compute the change in Pass@k for each k, after minus before, over problems in both.

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


def recorded_value(record: RunRecord, k: int, step: int | None = None) -> Interval:
    """Return Pass@k of a step as the run evaluated it, by default of the last evaluated step."""
    step = record.evals["step"].max() if step is None else step
    row = record.evals[(record.evals["step"] == step) & (record.evals["k"] == k)]
    if row.empty:
        return NOTHING
    return Interval(*row[["value", "ci_low", "ci_high"]].iloc[0].astype(float))


def _alignment(record: RunRecord) -> dict[str, float]:
    """Return the cosine with the Pass@1 gradient at the starting checkpoint, and its interval.

    It comes from the seed's `alignment.csv`; for a run on its own, from its first step.
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


def kind_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Compute success by kind of problem at the start and the end, averaged over seeds.

    Columns: regime, kind, num_problems (of all seeds), pass1_before, pass1, passk_before, passk.
    SFT has rows only if there is nothing else, as it is the start of the others. Values come from
    `eval/table_by_kind.csv` of the run and of its starting point.
    """
    rows = []
    trained = any(record.regime != "sft" for record in records)
    for label, record in in_order(records):
        if trained and record.regime == "sft":
            continue
        k = reported_k(record, records)
        start = sft_of(record, records)
        after = record.by_kind[record.by_kind["step"] == record.by_kind["step"].max()]
        before = record.by_kind[record.by_kind["step"] == 0]
        if start:
            before = start.by_kind[start.by_kind["step"] == start.by_kind["step"].max()]
        sizes = after.groupby("kind")["num_problems"].first()
        values = {"_before": before.set_index(["kind", "k"])["value"]}
        values |= {"": after.set_index(["kind", "k"])["value"]}
        for kind in kind_order(after["kind"]):
            row: dict[str, object] = {"regime": label, "kind": kind, "seed": record.seed}
            row["num_problems"] = sizes[kind]
            for when, value in values.items():
                row[f"pass1{when}"] = value.get((kind, 1), np.nan)
                row[f"passk{when}"] = value.get((kind, k), np.nan)
            rows.append(row)
    columns = ["regime", "kind", "num_problems", "pass1_before", "pass1", "passk_before", "passk"]
    table = pd.DataFrame(rows, columns=[*columns, "seed"])
    of_seed = table.groupby(["regime", "kind", "seed"], sort=False, as_index=False).mean()
    cells = of_seed[columns].groupby(["regime", "kind"], sort=False, as_index=False)
    means = cells.mean()
    means["num_problems"] = cells["num_problems"].sum()["num_problems"]
    return means


def prompt_changes(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Compare each held-out problem before and after, for runs with both evaluations, all seeds.

    Columns: regime, seed, problem_id, kind, p_before, p_after, passk_weight. The weight that Pass@k
    puts on a problem, k (1-p)^(k-1), is estimated without bias at the starting checkpoint: k-1
    samples are all wrong with probability (1-p)^(k-1).
    """
    frames = []
    for label, record in in_order(records):
        before, after = counts_before(record, records), last_counts(record)
        if before is None or after is None:
            continue
        both = before.merge(
            after[["problem_id", "n", "c"]], on="problem_id", suffixes=("", "_after")
        )
        k = reported_k(record, records)
        both = both[(both["n"] >= max(k - 1, 1)) & (both["n_after"] > 0)]
        both["p_before"], both["p_after"] = both["c"] / both["n"], both["c_after"] / both["n_after"]
        n_P, c_P = both["n"].to_numpy(), both["c"].to_numpy()
        both["passk_weight"] = k * all_wrong(n_P, c_P, k - 1) if k > 1 else 1.0
        frames.append(both.assign(regime=label, seed=record.seed))
    columns = ["regime", "seed", "problem_id", "kind", "p_before", "p_after", "passk_weight"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def kind_order(kinds: Iterable[str]) -> list[str]:
    """Order kinds for display: the embedded task's from common to rare, then others by name."""
    known = ("textbook", "calculator", "skill")
    return sorted(set(kinds), key=lambda kind: (known.index(kind) if kind in known else 9, kind))


def by_label(records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Group runs by their label, in the order of `labels.in_order`."""
    runs: dict[str, list[RunRecord]] = {}
    for label, record in in_order(records):
        runs.setdefault(label, []).append(record)
    return runs


def titles_of(records: Sequence[RunRecord]) -> dict[str, str]:
    """Map each label to its title for people."""
    return {label: run_title(record, label) for label, record in in_order(records)}


def summary_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Select a row per label: over all of its runs if there are several, else its only one."""
    several = table[table["seed"] == "all"]["regime"]
    return table[(table["seed"] == "all") | ~table["regime"].isin(several)]


def headline_table(records: Sequence[RunRecord], table: pd.DataFrame) -> pd.DataFrame:
    """Reduce `reproduction_table` to a row per label, and add facts about the label's runs.

    The columns k, pass1_weight and num_seeds (of evaluated runs) come first. `pass1` and `passk`
    get intervals: for one seed over problems, as the run recorded it; for several, Student's t over
    seeds (`with_all_seeds`).
    """
    runs = by_label(records)
    runs[BASE] = [record for record in records if record.regime == "sft" and untrained(record)]
    rows = []
    for row in summary_rows(table).to_dict("records"):
        label, members = str(row["regime"]), runs[str(row["regime"])]
        trained = members[0].regime != "sft"
        about: dict[str, object] = {
            "regime": label,
            "k": members[0].k if members[0].optimises_passk else None,
            "pass1_weight": members[0].pass1_weight if trained else np.nan,
            "num_seeds": len({record.seed for record in members if len(record.evals)}),
        }
        for name in ("pass1", "passk"):
            about[name] = row.pop(name)
            low, high = _interval(members, name, records, 0 if label == BASE else None)
            about |= {f"{name}_low": low, f"{name}_high": high}
        rows.append(about | {name: row[name] for name in row if name not in ("regime", "seed")})
    frame = pd.DataFrame(rows)
    return frame.astype({"k": "Int64", "num_seeds": int})


def _interval(
    members: Sequence[RunRecord], name: str, records: Sequence[RunRecord], step: int | None
) -> tuple[float, float]:
    ks = [1 if name == "pass1" else reported_k(record, records) for record in members]
    rows = [
        {"cell": name, "seed": record.seed} | recorded_value(record, k, step).columns("x")
        for record, k in zip(members, ks, strict=True)
    ]
    last = with_all_seeds(pd.DataFrame(rows).dropna(subset="x"), ["cell"])
    ends = last[["x_low", "x_high"]].to_numpy(float)
    return (ends[-1, 0], ends[-1, 1]) if len(ends) else (np.nan, np.nan)
