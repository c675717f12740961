"""Number the processes (ranks) of one run, and exchange values between them.

Every rank runs the same program on the same data. Without a process group there is one rank, and
every function here is the identity, so callers need not ask how many ranks there are.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process in the run; rank 0 writes and prints."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Return the number of processes in the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(item: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Return the items of all ranks, in the order of the ranks, on every rank.

    A thread other than the main one needs its own `group` that holds all ranks.
    """
    if num_ranks() == 1:
        return [item]
    items: list[Any] = [None] * num_ranks()
    dist.all_gather_object(items, item, group)
    return items


def group_shard(items: list[T], group_size: int = 1) -> list[T]:
    """Return the part of `items` that belongs to this rank's group of `group_size` ranks in a row.

    `items` must be the same on every rank.
    """
    return items[rank() // group_size :: num_ranks() // group_size]


def rank_shard(shared: list[T], group_size: int = 1) -> list[T]:
    """Return this rank's part of its group's `group_shard`."""
    return shared[rank() % group_size :: group_size]


def unshard(mine: list[T], group_size: int = 1) -> list[T]:
    """Return, on every rank, the list that `group_shard` and `rank_shard` split."""
    by_rank = gather(mine)
    # The order in which items were dealt out: the first rank of each group, then the second, ...
    parts = [part for member in range(group_size) for part in by_rank[member::group_size]]
    return [parts[i % len(parts)][i // len(parts)] for i in range(sum(map(len, parts)))]


def any_rank(flag: bool) -> bool:
    """Return, on every rank, True if the flag is set on some rank."""
    return any(gather(flag))


def from_rank_0(item: T | None = None) -> T:
    """Return rank 0's item on every rank."""
    items: list[Any] = [item]
    if num_ranks() > 1:
        dist.broadcast_object_list(items)
    handed: T = items[0]
    return handed


@contextmanager
def joined() -> Iterator[None]:
    """Join the process group that the environment describes (RANK, WORLD_SIZE, MASTER_ADDR)."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, torch.get_num_threads() // neighbours))
    yield
    # Not after an error: the other ranks would fail because of it before it is written down.
    if dist.is_initialized():  # vLLM ends it with its engine
        dist.destroy_process_group()
