"""Trace where a run's weights come from, and write the commands that rebuild runs elsewhere.

The lines run in an empty folder and name no place of the machine that made the runs: all
directories are relative to the folder that the runs have in common. The line of a reproduction or a
sweep makes all of its runs; the lines of these, in order, make them one by one.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from passk.config.commands import ReproduceConfig
from passk.config.words import as_value, one_line, without_quotes
from passk.data.sources import is_file_name
from passk.errors import UserError
from passk.files import read_file, read_manifest, read_overrides
from passk.runs.baselines import origin_of
from passk.runs.labels import in_order
from passk.runs.ledger import FOLDER, read_ledger
from passk.runs.reader import RunRecord, load_run

_PLACES = ("model.path", "data.path", "data.eval_path", "train.init_from")
_NOT_SHOWN = ("resume=", "hydra.", "tracker")  # trackers belong to the user who ran it


@dataclass(frozen=True, slots=True)
class Lineage:
    """The runs that led to a model, first one first, and the model that the first one started from.

    `model` is None if the first known run started from a checkpoint that is not on this machine.
    """

    runs: tuple[RunRecord, ...]
    model: str | None

    @property
    def model_name(self) -> str:
        """Short name of the starting model, or else of the run that came before."""
        start = self.model or str(_run_folder(Path(self.runs[0].setting("train.init_from"))))
        return shown_name(start).rpartition("/")[2]


def lineage(record: RunRecord) -> Lineage:
    """Follow `train.init_from` back as far as the runs are still where they were."""
    runs = [record]
    while start := runs[0].setting("train.init_from"):
        earlier = _run_of(Path(start).expanduser())
        if earlier is None or earlier.path in {run.path for run in runs}:
            return Lineage(tuple(runs), None)
        runs.insert(0, earlier)
    return Lineage(tuple(runs), str(runs[0].setting("model.path", "tiny")))


def _run_of(start: Path) -> RunRecord | None:
    try:
        return load_run(_run_folder(start))
    except UserError:
        return None


def _run_folder(start: Path) -> Path:
    """Return the folder of the run that `start` is, or of which `start` is a checkpoint."""
    return start.parent.parent if start.parent.name == "checkpoints" else start


def hub_id(path: str | None, kind: str = "model") -> str | None:
    """Return `path` if it is a hub repository, as this machine's cache of the hub shows; else None.

    Its form alone is not enough: a folder that no longer exists could look like a hub id. `kind` is
    `model` or `dataset`.
    """
    if path is None or not _is_hub_form(path):
        return None
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type=kind)
    return path if cached.is_dir() else None


def _is_hub_form(path: str) -> bool:
    is_form = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None
    return is_form and not is_file_name(path) and not Path(path).exists()


def shown_name(path: str) -> str:
    """Return a model, data set or run without paths of this machine: folders by name only."""
    folder = Path(path)
    if _is_hub_form(path):
        return path
    if folder.parent.name == "checkpoints":
        return "/".join(folder.parts[-3:])
    return folder.absolute().name


def command_line(record: RunRecord, *, named: bool = False) -> str:
    """Return the command that made the run, without local paths; `named` adds its directory."""
    words = []
    for word in record.overrides:
        key, _, value = word.partition("=")
        plain = key.lstrip("+~")
        if word.lstrip("+~").startswith(_NOT_SHOWN):
            continue
        if plain in _PLACES and record.setting(plain):
            word = f"{key}={as_value(shown_name(record.setting(plain)))}"
        else:
            word = f"{key}={_without_places(value)}" if value else word
        words.append(word)
    if named:
        words.append(f"hydra.run.dir={as_value(record.path.name)}")
    return one_line(["passk", "train", *words])


def _without_places(value: str) -> str:
    """Shorten the path that an override's value is, or the paths in its list, to last names."""
    if value.startswith("[") and value.endswith("]"):
        items = [_without_places(item.strip()) for item in value[1:-1].split(",")]
        return f"[{','.join(items)}]" if any(map(_is_place, value[1:-1].split(","))) else value
    return as_value(Path(without_quotes(value)).name) if _is_place(value) else value


def _is_place(value: str) -> bool:
    """Return True for an absolute path, but not for a word of a prompt such as /think."""
    bare = without_quotes(value.strip())
    path = Path(bare)
    return bare.startswith("~/") or (path.is_absolute() and len(path.parts) > 2)


_NOT_REBUILT = ("resume=", "hydra.run.", "hydra.sweep.dir=")
_MAY_NAME_RUNS = ("train.init_from", "model.path")
_GROWING = ("seeds", "regimes")  # keys that a resumed reproduction may extend
_DEEPEST_CELL = 3  # levels of folders between a sweep and a cell


@dataclass(frozen=True, slots=True)
class Line:
    """A command and the directory it makes; without a record, one that makes many runs."""

    directory: str
    command: str
    manifest: Mapping[str, Any] = field(default_factory=dict)
    record: RunRecord | None = None


