"""Rollout files and chunks of evaluations as groups of samples, with the weights of prompts."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from passk.config import ESTIMATORS_WITHOUT_K
from passk.estimators import FloatArray
from passk.implied import implied, objective_advantages
from passk.objective import Objective
from passk.reading import read_file, read_manifest
from passk.records import RunRecord, read_problems

CHUNKS_READ = 4  # of an evaluation, which may be large
Sample = Mapping[Any, Any]  # a row


@dataclass(frozen=True, slots=True)
class SampleFile:
    """Samples of one prompt after another, and what is known about them.

    Attributes:
        source, seed: the label and seed of a run, or the name and seed of an evaluation.
        split, step, policy_version: which problems, and which policy drew the samples.
        problems: kind, prompt and answer by problem_id; empty for older runs.
        groups: each prompt's samples, with the columns of the file and `advantage`.
        weights_P: what the objective of the step puts on each prompt, NaN held out.
        num_on_disk: samples of the run or evaluation, told by its first file.
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
    """The first and the last rollout file of a run; none for one without."""
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
    """Samples of a directory of `passk eval`, without the greedy ones: some chunks, by seed."""
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
    """The objective in force at a step: as logged, or without that as configured."""
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
    """As configured: a problem that comes twice in a step goes on counting its samples.

    Without that, as few as any problem has in a row.
    """
    configured = record.setting("rollout.num_samples")
    if configured is not None:
        return int(configured)
    ids = rows["problem_id"]
    return int(ids.groupby((ids != ids.shift()).cumsum()).size().min())


def _worth(objective: Objective, rewards_PG: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Advantages and weights; NaN of files in which a prompt has too few samples for them."""
    try:
        return objective.advantages(rewards_PG), prompt_weights_of(objective, rewards_PG)
    except ValueError:
        return np.full(rewards_PG.shape, np.nan), np.full(len(rewards_PG), np.nan)


def prompt_weights_of(objective: Objective, rewards_PG: FloatArray) -> FloatArray:
    """What an objective multiplies each prompt's Pass@1 gradient with, [P].

    Of the mixture without bias; of another estimator what it comes to on average at a success
    probability of c/n, which is all that can be said of it.
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
    """The place of a problem or a file in the seeded order, the same in all runs."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8])


def _greedy(file: Path) -> pd.Series:
    return pd.read_parquet(file, columns=["greedy"])["greedy"].astype(bool)


def _texts(problems: pd.DataFrame, split: str) -> dict[str, dict[str, str]]:
    """kind, prompt and answer of the problems of a split, by their ids."""
    rows = problems[problems["split"] == split].to_dict("records")
    return {str(row["problem_id"]): {str(k): str(v) for k, v in row.items()} for row in rows}
