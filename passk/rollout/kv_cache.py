"""Key/value cache whose rows can fork: static buffers that hold each shared prefix once."""

from functools import partial
from typing import Any, cast

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class _RowLayer(DynamicLayer):
    """Keys and values of one layer in a buffer of [rows, heads, max_length, head_dim].

    Sliding-window layers keep their whole length too: the window is in the attention mask.
    """

    def __init__(self, max_length: int, **_: Any) -> None:
        super().__init__()
        self.max_length = max_length
        self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._buffer(key_states), self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: Tensor, num_rows: int | None = None) -> Tensor:
        rows, heads, _, head_dim = states.shape
        return states.new_zeros(num_rows or rows, heads, self.max_length, head_dim)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        num_rows, start = key_states.shape[0], self.length
        self.length += key_states.shape[2]
        self.keys[:num_rows, :, start : self.length] = key_states
        self.values[:num_rows, :, start : self.length] = value_states
        return self.keys[:num_rows, :, : self.length], self.values[:num_rows, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def copy_rows(self, source: Tensor, target: Tensor, num_rows: int) -> None:
        """Copy the prefix held by rows `source` to rows `target`, growing to `num_rows`."""
        assert self.keys is not None and self.values is not None
        if num_rows > self.keys.shape[0]:
            self.keys, self.values = (
                self._grow(self.keys, num_rows),
                self._grow(self.values, num_rows),
            )
        if len(source):
            self.keys[target, :, : self.length] = self.keys[source, :, : self.length]
            self.values[target, :, : self.length] = self.values[source, :, : self.length]

    def _grow(self, buffer: Tensor, num_rows: int) -> Tensor:
        """Grow to `num_rows`, at least twofold, so growth costs an amortised constant per row."""
        grown = self._buffer(buffer, max(num_rows, 2 * buffer.shape[0]))
        grown[: buffer.shape[0], :, : self.length] = buffer[:, :, : self.length]
        return grown


class RowCache(Cache):
    """Cache that `TorchSampler` passes to the model; any `AutoModelForCausalLM` accepts it."""

    def __init__(self, max_length: int) -> None:
        # Layers are made when the model first reaches them, so any callable that makes one works.
        super().__init__(layer_class_to_replicate=cast(Any, partial(_RowLayer, max_length)))

    def copy_rows(self, source: Tensor, target: Tensor, num_rows: int) -> None:
        """Fork rows: afterwards rows `target` [C] continue the prefixes of `source` [C].

        No row may be in both `source` and `target`. Rows from `num_rows` on are discarded.
        """
        for layer in cast(list[_RowLayer], self.layers):
            layer.copy_rows(source, target, num_rows)
