"""Cache of keys and values whose rows join, fork and end while others go on.

Every row writes its next token at the same column of static buffers, so a row that joins later
begins further to the right. Columns that lie left of a row's own are hidden by the attention mask;
distances between columns are those between positions, which keeps sliding windows right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PIECE_BYTES = 64 * 2**20  # copies and other temporary tensors are made in pieces of this size


@dataclass(slots=True)
class _View:
    """The part of the buffers that a forward pass reads: columns [first, now) of some rows."""

    num_rows: int
    length: int
    rows: slice
    first: int
    now: int


class _RowLayer(DynamicLayer):
    """Keys and values of one layer in buffers of [rows, heads, length, head_dim].

    Sliding-window layers keep their whole length too: the window is in the attention mask.
    """

    def __init__(self, view: _View) -> None:
        super().__init__()
        self.view = view

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: Tensor) -> Tensor:
        """Allocate without writing: on a CPU, pages that no row reaches take no memory."""
        _, heads, _, head_dim = states.shape
        return states.new_empty(self.view.num_rows, heads, self.view.length, head_dim)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        view = self.view
        end = view.now + key_states.shape[2]
        keys, values = (buffer[view.rows] for buffer in self.buffers)
        keys[:, :, view.now : end] = key_states
        values[:, :, view.now : end] = value_states
        return keys[:, :, view.first : end], values[:, :, view.first : end]

    @property
    def buffers(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.view.now - self.view.first


class RowCache(Cache):
    """Cache that `TorchSampler` passes to the model; any `AutoModelForCausalLM` accepts it."""

    def __init__(self, num_rows: int, length: int) -> None:
        # Layers share the view and not the cache, so that no cycle keeps the buffers alive.
        self.view = _View(num_rows, length, slice(num_rows), 0, 0)
        # Layers are made when the model first reaches them, so any callable that makes one works.
        super().__init__(layer_class_to_replicate=cast(Any, partial(_RowLayer, self.view)))

    def show(self, rows: slice, first: int, now: int) -> None:
        """Let the next forward pass read columns [first, now) of `rows` and write from `now` on."""
        self.view.rows, self.view.first, self.view.now = rows, first, now

    def fork(self, source: Tensor, target: Tensor, first: int, now: int) -> None:
        """Copy columns [first, now) of rows `source` [C] to `target` [C]; none may be in both."""
        for buffer in self._buffers():
            size = _piece(buffer, now - first)
            for some, others in zip(source.split(size), target.split(size), strict=True):
                buffer[others, :, first:now] = buffer[some, :, first:now]

    def clear(self, rows: slice, first: int, now: int) -> None:
        """Write zeros to columns [first, now) of `rows`, as hidden columns must not hold NaN."""
        if first < now:
            for buffer in self._buffers():
                buffer[rows, :, first:now] = 0

    def move(self, num_rows: int, first: int, now: int, by: int) -> None:
        """Move columns [first, now) of the first `num_rows` rows to the left."""
        for buffer in self._buffers():
            for rows in buffer[:num_rows].split(_piece(buffer, now - first)):
                rows[:, :, first - by : now - by] = rows[:, :, first:now].clone()

    def _buffers(self) -> list[Tensor]:
        return [b for layer in cast(list[_RowLayer], self.layers) for b in layer.buffers]


def _piece(buffer: Tensor, num_columns: int) -> int:
    """Return the number of rows whose copies take `PIECE_BYTES`, at least one."""
    row_bytes = buffer.shape[1] * max(1, num_columns) * buffer.shape[3] * buffer.element_size()
    return max(1, PIECE_BYTES // row_bytes)


@torch.inference_mode()
def row_bytes(model: PreTrainedModel) -> tuple[int, int]:
    """Return the bytes of a position's keys and values in all layers, and of a row's logits.

    One token is computed and its cache measured: no list of configurations is as complete.
    """
    cache = DynamicCache()
    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    logits: Tensor = model(input_ids=token, past_key_values=cache, use_cache=True).logits
    states = [t for layer in cast(Sequence[DynamicLayer], cache.layers) for t in _states(layer)]
    return sum(t.nbytes for t in states), logits.nbytes


def _states(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    assert layer.keys is not None and layer.values is not None
    return layer.keys, layer.values


_NAME = "passk_grouped_sdpa"


def share_grouped_heads(model: PreTrainedModel) -> None:
    """Make a model on a CPU that uses `sdpa` attend without repeating grouped keys and values.

    With a mask, transformers repeats them for each head (CUDA's kernels need that): at every
    sampled token, the whole cache. torch's CPU kernel gives the same result without copies.
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
    """Attend: query [R, H, T, D], key and value [R, H / groups, L, D] -> [R, T, H, D]."""
    if attention_mask is None or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    output = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attention_mask, scale=options.get("scaling"), enable_gqa=True
    )
    return output.transpose(1, 2).contiguous(), None