class Places:
    """Names of the directories of a report: paths relative to the folder that holds all runs."""

    def __init__(self, records: Sequence[RunRecord]) -> None:
        self._runs = {record.path for record in records}
        self._root = Path(os.path.commonpath([outermost(record).parent for record in records]))

    def name(self, folder: Path) -> str:
        """Return the path of a directory relative to the root."""
        return folder.relative_to(self._root).as_posix()

    def as_shown(self, text: str) -> str:
        """Return an absolute path below the root as a relative one; leave other text unchanged."""
        path = Path(text)
        is_below = path.is_absolute() and len(self._root.parts) > 1 and self._root in path.parents
        return self.name(path) if is_below else text

    def words(self, overrides: Sequence[str], seed_dir: Path | None = None) -> list[str]:
        """Drop `resume` and overrides that name output directories, and rename paths in the others.

        `seed_dir` is that of a run in a reproduction, which may have been moved as a whole.
        """
        return [self._word(w, seed_dir) for w in overrides if not w.startswith(_NOT_REBUILT)]

    def _word(self, word: str, seed_dir: Path | None) -> str:
        key, _, value = word.partition("=")
        is_quoted = value[:1] in ("'", '"')
        parts = [without_quotes(value)] if is_quoted else value.split(",")  # several in a sweep
        names_runs = key.lstrip("+") in _MAY_NAME_RUNS
        runs = [self._run_at(part, seed_dir) if names_runs else None for part in parts]
        shown = [run or self.as_shown(part) for run, part in zip(runs, parts, strict=True)]
        return word if shown == parts else f"{key}={','.join(map(as_value, shown))}"

    def _run_at(self, text: str, seed_dir: Path | None) -> str | None:
        """Return the name of the known run, or of its checkpoint, at a path; else None."""
        path = Path(text).expanduser()
        is_step = path.parent.name == "checkpoints"
        folder = path.parent.parent if is_step else path
        beside = () if seed_dir is None else (seed_dir / folder.name,)
        moved = [run for run in beside if run.parts[-2:] == folder.parts[-2:]]
        if not folder.is_absolute():  # it may have been typed in another folder
            moved += [run for run in self._runs if run.parts[-len(folder.parts) :] == folder.parts]
        for run in (folder.resolve(), *moved):
            if run in self._runs:
                return self.name(run / "checkpoints" / path.name if is_step else run)
        return None


def rebuilding_lines(records: Sequence[RunRecord]) -> list[Line]:
    """List the commands that rebuild the runs, SFT first, each run after the one it starts from."""
    places = Places(records)
    runs = [record for _, record in in_order(records)]
    runs.sort(key=lambda record: _generation(record, records))
    chains = {record.path: [*_wholes(record), record.path] for record in runs}
    first: dict[Path, int] = {}
    for place, record in enumerate(runs):
        for folder in chains[record.path]:
            first.setdefault(folder, place)
    lines: dict[Path, list[Line]] = {}
    for record in sorted(runs, key=lambda run: [first[folder] for folder in chains[run.path]]):
        for folder in chains[record.path][:-1]:
            if folder not in lines:
                lines[folder] = _lines_of_whole(folder, places)
        lines[record.path] = [_line_of_run(record, places)]
    return [line for made in lines.values() for line in made]


def _wholes(record: RunRecord) -> list[Path]:
    """Return the directories of the sweep and of the reproduction that a run belongs to, if any."""
    sweeps = record.top.parents[:_DEEPEST_CELL]
    sweep = next((folder for folder in sweeps if (folder / FOLDER).is_dir()), None)
    command = read_manifest(record.top).get("command") if record.seed_dir is not None else None
    reproduction = record.top if command == "reproduce" else None
    return [folder for folder in (sweep, reproduction) if folder is not None]


def outermost(record: RunRecord) -> Path:
    """Return the directory made by the command of a run: its sweep, reproduction, or its own."""
    return [*_wholes(record), record.top][0]


def _generation(record: RunRecord, records: Sequence[RunRecord]) -> int:
    """Count the runs that came before this one, each started from the one before."""
    seen: list[Path] = []
    run: RunRecord | None = record
    while run is not None and run.path not in seen:
        seen.append(run.path)
        run = origin_of(run, records)
    return len(seen) - 1


def _line_of_run(record: RunRecord, places: Places) -> Line:
    directory = places.name(record.path)
    command = str(record.manifest.get("command") or "train")
    words = places.words(record.overrides, record.seed_dir)
    shown = one_line(["passk", command, *words, f"hydra.run.dir={as_value(directory)}"])
    return Line(directory, shown, record.manifest, record)


def _lines_of_whole(folder: Path, places: Places) -> list[Line]:
    """Return the line of a reproduction, or all lines that added cells to a sweep."""
    directory = places.name(folder)
    if (folder / FOLDER).is_dir():
        typed = dict.fromkeys(cell.line for cell in read_ledger(folder) if cell.line)
        where = f"hydra.sweep.dir={as_value(directory)}"
        lines = [[*line[:2], *places.words(line[2:]), where] for line in map(shlex.split, typed)]
        return [Line(directory, one_line(words)) for words in lines]
    words = places.words(_with_growth(read_overrides(folder), folder / "config.yaml"))
    shown = one_line(["passk", "reproduce", *words, f"hydra.run.dir={as_value(directory)}"])
    return [Line(directory, shown, read_manifest(folder))]


def _with_growth(overrides: Sequence[str], config: Path) -> list[str]:
    """Return a reproduction's overrides with the seeds and regimes that it ended with."""
    now = read_file(lambda f: yaml.safe_load(f.read_text()), config, default={}) or {}
    words, begun = list(overrides), ReproduceConfig()
    for key in _GROWING:
        typed = [word for word in words if word.startswith(f"{key}=")]
        before = yaml.safe_load(typed[-1].partition("=")[2]) if typed else getattr(begun, key)
        if (after := now.get(key, before)) != before:
            value = f"[{','.join(after)}]" if isinstance(after, list) else after
            words = [*(word for word in words if word not in typed), f"{key}={value}"]
    return words
