"""Lay out the completions of a prompt as one tree, so that a shared prefix is computed once.

The samples of a prompt share the prompt, and often the start of the answer. A tree holds every
distinct prefix token as one node: its position is its depth, and it attends to its ancestors alone.
The log-probability of a row is the sum over the nodes of its path, so losses and gradients are
those of the rows, over fewer tokens.

It is exact where a token depends on the tokens before it through attention and positions only.
`passk.learner.logprobs.longest_path` finds the models for which it is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from passk.learner.batch import TokenRow


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """Rows of one prompt as a tree of N nodes, every parent before its children.

    The first `prompt_length` nodes are the prompt. `rows` are the places of the rows in the list
    that was batched, and `paths` the nodes of each row's completion.
    """

    prompt_length: int
    tokens_N: np.ndarray
    parents_N: np.ndarray  # -1 at the root
    depths_N: np.ndarray
    rows: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.tokens_N)

    def ancestors_NN(self) -> np.ndarray:
        """Return True at [n, m] where node m is n itself or on the path from the root to n."""
        seen_NN = np.eye(len(self), dtype=bool)
        for node in range(1, len(self)):  # a parent's row is complete before its children's
            seen_NN[node] |= seen_NN[self.parents_N[node]]
        return seen_NN


def prefix_trees(
    rows: Sequence[TokenRow], longest: int, max_nodes: int
) -> tuple[list[PrefixTree], list[int]]:
    """Return the trees of rows with a common prompt, and the places of all other rows.

    A tree has at most `max_nodes` nodes: a prompt with more has several. Rows of more than
    `longest` tokens, rows alone with their prompt, and rows that do not fit are left as rows.
    """
    by_prompt: dict[tuple[int, ...], list[int]] = {}
    for b, row in enumerate(rows):
        if len(row) <= min(longest, max_nodes):
            by_prompt.setdefault(row.prompt_ids, []).append(b)
    trees = []
    for places in by_prompt.values():
        # Neighbours in this order share the longest prefixes, so a cut between them costs least.
        places.sort(key=lambda b: (rows[b].completion_ids, b))
        start = 0
        while start < len(places):
            tree, start = _grow(rows, places, start, max_nodes)
            trees.append(tree)
    trees = [tree for tree in trees if len(tree.rows) > 1]
    in_trees = {b for tree in trees for b in tree.rows}
    return trees, [b for b in range(len(rows)) if b not in in_trees]


def _grow(
    rows: Sequence[TokenRow], places: Sequence[int], start: int, max_nodes: int
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
        if paths and len(tokens) + len(completion) - shared > max_nodes:
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
        depths_N=np.array(depths),
        rows=tuple(places[start:stop]),
        paths=tuple(paths),
    )
    return tree, stop


def _num_shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens two completions have in common."""
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)
