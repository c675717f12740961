"""The command line: `passk <command> [overrides] [-m]`, and what exit codes mean.

0 done, 2 the user's input was at fault (one sentence on stderr), 1 anything else, 130 interrupted.
Torch is imported only after the configuration has been composed and checked.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from passk import __version__
from passk.clusters import (
    ENDINGS,
    Ending,
    check_launcher,
    check_tasks,
    from_submitit,
    hand_in,
    this_process,
    was_requeued,
)
from passk.command_rules import claim_directory
from passk.composition import conf_dir, explain, groups_and_keys, register, to_config
from passk.errors import DiskFull, Diverged, Interrupted, PolicyMismatch, RankFailure, UserError

SUMMARIES = {
    "train": "one run: roll out, judge, learn, evaluate     passk train regime=hybrid",
    "eval": "samples and tables of any model               passk eval model.path=... data=math",
    "reproduce": "SFT, then RL regimes from it; report          passk reproduce seeds=3",
    "report": "tables, plots and one HTML page over runs     passk report DIR...",
    "diagnose": "which prompts interfere, from which k on      passk diagnose run=DIR",
    "filter": "the training problems without those          passk filter run=DIR",
    "toy": "the paper's bandit: its numbers and figures   passk toy toy.k=5",
    "explain": "the weight an objective puts on a prompt      passk explain regime=hybrid",
}
_COMMAND_LINES = "".join(f"  {name:<10} {summary}\n" for name, summary in SUMMARIES.items())
HELP = f"""passk {__version__}: what does optimising Pass@k do to Pass@1, and on which prompts?

usage: passk <command> [key=value ...] [-m]

{_COMMAND_LINES}
  passk <command> --help      the configuration groups and keys of a command
  passk <command> --cfg job   the resolved configuration, nothing run
  passk <command> hydra.run.dir=DIR --resume
                              go on with an interrupted train, eval, reproduce or filter
  passk train -m regime=hybrid regime.k=2,4,8 regime.pass1_weight=0.5,0.7,0.9
  passk --version
"""
COMMAND_HELP = """passk {command}: {summary}

{groups}Keys and their defaults, changed as key=value:

