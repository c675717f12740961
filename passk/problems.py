"""Problems to train on, to be measured on, and worked solutions to imitate; and their order."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passk.config import ConventionsConfig, DataConfig, EvalConfig
from passk.conventions import make_problems
from passk.errors import UserError
from passk.types import Problem


@dataclass(frozen=True, slots=True)
class Data:
    """The three sides of a data set. `corpus` holds problems with worked solutions, for SFT."""

    train: tuple[Problem, ...]
    heldout: tuple[Problem, ...]
    corpus: tuple[Problem, ...]


def load_data(cfg: DataConfig, eval_cfg: EvalConfig, *, needs_training: bool = True) -> Data:
    """Generate or read what `data` names, with the first `eval.num_problems` held-out problems.

    Prompts that stand on both sides are refused.
    """
    if isinstance(cfg, ConventionsConfig):
        data = _conventions(cfg, eval_cfg.num_problems)
    else:
        if cfg.eval_path is None or (needs_training and cfg.path is None):
            raise UserError(
                "data=jsonl needs two files: data.path (training) and data.eval_path (held out); "
                "passk eval needs only the second"
            )
        train = read_problems(cfg.path, "data.path") if cfg.path else ()
        heldout = read_problems(cfg.eval_path, "data.eval_path")[: eval_cfg.num_problems]
        data = Data(train, heldout, tuple(p for p in train if p.solution))
    overlap = {p.prompt for p in data.heldout} & {p.prompt for p in (*data.train, *data.corpus)}
    if overlap:
        raise UserError(
            f"{len(overlap)} held-out prompts are also training prompts (one is "
            f"{min(overlap)!r}); held-out problems must not be trained on"
        )
    return data


def _conventions(cfg: ConventionsConfig, num_heldout: int) -> Data:
    def draw(
        count: int, split: str, calculator_fraction: float, skill_fraction: float, cue: float
    ) -> tuple[Problem, ...]:
        return tuple(
            make_problems(
                count,
                split=split,
                seed=cfg.seed,
                calculator_fraction=calculator_fraction,
                skill_fraction=skill_fraction,
                cue=cue,
            )
        )

    prompts = (cfg.calculator_fraction, cfg.skill_fraction, cfg.cue)
    train = (
        read_problems(cfg.path, "data.path") if cfg.path else draw(cfg.num_train, "train", *prompts)
    )
    heldout = (
        read_problems(cfg.eval_path, "data.eval_path")[:num_heldout]
        if cfg.eval_path
        else draw(num_heldout, "heldout", *prompts)
    )
    corpus = draw(
        cfg.num_corpus,
        "corpus",
        cfg.corpus_calculator_fraction,
        cfg.corpus_skill_fraction,
        cfg.corpus_cue,
    )
    return Data(train, heldout, corpus)


_COLUMNS = {"id": False, "prompt": True, "answer": True, "kind": False, "solution": False}


def read_problems(path: str, key: str) -> tuple[Problem, ...]:
    """Read a JSON-lines file of objects with string fields.

    `prompt` and `answer` are needed; `id` (default: file name and line), `kind` and `solution`
    are optional, other fields are ignored. Raises UserError naming `key`, the file and the line.
    """
    file = Path(path)
    try:
        lines = file.read_text(encoding="utf-8").split("\n")  # U+2028 may stand inside a string
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}={path} cannot be read as a UTF-8 text file: {error}") from error
    problems, seen = [], dict[str, int]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        problem = _parse(line, f"{file.stem}-{number}", f"{path}, line {number}")
        if problem.id in seen:
            raise UserError(
                f"{path}, line {number}: id {problem.id!r} stands already in line "
                f"{seen[problem.id]}; ids must differ"
            )
        seen[problem.id] = number
        problems.append(problem)
    if not problems:
        raise UserError(f"{key}={path} holds no problems; give one JSON object per line")
    return tuple(problems)


def _parse(line: str, default_id: str, place: str) -> Problem:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: not a JSON object ({error.msg}, column {error.colno})"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: a JSON object is needed, found {type(row).__name__}")
    fields = {"id": default_id}
    for column, needed in _COLUMNS.items():
        value = row.get(column)
        if value is None:
            if needed:
                raise UserError(f"{place}: the field {column!r} is missing")
            continue
        if not isinstance(value, str) or (needed and not value):
            raise UserError(f"{place}: {column!r} must be a non-empty string, found {value!r}")
        fields[column] = value
    return Problem(**fields)


class ProblemStream:
    """Endless passes over problems, each in a new seeded order; `position` is all its state."""

    def __init__(self, problems: Sequence[Problem], seed: int, position: int = 0) -> None:
        self.problems = problems
        self.seed = seed
        self.position = position
        self._epoch, self._order = -1, list[int]()

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems; a pass ends before any problem comes again."""
        taken = []
        for position in range(self.position, self.position + count):
            epoch, index = divmod(position, len(self.problems))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, list(range(len(self.problems)))
                random.Random(f"order/{self.seed}/{epoch}").shuffle(self._order)
            taken.append(self.problems[self._order[index]])
        self.position += count
        return taken
