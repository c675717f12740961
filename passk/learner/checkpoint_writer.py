"""Write checkpoints while training continues; every rank writes its own part.

Tensors are copied to main memory first. The folder has a temporary name until it is complete.
"""

import json
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import save
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from passk.console import working
from passk.errors import UserError
from passk.files import (
    make_folder,
    remove_folder,
    step_name,
    sync,
    sync_folders,
    write_text,
)
from passk.learner.checkpoint import (
    LEARNER,
    MANIFEST,
    STATE,
    Fingerprint,
    TrainState,
    fingerprint,
)
from passk.learner.fsdp import on_rank_0
from passk.learner.learner import Learner
from passk.learner.lora import adapter_parameters, base_fingerprint, base_parameters
from passk.learner.policy import GENERATION_CONFIG, Tokenizer
from passk.ranks import gather, num_ranks, rank

MAX_FILE_BYTES = 2 * 2**30  # bounds memory: each rank assembles its part of a file in memory
# This warning is expected with a single process.
warnings.filterwarnings("ignore", message="torch.distributed is disabled")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Content of a checkpoint: the plain model, further tensors that resuming needs, the counters.

    The weights are in shards, or full on rank 0 and missing on others.
    """

    weights: dict[str, Tensor]
    in_shards: bool
    beside: dict[str, Tensor]
    state: TrainState


class CheckpointWriter:
    """Writer of a run's checkpoints. State: the checkpoint that is being written, if any."""

    def __init__(
        self, folder: Path, *, in_background: bool, generation: bytes | None = None
    ) -> None:
        """Make a writer into `folder`; all ranks must make theirs at the same point.

        `generation` is the starting model's generation_config.json, see `save_model`.
        """
        self._folder = folder
        self._generation = generation
        self._thread = ThreadPoolExecutor(1, "checkpoint") if in_background else None
        self._pending: Future[None] | None = None
        # Messages between ranks here must not mix with those of the main thread.
        self._group = dist.new_group(backend="gloo") if num_ranks() > 1 else None

    def save(
        self, learner: Learner, tokenizer: Tokenizer, state: TrainState, drop: Sequence[Path]
    ) -> None:
        """Write the checkpoint of `state.step`, and remove those in `drop` once it is complete.

        With a background thread, return when everything has been copied. First wait for the
        previous checkpoint, and raise the error that kept it from being written, if any.
        """
        self.settle()
        with working("saving a checkpoint"):
            snapshot = _snapshot(learner, state, copy=self._thread is not None)
            if self._thread is None:
                self._write(snapshot, learner.model, tokenizer, drop)
            else:
                self._pending = self._thread.submit(
                    self._write, snapshot, learner.model, tokenizer, drop
                )

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, and raise its error, if any."""
        pending, self._pending = self._pending, None
        if pending is not None:
            with working("saving a checkpoint"):
                pending.result()

    def check(self) -> None:
        """Raise the error of the last checkpoint if it has failed by now; do not wait."""
        if self._pending is not None and self._pending.done():
            self.settle()

    def close(self) -> None:
        """Wait, but raise nothing: another error may be on its way."""
        if self._pending is not None:
            with working("saving a checkpoint"):
                wait([self._pending])
        if self._thread is not None:
            self._thread.shutdown()

    def _write(
        self,
        snapshot: Snapshot,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        drop: Sequence[Path],
    ) -> None:
        """Write a checkpoint, replacing one of the same name, then remove those in `drop`.

        Every rank does its part.
        """
        folder = self._folder / step_name(snapshot.state.step)
        unfinished = folder.with_name(f".{folder.name}.partial")
        try:
            if rank() == 0:
                make_folder(unfinished)
                weights = {} if snapshot.in_shards else snapshot.weights
                save_model(unfinished, model, weights, self._generation)
                tokenizer.save_pretrained(unfinished)
                (unfinished / STATE).write_text(json.dumps(asdict(snapshot.state)) + "\n")
            if snapshot.in_shards:
                _save(unfinished, snapshot.weights, self._group, put_together=True)
                if rank() == 0:
                    shutil.rmtree(unfinished / "sharded")
                    _rename_if_alone(unfinished)
            _save(unfinished / LEARNER, snapshot.beside, self._group)
            _write_manifest(unfinished, self._group)
            if rank() == 0:
                _rename(unfinished, folder)
        except (Exception, CheckpointException) as error:
            if rank() == 0:
                shutil.rmtree(unfinished, ignore_errors=True)
            raise _cause(error, folder) from error
        if rank() == 0:
            for old in drop:
                remove_folder(old)


def _snapshot(learner: Learner, state: TrainState, *, copy: bool) -> Snapshot:
    """Return the learner's tensors; with `copy`, copies that later training does not change."""
    beside = learner.state_tensors() | {"rng/torch": torch.get_rng_state()}
    if any(adapter_parameters(learner.model)):
        beside["base"] = base_fingerprint(learner.model)
    in_shards = num_ranks() > 1 and _is_saved_as_named(learner)
    weights = learner.plain_state() if in_shards else _gathered(learner)
    if copy:
        return Snapshot(dict(_copied(weights)), in_shards, dict(_copied(beside.items())), state)
    return Snapshot(dict(weights), in_shards, beside, state)


