"""The learner's gradient is the estimator's sum over samples, however the rows are arranged."""

import copy
import math
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import torch
from peak_memory import PeakMemory
from random_models import random_model
from transformers import AutoModelForCausalLM, OPTConfig

from passk.config.schema import LearnerConfig, mix
from passk.data.conventions import Mix, make_problems
from passk.errors import PolicyMismatch, UserError
from passk.learner.batch import TokenRow, advantage_weights, make_rows
from passk.learner.learner import Learner, fitting_tokens, schedule
from passk.learner.logprobs import activation_bytes, token_logprobs
from passk.objectives.advantages import estimate_advantages
from passk.rollout.base import SamplingParams
from passk.rollout.rollout import Actor, SampleKey, rollout
from passk.rollout.torch_sampler import TorchSampler
from passk.verifiers.base import ConventionsVerifier

NUM_SAMPLES = 8
K = 4
REGIMES = {"pass1": 1.0, "passk": 0.0, "hybrid": 0.7}
TEMPERATURE = 1.0
EVERYTHING_ON = {"merge_identical": True, "skip_zero": True}
EVERYTHING_OFF = {"merge_identical": False, "skip_zero": False}


@pytest.fixture(scope="module")
def problems():
    return make_problems(12, Mix(0.3, 0.3), split="train", seed=0, duplicates=False)


@pytest.fixture(scope="module")
def sampled(tiny_model, tiny_tokenizer, tiny_encoder, problems):
    """Real rollouts of the tiny model: prompts that are dead, solved, and in between."""
    result = rollout(
        Actor(
            TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer),
            ConventionsVerifier(),
            tiny_encoder,
        ),
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
    advantages_PG = estimate_advantages(rewards_PG, "mixture", mix(K, pass1_weight))
    weights_PGO = advantage_weights(advantages_PG, rewards_PG)[..., None]
    return make_rows(sampled.groups, weights_PGO, **options)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # gpt2: no more than 64 positions
def test_a_token_s_activations_are_measured(architecture):
    """A layer more keeps as much more as each of those before it, whatever the length."""
    sizes = []
    for num_layers in (2, 3, 4):
        config = random_model(architecture).config
        config.num_hidden_layers = num_layers
        sizes.append(activation_bytes(AutoModelForCausalLM.from_config(config).eval(), None))
    assert sizes[2] - sizes[1] == pytest.approx(sizes[1] - sizes[0]) and sizes[0] > 0
    assert sizes[1] - sizes[0] >= 4 * config.hidden_size * 4  # at least four tensors of float32


def test_micro_batches_follow_the_budget_or_the_key(tiny_model):
    assert new_learner(tiny_model).max_tokens_per_batch == 2048 == fitting_tokens(tiny_model, None)
    assert new_learner(tiny_model, max_tokens_per_batch=7).max_tokens_per_batch == 7


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


def stepped_with(learner: Learner) -> torch.Tensor:
    """The gradient of the first step, which Adam's first moment holds as (1 - beta1) g."""
    moments = [state["exp_avg"].flatten() for state in learner.optimizer.state.values()]
    return torch.cat(moments) / (1 - learner.cfg.betas[0])


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
        advantages = estimate_advantages(rewards, "mixture", mix(K, 0.7))
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
        return moved.accumulate_gradient(rows).loss

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
    (reported,) = learner.accumulate_gradient([row]).logprobs
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
    loss = learner.accumulate_gradient(rows).loss

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
    assert float(stepped_with(free).norm()) == pytest.approx(norm)  # off by default
    clipped = new_learner(tiny_model, max_grad_norm=norm / 10)
    assert clipped.update(rows).grad_norm == pytest.approx(norm, rel=1e-9)
    assert float(stepped_with(clipped).norm()) == pytest.approx(norm / 10, rel=1e-3)
    loose = new_learner(tiny_model, max_grad_norm=norm * 10)
    loose.update(rows)
    torch.testing.assert_close(stepped_with(loose), stepped_with(free), rtol=0, atol=0)
    assert all(p.grad is None for p in free.model.parameters()), "no memory is kept for gradients"


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
    resumed.init_moments()
    for name, tensor in resumed.state_tensors().items():
        tensor.copy_(saved[name])
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


