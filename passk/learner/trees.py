"""Lay out the completions of a prompt as one tree, so that a shared prefix is computed once.

The samples of a prompt share the prompt, and often the start of the answer. A tree holds every
distinct prefix token as one node: its position is its depth, and it attends to its ancestors alone.
The log-probability of a row is the sum over the nodes of its path, so losses and gradients are
those of the rows, over fewer tokens.

It is exact where a token depends on the tokens before it through attention and positions only.
`passk.learner.logprobs.longest_path` finds the models for which it is not.

Nodes are in depth-first order, so the descendants of a node are those between it and its end: node
n attends to node m if m <= n < end of m.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from passk.learner.batch import TokenRow


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Rows of one prompt as a tree of N nodes, in depth-first order.

    The first `prompt_length` nodes are the prompt. `ends_N` is the first node after a node that is
    not below it. `rows` are the places of the rows in the list that was batched, and `paths` the
    nodes of each row's completion.
    """

    prompt_length: int
    tokens_N: np.ndarray
    parents_N: np.ndarray  # -1 at the root
    ends_N: np.ndarray
    depths_N: np.ndarray
    rows: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens_N)


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """What bounds a tree: the tokens of a path, the nodes, and the price of attention.

    Without a path (0) there are no trees. Where each node is compared with all others, as by a
    dense mask, a tree of N nodes costs N (`token_cost` + N) and a row of T tokens
    T (`token_cost` + T): a row joins a tree only where that costs less. `token_cost` is infinite
    where ancestors alone are compared.
    """

    longest_path: int = 0
    max_nodes: int = sys.maxsize
    token_cost: float = math.inf

    def joins(self, num_nodes: int, num_new: int, length: int) -> bool:
        """Return True if a row of `length` tokens should add `num_new` nodes to a tree."""
        if num_nodes + num_new > self.max_nodes:
            return False
        if math.isinf(self.token_cost):
            return True
        added = num_new * (self.token_cost + 2 * num_nodes + num_new)
        return added <= length * (self.token_cost + length)


def prefix_trees(
    rows: Sequence[TokenRow], limits: TreeLimits
) -> tuple[list[PrefixTree], list[int]]:
    """Return the trees of rows with a common prompt, and the places of all other rows.

    A prompt whose rows do not fit in one tree has several. Rows that are too long, and rows alone
    with their prompt, are left as rows.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for b, row in enumerate(rows):
        if len(row) <= min(limits.longest_path, limits.max_nodes):
            by_prompt.setdefault(row.prompt_ids, []).append(b)
    trees = []
    for places in by_prompt.values():
        # Neighbours in this order share the longest prefixes, so a cut between them costs least.
        places.sort(key=lambda b: (rows[b].completion_ids, b))
        start = 0
        while start < len(places):
            tree, start = _grow(rows, places, start, limits)
            trees.append(tree)
    trees = [tree for tree in trees if len(tree.rows) > 1]
    in_trees = {b for tree in trees for b in tree.rows}
    return trees, [b for b in range(len(rows)) if b not in in_trees]


def _grow(
    rows: Sequence[TokenRow], places: Sequence[int], start: int, limits: TreeLimits
) -> tuple[PrefixTree, int]:
    """Make a tree of the rows at `places[start:]`, as many as fit; return the first left out."""
    prompt = rows[places[start]].prompt_ids
    tokens, parents = list(prompt), list(range(-1, len(prompt) - 1))
    depths = list(range(len(prompt)))
    paths: list[tuple[int, ...]] = []
    before: tuple[int, ...] = ()
    for b in places[start:]:
        completion = rows[b].completion_ids
        shared = _num_shared(before, completion) if paths else 0
        if paths and not limits.joins(len(tokens), len(completion) - shared, len(rows[b])):
            break
        path = list(paths[-1][:shared]) if paths else []
        for token in completion[shared:]:
            parents.append(path[-1] if path else len(prompt) - 1)
            depths.append(len(prompt) + len(path))
            path.append(len(tokens))
            tokens.append(token)
        paths.append(tuple(path))
        before = completion
    stop = start + len(paths)
    tree = PrefixTree(
        prompt_length=len(prompt),
        tokens_N=np.array(tokens),
        parents_N=np.array(parents),
        ends_N=_ends(parents),
        depths_N=np.array(depths),
        rows=tuple(places[start:stop]),
        paths=tuple(paths),
    )
    return tree, stop


def _ends(parents: Sequence[int]) -> np.ndarray:
    """Return the first node after each node's descendants."""
    ends_N = np.arange(1, len(parents) + 1)
    for node in range(len(parents) - 1, 0, -1):  # a node's end is final before its parent's
        parent = parents[node]
        ends_N[parent] = max(ends_N[parent], ends_N[node])
    return ends_N


def _num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens two completions have in common."""
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)
