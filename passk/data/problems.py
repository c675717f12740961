"""Read, order and write training problems, held-out problems and worked solutions."""

import hashlib
import json
import random
import re
import reprlib
import sys
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from passk.config.schema import ConventionsConfig, DataConfig, EvalConfig, TableConfig
from passk.console import working
from passk.data.conventions import Mix, make_problems
from passk.data.sources import Row, is_file_name, is_local, read_rows, refuse_missing
from passk.errors import UserError
from passk.files import replacing
from passk.text import MOST_DIGITS, plain_number
from passk.types import GROUPINGS, Problem
from passk.verifiers.math.reader import reads_as
from passk.verifiers.math.text import last_box

if TYPE_CHECKING:  # imported with the first table: reading problems does not wait for it
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Data:
    """Training and held-out side of a data set, which have no prompt in common.

    `corpus` holds problems with worked solutions, for SFT; they may also be in `train`. `shots` are
    worked problems to show before each prompt. `notes` are lines for the user, such as on problems
    that were left out.
    """

    train: tuple[Problem, ...]
    heldout: tuple[Problem, ...]
    corpus: tuple[Problem, ...]
    shots: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def digests(self) -> dict[str, str]:
        """Short hash of the held-out side and, if there is one, of the training side."""
        sides = {"heldout": (self.heldout, self.shots)}
        if self.train or self.corpus:
            sides["training"] = (self.train, self.corpus)
        return {f"{name}_sha256": digest(side) for name, side in sides.items()}


def digest(side: Sequence[Sequence[Problem]]) -> str:
    """Return a short hash of lists of problems, with all their fields."""
    # Not `astuple`, which copies every value and so took as long as loading the model.
    values = attrgetter(*(field.name for field in fields(Problem)))
    text = json.dumps([[values(problem) for problem in problems] for problems in side])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_data(cfg: DataConfig, eval_cfg: EvalConfig, *, needs_training: bool = True) -> Data:
    """Generate or read the problems of `data`, with `eval.num_problems` held-out ones.

    Training problems that are also on the held-out side are left out, whether or not they are
    evaluated. Held-out problems that are read come in an order drawn from `eval.seed` (data sets
    are sorted by subject), so a smaller number of them is the beginning of a larger one. Without
    `needs_training` the training side is read only if shots are taken from it.
    """
    reads_training = needs_training or cfg.prompt.num_shots > 0
    if isinstance(cfg, ConventionsConfig):
        data = _generate(cfg, eval_cfg.num_problems, reads_training)
        is_apart = cfg.path is None and cfg.eval_path is None  # the task splits its expressions
    else:
        assert isinstance(cfg, TableConfig)
        data = _read(cfg, reads_training)
        is_apart = False
    if not is_apart:
        data = _without_heldout(data)
    data = _with_shots(data, cfg)
    if not needs_training:
        data = replace(data, train=(), corpus=())
    elif not data.train:
        raise UserError(
            f"no problem of data.path={cfg.path} is left to train on: all are held out or shots"
        )
    heldout = data.heldout
    if isinstance(cfg, TableConfig):
        heldout = _shuffled(heldout, f"heldout/{eval_cfg.seed}")
    return replace(data, heldout=heldout[: eval_cfg.num_problems])


def read_trusted(path: str, key: str, cfg: DataConfig, data: Data) -> tuple[Problem, ...]:
    """Read trusted problems, in the columns of the training problems.

    Raises UserError for one that is held out, as what chooses training data must not measure the
    result, and for one that is trained on, as its gradient would meet itself.
    """
    refuse_missing(path, key)
    problems, _ = read_problems(path, key, cfg if isinstance(cfg, TableConfig) else None)
    for what, side in (("held out", data.heldout), ("a training problem", data.train)):
        known = {normalised(problem.prompt): problem.id for problem in side}
        for problem in problems:
            if other := known.get(normalised(problem.prompt)):
                raise UserError(
                    f"{key}={path}: {problem.id} is {what}, too ({other}); trusted problems must "
                    "be neither"
                )
    return problems


def check_files(cfg: DataConfig, eval_cfg: EvalConfig, *, needs_training: bool) -> None:
    """Read the files and folders of `data`, so that bad ones are refused at once.

    Do nothing if none is named, or if one is a data set on the hub: that takes longer to load than
    torch.
    """
    named = [source for source in (cfg.path, cfg.eval_path) if source]
    if named and all(map(is_local, named)):
        load_data(cfg, eval_cfg, needs_training=needs_training)


