"""The policy is in memory twice where it learns, and once where it is only measured."""

from datetime import date

import pytest

from passk.config.compose import settle
from passk.config.schema import ConventionsConfig, TrainConfig
from passk.training.build import open_parts


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_only_a_policy_that_learns_is_in_memory_twice(dtype):
    cfg = settle(TrainConfig(data=ConventionsConfig(name="conventions")))
    cfg.rollout.engine, cfg.rollout.dtype = "torch", dtype
    for needs_training in (False, True):
        with open_parts(cfg, "tiny", day=date.today(), needs_training=needs_training) as parts:
            of_learner, of_sampler = (
                {parameter.data_ptr() for parameter in model.parameters()}
                for model in (parts.learner.model, parts.sampler.model)
            )
            assert len(of_sampler) > 10
            assert (of_learner.isdisjoint(of_sampler)) == needs_training
            assert (of_learner == of_sampler) == (not needs_training)
