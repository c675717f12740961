"""Measure how far a run's policy is from the one that it started from."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from passk.config.schema import TrainConfig
from passk.evaluation.distance import distance_table
from passk.learner.batch import make_rows
from passk.learner.reference import at_start, distance_from, read_reference
from passk.memory import memory_advice
from passk.training.build import Parts
from passk.training.weight_sync import hand_over
from passk.types import Group


def measure_distance(
    cfg: TrainConfig, parts: Parts, groups: Sequence[Group]
) -> dict[str, pd.DataFrame]:
    """Compare the learner with its start on the first samples of each of an evaluation's groups.

    The learner computes the log-probabilities of both, at `eval.temperature`, from which the
    samples were drawn. The weights of the start are read again each time, and then dropped; before
    the first update they are the learner's own, and nothing is read. Returns the table `distance`,
    and no table if `eval.num_distance_samples` is 0, or if a nucleus (`eval.top_p`) was sampled,
    which is not the policy.
    """
    if not cfg.eval.num_distance_samples or cfg.eval.top_p < 1 or parts.origin is None:
        return {}
    learner, temperature = parts.learner, cfg.eval.temperature
    is_taken_G = np.arange(cfg.eval.num_samples) < cfg.eval.num_distance_samples
    rows = make_rows(groups, np.tile(is_taken_G[None, :, None], (len(groups), 1, 1)).astype(float))
    parts.sampler.sleep()
    with memory_advice("learner"):
        logprobs = start_logprobs = learner.token_logprobs(rows, temperature)
        reference = None
        if learner.step:
            reference = parts.reference or read_reference(learner, cfg.model, parts.origin)
            with at_start(learner, reference):
                start_logprobs = learner.token_logprobs(rows, temperature)
        moved = distance_from(learner, reference)
    hand_over(learner, parts.sampler, cfg.rollout.num_synced_checks)
    places_B = [row.samples[0][0] for row in rows]
    counts_B = [row.weights[0] for row in rows]
    table = distance_table(places_B, counts_B, logprobs, start_logprobs, cfg.eval)
    table = table.assign(distance=moved.distance, relative_distance=moved.relative)
    return {"distance": table}
