"""The learner's gradient is the estimator's sum over samples, however the rows are arranged."""

import copy
import math
from math import comb

import numpy as np
import pytest
import torch

from passk.advantages import estimate_advantages
from passk.batch import TokenRow, advantage_weights, make_rows
from passk.config import LearnerConfig
from passk.conventions import make_problems
from passk.learner import Learner, schedule
from passk.policy import token_logprobs
from passk.rollout import SampleKey, rollout
from passk.sampler import SamplingParams
from passk.torch_sampler import TorchSampler
from passk.verifiers import ConventionsVerifier

NUM_SAMPLES = 8
K = 4
REGIMES = {"pass1": 1.0, "passk": 0.0, "hybrid": 0.7}
TEMPERATURE = 1.0
EVERYTHING_ON = {"merge_identical": True, "skip_zero": True}
EVERYTHING_OFF = {"merge_identical": False, "skip_zero": False}


@pytest.fixture(scope="module")
def problems():
    return make_problems(
        12, split="train", seed=0, calculator_fraction=0.3, skill_fraction=0.3, cue=0.0
    )


@pytest.fixture(scope="module")
def sampled(tiny_model, tiny_tokenizer, tiny_encoder, problems):
    """Real rollouts of the tiny model: prompts that are dead, solved, and in between."""
    result = rollout(
        TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer),
        ConventionsVerifier(),
        tiny_encoder,
        problems,
        NUM_SAMPLES,
        SamplingParams(TEMPERATURE, 32),
        SampleKey(0, "train", 0),
    )
    correct = np.nansum(result.rewards_PG, axis=1)
    assert {0, NUM_SAMPLES} & set(correct) and ((correct > 0) & (correct < NUM_SAMPLES)).sum() >= 4
    return result


def regime_rows(sampled, pass1_weight: float, **options) -> list[TokenRow]:
    rewards_PG = sampled.rewards_PG
    advantages_PG = estimate_advantages(rewards_PG, "mixture", K, pass1_weight)
    weights_PGO = advantage_weights(advantages_PG, rewards_PG)[..., None]
    return make_rows(sampled.groups, weights_PGO, **options)


def new_learner(model, dtype=torch.float64, **options) -> Learner:
    return Learner(copy.deepcopy(model).to(dtype), LearnerConfig(**options), 10, TEMPERATURE)


def gradient_of(model, rows, dtype=torch.float64, **options) -> torch.Tensor:
    learner = new_learner(model, dtype, **options)
    learner.accumulate_gradient(rows)
    return accumulated(learner).double()


def accumulated(learner: Learner) -> torch.Tensor:
    """The accumulated gradient as one vector."""
    parts = [p.grad for p in learner.model.parameters() if p.requires_grad]
    return torch.cat([part.flatten() for part in parts])


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # float32 sums in another order: measured 1e-6, of gradients that are 1e-6 off themselves.
    [(torch.float64, 1e-6), (torch.float32, 1e-5)],
)
def test_the_arrangement_of_rows_does_not_change_the_gradient(
    tiny_model, sampled, regime, dtype, tolerance
):
    on = regime_rows(sampled, REGIMES[regime], **EVERYTHING_ON)
    off = regime_rows(sampled, REGIMES[regime], **EVERYTHING_OFF)
    assert len(on) < len(off) == 12 * NUM_SAMPLES
    plain = gradient_of(tiny_model, off, dtype, max_tokens_per_batch=10**6)
    assert plain.norm() > 1e-3
    for rows, max_tokens in ((on, 100), (on, 10**6), (off, 100), (on, 1)):
        arranged = gradient_of(tiny_model, rows, dtype, max_tokens_per_batch=max_tokens)
        assert relative_difference(arranged, plain) < tolerance


