"""Problems as files: JSON lines that read back by the columns of `data`, and a run's own table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from passk.config import DataConfig, TableConfig
from passk.disk import replacing
from passk.gold import find_gold
from passk.types import Problem

GROUPINGS = ("kind", "level", "type")
_WRAPPED = {"whole": "{}", "after_hash": "#### {}", "in_box": "\\boxed{{{}}}"}


def problem_table(splits: Mapping[str, Sequence[Problem]]) -> pd.DataFrame:
    """A row per problem: problem_id, split, the groups that problems have, prompt, answer.

    The prompt is the problem's text, before templates and shots.
    """
    named = [(split, problem) for split, problems in splits.items() for problem in problems]
    groupings = [name for name in GROUPINGS if any(getattr(p, name) for _, p in named)]
    columns = {"problem_id": [p.id for _, p in named], "split": [split for split, _ in named]}
    for name in (*groupings, "prompt", "answer"):
        columns[name] = [getattr(p, name) for _, p in named]
    return pd.DataFrame(columns, dtype=object)


def write_problems(path: Path, problems: Sequence[Problem], cfg: DataConfig) -> None:
    """One problem a line, in the columns in which `data.path` of this configuration is read."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for problem in problems:
            print(json.dumps(_row(problem, cfg), ensure_ascii=False), file=file)


def _row(problem: Problem, cfg: DataConfig) -> dict[str, Any]:
    """The fields of a problem under the names that they are read by."""
    table = cfg if isinstance(cfg, TableConfig) else TableConfig()
    row: dict[str, Any] = {}
    for name in ("id", "prompt", "kind", "solution", "level", "type"):
        # A column that the data set has no name for is written under our own: nothing is lost.
        if value := getattr(problem, name):
            row[getattr(table, f"{name}_column") or name] = value
    if problem.weight != 1:
        row[table.weight_column or "weight"] = problem.weight
    # Where the answer is found in the worked solution, the solution has it already.
    solution = row.get(table.answer_column)
    if solution is None or find_gold(solution, table.gold_in) != problem.answer:
        row[table.answer_column] = _WRAPPED[table.gold_in].format(problem.answer)
    return row
