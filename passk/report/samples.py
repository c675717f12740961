"""Choose the samples that the report shows, so that a page over many runs stays small.

Reads the first and the last rollout file of each run, and some chunks of `passk eval`. From each
file prompts are taken in turn from every kind and band of success, in an order drawn from a seed
that is the same for all runs, and from all files in turn until the budget is spent. A prompt comes
with all its samples; identical ones are shown once, with their number. A text that occurs again, as
in cells of a sweep that start from one checkpoint, is stored once.
"""

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from passk.config.schema import RegimeConfig, is_own, mix, mix_several
from passk.console import working
from passk.evaluation.tables import at_temperature
from passk.files import read_file, read_manifest, read_yaml, step_of
from passk.objectives.advantages import Objective
from passk.objectives.implied_weights import implied, objective_advantages
from passk.objectives.pass_at_k import FloatArray, judged_counts
from passk.runs.labels import in_order
from passk.runs.reader import RunRecord, read_problems

CHUNKS_READ = 4  # chunks read of an evaluation, which may be large
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
        problems: `PROBLEM_COLUMNS`.
        groups: `GROUP_COLUMNS`, a prompt with its samples in a file: `n` judged, `c` right, and
            its weight in the objective of that step, without bias; None for held-out ones.
        samples: `SAMPLE_COLUMNS`, a distinct completion with its number; None as the advantage if
            held out.
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
        shown: dict[str, Any] = {"columns": {}, "texts": {}}
        for name in ("files", "problems", "groups", "samples"):
            table: pd.DataFrame = getattr(self, name)
            places = {
                column: [texts.setdefault(text, len(texts)) for text in table[column]]
                for column in table.columns.intersection([*_TEXTS])
            }
            shown["columns"][name] = list(table)
            shown[name] = table.assign(**places).astype(object).to_numpy().tolist()
        shown["texts"] = list(texts)
        dumped = json.dumps(shown, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return dumped.replace("<", "\\u003c")

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


@dataclass(frozen=True, slots=True)
class _Group:
    """A prompt with its samples in a file.

    Attributes:
        problem: `PROBLEM_COLUMNS`.
        n, c, weight: `GROUP_COLUMNS`.
        samples: `SAMPLE_COLUMNS` without the group.
    """

    problem: tuple[str, ...]
    n: int
    c: int
    weight: float | None
    samples: list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _File:
    """Facts about a file (`FILE_COLUMNS`), its groups, and the samples of the run or evaluation."""

    facts: tuple[Any, ...]
    groups: list[_Group]
    num_on_disk: int  # counted at the first file


@working("reading samples")
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
    files = [file for label, record in in_order(records) for file in _rollout_files(label, record)]
    files += [_eval_file(f, seed) for f in evaluations if (f / "samples").is_dir()]
    turns = zip_longest(*(_in_turn(file.groups, seed) for file in files))
    chosen = [(number, group) for turn in turns for number, group in enumerate(turn) if group]

    def size(num_groups: int) -> int:
        return len(_rows(files, chosen[:num_groups]).as_json().encode())

    num_fitting = bisect_right(range(1, len(chosen) + 1), budget_bytes, key=size)
    return _rows(files, chosen[:num_fitting])


def _rows(files: Sequence[_File], chosen: Sequence[tuple[int, _Group]]) -> SampleRows:
    """Build the tables of the chosen groups, each with the number of its file."""
    problems = dict[tuple[str, ...], int]()
    groups: list[tuple[Any, ...]] = []
    samples: list[tuple[Any, ...]] = []
    for number, group in chosen:
        samples += [(len(groups), *sample) for sample in group.samples]
        place = problems.setdefault(group.problem, len(problems))
        groups.append((number, place, group.n, group.c, group.weight))
    table = partial(pd.DataFrame, dtype=object)  # keeps None and whole numbers as they are
    return SampleRows(
        table([file.facts for file in files], columns=FILE_COLUMNS),
        table(list(problems), columns=PROBLEM_COLUMNS),
        table(groups, columns=GROUP_COLUMNS),
        table(samples, columns=SAMPLE_COLUMNS),
        num_shown=_num_samples(group for _, group in chosen),
        num_in_files=_num_samples(group for file in files for group in file.groups),
        num_on_disk=sum(file.num_on_disk for file in files),
    )


def _num_samples(groups: Iterable[_Group]) -> int:
    return sum(sample[1] for group in groups for sample in group.samples)


def _in_turn(groups: Sequence[_Group], seed: int) -> list[_Group]:
    """Order the groups of a file: one of each kind and band before the second of any."""
    strata: dict[tuple[str, int], list[_Group]] = {}
    for group in sorted(groups, key=lambda group: _seeded_place(group.problem[0], seed)):
        success = group.c / group.n if group.n else 0.0
        band = int(np.searchsorted(_BANDS, success)) + int(success == 1)
        strata.setdefault((group.problem[2], band), []).append(group)
    turns = zip_longest(*(members for _, members in sorted(strata.items())))
    return [group for turn in turns for group in turn if group]


def _rollout_files(label: str, record: RunRecord) -> list[_File]:
    """Read the first and the last rollout file of a run; empty if there are none."""
    steps = record.rollout_steps
    files: list[_File] = []
    for step in dict.fromkeys([steps[0], steps[-1]] if steps else []):
        rows = record.rollouts(step)
        n = int(record.setting("rollout.num_samples"))
        rewards_PG = rows["reward"].to_numpy(dtype=np.float64).reshape(-1, n)
        advantages_PG, weights_P = _worth(_objective_of(record, step), rewards_PG)
        samples = rows.assign(advantage=advantages_PG.ravel()).to_dict("records")
        texts = _texts(record.problems(), "train")
        groups = [
            _group(samples[i * n : (i + 1) * n], texts, "train", weight)
            for i, weight in enumerate(weights_P.tolist())
        ]
        facts = (label, record.seed, "train", step, int(rows["policy_version"].iloc[0]))
        files.append(_File(facts, groups, 0 if files else len(rows) * len(steps)))
    return files


def _eval_file(folder: Path, seed: int) -> _File:
    """Read samples at `eval.temperature` from some chunks of `passk eval`, chosen by seed."""
    temperature = read_yaml(folder / "config.yaml")["eval"]["temperature"]
    chunks = sorted((folder / "samples").glob("chunk-*.parquet"))
    shown = sorted(chunks, key=lambda file: _seeded_place(file.name, seed))[:CHUNKS_READ]
    of_problem: dict[str, list[Mapping[Any, Any]]] = {}
    for file in sorted(shown):
        rows: pd.DataFrame = read_file(pd.read_parquet, file)
        for sample in at_temperature(rows, temperature).to_dict("records"):
            of_problem.setdefault(str(sample["problem_id"]), []).append(sample)
    read_temperatures = partial(pd.read_parquet, columns=["temperature"])
    drawn = [at_temperature(read_file(read_temperatures, file), temperature) for file in chunks]
    manifest = read_manifest(folder)
    step = step_of(Path(str(manifest.get("policy", ""))).name)
    texts = _texts(read_problems(folder), "heldout")
    return _File(
        (folder.name, int(manifest.get("seed", 0)), "heldout", step or 0, None),
        [_group(samples, texts, "heldout", np.nan) for samples in of_problem.values()],
        sum(map(len, drawn)),
    )


def _group(
    samples: Sequence[Mapping[Any, Any]],
    texts: Mapping[str, Mapping[str, str]],
    split: str,
    weight: float,
) -> _Group:
    """Merge identical samples of a prompt, most frequent first."""
    problem_id = str(samples[0]["problem_id"])
    known = texts.get(problem_id, {"kind": "", "prompt": "", "answer": ""})
    problem = (problem_id, split, known["kind"], _cut(known["prompt"]), _cut(known["answer"]))
    counts = Counter[tuple[Any, ...]]()
    numbers = dict[tuple[Any, ...], list[float | None]]()
    for sample in samples:
        facts = (sample[name] for name in ("reason", "num_tokens", "finish_reason"))
        key = (_cut(sample["completion"]), _rounded(sample["reward"]), *facts)
        counts[key] += 1
        numbers.setdefault(key, [_rounded(sample.get(name)) for name in SAMPLE_COLUMNS[-3:]])
    rewards = [sample["reward"] for sample in samples if pd.notna(sample["reward"])]
    return _Group(
        problem,
        len(rewards),
        sum(reward == 1 for reward in rewards),
        _rounded(weight),
        [(key[0], count, *key[1:], *numbers[key]) for key, count in counts.most_common()],
    )


def _objective_of(record: RunRecord, step: int) -> Objective:
    """Return the objective in force at a step: as logged, or else as configured."""
    columns = ["trained_k", "pass1_weight", "min_success"]
    logged = record.metrics[record.metrics["step"] == step].reindex(columns=columns)
    known: dict[Any, Any] = logged.iloc[-1].dropna().to_dict() if len(logged) else {}
    if ks := record.setting("regime.ks"):
        terms = mix_several(ks, record.setting("regime.weights"))
    else:
        k = int(known.get("trained_k", record.k if record.optimises_passk else 1))
        terms = mix(k, float(known.get("pass1_weight", record.pass1_weight)))
    return Objective(
        str(record.setting("regime.estimator", "mixture")),
        terms,
        float(known.get("min_success", 0.0)),
        float(record.setting("regime.beta", RegimeConfig.beta)),
    )


def _worth(objective: Objective, rewards_PG: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compute advantages and weights; NaN if a prompt has too few samples for them.

    Also NaN for a user's own estimator: a report does not execute the file that a run names.
    """
    try:
        if is_own(objective.estimator):
            raise ValueError(objective.estimator)
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
    n_P, c_P = judged_counts(rewards_PG)
    p_P = np.clip(c_P / np.maximum(n_P, 1), 1e-9, 1 - 1e-9)
    return implied(objective_advantages(objective, rewards_PG.shape[1]), p_P).weight_P


def _seeded_place(name: str, seed: int) -> int:
    """Return the place of a problem or a file in the seeded order, the same in all runs."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8])


def _texts(problems: pd.DataFrame, split: str) -> dict[str, dict[str, str]]:
    """Map the ids of a split's problems to kind, prompt and answer."""
    rows = problems[problems["split"] == split].astype(str)
    return dict(zip(rows["problem_id"], rows.to_dict("records"), strict=True))


def _cut(text: str) -> str:
    """Cut the middle out of a text that is too long."""
    if len(text) <= LONGEST_SHOWN:
        return text
    half = LONGEST_SHOWN // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n[... {left_out:,} characters left out ...]\n{text[-half:]}"


def _rounded(value: float | None) -> float | None:
    """Round to four digits; NaN becomes None, as JSON needs."""
    return None if value is None or pd.isna(value) else float(f"{value:.4g}")
