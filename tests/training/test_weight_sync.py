"""A sampler that was not given the learner's weights is found out at once."""

import copy
import math

import pytest
import torch
from small_runs import metrics, train

from passk.config.schema import LearnerConfig
from passk.errors import Diverged, PolicyMismatch
from passk.learner.learner import Learner
from passk.rollout.torch_sampler import TorchSampler
from passk.rollout.vllm_check import same_checksum
from passk.training.weight_sync import hand_over


@pytest.fixture
def pair(tiny_model, tiny_tokenizer):
    learner = Learner(copy.deepcopy(tiny_model), LearnerConfig(), 10, 1.0)
    return learner, TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)


def change(model, scale=1e-3):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def test_a_hand_over_gives_weights_and_version(pair):
    learner, sampler = pair
    change(learner.model)
    learner.step = 3
    hand_over(learner, sampler, num_checks=5)
    assert sampler.policy_version == 3
    assert all(sampler.holds(name, tensor) for name, tensor in learner.weights())
    change(learner.model)
    assert not any(sampler.holds(name, tensor) for name, tensor in learner.weights())


def test_what_a_sampler_does_not_know_it_cannot_tell(pair):
    _, sampler = pair
    assert sampler.holds("no.such.weight", torch.zeros(2)) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_divergence_and_not_mismatch(pair, value):
    """NaN equals nothing, so the sampler does not seem to hold it either."""
    learner, sampler = pair
    learner.step = 3
    learner.model.get_input_embeddings().weight.data[2, 5] = value
    with pytest.raises(Diverged, match=r"^step 3: the learner's model.embed_tokens.weight is not"):
        hand_over(learner, sampler, num_checks=1000)


@pytest.mark.parametrize("num_checks", [1, 4, 1000])
def test_weights_that_were_not_taken_are_named(pair, num_checks):
    """The sampler reads the weights and forgets them, or does not even read them."""
    learner, sampler = pair
    change(learner.model)
    for lazy in (lambda weights, version: list(weights), lambda weights, version: None):
        sampler.load_weights = lazy
        with pytest.raises(PolicyMismatch, match=r"step 0: .* learner's model\.\S+ after"):
            hand_over(learner, sampler, num_checks)


def test_one_stale_tensor_is_found_within_a_few_steps(pair):
    """One of 20 tensors is left out; 8 are drawn a step: missed 20 times once in 27,000 runs."""
    learner, sampler = pair
    whole, forgotten = sampler.load_weights, "model.layers.1.mlp.up_proj.weight"

    def partly(weights, version):
        old = dict(sampler.model.named_parameters())[forgotten].clone()
        whole(weights, version)
        with torch.no_grad():
            dict(sampler.model.named_parameters())[forgotten].copy_(old)

    sampler.load_weights = partly
    change(learner.model)
    with pytest.raises(PolicyMismatch, match=r"layers\.1\.mlp\.up_proj"):
        for step in range(20):
            learner.step = step
            hand_over(learner, sampler, num_checks=8)


def test_a_run_stops_before_it_learns_from_stale_samples(tmp_path, monkeypatch, capsys):
    """The second hand-over of a run, after its first step, is skipped."""
    load, calls = TorchSampler.load_weights, []

    def skipping(self, weights, version):
        calls.append(version)
        if version == 0:
            load(self, weights, version)
        self.policy_version = version

    monkeypatch.setattr(TorchSampler, "load_weights", skipping)
    run = tmp_path / "run"
    assert train(run, "train.num_steps=4", "eval.every=0", "diagnostics.every=0") == 1
    assert calls == [0, 1]
    err = capsys.readouterr().err
    assert err.startswith("passk: step 1: the sampler does not hold the learner's ")
    assert err.count("\n") == 1
    assert len(metrics(run) if (run / "metrics.jsonl").is_file() else []) <= 1


def test_a_checksum_sees_a_single_bit_and_no_order():
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        tensor = torch.randn(300, 200).to(dtype)
        shuffled = tensor.flatten()[torch.randperm(tensor.numel())].view(200, 300)
        assert same_checksum(tensor, shuffled)
        other = tensor.clone()
        other[7, 9] = torch.nextafter(other[7, 9].float(), torch.tensor(9.0)).to(dtype)
        if dtype == torch.bfloat16:  # the next bfloat16, not the next float32
            other[7, 9] = (tensor[7, 9].view(torch.int16) + 1).view(torch.bfloat16)
        assert not same_checksum(tensor, other)
    assert not same_checksum(torch.zeros(3), torch.zeros(4))
