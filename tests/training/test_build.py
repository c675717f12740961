"""Learner and sampler use the same weights in memory where they can."""

from datetime import date

import pytest

from passk.config.compose import settle
from passk.config.schema import ConventionsConfig, TrainConfig
from passk.training.build import open_parts


@pytest.mark.parametrize(
    ("needs_training", "dtype", "lora_rank", "shared"),
    [
        (False, None, 0, True),
        (False, "bfloat16", 0, True),
        (True, None, 0, True),
        (True, "bfloat16", 0, False),
        (True, None, 4, False),
    ],
)
def test_weights_are_in_memory_once(needs_training, dtype, lora_rank, shared):
    cfg = settle(TrainConfig(data=ConventionsConfig(name="conventions")))
    cfg.rollout.engine, cfg.rollout.dtype, cfg.model.lora_rank = "torch", dtype, lora_rank
    with open_parts(cfg, "tiny", day=date.today(), needs_training=needs_training) as parts:
        of_learner, of_sampler = (
            {parameter.data_ptr() for parameter in model.parameters()}
            for model in (parts.learner.model, parts.sampler.model)
        )
        assert len(of_sampler) > 10
        assert of_sampler <= of_learner if shared else of_sampler.isdisjoint(of_learner)
