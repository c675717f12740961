"""Pass@1 to second order: exact on quadratics and on the paper's bandit, along Adam's own steps."""

import math

import numpy as np
import pytest
import torch
from bandit import TwoPromptBandit, draw_bandit

from passk.config.schema import LearnerConfig
from passk.diagnostics.second_order import SHOWN_STEPS, SecondOrder, adam_step, second_order
from passk.learner.batch import make_rows
from passk.learner.learner import Learner
from passk.objectives import theory
from passk.toy.bandit import policy_at, two_prompts


def test_on_a_quadratic_it_is_exact():
    """Slopes g.u, u'Hu of the mean step without its share of the noise, and tr(H Cov u)."""
    rng = np.random.default_rng(0)
    num_problems, num_batches, size, reach = 4, 5, 3, 7.0
    start_H, slope_HD = rng.random(num_problems), rng.standard_normal((num_problems, size))
    hessian_HDD = rng.standard_normal((num_problems, size, size))
    hessian_HDD = hessian_HDD + hessian_HDD.transpose(0, 2, 1)
    steps_BD = rng.standard_normal((num_batches, size))

    def success(step_D: np.ndarray) -> np.ndarray:
        return start_H + slope_HD @ step_D + step_D @ hessian_HDD @ step_D / 2

    def ends(step_D: np.ndarray) -> np.ndarray:
        return np.stack([success(reach * step_D), success(-reach * step_D)])

    mean_D = steps_BD.mean(axis=0)
    found = second_order(start_H, np.stack([*map(ends, steps_BD)]), ends(mean_D), reach)
    np.testing.assert_allclose(found.slope_H, slope_HD @ mean_D, atol=1e-10)
    noise_H = np.einsum("hij,ij->h", hessian_HDD, np.cov(steps_BD.T))
    np.testing.assert_allclose(found.noise_H, noise_H, atol=1e-10)
    common_H = mean_D @ hessian_HDD @ mean_D - noise_H / num_batches
    np.testing.assert_allclose(found.common_H, common_H, atol=1e-10)
    # Three steps on independent batches: the noise three times, the rest nine times.
    expected = 3 * found.slope_H + 3 * noise_H / 2 + 9 * common_H / 2
    assert found.change(3).value == pytest.approx(expected.mean())


def test_noise_and_common_curvature_are_unbiased_over_batches():
    """With u = m + e, e of covariance S: m'Hm and tr(HS), and walks of steps change by both."""
    rng, mean_D, size = np.random.default_rng(1), np.array([0.3, -0.2]), 3000
    hessian_DD, mixing_DD = np.array([[-1.0, 0.4], [0.4, 2.0]]), np.array([[0.5, 0.0], [0.2, 0.4]])
    common, noise = [], []
    for _ in range(size):
        steps_BD = mean_D + rng.standard_normal((4, 2)) @ mixing_DD.T
        ends = [np.full((2, 1), step @ hessian_DD @ step / 2) for step in steps_BD]
        mean = steps_BD.mean(axis=0)
        found = second_order(
            np.zeros(1), np.stack(ends), np.full((2, 1), mean @ hessian_DD @ mean / 2), 1.0
        )
        common.append(found.common_H[0])
        noise.append(found.noise_H[0])
    exact = {"common": mean_D @ hessian_DD @ mean_D}
    exact["noise"] = np.trace(hessian_DD @ mixing_DD @ mixing_DD.T)
    for name, values in (("common", common), ("noise", noise)):
        error = np.std(values) / math.sqrt(size)
        assert abs(np.mean(values) - exact[name]) < 4 * error
    walks = mean_D * 6 + rng.standard_normal((200_000, 6, 2)).sum(axis=1) @ mixing_DD.T
    changes = np.einsum("wi,ij,wj->w", walks, hessian_DD, walks) / 2
    predicted = 6 * exact["noise"] / 2 + 36 * exact["common"] / 2
    assert abs(changes.mean() - predicted) < 4 * changes.std() / math.sqrt(len(changes))


def test_on_the_papers_bandit_it_says_where_the_first_order_turns():
    """Along grad J_1, where both derivatives have closed forms: p' = p(1-p), p'' = p'(1-2p)."""
    prompts, theta = two_prompts(0.2), np.array([-2.0, -2.0])
    pass1_D = theory.passk_gradient(policy_at(theta, prompts), 1)
    along_P = prompts.features_PD @ pass1_D  # how the margin of each prompt moves
    p_P = policy_at(theta, prompts).success_P
    slope_P = prompts.sign_P * along_P * p_P * (1 - p_P)
    bent_P = along_P**2 * p_P * (1 - p_P) * (1 - 2 * p_P)

    def success(length: float) -> np.ndarray:
        return policy_at(theta + length * pass1_D, prompts).success_P

    reach = 0.5
    ends_2P = np.stack([success(reach), success(-reach)])
    found = second_order(success(0.0), np.stack([ends_2P, ends_2P]), ends_2P, reach)
    np.testing.assert_allclose(found.slope_H, slope_P, rtol=1e-3)
    np.testing.assert_allclose(found.common_H, bent_P, rtol=1e-3)
    np.testing.assert_allclose(found.noise_H, 0, atol=1e-12)
    first, second = slope_P.mean(), bent_P.mean()
    for length in (1.0, 2.0, 4.0):
        exact = float((success(length) - success(0.0)).mean())
        assert found.change(length).value == pytest.approx(exact, abs=1e-5 * length**3)
    expected = -2 * first / second if first * second < 0 else math.inf
    assert found.turning_point() == pytest.approx(expected, rel=1e-2)


def test_a_turn_and_its_table():
    problems = np.ones(4)
    found = SecondOrder(-0.01 * problems, 0.002 * problems, 0.004 * problems)
    assert found.turning_point() == pytest.approx(8)  # 2 (0.01 - 0.002) / 0.002
    table = found.table()
    assert table["steps"].tolist() == list(SHOWN_STEPS)
    signs = dict(zip(table["steps"], np.sign(table["change"]), strict=True))
    assert signs[1] == signs[5] == -1 and signs[10] == 1
    np.testing.assert_allclose(table["first_order"], -0.01 * table["steps"])
    np.testing.assert_allclose(table["with_noise"], -0.008 * table["steps"])
    assert SecondOrder(problems, problems, 0 * problems).turning_point() == math.inf


@pytest.mark.parametrize("limit", [None, 1e-4])
def test_adams_step_is_the_one_that_training_takes(limit):
    rng, cfg = np.random.default_rng(2), LearnerConfig(max_grad_norm=limit, schedule="constant")
    learner = Learner(TwoPromptBandit(), cfg, 10, 1.0)
    for taken in range(3):
        groups = draw_bandit(rng, np.arange(8) % 2, 4)
        rows = make_rows(groups, rng.standard_normal((8, 4, 1)))
        fresh = adam_step(learner, -learner.gradient(rows), goes_on=False)
        step = adam_step(learner, -learner.gradient(rows), goes_on=taken > 0)
        if taken == 0:
            assert torch.equal(step, fresh)
            assert step.abs().tolist() == pytest.approx([cfg.lr] * 2, rel=1e-2)
        else:
            assert not torch.allclose(step, fresh, rtol=1e-2)
        before = learner.model.theta.detach().clone()
        learner.update(rows)
        # float32 near 2 resolves 2.4e-7, so a step of 2e-4 to about one in a thousand
        torch.testing.assert_close(
            learner.model.theta.detach() - before, step, rtol=1e-2, atol=5e-7
        )
