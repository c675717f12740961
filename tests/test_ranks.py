"""Several ranks compute what one computes, up to the order of sums."""

import json

import pytest
import torch
from rank_work import gradients, some_rows

from passk.batch import balanced
from passk.config import LearnerConfig, ModelConfig
from passk.launch import launch
from passk.learner import Learner
from passk.policy import load_policy

CASES = {
    "many rows": some_rows(40),
    "one row, so that other ranks have none": some_rows(1),
    "three rows": some_rows(3),
    "no rows": [],
}


@pytest.fixture(scope="module")
def alone():
    """Loss, log-probabilities and gradient of each case in one process."""
    learner = Learner(
        load_policy(ModelConfig(), "tiny", torch.device("cpu")), LearnerConfig(), 10, 1.0
    )
    found = []
    for rows in CASES.values():
        learner.optimizer.zero_grad()
        loss, logprobs, _ = learner.accumulate_gradient(rows)
        parameters = learner.model.parameters()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        found.append((loss, logprobs, torch.cat([g.flatten() for g in grads])))
    return found


@pytest.mark.parametrize(
    ("num_ranks", "options"),
    [
        (2, {}),
        (2, {"max_tokens_per_batch": 100}),
        (2, {"max_tokens_per_batch": 100, "defer_reduction": False}),
        (2, {"max_tokens_per_batch": 100, "gradient_checkpointing": True}),
        (2, {"replicas": 2}),
        (4, {"max_tokens_per_batch": 100, "replicas": 2}),
    ],
    ids=str,
)
def test_the_gradient_is_that_of_one_process(alone, tmp_path, num_ranks, options):
    out = tmp_path / "found.json"
    launch(gradients, num_ranks, str(out), "tiny", list(CASES.values()), options)
    for case, found, (loss, logprobs, gradient) in zip(
        CASES, json.loads(out.read_text()), alone, strict=True
    ):
        assert found["loss"] == pytest.approx(loss, rel=1e-5), case
        assert found["logprobs"] == pytest.approx(logprobs, rel=1e-5), case
        difference = torch.tensor(found["gradient"]) - gradient
        assert difference.norm() <= 1e-5 * gradient.norm(), case


def test_tokens_are_dealt_out_evenly():
    lengths = [len(row) for row in some_rows(100)]
    for num_shares in (1, 2, 3, 8):
        shares = balanced(lengths, num_shares)
        assert sorted(place for share in shares for place in share) == list(range(100))
        totals = [sum(lengths[place] for place in share) for share in shares]
        assert max(totals) - min(totals) <= max(lengths)
