"""Find a model's layers, and freeze, checkpoint or compile them."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from passk.errors import UserError


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """Return the model's layers, as transformers marks them; none if it marks none."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def freeze_outside(model: PreTrainedModel, parameters: str) -> nn.Module:
    """Freeze all weights but those that `diagnose.parameters` names; return their module.

    `all` changes nothing. Call this before the model is sharded, and before a learner is made of
    it. Raises UserError if the model has no such weights.
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
    """Return the last module outside the layers whose own weights are vectors of hidden size."""
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
    """Make every layer keep only its input, and recompute the rest for the backward pass.

    The switch of transformers works only in training mode, where dropout would be on too.
    """
    for layer in _wanted_layers(model, "gradient_checkpointing", "checkpointed"):
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )


def compile_layers(model: nn.Module, device: torch.device) -> None:
    """Compile the forward pass of every layer, for batches of any shape (torch.compile).

    The layers share their code, so it is compiled once. Work around a layer, such as gathering its
    shards, is not compiled, nor is the head.
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
    """Raise UserError if torch cannot compile, which it would otherwise say in a long traceback."""
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
