"""Find, check and load checkpoints: a Hugging Face model, the state to resume from, and hashes.

`passk.learner.checkpoint_writer` writes them under a temporary name and renames the folder when it
is complete, so a folder with its final name was complete once; `files.json` shows whether it still
is. The state to resume from lies in shards in the folder `learner`, as safetensors: nothing is
pickled.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from passk.console import working
from passk.errors import UserError
from passk.files import read_table, steps_of
from passk.learner.learner import Learner
from passk.learner.lora import adapter_parameters, base_fingerprint
from passk.learner.weight_files import refuse_adapter
from passk.objectives.adaptive import History
from passk.ranks import group_shard, num_ranks, unshard

LEARNER, STATE, MANIFEST = "learner", "state.json", "files.json"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Size and hash of a file when it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TrainState:
    """Counters of a run: optimiser steps, problems taken from the stream, past measurements."""

    step: int
    stream_position: int
    history: History = field(default_factory=History)


@working("reading the state of the learner")
def restore(folder: Path, learner: Learner) -> TrainState:
    """Load optimiser, adapters, random state and counters of a complete checkpoint into a learner.

    Each rank reads its part, whatever the number of ranks that wrote it. The learner's model must
    have been loaded from the same folder; with adapters, from the model that the run started from,
    else UserError is raised.
    """
    learner.init_moments()
    random_state = torch.get_rng_state()
    tensors = learner.state_tensors() | {"rng/torch": random_state}
    if any(adapter_parameters(learner.model)):
        base = base_fingerprint(learner.model)
        tensors["base"] = torch.zeros_like(base)
    reader = HuggingFaceStorageReader(str(folder / LEARNER))
    load(tensors, storage_reader=reader, no_dist=num_ranks() == 1)  # type: ignore[arg-type]  # a dict of tensors is a state dict
    if "base" in tensors and not torch.allclose(tensors["base"], base, rtol=1e-9):
        raise UserError(
            f"{folder} holds adapters of other base weights than those of model.path (or "
            "train.init_from) now; resuming needs the model that the run started from"
        )
    torch.set_rng_state(random_state)
    saved = json.loads((folder / STATE).read_text())
    if "history" in saved:  # a run of an earlier version had none
        saved["history"] = History.read(saved["history"])
    state = TrainState(**saved)
    learner.step = state.step
    return state


def saved_step(folder: Path) -> int:
    """Return the number of optimiser steps before a checkpoint."""
    return int(json.loads((folder / STATE).read_text())["step"])


def damage(folder: Path) -> str | None:
    """Describe the damage of a checkpoint (a file missing, cut short or altered), or return None.

    All ranks must call this; each reads its share of the files, and all get the same answer.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text())
        files = {name: Fingerprint(**written) for name, written in listed.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # missing, or not such a list
        return f"{MANIFEST} is missing or unreadable"
    if STATE not in files:
        return f"{MANIFEST} does not list {STATE}"
    with working(f"checking the files of {folder.name}"):
        found = [_difference(folder, *file) for file in group_shard(list(files.items()))]
        problems = unshard(found)
    return next((problem for problem in problems if problem), None)


def _difference(folder: Path, name: str, written: Fingerprint) -> str | None:
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != written.bytes:
        return f"{name} has {path.stat().st_size} bytes where {written.bytes} were written"
    if fingerprint(path) != written:
        return f"{name} differs from what was written (SHA-256)"
    return None


def fingerprint(path: Path) -> Fingerprint:
    """Return size and hash of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Fingerprint(path.stat().st_size, digest)


def checkpoints(run_dir: Path) -> dict[int, Path]:
    """Return the folders of a run's checkpoints by step, ascending."""
    return {step: path for step, path in steps_of(run_dir / "checkpoints").items() if path.is_dir()}


def chosen_checkpoint(run_dir: Path, which: str) -> Path:
    """Return the checkpoint `last`, `best` or of a step; raise UserError if absent or damaged."""
    if which == "last":
        return last_checkpoint(run_dir)
    steps = best_steps(run_dir) if which == "best" else [int(which)]
    folders = checkpoints(run_dir)
    found = next((folders[step] for step in steps if step in folders), None)
    if found is None:
        there = [folder.name for folder in folders.values()]
        raise UserError(
            f"checkpoint={which} is not among those of {run_dir} "
            f"({', '.join(there) or 'none'}{'' if steps else '; none was evaluated'})"
        )
    return _proved(found, ())


def best_steps(run_dir: Path) -> list[int]:
    """Return the evaluated steps by Pass@1 on the held-out problems, the best first."""
    path = run_dir / "eval" / "summary.csv"
    if not path.is_file():
        return []
    rows = read_table(path, columns=["metric"], numbers=["step", "value"])
    rows = rows[(rows["metric"] == "pass_at_1") & rows["value"].notna()]
    best_first = rows.sort_values("value", ascending=False, kind="stable")
    return [int(step) for step in best_first["step"]]


def last_checkpoint(run_dir: Path) -> Path:
    """Return the newest checkpoint of a run; if damaged, raise UserError that offers another."""
    folders = list(checkpoints(run_dir).values())[::-1]
    if not folders:
        raise UserError(f"{run_dir} holds no checkpoint (checkpoints/step-NNNNNN is missing)")
    return _proved(folders[0], folders[1:])


def _proved(folder: Path, earlier: Sequence[Path]) -> Path:
    """Return the checkpoint if undamaged; else raise UserError that offers one of `earlier`."""
    problem = damage(folder)
    if problem is None:
        return folder
    whole = next((other for other in earlier if damage(other) is None), None)
    advice = (
        f"{whole.name} before it is whole: remove the damaged folder to go on from there"
        if whole
        else "and no earlier one is whole"
    )
    raise UserError(f"checkpoint {folder} is damaged: {problem}; {advice}")


def resolve_model(path: str, key: str) -> str:
    """Resolve a starting point (a run directory, a checkpoint, or a model) to a model folder.

    `key` is the configuration key for error messages. Raises UserError if the path is none of
    these, or is an adapter, or if the checkpoint is damaged.
    """
    folder = Path(path)
    if (folder / "checkpoints").is_dir():
        return str(last_checkpoint(folder))
    if (folder / MANIFEST).is_file():
        siblings = list(steps_of(folder.resolve().parent).values())[::-1]
        return str(_proved(folder, [other for other in siblings if other.name < folder.name]))
    if not folder.is_dir():
        raise UserError(f"{key}={path} does not exist; give a run directory or a checkpoint")
    refuse_adapter(folder, f"{key}={path}")
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}={path} is neither a run directory nor a checkpoint")
    return path
