"""Attention with grouped heads on a CPU, without copying keys and values for each head."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "passk_grouped_sdpa"


def share_grouped_heads(model: PreTrainedModel) -> None:
    """Let a model on a CPU that uses `sdpa` attend without repeating grouped keys and values.

    Where there is a mask, transformers repeats them for each head (CUDA's kernels want it so): at
    every sampled token, the whole cache. torch's CPU kernel needs no copies, for the same result.
    """
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        AttentionInterface.register(_NAME, _grouped_sdpa)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def _grouped_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Query [R, H, T, D], key and value [R, H / groups, L, D] -> [R, T, H, D]."""
    if attention_mask is None or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attention_mask, scale=options.get("scaling"), enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None
