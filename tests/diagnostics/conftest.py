"""Judged samples of the shipped model, and a learner of it that leaves its weights as they are."""

import pytest
from sampling import NUM_PROMPTS, NUM_SAMPLES, judged, learner_of


@pytest.fixture(scope="package")
def groups(tiny_model, tiny_tokenizer, tiny_encoder):
    return judged(
        tiny_model, tiny_tokenizer, tiny_encoder, NUM_PROMPTS, NUM_SAMPLES, skill_fraction=0.3
    ).groups


@pytest.fixture(scope="package")
def learner(tiny_model):
    return learner_of(tiny_model)
