"""Build what a training step learns from: judged samples (RL) or worked solutions (SFT)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from passk.config.schema import TrainConfig
from passk.data.prompts import PromptEncoder
from passk.learner.batch import TokenRow, advantage_weights, make_rows
from passk.objectives.advantages import Objective, dead_groups
from passk.objectives.pass_at_k import pass_at_k
from passk.rollout.rollout import Actor, Rollout, SampleKey, rollout, training_params
from passk.types import Problem


@dataclass(frozen=True, slots=True)
class Experience:
    """Weighted rows for the learner, their metrics to log, and the rollout they come from."""

    rows: list[TokenRow]
    metrics: dict[str, Any]
    num_tokens: int
    sampled: Rollout | None = None  # None: worked solutions, nothing was sampled


def imitate(encoder: PromptEncoder, problems: Sequence[Problem]) -> Experience:
    """Build rows from worked solutions; the loss is the mean negative log-likelihood per token.

    The tokens of a problem are weighted by its weight in the sum, but not in the number of tokens.
    """
    prompts = encoder.prompts(problems)
    completions = encoder.completions(problems)
    num_tokens = sum(map(len, completions))
    rows = [
        TokenRow(tuple(prompt), tuple(completion), (problem.weight / num_tokens,))
        for problem, prompt, completion in zip(problems, prompts, completions, strict=True)
    ]
    nothing_sampled = dict.fromkeys(
        (
            "reward_mean",
            "k",
            "pass1",
            "passk",
            "trained_k",
            "pass1_weight",
            "min_success",
            "mean_weight",
            "dead_group_fraction",
            "dead_fail_fraction",
            "dead_solved_fraction",
            "unjudged_fraction",
            "reasons",
            "rollout_seconds",
            "verify_seconds",
        )
    )
    return Experience(rows, nothing_sampled, num_tokens)


def explore(
    step: int,
    cfg: TrainConfig,
    objective: Objective,
    actor: Actor,
    problems: Sequence[Problem],
) -> Experience:
    """Sample and judge each problem n times, and weight samples by the objective's advantages."""
    sampled = rollout(
        actor,
        problems,
        cfg.rollout.num_samples,
        training_params(cfg),
        SampleKey(cfg.train.seed, "train", step),
    )
    rewards_PG = sampled.rewards_PG
    advantages_PG = objective.advantages(rewards_PG)
    weights_P11 = np.array([problem.weight for problem in problems])[:, None, None]
    rows = make_rows(
        sampled.groups,
        weights_P11 * advantage_weights(advantages_PG, rewards_PG)[..., None],
        merge_identical=cfg.learner.merge_identical,
        skip_zero=cfg.learner.skip_zero_advantages,
    )
    metrics = {
        **_success(rewards_PG, cfg.regime.k),
        "reasons": dict(Counter(v.reason for group in sampled.groups for v in group.verdicts)),
        "trained_k": objective.k,
        "pass1_weight": objective.pass1_weight,
        "min_success": objective.min_success,
        "mean_weight": (
            float(np.mean(objective.prompt_weights(rewards_PG)))
            if objective.estimator == "mixture"
            else None
        ),
        **asdict(dead_groups(advantages_PG, rewards_PG)),
        "rollout_seconds": sampled.sample_seconds,
        "verify_seconds": sampled.verify_seconds,
    }
    return Experience(rows, metrics, sampled.num_tokens, sampled)


def _success(rewards_PG: np.ndarray, k: int) -> dict[str, Any]:
    """Compute the mean reward, and unbiased Pass@1 and Pass@k over prompts judged k times."""
    judged_P = (~np.isnan(rewards_PG)).sum(axis=1)
    usable = judged_P >= k
    n_P, c_P = judged_P[usable], np.nansum(rewards_PG[usable], axis=1).astype(np.int64)
    any_usable = bool(usable.any())
    return {
        "reward_mean": float(np.nanmean(rewards_PG)) if judged_P.any() else None,
        "k": k,
        "pass1": float(np.nanmean(np.nanmean(rewards_PG[judged_P > 0], axis=1)))
        if judged_P.any()
        else None,
        "passk": float(np.mean(pass_at_k(n_P, c_P, k))) if any_usable else None,
        "unjudged_fraction": float(np.isnan(rewards_PG).mean()),
    }
