"""The layers of a model: where its memory and its compilation are decided, one layer at a time."""

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from passk.errors import UserError


def layers_of(model: nn.Module) -> list[GradientCheckpointingLayer]:
    """The model's layers, as transformers marks them; none where it does not."""
    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


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
    """Refuse to go on where torch cannot compile, which it would tell with a long traceback."""
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
