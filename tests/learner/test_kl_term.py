"""The KL term of the loss: its expected gradient by enumeration, and that it is a gradient."""

import copy
import json
import random
from dataclasses import replace
from itertools import product

import pytest
import torch
from random_models import random_model
from rank_work import gradients, some_rows

from passk.cli.launch import launch
from passk.config.schema import LearnerConfig
from passk.learner.batch import TokenRow
from passk.learner.learner import Learner

PROMPT = (3, 5, 4)


@pytest.fixture(scope="module")
def start():
    return random_model("llama").double()


def moved_by(start, size: float):
    """A model whose weights differ from the start's by so many standard deviations."""
    model = copy.deepcopy(start)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter += size * parameter.std() * noise
    return model


@pytest.fixture(scope="module")
def moved(start):
    return moved_by(start, 0.5)


def new_learner(model, **options) -> Learner:
    return Learner(copy.deepcopy(model), LearnerConfig(**options), 10, 1.0)


def with_start(start, rows) -> list[TokenRow]:
    logprobs = new_learner(start).token_logprobs(rows)
    return [
        replace(row, start_logprobs=tuple(logp.tolist()))
        for row, logp in zip(rows, logprobs, strict=True)
    ]


def gradient(learner: Learner, rows) -> torch.Tensor:
    return learner.gradient(rows).double()


def kl_rows(start, count: int = 9) -> list[TokenRow]:
    """Rows with weights of both terms, some of them 0; several share a prompt."""
    rng = random.Random(0)
    rows = [
        replace(row, prompt_ids=PROMPT if i % 2 else row.prompt_ids)
        for i, row in enumerate(some_rows(count))
    ]
    rows = [
        replace(row, weights=(row.weights[0] * (i % 3 > 0), 0.3 * rng.random()))
        for i, row in enumerate(rows)
    ]
    return with_start(start, rows)


def next_logprobs(model, prefixes) -> torch.Tensor:
    ids = torch.tensor([[*PROMPT, *prefix] for prefix in prefixes])
    return torch.log_softmax(model(input_ids=ids).logits[:, -1], dim=-1)


def test_the_expected_gradient_is_that_of_the_start_against_the_policy(start, moved):
    """All answers of two tokens, each weighted by its chance under the policy."""
    vocabulary = moved.get_output_embeddings().out_features
    tokens = range(vocabulary)
    answers = list(product(tokens, repeat=2))
    plain = [TokenRow(PROMPT, answer, (0.0, 0.0)) for answer in answers]
    chances = [float(logp.sum()) for logp in new_learner(moved).token_logprobs(plain)]
    rows = [
        replace(row, weights=(0.0, float(torch.tensor(chance).exp())))
        for row, chance in zip(plain, chances, strict=True)
    ]
    assert sum(row.weights[1] for row in rows) == pytest.approx(1, abs=1e-5)
    found = gradient(new_learner(moved), with_start(start, rows))

    def expected(forward: bool) -> torch.Tensor:
        """The gradient of KL(start || policy), or the other way round, under fixed prefixes."""
        model = copy.deepcopy(moved)
        total = torch.zeros(1, dtype=torch.float64)
        for length in (0, 1):
            prefixes = list(product(tokens, repeat=length))
            now, first = next_logprobs(model, prefixes), next_logprobs(start, prefixes).detach()
            weights = torch.ones(1, dtype=torch.float64)
            if length:
                weights = next_logprobs(moved, [()])[0].exp().detach()
            one, other = (first, now) if forward else (now, first)
            total = total + (weights * (one.exp() * (one - other)).sum(dim=1)).sum()
        total.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    right, reverse = expected(True), expected(False)
    assert float((found - right).norm() / right.norm()) < 1e-5
    assert float((found - reverse).norm() / reverse.norm()) > 0.1


