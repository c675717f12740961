"""`-m`: a sweep that finishes. Hydra makes the cells and the launcher runs them; the ledger knows.

The same line again goes on: finished cells are left alone, interrupted ones resumed, failed ones
tried again.
"""

import hashlib
import re
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from passk.cells import Crew
from passk.clusters import from_submitit
from passk.config import SweepConfig
from passk.disk import only_writer
from passk.errors import UserError
from passk.ledger import FOLDER, INTERRUPTED, REFUSED, Cell, find, is_locked, plan, read_ledger
from passk.schemas import conf_dir
from passk.sweep_table import changes, sweep_markdown, sweep_sentences
from passk.voice import tell

LINE = "line.txt"  # in the ledger's folder: what was typed
_OWN_NAME = "."  # hydra.sweep.subdir of those who leave the names of cells to us
# What a cell is not told: how the sweep is run.
_NOT_THE_CELLS = ("sweep.", "resume=")
_NOT_THE_RUNS = (
    "hydra.run.",
    "hydra.sweep.",
    "hydra.sweeper.",
    "hydra.launcher.",
    "hydra/",
    "hydra.mode=",
)
_LONGEST_NAME = 120
_REPORT_EVERY_SECONDS = 0.5
_CREW: list[Crew] = []  # of the sweep that runs its cells in this process, if any


@dataclass(frozen=True)
class _Composed:
    """What Hydra makes of the line: the configuration of the sweep, and how to compose a cell."""

    config: DictConfig
    loader: ConfigLoader
    task_words: list[str]


def run_sweep(command: str, words: Sequence[str]) -> int:
    """Run what is left of the sweep that `passk COMMAND WORDS` asks for; the exit code of all.

    Raises UserError, HydraException or OmegaConfBaseException for a line that is refused whole,
    before anything is written.
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
        cells = plan(sweep_dir, list(wanted))
        (sweep_dir / FOLDER / LINE).write_text(f"{shlex.join(['passk', command, *words])}\n")
        todo = [cell for cell in cells if not cell.is_finished]
        if not is_here:  # those that earlier jobs still run are theirs
            todo = [cell for cell in todo if not is_locked(sweep_dir, cell)]
        _say_what_is_left(sweep_dir, cells, todo)
        crew = Crew(
            sweep_dir,
            num_parallel=settings.num_parallel,
            retries=settings.retries,
            flags=_flags(hydra),
        )
        signals = crew.passing_on_signals() if is_here else nullcontext()
        with _reporting(sweep_dir, cells), signals:
            _CREW[:] = [crew] if is_here else []
            words_of = {_identity(cell): typed for cell, typed in wanted.items()}
            was_cut_off = _launch(sweep, [words_of[_identity(cell)] for cell in todo])
            crew.wait()
        return _close(sweep_dir, cells, was_cut_off or crew.was_stopped)


def _compose(command: str, words: Sequence[str]) -> _Composed:
    """As `hydra.main` does for a multirun, up to where its sweeper would take over."""
    arguments = get_args_parser().parse_args([*words, *_directory(command, words)])
    search_path = create_config_search_path(str(conf_dir().resolve()))
    if arguments.config_dir is not None:
        search_path.append("command-line", f"file://{Path(arguments.config_dir).absolute()}")
    version.setbase("1.3")
    hydra = Hydra.create_main_hydra2(task_name="passk", config_search_path=search_path)
    config = hydra.compose_config(
        command, arguments.overrides, RunMode.MULTIRUN, with_log_configuration=False
    )
    return _Composed(config, hydra.config_loader, _unresolved(config.hydra.overrides.task))


def _cells(sweep: _Composed) -> dict[Cell, list[str]]:
    """The cells that were typed, each composed once so that a bad line is refused whole."""
    parser = OverridesParser.create(config_loader=sweep.loader)
    parsed = parser.parse_overrides(sweep.task_words)
    swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    cells: dict[Cell, list[str]] = {}
    names: set[str] = set()
    for number, words in enumerate(BasicSweeper.split_arguments(parsed, None)[0]):
        config = sweep.loader.load_sweep_config(sweep.config, words)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        subdir = str(config.hydra.sweep.subdir)
        name = _cell_name(words, swept) if subdir == _OWN_NAME else _as_name(subdir)
        while name in names:
            name += "'"
        names.add(name)
        run_dir = name if subdir == _OWN_NAME else subdir
        command = str(config.hydra.job.config_name)
        cells[Cell(name, number, command, tuple(_own_words(words)), run_dir)] = words
    return cells


def _launch(sweep: _Composed, cells: Sequence[list[str]]) -> bool:
    """Let the chosen launcher run the cells; whether it was cut off by the user."""
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
        lines = " ".join(str(error).splitlines()[:2])  # the job's log has all
        tell(f"a job gave no answer: {lines}")
    return False


def _directory(command: str, words: Sequence[str]) -> list[str]:
    """The word that makes the same line find the same directory again, unless one was typed."""
    if any(word.startswith("hydra.sweep.dir=") for word in words):
        return []
    task = sorted(w for w in words if not w.startswith((*_NOT_THE_CELLS, *_NOT_THE_RUNS, "-")))
    digest = hashlib.sha256("\n".join([command, *task]).encode()).hexdigest()[:8]
    keys = "-".join(key.rpartition(".")[2].lstrip("+") for key in _swept_keys(task))
    name = "-".join(filter(None, ["sweep", keys[:60], digest]))
    return [f"hydra.sweep.dir=outputs/{command}/{name}"]


def _swept_keys(words: Sequence[str]) -> list[str]:
    """Keys of the words that give several values; none of a line that Hydra will refuse."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException:
        return []
    return [override.get_key_element() for override in parsed if override.is_sweep_override()]


