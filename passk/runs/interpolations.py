"""Read evaluations of interpolated weights: `passk eval run=A interpolate=B:W,W`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from passk.files import read_manifest, saved_steps
from passk.runs.labels import in_order
from passk.runs.reader import RunRecord, find_measured, read_eval_counts

WEIGHT, OTHER = "interpolation_weight", "interpolated_with"  # facts of the manifest


@dataclass(frozen=True, eq=False)
class InterpolationRecord:
    """An evaluation of the weights (1 - w) A + w B.

    Attributes:
        path: its directory.
        record: the run of B, or that of A if B is of none: its seed, k and temperature hold.
        one, other: labels of the runs of A and B, or the names of their folders.
        weight: w.
    """

    path: Path
    record: RunRecord
    one: str
    other: str
    weight: float

    @property
    def label(self) -> str:
        """Name of the policy, equal over seeds, such as `0.75 sft + 0.25 passk`."""
        return self.title({})

    def title(self, titles: Mapping[str, str]) -> str:
        """Return the label with the titles of runs for people."""
        one, other = (titles.get(name, name) for name in (self.one, self.other))
        return f"{1 - self.weight:g} {one} + {self.weight:g} {other}"

    @property
    def front_counts(self) -> pd.DataFrame:
        """Counts at every temperature; see `RunRecord.front_counts`."""
        return read_eval_counts(self.path, saved_steps(self.path / "eval")[-1])


def find_interpolations(
    dirs: Iterable[str | Path], records: Sequence[RunRecord]
) -> list[InterpolationRecord]:
    """Read the finished evaluations of interpolated weights at or below the paths, by weight.

    Left out are those of no run among `records`, and those on other problems than that run's.
    """
    labels = {record.path: (label, record) for label, record in in_order(records)}
    found = []
    for folder in find_measured(dirs, "eval"):
        manifest = read_manifest(folder)
        if WEIGHT not in manifest or not saved_steps(folder / "eval"):
            continue
        ends = [Path(str(manifest.get(name))) for name in ("policy", OTHER)]
        homes = [_run_of(end, folder, list(labels)) for end in ends]
        home = homes[1] or homes[0]
        if home is None:
            continue
        record = labels[home][1]
        digest = record.manifest.get("heldout_sha256")
        if digest != manifest.get("heldout_sha256", digest):
            continue
        one, other = (
            labels[home][0] if home else end.name for home, end in zip(homes, ends, strict=True)
        )
        weight = float(manifest[WEIGHT])
        found.append(InterpolationRecord(folder, record, one, other, weight))
    return sorted(found, key=lambda each: each.weight)


def _run_of(model: Path, evaluation: Path, runs: Sequence[Path]) -> Path | None:
    """Return the run that a checkpoint belongs to; None if it is none of `runs`.

    Where both were moved together, it is the run of that name beside the evaluation.
    """
    home = model.parent.parent if model.parent.name == "checkpoints" else model
    if home in runs:
        return home
    beside = (run for run in runs if run.name == home.name and run.parent in evaluation.parents)
    return next(beside, None)
