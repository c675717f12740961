"""Build what a training step learns from: judged samples (RL) or worked solutions (SFT)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from passk.config.schema import TrainConfig
from passk.data.prompts import PromptEncoder
from passk.learner.batch import TokenRow, advantage_weights, make_rows
from passk.objectives.advantages import Objective, dead_groups
from passk.objectives.pass_at_k import pass_at_k
from passk.rollout.rollout import Actor, Rollout, SampleKey, rollout, training_params
from passk.types import Problem

_JUDGING = ("unjudged_fraction", "reasons", "rollout_seconds", "verify_seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleMetrics:
    """Metrics of a step's samples, for `metrics.jsonl`; None where nothing was sampled or judged.

    Pass@1 and Pass@k are unbiased, Pass@k over the prompts with at least k judged samples.
    """

    reward_mean: float | None = None
    k: int | None = None
    pass1: float | None = None
    passk: float | None = None
    unjudged_fraction: float | None = None
    reasons: dict[str, int] | None = None
    trained_k: int | None = None
    pass1_weight: float | None = None
    min_success: float | None = None
    mean_weight: float | None = None
    dead_group_fraction: float | None = None
    dead_fail_fraction: float | None = None
    dead_solved_fraction: float | None = None
    rollout_seconds: float | None = None
    verify_seconds: float | None = None

    def columns(self) -> dict[str, Any]:
        """Return the entries of a line of `metrics.jsonl`, in its order.

        A line of SFT names the entries about judging after those of the objective.
        """
        names = [field.name for field in fields(self)]
        if self.k is None:
            names.sort(key=_JUDGING.__contains__)
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Experience:
    """Weighted rows for the learner, their metrics to log, and the rollout they come from.

    `num_processed` counts the tokens of prompt and completion of every sample or worked solution.
    """

    rows: list[TokenRow]
    metrics: SampleMetrics
    num_processed: int
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
    return Experience(rows, SampleMetrics(), sum(map(len, rows)))


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
    weights_PGO = advantage_weights(advantages_PG, rewards_PG)[..., None]
    if cfg.learner.kl_weight:  # of every sample, judged or not, so none is skipped
        of_kl_PG1 = np.full_like(weights_PGO, cfg.learner.kl_weight / rewards_PG.size)
        weights_PGO = np.concatenate([weights_PGO, of_kl_PG1], axis=-1)
    rows = make_rows(
        sampled.groups,
        weights_P11 * weights_PGO,
        merge_identical=cfg.learner.merge_identical,
        skip_zero=cfg.learner.skip_zero_advantages,
    )
    judged_P = (~np.isnan(rewards_PG)).sum(axis=1)
    k, is_judged, usable = cfg.regime.k, judged_P > 0, judged_P >= cfg.regime.k
    n_P, c_P = judged_P[usable], np.nansum(rewards_PG[usable], axis=1).astype(np.int64)
    is_mixture = objective.estimator == "mixture"
    metrics = SampleMetrics(
        reward_mean=float(np.nanmean(rewards_PG)) if is_judged.any() else None,
        k=k,
        pass1=(
            float(np.nanmean(np.nanmean(rewards_PG[is_judged], axis=1)))
            if is_judged.any()
            else None
        ),
        passk=float(np.mean(pass_at_k(n_P, c_P, k))) if usable.any() else None,
        unjudged_fraction=float(np.isnan(rewards_PG).mean()),
        reasons=dict(Counter(v.reason for group in sampled.groups for v in group.verdicts)),
        trained_k=objective.k,
        pass1_weight=objective.pass1_weight,
        min_success=objective.min_success,
        mean_weight=float(np.mean(objective.prompt_weights(rewards_PG))) if is_mixture else None,
        **asdict(dead_groups(advantages_PG, rewards_PG)),
        rollout_seconds=sampled.sample_seconds,
        verify_seconds=sampled.verify_seconds,
    )
    of_prompts = sum(len(group.prompt_ids) * len(group.completions) for group in sampled.groups)
    return Experience(rows, metrics, of_prompts + sampled.num_tokens, sampled)
