"""The start's weights in place of the learner's: for a pass, in shards, and with adapters."""

import json

import pytest
import torch
from random_models import model_of
from rank_work import compared_with_start, some_rows

from passk.cli.launch import launch
from passk.config.schema import LearnerConfig, ModelConfig
from passk.learner.learner import Learner
from passk.learner.logprobs import token_logprobs
from passk.learner.lora import add_adapters
from passk.learner.policy import load_policy
from passk.learner.reference import at_start, distance_from, read_reference

CPU = torch.device("cpu")
ROWS = some_rows(12)


@pytest.fixture(params=["llama", "gemma3", "mixtral"])  # plain, a tied head, joined experts
def folder(request, tmp_path):
    model_of(request.param).save_pretrained(tmp_path)
    return str(tmp_path)


def moved_learner(folder: str, **model: int) -> Learner:
    """A learner three large steps from the model in the folder."""
    cfg = ModelConfig(**model)
    policy = load_policy(cfg, folder, CPU)
    add_adapters(policy, cfg, seed=0)
    learner = Learner(policy, LearnerConfig(lr=0.03, schedule="constant"), 10, 1.0)
    for seed in range(3):
        learner.update(some_rows(9, seed=seed))
    return learner


def policies_logprobs(folder: str, temperature: float) -> list[torch.Tensor]:
    """log pi of each token of ROWS under the model in the folder, a row at a time."""
    model = load_policy(ModelConfig(), folder, CPU)
    found = []
    for row in ROWS:
        ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
        mask = torch.arange(len(row))[None] >= len(row.prompt_ids)
        with torch.no_grad():
            found.append(token_logprobs(model, ids, mask, temperature)[mask])
    return found


@pytest.mark.parametrize("rank", [0, 4])
def test_the_start_stands_in_for_a_pass_and_the_learner_comes_back(folder, rank):
    learner = moved_learner(folder, lora_rank=rank)
    before = {name: part.clone() for name, part in learner.model.named_parameters()}
    own = learner.token_logprobs(ROWS, 0.7)
    reference = read_reference(learner, ModelConfig(), folder)
    with at_start(learner, reference):
        starts = learner.token_logprobs(ROWS, 0.7)
    for name, part in learner.model.named_parameters():
        assert torch.equal(part, before[name]), name
    for found, expected in zip(starts, policies_logprobs(folder, 0.7), strict=True):
        torch.testing.assert_close(torch.tensor(found), expected.double(), rtol=1e-5, atol=1e-5)
    for found, again, other in zip(own, learner.token_logprobs(ROWS, 0.7), starts, strict=True):
        assert (found == again).all() and not (found == other).all()


@pytest.mark.parametrize("rank", [0, 4])
def test_the_distance_is_that_of_the_plain_models(folder, rank):
    learner = moved_learner(folder, lora_rank=rank)
    start = dict(load_policy(ModelConfig(), folder, CPU).named_parameters())
    now = dict(learner.weights())
    assert now.keys() == start.keys()
    flat = {
        name: torch.cat([tensors[n].detach().double().flatten() for n in start])
        for name, tensors in (("now", now), ("start", start))
    }
    moved = distance_from(learner, read_reference(learner, ModelConfig(), folder))
    assert moved.distance == pytest.approx(float((flat["now"] - flat["start"]).norm()), rel=1e-9)
    assert moved.start_norm == pytest.approx(float(flat["start"].norm()), rel=1e-9)
    assert moved.distance > 0


def test_before_a_step_there_is_no_distance(folder):
    learner = Learner(load_policy(ModelConfig(), folder, CPU), LearnerConfig(), 10, 1.0)
    assert distance_from(learner, None).distance == 0
    assert distance_from(learner, None).start_norm > 0


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize(
    ("name", "num_ranks", "replicas", "rank"),
    [("gemma3", 2, 1, 0), ("mixtral", 2, 1, 0), ("llama", 2, 1, 4), ("llama", 4, 2, 0)],
)
def test_ranks_find_the_same(tmp_path, name, num_ranks, replicas, rank):
    folder = str(tmp_path / name)
    model_of(name).save_pretrained(folder)
    cfg = ModelConfig(lora_rank=rank)
    found = []
    for ranks, copies in ((1, 1), (num_ranks, replicas)):
        out = tmp_path / f"{ranks}.json"
        launch(compared_with_start, ranks, str(out), folder, cfg, copies)
        found.append(json.loads(out.read_text()))
    one, many = found
    assert many["unchanged"]
    assert many["distance"] == pytest.approx(one["distance"], rel=1e-4)
    for name in ("own", "start"):
        for these, those in zip(one[name], many[name], strict=True):
            assert those == pytest.approx(these, abs=1e-4)
