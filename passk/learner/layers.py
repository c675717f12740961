"""The layers of a model: what is trained, kept in memory and compiled is decided by layer."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from passk.errors import UserError


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The model's layers, as transformers marks them; none where it does not."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def freeze_outside(model: PreTrainedModel, parameters: str) -> nn.Module:
    """Let only the weights that `diagnose.parameters` names have gradients; the module of these.

    `all` changes nothing. To be called before the model is cut into shards, and before a learner
    is made of it.
    """
    if parameters == "all":
        return model
    layers = layers_of(model)
    if not layers:
        raise UserError(
            f"diagnose.parameters={parameters}, but {type(model).__name__} has no layers that "
            "transformers marks as such; use diagnose.parameters=all"
        )
    chosen = layers[-1] if parameters == "last_layer" else _final_norm(model, layers)
    model.requires_grad_(False)
    return chosen.requires_grad_(True)


def _final_norm(model: PreTrainedModel, layers: Sequence[nn.Module]) -> nn.Module:
    """The last module beside the layers whose own weights are vectors of the hidden size."""
    within = {id(module) for layer in layers for module in layer.modules()}
    size = model.config.get_text_config().hidden_size
    found = [
        module
        for module in model.modules()
        if id(module) not in within
        and (shapes := {tuple(p.shape) for p in module.parameters(recurse=False)})
        and shapes == {(size,)}
    ]
    if not found:
        raise UserError(
            f"diagnose.parameters=final_norm, but {type(model).__name__} has no weights after its "
            "layers that are vectors of the hidden size; use diagnose.parameters=last_layer"
        )
    return found[-1]


def checkpoint_layers(model: nn.Module) -> None:
    """Let every layer keep its input only, and compute the rest again for the backward pass.

    transformers' own switch works in training mode alone, where dropout would be on too.
    """
    for layer in _wanted_layers(model, "gradient_checkpointing", "checkpointed"):
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )


def compile_layers(model: nn.Module, device: torch.device) -> None:
    """Compile what every layer computes, for batches of any shape (torch.compile).

    The layers share their code, so it is compiled once. What happens around a layer, such as
    putting its shards together, stays as it is, and so does the head.
    """
    layers = _wanted_layers(model, "compile", "compiled")
    _try_compiler(device)
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)


def _wanted_layers(model: nn.Module, key: str, participle: str) -> list[GradientCheckpointingLayer]:
    layers = layers_of(model)
    if not layers:
        raise UserError(
            f"learner.{key}=true, but {type(model).__name__} has no layers that can be "
            f"{participle}; leave it false"
        )
    return layers


def _try_compiler(device: torch.device) -> None:
    """Refuse to go on where torch cannot compile, which it would say in a long traceback."""
    double = torch.compile(lambda x: x + x, options={"fx_graph_cache": False})
    try:
        double(torch.ones(2, device=device))
    except Exception as error:  # of many kinds: no compiler, no Triton, one that is too old
        raise UserError(
            f"learner.compile=true, but torch.compile does not work on {device.type} here "
            f"({_reason(error)}); install a C++ compiler (on GPUs Triton too), or leave it false"
        ) from error


def _reason(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
