"""Compare gradients that several ranks compute, of the rows in `CASES`, with one process's."""

from dataclasses import replace

import pytest
import torch
from rank_work import measured, some_rows

from passk.config.schema import LearnerConfig, ModelConfig
from passk.learner.learner import Learner
from passk.learner.policy import load_policy

CASES = {
    "many rows": some_rows(40),
    "one row, so that other ranks have none": some_rows(1),
    "three rows": some_rows(3),
    "no rows": [],
    "samples that share prompts": [
        replace(row, prompt_ids=prompt.prompt_ids)
        for prompt in some_rows(3, seed=1)
        for row in some_rows(5, seed=2)
    ],
}


def assert_as_one_process(found, path) -> None:
    """Fail unless one process finds the same loss, log-probabilities and gradient in each case.

    `found` is what `rank_work.gradients` wrote of the model in the folder `path`.
    """
    learner = Learner(
        load_policy(ModelConfig(), path, torch.device("cpu")), LearnerConfig(), 10, 1.0
    )
    for case, (loss, logprobs, gradient) in zip(CASES, found, strict=True):
        alone = measured(learner, CASES[case])
        assert loss == pytest.approx(alone[0], rel=1e-5, abs=1e-7), case
        assert logprobs == pytest.approx(alone[1], rel=1e-5), case
        expected = torch.tensor(alone[2])
        assert (torch.tensor(gradient) - expected).norm() <= 1e-5 * expected.norm(), case
