"""Low-rank adapters (LoRA) inside a model, and the plain model that they amount to.

Samplers and checkpoints hold plain models: everything that leaves the learner goes through
`plain_tensors`, which is the identity where there are no adapters.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from passk.config import ModelConfig
from passk.errors import UserError


def add_adapters(model: PreTrainedModel, cfg: ModelConfig) -> None:
    """Put trainable adapters of `model.lora_rank` into the model, and freeze everything else.

    They start at zero: the policy is the same. Adapters are float32 at least. No dropout.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        raise UserError("model.lora_rank needs peft: pip install 'passk[lora]'") from None
    targets = cfg.lora_targets
    lora = LoraConfig(
        r=cfg.lora_rank,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else targets.split(),
    )
    try:
        with warnings.catch_warnings():  # what peft sets right by itself, for layers of GPT-2
            warnings.filterwarnings("ignore", message="fan_in_fan_out")
            inject_adapter_in_model(lora, model)
    except ValueError as error:  # no module is called so, or it cannot take an adapter
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
    for _, parameter in adapter_parameters(model):
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The adapters' parameters by name; none where the model has no adapters."""
    return ((name, p) for name, p in model.named_parameters() if _is_adapter(name))


def base_fingerprint(model: nn.Module) -> Tensor:
    """Sum and sum of squares of the frozen weights, which adapters are worth nothing without."""
    frozen = [p.detach().double() for p in model.parameters() if not p.requires_grad]
    sums = [torch.stack([values.sum(), values.square().sum()]) for values in frozen]
    return torch.stack(sums).sum(dim=0).cpu()


def plain_tensors(
    model: nn.Module, tensors: Iterable[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """Named tensors of the model as a model without adapters has them: W becomes W + s B A.

    One merged tensor exists at a time, in the dtype of W.
    """
    for name, tensor in tensors:
        if _is_adapter(name):
            continue
        layer_name, _, leaf = name.rpartition(".base_layer.")
        if not layer_name:
            yield name, tensor.detach()
            continue
        merged = tensor.detach()
        if leaf == "weight":
            layer: Any = model.get_submodule(layer_name)  # of peft
            with torch.no_grad():
                merged = (merged + layer.get_delta_weight("default")).to(tensor.dtype)
        yield f"{layer_name}.{leaf}", merged


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name