def run_cell(composed: DictConfig) -> None:
    """What a launcher calls for each cell, here or in a job of its own."""
    job = HydraConfig.get()
    sweep_dir = Path(job.sweep.dir)
    cell = find(sweep_dir, _own_words(_unresolved(job.overrides.task)))
    if _CREW:
        _CREW[0].start(cell)
        return
    alone = Crew(sweep_dir, num_parallel=1, retries=_settings(composed).retries, flags=_flags(job))
    with alone.passing_on_signals():
        alone.start(cell)
        alone.wait()
    if alone.was_stopped and job.runtime.choices["hydra/launcher"].startswith("submitit_"):
        raise SystemExit(INTERRUPTED)  # no answer: Slurm may run this job again


def _settings(config: DictConfig) -> SweepConfig:
    """`sweep.*`, or its defaults for commands that take no such keys."""
    chosen = OmegaConf.select(config, "sweep")
    settings = SweepConfig() if chosen is None else SweepConfig(**chosen)
    for name, least in (("num_parallel", 1), ("retries", 0)):
        if (value := getattr(settings, name)) < least:
            raise UserError(f"sweep.{name}={value} is too small; at least {least} is needed")
    return settings


def _flags(hydra: Any) -> list[str]:
    """Words of Hydra's own that concern the run, not the sweep: where more configuration lies."""
    folders = [s.path for s in hydra.runtime.config_sources if s.provider == "command-line"]
    words = _unresolved(hydra.overrides.hydra)
    return [
        *(f"--config-dir={folder}" for folder in folders),
        *(word for word in words if not word.startswith(_NOT_THE_RUNS)),
    ]


def _unresolved(words: Any) -> list[str]:
    """A list of Hydra's with what was typed: ${...} is for the cell to resolve."""
    plain = OmegaConf.to_container(words, resolve=False)
    assert isinstance(plain, list)
    return [str(word) for word in plain]


def _own_words(words: Sequence[str]) -> list[str]:
    return [word for word in words if not word.startswith(_NOT_THE_CELLS)]


def _identity(cell: Cell) -> tuple[str, ...]:
    return tuple(sorted(cell.overrides))


def _cell_name(words: Sequence[str], swept: Sequence[str]) -> str:
    """What a cell is called: what tells it from the others."""
    telling = [word for word in words if word.partition("=")[0] in swept]
    return _as_name(",".join(word.lstrip("+") for word in telling) or "cell")


def _as_name(text: str) -> str:
    """A file's name that still says what it names."""
    name = re.sub(r"[^\w.,=+-]+", "_", text).strip("_.") or "cell"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}~{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _say_what_is_left(sweep_dir: Path, cells: Sequence[Cell], todo: Sequence[Cell]) -> None:
    finished = sum(cell.is_finished for cell in cells)
    elsewhere = len(cells) - finished - len(todo)
    parts = [f"{len(cells)} cells"]
    parts += [f"{finished} finished before"] if finished else []
    parts += [f"{elsewhere} being run by earlier jobs"] if elsewhere else []
    print(f"passk: {', '.join(parts)}; passk sweep status {sweep_dir}", flush=True)


@contextmanager
def _reporting(sweep_dir: Path, cells: Sequence[Cell]) -> Iterator[None]:
    """Say what happens to the cells as it happens, whoever runs them, in a thread beside."""
    done = threading.Event()
    told = {cell.name: cell for cell in cells}

    def say() -> None:
        for sentence, is_bad in changes(sweep_dir, told):
            if is_bad:
                tell(sentence)
            else:
                print(f"passk: {sentence}", flush=True)

    def watch() -> None:
        while not done.wait(_REPORT_EVERY_SECONDS):
            say()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        say()


def _close(sweep_dir: Path, cells: Sequence[Cell], stopped: bool) -> int:
    """Print how the cells stand and what failed; the exit code of the sweep."""
    names = {cell.name for cell in cells}
    ended = [cell for cell in read_ledger(sweep_dir) if cell.name in names]
    print(sweep_markdown(sweep_dir, ended), flush=True)
    for sentence in sweep_sentences(ended):
        tell(sentence)
    left = [cell for cell in ended if not cell.is_finished]
    if left:
        print(f"passk: the same line again goes on; {FOLDER}: {sweep_dir / FOLDER}", flush=True)
    if stopped:
        return INTERRUPTED
    refused = [cell for cell in left if cell.last is not None and cell.last.code == REFUSED]
    return 0 if not left else 2 if len(refused) == len(left) else 1
