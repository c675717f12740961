"""Runs that are on record more than once: copied directories, and several runs of one seed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from passk.baselines import origin_of
from passk.records import RunRecord
from passk.wording import in_order, run_labels, run_title, short_names

_MOST_NAMED = 4


def without_copies(records: Sequence[RunRecord]) -> tuple[list[RunRecord], dict[Path, Path]]:
    """The runs, each once, and of every copy that was left out the run that it repeats.

    Of two the one that came further stays, or whose reproduction did. A copy stays too where a run
    that stays started from it.
    """
    reached = Counter(record.top for record in records for _ in record.steps)
    known: dict[tuple[str, int], list[RunRecord]] = {}
    copies: dict[Path, Path] = {}
    labelled = zip(run_labels(records), records, strict=True)
    furthest = sorted(labelled, key=lambda item: (-len(item[1].steps), -reached[item[1].top]))
    for label, record in furthest:
        alike = known.setdefault((label, record.seed), [])
        original = next((run for run in alike if _is_same(run, record)), None)
        if original is None:
            alike.append(record)
        else:
            copies[record.path] = original.path
    for record in records:
        origin = origin_of(record, records)
        if origin is not None and record.path not in copies:
            copies.pop(origin.path, None)
    return [record for record in records if record.path not in copies], copies


def repeat_sentences(records: Sequence[RunRecord], copies: Mapping[Path, Path]) -> list[str]:
    """What was left out as a copy, and what was averaged within a seed, in a sentence each."""
    sentences = []
    if copies:
        names = short_names(map(str, {*(run.path for run in records), *copies}))
        pairs = [f"{names[str(copy)]} is {names[str(run)]}" for copy, run in copies.items()]
        sentences.append(
            f"Left out: {len(copies)} run{'s' * (len(copies) > 1)} with the settings, the seed and "
            f"the held-out results of another one ({_listed(sorted(pairs))})."
        )
    runs = Counter((run_title(r, label), r.seed) for label, r in in_order(records))
    several = [
        f"{count} of {title}, seed {seed}" for (title, seed), count in runs.items() if count > 1
    ]
    if several:
        sentences.append(
            f"Runs of one seed are averaged and count as one seed ({_listed(several, '; ')})."
        )
    return sentences


def _is_same(one: RunRecord, other: RunRecord) -> bool:
    """Whether two runs of one label and seed are one: a copy, or the same once more.

    They agree wherever both were evaluated (a copy may have been taken midway), and began at one
    time or were evaluated at the same steps.
    """
    both = sorted({*one.steps} & {*other.steps})
    if not all(_counts(one, step).equals(_counts(other, step)) for step in both):
        return False
    began = one.manifest.get("start")
    is_copy = began is not None and began == other.manifest.get("start")
    return is_copy or (one.steps == other.steps and max(both, default=0) > 0)


def _counts(record: RunRecord, step: int) -> pd.DataFrame:
    counts = record.counts(step)[["problem_id", "n", "c"]]
    return counts.sort_values("problem_id", ignore_index=True)


def _listed(things: Sequence[str], joint: str = ", ") -> str:
    more = len(things) - _MOST_NAMED
    return joint.join([*things[:_MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])
