"""Choose the baseline that a run is compared with.

A baseline is the checkpoint a run started from, or a run that the user names. Both are counts of
the same held-out problems, so that differences are taken problem by problem.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from passk.errors import UserError
from passk.files import step_of
from passk.runs.labels import in_order, run_title
from passk.runs.reader import RunRecord

# The settings that decide what is held out, for generated problems and for problems from files.
_GENERATED = "conventions"
_DRAWN = ("data.seed", "data.calculator_fraction", "data.skill_fraction", "data.cue")
_READ = ("data.subset", "data.eval_split")


def baseline_runs(name: str, records: Sequence[RunRecord]) -> list[RunRecord]:
    """Return the runs, one per seed, that `baseline=NAME` selects: a label, its title, or a regime.

    Raises:
        UserError: there is no such run, or the regime has several labels.
    """
    named = [(label, run_title(record, label), record) for label, record in in_order(records)]
    exact = [record for label, title, record in named if name in (label, title)]
    if exact:
        return exact
    of_regime = {label: title for label, title, record in named if record.regime == name}
    if len(of_regime) == 1:
        return [record for record in records if record.regime == name]
    what = "is the regime of several runs" if of_regime else "is none of the runs"
    there = of_regime or {label: title for label, title, _ in named}
    listed = "; ".join(
        label if label == title else f"{label} ({title})" for label, title in there.items()
    )
    raise UserError(f"baseline={name} {what}; there are: {listed}")


class Evaluated(NamedTuple):
    """An evaluation: a run, and one of its evaluated steps."""

    record: RunRecord
    step: int

    @property
    def counts(self) -> pd.DataFrame:
        """Counts at the temperature of tables; see `RunRecord.counts`."""
        return self.record.counts(self.step)

    @property
    def front_counts(self) -> pd.DataFrame:
        """Counts at every temperature; see `RunRecord.front_counts`."""
        return self.record.front_counts(self.step)


def counts_before(
    record: RunRecord, records: Sequence[RunRecord], baseline: Sequence[RunRecord] | None = None
) -> pd.DataFrame | None:
    """Return the counts of the evaluation that a run is compared with (`evaluated_before`)."""
    before = evaluated_before(record, records, baseline)
    return before.counts if before else None


def evaluated_before(
    record: RunRecord, records: Sequence[RunRecord], baseline: Sequence[RunRecord] | None = None
) -> Evaluated | None:
    """Return the evaluation that a run is compared with: of `baseline`, or where it started.

    Returns None for a run of the baseline itself, and where no baseline run has the seed and the
    problems.
    """
    if baseline is None:
        return start_of(record, records)
    if record.path in {run.path for run in baseline}:
        return None
    alike = [run for run in baseline if have_same_problems(run, record)]
    of_seed = [run for run in alike if run.seed == record.seed]
    beside = [run for run in of_seed if run.path.parent == record.path.parent]
    chosen = beside or of_seed
    return last_evaluated(chosen[0]) if chosen else None


def start_of(record: RunRecord, records: Sequence[RunRecord]) -> Evaluated | None:
    """Return the evaluation of the checkpoint that a run started from, or None if not known.

    Inside a reproduction they come from the last evaluation of its seed's SFT run (None for the SFT
    run itself). Elsewhere they come from the run's own evaluation at step 0, or without one from
    the run among `records` that `train.init_from` names.
    """
    if record.regime == "sft" and record.seed_dir is not None:
        return None
    sft = sft_of(record, records)
    if sft is not None and sft.steps:
        return last_evaluated(sft)
    if 0 not in record.steps:
        return _evaluated_origin(record, records)
    # Without a later evaluation there is nothing to compare with it.
    return Evaluated(record, 0) if len(record.steps) > 1 else None


def sft_of(record: RunRecord, records: Sequence[RunRecord]) -> RunRecord | None:
    """Return the SFT run that a run of a reproduction started from, or None."""
    if record.regime == "sft" or record.seed_dir is None:
        return None
    same_seed = (r for r in records if r.seed_dir == record.seed_dir and r.regime == "sft")
    return next(same_seed, None)


def origin_of(record: RunRecord, records: Sequence[RunRecord]) -> RunRecord | None:
    """Return the run among `records` that a run started from, or None."""
    if (sft := sft_of(record, records)) is not None:
        return sft
    if not (named := record.setting("train.init_from")):
        return None
    path = Path(str(named)).resolve()
    folder = path if _starting_step(record) is None else path.parent.parent
    return next((run for run in records if run.path == folder), None)


def last_evaluated(record: RunRecord) -> Evaluated | None:
    """Return a run's last evaluation, or None if it has none yet."""
    return Evaluated(record, record.steps[-1]) if record.steps else None


def untrained(record: RunRecord) -> Evaluated | None:
    """Return a run's evaluation of the base model, which it began with; None if there is none."""
    is_base = record.setting("train.init_from") is None and 0 in record.steps[:-1]
    return Evaluated(record, 0) if is_base else None


def last_counts(record: RunRecord) -> pd.DataFrame | None:
    """Return the counts of a run's last evaluation, or None if it has none yet."""
    last = last_evaluated(record)
    return last.counts if last else None


def have_same_problems(one: RunRecord, other: RunRecord) -> bool:
    """Return True if equal ids mean equal problems, by digest or else by the data settings."""
    digests = [run.manifest.get("heldout_sha256") for run in (one, other)]
    if None not in digests and digests[0] == digests[1]:
        return True
    if _heldout_settings(one) != _heldout_settings(other):
        return False
    # Fewer problems or other shots explain another digest; otherwise the file has changed.
    sizes = [
        (run.setting("eval.num_problems"), run.setting("data.prompt.num_shots"))
        for run in (one, other)
    ]
    return None in digests or sizes[0] != sizes[1]


def _heldout_settings(record: RunRecord) -> list[object]:
    file, is_generated = record.setting("data.eval_path"), record.setting("data.name") == _GENERATED
    keys = _READ if not is_generated else () if file else _DRAWN
    file = file if file or is_generated else record.setting("data.path")
    return [record.setting("data.name"), file, *map(record.setting, keys)]


def _evaluated_origin(record: RunRecord, records: Sequence[RunRecord]) -> Evaluated | None:
    """Return the evaluation of the checkpoint in `train.init_from`, as its own run made it."""
    origin, step = origin_of(record, records), _starting_step(record)
    if origin is None or not have_same_problems(origin, record):
        return None
    at = max(origin.steps, default=-1) if step is None else step
    return Evaluated(origin, at) if at in origin.steps else None


def _starting_step(record: RunRecord) -> int | None:
    """Return the step of the checkpoint in `train.init_from`, or None for a whole run."""
    return step_of(Path(str(record.setting("train.init_from"))).name)


_MOST_NAMED = 4


def repeat_sentences(records: Sequence[RunRecord]) -> list[str]:
    """State in a sentence which runs of one seed were averaged, if any."""
    runs = Counter((run_title(r, label), r.seed) for label, r in in_order(records))
    several = [
        f"{count} of {title}, seed {seed}" for (title, seed), count in runs.items() if count > 1
    ]
    if len(several) > _MOST_NAMED:
        several[_MOST_NAMED:] = [f"and {len(several) - _MOST_NAMED} more"]
    listed = "; ".join(several)
    return [f"Runs of one seed are averaged and count as one seed ({listed})."] if several else []
