"""Check command lines for clusters: sweeps whose cells are jobs, and tasks of Slurm.

Hydra's submitit launchers (the extra `slurm`) submit each cell of a sweep as a job and wait for all
of them. Lines that would fail there are refused here, before anything is submitted.
"""

import shutil
from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from passk.errors import UserError

_EXTRAS = {"submitit_": "submitit", "joblib": "joblib", "ray": "ray"}  # launcher -> its package
_NO_RANKS = "start it with torchrun, or without these: env -u WORLD_SIZE -u RANK passk ..."
_PIP = {"submitit": "slurm"}


def from_submitit(error: Exception) -> bool:
    """Return True if a job was rejected, or gave no result: killed, cancelled, timed out."""
    return type(error).__module__.startswith("submitit")


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
    """Raise UserError for a `hydra/launcher` that is missing, or that would not do what was asked.

    Prints where the output of submitit's jobs will be, as they have no screen. `words` have their
    flag in front.
    """
    values = dict(word.split("=", 1) for word in words if "=" in word)
    name = values.get("hydra/launcher", "basic")
    if name == "basic":
        return
    if "-m" not in words:
        raise UserError(
            f"hydra/launcher={name} starts the cells of a sweep: add -m, for a single run too"
        )
    extra = next((extra for start, extra in _EXTRAS.items() if name.startswith(start)), None)
    if extra is not None and find_spec(f"hydra_plugins.hydra_{extra}_launcher") is None:
        raise UserError(
            f"hydra/launcher={name} needs hydra-{extra}-launcher, which is not installed: "
            f"pip install 'passk-rl[{_PIP.get(extra, extra)}]'"
        )
    if values.get("sweep.num_parallel", "1") != "1":
        raise UserError(
            f"sweep.num_parallel={values['sweep.num_parallel']} is for cells that this process "
            f"runs; with hydra/launcher={name} say it in its own keys, see docs/guide/sweeps.md"
        )
    if not name.startswith("submitit_"):
        return
    if name == "submitit_slurm" and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm finds no Slurm here (no srun); start the sweep on a "
            "machine of the cluster, or use hydra/launcher=submitit_local"
        )
    for key in ("hydra.launcher.nodes", "hydra.launcher.tasks_per_node"):
        if (value := values.get(key, "1")) != "1":
            raise UserError(
                f"{key}={value}: every task would run the whole cell; a job has one task, which "
                "starts a rank on each GPU of its machine (hydra.launcher.gpus_per_node); on "
                "several machines use srun torchrun, see docs/guide/sweeps.md"
            )
    print("passk: each cell is a job; what it prints is in .submitit/ of the sweep's directory")


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
        raise UserError(f"WORLD_SIZE={size} and RANK={rank} are no number of ranks; {_NO_RANKS}")
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
