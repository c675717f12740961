"""The report's first table: what each label's runs are, where they ended, and what changed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from passk.records import RunRecord
from passk.sheets import summary_rows
from passk.tables import in_order, reported_k, with_all_seeds


def headline_table(records: Sequence[RunRecord], table: pd.DataFrame) -> pd.DataFrame:
    """`tables.reproduction_table` of the records, a row per label, with what the label's runs are.

    Before its columns stand k, pass1_weight and num_seeds, of those that were evaluated; `pass1`
    and `passk` get intervals: of one seed over problems, as the run recorded it, of several
    Student's t over seeds (`tables.with_all_seeds`).
    """
    runs: dict[str, list[RunRecord]] = {}
    for label, record in in_order(records):
        runs.setdefault(label, []).append(record)
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
            low, high = _interval(members, name, records)
            about |= {f"{name}_low": low, f"{name}_high": high}
        rows.append(about | {name: row[name] for name in row if name not in ("regime", "seed")})
    frame = pd.DataFrame(rows)
    return frame.astype({"k": "Int64", "num_seeds": int})


def _interval(
    members: Sequence[RunRecord], name: str, records: Sequence[RunRecord]
) -> tuple[float, float]:
    names = {"value": "x", "ci_low": "x_low", "ci_high": "x_high"}
    last = []
    for record in members:
        k = 1 if name == "pass1" else reported_k(record, records)
        rows = record.evals[record.evals["k"] == k].tail(1)
        last.append(rows[list(names)].rename(columns=names).assign(cell=name, seed=record.seed))
    ends = with_all_seeds(pd.concat(last), ["cell"])[["x_low", "x_high"]].to_numpy(float)
    return (ends[-1, 0], ends[-1, 1]) if len(ends) else (np.nan, np.nan)
