"""Run `-m`, a sweep that can be resumed: Hydra makes the cells, the launcher runs them.

The ledger keeps their states, so the same line again resumes the sweep: finished cells are left
alone, interrupted ones resumed, failed ones tried again.
"""

import hashlib
import os
import shlex
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from passk.cli.sweep.runner import Crew
from passk.cli.sweep.slurm import from_submitit
from passk.cli.sweep.status import close, reporting, say_what_is_left
from passk.config.registry import conf_dir
from passk.config.schema import SweepConfig
from passk.console import say
from passk.errors import UserError
from passk.files import only_writer
from passk.runs.ledger import (
    FOLDER,
    INTERRUPTED,
    Cell,
    as_name,
    below_the_sweep,
    find,
    free_name,
    identity,
    is_locked,
    plan,
)

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
_SWEEPER = f"{BasicSweeper.__module__}.{BasicSweeper.__qualname__}"
_TYPED = "command-line"  # Hydra's name for the provider of --config-dir
_CREW: list[Crew] = []  # the crew of a sweep that runs its cells from this process, if any


@dataclass(frozen=True)
class _Composed:
    """A line as Hydra composes it: the sweep's configuration, and the loader for its cells."""

    config: DictConfig
    loader: ConfigLoader


def asks_for_sweep(command: str, words: Sequence[str]) -> bool:
    """Return True if a line is for a sweep: by `-m`, or by a file in a typed folder."""
    if "-m" in words:
        return True
    if not any(word.startswith(("--conf", "-cd")) for word in words):
        return False  # our own files never ask for a sweep
    try:
        return bool(_compose(command, words).config.hydra.mode == RunMode.MULTIRUN)
    finally:
        GlobalHydra.instance().clear()


def run_sweep(command: str, words: Sequence[str]) -> int:
    """Run what is left of the sweep that `passk COMMAND WORDS` asks for; returns the exit code.

    Raises UserError, HydraException or OmegaConfBaseException for a line that is refused as a
    whole, before anything is written.
    """
    try:
        return _run_composed(command, words)
    finally:
        GlobalHydra.instance().clear()


def _run_composed(command: str, words: Sequence[str]) -> int:
    sweep = _compose(command, [word for word in words if word != "resume=true"])
    settings, hydra = _settings(sweep.config), sweep.config.hydra
    is_here = str(hydra.runtime.choices["hydra/launcher"]) == "basic"
    sweep_dir, wanted = Path(hydra.sweep.dir), _cells(sweep)
    with only_writer(sweep_dir / FOLDER):
        line = shlex.join(["passk", command, *words])
        cells = plan(sweep_dir, [replace(cell, line=line) for cell in wanted])
        todo = [cell for cell in cells if not cell.is_finished]
        if not is_here:  # leave cells that earlier jobs still run
            todo = [cell for cell in todo if not is_locked(sweep_dir, cell)]
        say_what_is_left(sweep_dir, cells, todo)
        crew = Crew(
            sweep_dir,
            num_parallel=settings.num_parallel,
            retries=settings.retries,
            to_screen=settings.num_parallel == 1,
            flags=_flags(hydra),
        )
        signals = crew.passing_on_signals() if is_here else nullcontext()
        with reporting(sweep_dir, cells), signals:
            _CREW[:] = [crew] if is_here else []
            words_of = {identity(cell): typed for cell, typed in wanted.items()}
            was_cut_off = _launch(sweep, [words_of[identity(cell)] for cell in todo])
            crew.wait()
        return close(sweep_dir, cells, was_cut_off or crew.was_stopped)


def _compose(command: str, words: Sequence[str]) -> _Composed:
    """Compose as `hydra.main` does for a multirun, up to the point where its sweeper takes over."""
    arguments = get_args_parser().parse_intermixed_args(words)
    if of_sweeper := [word for word in arguments.overrides if _is_of(word, ("hydra.sweeper.",))]:
        raise UserError(  # Hydra takes them from files only, and fails with a traceback
            f"{of_sweeper[0]} cannot be typed; write what is swept as key=value,value, and how "
            "many cells run at a time as docs/guide/sweeps.md says"
        )
    folder = arguments.config_dir and os.path.abspath(arguments.config_dir)
    search_path = create_config_search_path(str(conf_dir().resolve()))
    if folder is not None:
        if not Path(folder).is_dir():
            raise UserError(f"--config-dir={arguments.config_dir} is not a directory")
        # Hydra needs the schema last.
        search_path.prepend(_TYPED, f"file://{folder}", SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2(task_name="passk", config_search_path=search_path)
    typed = [*arguments.overrides, *_directory(command, arguments.overrides, folder)]
    config = hydra.compose_config(command, typed, RunMode.MULTIRUN, with_log_configuration=False)
    return _Composed(config, hydra.config_loader)


def _swept_by_configuration(config: DictConfig) -> list[str]:
    """Return the words of `hydra.sweeper.params`.

    Raises UserError for sweepers that do not know their cells beforehand.
    """
    sweeper = config.hydra.sweeper
    if sweeper._target_ != _SWEEPER:
        name = config.hydra.runtime.choices["hydra/sweeper"]
        raise UserError(
            f"hydra/sweeper={name} chooses cells as it goes, and a sweep of passk knows all of "
            "them beforehand; allowed: basic"
        )
    return [f"{key}={values}" for key, values in (sweeper.params or {}).items()]


def _cells(sweep: _Composed) -> dict[Cell, list[str]]:
    """Return the requested cells, each composed once so that a bad line is refused as a whole."""
    parser = OverridesParser.create(config_loader=sweep.loader)
    typed = _unresolved(sweep.config.hydra.overrides.task)
    parsed = parser.parse_overrides([*_swept_by_configuration(sweep.config), *typed])
    swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    cells: dict[Cell, list[str]] = {}
    names: set[str] = set()
    for number, words in enumerate(BasicSweeper.split_arguments(parsed, None)[0]):
        config = sweep.loader.load_sweep_config(sweep.config, words)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        subdir = str(config.hydra.sweep.subdir)
        name = _cell_name(words, swept) if subdir == _OWN_NAME else as_name(subdir)
        name = free_name(name, names)
        names.add(name)
        run_dir = name if subdir == _OWN_NAME else below_the_sweep(subdir)
        command, overrides = str(config.hydra.job.config_name), _own_words(config.hydra, words)
        cells[Cell(name, number, command, overrides, run_dir)] = words
    return cells


def _launch(sweep: _Composed, cells: Sequence[list[str]]) -> bool:
    """Let the chosen launcher run the cells; returns True if the user interrupted it."""
    context = HydraContext(config_loader=sweep.loader, callbacks=Callbacks(sweep.config))
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=run_cell, config=sweep.config
    )
    try:
        for ending in launcher.launch(cells, 0) if cells else ():
            _ = ending.return_value  # raises what Hydra caught
    except KeyboardInterrupt:
        return True
    except RuntimeError as error:
        if not from_submitit(error):
            raise
        lines = " ".join(str(error).splitlines()[:2])  # the job's log has the full error
        say(f"a job gave no answer: {lines}")
    return False


