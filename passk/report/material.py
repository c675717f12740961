"""Read everything that a report needs: runs, evaluations, diagnoses, and the tables over them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from passk.report.costs import cost_table
from passk.report.samples import SampleRows, sample_rows
from passk.report.tables import (
    reported_k,
    reproduction_table,
    sweep_table,
    titles_of,
)
from passk.runs.baselines import baseline_runs, repeat_sentences
from passk.runs.labels import in_order
from passk.runs.reader import DiagnosisRecord, RunRecord, find_diagnoses, find_measured, find_runs

SAMPLE_BYTES = 2_000_000  # samples in the page; the scripts that draw the figures take 900 kB


@dataclass(frozen=True, slots=True)
class Material:
    """Everything the report needs from the files, read once: runs, and tables over them.

    Attributes:
        records: all runs, each once; `headline` those of the first table, with `titles` by label.
        repeats: a sentence about runs of one seed, if there are any.
        against: the runs that `baseline` names; None for the starting checkpoints.
        table, cells, costs: `reproduction_table` and `cost_table` of the headline, `sweep_table`
            of the sweep.
        k: the largest k that a row of the headline table reports.
    """

    records: list[RunRecord]
    repeats: list[str]
    headline: list[RunRecord]
    against: list[RunRecord] | None
    table: pd.DataFrame
    cells: pd.DataFrame
    titles: Mapping[str, str]
    ks: Mapping[str, int]
    costs: pd.DataFrame
    diagnoses: list[DiagnosisRecord]
    samples: SampleRows

    @property
    def k(self) -> int:
        return max(self.ks.values())


def read_material(dirs: Sequence[str | Path], baseline: str | None) -> Material:
    """Read the runs in `dirs`, each once, and compute the tables over them.

    Raises UserError as `report.write_report` does.
    """
    records = find_runs(dirs)
    against = baseline_runs(baseline, records) if baseline else None
    reproduced = [record for record in records if record.seed_dir is not None]
    headline = reproduced or records
    swept = [r for r in records if r.seed_dir is None and r.regime != "sft"]
    is_sweep = len(swept) > (0 if reproduced else 1)
    table = reproduction_table(headline, against)
    return Material(
        records=records,
        repeats=repeat_sentences(records),
        headline=headline,
        against=against,
        table=table,
        cells=sweep_table(swept, against, records) if is_sweep else pd.DataFrame(),
        titles=titles_of(headline),
        ks={label: reported_k(record, headline) for label, record in in_order(headline)},
        costs=cost_table(headline, None if against else table),
        diagnoses=find_diagnoses(dirs),
        samples=sample_rows(records, SAMPLE_BYTES, find_measured(dirs, "eval")),
    )
