"""Shard a policy: each rank holds its part of every parameter (FSDP2), layer by layer.

A full layer exists on a rank only while it computes. `passk.learner.policy.load_sharded` loads one.
"""

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from passk.config.schema import LearnerConfig
from passk.errors import UserError
from passk.learner.layers import layers_of
from passk.ranks import num_ranks, rank


def shard(
    model: PreTrainedModel, device: torch.device, cfg: LearnerConfig, trained: nn.Module
) -> None:
    """Shard every layer, and then the rest, over the ranks; `learner.replicas` keeps copies.

    The module `trained`, which has gradients, is sharded as a unit of its own: gradients of the
    last unit (the model) are reduced only after those of other units, of which there may be none.
    """
    mesh = _mesh(device, cfg.replicas)
    dtype = getattr(torch, cfg.compute_dtype) if cfg.compute_dtype else None
    reduced = torch.float32 if dtype else None
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=reduced)
    pinned = torch.cuda.is_available()
    offload = CPUOffloadPolicy(pin_memory=pinned) if cfg.cpu_offload else OffloadPolicy()
    for module in dict.fromkeys((*layers_of(model), trained, model)):
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=offload)


def _mesh(device: torch.device, replicas: int) -> DeviceMesh:
    """Make a device mesh of ranks by shard, or (hybrid) by replica and shard."""
    if num_ranks() % replicas:
        raise UserError(
            f"learner.replicas={replicas} does not divide the {num_ranks()} ranks of the run"
        )
    if replicas == 1:
        return init_device_mesh(device.type, (num_ranks(),), mesh_dim_names=("shard",))
    sizes = (replicas, num_ranks() // replicas)
    return init_device_mesh(device.type, sizes, mesh_dim_names=("replica", "shard"))


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor on every rank, gathered if in shards; all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def on_rank_0(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor in the main memory of rank 0; on other ranks it is empty."""
    if not isinstance(tensor, DTensor):
        return tensor
    put_together = tensor.full_tensor()  # all ranks must call this
    return put_together.cpu() if rank() == 0 else torch.empty(0)


def local_tensor(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor: all of it if it is not in shards."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def reduce_gradients(model: nn.Module, now: bool) -> None:
    """Set whether the next backward pass reduces gradients over ranks, or keeps them local."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(now)


def reshard(model: nn.Module) -> None:
    """Free the full parameters that a forward pass without a backward pass has gathered.

    The next forward pass would use them, even if the shards have changed.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
