"""Shard a policy: each rank holds its part of every parameter (FSDP2), layer by layer.

A full layer exists on a rank only while it computes. Weights are read from safetensors straight
into the shards, so no rank ever holds the full model, except as in `load_sharded`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from passk.config.schema import LearnerConfig, ModelConfig
from passk.errors import UserError
from passk.learner.layers import freeze_outside, layers_of
from passk.learner.lora import adapter_parameters, add_adapters, base_parameters
from passk.learner.policy import (
    check_head,
    load_policy,
    local_folder,
    model_name,
    reading_model,
    take_end_tokens,
)
from passk.learner.weight_files import fits_by_name, not_finite, refuse_not_finite
from passk.ranks import gather, num_ranks, rank


def load_sharded(
    cfg: ModelConfig,
    path: str,
    device: torch.device,
    learner: LearnerConfig,
    seed: int,
    parameters: str = "all",
) -> PreTrainedModel:
    """Load the causal LM at `path` as `load_policy` does, with a part of it on each rank.

    Add adapters if `cfg` asks for them, and keep gradients of `parameters` only
    (`layers.freeze_outside`): both must be done before sharding.

    If the files name tensors differently from the model (experts that transformers joins while it
    loads), each rank loads the full model and then shards it. So it does if the files do not fit
    the model; then `load_policy` raises UserError.
    """
    folder = local_folder(path)
    with reading_model(path, cfg.attn_implementation):
        model = _without_weights(cfg, str(folder))
        reads_shards = fits_by_name(model, folder, model_name(path))
    if not reads_shards:
        model = load_policy(cfg, path, torch.device("cpu"))
        add_adapters(model, cfg, seed)
        shard(model, device, learner, freeze_outside(model, parameters))
        return model
    add_adapters(model, cfg, seed)
    shard(model, device, learner, freeze_outside(model, parameters))
    kept = {name: local(tensor).clone() for name, tensor in _with_values(model)}
    model.to_empty(device="cpu" if learner.cpu_offload else device)
    model.tie_weights()
    for name, tensor in _with_values(model):
        local(tensor).copy_(kept[name])
    load(dict(base_parameters(model)), storage_reader=HuggingFaceStorageReader(str(folder)))
    broken = gather(not_finite((name, local(tensor)) for name, tensor in base_parameters(model)))
    refuse_not_finite(list(dict.fromkeys(chain(*broken))), model_name(path))
    take_end_tokens(model, path)
    with reading_model(path, cfg.attn_implementation):
        check_head(model.eval(), path)
    reshard(model)
    return model


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


def whole(tensor: Tensor) -> Tensor:
    """Return the full tensor on every rank, gathered if in shards; all ranks must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def on_rank_0(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor in the main memory of rank 0; on other ranks it is empty."""
    if not isinstance(tensor, DTensor):
        return tensor
    put_together = tensor.full_tensor()  # all ranks must call this
    return put_together.cpu() if rank() == 0 else torch.empty(0)


def local(tensor: Tensor) -> Tensor:
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


def _with_values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that no file holds: buffers and adapters."""
    yield from model.named_buffers()
    yield from ((name, parameter.detach()) for name, parameter in adapter_parameters(model))


def _without_weights(cfg: ModelConfig, folder: str) -> PreTrainedModel:
    """Build the model with its buffers, and with parameters that have a shape but no memory."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=cfg.trust_remote_code)
    with _parameters_on_meta():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, cfg.dtype),
            attn_implementation=cfg.attn_implementation,
            trust_remote_code=cfg.trust_remote_code,
        )
    return model


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