def test_the_gradient_agrees_with_finite_differences_of_the_loss(start):
    """Near the start, as r grows exponentially with the weights."""
    rows, moved = kl_rows(start), moved_by(start, 0.05)
    slopes = gradient(new_learner(moved), rows)
    generator = torch.Generator().manual_seed(2)
    direction = torch.randn(slopes.shape, generator=generator, dtype=torch.float64)
    direction /= direction.norm()

    def loss_at(distance: float) -> float:
        other = copy.deepcopy(moved)
        torch.nn.utils.vector_to_parameters(
            torch.nn.utils.parameters_to_vector(other.parameters()) + distance * direction,
            other.parameters(),
        )
        return new_learner(other).accumulate_gradient(rows).loss

    def slope(step: float) -> float:
        return (loss_at(step) - loss_at(-step)) / (2 * step)

    extrapolated = (4 * slope(1e-2) - slope(2e-2)) / 3  # norms of layers round to float32
    assert extrapolated == pytest.approx(float(slopes @ direction), rel=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"prefix_trees": False},
        {"max_tokens_per_batch": 25},
        {"max_tokens_per_batch": 25, "prefix_trees": False},
        {"gradient_checkpointing": True},
    ],
)
def test_the_arrangement_of_rows_does_not_change_it(start, moved, options):
    rows = kl_rows(start)
    one, other = new_learner(moved), new_learner(moved, **options)
    expected, found = gradient(one, rows), gradient(other, rows)
    assert float((found - expected).norm() / expected.norm()) < 1e-6
    assert other.accumulate_gradient(rows).kl == pytest.approx(one.accumulate_gradient(rows).kl)


def test_a_merged_row_counts_as_its_samples(start, moved):
    rows = kl_rows(start)
    halves = [replace(row, weights=tuple(w / 2 for w in row.weights)) for row in rows]
    expected, found = (gradient(new_learner(moved), r) for r in (rows, halves + halves))
    assert float((found - expected).norm() / expected.norm()) < 1e-6


def test_the_metric_is_the_mean_of_k3_per_token_and_0_at_the_start(start, moved):
    rows = [replace(row, weights=(0.0, 0.25)) for row in kl_rows(start)]
    log_ratios = [
        torch.tensor(row.start_logprobs) - torch.tensor(logp)
        for row, logp in zip(rows, new_learner(moved).token_logprobs(rows), strict=True)
    ]
    log_ratio_N = torch.cat(log_ratios)
    k3_N = log_ratio_N.exp() - log_ratio_N - 1
    stats = new_learner(moved).accumulate_gradient(rows)
    assert stats.kl == pytest.approx(float(k3_N.mean()), rel=1e-5)
    assert stats.loss == pytest.approx(0.25 * float(k3_N.sum()), rel=1e-5)
    assert new_learner(start).accumulate_gradient(rows).kl == pytest.approx(0, abs=1e-9)
    assert new_learner(moved).accumulate_gradient(some_rows(3)).kl is None


@pytest.mark.usefixtures("forked_ranks")
def test_ranks_add_up_to_one_process(tmp_path):
    """More ranks than micro-batches, too: some have nothing but a batch of no weight."""
    rng = random.Random(1)
    rows = [
        replace(
            row,
            weights=(*row.weights, 0.2),
            start_logprobs=tuple(-3 * rng.random() for _ in row.completion_ids),
        )
        for row in some_rows(7)
    ]
    found = []
    for num_ranks in (1, 2, 4):
        out = tmp_path / f"{num_ranks}.json"
        settings = [{"max_tokens_per_batch": 40}]
        launch(gradients, num_ranks, str(out), {"tiny": "tiny"}, settings, [rows, rows[:2]])
        (cases,) = json.loads(out.read_text()).values()
        found.append(cases)
    one, *others = found
    for many in others:
        for (loss, _, slopes), (other_loss, _, other) in zip(one, many, strict=True):
            assert other_loss == pytest.approx(loss, rel=1e-5)
            expected = torch.tensor(slopes)
            assert float((torch.tensor(other) - expected).norm() / expected.norm()) < 1e-5