def naive_gradient(model, sampled, pass1_weight: float) -> torch.Tensor:
    """REINFORCE as in the design: a sum over prompts and samples, one forward pass for each.

    grad = (1/P) sum_x (1/n) sum_i [w + (1-w) k D(c')] (r_i - c'/(n-1)) sum_t grad log pi(y_t),
    D(c') = C(n-1-c', k-1) / C(n-1, k-1).
    """
    model = copy.deepcopy(model).double()
    objective = torch.zeros((), dtype=torch.float64)
    n = NUM_SAMPLES
    for group in sampled.groups:
        rewards = [int(r) for r in group.rewards()]
        for completion, reward in zip(group.completions, rewards, strict=True):
            others = sum(rewards) - reward
            failure = comb(n - 1 - others, K - 1) / comb(n - 1, K - 1)
            weight = pass1_weight + (1 - pass1_weight) * K * failure
            advantage = weight * (reward - others / (n - 1))
            ids = torch.tensor([[*group.prompt_ids, *completion.token_ids]])
            logp_TV = torch.log_softmax(model(input_ids=ids).logits[0] / TEMPERATURE, dim=-1)
            first = len(group.prompt_ids)
            logp = sum(logp_TV[t - 1, ids[0, t]] for t in range(first, ids.shape[1]))
            objective = objective + advantage * logp / (len(sampled.groups) * n)
    objective.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("regime", REGIMES)
def test_the_gradient_is_the_plain_reinforce_sum(tiny_model, sampled, regime):
    expected = naive_gradient(tiny_model, sampled, REGIMES[regime])
    rows = regime_rows(sampled, REGIMES[regime], **EVERYTHING_ON)
    descent = gradient_of(tiny_model, rows, max_tokens_per_batch=512)
    assert relative_difference(-descent, expected) < 1e-6


def test_unjudged_samples_leave_the_gradient_and_the_counts(tiny_model, sampled):
    """Two samples of every prompt lose their verdict: as if only the others had been drawn."""
    rewards_PG = sampled.rewards_PG.copy()
    rewards_PG[:, -2:] = np.nan
    gradients = []
    for rewards in (rewards_PG, rewards_PG[:, :-2]):
        weights = np.zeros((*rewards_PG.shape, 1))
        advantages = estimate_advantages(rewards, "mixture", K, 0.7)
        weights[:, : rewards.shape[1], 0] = advantage_weights(advantages, rewards)
        gradients.append(gradient_of(tiny_model, make_rows(sampled.groups, weights)))
    assert gradients[0].norm() > 0
    assert relative_difference(*gradients) < 1e-12


def test_the_gradient_agrees_with_finite_differences(tiny_model, sampled):
    rows = regime_rows(sampled, REGIMES["hybrid"])
    learner = new_learner(tiny_model)
    learner.accumulate_gradient(rows)
    gradient = accumulated(learner)
    torch.manual_seed(0)
    # A random direction alone would be all but orthogonal to the gradient.
    direction = gradient / gradient.norm() + torch.randn(len(gradient)) / len(gradient) ** 0.5
    direction /= direction.norm()

    def loss_at(distance: float) -> float:
        moved = new_learner(tiny_model)
        start = 0
        with torch.no_grad():
            for parameter in moved.model.parameters():
                part = direction[start : start + parameter.numel()]
                parameter += distance * part.view_as(parameter)
                start += parameter.numel()
        return moved.accumulate_gradient(rows)[0]

    def slope(step: float) -> float:
        return (loss_at(step) - loss_at(-step)) / (2 * step)

    # Richardson: the error of the two slopes is of second order in the step.
    estimate = (4 * slope(2e-3) - slope(4e-3)) / 3
    assert estimate == pytest.approx(float(gradient @ direction), rel=1e-3)


def test_the_loss_and_the_reported_logprobs_are_the_policys(tiny_model, sampled):
    rows = regime_rows(sampled, REGIMES["hybrid"], **EVERYTHING_ON)
    learner = new_learner(tiny_model, torch.float32, max_tokens_per_batch=128)
    stats = learner.update(rows)
    assert len(stats.logprobs) == len(rows)
    for row, reported in zip(rows, stats.logprobs, strict=True):
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        mask = torch.arange(ids.shape[1])[None] >= len(row.prompt_ids)
        with torch.no_grad():
            expected = token_logprobs(tiny_model, ids, mask, TEMPERATURE).sum()
        assert reported == pytest.approx(float(expected), abs=1e-4)
        # And they are what the sampler said when it drew them.
        p, i = row.samples[0]
        drawn = sum(sampled.groups[p].completions[i].logprobs)
        assert reported == pytest.approx(drawn, abs=1e-4)
    loss = -sum(row.weights[0] * logp for row, logp in zip(rows, stats.logprobs, strict=True))
    assert stats.loss == pytest.approx(loss, abs=1e-6)


