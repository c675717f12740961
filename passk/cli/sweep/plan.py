"""Plan and run `-m`, a sweep that the same line resumes.

Hydra composes the line and each of its cells. The ledger keeps their states: finished cells are
left alone, interrupted ones resumed, failed ones tried again.
"""

import hashlib
import os
import shlex
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from passk.cli.sweep.runner import Crew, HowToRun
from passk.cli.sweep.slurm import cluster, run_as_jobs
from passk.cli.sweep.status import close, reporting, say_what_is_left
from passk.config.compose import initialized
from passk.config.schema import SweepConfig
from passk.config.words import in_quotes
from passk.errors import UserError
from passk.files import only_writer
from passk.runs.ledger import FOLDER, Cell, as_name, below_the_sweep, free_name, is_locked, plan

_OWN_NAME = "."  # value of hydra.sweep.subdir that lets us name the cells
# Sweep execution. Not forwarded to cells.
_NOT_THE_CELLS = ("sweep.", "resume=")
_NOT_THE_RUNS = (
    "hydra.run.",
    "hydra.sweep.",
    "hydra.sweeper.",
    "hydra.launcher.",
    "hydra/",
    "hydra.mode=",
)


@dataclass(frozen=True)
class _Line:
    """A typed line: its overrides, the absolute path of `--config-dir`, and flags of no sweep."""

    command: str
    overrides: Sequence[Override]
    folder: str | None
    flags: Sequence[str]

    @classmethod
    def read(cls, command: str, words: Sequence[str]) -> "_Line":
        """Parse the words of a line. Raises UserError and HydraException."""
        parser = _Flags(add_help=False)
        parser.add_argument("overrides", nargs="*")
        parser.add_argument("-m", action="store_true")
        parser.add_argument("--config-dir", "-cd")
        parser.add_argument("--cfg", "-c")
        typed, flags = parser.parse_known_intermixed_args(words)
        if typed.config_dir is not None and not Path(typed.config_dir).is_dir():
            raise UserError(f"--config-dir={typed.config_dir} is not a directory")
        folder = typed.config_dir and os.path.abspath(typed.config_dir)
        overrides = OverridesParser.create().parse_overrides(typed.overrides)
        for word, override in zip(typed.overrides, overrides, strict=True):
            if _is_of(word, ("hydra.sweeper.",)):
                raise UserError(
                    f"{word} cannot be typed; write what is swept as key=value,value, and how "
                    "many cells run at a time as docs/guide/sweeps.md says"
                )
            if override.is_hydra_override() and override.is_sweep_override():
                raise UserError(
                    f"{word} sweeps over a key of Hydra; only keys of passk can be swept"
                )
        return cls(command, overrides, folder, ["--cfg", *flags] if typed.cfg else flags)

    def directory(self) -> list[str]:
        """Return the word that makes equal lines use one directory, unless one was typed."""
        typed = sorted(((str(o.input_line), o) for o in self.overrides), key=lambda pair: pair[0])
        if any(_is_of(word, ("hydra.sweep.dir=",)) for word, _ in typed):
            return []
        task = [pair for pair in typed if not _is_of(pair[0], _NOT_THE_CELLS + _NOT_THE_RUNS)]
        telling = [self.command, *(word for word, _ in task), *filter(None, [self.folder])]
        digest = hashlib.sha256("\n".join(telling).encode()).hexdigest()[:8]
        swept = [override.get_key_element() for _, override in task if override.is_sweep_override()]
        keys = "-".join(key.rpartition(".")[2].lstrip("+") for key in swept)
        name = "-".join(filter(None, ["sweep", keys[:60], digest]))
        return [f"hydra.sweep.dir=outputs/{self.command}/{name}"]

    def words(self, *, of_hydra: bool) -> list[str]:
        """Return the overrides of Hydra's own keys, or those of ours, as they were typed."""
        return [str(o.input_line) for o in self.overrides if o.is_hydra_override() is of_hydra]

    def compose(self, words: Sequence[str]) -> DictConfig:
        """Compose words as a line of this command, with the same folders; Hydra is initialised."""
        return compose(self.command, [*self._search_path(), *words], return_hydra_config=True)

    def parse(self, words: Sequence[str]) -> list[Override]:
        """Parse overrides whose `glob()` finds the options in these folders."""
        options = GlobalHydra.instance().config_loader().get_group_options
        loader: Any = SimpleNamespace(
            get_group_options=partial(options, overrides=self._search_path())
        )
        return OverridesParser.create(config_loader=loader).parse_overrides(list(words))

    def _search_path(self) -> list[str]:
        """Return the override that adds `--config-dir`, before folders typed in such a one."""
        if self.folder is None:
            return []
        typed = [o.value() for o in self.overrides if o.key_or_group == "hydra.searchpath"]
        others = [path for paths in typed if isinstance(paths, list) for path in paths]
        paths = ",".join(in_quotes(str(path)) for path in (f"file://{self.folder}", *others))
        return [f"hydra.searchpath=[{paths}]"]


