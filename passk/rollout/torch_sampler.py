"""Sample with torch alone, computing shared prefixes once.

Each prompt is prefilled once, and samples of a prompt that have drawn identical tokens so far share
one row. A row's next-token distribution is computed once; each of its samples draws from it with
its own uniform number, and rows fork where the draws differ. This is the same function of
(weights, prompt, seed) as sampling every completion alone, only cheaper.

A budget of memory bounds the samples in flight. Samples that end leave the batch, and waiting ones
take their places, so that a long answer keeps none of the others waiting.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from passk.data.codec import CompletionCodec, stops
from passk.errors import UserError
from passk.learner.policy import end_ids
from passk.memory import free_bytes, return_free_memory
from passk.rollout.base import SamplingParams, cut_at_stop, uniforms
from passk.rollout.row_cache import PIECE_BYTES, RowCache, row_bytes, share_grouped_heads
from passk.types import Completion, FinishReason

_TAIL_TOKENS = 8  # spare: a stop text has at most one token per byte, but some decode to nothing
_PREFILL_TOKENS = 4096  # padded, of a forward pass over prompts
_CPU_BYTES = 2**30  # more does not make sampling on a CPU faster (docs/research/benchmarks.md)
_GIB = 2**30


class TorchSampler:
    """Sampler (`passk.rollout.base.Sampler`) that uses a Hugging Face model, in batches.

    The sampler owns `model`: give it a copy. `memory_gib` bounds the cache and the logits, and so
    the samples in flight; None takes a share of the free memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        memory_gib: float | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        share_grouped_heads(model)
        self.tokenizer = tokenizer
        self._codec = CompletionCodec(tokenizer)
        self.memory_gib = memory_gib
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
        return_free_memory()  # of the learner

    def holds(self, name: str, tensor: Tensor) -> bool | None:
        """See `passk.rollout.base.Sampler.holds`."""
        own = self._parameters.get(name)
        return None if own is None else torch.equal(own, tensor.to(own))

    def sleep(self) -> None:
        """Return what sampling has freed; the cache lives only while sampling."""
        return_free_memory()

    def close(self) -> None:
        """Do nothing: nothing outlives the object."""

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        seeds_PG: Sequence[Sequence[int]],
        params: SamplingParams,
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `passk.rollout.base.Sampler.sample`; the longest prompts are served first."""
        if not prompts:  # a rank of more than there are problems
            return
        seeds_B = np.array([seed for seeds in seeds_PG for seed in seeds], dtype=np.uint64)
        samples = _Samples([len(seeds) for seeds in seeds_PG], params.max_new_tokens)
        stop = stops(self.tokenizer, params.stop)
        ending = [*end_ids(self.model), *stop.token_ids]
        budget = self._budget()
        # Spare columns make it rare that rows have to move to the left.
        spare = max(16, params.max_new_tokens // 8)
        length = max(map(len, prompts)) + params.max_new_tokens + spare
        num_places = min(self._num_places(budget, length), len(seeds_B))
        waiting = _units(prompts, samples.prompt_of_B, num_places)
        rows = _Rows(self.model, num_places, length)
        piece_bytes = max(PIECE_BYTES, budget // 16)
        active = row_of = np.zeros(0, dtype=np.int64)  # samples that go on, and the row of each
        while waiting or len(active):
            units = _joining(waiting, num_places, len(active))
            if units:
                joined = rows.join([prompts[unit.prompt] for unit in units])
                sizes = [len(unit.samples) for unit in units]
                active = np.concatenate([active, *(unit.samples for unit in units)])
                row_of = np.concatenate([row_of, np.repeat(joined, sizes)])
            draws = uniforms(seeds_B[active], samples.lengths_B[active])
            token, logprob = _next_tokens(rows.logits, row_of, draws, params, piece_bytes)
            samples.append(active, token, logprob)
            ends = np.isin(token, ending)
            if stop.texts:
                ends |= self._says_stop(samples, active, stop.texts)
            samples.stopped_B[active] = ends
            ends |= samples.lengths_B[active] == params.max_new_tokens
            if complete := samples.end(active[ends]):
                yield from self._completions(samples, complete, stop.texts)
            active, row_of, token = active[~ends], row_of[~ends], token[~ends]
            longest = len(prompts[waiting[0].prompt]) if waiting else 0
            row_of = rows.fork(row_of, token, longest)

    @cached_property
    def _row_bytes(self) -> tuple[int, int]:
        return row_bytes(self.model)

    def _budget(self) -> int:
        """Return the bytes that the cache and the logits may take."""
        if self.memory_gib is not None:
            return int(self.memory_gib * _GIB)
        if self.model.device.type == "cpu":
            return min(_CPU_BYTES, free_bytes(self.model.device) // 4)
        return free_bytes(self.model.device) // 2

    def _num_places(self, budget: int, length: int) -> int:
        """Return how many samples of `length` tokens fit. Raises UserError if none fits the key."""
        position_bytes, logits_bytes = self._row_bytes
        sample_bytes = length * position_bytes + logits_bytes
        if self.memory_gib is not None and budget < sample_bytes:
            raise UserError(
                f"rollout.memory_gib={self.memory_gib:g} is too little: one sample of {length} "
                f"tokens, with its prompt, takes {sample_bytes / _GIB:.2g} GiB"
            )
        return max(1, budget // sample_bytes)

    def _says_stop(
        self, samples: "_Samples", active: np.ndarray, stop: Sequence[str]
    ) -> np.ndarray:
        """Return True for samples that have just written a stop text; only last tokens are read."""
        tail = max(len(text.encode()) for text in stop) + _TAIL_TOKENS
        tails = self._codec.decode(samples.last_tokens(active, tail))
        return np.array([any(s in tail for s in stop) for tail in tails])

    def _completions(
        self, samples: "_Samples", prompts: Sequence[int], stop: Sequence[str]
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Yield complete prompts with their completions; identical ones of a prompt are one object.

        All texts are decoded at once, as a call of a tokenizer costs more than a few texts.
        """
        members = {prompt: samples.of_prompt(prompt) for prompt in prompts}
        first_of: dict[tuple[int, tuple[int, ...]], int] = {}
        for prompt, places in members.items():
            for b in places:
                first_of.setdefault((prompt, samples.token_ids(b)), b)
        texts = self._codec.decode([tokens for _, tokens in first_of])
        made = {
            (prompt, tokens): Completion(
                text=cut_at_stop(text, stop),
                token_ids=tokens,
                logprobs=tuple(samples.logprobs_BT[b, : len(tokens)].tolist()),
                finish_reason=FinishReason.STOP if samples.stopped_B[b] else FinishReason.LENGTH,
            )
            for ((prompt, tokens), b), text in zip(first_of.items(), texts, strict=True)
        }
        for prompt, places in members.items():
            yield prompt, [made[prompt, samples.token_ids(b)] for b in places]


