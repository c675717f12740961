"""Run one process per rank, started here by torch's elastic launcher or elsewhere by torchrun.

The process that starts the ranks composes the configuration once and hands it to them. Each rank
writes down the error that ends it; the user sees the first of these once, with its rank.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from types import FrameType
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from passk.cli.sweep.slurm import is_one_of_ranks
from passk.config.schema import LearnerConfig, RunConfig
from passk.console import signals_handled
from passk.errors import DiskFull, Diverged, Interrupted, PolicyMismatch, RankFailure, UserError
from passk.files import keep, locks_held
from passk.ranks import from_rank_0, joined, num_ranks

C = TypeVar("C", bound=RunConfig)
P = ParamSpec("P")
_PATIENCE_SECONDS = 3.0
_KINDS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (UserError, PolicyMismatch, Diverged, DiskFull, Interrupted, RankFailure)
}


def on_all_ranks(command: Callable[Concatenate[C, P], None]) -> Callable[Concatenate[C, P], None]:
    """Decorate a command, whose first argument is its configuration, so that every rank runs it.

    The ranks are those that `torchrun` started, or as many as `learner.num_processes` says. The
    call returns once all of them are done.
    """

    @wraps(command)
    def run(cfg: C, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if num_ranks() > 1:  # this process is one of the ranks
            command(cfg, *args, **kwargs)
        elif is_one_of_ranks(os.environ):
            _join(partial(run, cfg, *args, **kwargs))
        elif (count := ranks_to_start(cfg.learner)) > 1:
            launch(partial(run, cfg, *args, **kwargs), count)
        else:
            command(cfg, *args, **kwargs)

    return run


def follow() -> None:
    """Run as a rank that `torchrun` started, and do what rank 0 does."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for good
    with suppress(Interrupted):
        _join()


def _join(work: Callable[[], None] | None = None) -> None:
    """Join the ranks that `torchrun` started, and do the work that rank 0 names."""
    try:
        with joined():
            from_rank_0(work)()
    except Interrupted:
        raise
    except Exception as error:
        _let_others_speak(int(os.environ["RANK"]), error)
        raise


def _let_others_speak(number: int, error: Exception) -> None:
    """Wait a little if another rank probably explains the error better, and so ends this rank.

    The other rank is rank 0, which has most errors too, or the rank whose end this one has noticed.
    """
    if number > 0 or _has_lost_another(error):
        time.sleep(_PATIENCE_SECONDS)


def _has_lost_another(error: Exception) -> bool:
    """Return True if a rank fails because another has ended."""
    is_cut_off = isinstance(error, RuntimeError) and "peer" in str(error)
    return is_cut_off or isinstance(error, torch.distributed.DistError)


def ranks_to_start(cfg: LearnerConfig) -> int:
    """Return the value of `learner.num_processes` here: `auto` is one rank per GPU, or one."""
    if cfg.num_processes != "auto":
        return int(cfg.num_processes)
    return max(1, torch.cuda.device_count()) if cfg.device != "cpu" else 1


def launch(work: Callable[..., None], num_ranks: int, *arguments: Any) -> None:
    """Run `work(*arguments)` on `num_ranks` ranks of this machine, and wait for all of them.

    SIGINT and SIGTERM go to rank 0, which passes them on. Raises the error of the rank that failed
    first: an error of `passk.errors`, or RankFailure with a traceback for any other.
    """
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # we report the same errors
    with tempfile.TemporaryDirectory(prefix="passk-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle="SIGQUIT",  # the others are forwarded
        )
        killed: ChildFailedError | None = None

        def to_rank_0(number: int, _frame: FrameType | None) -> None:
            pid = Path(folder) / "0.pid"
            if not pid.is_file():  # it has not started yet
                raise KeyboardInterrupt
            os.kill(int(pid.read_text()), number)

        with signals_handled(to_rank_0):
            try:
                elastic_launch(config, _work_as_rank)(work, arguments, folder, locks_held())
            except ChildFailedError as error:
                killed = error
        _raise_first(Path(folder), killed)


def _work_as_rank(
    work: Callable[..., None], arguments: tuple[Any, ...], folder: str, locks: Sequence[Any]
) -> None:
    """Run one rank. Only rank 0 prints, except for the error that ends a rank.

    The rank holds the locks of the process that started it, and keeps them even if that is killed.
    """
    keep(locks)
    os.setpgrp()  # a terminal's Ctrl-C reaches the process that started us, which passes it on
    launcher = os.getppid()
    number = int(os.environ["RANK"])
    (Path(folder) / f"{number}.pid").write_text(str(os.getpid()))
    if number > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  for good
    try:
        with joined():
            work(*arguments)
    except Interrupted as stopped:  # all ranks agreed to stop: no need to wait
        _write_ending(Path(folder), number, "Interrupted", str(stopped))
    except KeyboardInterrupt:
        _write_ending(Path(folder), number, "Interrupted", "interrupted")
        os._exit(130)
    except Exception as error:
        _let_others_speak(number, error)
        kind = type(error).__name__
        text = str(error) if kind in _KINDS else traceback.format_exc()
        kind = kind if kind in _KINDS else "RankFailure"
        _write_ending(Path(folder), number, kind, text, lost_another=_has_lost_another(error))
        # End at once: other ranks wait in the group for something that will not come.
        os._exit(1)
    if os.getppid() != launcher:  # it was killed, and torch would wait for it to read the result
        os._exit(1)


def _write_ending(
    folder: Path, number: int, kind: str, text: str, *, lost_another: bool = False
) -> None:
    ending = {"rank": number, "kind": kind, "text": text, "time": time.time()}
    ending["lost_another"] = lost_another
    partial = folder / f".{number}.partial"
    partial.write_text(json.dumps(ending))
    os.replace(partial, folder / f"{number}.json")


def _raise_first(folder: Path, killed: ChildFailedError | None) -> None:
    """Raise the error of the rank that failed first, if any rank failed."""
    endings = [json.loads(file.read_text()) for file in folder.glob("*.json")]
    died = sorted(
        (failure.timestamp, failure.exitcode, number)
        for number, failure in (killed.failures if killed else {}).items()
        if failure.exitcode < 0 and not (folder / f"{number}.json").is_file()
    )
    if died and all(ending["lost_another"] for ending in endings):
        (_, code, number) = died[0]
        raise RankFailure(
            f"rank {number} was killed by {signal.Signals(-code).name}; resume=true goes on from "
            "the last checkpoint (if nobody killed it, the system may be short of memory)"
        )
    if endings:
        first = min(endings, key=lambda ending: (ending["lost_another"], ending["time"]))
        is_common = first["rank"] == 0 and first["kind"] != "RankFailure"
        where = "" if is_common or first["kind"] == "Interrupted" else f"rank {first['rank']}: "
        raise _KINDS[first["kind"]](where + first["text"]) from None
    if killed is not None:
        raise RankFailure(f"a rank failed: {killed}")