def _generate(cfg: ConventionsConfig, num_heldout: int, needs_training: bool) -> Data:
    mix = Mix(cfg.calculator_fraction, cfg.skill_fraction, cfg.cue)
    mix_of_corpus = Mix(cfg.corpus_calculator_fraction, cfg.corpus_skill_fraction, cfg.corpus_cue)
    notes: list[str] = []

    def side(split: str, count: int, key: str, path: str | None) -> tuple[Problem, ...]:
        if not path:
            duplicates = split == "train" and cfg.duplicates
            drawn = make_problems(count, mix, split=split, seed=cfg.seed, duplicates=duplicates)
            return tuple(drawn)
        problems, left_out = read_problems(path, key)
        notes.extend(left_out)
        return problems

    heldout = side("heldout", num_heldout, "data.eval_path", cfg.eval_path)
    if not needs_training:
        return Data((), heldout, (), notes=tuple(notes))
    train = side("train", cfg.num_train, "data.path", cfg.path)
    corpus = make_problems(
        cfg.num_corpus, mix_of_corpus, split="corpus", seed=cfg.seed, duplicates=True
    )
    return Data(train, heldout, tuple(corpus), notes=tuple(notes))


def _read(cfg: TableConfig, needs_training: bool) -> Data:
    for key in ("path", "eval_path"):
        if named := getattr(cfg, key):
            refuse_missing(named, f"data.{key}")
    is_complete = cfg.eval_path or (cfg.path and not is_file_name(cfg.path))
    if not is_complete or (needs_training and not cfg.path):
        raise UserError(
            f"data={cfg.name} needs data.path (a file of training problems, or a folder or hub "
            "data set with both splits) and data.eval_path (held out) where data.path is a file "
            "or null; passk eval needs only held-out problems"
        )
    train: tuple[Problem, ...] = ()
    notes: list[str] = []
    if needs_training and cfg.path:
        train, notes = read_problems(cfg.path, "data.path", cfg, cfg.train_split)
    key = "data.eval_path" if cfg.eval_path else "data.path"
    heldout, more = read_problems(cfg.eval_path or cfg.path or "", key, cfg, cfg.eval_split)
    return Data(train, heldout, tuple(p for p in train if p.solution), notes=(*notes, *more))


def _without(data: Data, prompts: Collection[str]) -> tuple[Data, list[Problem]]:
    """Leave training problems with these normalised prompts out; return them too."""
    dropped = dict.fromkeys(
        problem for problem in (*data.train, *data.corpus) if normalised(problem.prompt) in prompts
    )
    train, corpus = (
        tuple(problem for problem in side if problem not in dropped)
        for side in (data.train, data.corpus)
    )
    return replace(data, train=train, corpus=corpus), list(dropped)


def _without_heldout(data: Data) -> Data:
    """Leave out training problems whose normalised prompt is on the held-out side."""
    heldout = {normalised(problem.prompt): problem.id for problem in data.heldout}
    data, dropped = _without(data, heldout)
    if not dropped:
        return data
    first = dropped[0]
    note = (
        "data: problems left out of training because they are held out too: "
        f"{len(dropped)} ({first.id} is {heldout[normalised(first.prompt)]}"
        f"{', ...' if len(dropped) > 1 else ''})"
    )
    return replace(data, notes=(*data.notes, note))


def _with_shots(data: Data, cfg: DataConfig) -> Data:
    """Move `num_shots` worked problems, drawn by seed, from the training side to the shots."""
    count = cfg.prompt.num_shots
    if count == 0:
        return data
    if count > len(data.corpus):
        raise UserError(
            f"data.prompt.num_shots={count}, but only {len(data.corpus)} training problems have "
            "a worked solution"
        )
    shots = _shuffled(data.corpus, f"shots/{cfg.seed}")[:count]
    rest, _ = _without(data, {normalised(problem.prompt) for problem in shots})
    return replace(rest, shots=shots)


def _shuffled(problems: Iterable[Problem], seed: str) -> tuple[Problem, ...]:
    order = list(problems)
    random.Random(seed).shuffle(order)
    return tuple(order)


def normalised(prompt: str) -> str:
    """Return a prompt without differences of letter form, case and white space."""
    return " ".join(unicodedata.normalize("NFKC", prompt).casefold().split())


_FIELDS = ("prompt", "answer", "id", "kind", "solution", "level", "type", "weight")
_NEEDED = ("prompt", "answer")
_NAMES = ("id", "kind", "level", "type")  # whole numbers are names too
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,9})?", re.ASCII)
_ALLOWED = {
    "prompt": "a non-empty string",
    "answer": f"text or a finite number (of at most {MOST_DIGITS} digits)",
    "id": "a non-empty string or a whole number",
    "solution": "text",
    **dict.fromkeys(("kind", "level", "type"), "text or a whole number"),
    "weight": "a finite number of 0 or more",
}