class _Samples:
    """What the B samples of a call have drawn so far."""

    def __init__(self, sizes: Sequence[int], max_new_tokens: int) -> None:
        self.prompt_of_B = np.repeat(np.arange(len(sizes)), sizes)
        num_samples = len(self.prompt_of_B)
        # Memory of zeros is not taken before something is written to them.
        self.tokens_BT = np.zeros((num_samples, max_new_tokens), dtype=np.int32)
        self.logprobs_BT = np.zeros((num_samples, max_new_tokens), dtype=np.float32)
        self.lengths_B = np.zeros(num_samples, dtype=np.int64)
        self.stopped_B = np.zeros(num_samples, dtype=bool)
        self._left_P = np.array(sizes)  # samples of each prompt that have not ended
        self._ends_P = np.cumsum(sizes)

    def append(self, active: np.ndarray, token: np.ndarray, logprob: np.ndarray) -> None:
        """Append a token and its log-probability to each of the samples `active`."""
        place = self.lengths_B[active]
        self.tokens_BT[active, place] = token
        self.logprobs_BT[active, place] = logprob
        self.lengths_B[active] = place + 1

    def end(self, ended: np.ndarray) -> list[int]:
        """Note that samples `ended` are complete; return the prompts whose samples all are."""
        prompts, counts = np.unique(self.prompt_of_B[ended], return_counts=True)
        self._left_P[prompts] -= counts
        complete: list[int] = prompts[self._left_P[prompts] == 0].tolist()
        return complete

    def of_prompt(self, prompt: int) -> range:
        """Return the samples of a prompt."""
        end = int(self._ends_P[prompt])
        return range(int(self._ends_P[prompt - 1]) if prompt else 0, end)

    def token_ids(self, sample: int) -> tuple[int, ...]:
        return tuple(self.tokens_BT[sample, : self.lengths_B[sample]].tolist())

    def last_tokens(self, active: np.ndarray, count: int) -> list[list[int]]:
        """Return the last `count` tokens of each of the samples `active`, or all of fewer."""
        return [
            self.tokens_BT[b, max(0, length - count) : length].tolist()
            for b, length in zip(active.tolist(), self.lengths_B[active].tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _Unit:
    """Samples of one prompt that join the batch together, and begin as one row."""

    prompt: int
    samples: np.ndarray


def _units(
    prompts: Sequence[Sequence[int]], prompt_of_B: np.ndarray, num_places: int
) -> deque[_Unit]:
    """Group the samples by prompt, the longest prompt first.

    If not all have a place at once, no unit takes more than a quarter of the places: else a few
    long answers could keep a large one waiting.
    """
    largest = num_places if len(prompt_of_B) <= num_places else max(1, num_places // 4)
    units: deque[_Unit] = deque()
    for prompt in sorted(range(len(prompts)), key=lambda p: -len(prompts[p])):
        members = np.flatnonzero(prompt_of_B == prompt)
        parts = np.array_split(members, math.ceil(len(members) / largest))
        units.extend(_Unit(prompt, part) for part in parts)
    return units


def _joining(waiting: deque[_Unit], num_places: int, num_active: int) -> list[_Unit]:
    """Take the units that join now from `waiting`: those that fit, if they are worth a prefill."""
    units: list[_Unit] = []
    free = num_places - num_active
    if num_active and free < num_places // 8:
        return units
    while waiting and len(waiting[0].samples) <= free:
        units.append(waiting.popleft())
        free -= len(units[-1].samples)
    return units


class _Rows:
    """Distinct prefixes in flight: their cache, and the logits that follow each of them."""

    def __init__(self, model: PreTrainedModel, num_places: int, length: int) -> None:
        self.model = model
        self.length = length
        self.cache = RowCache(num_places, length)
        self.starts_R = np.zeros(0, dtype=np.int64)  # the column of each row's first token
        self.now = 0  # the column of every row's next token
        self.logits: list[Tensor] = []  # [R, V], in blocks

    def join(self, prompts: Sequence[Sequence[int]]) -> np.ndarray:
        """Prefill `prompts` as rows of their own, and return these.

        They are at most as long as prompts that joined earlier, so they fit left of `now`.
        """
        if not len(self.starts_R):
            self.now = len(prompts[0])
        old = len(self.starts_R)
        first = int(self.starts_R.min(initial=self.now - len(prompts[0])))
        size = max(1, _PREFILL_TOKENS // len(prompts[0]))
        for some in (prompts[i : i + size] for i in range(0, len(prompts), size)):
            rows = slice(len(self.starts_R), len(self.starts_R) + len(some))
            begin = self.now - len(some[0])
            starts_R = self.now - np.array([len(prompt) for prompt in some])
            ids = [[0] * (len(some[0]) - len(prompt)) + list(prompt) for prompt in some]
            self.cache.show(rows, begin, begin)
            self.logits.append(self._forward(torch.tensor(ids), starts_R, begin))
            self.cache.clear(rows, first, begin)
            self.starts_R = np.concatenate([self.starts_R, starts_R])
        return np.arange(old, len(self.starts_R))

    def fork(self, row_of: np.ndarray, token: np.ndarray, waiting: int) -> np.ndarray:
        """Append `token` [B] to rows `row_of` [B], one row per distinct pair; return the rows [B].

        The first child of a row stays where its parent is, so nothing is copied while a row does
        not split. The others take rows that ended, or new ones. Prompts of up to `waiting` tokens
        will join.
        """
        vocabulary = self.logits[0].shape[1]
        self.logits = []  # free them before the next are computed
        pairs, child_of = np.unique(row_of * vocabulary + token, return_inverse=True)
        parents, tokens = np.divmod(pairs, vocabulary)
        if not len(pairs):
            self.starts_R = parents
            return row_of
        is_first = np.ones(len(pairs), dtype=bool)
        is_first[1:] = parents[1:] != parents[:-1]
        stays = is_first & (parents < len(pairs))
        slots = np.where(stays, parents, -1)
        slots[~stays] = np.setdiff1d(np.arange(len(pairs)), parents[stays], assume_unique=True)

        by_slot = np.argsort(slots)
        starts_R = self.starts_R[parents[by_slot]]
        first = int(starts_R.min())
        if not stays.all():
            source, target = torch.from_numpy(parents[~stays]), torch.from_numpy(slots[~stays])
            device = self.model.device
            self.cache.fork(source.to(device), target.to(device), first, self.now)
        if self.now == self.length:
            by = min(first, self.now - waiting)
            self.cache.move(len(pairs), first, self.now, by)
            starts_R, first, self.now = starts_R - by, first - by, self.now - by
        self.starts_R = starts_R
        self.cache.show(slice(len(pairs)), first, self.now)
        ids = torch.from_numpy(tokens[by_slot][:, None])
        self.logits = [self._forward(ids, starts_R, first)]
        self.now += 1
        return slots[child_of]

    def _forward(self, ids_RT: Tensor, starts_R: np.ndarray, first: int) -> Tensor:
        """Compute the logits [R, V] after the given tokens of the rows that the cache shows.

        These rows begin at columns `starts_R`, of which none is left of `first`.
        """
        device = self.model.device
        num_new = ids_RT.shape[1]
        end = self.cache.get_seq_length() + num_new
        padding_R1 = torch.from_numpy(starts_R - first)[:, None].to(device)
        positions_T = torch.arange(end, device=device)
        logits_R1V: Tensor = self.model(
            input_ids=ids_RT.to(device),
            attention_mask=(positions_T >= padding_R1).long() if (starts_R > first).any() else None,
            position_ids=(positions_T[-num_new:] - padding_R1).clamp(min=0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits_R1V[:, -1]


def _next_tokens(
    logits: Sequence[Tensor],
    row_of: np.ndarray,
    uniform: np.ndarray,
    params: SamplingParams,
    piece_bytes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the next token of each sample [B]; return them and their log-probabilities.

    `logits` are those of all rows, in blocks. Temporary tensors take at most `piece_bytes`, or what
    one row needs.
    """
    token, logprob = np.empty(len(row_of), dtype=np.int64), np.empty(len(row_of), dtype=np.float32)
    size = max(1, piece_bytes // (32 * logits[0].shape[1]))  # four arrays of up to eight bytes
    pieces = [piece_RV for block in logits for piece_RV in block.split(size)]
    ends = np.cumsum([len(piece_RV) for piece_RV in pieces])
    order = np.argsort(row_of, kind="stable")
    members = np.split(order, np.searchsorted(row_of[order], ends[:-1]))
    for piece_RV, end, some in zip(pieces, ends, members, strict=True):
        row = row_of[some] - (end - len(piece_RV))
        logp_RV = torch.log_softmax(piece_RV.float() / (params.temperature or 1.0), dim=-1)
        if params.temperature:
            if params.top_p < 1:
                logp_RV = _nucleus(logp_RV, params.top_p)
            drawn = _draw(logp_RV, row, uniform[some])
        else:
            drawn = logp_RV.argmax(dim=-1).cpu().numpy()[row]
        token[some] = drawn
        logprob[some] = logp_RV[_index(row, logp_RV), _index(drawn, logp_RV)].cpu().numpy()
    return token, logprob


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
    cumulative_RV = logp_RV.double().exp().cumsum_(-1)
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
