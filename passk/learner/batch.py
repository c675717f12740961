"""Turn groups and advantages into weighted rows.

Weights carry the whole normalisation (counts of *sampled* completions), so the gradient is the
same however rows are merged, skipped, ordered or split into micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from passk.types import Group


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A prompt with one completion, and the weights of the completion's log-probability.

    `weights` holds one number per objective; training and diagnostics feed one at a time. Training
    with a KL term has its weight as a second number, and `start_logprobs`, one number per
    completion token under the policy that the run started from.
    `samples` are the (prompt, sample) indices that were merged into the row. `sampler_logprobs`
    has one number per completion token, and is empty if nothing was sampled.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    weights: tuple[float, ...]
    samples: tuple[tuple[int, int], ...] = ()
    sampler_logprobs: tuple[float, ...] = ()
    start_logprobs: tuple[float, ...] = ()

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


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
