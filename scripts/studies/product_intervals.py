"""How well do intervals of f(k) and of the needed weight of Pass@1 hold on the paper's bandit?

    python scripts/studies/product_intervals.py [repetitions] [numbers of prompts] [k]

The two-prompt bandit at theta = (-2, -2), where f(k) = <grad J_k, grad J_1> is known. Prompts are
drawn, each with 16 samples, and gradients estimated as `passk diagnose` does. Of f(k): the
influences of both parts that a prompt has in the product, the jackknife of the U-statistic over
pairs of different prompts that leaves one prompt out, and that over 8 blocks. Of the weight
w = -f(k) / (f(1) - f(k)): Fieller's interval over blocks and over prompts, the jackknife of the
ratio, and percentiles of a bootstrap over prompts. Prints coverage, mean width, and how often the
exact value lies below and above. Numbers are in docs/guide/diagnose.md.
"""

import sys
from collections import defaultdict

import numpy as np
from numpy.typing import ArrayLike

from passk.diagnostics.agreement import measure, weighted
from passk.objectives.advantages import mixture_advantages
from passk.objectives.theory import passk_gradient
from passk.statistics import (
    FloatArray,
    Interval,
    bootstrap_means,
    jackknife_interval,
    jackknife_root,
    seed_interval,
)
from passk.toy.bandit import policy_at, two_prompts

NUM_SAMPLES, NUM_BLOCKS = 16, 8
THETA = np.array([-2.0, -2.0])
PROMPTS = two_prompts(0.2)
POLICY = policy_at(THETA, PROMPTS)


def draw(rng: np.random.Generator, num_prompts: int) -> tuple[FloatArray, FloatArray]:
    """Draw prompts and samples: rewards [P, n] and scores grad log pi(y|x), [P, n, D]."""
    x_P = rng.integers(2, size=num_prompts)
    p_P1 = POLICY.success_P[x_P][:, None]
    rewards_PG = (rng.random((num_prompts, NUM_SAMPLES)) < p_P1).astype(np.float64)
    towards_PD = PROMPTS.sign_P[x_P][:, None] * PROMPTS.features_PD[x_P]
    return rewards_PG, (rewards_PG - p_P1)[..., None] * towards_PD[:, None]


def gradients(rewards_PG: FloatArray, scores_PGD: FloatArray, k: int) -> FloatArray:
    """Estimate each prompt's part of grad J_k, [P, D]."""
    advantages_PG = mixture_advantages(rewards_PG, k, 0.0)
    found_PD: FloatArray = (advantages_PG[..., None] * scores_PGD).mean(axis=1)
    return found_PD


def blocks_of(values_PD: FloatArray, num_blocks: int) -> FloatArray:
    """Sum the parts of prompts m, m + M, ..., [M, D]."""
    return np.stack([values_PD[m::num_blocks].sum(axis=0) for m in range(num_blocks)])


def of_other_blocks(values_PD: FloatArray) -> FloatArray:
    """Average the parts of the prompts outside each prompt's block, [P, D]."""
    in_block_P = np.arange(len(values_PD)) % NUM_BLOCKS
    sums_MD = blocks_of(values_PD, NUM_BLOCKS)
    outside_M = len(values_PD) - np.bincount(in_block_P)
    means_MD = (sums_MD.sum(axis=0) - sums_MD) / outside_M[:, None]
    found_PD: FloatArray = means_MD[in_block_P]
    return found_PD


def pairs(first_MD: FloatArray, second_MD: FloatArray) -> tuple[float, FloatArray]:
    """Average the products of different rows, and the same without each row, [M]."""
    size, total = len(first_MD), first_MD.sum(axis=0) @ second_MD.sum(axis=0)
    own_M = (first_MD * second_MD).sum(axis=1)
    without_M = total - first_MD @ second_MD.sum(axis=0) - second_MD @ first_MD.sum(axis=0)
    left_out_M = (without_M + 2 * own_M - own_M.sum()) / ((size - 1) * (size - 2))
    return float(total - own_M.sum()) / (size * (size - 1)), left_out_M


