"""Choose the samples that the report shows, so that a page over many runs stays small.

Reads the first and the last rollout file of each run, and some chunks of `passk eval`. From each
file prompts are taken in turn from every kind and band of success, in an order drawn from a seed
that is the same for all runs, and from all files in turn until the budget is spent. A prompt comes
with all its samples; identical ones are shown once, with their number. A text that occurs again, as
in cells of a sweep that start from one checkpoint, is stored once.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from passk.config.schema import ESTIMATORS_WITHOUT_K
from passk.files import read_file, read_manifest
from passk.objectives.advantages import Objective
from passk.objectives.implied_weights import implied, objective_advantages
from passk.objectives.pass_at_k import FloatArray
from passk.report.tables import in_order
from passk.runs.reader import RunRecord, read_problems

CHUNKS_READ = 4  # chunks read of an evaluation, which may be large
Sample = Mapping[Any, Any]  # a row


@dataclass(frozen=True, slots=True)
class SampleFile:
    """Samples of one prompt after another, and the facts about them.

    Attributes:
        source, seed: the label and seed of a run, or the name and seed of an evaluation.
        split, step, policy_version: which problems, and which policy drew the samples.
        problems: kind, prompt and answer by problem_id; empty for older runs.
        groups: each prompt's samples, with the columns of the file and `advantage`.
        weights_P: the weight of each prompt in the objective of the step; NaN for held-out ones.
        num_on_disk: samples of the run or evaluation, counted at its first file.
    """

    source: str
    seed: int
    split: str
    step: int
    policy_version: int | None
    problems: Mapping[str, Mapping[str, str]]
    groups: list[list[Sample]]
    weights_P: FloatArray
    num_on_disk: int


def rollout_files(label: str, record: RunRecord) -> list[SampleFile]:
    """Read the first and the last rollout file of a run; empty if there are none."""
    steps = record.rollout_steps
    files: list[SampleFile] = []
    for step in dict.fromkeys([steps[0], steps[-1]] if steps else []):
        rows = record.rollouts(step)
        n = _samples_per_prompt(record, rows)
        rewards_PG = rows["reward"].to_numpy(dtype=np.float64).reshape(-1, n)
        advantages_PG, weights_P = _worth(objective_of(record, step), rewards_PG)
        rows["advantage"] = advantages_PG.ravel()
        samples: list[Sample] = list(rows.to_dict("records"))
        files.append(
            SampleFile(
                label,
                record.seed,
                "train",
                step,
                int(rows["policy_version"].iloc[0]),
                _texts(record.problems(), "train"),
                [samples[i : i + n] for i in range(0, len(samples), n)],
                weights_P,
                len(rows) * len(steps) if not files else 0,
            )
        )
    return files


def eval_file(folder: Path, seed: int) -> SampleFile:
    """Read non-greedy samples from some chunks of a `passk eval` directory, chosen by seed."""
    chunks = sorted((folder / "samples").glob("chunk-*.parquet"))
    shown = sorted(chunks, key=lambda file: seeded_place(file.name, seed))[:CHUNKS_READ]
    groups: dict[str, list[Sample]] = {}
    for file in sorted(shown):
        rows: pd.DataFrame = read_file(pd.read_parquet, file)
        for sample in rows[~rows["greedy"]].to_dict("records"):
            groups.setdefault(str(sample["problem_id"]), []).append(sample)
    greedy = [read_file(_greedy, file) for file in chunks]
    manifest = read_manifest(folder)
    policy = Path(str(manifest.get("policy", ""))).name
    return SampleFile(
        folder.name,
        int(manifest.get("seed", 0)),
        "heldout",
        int(policy.removeprefix("step-")) if policy.startswith("step-") else 0,
        None,
        _texts(read_problems(folder), "heldout"),
        list(groups.values()),
        np.full(len(groups), np.nan),
        sum(int((~flags).sum()) for flags in greedy),
    )


def objective_of(record: RunRecord, step: int) -> Objective:
    """Return the objective in force at a step: as logged, or else as configured."""
    estimator = str(record.setting("regime.estimator", "mixture"))
    uses_k = record.optimises_passk and estimator not in ESTIMATORS_WITHOUT_K
    k, weight, least = record.k if uses_k else 1, record.pass1_weight, 0.0
    logged = record.metrics[record.metrics["step"] == step]
    for row in logged.to_dict("records"):
        known = {name: value for name, value in row.items() if np.all(pd.notna(value))}
        k, weight = int(known.get("trained_k", k)), float(known.get("pass1_weight", weight))
        least = float(known.get("min_success", least))
    return Objective(estimator, k, weight, least)


def _samples_per_prompt(record: RunRecord, rows: pd.DataFrame) -> int:
    """Return the configured number; a problem that occurs twice in a step numbers its samples on.

    If it is not configured, return the least number of samples of any problem in a row.
    """
    configured = record.setting("rollout.num_samples")
    if configured is not None:
        return int(configured)
    ids = rows["problem_id"]
    return int(ids.groupby((ids != ids.shift()).cumsum()).size().min())


def _worth(objective: Objective, rewards_PG: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compute advantages and weights; NaN if a prompt has too few samples for them."""
    try:
        return objective.advantages(rewards_PG), prompt_weights_of(objective, rewards_PG)
    except ValueError:
        return np.full(rewards_PG.shape, np.nan), np.full(len(rewards_PG), np.nan)


