"""The command line: `passk <command> [overrides] [-m]`, and its exit codes.

0 done, 2 bad input from the user (one sentence on stderr), 1 any other failure, 130 interrupted.
A command's module, and torch with most of them, is imported only after the configuration has been
composed and checked.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from contextvars import Context
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from passk import __version__
from passk.cli.completion import FILES, FOLDERS, script
from passk.cli.help import COMMAND_HELP, HELP, SUMMARIES, SWEEP_HELP
from passk.cli.sweep.plan import asks_for_sweep, run_sweep
from passk.cli.sweep.runner import CELL, be_cell
from passk.cli.sweep.slurm import (
    check_launcher,
    check_tasks,
    is_one_of_ranks,
    was_requeued,
    with_sweep_as_flag,
)
from passk.cli.sweep.status import status
from passk.config.compose import check_groups, explain, groups_and_keys, register, to_config
from passk.config.registry import conf_dir, text_keys
from passk.config.rules import claim_directory
from passk.config.schema import RunConfig
from passk.config.words import in_quotes, with_home, with_quotes
from passk.console import (
    check_words,
    lose_output,
    open_streams,
    restart_in_utf8,
    say,
    working,
)
from passk.errors import DiskFull, Diverged, Interrupted, PolicyMismatch, RankFailure, UserError
from passk.files import is_full, missing_folders, only_writer

# Variables that libraries read when they are imported, unless the user has set them.
_ENVIRONMENT = {
    # Waiting threads sleep: those of OpenMP would spin, which made a training step five times as
    # slow where another process wanted the core.
    "OMP_WAIT_POLICY": "PASSIVE",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine takes weights within this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # a store without database or server
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}


class Ending(NamedTuple):
    """Exit code of a command line, and the sentence that says why it is not 0."""

    code: int
    sentence: str = ""


DONE = Ending(0)
_PLACES = {"report": "dirs", "compare": "paths"}  # commands that take words without a key
# Errors while a line is composed; `eval=3` ends in Python's own.
REFUSED_BY_HYDRA = (HydraException, OmegaConfBaseException, ValueError, OverflowError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    if arguments is None:
        open_streams()
        restart_in_utf8(os.environ)
    words = list(sys.argv[1:] if arguments is None else arguments)
    cell = os.environ.pop(CELL, None)  # hidden from the processes that we start
    try:
        if cell is not None:
            code = be_cell(cell, words, _main)
        else:
            code, sentence = _main(words)
            if sentence:
                say(sentence)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # outside a run, output may be cut short, as by `head`
        lose_output()
        return 0
    except OSError as error:
        if not is_full(error):
            raise
        lose_output()
        say(_no_room(error))
        return 1


def _main(words: list[str]) -> Ending:
    """Run one command line, and return how it ended."""
    if not words or words[0] in ("-h", "--help", "help", "--version"):
        print(__version__ if words[:1] == ["--version"] else HELP.rstrip("\n"))
        return DONE
    command, rest = words[0], words[1:]
    try:
        if command == "sweep":
            return _show_sweep(rest)
        if command == "completion":
            print(script(rest), end="")
            return DONE
        if command not in SUMMARIES:
            raise UserError(f"{command} is not a command of passk; allowed: {', '.join(SUMMARIES)}")
        return Context().run(_dispatch, command, rest)  # its progress begins anew
    except UserError as error:
        return Ending(2, str(error))


def _dispatch(command: str, rest: list[str]) -> Ending:
    """Run a command that has a configuration, as the process that leads it or as another rank."""
    typed = rest
    if command in _PLACES:
        rest = _places_as_override(_PLACES[command], rest)
    else:
        rest = ["resume=true" if word == "--resume" else word for word in rest]
    rest = with_sweep_as_flag(rest)
    rest = [as_typed(command, word, is_sweep="-m" in rest) for word in rest]
    try:
        check_words(typed)
        check_tasks(os.environ)
        check_launcher(rest)
        is_rank = is_one_of_ranks(os.environ)
    except UserError:
        if os.environ.get("SLURM_PROCID", "0") != "0":
            return Ending(2)  # one of the tasks says it
        raise
    if is_rank:
        is_rank_0 = os.environ["RANK"] == "0"
        if command not in ("train", "eval") or "-m" in rest:
            names = "passk train and passk eval, without --multirun, run under torchrun"
            return Ending(2, f"only {names}; start this by itself" if is_rank_0 else "")
        if not is_rank_0:
            return _follow(command)
    register()
    check_groups(command, rest)
    if "--help" in rest or "-h" in rest:
        return _help(command, [word for word in rest if not word.startswith("-")])
    if "--cfg" in rest and "--resolve" not in rest:
        rest.append("--resolve")
    return _run_hydra(command, rest)


def as_typed(command: str, word: str, is_sweep: bool) -> str:
    """Add the quotes that Hydra needs and expand ~, so that users type texts and paths bare."""
    return with_quotes(with_home(word, (*FILES, *FOLDERS)), text_keys(command), is_sweep)


def _show_sweep(words: list[str]) -> Ending:
    """Run `passk sweep status DIR`."""
    if {"--help", "-h"} & set(words):
        print(SWEEP_HELP, end="")
    elif words[:1] != ["status"] or len(words) != 2:
        raise UserError("passk sweep takes: status DIR, the directory of a sweep")
    else:
        print(status(Path(words[1])))
    return DONE


def _help(command: str, overrides: list[str]) -> Ending:
    """Print the groups and keys of `command`, with the typed overrides applied."""
    try:
        groups, keys = groups_and_keys(command, overrides)
    except REFUSED_BY_HYDRA as error:
        return Ending(2, explain(error, command))
    shown = f"Groups, chosen as group=option:\n{groups}\n\n" if groups else ""
    print(COMMAND_HELP.format(command=command, summary=SUMMARIES[command], groups=shown, keys=keys))
    return DONE


def _run_hydra(command: str, overrides: list[str]) -> Ending:
    """Let Hydra compose and call the job once, or once per cell of a sweep, here or elsewhere."""
    endings = [DONE]

    def job(composed: DictConfig) -> None:
        endings.append(_run_job(command, composed))

    sys.argv = [f"passk {command}", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us unchanged; we print them in one sentence
    try:
        if "--cfg" not in overrides and asks_for_sweep(command, overrides):
            return Ending(run_sweep(command, overrides))
        conf = str(conf_dir().resolve())
        hydra.main(version_base="1.3", config_path=conf, config_name=command)(job)()
        return endings[-1]
    except REFUSED_BY_HYDRA as error:
        return Ending(2, explain(error, command))
    except KeyboardInterrupt:
        return Ending(130)
    except BrokenPipeError:
        raise
    except OSError as error:  # jobs catch their own; here Hydra makes the directory
        where = "hydra.sweep.dir" if "-m" in overrides else "hydra.run.dir"
        return Ending(2, f"{where} cannot be made: {error}")
    except SystemExit as stopped:  # Hydra's parser has printed its own usage
        return Ending(int(stopped.code or 0))


class Directories(Callback):
    """Hydra callback that notes which directories a run creates (see conf/run_directory.yaml)."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Note missing folders in `hydra.runtime.made`, before Hydra makes the run's directory."""
        missing = missing_folders(Path(config.hydra.run.dir).absolute())
        with open_dict(config.hydra.runtime):
            config.hydra.runtime.made = list(map(str, missing))


