"""Which samples the report shows, so that a page over many runs stays small.

Looked at are the first and the last rollout file of each run, and some chunks of `passk eval`. Of
each file prompts are taken in turn from every kind and band of success, in an order drawn from a
seed that is the same for all runs, and from all files in turn until the budget is spent. A prompt
comes with all its samples; identical ones are shown once, with their number. A text that occurs
again, as in cells of a sweep that start from one checkpoint, is stored once.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from passk.records import RunRecord
from passk.sample_files import Sample, SampleFile, eval_file, rollout_files, seeded_place
from passk.tables import in_order

LONGEST_SHOWN = 4000  # characters of a text; the middle of a longer one is left out
_TEXTS = ("prompt", "answer", "completion")  # stored once each
_BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # success: none, up to each of these, all

FILE_COLUMNS = ["source", "seed", "split", "step", "policy_version"]
PROBLEM_COLUMNS = ["problem_id", "split", "kind", "prompt", "answer"]
GROUP_COLUMNS = ["file", "problem", "n", "c", "weight"]
SAMPLE_COLUMNS = [
    *("group", "completion", "count", "reward", "reason", "num_tokens", "finish_reason"),
    *("logprob_sampler", "logprob_learner", "advantage"),
]


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Four tables that point to rows of one another by number, and what share they are.

    Attributes:
        files: `FILE_COLUMNS`; `source` is the label of a run or the name of an evaluation.
        problems: `PROBLEM_COLUMNS`; prompt and answer are empty for older runs.
        groups: `GROUP_COLUMNS`, a prompt with its samples in a file: `n` judged, `c` right, and
            the weight that the objective of that step puts on it, without bias; NaN held out.
        samples: `SAMPLE_COLUMNS`, a distinct completion with its number; advantage NaN held out.
        num_shown, num_in_files, num_on_disk: samples here, in the files looked at, and in all.
    """

    files: pd.DataFrame
    problems: pd.DataFrame
    groups: pd.DataFrame
    samples: pd.DataFrame
    num_shown: int
    num_in_files: int
    num_on_disk: int

    def as_json(self) -> str:
        """For a script element: rows as lists, `columns` their names, texts by number.

        `prompt`, `answer` and `completion` are numbers of `texts`. No `<` is left in it.
        """
        texts = dict[str, int]()
        tables = {}
        for name in ("files", "problems", "groups", "samples"):
            table: pd.DataFrame = getattr(self, name)
            rows = [list(row) for row in table.itertuples(index=False, name=None)]
            for i in [i for i, c in enumerate(table.columns) if c in _TEXTS]:
                for row in rows:
                    row[i] = texts.setdefault(row[i], len(texts))
            tables[name] = rows
        columns = {name: list(getattr(self, name).columns) for name in tables}
        return _dumps({"columns": columns, "texts": list(texts), **tables})

    @property
    def sentence(self) -> str:
        """What is shown of what there is."""
        return (
            f"Shown are {self.num_shown:,} of {self.num_on_disk:,} samples, out of "
            f"{self.num_in_files:,} in the first and the last rollout file of each run and in some "
            "chunks of each evaluation. Prompts were taken in turn from every kind and band of "
            "success, in a seeded order, each with all its samples; identical ones stand once, "
            "with their number."
        )


def sample_rows(
    records: Sequence[RunRecord],
    budget_bytes: int,
    evaluations: Iterable[Path] = (),
    seed: int = 0,
) -> SampleRows:
    """As many prompts with their samples as `as_json` can hold in `budget_bytes`.

    `evaluations` are directories of `passk eval` (`records.find_measured(dirs, "eval")`). SFT runs
    have no samples.

    Raises:
        UserError: a file cannot be read.
    """
    files = [file for label, record in in_order(records) for file in rollout_files(label, record)]
    files += [eval_file(folder, seed) for folder in evaluations]
    turns = [
        (turn, number, group)
        for number, file in enumerate(files)
        for turn, group in enumerate(_in_turn(file, seed))
    ]
    chosen = _Chosen(files)
    for _, number, group in sorted(turns):
        if not chosen.add(number, group, budget_bytes):
            break
    return SampleRows(
        _table(chosen.facts, FILE_COLUMNS),
        _table(list(chosen.problems), PROBLEM_COLUMNS),
        _table(chosen.groups, GROUP_COLUMNS),
        _table(chosen.samples, SAMPLE_COLUMNS),
        num_shown=sum(row[2] for row in chosen.samples),
        num_in_files=sum(len(group) for file in files for group in file.groups),
        num_on_disk=sum(file.num_on_disk for file in files),
    )