def weight(of_k: ArrayLike, of_1: ArrayLike) -> FloatArray:
    """Compute -f(k) / (f(1) - f(k)) within [0, 1]."""
    fall, gained = -np.asarray(of_k), np.asarray(of_1) - np.asarray(of_k)
    with np.errstate(divide="ignore", invalid="ignore"):
        clipped: FloatArray = np.clip(np.where(gained > 0, fall / gained, fall > 0), 0, 1)
    return clipped


def measured(rng: np.random.Generator, num_prompts: int, k: int) -> dict[str, Interval]:
    """Compute every interval from one draw of prompts."""
    rewards_PG, scores_PGD = draw(rng, num_prompts)
    pass1_PD, passk_PD = (gradients(rewards_PG, scores_PGD, j) for j in (1, k))
    slopes_PG, towards_PG = (
        np.einsum("pgd,pd->pg", scores_PGD, of_other_blocks(values_PD))
        for values_PD in (pass1_PD, passk_PD)
    )
    agreement = measure(rewards_PG, slopes_PG, {k: weighted(rewards_PG, towards_PG, 1)})
    influences_P2 = agreement.influences_PK[:, [k - 1, 0]]
    value, left_out_P = pairs(passk_PD, pass1_PD)
    found = {
        "f: both parts of a prompt": seed_interval(influences_P2[:, 0]),
        "f: U-statistic without a prompt": jackknife_interval(left_out_P, value),
    }
    for num_blocks in (8, 16, 32):
        passk_MD, pass1_MD = (blocks_of(v_PD, num_blocks) for v_PD in (passk_PD, pass1_PD))
        scale = (num_blocks / num_prompts) ** 2
        of_k, left_k_M = pairs(scale * passk_MD, pass1_MD)
        of_1, left_1_M = pairs(scale * pass1_MD, pass1_MD)
        left_out_M2 = np.stack([left_k_M, left_1_M], axis=1)
        full = float(weight(of_k, of_1))
        ratio = jackknife_interval(weight(left_k_M, left_1_M), full)
        if num_blocks == NUM_BLOCKS:
            found["f: 8 blocks"] = jackknife_interval(left_k_M, of_k)
        found[f"w: Fieller, {num_blocks} blocks"] = jackknife_root(left_out_M2, (of_k, of_1))
        found[f"w: ratio, {num_blocks} blocks"] = Interval(
            full, max(ratio.low, 0.0), min(ratio.high, 1.0)
        )
    means_2 = influences_P2.mean(axis=0)
    without_P2 = (num_prompts * means_2 - influences_P2) / (num_prompts - 1)
    found["w: Fieller, prompts"] = jackknife_root(without_P2, (means_2[0], means_2[1]))
    drawn_R2 = bootstrap_means(influences_P2, num_resamples=1000)
    low, high = np.quantile(weight(drawn_R2[:, 0], drawn_R2[:, 1]), (0.025, 0.975))
    found["w: percentiles, prompts"] = Interval(np.nan, float(low), float(high))
    return found


def main(repetitions: int, sizes: list[int], k: int) -> None:
    """Repeat, and print a row per size and interval."""
    of_1, of_k = (float(passk_gradient(POLICY, j) @ passk_gradient(POLICY, 1)) for j in (1, k))
    exact = {"f": of_k, "w": -of_k / (of_1 - of_k)}
    print("| prompts | interval | holds (%) | mean width | exact value below (%) | above (%) |")
    print("|---:|---|---:|---:|---:|---:|")
    for num_prompts in sizes:
        rng, all_found = np.random.default_rng(5), defaultdict(list)
        for _ in range(repetitions):
            for name, interval in measured(rng, num_prompts, k).items():
                all_found[name].append((interval.low, interval.high))
        for name, ends in all_found.items():
            low, high = np.array(ends).T
            below, above = ((exact[name[0]] < low).mean(), (exact[name[0]] > high).mean())
            print(
                f"| {num_prompts} | {name} | {100 * (1 - below - above):.1f} "
                f"| {(high - low).mean():.3g} | {100 * below:.1f} | {100 * above:.1f} |"
            )


if __name__ == "__main__":
    words = [*sys.argv[1:], *("400", "192,768", "4")[len(sys.argv) - 1 :]]
    main(int(words[0]), [int(size) for size in words[1].split(",")], int(words[2]))