def with_sampler_logprobs(rows, model, shift: float = 0.0) -> list[TokenRow]:
    """The rows as a sampler would have drawn them whose log-probabilities are off by `shift`."""
    shifted = []
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        mask = torch.arange(ids.shape[1])[None] >= len(row.prompt_ids)
        with torch.no_grad():
            logp_T = token_logprobs(model, ids, mask, TEMPERATURE)[0, len(row.prompt_ids) :]
        shifted.append(replace(row, sampler_logprobs=tuple((logp_T + shift).tolist())))
    return shifted


def unsampled(rows) -> list[TokenRow]:
    return [replace(row, sampler_logprobs=()) for row in rows]


def test_rows_carry_what_the_sampler_said(sampled):
    for row in regime_rows(sampled, 0.7):
        p, i = row.samples[0]
        assert row.sampler_logprobs == sampled.groups[p].completions[i].logprobs
        assert len(row.sampler_logprobs) == len(row.completion_ids)


def test_the_gap_to_the_torch_sampler_is_rounding(tiny_model, sampled):
    gap = new_learner(tiny_model, torch.float32).update(regime_rows(sampled, 0.7)).gap
    assert 0 < gap.mean < 2e-6 and gap.mean < gap.max < 5e-5 and gap.truncated_fraction == 0


def test_the_gap_counts_completion_tokens_of_sampled_rows(tiny_model, sampled):
    rows = regime_rows(sampled, 0.7)
    known = with_sampler_logprobs(rows[:3], tiny_model, 0.25)
    known += with_sampler_logprobs(rows[3:4], tiny_model, -0.5)
    learner = new_learner(tiny_model, max_tokens_per_batch=64)
    gap = learner.update([*known, *unsampled(rows[4:])]).gap
    lengths = [len(row.completion_ids) for row in known]
    expected = (0.25 * sum(lengths[:3]) + 0.5 * lengths[3]) / sum(lengths)
    assert gap.mean == pytest.approx(expected, abs=1e-5)
    assert gap.max == pytest.approx(0.5, abs=1e-5)
    assert learner.update(unsampled(rows)).gap is None


@pytest.mark.parametrize(
    ("shift", "cap", "weight"),
    [(-0.5, 3.0, math.exp(0.5)), (0.5, 3.0, math.exp(-0.5)), (-2.0, 3.0, 3.0), (-2.0, None, 1.0)],
)
def test_importance_weights_multiply_the_gradient_and_stop_at_the_cap(
    tiny_model, sampled, shift, cap, weight
):
    """The learner finds every token exp(-shift) times as likely as the sampler did."""
    rows = regime_rows(sampled, 0.7)
    plain = gradient_of(tiny_model, unsampled(rows))
    learner = Learner(
        copy.deepcopy(tiny_model).double(), LearnerConfig(), 10, TEMPERATURE, importance_cap=cap
    )
    shifted = with_sampler_logprobs(rows, tiny_model, shift)
    loss, logprobs, gap, *_ = learner.accumulate_gradient(shifted)
    assert relative_difference(accumulated(learner), weight * plain) < 1e-4
    assert gap.truncated_fraction == (1.0 if weight == cap else 0.0)
    # What is reported keeps its meaning.
    reference = new_learner(tiny_model).accumulate_gradient(unsampled(rows))
    assert (loss, logprobs) == reference[:2]


def test_the_importance_weight_is_a_constant_per_token(tiny_model, sampled):
    """d/dtheta of sum rho log pi with rho held: not of the ratio itself, nor per sequence."""
    row = with_sampler_logprobs(regime_rows(sampled, 0.7)[:1], tiny_model)[0]
    shifts = torch.linspace(-1.5, 0.5, len(row.completion_ids))
    sampler_logprobs = tuple((torch.tensor(row.sampler_logprobs) + shifts).tolist())
    model = copy.deepcopy(tiny_model).double()
    learner = Learner(model, LearnerConfig(), 10, TEMPERATURE, importance_cap=2.0)
    learner.accumulate_gradient([replace(row, sampler_logprobs=sampler_logprobs)])
    reference = copy.deepcopy(tiny_model).double()
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    mask = torch.arange(ids.shape[1])[None] >= len(row.prompt_ids)
    logp_T = token_logprobs(reference, ids, mask, TEMPERATURE)[0, len(row.prompt_ids) :]
    (-row.weights[0] * (shifts.neg().exp().clamp(max=2.0) * logp_T).sum()).backward()
    expected = torch.cat([p.grad.flatten() for p in reference.parameters()])
    assert relative_difference(accumulated(learner), expected) < 1e-5


