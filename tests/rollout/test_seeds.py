"""Seeds are distinct per sample, and their uniforms are the published SplitMix64 streams."""

from itertools import product

import numpy as np

from passk.rollout.base import group_seeds, sample_seed, uniforms

# The first outputs of the reference C code (Vigna, splitmix64.c) for seed 1234567.
REFERENCE_SEED = 1234567
REFERENCE = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)


def streams(seeds: np.ndarray, num_draws: int) -> np.ndarray:
    """The first draws of each seed's stream, [B, T]."""
    return uniforms(seeds[:, None], np.arange(num_draws))


def splitmix64(seed: int, num_draws: int) -> list[int]:
    """SplitMix64 in plain integers, as its authors wrote it: a running state, not a counter."""
    word, state, outputs = 2**64 - 1, seed, []
    for _ in range(num_draws):
        state = (state + 0x9E3779B97F4A7C15) & word
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & word
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & word
        outputs.append(mixed ^ (mixed >> 31))
    return outputs


def test_sample_seed_is_distinct_in_every_part_of_its_key():
    parts = product(
        range(4), ("train", "eval", "diagnose"), range(12), ("p-1", "p-11", "p-2"), range(16)
    )
    seeds = [sample_seed(*key) for key in parts]
    assert len(set(seeds)) == len(seeds) == 4 * 3 * 12 * 3 * 16


def test_sample_seed_does_not_confuse_neighbouring_fields():
    # Without separators these would be the same text.
    assert sample_seed(1, "train", 2, "3", 4) != sample_seed(1, "train", 23, "", 4)
    assert sample_seed(0, "train", 1, "p1", 2) != sample_seed(0, "train", 1, "p", 12)
    assert sample_seed(1, "1train", 0, "p", 0) != sample_seed(11, "train", 0, "p", 0)


def test_sample_seed_is_63_bits_and_fills_them():
    seeds = np.array([sample_seed(0, "train", 0, "p", i) for i in range(4000)])
    assert seeds.dtype == np.int64 and (seeds >= 0).all()  # what an engine's int64 can take
    set_bits = (seeds[:, None] >> np.arange(63)) & 1
    assert np.abs(set_bits.mean(axis=0) - 0.5).max() < 0.05


def test_sample_seed_does_not_change_between_versions():
    # A run must repeat after an upgrade; a change of this number is a change of every result.
    assert sample_seed(0, "train", 0, "train-0-0", 0) == 5974022296207401183


def test_group_seeds_are_the_sample_seeds_and_extend():
    few = group_seeds(7, "eval", 3, ["a", "b"], 4)
    many = group_seeds(7, "eval", 3, ["b", "c", "a"], 9)
    assert few == [[sample_seed(7, "eval", 3, x, i) for i in range(4)] for x in "ab"]
    assert many[2][:4] == few[0] and many[0][:4] == few[1]


def test_uniforms_are_the_reference_sequence():
    assert tuple(splitmix64(REFERENCE_SEED, 5)) == REFERENCE
    drawn = streams(np.array([REFERENCE_SEED], dtype=np.uint64), 5)
    assert drawn.dtype == np.float64 and drawn.shape == (1, 5)
    assert drawn[0].tolist() == [(value >> 11) / 2**53 for value in REFERENCE]


def test_uniforms_agree_with_plain_integers_for_any_seed():
    seeds = [0, 1, 2**32, 2**63 - 1, 2**64 - 1, sample_seed(0, "train", 0, "p", 0)]
    drawn = streams(np.array(seeds, dtype=np.uint64), 40)
    expected = [[(value >> 11) / 2**53 for value in splitmix64(seed, 40)] for seed in seeds]
    assert drawn.tolist() == expected


def test_uniforms_do_not_depend_on_the_batch_or_the_number_of_draws():
    seeds = np.array(group_seeds(0, "train", 0, ["p"], 50)[0], dtype=np.uint64)
    together = streams(seeds, 32)
    order = np.random.default_rng(0).permutation(50)
    assert (streams(seeds[order], 32) == together[order]).all()
    assert (streams(seeds[:1], 32) == together[:1]).all()
    assert (streams(seeds, 7) == together[:, :7]).all()
    ragged = np.random.default_rng(1).integers(32, size=50)  # samples that are at different tokens
    assert (uniforms(seeds, ragged) == together[np.arange(50), ragged]).all()


def test_uniforms_lie_in_the_unit_interval_and_are_uniform():
    seeds = np.array(group_seeds(0, "train", 0, ["p", "q"], 2000), dtype=np.uint64).ravel()
    drawn = streams(seeds, 32)
    assert drawn.min() >= 0.0 and drawn.max() < 1.0
    counts = np.bincount((drawn.ravel() * 64).astype(int), minlength=64)
    expected = drawn.size / 64
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert 63 - 4 * np.sqrt(2 * 63) < chi_square < 63 + 4 * np.sqrt(2 * 63)
    # Neither the draws of a sample nor the samples of a draw are correlated.
    for left, right in ((drawn[:, :-1], drawn[:, 1:]), (drawn[:-1], drawn[1:])):
        correlation = np.corrcoef(left.ravel(), right.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(left.size)
