"""Read counts of right samples: of a run, of an evaluation, or from a file of anyone's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from passk.errors import UserError
from passk.evaluation.tables import at_temperature
from passk.files import broken, read_file, saved_steps, with_columns
from passk.runs.reader import read_config, read_eval_counts, read_problems

FORMS = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, slots=True, eq=False)
class CountedProblems:
    """Counts of one evaluation, at its `eval.temperature`.

    Attributes:
        path: the directory or file they were read from, and `step` of a run's evaluations.
        counts: problem_id, n judged samples, c right ones; a row per problem.
        problems: the problems behind the ids, as `read_problems` has them; empty for a file.
    """

    path: Path
    step: int | None
    counts: pd.DataFrame
    problems: pd.DataFrame


def read_counts(path: Path, step: int | None, key: str) -> CountedProblems:
    """Read the counts of a run or an evaluation at a step (by default the last), or of a file.

    A file has the columns id (or problem_id), c and n, and a row per problem. `key` is what the
    user names the step by.

    Raises:
        UserError: there are no such counts, or they cannot be.
    """
    if path.is_file():
        if step is not None:
            raise UserError(f"{key}={step} goes with a run or an evaluation; {path} is a file")
        return CountedProblems(path, None, _read_file(path), pd.DataFrame())
    steps = saved_steps(path / "eval")
    if not steps:
        raise UserError(
            f"{path} holds no counts: give a run, a directory of passk eval, or a file with the "
            f"columns id, c and n ({', '.join(FORMS)})"
        )
    if step is not None and step not in steps:
        listed = ", ".join(map(str, steps))
        raise UserError(f"{key}={step} was not evaluated in {path}; steps there: {listed}")
    step = steps[-1] if step is None else step
    evaluation = read_config(path / "config.yaml").get("eval") or {}
    counts = at_temperature(read_eval_counts(path, step), evaluation.get("temperature", 1.0))
    counts = counts[["problem_id", "n", "c"]].reset_index(drop=True)
    problems = read_problems(path)
    return CountedProblems(path, step, counts, problems[problems["split"] == "heldout"])


def check_same_problems(a: CountedProblems, b: CountedProblems) -> None:
    """Raise UserError if both know their problems, and one id stands for different ones."""
    if a.problems.empty or b.problems.empty:
        return
    columns = ["problem_id", "prompt", "answer"]
    both = a.problems[columns].merge(b.problems[columns], on="problem_id", suffixes=("_a", "_b"))
    differ = (both["prompt_a"] != both["prompt_b"]) | (both["answer_a"] != both["answer_b"])
    if differ.any():
        raise UserError(
            f"{a.path} and {b.path} hold different problems of the same id, {differ.sum()} of "
            f"{len(both)} (such as {both['problem_id'][differ].iloc[0]}); only evaluations on the "
            "same problems can be compared"
        )


def _read_file(file: Path) -> pd.DataFrame:
    if file.suffix not in FORMS:
        raise UserError(f"{file} is no file of counts; allowed: {', '.join(FORMS)}")
    frame: pd.DataFrame = read_file(_READERS[file.suffix], file)
    if "id" in frame and "problem_id" not in frame:
        frame = frame.rename(columns={"id": "problem_id"})
    elif "problem_id" not in frame:
        raise broken(file, "lacks the column 'id': it needs id (or problem_id), c, n")
    frame = with_columns(file, frame, columns=["problem_id"], numbers=["n", "c"])
    n_P, c_P = frame["n"], frame["c"]
    good = (n_P % 1 == 0) & (c_P % 1 == 0) & (c_P >= 0) & (c_P <= n_P)
    if not good.all():
        row = int((~good).argmax())
        raise UserError(
            f"{file} has c={c_P.iloc[row]} and n={n_P.iloc[row]} in row {row + 1}; both must be "
            "whole numbers, 0 <= c <= n"
        )
    twice = frame["problem_id"].duplicated()
    if twice.any():
        named = frame["problem_id"][twice].iloc[0]
        raise UserError(f"{file} has the id {named} twice; a problem has one row")
    whole = frame[["problem_id", "n", "c"]].astype({"n": int, "c": int})
    return whole.assign(problem_id=whole["problem_id"].astype(str))


def _read_csv(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype={"id": str, "problem_id": str}, keep_default_na=False)


def _read_lines(file: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UserError(f"{file} holds no JSON object in line {number}")
            rows.append(row)
    return pd.DataFrame(rows)


_READERS = {".csv": _read_csv, ".jsonl": _read_lines, ".parquet": pd.read_parquet}
