"""The peak memory of a learner's update on one of many ranks, without the ranks and the memory.

The learner of passk runs on fake tensors (shape and dtype, no numbers), cut by FSDP2 over a process
group of which one rank exists. Every storage that it makes, resizes or drops is counted.
"""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from passk.learner import fsdp
from passk.learner.batch import TokenRow
from passk.learner.learner import Learner


class StorageCount(TorchDispatchMode):
    """Count the bytes of all storages that live.

    Where the learner asks for a number, which fake tensors lack, it gets 1; where it selects by a
    mask, it gets `num_selected` elements.
    """

    def __init__(self, fake: FakeTensorMode, num_selected: int) -> None:
        super().__init__()
        self.fake, self.num_selected = fake, num_selected
        self.live = self.peak = 0
        self.sizes: Any = WeakIdKeyDictionary()

    def see(self, storage: torch.UntypedStorage) -> None:
        """Note the size that a storage has now."""
        if storage not in self.sizes:
            self.sizes[storage] = size = [0]
            weakref.finalize(storage, self._drop, size)
        size = self.sizes[storage]
        self.live += storage.size() - size[0]
        size[0] = storage.size()
        self.peak = max(self.peak, self.live)

    def _drop(self, size: list[int]) -> None:
        self.live -= size[0]
        size[0] = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its parts come by here
        aten = torch.ops.aten
        if op is aten._local_scalar_dense.default:
            return 1.0
        if op is aten.nonzero.default:
            made = args[0].new_empty((self.num_selected, args[0].dim()), dtype=torch.int64)
        elif op is aten.index.Tensor and args[1][0].dtype == torch.bool:
            made = args[0].new_empty((self.num_selected,))
        else:
            made = op(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and getattr(tensor, "fake_mode", None) is self.fake:
                self.see(tensor.untyped_storage())
        return made


def _with_real_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function outside all modes: a mesh of ranks is made of numbers."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        with _disable_current_modes():
            return function(*arguments)

    return run


@contextmanager
def _one_rank(num_ranks: int, num_rows: int) -> Iterator[None]:
    """A process group of which one rank exists (none for `num_ranks` 0).

    Its collectives give tensors of the right shape. transformers must take a fake tensor for what
    it stands for, or it makes a mask for attention that it does without otherwise.
    """

    def gather(said: tuple[float, dict[int, float], Any, int]) -> list[Any]:
        return [(said[0], dict.fromkeys(range(num_rows), 0.0), *said[2:])]

    with ExitStack() as stack:
        stack.enter_context(patch("transformers.masking_utils.is_tracing", lambda *_: False))
        stack.enter_context(patch("passk.learner.learner.gather", gather))
        # everything is made where it should be, and fake adapters cannot be moved
        stack.enter_context(patch("torch.nn.Module.to", lambda module, *_, **__: module))
        if num_ranks:
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
            stack.callback(dist.destroy_process_group)
            for owner, name in ((fsdp, "_mesh"), (DeviceMesh, "__getitem__")):
                there = _with_real_numbers(getattr(owner, name))
                stack.enter_context(patch.object(owner, name, there))
        yield


def peak_of_update(
    make_learner: Callable[[], Learner], rows: list[TokenRow], num_ranks: int, num_selected: int
) -> int:
    """Bytes at the peak of the second update of one rank, when Adam has its moments.

    `rows` are those of all ranks; `num_ranks` 0 is a single process without FSDP2. `num_selected`
    counts the answers' tokens of a micro-batch.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    count = StorageCount(fake, num_selected)
    resize = torch.UntypedStorage.resize_

    def resize_and_see(storage: torch.UntypedStorage, size: int) -> None:
        resize(storage, size)
        if storage in count.sizes:
            count.see(storage)

    resized = patch.object(torch.UntypedStorage, "resize_", resize_and_see)
    with _one_rank(num_ranks, len(rows)), resized, fake, count:
        learner = make_learner()
        learner.optimizer.param_groups[0]["foreach"] = True  # as on a GPU
        learner.update(rows)
        gc.collect()
        count.peak = count.live
        learner.update(rows)
    return count.peak