def test_too_wide_a_gap_stops_before_the_step(tiny_model, sampled):
    rows = with_sampler_logprobs(regime_rows(sampled, 0.7), tiny_model, 0.25)
    limits = {"importance_cap": 2.0, "max_logprob_gap": 0.2}
    model = copy.deepcopy(tiny_model)
    learner = Learner(model, LearnerConfig(), 10, TEMPERATURE, **limits)
    with pytest.raises(PolicyMismatch) as caught:
        learner.update(rows)
    assert str(caught.value).startswith("step 0: sampler and learner differ by 0.25 nats a token")
    assert "rollout.max_logprob_gap=0.2" in str(caught.value)
    for (_, ours), (_, before) in zip(
        learner.weights(), tiny_model.named_parameters(), strict=True
    ):
        assert torch.equal(ours, before)
    assert learner.step == 0 and not learner.optimizer.state
    broken = [replace(r, sampler_logprobs=(math.nan,) * len(r.completion_ids)) for r in rows]
    with pytest.raises(PolicyMismatch):
        Learner(model, LearnerConfig(), 10, TEMPERATURE, **limits).update(broken)
    Learner(model, LearnerConfig(), 10, TEMPERATURE, max_logprob_gap=0.3).update(rows)


def dropping_model():
    """Dropout everywhere but at rest, in the functional form that reads a layer's own flag too."""
    config = OPTConfig(
        vocab_size=18, hidden_size=32, ffn_dim=48, num_hidden_layers=6, num_attention_heads=4,
        word_embed_proj_dim=32, dropout=0.5, attention_dropout=0.5, max_position_embeddings=64,
        init_std=0.4, bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("which", ["tiny", "dropout"])
def test_checkpointed_layers_give_the_same_gradient(tiny_model, sampled, which):
    model = tiny_model if which == "tiny" else dropping_model()
    rows = regime_rows(sampled, 0.7)
    plain, saving = new_learner(model), new_learner(model, gradient_checkpointing=True)
    assert saving.accumulate_gradient(rows) == plain.accumulate_gradient(rows)
    assert accumulated(plain).norm() > 0
    assert torch.equal(accumulated(saving), accumulated(plain))


def test_checkpointed_layers_take_less_memory():
    """Six layers whose activations outweigh everything else: 16 rows of 48 tokens."""
    rows = [TokenRow((2, i), tuple(range(2, 18)) * 2, (0.1,)) for i in range(16)]
    peaks = []
    for on in (False, True):
        learner = new_learner(
            dropping_model(), gradient_checkpointing=on, max_tokens_per_batch=10**4
        )
        with PeakMemory(learner.model.parameters()) as memory:
            learner.accumulate_gradient(rows)
        peaks.append(memory.peak)
    assert peaks[1] < 0.5 * peaks[0]


def test_layers_that_cannot_be_checkpointed_are_refused(tiny_model):
    model = copy.deepcopy(tiny_model)
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(UserError, match=r"learner\.gradient_checkpointing=true, but Llama"):
        new_learner(model, gradient_checkpointing=True)


def test_bfloat16_activations_keep_float32_weights(tiny_model, sampled):
    rows = regime_rows(sampled, 0.7)
    exact = gradient_of(tiny_model, rows)
    learner = new_learner(tiny_model, torch.float32, compute_dtype="bfloat16")
    learner.accumulate_gradient(rows)
    assert {p.grad.dtype for p in learner.model.parameters()} == {torch.float32}
    assert 1e-4 < relative_difference(accumulated(learner).double(), exact) < 0.1


def test_frozen_parameters_stay_and_are_handed_over(tiny_model, sampled):
    model = copy.deepcopy(tiny_model)
    model.get_input_embeddings().requires_grad_(False)
    learner = Learner(model, LearnerConfig(lr=1e-2), 10, TEMPERATURE)
    learner.update(regime_rows(sampled, 0.7))
    before = dict(tiny_model.named_parameters())
    moved = {name for name, tensor in learner.weights() if not torch.equal(tensor, before[name])}
    assert moved == before.keys() - {"model.embed_tokens.weight"}


def test_tied_weights_are_handed_over_once(sampled):
    model = random_model("gemma3")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    learner = new_learner(model)
    names = [name for name, _ in learner.weights()]
    assert names == [name for name, _ in model.named_parameters()]
    assert "lm_head.weight" not in names
