"""Sketches of gradients: unbiased products of the predicted error, and those of a real model."""

import numpy as np
import pytest
import torch
from bandit import TwoPromptBandit, draw_bandit, exact_success
from rank_work import sketched_products
from sampling import NUM_PROMPTS, NUM_SAMPLES

from passk.cli.launch import launch
from passk.config.schema import LearnerConfig, mix
from passk.diagnostics import matrix
from passk.diagnostics.agreement import weighted
from passk.diagnostics.alignment import block_gradients
from passk.diagnostics.derivatives import derivatives_along
from passk.diagnostics.interference import between_groups, interference
from passk.diagnostics.matrix import count_sketch, gradient_halves, halves, sketches
from passk.learner.learner import Learner
from passk.objectives.advantages import Objective
from passk.report.interference import interference_tables, section


@pytest.fixture(scope="module")
def exact(learner, groups):
    return gradient_halves(learner, groups)


@pytest.mark.parametrize("at_once", [64, 1 << 22])
def test_products_are_unbiased_and_as_exact_as_predicted(monkeypatch, at_once):
    """Parts that are shorter than a sketch, longer, and no multiple of it; signs in pieces too."""
    monkeypatch.setattr(matrix, "_MOST_AT_ONCE", at_once)
    size, lengths, draws = 32, (5, 150, 32, 1), 1000
    torch.manual_seed(0)
    u, v = torch.randn(2, sum(lengths)).double()
    v = v + 0.7 * u
    products = np.array(
        [
            float(
                count_sketch(u.float().split(lengths), size, seed, None).double()
                @ count_sketch(v.float().split(lengths), size, seed, None).double()
            )
            for seed in range(draws)
        ]
    )
    # Entries of one row of 32 never meet; others do with a chance of 1/32.
    starts = [n for length in lengths for n in range(0, length, size)]
    widths = [min(size, length - n) for length in lengths for n in range(0, length, size)]
    assert len(starts) == 8
    rows = np.repeat(np.arange(len(widths)), widths)
    apart = (rows[:, None] != rows).astype(float)
    uu, vv, uv = (u * u).numpy(), (v * v).numpy(), (u * v).numpy()
    variance = float(uu @ apart @ vv + uv @ apart @ uv) / size
    assert abs(products.mean() - float(u @ v)) < 4 * np.sqrt(variance / draws)
    assert products.var() == pytest.approx(variance, rel=0.25)  # some 4 errors of a variance
    bound = (float(u @ u) * float(v @ v) + float(u @ v) ** 2) / size
    assert variance <= bound


def test_a_sketch_is_linear_and_holds_the_metric():
    torch.manual_seed(1)
    u, v, root = torch.randn(3, 500)
    lengths = (100, 400)

    def of(x, scale=None):
        return count_sketch(x.split(lengths), 64, 3, scale)

    torch.testing.assert_close(of(u + 2 * v), of(u) + 2 * of(v), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of(u, root), of(u * root), rtol=0, atol=0)
    assert not torch.equal(of(u), count_sketch(u.split(lengths), 64, 4, None))


def test_products_of_the_model_are_those_of_its_gradients(learner, groups, exact):
    size = 4096
    found = interference(sketches(learner, groups, size).numpy())
    expected = interference(exact.numpy())
    mean_PD = exact.mean(dim=0).double()
    norms_P = mean_PD.norm(dim=1).numpy()
    scale_PP = np.outer(norms_P, norms_P)
    seen = np.triu(scale_PP > 0, k=1)
    assert seen.sum() >= 45
    errors = ((found - expected) / np.where(seen, scale_PP, 1))[seen]
    cosines = (expected / np.where(seen, scale_PP, 1))[seen]
    predicted = np.sqrt((1 + cosines**2).mean() / size)
    assert 0.5 * predicted < np.sqrt((errors**2).mean()) < 1.2 * predicted
    assert np.corrcoef(found[seen], expected[seen])[0, 1] > 0.98
    assert (expected[seen] < 0).any() and (expected[seen] > 0).any()


