"""Seeds that depend on what is sampled, never on the order in which it is sampled.

Pass@k needs independent samples, and a run must repeat exactly whatever is batched, merged, resumed
or sharded. So every sample owns a seed computed from (run seed, purpose, step, problem, sample).
"""

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sample_seed(run_seed: int, purpose: str, step: int, problem_id: str, sample: int) -> int:
    """A 63-bit seed for one sample; vLLM takes it per request, the torch sampler per row."""
    key = f"{run_seed}\0{purpose}\0{step}\0{problem_id}\0{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def group_seeds(
    run_seed: int, purpose: str, step: int, problem_ids: Sequence[str], num_samples: int
) -> list[list[int]]:
    """`sample_seed` for the next `num_samples` samples of each problem, as P lists of n.

    A problem that stands in the batch twice gets other samples the second time.
    """
    return [
        [sample_seed(run_seed, purpose, step, problem_id, first + i) for i in range(num_samples)]
        for problem_id, first in zip(
            problem_ids, first_samples(problem_ids, num_samples), strict=True
        )
    ]


def first_samples(problem_ids: Sequence[str], num_samples: int) -> list[int]:
    """The index of each problem's first sample in a batch: 0, or n more for each repetition."""
    seen = Counter[str]()
    first = []
    for problem_id in problem_ids:
        first.append(seen[problem_id] * num_samples)
        seen[problem_id] += 1
    return first


def uniforms(seeds_B: np.ndarray, num_draws: int) -> np.ndarray:
    """Uniform numbers in [0, 1), one SplitMix64 stream per seed: uint64 [B] -> float64 [B, T].

    A counter-based generator (Steele, Lea and Flood 2014), so that draw t of a sample is the same
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
