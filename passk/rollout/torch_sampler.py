"""Sample with torch alone, computing shared prefixes once.

Each prompt is prefilled once, and samples of a prompt that have drawn identical tokens so far share
one row. A row's next-token distribution is computed once; each of its samples draws from it with
its own uniform number, and rows fork where the draws differ. This is the same function of
(weights, prompt, seed) as sampling every completion alone, only cheaper. The key/value cache has
static buffers, whose rows can fork.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from passk.data.codec import CompletionCodec, stops
from passk.learner.policy import end_ids
from passk.rollout.base import SamplingParams, cut_at_stop, uniforms
from passk.types import Completion, FinishReason

_TAIL_TOKENS = 8  # spare: a stop text has at most one token per byte, but some decode to nothing


class TorchSampler:
    """Sampler (`passk.rollout.base.Sampler`) that uses a Hugging Face model, in batches.

    The sampler owns `model`: give it a copy. `max_batch_samples` bounds the samples in flight, and
    so the memory of the cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch_samples: int = 2048,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        share_grouped_heads(model)
        self.tokenizer = tokenizer
        self._codec = CompletionCodec(tokenizer)
        self.max_batch_samples = max_batch_samples
        self.policy_version = 0
        self.ranks_per_engine = 1
        self._parameters: dict[str, nn.Parameter] = dict(model.named_parameters())

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """Copy named parameters in place; raise KeyError for an unknown or missing name."""
        missing = set(self._parameters)
        with torch.no_grad():
            for name, tensor in weights:
                self._parameters[name].copy_(tensor)
                missing.discard(name)
        if missing:
            raise KeyError(f"no weights were given for {sorted(missing)}")
        self.policy_version = version

    def holds(self, name: str, tensor: Tensor) -> bool | None:
        """See `passk.rollout.base.Sampler.holds`."""
        own = self._parameters.get(name)
        return None if own is None else torch.equal(own, tensor.to(own))

    def sleep(self) -> None:
        """Do nothing: the cache lives only while sampling."""

    def close(self) -> None:
        """Do nothing: nothing outlives the object."""

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds_PG: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `passk.rollout.base.Sampler.sample`."""
        start = 0
        while start < len(prompts):
            stop, in_flight = start, 0
            while stop < len(prompts) and (
                stop == start or in_flight + len(seeds_PG[stop]) <= self.max_batch_samples
            ):
                in_flight += len(seeds_PG[stop])
                stop += 1
            batch = self._sample_batch(prompts[start:stop], seeds_PG[start:stop], params)
            yield from enumerate(batch, start)
            start = stop

    @torch.inference_mode()
    def _sample_batch(
        self,
        prompts: Sequence[Sequence[int]],
        seeds_PG: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> list[list[Completion]]:
        prompt_of_B = np.repeat(np.arange(len(prompts)), [len(seeds) for seeds in seeds_PG])
        seeds_B = np.array([seed for seeds in seeds_PG for seed in seeds], dtype=np.uint64)
        draws_BT = uniforms(seeds_B, params.max_new_tokens)
        tokens_BT = np.zeros(draws_BT.shape, dtype=np.int64)
        logprobs_BT = np.zeros(draws_BT.shape, dtype=np.float32)
        lengths_B = np.zeros(len(seeds_B), dtype=np.int64)
        ended_B = np.zeros(len(seeds_B), dtype=bool)

        stop = stops(self.tokenizer, params.stop)
        rows = _Rows(self.model, prompts, params.max_new_tokens)
        ending = [*rows.end_ids, *stop.token_ids]
        active = np.arange(len(seeds_B))  # samples still running
        row_of = prompt_of_B.copy()  # the row each of them is in
        for t in range(params.max_new_tokens):
            logp_RV = torch.log_softmax(rows.logits_RV.float() / (params.temperature or 1.0), -1)
            if params.temperature:
                if params.top_p < 1:
                    logp_RV = _nucleus(logp_RV, params.top_p)
                token = _draw(logp_RV, row_of, draws_BT[active, t])
            else:
                token = logp_RV.argmax(dim=-1).cpu().numpy()[row_of]
            tokens_BT[active, t] = token
            logprobs_BT[active, t] = logp_RV[_index(row_of, logp_RV), _index(token, logp_RV)].cpu()
            lengths_B[active] = t + 1
            ends = np.isin(token, ending)
            if stop.texts:
                ends |= self._says_stop(tokens_BT[active, : t + 1], stop.texts)
            ended_B[active] = ends
            active, row_of, token = active[~ends], row_of[~ends], token[~ends]
            if not len(active) or t + 1 == params.max_new_tokens:
                break
            row_of = rows.fork(row_of, token)
        return self._completions(
            prompt_of_B, tokens_BT, logprobs_BT, lengths_B, ended_B, stop.texts
        )

    def _says_stop(self, tokens_BT: np.ndarray, stop: Sequence[str]) -> np.ndarray:
        """Return True for samples that have just written a stop text; only last tokens are read."""
        tail = max(len(text.encode()) for text in stop) + _TAIL_TOKENS
        tails = self._codec.decode(tokens_BT[:, -tail:].tolist())
        return np.array([any(s in tail for s in stop) for tail in tails])

    def _completions(
        self,
        prompt_of_B: np.ndarray,
        tokens_BT: np.ndarray,
        logprobs_BT: np.ndarray,
        lengths_B: np.ndarray,
        ended_B: np.ndarray,
        stop: Sequence[str],
    ) -> list[list[Completion]]:
        """Build the P x n completions; samples that are identical share one object."""
        keys = [
            (prompt, tuple(tokens[:length]))
            for prompt, tokens, length in zip(
                prompt_of_B.tolist(), tokens_BT.tolist(), lengths_B.tolist(), strict=True
            )
        ]
        first_of = {key: b for b, key in reversed(list(enumerate(keys)))}
        texts = self._codec.decode([tokens for _, tokens in first_of])
        made = {
            (prompt, tokens): Completion(
                text=cut_at_stop(text, stop),
                token_ids=tokens,
                logprobs=tuple(logprobs_BT[b, : len(tokens)].tolist()),
                finish_reason=FinishReason.STOP if ended_B[b] else FinishReason.LENGTH,
            )
            for ((prompt, tokens), b), text in zip(first_of.items(), texts, strict=True)
        }
        completions: list[list[Completion]] = [[] for _ in range(int(prompt_of_B.max()) + 1)]
        for key in keys:
            completions[key[0]].append(made[key])
        return completions


class _Rows:
    """Distinct prefixes in flight: their cache, and the logits that follow each of them."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> None:
        self.model = model
        self.end_ids = np.array(end_ids(model))
        longest = max(map(len, prompts))
        self.cache = RowCache(longest + max_new_tokens)
        # Left padding: every row writes its next token at the same position of the buffers.
        self.padding_R = torch.tensor([longest - len(p) for p in prompts], device=model.device)
        input_ids = torch.tensor(
            [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts],
            device=model.device,
        )
        self.logits_RV = self._forward(input_ids)

    def fork(self, row_of: np.ndarray, token: np.ndarray) -> np.ndarray:
        """Append `token` [B] to rows `row_of` [B], one row per distinct pair; return the rows [B].

        The first child of a row stays where its parent is, so nothing is copied while a row does
        not split. The others take rows that ended, or new ones.
        """
        vocabulary = self.logits_RV.shape[1]
        pairs, child_of = np.unique(row_of * vocabulary + token, return_inverse=True)
        parents, tokens = np.divmod(pairs, vocabulary)
        is_first = np.ones(len(pairs), dtype=bool)
        is_first[1:] = parents[1:] != parents[:-1]
        stays = is_first & (parents < len(pairs))
        slots = np.where(stays, parents, -1)
        slots[~stays] = np.setdiff1d(np.arange(len(pairs)), parents[stays], assume_unique=True)

        device = self.model.device
        source = torch.from_numpy(parents[~stays]).to(device)
        target = torch.from_numpy(slots[~stays]).to(device)
        self.cache.copy_rows(source, target, len(pairs))
        by_slot = np.argsort(slots)
        self.padding_R = self.padding_R[torch.from_numpy(parents[by_slot]).to(device)]
        self.logits_RV = self._forward(torch.from_numpy(tokens[by_slot][:, None]).to(device))
        return slots[child_of]

    def _forward(self, input_ids_RT: Tensor) -> Tensor:
        """Compute the logits [R, V] after the last of the given tokens."""
        start = self.cache.get_seq_length()
        positions_T = torch.arange(start + input_ids_RT.shape[1], device=input_ids_RT.device)
        padding_R1 = self.padding_R[:, None]
        logits_R1V: Tensor = self.model(
            input_ids=input_ids_RT,
            attention_mask=(positions_T >= padding_R1).long() if self.padding_R.any() else None,
            position_ids=(positions_T[start:] - padding_R1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits_R1V[:, -1]


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


def _nucleus(logp_RV: Tensor, top_p: float) -> Tensor:
    """Renormalise to the likeliest tokens that together reach `top_p`; -inf for all others.

    A token stays if the likelier tokens hold less than `top_p`, and so do tokens as likely as it.
    Only as many tokens are sorted as are needed.
    """
    num_sorted, vocabulary = 256, logp_RV.shape[1]
    while True:
        sorted_RN = logp_RV.topk(min(num_sorted, vocabulary)).values
        p_RN = sorted_RN.double().exp()
        inside_RN = p_RN.cumsum(dim=-1) - p_RN < top_p
        if num_sorted >= vocabulary or not inside_RN[:, -1].any():
            break
        num_sorted *= 16
    least_R1 = sorted_RN.masked_fill(~inside_RN, math.inf).amin(dim=-1, keepdim=True)
    return logp_RV.masked_fill(logp_RV < least_R1, -math.inf).log_softmax(dim=-1)


def _draw(logp_RV: Tensor, row_of: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Invert each row's distribution function at its samples' uniforms; return tokens [B].

    Samples are laid out as [rows, samples of the row] so that no row's distribution is repeated.
    """
    order = np.argsort(row_of, kind="stable")
    sorted_rows = row_of[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_rows, sorted_rows)
    uniform_RG = np.zeros((logp_RV.shape[0], int(rank.max()) + 1))
    uniform_RG[sorted_rows, rank] = uniform[order]
    cumulative_RV = logp_RV.double().exp().cumsum(-1)
    total_R1 = cumulative_RV[:, -1:]
    target_RG = torch.from_numpy(uniform_RG).to(logp_RV.device) * total_R1
    # Stay below the total, so that rounding never selects a last token without probability.
    target_RG = torch.minimum(target_RG, total_R1.nextafter(torch.zeros_like(total_R1)))
    token_RG = torch.searchsorted(cumulative_RV, target_RG, right=True)
    token = np.empty(len(order), dtype=np.int64)
    token[order] = token_RG.cpu().numpy()[sorted_rows, rank]
    return np.minimum(token, logp_RV.shape[1] - 1)


def _index(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)


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
