"""`alignment` on bare tensors: what it counts, what it estimates, and what its intervals mean."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from passk.diagnostics.alignment import Alignment, alignment, block_shares, needed_weight

# A made-up population of prompts: the gradients of two objectives in 24 parameters, against each
# other in the mean over prompts, and alike for any one prompt.
NUM_PARAMETERS = 24
MEANS = np.zeros((2, NUM_PARAMETERS))
MEANS[0, 0] = 0.5
MEANS[1, :2] = -0.2, 0.3
EXACT_INNER = -0.1  # <E g, E g'> = 0.5 * -0.2
EXACT_COSINE = -0.1 / math.sqrt(0.25 * 0.13)
EXACT_WEIGHT = 0.1 / (0.25 + 0.1)  # w 0.25 - (1 - w) 0.1 = 0
SAME_PROMPT_COVARIANCE = 0.6 * NUM_PARAMETERS  # E <g, g'> - <E g, E g'>


def draw_blocks(rng: np.random.Generator, num_prompts: int, num_blocks: int) -> torch.Tensor:
    """Gradients of fresh prompts [2 halves, 2 objectives, blocks, parameters]."""
    shape = (num_prompts, NUM_PARAMETERS)
    common_PD, other_PD = rng.standard_normal((2, *shape))
    of_prompt = MEANS[:, None] + np.stack([common_PD, 0.6 * common_PD + 0.8 * other_PD])
    # The samples of a half are the same ones for both objectives, so their noise is too.
    sampled = of_prompt + rng.standard_normal((2, 1, *shape))
    blocks = sampled.reshape(2, 2, num_prompts // num_blocks, num_blocks, NUM_PARAMETERS).sum(2)
    return torch.from_numpy(blocks / num_prompts)


def agreement(gradients: torch.Tensor, first: int = 0, second: int = 1) -> Alignment:
    return alignment(gradients[:, first], gradients[:, second])


def test_the_inner_product_is_the_populations_and_not_that_of_the_prompts_drawn():
    num_prompts, repetitions = 64, 400
    rng = np.random.default_rng(0)
    between, every = np.empty(repetitions), np.empty(repetitions)
    for i in range(repetitions):
        gradients = draw_blocks(rng, num_prompts, 16)
        between[i] = agreement(gradients).inner_product.value
        (a_A, b_A), (a_B, b_B) = gradients.sum(dim=2)
        every[i] = float(a_A @ b_B + b_A @ a_B) / 2

    error = between.std(ddof=1) / math.sqrt(repetitions)
    assert abs(between.mean() - EXACT_INNER) < 4 * error
    assert between.mean() + 4 * error < 0
    # Each prompt's product with itself has weight 1/P, here enough to turn the sign.
    shift = SAME_PROMPT_COVARIANCE / num_prompts
    error = every.std(ddof=1) / math.sqrt(repetitions)
    assert abs(every.mean() - EXACT_INNER - shift) < 4 * error
    assert shift > 20 * error and every.mean() > 4 * error


def test_intervals_cover_the_populations_values():
    rng, repetitions = np.random.default_rng(1), 200
    drawn = [draw_blocks(rng, 1024, 16) for _ in range(repetitions)]
    measured = [agreement(gradients) for gradients in drawn]
    for exact, intervals in (
        (EXACT_INNER, [m.inner_product for m in measured]),
        (EXACT_COSINE, [m.cosine for m in measured]),
        (EXACT_WEIGHT, [needed_weight(*gradients.sum(dim=0).flip(0)) for gradients in drawn]),
    ):
        covered = np.mean([i.low <= exact <= i.high for i in intervals])
        assert 0.9 <= covered <= 0.99  # 0.95, and 0.015 is one standard error
        if exact < 0:
            assert np.mean([i.high < 0 for i in intervals]) > 0.8


def test_an_objective_is_aligned_with_itself():
    gradients = draw_blocks(np.random.default_rng(2), 512, 4)
    for objective in (0, 1):
        measured = agreement(gradients, objective, objective)
        cosine = measured.cosine
        assert [cosine.low, cosine.value, cosine.high] == pytest.approx([1.0, 1.0, 1.0])
        assert measured.inner_product.value > 0
        assert agreement(torch.stack([gradients[:, objective]] * 2, dim=1)) == measured


def test_alignment_by_hand():
    """Three blocks, one parameter, everything multiplied out."""
    a_A, a_B = [1.0, 2.0, 3.0], [1.0, 1.0, 2.0]
    b_A, b_B = [2.0, 1.0, -1.0], [1.0, 0.0, 2.0]
    measured = agreement(torch.tensor([[a_A, b_A], [a_B, b_B]])[..., None])
    # All pairs of blocks less the three with itself, and 9 / 6 for the pairs left out:
    # <a_A, b_B>: 6 * 3 - (1 + 0 + 6) = 11       <b_A, a_B>: 2 * 4 - (2 + 1 - 2) = 7
    # <a_A, a_B>: 6 * 4 - (1 + 2 + 6) = 15       <b_A, b_B>: 2 * 3 - (2 + 0 - 2) = 6
    assert measured.inner_product.value == pytest.approx(9 / 6 * (11 + 7) / 2)
    assert measured.cosine.value == pytest.approx(9 / math.sqrt(15 * 6))


def test_alignment_of_blocks_that_agree_by_hand():
    """Three equal blocks, two parameters: the products are those of the whole gradients."""

    def measure(a_A, b_A, a_B, b_B):
        whole = torch.tensor([[a_A, b_A], [a_B, b_B]])  # [halves, objectives, parameters]
        return agreement(torch.stack([whole / 3] * 3, dim=2))

    measured = measure([1.0, 2.0], [3.0, -1.0], [2.0, 1.0], [1.0, 1.0])
    # <a_A, b_B> = 3, <b_A, a_B> = 5, <a_A, a_B> = 4, <b_A, b_B> = 2
    assert measured.inner_product.value == pytest.approx(4.0)
    assert measured.cosine.value == 1.0  # 4 / sqrt(8), cut
    milder = measure([1.0, 2.0], [3.0, -1.0], [2.0, 1.0], [1.0, -1.0])
    # Now <a_A, b_B> = -1 and <b_A, b_B> = 4
    assert milder.inner_product.value == pytest.approx(2.0)
    assert milder.cosine.value == pytest.approx(2.0 / 4.0)
    assert milder.cosine.low == milder.cosine.high == pytest.approx(0.5)  # the blocks agree
    turned = measure([0.5, 1.0], [-0.3, 0.1], [2.0, 1.0], [1.0, 1.0])
    # Now <a_A, b_B> = 1.5, <b_A, a_B> = -0.5, <a_A, a_B> = 2, <b_A, b_B> = -0.2
    assert turned.inner_product.value == pytest.approx(0.5)
    assert math.isnan(turned.cosine.value)


def test_the_jackknife_is_that_of_the_estimate_without_each_block():
    torch.manual_seed(0)
    common = torch.tensor([[1.0, 0.5, 0.0], [0.2, 1.0, 0.4]])[None, :, None, :]
    gradients = (common + 0.3 * torch.randn(2, 2, 6, 3)) / 6
    measured = agreement(gradients)
    (a_A, b_A), (a_B, b_B) = 6 * gradients.double()  # the mean gradients of the blocks

    def value(kept: list[int]) -> tuple[float, float]:
        def mean(x_MD: torch.Tensor, y_MD: torch.Tensor) -> float:
            return float(np.mean([float(x_MD[m] @ y_MD[n]) for m, n in permutations(kept, 2)]))

        inner = (mean(a_A, b_B) + mean(b_A, a_B)) / 2
        return inner, inner / math.sqrt(mean(a_A, a_B) * mean(b_A, b_B))

    left_out = np.array([value([b for b in range(6) if b != m]) for m in range(6)])
    errors = np.sqrt(5 / 6 * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    quantile = 2.5705818  # Student's t, 5 degrees of freedom, 97.5 %
    full = np.array(value(list(range(6))))
    inner, cosine = measured.inner_product, measured.cosine
    assert [inner.value, cosine.value] == pytest.approx(full)
    assert [inner.low, cosine.low] == pytest.approx(full - quantile * errors)
    assert [inner.high, cosine.high] == pytest.approx(full + quantile * errors)


def test_no_signal_gives_no_cosine_and_does_not_break_a_run():
    nothing = agreement(torch.zeros(2, 2, 4, 5))
    assert math.isnan(nothing.cosine.value) and math.isnan(nothing.cosine.low)
    assert nothing.inner_product.value == nothing.inner_product.high == 0.0
    torch.manual_seed(0)
    noise = [agreement(torch.randn(2, 2, 8, 10)) for _ in range(50)]
    assert any(math.isnan(measured.cosine.value) for measured in noise)
    assert all(math.isfinite(measured.inner_product.low) for measured in noise)
    for measured in noise:
        cosine = measured.cosine
        ends = (cosine.low, cosine.value, cosine.high)
        assert any(map(math.isnan, ends)) or -1.0 <= ends[0] <= ends[1] <= ends[2] <= 1.0


def test_intervals_cover_when_the_kinds_are_drawn_too():
    """Two kinds, against each other in the mean: blocks with as many of each would not know."""
    rng, num_prompts, num_blocks, repetitions = np.random.default_rng(4), 240, 12, 150
    means = np.zeros((2, NUM_PARAMETERS))
    means[0, :2], means[1, :2] = (1.2, 0.1), (-0.4, 0.2)
    exact = float(((means[0] + means[1]) / 2) @ ((means[0] + means[1]) / 2))
    kernel = float(means[0] @ means[1])
    covered, of_kernel, stratified = [], [], []
    for _ in range(repetitions):
        kinds_P = rng.integers(2, size=num_prompts)
        noise_2PD = 0.3 * rng.standard_normal((2, num_prompts, NUM_PARAMETERS))
        parts_2PD = torch.from_numpy((means[kinds_P] + noise_2PD) / num_prompts)

        def blocks(chosen_P: np.ndarray, parts_2PD: torch.Tensor = parts_2PD) -> torch.Tensor:
            kept_2PD = parts_2PD * torch.from_numpy(chosen_P)[:, None]
            return kept_2PD.reshape(2, -1, num_blocks, NUM_PARAMETERS).sum(dim=1)

        everything = np.ones(num_prompts, dtype=bool)
        inner = alignment(blocks(everything), blocks(everything)).inner_product
        covered.append(inner.low <= exact <= inner.high)
        both = [kinds_P == kind for kind in (0, 1)]
        shares = [block_shares(chosen_P, num_blocks) for chosen_P in both]
        inner = alignment(*map(blocks, both), shares).inner_product
        of_kernel.append(inner.low <= kernel <= inner.high)
        # The same prompts, dealt out kind by kind.
        dealt = np.argsort(kinds_P, kind="stable")
        inner = alignment(*[blocks(everything, parts_2PD[:, dealt])] * 2).inner_product
        stratified.append(inner.low <= exact <= inner.high)
    # The error of products of faint noise is overestimated, so that of the kernel is wide.
    assert 0.9 <= np.mean(covered) <= 0.99 and np.mean(of_kernel) >= 0.9
    assert np.mean(stratified) < 0.8


def test_a_kind_within_one_block_has_no_products():
    gradients = draw_blocks(np.random.default_rng(5), 64, 4)[:, 0]
    alone, others = [1.0, 0.0, 0.0, 0.0], [0.2, 0.3, 0.3, 0.2]
    of_itself = alignment(gradients, gradients, [alone, alone]).inner_product
    assert all(map(math.isnan, (of_itself.value, of_itself.low, of_itself.high)))
    across = alignment(gradients, gradients, [alone, others]).inner_product
    assert math.isfinite(across.value) and math.isnan(across.low)


def test_the_needed_weight_is_that_of_products_between_blocks():
    """And the mixture of that weight has product 0 with Pass@1."""
    gradients = draw_blocks(np.random.default_rng(6), 2048, 8).sum(dim=0)
    pass1_MD, passk_MD = gradients
    found = needed_weight(passk_MD, pass1_MD)
    mixed_MD = found.value * pass1_MD + (1 - found.value) * passk_MD
    products_MM = mixed_MD @ pass1_MD.T
    scale = float(products_MM.abs().sum())
    assert float(products_MM.sum() - products_MM.trace()) == pytest.approx(0, abs=1e-12 * scale)
    # 0.5 * 0.2 / (0.25 + 0.1) of the population
    assert 0 < found.low < found.value < found.high < 1 and found.low < 0.1 / 0.35 < found.high
    assert needed_weight(pass1_MD, pass1_MD).value == 0
    assert needed_weight(-pass1_MD, pass1_MD).value == pytest.approx(0.5)
    # The interval is the set of weights at which the jackknife interval of the product holds 0.
    for w, end in ((found.low, "high"), (found.high, "low")):
        mixed_MD = (w * pass1_MD + (1 - w) * passk_MD).expand(2, -1, -1)
        inner = alignment(mixed_MD, pass1_MD.expand(2, -1, -1)).inner_product
        assert getattr(inner, end) == pytest.approx(0, abs=1e-9)