def test_the_learner_divides_logits_by_the_temperature(tiny_model, sampled):
    row = regime_rows(sampled, 1.0)[0]
    learner = Learner(copy.deepcopy(tiny_model), LearnerConfig(), 10, temperature=0.5)
    _, (reported,), _ = learner.accumulate_gradient([row])
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    with torch.no_grad():
        logp_TV = torch.log_softmax(tiny_model(input_ids=ids).logits[0] / 0.5, dim=-1)
    positions = range(len(row.prompt_ids), len(row))
    expected = sum(float(logp_TV[t - 1, ids[0, t]]) for t in positions)
    assert reported == pytest.approx(expected, abs=1e-4)


def test_an_sft_row_gives_the_gradient_of_transformers_own_loss(
    tiny_model, tiny_tokenizer, tiny_encoder, problems
):
    chosen = problems[:5]
    prompts, answers = tiny_encoder.prompts(chosen), tiny_encoder.completions(chosen)
    assert all(answer[-1] == tiny_tokenizer.eos_token_id for answer in answers)
    weight = 1 / sum(map(len, answers))
    rows = [
        TokenRow(tuple(prompt), tuple(answer), (weight,))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    learner = new_learner(tiny_model, max_tokens_per_batch=64)
    loss, *_ = learner.accumulate_gradient(rows)

    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    labels = torch.full((len(rows), width), -100)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row.prompt_ids + row.completion_ids)
        labels[b, len(row.prompt_ids) : len(row)] = torch.tensor(row.completion_ids)
    reference = copy.deepcopy(tiny_model).double()
    expected = reference(input_ids=ids, labels=labels).loss
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    expected_gradient = torch.cat([p.grad.flatten() for p in reference.parameters()])
    assert relative_difference(accumulated(learner), expected_gradient) < 1e-5


def test_an_update_is_adamw_on_that_gradient(tiny_model, sampled):
    rows = regime_rows(sampled, 0.7)
    options = {"lr": 1e-3, "weight_decay": 0.1, "betas": [0.8, 0.95], "eps": 1e-6}
    learner = new_learner(tiny_model, **options)
    gradient = gradient_of(tiny_model, rows)
    before = torch.cat([p.detach().flatten() for p in learner.model.parameters()]).clone()
    stats = learner.update(rows)
    after = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    # The first step, by hand: both moments are unbiased, so g / (|g| + eps), decay apart.
    expected = before * (1 - 1e-3 * 0.1) - 1e-3 * gradient / (gradient.abs() + 1e-6)
    torch.testing.assert_close(after, expected, atol=1e-10, rtol=0)
    assert stats.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-9)
    assert learner.step == 1 and stats.learning_rate == 1e-3


def test_gradients_do_not_pile_up_over_updates(tiny_model, sampled):
    rows = regime_rows(sampled, 0.7)
    learner = new_learner(tiny_model, lr=0.0)
    first, second = learner.update(rows), learner.update(rows)
    assert second.grad_norm == pytest.approx(first.grad_norm, rel=1e-9)


def test_an_update_without_rows_has_no_gradient_and_still_steps(tiny_model, sampled):
    learner = new_learner(tiny_model, lr=1e-3)
    still = [p.detach().clone() for p in learner.model.parameters()]
    stats = learner.update([])
    assert (stats.loss, stats.grad_norm, stats.logprobs) == (0.0, 0.0, ())
    assert learner.step == 1
    assert all(
        torch.equal(p, q) for p, q in zip(learner.model.parameters(), still, strict=True)
    )  # no momentum yet
    learner.update(regime_rows(sampled, 0.7))
    moved = [p.detach().clone() for p in learner.model.parameters()]
    assert learner.update([]).grad_norm == 0.0
    steps = {float(state["step"]) for state in learner.optimizer.state.values()}
    assert steps == {3.0} and learner.step == 3
    assert any(
        not torch.equal(p, q) for p, q in zip(learner.model.parameters(), moved, strict=True)
    )  # Adam's momentum goes on


