"""Add low-rank adapters (LoRA) to a model, and merge them into a plain model.

Samplers and checkpoints hold plain models: everything that leaves the learner goes through
`plain_tensors`, which is the identity without adapters.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.func import functional_call
from transformers import PreTrainedModel

from passk.config.schema import ModelConfig
from passk.errors import UserError
from passk.learner.fsdp import full_tensor

_HALVES = ("lora_A.", "lora_B.")
# Settings that peft corrects itself: for layers of GPT-2, and for experts that are joined.
_NO_NEWS = r"fan_in_fan_out|The following (rank|alpha)_pattern"


def add_adapters(model: PreTrainedModel, cfg: ModelConfig, seed: int) -> None:
    """Add trainable adapters of `model.lora_rank`, if above 0, to the model; freeze all else.

    B starts at zero, so the policy stays the same. A is drawn from `seed` alone, also if the model
    has no memory yet. Adapters are at least float32. No dropout. Raises UserError if peft is
    missing or `model.lora_targets` does not fit the model.
    """
    if not cfg.lora_rank:
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        raise UserError("model.lora_rank needs peft: pip install 'passk-rl[lora]'") from None
    targets = cfg.lora_targets
    lora = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else targets.split(),
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=_NO_NEWS)
            inject_adapter_in_model(lora, model, low_cpu_mem_usage=True)  # without values
    except ValueError as error:  # no module has this name, or it cannot take an adapter
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.lora_targets={targets} does not fit the model ({reason}); give all-linear or "
            "names of its linear modules"
        ) from error
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if any(isinstance(end, BaseTunerLayer) for end in ends):
        raise UserError(
            f"model.lora_targets={targets} names the embedding or the head, which stay as they "
            "are; give all-linear or names of other modules"
        )
    generator = torch.default_generator  # the one that peft draws from
    before = generator.get_state()
    generator.manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            _start(layer)
    generator.set_state(before)


def _start(layer: Any) -> None:
    """Initialise the adapters of a peft layer, on the device of its weight (CPU if on meta)."""
    weight = getattr(layer.get_base_layer(), _adapted_leaf(layer))
    device = torch.device("cpu") if weight.is_meta else weight.device
    halves = [*layer.lora_A.values(), *layer.lora_B.values()]
    for half in halves:
        half.weight = nn.Parameter(torch.empty(half.weight.shape))
    layer.reset_lora_parameters("default", init_lora_weights=True)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    for half in halves:
        half.weight = nn.Parameter(half.weight.detach().to(device, dtype))


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Return the adapters' parameters by name; none if the model has no adapters."""
    return ((name, p) for name, p in model.named_parameters() if _is_adapter(name))


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield all other parameters, by their names in a model without adapters."""
    for name, parameter in model.named_parameters():
        if not _is_adapter(name):
            yield _plain_name(name), parameter


def base_fingerprint(model: nn.Module) -> Tensor:
    """Compute sum and sum of squares of the frozen weights, which adapters depend on.

    For weights in shards the sums are over all ranks, so all ranks must call this.
    """
    total = torch.zeros(2, dtype=torch.float64)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            values = parameter.detach().double()
            sums = torch.stack([values.sum(), values.square().sum()])
            total += full_tensor(sums).cpu()
    return total


def plain_tensors(
    model: nn.Module, tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Yield named tensors of the model as a model without adapters has them: W becomes W + s B A.

    One merged tensor exists at a time, in the dtype of W and, like W, in shards or whole.
    """
    for name, tensor in tensors:
        if _is_adapter(name):
            continue
        merged = tensor.detach()
        layer = _adapting_layer(model, name)
        if layer is not None:
            delta = _delta(layer, merged)  # on the GPU, where shards wait in main memory
            merged = (merged.to(delta.device) + delta).to(tensor.device, tensor.dtype)
        yield _plain_name(name), merged


@torch.no_grad()
def _delta(layer: Any, like: Tensor) -> Tensor:
    """Compute s B A of a layer, sharded as `like` is; A and B are small enough to be gathered."""
    halves = {
        f"layer.{name}": full_tensor(parameter) for name, parameter in adapter_parameters(layer)
    }
    delta: Tensor = functional_call(_Delta(layer), halves, ())
    if not isinstance(like, DTensor):
        return delta
    everywhere = [Replicate()] * like.device_mesh.ndim
    return DTensor.from_local(delta, like.device_mesh, everywhere).redistribute(
        placements=like.placements
    )


class _Delta(nn.Module):
    """Module of the term that a peft layer adds to its weight, so that A and B can be passed in."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self) -> Tensor:
        delta: Tensor = self.layer.get_delta_weight("default")
        return delta


def _adapting_layer(model: nn.Module, name: str) -> Any:
    """Return the peft layer that adapts the parameter of this name; None if none does.

    Layers around experts are nested, and each adapts another parameter.
    """
    holder, _, leaf = name.rpartition(".")
    while holder.endswith(".base_layer"):
        holder = holder.removesuffix(".base_layer")
        layer = model.get_submodule(holder)
        if leaf == _adapted_leaf(layer):
            return layer
    return None


def _adapted_leaf(layer: Any) -> str:
    """Return the name of the parameter that a peft layer adapts."""
    leaf: str = getattr(layer, "parameter_name", "weight")
    return leaf


def _is_adapter(name: str) -> bool:
    return name.startswith(_HALVES) or any(f".{half}" in name for half in _HALVES)


def _plain_name(name: str) -> str:
    return name.replace(".base_layer", "")
