"""The processes of one run: which of them this is, and what they exchange.

Every rank runs the same program on the same data. Where nothing was joined there is one rank, and
everything here is the identity, so that callers need not ask how many there are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """This process among those of the run; rank 0 writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(item: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """What every rank has, in the order of the ranks, on every rank.

    A thread beside the main one needs a group of its own, with all ranks in it.
    """
    if num_ranks() == 1:
        return [item]
    items: list[Any] = [None] * num_ranks()
    dist.all_gather_object(items, item, group)
    return items


def share(items: list[T], group_size: int = 1) -> list[T]:
    """The part of a list that all ranks have of this rank's group: `group_size` ranks in a row."""
    return items[rank() // group_size :: num_ranks() // group_size]


def own(shared: list[T], group_size: int = 1) -> list[T]:
    """This rank's part of the `share` of its group."""
    return shared[rank() % group_size :: group_size]


def from_own(mine: list[T], group_size: int = 1) -> list[T]:
    """The list that was dealt out by `share` and `own`, on every rank."""
    by_rank = gather(mine)
    # The order in which they were dealt out to: the first of each group, the second of each, ...
    parts = [part for member in range(group_size) for part in by_rank[member::group_size]]
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on some rank; the same answer everywhere."""
    return any(gather(flag))


def from_rank_0(item: T | None = None) -> T:
    """What rank 0 gave, on every rank."""
    items: list[Any] = [item]
    if num_ranks() > 1:
        dist.broadcast_object_list(items)
    handed: T = items[0]
    return handed


@contextmanager
def joined() -> Iterator[None]:
    """Be a rank of the group that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR)."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // neighbours))
    yield
    # Not after an error: the others would fail for it before it has been written down.
    if dist.is_initialized():  # vLLM ends it with its engine
        dist.destroy_process_group()