def _is_saved_as_named(learner: Learner) -> bool:
    """Return True if the model's file names its tensors as the model does, so ranks can write it.

    Names differ with experts, which transformers joins while it loads. Rank 0 gathers such a model,
    and transformers splits it again. A model with a tensor of no dimension is gathered too: torch
    would assemble the ranks' parts of it to 0.
    """
    if any(tensor.dim() == 0 for tensor in learner.model.state_dict().values()):
        return False
    shapes = {name: parameter.shape for name, parameter in base_parameters(learner.model)}
    named = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    saved = revert_weight_conversion(learner.model, named)
    return {name: tensor.shape for name, tensor in saved.items()} == shapes


def _gathered(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain model's tensors, gathered on rank 0; nothing on other ranks."""
    for name, tensor in learner.plain_state():
        gathered = on_rank_0(tensor)
        if rank() == 0:
            yield name, gathered


def _copied(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield copies in main memory, sharded as the tensors are, which training will not change."""
    stager = DefaultStager(StagingOptions(False, False, False, False))
    for name, tensor in tensors:
        staged: dict[str, Tensor] = stager.stage({name: tensor})  # type: ignore[assignment]  # at once
        yield name, staged[name]
    stager.close()


def save_model(
    folder: Path,
    model: PreTrainedModel,
    weights: dict[str, Tensor] | None,
    generation: bytes | None,
) -> None:
    """Write a model's configuration and weights (None: its own).

    Its generation_config.json becomes `generation`, unchanged, and is left out for None: how to
    sample from the model is its author's choice, and the library writes only part of what it reads.
    """
    model.save_pretrained(folder, state_dict=weights)
    file = folder / GENERATION_CONFIG
    if generation is None:
        file.unlink(missing_ok=True)
    else:
        file.write_bytes(generation)


def check_saving(model: PreTrainedModel, tokenizer: Tokenizer, name: str) -> None:
    """Raise UserError unless the configuration and the tokenizer of a checkpoint can be written.

    Either may load but fail to be saved. `name` is the name of the model in messages.
    """
    with TemporaryDirectory() as folder:
        try:
            save_model(Path(folder), model, {}, None)
            tokenizer.save_pretrained(folder)
        except OSError:  # of the disk
            raise
        except Exception as error:
            raise UserError(
                f"{name} can be loaded but not saved, so no checkpoint could be written "
                f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); correct its "
                "configuration or tokenizer files"
            ) from error


def _save(
    folder: Path,
    tensors: dict[str, Tensor],
    group: dist.ProcessGroup | None,
    *,
    put_together: bool = False,
) -> None:
    """Write each rank's shards as safetensors; with `put_together`, consolidated files too."""
    writer = HuggingFaceStorageWriter(
        str(folder),
        fqn_to_index_mapping=_files_by_size(tensors),
        save_distributed=True,
        enable_consolidation=put_together,
    )
    save(tensors, storage_writer=writer, process_group=group, no_dist=group is None)  # type: ignore[arg-type]  # a dict of tensors is a state dict


def _files_by_size(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Map each tensor to the number, from 1, of the file that it goes to."""
    files, size = {}, 0
    for name, tensor in tensors.items():
        size += tensor.numel() * tensor.element_size()
        files[name] = math.ceil(size / MAX_FILE_BYTES) or 1
    numbers = {file: i for i, file in enumerate(sorted(set(files.values())), 1)}
    return {name: numbers[file] for name, file in files.items()}


def _rename_if_alone(folder: Path) -> None:
    """Rename a single file of weights to the name that `save_pretrained` uses."""
    files = list(folder.glob("model-*.safetensors"))
    if len(files) == 1:
        os.replace(files[0], folder / "model.safetensors")
        (folder / "model.safetensors.index.json").unlink()


def _write_manifest(folder: Path, group: dist.ProcessGroup | None) -> None:
    """Write sizes and hashes of all files; each rank reads what it wrote itself.

    Afterwards all files are on the disk, except for the lists of names in their folders.
    """
    shards = f"shard-{rank() + 1:05d}-*"
    mine = [path for path in folder.rglob(shards) if path.is_file()]
    if rank() == 0:
        others = (path for path in folder.rglob("*") if not path.name.startswith("shard-"))
        mine += [path for path in others if path.is_file()]
    for path in mine:
        sync(path)
    found = {str(path.relative_to(folder)): fingerprint(path) for path in mine}
    files: dict[str, Fingerprint] = {}
    for part in gather(found, group):
        files |= part
    if rank() == 0:
        listed = {name: asdict(files[name]) for name in sorted(files)}
        write_text(folder / MANIFEST, json.dumps(listed, indent=2) + "\n")


def _rename(unfinished: Path, folder: Path) -> None:
    """Give a checkpoint, whose files are on the disk, its final name; replace an older one."""
    sync_folders(unfinished)
    remove_folder(folder)
    os.replace(unfinished, folder)
    sync(folder.parent)


def _cause(error: BaseException, folder: Path) -> Exception:
    """Return a rank's original error, or the system's error behind a library's text."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    if isinstance(error, SafetensorError):
        return system_error(error, folder)
    return error if isinstance(error, Exception) else RuntimeError(str(error))


def system_error(error: SafetensorError, folder: Path) -> Exception:
    """Return the system's error, such as a full disk, that safetensors reports as text, if any."""
    passed_on = re.search(r"os error (\d+)", str(error))
    if passed_on is None:
        return error
    number = int(passed_on[1])
    return OSError(number, os.strerror(number), str(folder))