def prompt_weights_of(objective: Objective, rewards_PG: FloatArray) -> FloatArray:
    """Compute the factor by which an objective multiplies each prompt's Pass@1 gradient, [P].

    For the mixture the estimate is unbiased. For other estimators it is their average factor at a
    success probability of c/n, as no better estimate exists.
    """
    if objective.estimator == "mixture":
        return objective.prompt_weights(rewards_PG)
    n_P, c_P = (~np.isnan(rewards_PG)).sum(axis=1), (rewards_PG == 1).sum(axis=1)
    p_P = np.clip(c_P / np.maximum(n_P, 1), 1e-9, 1 - 1e-9)
    groups = objective_advantages(
        objective.estimator, objective.k, objective.pass1_weight, rewards_PG.shape[1]
    )
    return implied(groups, p_P).weight_P


def seeded_place(name: str, seed: int) -> int:
    """Return the place of a problem or a file in the seeded order, the same in all runs."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8])


def _greedy(file: Path) -> pd.Series:
    return pd.read_parquet(file, columns=["greedy"])["greedy"].astype(bool)


def _texts(problems: pd.DataFrame, split: str) -> dict[str, dict[str, str]]:
    """Map the ids of a split's problems to kind, prompt and answer."""
    rows = problems[problems["split"] == split].to_dict("records")
    return {str(row["problem_id"]): {str(k): str(v) for k, v in row.items()} for row in rows}


LONGEST_SHOWN = 4000  # characters of a text; longer ones lose their middle
_TEXTS = ("prompt", "answer", "completion")  # stored once each
_BANDS = (0.0, 0.25, 0.5, 0.75, 1.0)  # bands of success: none, up to each of these, all

FILE_COLUMNS = ["source", "seed", "split", "step", "policy_version"]
PROBLEM_COLUMNS = ["problem_id", "split", "kind", "prompt", "answer"]
GROUP_COLUMNS = ["file", "problem", "n", "c", "weight"]
SAMPLE_COLUMNS = [
    *("group", "completion", "count", "reward", "reason", "num_tokens", "finish_reason"),
    *("logprob_sampler", "logprob_learner", "advantage"),
]


@dataclass(frozen=True, slots=True)
class SampleRows:
    """Four tables that refer to one another's rows by number, and the share of samples they hold.

    Attributes:
        files: `FILE_COLUMNS`; `source` is the label of a run or the name of an evaluation.
        problems: `PROBLEM_COLUMNS`; prompt and answer are empty for older runs.
        groups: `GROUP_COLUMNS`, a prompt with its samples in a file: `n` judged, `c` right, and
            its weight in the objective of that step, without bias; NaN for held-out ones.
        samples: `SAMPLE_COLUMNS`, a distinct completion with its number; NaN advantage if held out.
        num_shown, num_in_files, num_on_disk: samples here, in the files read, and in all.
    """

    files: pd.DataFrame
    problems: pd.DataFrame
    groups: pd.DataFrame
    samples: pd.DataFrame
    num_shown: int
    num_in_files: int
    num_on_disk: int

    def as_json(self) -> str:
        """Return JSON for a script element: rows as lists, `columns` with their names, and `texts`.

        `prompt`, `answer` and `completion` are places in `texts`. The JSON holds no `<`.
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
        """Sentence on how many samples are shown, and how they were chosen."""
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
    """Choose as many prompts, with their samples, as `as_json` can hold in `budget_bytes`.

    `evaluations` are directories of `passk eval` (`reader.find_measured(dirs, "eval")`). SFT runs
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
    """The rows taken so far, and the bytes of JSON that they make."""

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
    """Order the groups of a file: one of each kind and band before the second of any."""
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
    """Return the kind from the run's problems; older evaluations have it in each sample."""
    known = file.problems.get(str(sample["problem_id"]), {})
    return known.get("kind") or str(sample.get("kind", ""))


def _distinct(samples: Sequence[Sample]) -> list[tuple[Any, ...]]:
    """Merge identical completions: `SAMPLE_COLUMNS` without the group, most frequent first."""
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
    """Cut the middle out of a text that is too long."""
    if len(text) <= LONGEST_SHOWN:
        return text
    half = LONGEST_SHOWN // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"


def _table(rows: Sequence[tuple[Any, ...]], columns: list[str]) -> pd.DataFrame:
    """Build a table that keeps None and whole numbers as they are."""
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _rounded(value: float | None) -> float | None:
    """Round to four digits; NaN becomes None, as JSON needs."""
    return None if value is None or pd.isna(value) else float(f"{value:.4g}")


def _dumps(value: object) -> str:
    dumped = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return dumped.replace("<", "\\u003c")


def _size(value: object) -> int:
    """Return the bytes of JSON, with the comma after it."""
    return len(_dumps(value).encode()) + 1
