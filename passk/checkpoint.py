"""Checkpoints: a model in Hugging Face form, what resuming needs, and hashes that catch damage.

What resuming needs is in safetensors' format under another ending, because vLLM loads every
`*.safetensors` of a folder. A checkpoint is written under a temporary name and renamed when whole,
so a folder with its final name was complete once; `files.json` tells whether it still is. Nothing
is pickled.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from passk.adapters import adapter_parameters, base_fingerprint
from passk.errors import UserError
from passk.learner import Learner
from passk.policy import Tokenizer
from passk.ranks import rank


@dataclass(frozen=True, slots=True)
class TrainState:
    """Where a run stands: optimiser steps taken, and problems taken from the stream."""

    step: int
    stream_position: int


def checkpoint_name(step: int) -> str:
    """The folder's name under `checkpoints/`; it sorts by step."""
    return f"step-{step:06d}"


def save_checkpoint(
    folder: Path, learner: Learner, tokenizer: Tokenizer, state: TrainState
) -> None:
    """Write `folder`, replacing one of the same name; rank 0 writes what all ranks have."""
    plain, tensors = learner.plain_state(), learner.state_tensors()
    if rank() > 0:
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    learner.model.save_pretrained(partial, state_dict=plain)
    tokenizer.save_pretrained(partial)
    tensors["rng/torch"] = torch.get_rng_state()
    if any(adapter_parameters(learner.model)):
        tensors["base"] = base_fingerprint(learner.model)
    save_file(tensors, partial / "learner.tensors")
    (partial / "state.json").write_text(json.dumps(asdict(state)) + "\n")
    files = {path.name: _fingerprint(path) for path in sorted(partial.iterdir())}
    (partial / "files.json").write_text(json.dumps(files, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def restore(folder: Path, learner: Learner) -> TrainState:
    """Load optimiser, adapters, random state and counters of a whole checkpoint into a learner.

    The learner's model must have been loaded from the same folder; with adapters, from where the
    run started.
    """
    tensors = load_file(folder / "learner.tensors")
    base = tensors.pop("base", None)
    if base is not None and not torch.allclose(base, base_fingerprint(learner.model), rtol=1e-9):
        raise UserError(
            f"{folder} holds adapters of other base weights than those of model.path (or "
            "train.init_from) now; resuming needs the model that the run started from"
        )
    torch.set_rng_state(tensors.pop("rng/torch"))
    learner.load_state_tensors(tensors)
    state = TrainState(**json.loads((folder / "state.json").read_text()))
    learner.step = state.step
    return state


def saved_step(folder: Path) -> int:
    """The optimiser steps behind a checkpoint."""
    return int(json.loads((folder / "state.json").read_text())["step"])


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint (a file missing, cut short or altered), or None."""
    try:
        files = json.loads((folder / "files.json").read_text())
        sizes = {name: written["bytes"] for name, written in files.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # not such a list
        return "files.json is missing or unreadable"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != sizes[name]:
            return f"{name} has {path.stat().st_size} bytes where {sizes[name]} were written"
        if _fingerprint(path) != expected:
            return f"{name} differs from what was written (SHA-256)"
    return None


def last_checkpoint(run_dir: Path) -> Path:
    """The newest checkpoint of a run, proved whole; otherwise a sentence that offers another."""
    folders = sorted((run_dir / "checkpoints").glob("step-*"), reverse=True)
    if not folders:
        raise UserError(f"{run_dir} holds no checkpoint (checkpoints/step-NNNNNN is missing)")
    return _proved(folders[0], folders[1:])


def _proved(folder: Path, earlier: Sequence[Path]) -> Path:
    """The checkpoint if it is whole; otherwise a sentence that offers the first whole earlier."""
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
    """What a user may name as a starting point: a run directory, a checkpoint, or a model.

    `key` is the configuration key for the error message. Checkpoints are proved whole.
    """
    folder = Path(path)
    if (folder / "checkpoints").is_dir():
        return str(last_checkpoint(folder))
    if (folder / "files.json").is_file():
        siblings = sorted(folder.resolve().parent.glob("step-*"), reverse=True)
        return str(_proved(folder, [other for other in siblings if other.name < folder.name]))
    if not folder.is_dir():
        raise UserError(f"{key}={path} does not exist; give a run directory or a checkpoint")
    if not (folder / "config.json").is_file():
        raise UserError(f"{key}={path} is neither a run directory nor a checkpoint")
    return path


def _fingerprint(path: Path) -> dict[str, int | str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
