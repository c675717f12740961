"""Which problems changed: success by kind and by problem, before and after, with the weights."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from passk.baselines import last_counts, sft_of, starting_counts
from passk.estimators import all_wrong
from passk.records import RunRecord
from passk.tables import in_order, reported_k


def kind_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Success by kind of problem at the start and the end, averaged over seeds.

    Columns: regime, kind, num_problems (of all seeds), pass1_before, pass1, passk_before, passk.
    SFT has rows only where there is nothing else: it is what the others had before. Read from
    `eval/table_by_kind.csv` of the run and of its starting point.
    """
    rows = []
    trained = any(record.regime != "sft" for record in records)
    for label, record in in_order(records):
        if trained and record.regime == "sft":
            continue
        k = reported_k(record, records)
        start = sft_of(record, records)
        before = _by_kind(start, last=True) if start else _by_kind(record, last=False)
        after = _by_kind(record, last=True)
        for kind in kind_order(after["kind"]):
            row: dict[str, object] = {"regime": label, "kind": kind, "seed": record.seed}
            row["num_problems"] = _cell(after, kind, None)
            for name, this_k in (("pass1", 1), ("passk", k)):
                row[f"{name}_before"] = _cell(before, kind, this_k)
                row[name] = _cell(after, kind, this_k)
            rows.append(row)
    columns = ["regime", "kind", "num_problems", "pass1_before", "pass1", "passk_before", "passk"]
    table = pd.DataFrame(rows, columns=[*columns, "seed"])
    of_seed = table.groupby(["regime", "kind", "seed"], sort=False, as_index=False).mean()
    cells = of_seed[columns].groupby(["regime", "kind"], sort=False, as_index=False)
    means = cells.mean()
    means["num_problems"] = cells["num_problems"].sum()["num_problems"]
    return means


def prompt_changes(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Each held-out problem before and after: the runs that have both evaluations, all seeds.

    Columns: regime, seed, problem_id, kind, p_before, p_after, passk_weight. The weight that Pass@k
    puts on a problem, k (1-p)^(k-1), is estimated without bias at the starting checkpoint: k-1
    samples are all wrong with probability (1-p)^(k-1).
    """
    frames = []
    for label, record in in_order(records):
        before, after = starting_counts(record, records), last_counts(record)
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
    """Kinds as they are shown: those of the embedded task from common to rare, others by name."""
    known = ("textbook", "calculator", "skill")
    return sorted(set(kinds), key=lambda kind: (known.index(kind) if kind in known else 9, kind))


def _by_kind(record: RunRecord, *, last: bool) -> pd.DataFrame:
    steps = record.by_kind["step"]
    wanted = steps.max() if last else 0
    return record.by_kind[steps == wanted]


def _cell(by_kind: pd.DataFrame, kind: str, k: int | None) -> float:
    """Value of a kind at k, or with k None its number of problems."""
    rows = by_kind[by_kind["kind"] == kind]
    rows = rows if k is None else rows[rows["k"] == k]
    return np.nan if rows.empty else float(rows["num_problems" if k is None else "value"].iloc[0])
