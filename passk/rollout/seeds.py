"""Compute seeds that depend on the sample, never on the order of sampling.

Pass@k needs independent samples, and a run must repeat exactly however it is batched, merged,
resumed or sharded. So every sample has a seed computed from (run seed, purpose, step, problem,
sample).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sample_seed(run_seed: int, purpose: str, step: int, problem_id: str, sample: int) -> int:
    """Compute a sample's 63-bit seed; vLLM takes one per request, the torch sampler per sample."""
    key = f"{run_seed}\0{purpose}\0{step}\0{problem_id}\0{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def group_seeds(
    run_seed: int, purpose: str, step: int, problem_ids: Sequence[str], num_samples: int
) -> list[list[int]]:
    """Compute `sample_seed` of `num_samples` samples of each problem, as P lists of n.

    A problem that is in the batch twice gets other samples the second time.
    """
    return [
        [sample_seed(run_seed, purpose, step, problem_id, first + i) for i in range(num_samples)]
        for problem_id, first in zip(
            problem_ids, first_samples(problem_ids, num_samples), strict=True
        )
    ]


def first_samples(problem_ids: Sequence[str], num_samples: int) -> list[int]:
    """Return the index of each problem's first sample in a batch: 0, plus n per repetition."""
    seen = Counter[str]()
    first = []
    for problem_id in problem_ids:
        first.append(seen[problem_id] * num_samples)
        seen[problem_id] += 1
    return first


def uniforms(seeds_B: np.ndarray, num_draws: int) -> np.ndarray:
    """Draw uniform numbers in [0, 1), one SplitMix64 stream per seed: uint64 [B] -> float64 [B, T].

    The generator is counter-based (Steele, Lea and Flood 2014), so draw t of a sample is the same
    number whichever rows are still active, and a thousand streams cost one vector operation.
    """
    state_BT = seeds_B.astype(np.uint64)[:, None] + _GOLDEN * np.arange(
        1, num_draws + 1, dtype=np.uint64
    )
    mixed_BT = (state_BT ^ (state_BT >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_BT = (mixed_BT ^ (mixed_BT >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed_BT ^= mixed_BT >> np.uint64(31)
    uniform_BT: np.ndarray = (mixed_BT >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform_BT
