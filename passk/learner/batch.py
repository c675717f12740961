"""Turn groups and advantages into weighted rows, and rows into micro-batches of tensors.

Weights carry the whole normalisation (counts of *sampled* completions), so the gradient is the
same however rows are merged, skipped, ordered or split into micro-batches.
"""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from passk.types import Group


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A prompt with one completion, and the weights of the completion's log-probability.

    `weights` holds one number per objective; training and diagnostics feed one at a time.
    `samples` are the (prompt, sample) indices that were merged into the row. `sampler_logprobs`
    has one number per completion token, and is empty if nothing was sampled.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    weights: tuple[float, ...]
    samples: tuple[tuple[int, int], ...] = ()
    sampler_logprobs: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


_ANCHOR = TokenRow((0,), (0,), (0.0,))


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows padded on the right: ids and completion mask [B, T], weights [B, objectives].

    `sampled_BT` marks the tokens that have a number in `sampler_logprobs_BT`.
    """

    input_ids_BT: Tensor
    mask_BT: Tensor
    weights_BO: Tensor
    sampler_logprobs_BT: Tensor
    sampled_BT: Tensor
    rows: tuple[int, ...]  # positions in the list of rows that was batched


def advantage_weights(advantages_PG: np.ndarray, rewards_PG: np.ndarray) -> np.ndarray:
    """Compute A_i / (P n_x), the weight of each sample in the estimated gradient, [P, n].

    P counts all sampled prompts and n_x the judged samples of the prompt, also where advantages
    are zero. Samples that were not judged (NaN reward) have weight 0.
    """
    judged_P1 = np.maximum((~np.isnan(rewards_PG)).sum(axis=1, keepdims=True), 1)
    weights_PG: np.ndarray = advantages_PG / (len(advantages_PG) * judged_P1)
    return weights_PG


def make_rows(
    groups: Sequence[Group],
    weights_PGO: np.ndarray,
    *,
    merge_identical: bool = True,
    skip_zero: bool = True,
) -> list[TokenRow]:
    """Make rows for the learner; identical completions of a prompt share one, with summed weights.

    `weights_PGO` is [P, n, objectives]. With `skip_zero`, rows whose weights are all zero are left
    out, as they add nothing to any gradient. Without `merge_identical` every sample has its row.
    """
    merged: dict[tuple[int, object], list[tuple[int, int]]] = {}
    for p, group in enumerate(groups):
        for i, completion in enumerate(group.completions):
            identity = completion.token_ids if merge_identical else i
            merged.setdefault((p, identity), []).append((p, i))
    rows = []
    for (p, _), samples in merged.items():
        weights = weights_PGO[p, [i for _, i in samples]].sum(axis=0)
        if skip_zero and not weights.any():
            continue
        completion = groups[p].completions[samples[0][1]]
        rows.append(
            TokenRow(
                prompt_ids=groups[p].prompt_ids,
                completion_ids=completion.token_ids,
                weights=tuple(weights.tolist()),
                samples=tuple(samples),
                sampler_logprobs=completion.logprobs,
            )
        )
    return rows


def micro_batches(
    rows: Sequence[TokenRow],
    max_tokens: int,
    device: torch.device,
    rank: int = 0,
    num_ranks: int = 1,
) -> Iterator[TokenBatch]:
    """Yield batches of rows of similar length with at most `max_tokens` padded tokens each.

    A longer row is a batch by itself. With several ranks, all given the same rows, yield the
    batches of `rank`: each rank gets about the same number of tokens. All ranks get the same number
    of batches, because their forward and backward passes wait for each other: a rank with fewer
    gets batches of one token with weight 0. Without rows there are no batches.
    """
    cuts = [_cut(rows, chosen, max_tokens) for chosen in balanced(list(map(len, rows)), num_ranks)]
    for turn in range(max(map(len, cuts))):
        if turn < len(cuts[rank]):
            yield _pad(rows, cuts[rank][turn], device)
        else:
            yield replace(_pad([_ANCHOR], [0], device), rows=())


def balanced(lengths: Sequence[int], num_shares: int) -> list[list[int]]:
    """Deal items out, longest first, each to the shortest share so far; return places in order."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    totals = [(0, number) for number in range(num_shares)]
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        total, number = heapq.heappop(totals)
        shares[number].append(place)
        heapq.heappush(totals, (total + lengths[place], number))
    return [sorted(share) for share in shares]


def _cut(rows: Sequence[TokenRow], chosen: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split the places of rows, by length, into parts of at most `max_tokens` padded tokens."""
    order = sorted(chosen, key=lambda b: len(rows[b]))
    parts, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(rows[order[stop]]) <= max_tokens:
            stop += 1
        parts.append(order[start:stop])
        start = stop
    return parts


def _pad(rows: Sequence[TokenRow], chosen: Sequence[int], device: torch.device) -> TokenBatch:
    width = max(len(rows[b]) for b in chosen)
    input_ids_BT = np.zeros((len(chosen), width), dtype=np.int64)
    mask_BT, sampled_BT = np.zeros((2, len(chosen), width), dtype=bool)
    sampler_logprobs_BT = np.zeros((len(chosen), width), dtype=np.float32)
    for i, b in enumerate(chosen):
        row = rows[b]
        input_ids_BT[i, : len(row)] = row.prompt_ids + row.completion_ids
        completion = slice(len(row.prompt_ids), len(row))
        mask_BT[i, completion] = True
        if row.sampler_logprobs:
            sampled_BT[i, completion] = True
            sampler_logprobs_BT[i, completion] = row.sampler_logprobs
    weights_BO = np.array([rows[b].weights for b in chosen], dtype=np.float32)
    return TokenBatch(
        torch.from_numpy(input_ids_BT).to(device),
        torch.from_numpy(mask_BT).to(device),
        torch.from_numpy(weights_BO).to(device),
        torch.from_numpy(sampler_logprobs_BT).to(device),
        torch.from_numpy(sampled_BT).to(device),
        tuple(chosen),
    )
