"""Cut weighted rows into micro-batches of tensors: rows padded on the right, or prefix trees."""

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from passk.learner.batch import TokenRow
from passk.learner.trees import PrefixTree, TreeLimits, prefix_trees

NO_TREES = TreeLimits(longest_path=0)
_ANCHOR = TokenRow((0,), (0,), (0.0,))


@dataclass(frozen=True, slots=True)
class TreeTokens:
    """F trees padded to N nodes: what the model reads in place of rows (`passk.learner.trees`).

    `ends_FN` is the first node after a node's descendants. `nodes_M` and `parents_M` are the tokens
    of completions and the nodes that predict them, as places in the flattened [F, N]. `slots_K`
    gives the place in M of each token that the batch's mask marks, row by row.
    """

    input_ids_FN: Tensor
    positions_FN: Tensor
    ends_FN: Tensor
    nodes_M: Tensor
    parents_M: Tensor
    slots_K: Tensor


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows padded on the right: ids and completion mask [B, T], weights [B, objectives].

    `sampled_BT` marks the tokens that have a number in `sampler_logprobs_BT`. With `tree` the model
    reads trees, and the rows are completions without their prompts. `start_logprobs_BT` is None
    unless rows have such numbers.
    """

    input_ids_BT: Tensor
    mask_BT: Tensor
    weights_BO: Tensor
    sampler_logprobs_BT: Tensor
    sampled_BT: Tensor
    rows: tuple[int, ...]  # positions in the list of rows that was batched
    tree: TreeTokens | None = None
    start_logprobs_BT: Tensor | None = None

    @property
    def num_fed(self) -> int:
        """Number of tokens that the model computes, padding included."""
        return (self.input_ids_BT if self.tree is None else self.tree.input_ids_FN).numel()


def micro_batches(
    rows: Sequence[TokenRow],
    max_tokens: int,
    device: torch.device,
    ranks: tuple[int, int] = (0, 1),
    limits: TreeLimits = NO_TREES,
) -> Iterator[TokenBatch]:
    """Yield batches of similar length with at most `max_tokens` padded tokens each.

    A longer row is a batch by itself. Rows that share a prompt are fed as trees within `limits`. Of
    several `ranks`, a number and a count, all are given the same rows, and the
    batches are those of one: each gets about the same number of tokens. All ranks get the same
    number of batches, because their forward and backward passes wait for each other: a rank with
    fewer gets batches of one token with weight 0. Without rows there are no batches.
    """
    rank, num_ranks = ranks
    limits = replace(limits, max_nodes=min(limits.max_nodes, max_tokens))
    trees, single = prefix_trees(rows, limits)
    lengths = [*map(len, trees), *(len(rows[b]) for b in single)]
    cuts = []
    for chosen in balanced(lengths, num_ranks):
        of_trees = [place for place in chosen if place < len(trees)]
        of_rows = chosen[len(of_trees) :]
        cuts.append(_cut(lengths, of_trees, max_tokens) + _cut(lengths, of_rows, max_tokens))
    for turn in range(max(map(len, cuts))):
        if turn >= len(cuts[rank]):
            yield replace(_pad([_ANCHOR], [0], device), rows=())
        elif (places := cuts[rank][turn])[0] < len(trees):
            yield _pad_trees(rows, [trees[place] for place in places], device)
        else:
            yield _pad(rows, [single[place - len(trees)] for place in places], device)


def balanced(lengths: Sequence[int], num_shares: int) -> list[list[int]]:
    """Deal items out, longest first, each to the shortest share so far; return places in order."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    totals = [(0, number) for number in range(num_shares)]
    for place in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        total, number = heapq.heappop(totals)
        shares[number].append(place)
        heapq.heappush(totals, (total + lengths[place], number))
    return [sorted(share) for share in shares]


def _cut(lengths: Sequence[int], chosen: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Split places, by length, into parts of at most `max_tokens` padded tokens."""
    order = sorted(chosen, key=lambda place: lengths[place])
    parts, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= max_tokens:
            stop += 1
        parts.append(order[start:stop])
        start = stop
    return parts


def _pad(
    rows: Sequence[TokenRow],
    chosen: Sequence[int],
    device: torch.device,
    tree: TreeTokens | None = None,
) -> TokenBatch:
    """Make a batch of the rows at `chosen`: with their prompts, or, fed as a tree, without."""
    starts = [0 if tree else len(rows[b].prompt_ids) for b in chosen]
    width = max(
        start + len(rows[b].completion_ids) for start, b in zip(starts, chosen, strict=True)
    )
    input_ids_BT = np.zeros((len(chosen), width), dtype=np.int64)
    mask_BT, sampled_BT = np.zeros((2, len(chosen), width), dtype=bool)
    sampler_logprobs_BT = np.zeros((len(chosen), width), dtype=np.float32)
    for i, (start, b) in enumerate(zip(starts, chosen, strict=True)):
        row = rows[b]
        input_ids_BT[i, :start] = row.prompt_ids[:start]
        completion = slice(start, start + len(row.completion_ids))
        input_ids_BT[i, completion] = row.completion_ids
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
        tree,
        _start_logprobs([rows[b] for b in chosen], mask_BT, device),
    )


def _start_logprobs(
    chosen: Sequence[TokenRow], mask_BT: np.ndarray, device: torch.device
) -> Tensor | None:
    """Return the rows' `start_logprobs` at the places of the mask, 0 elsewhere; None if absent."""
    if not any(row.start_logprobs for row in chosen):
        return None
    logprobs_BT = np.zeros(mask_BT.shape, dtype=np.float32)
    logprobs_BT[mask_BT] = np.concatenate([row.start_logprobs for row in chosen])
    return torch.from_numpy(logprobs_BT).to(device)


def _pad_trees(
    rows: Sequence[TokenRow], trees: Sequence[PrefixTree], device: torch.device
) -> TokenBatch:
    """Make a batch of the rows of some trees. A padded node attends to itself alone."""
    width = max(map(len, trees))
    input_ids_FN, positions_FN = np.zeros((2, len(trees), width), dtype=np.int64)
    ends_FN = np.tile(np.arange(1, width + 1), (len(trees), 1))
    is_target_FN = np.zeros((len(trees), width), dtype=bool)
    parents_FN = np.zeros((len(trees), width), dtype=np.int64)
    places: list[np.ndarray] = []
    for f, tree in enumerate(trees):
        size = len(tree)
        input_ids_FN[f, :size] = tree.tokens_N
        positions_FN[f, :size] = tree.depths_N
        ends_FN[f, :size] = tree.ends_N
        parents_FN[f, :size] = tree.parents_N + f * width
        is_target_FN[f, tree.prompt_length : size] = True
        places += [np.array(path) + f * width for path in tree.paths]
    slot_of = is_target_FN.ravel().cumsum() - 1
    nodes_M = np.flatnonzero(is_target_FN)
    layout = TreeTokens(
        torch.from_numpy(input_ids_FN).to(device),
        torch.from_numpy(positions_FN).to(device),
        torch.from_numpy(ends_FN).to(device),
        torch.from_numpy(nodes_M).to(device),
        torch.from_numpy(parents_FN.ravel()[nodes_M]).to(device),
        torch.from_numpy(slot_of[np.concatenate(places)]).to(device),
    )
    return _pad(rows, [b for tree in trees for b in tree.rows], device, layout)