class _Shortened(reprlib.Repr):
    """Representation of values in messages, shortened whatever they hold."""

    def repr_Decimal(self, value: Decimal, level: int) -> str:  # named by its type
        return f"{value:.12g}" if value.is_finite() else str(value)


_shortened = _Shortened()
_shortened.maxstring = _shortened.maxother = 60


def read_problems(
    source: str, key: str, cfg: TableConfig | None = None, split: str = "train"
) -> tuple[tuple[Problem, ...], list[str]]:
    """Read problems and notes from a file, folder or hub data set, by the columns of `cfg`.

    Rows whose answer field holds no answer are left out and named in the notes. Raises UserError
    naming `key` or the file and row if a row lacks a needed field, has a bad one or repeats an id,
    and if no row is left.
    """
    cfg = cfg or TableConfig()
    columns = {name: getattr(cfg, f"{name}_column") for name in _FIELDS}
    with working(f"reading {key}={source}"):
        rows = read_rows(source, key, split=split, subset=cfg.subset, columns=columns.values())
    problems, seen = [], dict[str, str]()
    without_answer: list[str] = []
    rewritten: list[str] = []
    for row in rows:
        problem = _problem(row, columns, cfg)
        if not problem.answer:
            without_answer.append(row.place)
            continue
        if problem.id in seen:
            raise UserError(
                f"{row.place}: id {problem.id!r} is used already in {seen[problem.id]}; "
                "ids must differ"
            )
        seen[problem.id] = row.place
        problems.append(problem)
        written = row.fields[cfg.answer_column]
        if isinstance(written, Decimal) and str(written) != problem.answer:
            rewritten.append(f"{problem.id}: {str(written)[:40]} is {problem.answer[:40]}")
    if not problems:
        raise UserError(
            f"{key}={source}: no row has an answer in the field {cfg.answer_column!r} "
            f"(data.gold_in={cfg.gold_in})"
        )
    notes = [
        ("rows left out because they hold no answer", without_answer),
        ("answers that are numbers, written as people do", rewritten),
        ("problems that stand here again with another answer", _contradictions(problems)),
        ("problems with weight 0, which train nothing", [p.id for p in problems if not p.weight]),
        ("problems with a weight other than 1", [p.id for p in problems if p.weight not in (0, 1)]),
    ]
    return tuple(problems), [
        f"data: {what}: {len(names)} ({'; '.join(names[:3])}{'; ...' if len(names) > 3 else ''})"
        for what, names in notes
        if names
    ]


def _contradictions(problems: Sequence[Problem]) -> list[str]:
    """Name the problems that repeat the prompt of an earlier one with another answer."""
    first: dict[str, Problem] = {}
    return [
        f"{problem.id} as {earlier.id}"
        for problem in problems
        if (earlier := first.setdefault(normalised(problem.prompt), problem)).answer
        != problem.answer
    ]


def _problem(row: Row, columns: dict[str, str | None], cfg: TableConfig) -> Problem:
    """Convert a row to a problem; its answer is empty if the row's answer field holds none."""
    texts, weight = {"id": row.default_id}, 1.0
    for name, column in columns.items():
        value = None if column is None else row.fields.get(column)
        if value is None:
            if name in _NEEDED:
                there = f"; it has: {_shortened.repr(sorted(row.fields))}" if row.fields else ""
                raise UserError(
                    f"{row.place}: the field {column!r} is missing (data.{name}_column){there}"
                )
            continue
        read = _weight(value) if name == "weight" else _text(value, name)
        if read is None:
            raise UserError(
                f"{row.place}: {column!r} must be {_ALLOWED[name]}, found {_shortened.repr(value)}"
            )
        if isinstance(read, float):
            weight = read
            continue
        if fault := _unwritable(read, name):
            raise UserError(f"{row.place}: {column!r} holds {fault}: {_shortened.repr(read)}")
        texts[name] = read
    texts["answer"] = find_gold(texts["answer"], cfg.gold_in) or ""
    if cfg.strip_calculations and "solution" in texts:
        texts["solution"] = without_calculations(texts["solution"])
    return Problem(**texts, weight=weight)


def _text(value: object, name: str) -> str | None:
    """Return the text of a field; None if its value is not allowed."""
    if _is_number(value) and (name == "answer" or (name in _NAMES and _is_whole(value))):
        return plain_number(value)
    if not isinstance(value, str) or (name in ("prompt", "id") and not value.strip()):
        return None
    return value


