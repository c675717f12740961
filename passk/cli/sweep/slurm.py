"""Run the cells of a sweep as jobs, and check command lines for clusters.

submitit (the extra `slurm`) submits each cell as a job, with the keys `hydra.launcher.*` that
hydra-submitit-launcher defines. Lines that would fail there are refused here, before anything is
submitted.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

from omegaconf import DictConfig, OmegaConf

from passk.cli.sweep.runner import Crew, HowToRun
from passk.config.schema import SweepConfig
from passk.console import say
from passk.errors import UserError
from passk.runs.ledger import INTERRUPTED, Cell

# Launchers of Hydra, and where submitit runs their jobs.
_CLUSTERS = {"BasicLauncher": None, "LocalLauncher": "local", "SlurmLauncher": "slurm"}
_ALLOWED = "basic (sweep.num_parallel=N runs N cells at a time), submitit_local, submitit_slurm"
_NO_RANKS = "start it with torchrun, or without these: env -u WORLD_SIZE -u RANK passk ..."


def with_sweep_as_flag(words: Sequence[str]) -> list[str]:
    """Put `-m` in front for every way to ask for a sweep, so that none bypasses the ledger."""
    others = [word for word in words if not _means_sweep(word)]
    return ["-m", *others] if len(others) < len(words) else others


def _means_sweep(word: str) -> bool:
    key, _, value = word.lstrip("+").partition("=")
    if key == "hydra.mode":
        return value.strip("\"'").removeprefix("RunMode.") in ("MULTIRUN", "2")  # 2: its number
    return word == "-m" or (len(word) > 2 and "--multirun".startswith(word))


def check_launcher(words: Sequence[str]) -> None:
    """Raise UserError for a typed `hydra/launcher` that is missing, or of no use for the line."""
    name = dict(word.split("=", 1) for word in words if "=" in word).get("hydra/launcher", "basic")
    if name != "basic" and "-m" not in words:
        raise UserError(
            f"hydra/launcher={name} starts the cells of a sweep: add -m, for a single run too"
        )
    if name in ("joblib", "ray"):
        raise UserError(f"hydra/launcher={name} is not supported; allowed: {_ALLOWED}")
    if name.startswith("submitit_") and find_spec("submitit") is None:
        raise UserError(
            f"hydra/launcher={name} needs hydra-submitit-launcher, which is not installed: "
            "pip install 'passk-rl[slurm]'"
        )


def cluster(hydra: DictConfig, settings: SweepConfig) -> str | None:
    """Return where submitit runs the cells of a composed line, or None if this process does.

    Raises UserError for a launcher that is not known, or that would not do what was asked.
    """
    name, launcher = hydra.runtime.choices["hydra/launcher"], hydra.launcher
    kind = launcher._target_.rpartition(".")[2]
    if kind not in _CLUSTERS:
        raise UserError(f"hydra/launcher={name} is not supported; allowed: {_ALLOWED}")
    if (chosen := _CLUSTERS[kind]) is None:
        return None
    if settings.num_parallel != 1:
        raise UserError(
            f"sweep.num_parallel={settings.num_parallel} is for cells that this process runs; "
            f"with hydra/launcher={name} use its own keys, see docs/guide/sweeps.md"
        )
    if chosen == "slurm" and shutil.which("srun") is None:
        raise UserError(
            f"hydra/launcher={name} finds no Slurm here (no srun); start the sweep on a machine "
            "of the cluster, or use hydra/launcher=submitit_local"
        )
    for key in ("nodes", "tasks_per_node"):
        if launcher[key] != 1:
            raise UserError(
                f"hydra.launcher.{key}={launcher[key]}: every task would run the whole cell; a "
                "job has one task, which starts a rank on each GPU of its machine "
                "(hydra.launcher.gpus_per_node); on several machines use srun torchrun, see "
                "docs/guide/sweeps.md"
            )
    return chosen


@dataclass(frozen=True)
class _Job:
    """Runs a cell in a job. submitit asks for a `checkpoint` of it when the job's time is over."""

    how: HowToRun

    def __call__(self, cell: Cell) -> None:
        if Crew(self.how).run([cell]):
            raise SystemExit(INTERRUPTED)  # returns no result: Slurm may run this job again

    def checkpoint(self, cell: Cell) -> Any:
        """Return the same job, which goes on with its cell."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, cell)


def run_as_jobs(launcher: DictConfig, cluster: str, how: HowToRun, cells: Sequence[Cell]) -> bool:
    """Submit each cell as a job and wait for all; returns True if the user interrupted that."""
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
    from submitit import AutoExecutor
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    settings: Any = OmegaConf.to_container(launcher, resolve=True)
    of_all = {field.name for field in fields(BaseQueueConf)}
    named = {key if key in of_all else f"{cluster}_{key}": settings[key] for key in settings}
    del named[f"{cluster}__target_"]
    # The executor takes these when it is made.
    first = {key: named.pop(key) for key in ("slurm_max_num_timeout",) if key in named}
    executor = AutoExecutor(folder=named.pop("submitit_folder"), cluster=cluster, **first)
    executor.update_parameters(**named)
    try:
        for job in executor.map_array(_Job(how), cells) if cells else ():
            try:
                job.result()
            except UncompletedJobError as error:
                _say_lost(error)
    except FailedSubmissionError as error:
        _say_lost(error)
    except KeyboardInterrupt:
        return True
    return False


def _say_lost(error: Exception) -> None:
    lines = " ".join(str(error).splitlines()[:2])  # the job's log has the full error
    say(f"a job gave no answer: {lines}")


def check_tasks(environment: Mapping[str, str]) -> None:
    """Raise UserError if this is one of several `srun` tasks that would all do the same run."""
    # A batch script with --ntasks=4 runs once; only a step has several processes.
    count = environment.get("SLURM_STEP_NUM_TASKS", "")
    if count.isdecimal() and int(count) > 1 and "RANK" not in environment:
        raise UserError(
            f"srun started {count} tasks that would all do the same run; use one task (passk "
            "starts a rank on each GPU by itself), or one task a machine with srun torchrun, see "
            "docs/guide/sweeps.md"
        )


def is_one_of_ranks(environment: Mapping[str, str]) -> bool:
    """Return True if `torchrun` started this process as one of several ranks.

    Raises UserError for inconsistent variables, which are left over from something else.
    """
    size = environment.get("WORLD_SIZE", "").strip() or "1"
    if not environment.get("RANK", "").strip() or size == "1":
        return False
    rank = environment["RANK"].strip()
    if not (size.isdecimal() and rank.isdecimal() and int(rank) < int(size)):
        raise UserError(
            f"WORLD_SIZE={size} and RANK={rank} do not name a rank of a run; {_NO_RANKS}"
        )
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not environment.get(name, "").strip():
            given = f"WORLD_SIZE={size} and RANK={rank}"
            raise UserError(f"{given} are set, but not {name}; {_NO_RANKS}")
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if not environment.get(name, "0").strip().isdecimal():
            raise UserError(f"{name}={environment[name]} is no number; {_NO_RANKS}")
    return True


def was_requeued(environment: Mapping[str, str]) -> bool:
    """Return True if Slurm runs this job again after a preemption, time limit or lost machine."""
    count = environment.get("SLURM_RESTART_COUNT", "")
    return count.isdecimal() and int(count) > 0