def _run_job(command: str, composed: DictConfig) -> Ending:
    """Run once in the directory that Hydra made for it; refused input leaves no directory."""
    job = HydraConfig.get()
    run_dir, made = Path(job.runtime.output_dir), job.runtime.made  # type: ignore[attr-defined]
    try:
        with only_writer(run_dir, list(map(Path, made))):
            _run_command(command, composed, run_dir, list(job.overrides.task))
    except Exception as error:
        return _ending(error, command)
    return DONE


def _follow(command: str) -> Ending:
    """Run as a rank that `torchrun` started, other than rank 0, which composes for all."""
    _set_environment()
    from passk.cli.launch import follow

    try:
        follow()
    except Exception as error:
        code, sentence = _ending(error, command)
        return Ending(code, f"rank {os.environ['RANK']}: {sentence}")
    return DONE


def _ending(error: Exception, command: str) -> Ending:
    """Return how a command ends that raised `error`; prints the traceback of an unexpected one."""
    if isinstance(error, UserError):
        return Ending(2, str(error))
    if isinstance(error, HydraException | OmegaConfBaseException):
        return Ending(2, explain(error, command))
    if isinstance(error, PolicyMismatch | Diverged | DiskFull | RankFailure):
        return Ending(1, str(error))
    if isinstance(error, Interrupted):
        return Ending(130, str(error))
    if isinstance(error, BrokenPipeError):
        lose_output()
        return Ending(1, "stopped: the program that read its output has ended, as head does")
    if isinstance(error, OSError) and is_full(error) and error.filename is None:
        lose_output()
        return Ending(1, _no_room(error))
    traceback.print_exception(error)
    said = f"{type(error).__name__}: {error}"
    return Ending(1, f"failed; see the traceback above ({said})")


def _run_command(command: str, composed: DictConfig, run_dir: Path, overrides: list[str]) -> None:
    """Check the configuration and the directory, then run the command."""
    cfg = to_config(composed)
    if was_requeued(os.environ) and command != "report" and (run_dir / "config.yaml").is_file():
        cfg.resume = True
    if command != "report":
        key = "out" if command == "export" else "hydra.run.dir"
        claim_directory(run_dir, getattr(cfg, "resume", None), key)
    if isinstance(cfg, RunConfig) and getattr(cfg, "run", None) is None:
        from passk.data.problems import check_files

        check_files(cfg.data, cfg.eval, needs_training=command != "eval")
    _set_environment()
    with working("loading the libraries"):  # of this command alone, once the input is known good
        module = import_module(f"passk.cli.commands.{command}")
    getattr(module, f"run_{command}")(cfg, run_dir, overrides)


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _no_room(error: OSError) -> str:
    """Return the sentence for output that cannot be printed; files of a run raise DiskFull."""
    return f"its output could not be written: {error.strerror}; send it elsewhere, or make room"


def _places_as_override(key: str, words: Sequence[str]) -> list[str]:
    """Turn `passk report A B out=C` into the Hydra override dirs=["A","B"] and the rest."""
    plain = [  # names of a sweep's cells contain =
        word
        for word in words
        if not word.startswith("-") and ("=" not in word or Path(word).exists())
    ]
    values = set()
    for flag in ("--cfg", "-c", "--package", "-p"):
        if flag in words and words.index(flag) + 1 < len(words):
            values.add(words[words.index(flag) + 1])
    places = [word for word in plain if word not in values]
    others = [word for word in words if word not in places]
    listed = ",".join(map(in_quotes, places))
    return [*others, f"{key}=[{listed}]"] if places else others


if __name__ == "__main__":
    sys.exit(main())