{keys}
Flags: -m sweeps over comma-separated values; --cfg job prints the resolved configuration;
hydra.run.dir=DIR names the run directory. Examples and every key: README.md."""

# What libraries read from the environment when they are imported, unless the user has set it.
_ENVIRONMENT = {
    # Waiting threads sleep: those of OpenMP would spin, and where another process wants the core
    # that made a training step five times as slow.
    "OMP_WAIT_POLICY": "PASSIVE",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine takes weights within this process
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    command, rest = words[0], words[1:]
    if command not in SUMMARIES:
        return _refuse(f"{command} is not a command of passk; allowed: {', '.join(SUMMARIES)}")
    if command == "report":
        rest = _directories_as_override(rest)
    else:
        rest = ["resume=true" if word == "--resume" else word for word in rest]
    try:
        check_tasks(os.environ)
        check_launcher(rest)
    except UserError as error:
        return _refuse(str(error)) if os.environ.get("SLURM_PROCID", "0") == "0" else 2
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        is_rank_0 = os.environ["RANK"] == "0"
        if command not in ("train", "eval") or {"-m", "--multirun"} & set(rest):
            names = "passk train and passk eval, without --multirun, run under torchrun"
            return _refuse(f"only {names}; start this by itself") if is_rank_0 else 2
        if not is_rank_0:
            return _follow(command)
    return _lead(command, rest)


def _lead(command: str, rest: list[str]) -> int:
    """What a process does that composes the configuration."""
    register()
    if "--help" in rest or "-h" in rest:
        return _help(command, [word for word in rest if not word.startswith("-")])
    if "--cfg" in rest and "--resolve" not in rest:
        rest.append("--resolve")
    return _run_hydra(command, rest)


def _help(command: str, overrides: list[str]) -> int:
    """Print what `command` takes, with the overrides that were typed in place."""
    try:
        groups, keys = groups_and_keys(command, overrides)
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explain(error, command))
    shown = f"Groups, chosen as group=option:\n{groups}\n\n" if groups else ""
    print(COMMAND_HELP.format(command=command, summary=SUMMARIES[command], groups=shown, keys=keys))
    return 0


def _run_hydra(command: str, overrides: list[str]) -> int:
    """Let Hydra compose and call the job once, or once per cell of a sweep, here or elsewhere."""
    ENDINGS.clear()
    here = this_process()

    def job(composed: DictConfig) -> Ending:
        return hand_in(_run_job(command, composed), here)

    application = hydra.main(
        version_base="1.3", config_path=str(conf_dir().resolve()), config_name=command
    )(job)
    sys.argv = [f"passk {command}", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us whole; we print them in one sentence
    try:
        application()
    except (HydraException, OmegaConfBaseException) as error:
        return _refuse(explain(error, command))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except RuntimeError as error:
        if not from_submitit(error):
            raise
        print(f"passk: {' '.join(str(error).splitlines()[:2])}", file=sys.stderr)  # its log has all
        return 1
    except OSError as error:  # jobs catch their own; this is Hydra making the directory
        return _refuse(f"hydra.run.dir cannot be made: {error}")
    except SystemExit as stopped:  # Hydra's argument parser has printed its own usage
        return int(stopped.code or 0)
    return max((ending.code for ending in ENDINGS), default=0)


def _run_job(command: str, composed: DictConfig) -> Ending:
    """One run in the directory that Hydra made for it; never raises, so that a sweep goes on."""
    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir)
    in_sweep = job.mode == RunMode.MULTIRUN
    prefix = f"cell {job.job.num} ({job.job.override_dirname}): " if in_sweep else ""
    if in_sweep:
        print(f"passk: {prefix}starts in {run_dir}", flush=True)
    overrides = list(job.overrides.task)
    try:
        return _ending(command, prefix, _run_command, command, composed, run_dir, overrides)
    finally:
        _remove_if_empty(run_dir)


def _ending(command: str, prefix: str, work: Callable[..., None], *arguments: Any) -> Ending:
    """Do the work; what stops it is told in one sentence, or with a traceback if unexpected."""
    code, sentence = 1, "failed; see the traceback above"
    try:
        work(*arguments)
        return Ending(0)
    except UserError as error:
        code, sentence = 2, str(error)
    except (HydraException, OmegaConfBaseException) as error:
        code, sentence = 2, explain(error, command)
    except (PolicyMismatch, Diverged, DiskFull, RankFailure) as error:
        sentence = str(error)
    except Interrupted as stopped:
        code, sentence = 130, str(stopped)
    except Exception:
        traceback.print_exc()
    sentence = f"passk: {prefix}{sentence}"
    print(sentence, file=sys.stderr, flush=True)
    return Ending(code, sentence)


def _follow(command: str) -> int:
    """The life of a rank that `torchrun` started and that is not rank 0, which composes for all."""
    _set_environment()
    from passk.launch import follow

    return _ending(command, f"rank {os.environ['RANK']}: ", follow).code


def _run_command(command: str, composed: DictConfig, run_dir: Path, overrides: list[str]) -> None:
    """Check the configuration and the directory, then do the work."""
    cfg = to_config(composed)
    if was_requeued(os.environ) and command != "report" and (run_dir / "config.yaml").is_file():
        cfg.resume = True
    if command != "report":
        claim_directory(run_dir, getattr(cfg, "resume", None))
    if command == "explain":  # answers in less time than torch takes to import
        from passk.explain import run_explain

        return run_explain(cfg, run_dir)
    _set_environment()
    if command == "toy":
        from passk.toy_command import run_toy  # needs no torch, and no time to import it

        return run_toy(cfg, run_dir, overrides)
    from passk.commands import COMMANDS  # imports torch: only once the input is known good

    COMMANDS[command](cfg, run_dir, overrides)


def _set_environment() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _remove_if_empty(run_dir: Path) -> None:
    """Nothing half-written: refused input leaves no directory behind, nor those made around it."""
    here = Path.cwd()
    for folder in (run_dir, *run_dir.parents):
        is_ours = folder == run_dir or here in folder.parents
        if not is_ours or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def _refuse(sentence: str) -> int:
    print(f"passk: {sentence}", file=sys.stderr)
    return 2


def _directories_as_override(words: Sequence[str]) -> list[str]:
    """`passk report A B out=C` -> the Hydra override dirs=["A","B"] and the rest."""
    plain = [  # a cell of a sweep has = in its name
        word
        for word in words
        if not word.startswith("-") and ("=" not in word or Path(word).is_dir())
    ]
    values = set()
    for flag in ("--cfg", "-c", "--package", "-p"):
        if flag in words and words.index(flag) + 1 < len(words):
            values.add(words[words.index(flag) + 1])
    directories = [word for word in plain if word not in values]
    others = [_with_quotes(word) for word in words if word not in directories]
    return (
        others
        if not directories
        else [*others, f"dirs={json.dumps(directories, ensure_ascii=False)}"]
    )


def _with_quotes(word: str) -> str:
    """The label of a sweep's cell has blanks and = in it: for Hydra only in quotes."""
    key, _, label = word.partition("=")
    if key != "baseline" or label in ("", "null") or label[0] in "\"'":
        return word
    return f"{key}={json.dumps(label, ensure_ascii=False)}"


if __name__ == "__main__":
    sys.exit(main())