def _directory(command: str, words: Sequence[str], config_dir: str | None) -> list[str]:
    """Return the word that makes equal lines use one directory, unless one was typed."""
    if any(_is_of(word, ("hydra.sweep.dir=",)) for word in words):
        return []
    task = sorted(w for w in words if not _is_of(w, (*_NOT_THE_CELLS, *_NOT_THE_RUNS)))
    telling = [command, *task, *([config_dir] if config_dir else [])]
    digest = hashlib.sha256("\n".join(telling).encode()).hexdigest()[:8]
    keys = "-".join(key.rpartition(".")[2].lstrip("+") for key in _swept_keys(task))
    name = "-".join(filter(None, ["sweep", keys[:60], digest]))
    return [f"hydra.sweep.dir=outputs/{command}/{name}"]


def _swept_keys(words: Sequence[str]) -> list[str]:
    """Return keys with several values; none for a line that Hydra will refuse."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException:
        return []
    return [override.get_key_element() for override in parsed if override.is_sweep_override()]


def run_cell(composed: DictConfig) -> None:
    """Run one cell; a launcher calls this here or in a job of its own."""
    job = HydraConfig.get()
    sweep_dir = Path(job.sweep.dir)
    words = _own_words(job, _unresolved(job.overrides.task))
    cell = find(sweep_dir, str(job.job.config_name), words)
    if _CREW:
        _CREW[0].start(cell)
        return
    is_job = job.runtime.choices["hydra/launcher"].startswith("submitit_")
    alone = Crew(
        sweep_dir,
        num_parallel=1,
        retries=_settings(composed).retries,
        to_screen=is_job,  # to the job's log; joblib and Ray run several cells at once
        flags=_flags(job),
    )
    with alone.passing_on_signals():
        alone.start(cell)
        alone.wait()
    if alone.was_stopped and is_job:
        raise SystemExit(INTERRUPTED)  # returns no result: Slurm may run this job again


def _settings(config: DictConfig) -> SweepConfig:
    """Return `sweep.*`, or its defaults for commands without such keys."""
    chosen = OmegaConf.select(config, "sweep")
    settings = SweepConfig() if chosen is None else SweepConfig(**chosen)
    for name, least in (("num_parallel", 1), ("retries", 0)):
        if (value := getattr(settings, name)) < least:
            raise UserError(f"sweep.{name}={value} is too small; at least {least} is needed")
    return settings


def _flags(hydra: Any) -> list[str]:
    """Return Hydra's own words that concern the run, not the sweep."""
    words = _unresolved(hydra.overrides.hydra)
    return [word for word in words if not _is_of(word, _NOT_THE_RUNS)]


def _unresolved(words: Any) -> list[str]:
    """Return a list of Hydra's as it was typed: each cell resolves ${...} itself."""
    plain = OmegaConf.to_container(words, resolve=False)
    assert isinstance(plain, list)
    return [str(word) for word in plain]


def _own_words(hydra: Any, words: Sequence[str]) -> tuple[str, ...]:
    """Return the words that define a cell: folders of configuration, and its overrides."""
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == _TYPED]
    return (
        *(f"--config-dir={folder}" for folder in folders),
        *(word for word in words if not _is_of(word, _NOT_THE_CELLS)),
    )


def _is_of(word: str, starts: tuple[str, ...]) -> bool:
    """Return True if an override begins in one of these ways, with or without a leading +."""
    return word.lstrip("+").startswith(starts)


def _cell_name(words: Sequence[str], swept: Sequence[str]) -> str:
    """Name a cell by what sets it apart from the others."""
    telling = [word for word in words if word.partition("=")[0] in swept]
    return as_name(",".join(word.lstrip("+") for word in telling) or "cell")