class _Flags(ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(message)


def asks_for_sweep(command: str, words: Sequence[str]) -> bool:
    """Return True if a line is for a sweep: by `-m`, or by a file in a typed folder."""
    if "-m" in words:
        return True
    if not any(word.startswith(("--conf", "-cd")) for word in words):
        return False  # our own files never ask for a sweep
    line = _Line.read(command, words)
    with initialized():
        return not line.flags and _composed(line).hydra.mode == RunMode.MULTIRUN


def run_sweep(command: str, words: Sequence[str]) -> int:
    """Run what is left of the sweep that `passk COMMAND WORDS` asks for; returns the exit code.

    Raises UserError, HydraException or OmegaConfBaseException for a line that is refused as a
    whole, before anything is written.
    """
    line = _Line.read(command, [word for word in words if word != "resume=true"])
    if line.flags:
        raise UserError(f"{line.flags[0]} is no option of a sweep")
    with initialized():
        sweep = _composed(line)
        settings, sweep_dir = _settings(sweep), Path(sweep.hydra.sweep.dir)
        jobs_of = cluster(sweep.hydra, settings)
        wanted = _cells(line, sweep, shlex.join(["passk", command, *words]))
    flags = [word for word in line.words(of_hydra=True) if not _is_of(word, _NOT_THE_RUNS)]
    how = HowToRun(sweep_dir, settings.retries, settings.num_parallel, flags)
    with only_writer(sweep_dir / FOLDER):
        cells = plan(sweep_dir, wanted)
        todo = [cell for cell in cells if not cell.is_finished]
        if jobs_of is not None:  # leave cells that earlier jobs still run
            todo = [cell for cell in todo if not is_locked(sweep_dir, cell)]
        say_what_is_left(sweep_dir, cells, todo, are_jobs=jobs_of is not None)
        with reporting(sweep_dir, cells):
            if jobs_of is None:
                was_stopped = Crew(how).run(todo)
            else:
                was_stopped = run_as_jobs(sweep.hydra.launcher, jobs_of, how, todo)
        return close(sweep_dir, cells, was_stopped)


def _composed(line: _Line) -> DictConfig:
    """Compose what all cells share: the line without its swept words.

    Raises UserError for a sweeper that does not know its cells beforehand.
    """
    fixed = [str(o.input_line) for o in line.overrides if not o.is_sweep_override()]
    sweep = line.compose([*fixed, *line.directory()])
    if not sweep.hydra.sweeper._target_.endswith(".BasicSweeper"):
        raise UserError(
            f"hydra/sweeper={sweep.hydra.runtime.choices['hydra/sweeper']} chooses cells as it "
            "goes, and a sweep of passk knows all of them beforehand; allowed: basic"
        )
    return sweep


def _cells(line: _Line, sweep: DictConfig, typed: str) -> list[Cell]:
    """Return the requested cells, each composed once so that a bad line is refused as a whole."""
    in_files = [f"{key}={values}" for key, values in (sweep.hydra.sweeper.params or {}).items()]
    overrides = line.parse([*in_files, *line.words(of_hydra=False)])
    swept = {override.get_key_element() for override in overrides if override.is_sweep_override()}
    of_hydra = [*line.words(of_hydra=True), *line.directory()]
    cells: dict[str, Cell] = {}
    for number, words in enumerate(combinations(overrides)):
        config = line.compose([*of_hydra, *words])
        OmegaConf.copy_cache(from_config=sweep, to_config=config)  # one ${now:} for all
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        subdir = str(config.hydra.sweep.subdir)
        is_ours = subdir == _OWN_NAME
        name = free_name(_cell_name(words, swept) if is_ours else as_name(subdir), cells)
        run_dir = name if is_ours else below_the_sweep(subdir)
        folder = [f"--config-dir={line.folder}"] if line.folder else []
        own = (*folder, *(word for word in words if not _is_of(word, _NOT_THE_CELLS)))
        cells[name] = Cell(name, number, line.command, own, run_dir, line=typed)
    return list(cells.values())


def combinations(overrides: Sequence[Override]) -> list[tuple[str, ...]]:
    """Return the words of each cell: all combinations of swept values, the last key fastest.

    A key that occurs again keeps its place and takes its last values, as in Hydra's own sweeps.
    """
    words: dict[str, list[str]] = {}
    for override in overrides:
        if override.is_sweep_override():
            values = list(override.sweep_string_iterator())
        else:
            values = [override.get_value_element_as_str()]
        key = override.get_key_element()
        words[key] = [f"{key}={value}" for value in values]
    return list(product(*words.values()))


def _settings(sweep: DictConfig) -> SweepConfig:
    """Return `sweep.*`, or its defaults for commands without such keys."""
    chosen = OmegaConf.select(sweep, "sweep")
    settings = SweepConfig() if chosen is None else SweepConfig(**chosen)
    for name, least in (("num_parallel", 1), ("retries", 0)):
        if (value := getattr(settings, name)) < least:
            raise UserError(f"sweep.{name}={value} is too small; at least {least} is needed")
    return settings


def _is_of(word: str, starts: tuple[str, ...]) -> bool:
    """Return True if an override begins in one of these ways, with or without a leading +."""
    return word.lstrip("+").startswith(starts)


def _cell_name(words: Sequence[str], swept: set[str]) -> str:
    """Name a cell by what sets it apart from the others."""
    telling = [word for word in words if word.partition("=")[0] in swept]
    return as_name(",".join(word.lstrip("+") for word in telling) or "cell")