def _weight(value: object) -> float | None:
    """Parse a weight, which is text in CSV; a blank cell is 1. Return None if it is not valid."""
    if isinstance(value, str):
        if not value.strip():
            return 1.0
        value = Decimal(value.strip()) if _NUMBER.fullmatch(value.strip()) else None
    if not _is_number(value) or not 0 <= value <= sys.float_info.max:
        return None
    return float(value)


def _unwritable(text: str, name: str) -> str:
    """Describe text that cannot be written: half a character, or NUL in a name; empty if fine.

    No file or tokenizer takes half a character. Figures show names, and cannot show NUL.
    """
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "half of a surrogate pair, which is no character"
    return "a NUL character" if name in _NAMES and "\0" in text else ""


def _is_whole(number: int | Decimal) -> bool:
    return isinstance(number, int) or number == number.to_integral_value()


def _is_number(value: object) -> TypeGuard[int | Decimal]:
    if isinstance(value, Decimal):
        return value.is_finite()
    return isinstance(value, int) and not isinstance(value, bool)


_CALCULATION = re.compile(r"<<[^<>\n]*=[^<>\n]*>>")


def find_gold(text: str, gold_in: str) -> str | None:
    """Find the answer in `text`; return None if there is none.

    `gold_in` is `whole` (all of it), `after_hash` (the text after the last ####) or `in_box` (found
    as in a completion, see `passk.verifiers.math.text.last_box`).

    Example:
        find_gold("48/2 = 24, 48+24 = 72\\n#### 72", "after_hash")  # "72"
    """
    if gold_in == "whole":
        return text if text.strip() else None
    if gold_in == "after_hash":
        _, mark, answer = text.rpartition("####")
        return (answer.strip() or None) if mark else None
    return last_box(text, reads_as)


def without_calculations(solution: str) -> str:
    """Remove GSM8K's calculator annotations (`<<48/2=24>>`) from a worked solution."""
    return _CALCULATION.sub("", solution)


_WRAPPED = {"whole": "{}", "after_hash": "#### {}", "in_box": "\\boxed{{{}}}"}


def problem_table(splits: Mapping[str, Sequence[Problem]]) -> "pd.DataFrame":
    """Tabulate problems, one per row: problem_id, split, groupings in use, prompt, answer.

    The prompt is the problem's text, without templates and shots.
    """
    import pandas as pd

    named = [(split, problem) for split, problems in splits.items() for problem in problems]
    groupings = [name for name in GROUPINGS if any(getattr(p, name) for _, p in named)]
    columns = {"problem_id": [p.id for _, p in named], "split": [split for split, _ in named]}
    for name in (*groupings, "prompt", "answer"):
        columns[name] = [getattr(p, name) for _, p in named]
    return pd.DataFrame(columns, dtype=object)


def write_problems(path: Path, problems: Sequence[Problem], cfg: DataConfig) -> None:
    """Write one problem per line, in the columns that this configuration reads `data.path` by."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as file:
        for problem in problems:
            print(json.dumps(_row(problem, cfg), ensure_ascii=False), file=file)


def _row(problem: Problem, cfg: DataConfig) -> dict[str, Any]:
    """Return the fields of a problem under the names that they are read by."""
    table = cfg if isinstance(cfg, TableConfig) else TableConfig()
    row: dict[str, Any] = {}
    for name in ("id", "prompt", "kind", "solution", "level", "type"):
        # A field without a column in the data set is written under our own name: nothing is lost.
        if value := getattr(problem, name):
            row[getattr(table, f"{name}_column") or name] = value
    if problem.weight != 1:
        row[table.weight_column or "weight"] = problem.weight
    # The answer may share its column with the worked solution, which may hold it already.
    solution = row.get(table.answer_column)
    if solution is None or find_gold(solution, table.gold_in) != problem.answer:
        row[table.answer_column] = _WRAPPED[table.gold_in].format(problem.answer)
    return row


class ProblemStream:
    """Endless passes over problems, each in a new seeded order; `position` is its only state."""

    def __init__(self, problems: Sequence[Problem], seed: int, position: int = 0) -> None:
        self.problems = problems
        self.seed = seed
        self.position = position
        self._epoch, self._order = -1, list[int]()

    def take(self, count: int) -> list[Problem]:
        """Return the next `count` problems; each pass holds every problem once."""
        taken = []
        for position in range(self.position, self.position + count):
            epoch, index = divmod(position, len(self.problems))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, list(range(len(self.problems)))
                random.Random(f"order/{self.seed}/{epoch}").shuffle(self._order)
            taken.append(self.problems[self._order[index]])
        self.position += count
        return taken
