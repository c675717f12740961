"""One engine for all tests here: starting one takes 10 to 20 seconds. Others start in forks."""

import copy
import os

import forked
import pytest

# Read when vllm is imported; the command line sets the same for a run.
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ |= {"OMP_WAIT_POLICY": "PASSIVE"}


@pytest.fixture(scope="session")
def forked_ranks():
    """Ranks, and command lines in processes of their own, share the imports: see `forked.py`."""
    with forked.ranks(*forked.VLLM):
        yield


@pytest.fixture(scope="session")
def engine(tiny_tokenizer):
    """A vLLM sampler of the shipped model in float32. It keeps the weights it was last given."""
    from passk.config.schema import ModelConfig, RolloutConfig
    from passk.rollout.vllm_sampler import VLLMSampler

    cfg = RolloutConfig(memory_fraction=0.2)
    sampler = VLLMSampler("tiny", tiny_tokenizer, ModelConfig(), cfg, max_model_len=64, end_ids=[1])
    yield sampler
    sampler.close()


@pytest.fixture
def policy(tiny_model):
    """A copy of the shipped model whose every weight differs a little from it."""
    import torch

    model = copy.deepcopy(tiny_model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model