class _Chosen:
    """What was taken so far, and how many bytes of JSON it makes."""

    def __init__(self, files: Sequence[SampleFile]) -> None:
        self.files = files
        self.facts = [tuple(getattr(file, name) for name in FILE_COLUMNS) for file in files]
        self.problems: dict[tuple[Any, ...], int] = {}
        self.groups: list[tuple[Any, ...]] = []
        self.samples: list[tuple[Any, ...]] = []
        self.texts: set[str] = set()
        columns = FILE_COLUMNS, PROBLEM_COLUMNS, GROUP_COLUMNS, SAMPLE_COLUMNS
        self.size = _size([columns, self.facts]) + 200  # names of tables, brackets

    def add(self, number: int, group: int, budget: int) -> bool:
        """Take a group with its problem and texts, unless that breaks the budget."""
        file = self.files[number]
        samples = file.groups[group]
        problem_id = str(samples[0]["problem_id"])
        known = file.problems.get(problem_id, {})
        texts = [_cut(known.get(name, "")) for name in ("prompt", "answer")]
        problem = (problem_id, file.split, _kind(file, samples[0]), *texts)
        place = self.problems.get(problem, len(self.problems))
        rewards = [sample["reward"] for sample in samples if pd.notna(sample["reward"])]
        weight = _rounded(file.weights_P[group])
        row = (number, place, len(rewards), sum(reward == 1 for reward in rewards), weight)
        rows = [(len(self.groups), *sample) for sample in _distinct(samples)]
        new_texts = {*texts, *(sample[1] for sample in rows)} - self.texts
        # A number of up to eight digits stands for each text.
        new_problem = () if problem in self.problems else (*problem[:3], 10**7, 10**7)
        numbered = [(sample[0], 10**7, *sample[2:]) for sample in rows]
        size = sum(map(_size, (row, new_problem, *numbered, *new_texts)))
        if self.size + size > budget:
            return False
        self.size += size
        self.texts |= new_texts
        self.problems.setdefault(problem, place)
        self.groups.append(row)
        self.samples += rows
        return True


def _in_turn(file: SampleFile, seed: int) -> list[int]:
    """The groups of a file, one of each kind and band of success before the second of any."""
    strata: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for number, group in enumerate(file.groups):
        rewards = [sample["reward"] for sample in group if pd.notna(sample["reward"])]
        success = sum(rewards) / len(rewards) if rewards else 0.0
        band = int(np.searchsorted(_BANDS, success)) + int(success == 1)
        place = seeded_place(str(group[0]["problem_id"]), seed)
        strata.setdefault((_kind(file, group[0]), band), []).append((place, number))
    turns = [
        (turn, stratum, number)
        for stratum, members in strata.items()
        for turn, (_, number) in enumerate(sorted(members))
    ]
    return [number for _, _, number in sorted(turns)]


def _kind(file: SampleFile, sample: Sample) -> str:
    """From the run's problems; an older evaluation has it beside each sample."""
    known = file.problems.get(str(sample["problem_id"]), {})
    return known.get("kind") or str(sample.get("kind", ""))


def _distinct(samples: Sequence[Sample]) -> list[tuple[Any, ...]]:
    """`SAMPLE_COLUMNS` without the group: identical completions are one, the commonest first."""
    counts: dict[tuple[Any, ...], int] = {}
    first: dict[tuple[Any, ...], Sample] = {}
    for sample in samples:
        reward: float | None = None if pd.isna(sample["reward"]) else float(sample["reward"])
        names = ("reason", "num_tokens", "finish_reason")
        key = (_cut(sample["completion"]), reward, *(sample[name] for name in names))
        counts[key] = counts.get(key, 0) + 1
        first.setdefault(key, sample)
    rows = []
    for key, count in sorted(counts.items(), key=lambda item: -item[1]):
        numbers = (_rounded(first[key].get(name)) for name in SAMPLE_COLUMNS[-3:])
        rows.append((key[0], count, *key[1:], *numbers))
    return rows


def _cut(text: str) -> str:
    """A text that is too long, without its middle."""
    if len(text) <= LONGEST_SHOWN:
        return text
    half = LONGEST_SHOWN // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"


def _table(rows: Sequence[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    """As they are: None stays None, and whole numbers stay whole."""
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _rounded(value: float | None) -> float | None:
    """Four digits are enough to be read, and None is what JSON has for NaN."""
    return None if value is None or pd.isna(value) else float(f"{value:.4g}")


def _dumps(value: object) -> str:
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return dumped.replace("<", "\\u003c")


def _size(value: object) -> int:
    """Bytes of JSON, with the comma behind it."""
    return len(_dumps(value).encode()) + 1