def test_prompts_without_signal_are_zero(learner, groups):
    found = sketches(learner, groups, 128)
    for half, members in enumerate(halves(groups)):
        for p, group in enumerate(members):
            right = sum(group.rewards())
            assert found[half, p].any() == (0 < right < NUM_SAMPLES // 2), (half, p)


def test_the_metric_weighs_the_products(learner, groups, exact):
    torch.manual_seed(2)
    metric = torch.rand(exact.shape[-1])
    scaled = gradient_halves(learner, groups[:6], metric).numpy()
    expected = (exact[:, :6] * metric.sqrt()).numpy()
    np.testing.assert_allclose(scaled, expected, rtol=1e-3, atol=1e-6 * np.abs(expected).max())
    size = 1 << 15
    found = interference(sketches(learner, groups[:6], size, metric=metric).numpy())
    norms_P = np.linalg.norm(expected.mean(axis=0), axis=1)
    bound = 6 * np.sqrt(1 / size) * np.outer(norms_P, norms_P)
    off = ~np.eye(6, dtype=bool)
    assert (np.abs(found - interference(expected))[off] <= bound[off]).all()


def test_the_mean_over_other_prompts_is_the_agreement(learner, groups, exact):
    """a(x) = E_x' kappa(x, x') (equation 8), the agreement measured by differences of log pi."""
    kappa_PP = interference(exact.numpy())
    np.fill_diagonal(kappa_PP, 0)
    means_P = kappa_PP.sum(axis=1) / (NUM_PROMPTS - 1)
    # One block for each prompt; the mean of the gradients of the two halves.
    by_half = block_gradients(learner, groups, [Objective("mixture", mix(1, 1.0))], NUM_PROMPTS)
    slopes_PG = derivatives_along(learner, groups, by_half.mean(dim=0)[0]).values_PG
    rewards_PG = np.array([group.rewards() for group in groups])
    parts = [
        weighted(rewards_PG[:, half], slopes_PG[:, half], 1)
        for half in (slice(NUM_SAMPLES // 2), slice(NUM_SAMPLES // 2, None))
    ]
    agreement_P = np.mean(parts, axis=0)
    assert np.abs(agreement_P).max() > 0
    assert np.abs(means_P - agreement_P).max() < 2e-3 * np.abs(agreement_P).max()


def test_kappa_of_the_bandit_is_the_exact_one():
    """Easy and hard prompts of the paper, -0.0108 between them; also of a prompt with itself."""
    p, num_each = exact_success(), 150
    slope = p * (1 - p)
    vectors = np.stack([slope[0] * np.array([-1, 0.1]), slope[1] * np.array([1, 0.1])])
    expected = vectors @ vectors.T
    assert expected[0, 1] == pytest.approx(-0.010822, abs=1e-6)
    bandit = Learner(TwoPromptBandit(), LearnerConfig(), 1, temperature=1.0)
    groups = draw_bandit(np.random.default_rng(0), np.repeat([0, 1], num_each), 16)
    kappa_PP = interference(sketches(bandit, groups, 64).numpy())
    for x, kind in enumerate((slice(num_each), slice(num_each, None))):
        diagonal = np.diag(kappa_PP)[kind]
        error = diagonal.std(ddof=1) / np.sqrt(num_each)
        assert abs(diagonal.mean() - expected[x, x]) < 4 * error < 2 * expected[x, x]
    members = {"easy": np.arange(num_each), "hard": np.arange(num_each, 2 * num_each)}
    table = between_groups(kappa_PP, members, "kind", num_resamples=400)
    for row, exact in zip(table.to_dict("records"), expected[[0, 0, 1], [0, 1, 1]], strict=True):
        error = (row["kappa_high"] - row["kappa_low"]) / (2 * 1.96)
        assert abs(row["kappa"] - exact) < 4 * error < abs(exact)
    assert table["cosine"].tolist() == pytest.approx([1, -0.98, 1], abs=0.03)


def test_an_odd_number_of_samples_is_used_whole(groups):
    odd = [halves([group])[1][0] for group in groups]  # 6 samples
    odd = [
        type(g)(g.problem, g.prompt_ids, g.completions[:5], g.verdicts[:5], g.policy_version)
        for g in odd
    ]
    first, second = halves(odd)
    assert {len(g.completions) for g in first} == {2} and {len(g.verdicts) for g in second} == {3}
    for one, two, group in zip(first, second, odd, strict=True):
        assert one.completions + two.completions == group.completions
        assert one.rewards() + two.rewards() == group.rewards()


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_sketch_the_same_products(tmp_path, groups, exact):
    """Each sketches its shard with signs of its own; what is summed is a sketch of the whole."""
    size, num_prompts, out = 1 << 14, 8, tmp_path / "found.npy"
    launch(sketched_products, 2, str(out), groups[:num_prompts], size, [{}, {"replicas": 2}])
    part = exact[:, :num_prompts]
    expected = interference(part.numpy())
    norms_P = part.mean(dim=0).norm(dim=1).numpy()
    off = np.outer(norms_P, norms_P) > 0
    np.fill_diagonal(off, False)
    bound = 6 * np.sqrt(1 / size) * np.outer(norms_P, norms_P)
    assert np.abs(expected / np.where(off, bound, np.inf)).max() > 3
    for found in np.load(out):
        assert (np.abs(found - expected)[off] <= bound[off]).all()


def test_gradients_that_do_not_fit_in_memory_are_not_compared(monkeypatch, learner, groups):
    monkeypatch.setattr(matrix, "_MOST_EXACT_BYTES", 0)
    found = matrix.measure_matrix(learner, groups, 64, seed=0, metric=None, length=1e-3)
    assert found.exact.empty and len(found.pairs)
    tables = interference_tables(groups, found.halves_2PD, found.pairs, found.exact, 10)
    assert list(tables.exact) == ["first", "second", "exact", "sketched", "norms"]
    assert "which do not fit in memory" in section(tables, 64, 0.0, 0.0)
