"""The report's first table: what each label's runs are, where they ended, and what changed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from passk.records import RunRecord
from passk.sheets import summary_rows
from passk.statistics import seed_interval
from passk.tables import in_order, reported_k


def headline_table(records: Sequence[RunRecord], table: pd.DataFrame) -> pd.DataFrame:
    """`tables.reproduction_table` of the records, a row per label, with what the label's runs are.

    Before its columns stand k, pass1_weight and num_seeds; `pass1` and `passk` get intervals: of
    one seed over problems, as the run recorded it, of several Student's t over seeds.
    """
    runs: dict[str, list[RunRecord]] = {}
    for label, record in in_order(records):
        runs.setdefault(label, []).append(record)
    rows = []
    for row in summary_rows(table).drop_duplicates("regime", keep="last").to_dict("records"):
        label, members = str(row["regime"]), runs[str(row["regime"])]
        trained = members[0].regime != "sft"
        about: dict[str, object] = {
            "regime": label,
            "k": members[0].k if members[0].optimises_passk else None,
            "pass1_weight": members[0].pass1_weight if trained else np.nan,
            "num_seeds": len({record.seed for record in members}),
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
    last = []
    for record in members:
        k = 1 if name == "pass1" else reported_k(record, records)
        rows = record.evals[record.evals["k"] == k]
        if len(rows):
            last.append(rows.iloc[-1])
    if len(last) > 1:
        over_seeds = seed_interval(np.array([float(row["value"]) for row in last]))
        return over_seeds.low, over_seeds.high
    return (float(last[0]["ci_low"]), float(last[0]["ci_high"])) if last else (np.nan, np.nan)