def test_clipping_reports_the_norm_before_it(tiny_model, sampled):
    rows = regime_rows(sampled, 0.7)
    free = new_learner(tiny_model)
    norm = free.update(rows).grad_norm
    assert float(accumulated(free).norm()) == pytest.approx(norm)  # off by default
    clipped = new_learner(tiny_model, max_grad_norm=norm / 10)
    assert clipped.update(rows).grad_norm == pytest.approx(norm, rel=1e-9)
    assert float(accumulated(clipped).norm()) == pytest.approx(norm / 10, rel=1e-3)
    loose = new_learner(tiny_model, max_grad_norm=norm * 10)
    loose.update(rows)
    torch.testing.assert_close(accumulated(loose), accumulated(free), rtol=0, atol=0)


def test_state_tensors_put_back_continue_bit_for_bit(tiny_model, sampled):
    batches = [regime_rows(sampled, weight) for weight in (0.7, 0.0, 1.0)]
    options = {"dtype": torch.float32, "lr": 1e-3, "schedule": "cosine", "weight_decay": 0.01}
    learner = new_learner(tiny_model, **options)
    assert learner.state_tensors() == {}
    for rows in batches[:2]:
        learner.update(rows)
    saved = {name: tensor.clone() for name, tensor in learner.state_tensors().items()}
    names = dict(learner.model.named_parameters())
    assert set(saved) == {
        f"optimizer/{p}/{m}" for p in names for m in ("step", "exp_avg", "exp_avg_sq")
    }

    resumed, forgetful = (new_learner(learner.model, **options) for _ in range(2))
    resumed.load_state_tensors(saved)
    resumed.step = forgetful.step = learner.step
    for rows in (batches[2], batches[0]):
        expected = learner.update(rows)
        assert resumed.update(rows) == expected
        # The moments matter: without them training goes elsewhere.
        forgetful.update(rows)
    for (name, ours), (_, theirs) in zip(resumed.weights(), learner.weights(), strict=True):
        assert torch.equal(ours, theirs), name
    pairs = zip(forgetful.weights(), learner.weights(), strict=True)
    assert not any(torch.equal(ours, theirs) for (_, ours), (_, theirs) in pairs)


def test_weights_are_the_models_parameters_by_name(tiny_model):
    learner = new_learner(tiny_model, torch.float32)
    weights = dict(learner.weights())
    assert set(weights) == {name for name, _ in tiny_model.named_parameters()}
    assert not any(tensor.requires_grad for tensor in weights.values())


def test_schedule_values_by_hand():
    def factors(num_steps: int, **options) -> list[float]:
        cfg = LearnerConfig(**options)
        return [schedule(cfg, step, num_steps) for step in range(num_steps)]

    assert factors(4, schedule="constant") == [1, 1, 1, 1]
    assert factors(4, schedule="linear") == [1, 0.75, 0.5, 0.25]
    half = math.sqrt(0.5) / 2
    assert factors(4, schedule="cosine") == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half])
    assert factors(5, schedule="constant", warmup_steps=3) == [0.25, 0.5, 0.75, 1, 1]
    assert factors(4, schedule="linear", warmup_steps=1) == [0.5, 0.75, 0.5, 0.25]
    assert factors(4, schedule="cosine", warmup_steps=1) == pytest.approx(
        [0.5, 0.5 + half, 0.5, 0.5 - half]
    )


def test_updates_follow_the_schedule(tiny_model):
    learner = new_learner(tiny_model, lr=2.0, schedule="linear", warmup_steps=1)
    rates = [learner.update([]).learning_rate for _ in range(4)]
    assert rates == pytest.approx([1.0, 1.8, 1.6, 1.4])  # of 10 steps
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(1.4)
