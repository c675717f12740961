"""Pass@1 and Pass@k of a policy on held-out problems, with intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from passk.config import EvalConfig, RunConfig
from passk.estimators import pass_at_k
from passk.prompts import PromptEncoder
from passk.rollout import SampleKey, eval_params, rollout
from passk.sampler import Sampler
from passk.statistics import bootstrap_intervals
from passk.types import Problem
from passk.verifiers import Verifier

_COLUMNS = ["k", "value", "ci_low", "ci_high", "num_problems", "num_samples"]


def count_correct(
    sampler: Sampler,
    verifier: Verifier,
    encoder: PromptEncoder,
    problems: Sequence[Problem],
    cfg: RunConfig,
) -> pd.DataFrame:
    """Sample each problem `eval.num_samples` times: columns problem_id, kind, n, c.

    `n` counts judged samples. Seeds do not depend on the step or the run, so that two policies are
    compared with common random numbers.
    """
    sampled = rollout(
        sampler,
        verifier,
        encoder,
        problems,
        cfg.eval.num_samples,
        eval_params(cfg),
        SampleKey(cfg.eval.seed, "eval", 0),
    )
    rewards_PG = sampled.rewards_PG
    return pd.DataFrame(
        {
            "problem_id": [p.id for p in problems],
            "kind": [p.kind for p in problems],
            "n": (~np.isnan(rewards_PG)).sum(axis=1),
            "c": np.nansum(rewards_PG, axis=1).astype(np.int64),
        }
    )


def pass_table(counts: pd.DataFrame, cfg: EvalConfig) -> pd.DataFrame:
    """Long form: k, value, ci_low, ci_high, num_problems, num_samples for each k of `eval.ks`.

    `num_samples` is n, the samples of one problem (the most that were judged).

    Unbiased Pass@k per problem (Chen et al. 2021), mean over problems, percentile bootstrap over
    problems. Problems with fewer judged samples than the largest k are left out of all rows, and
    `num_problems` says how many remain.
    """
    usable = counts[counts["n"] >= max(cfg.ks)]
    if usable.empty:
        return pd.DataFrame(columns=_COLUMNS)
    n_P, c_P = usable["n"].to_numpy(), usable["c"].to_numpy()
    values_PK = np.stack([pass_at_k(n_P, c_P, k) for k in cfg.ks], axis=1)
    intervals = bootstrap_intervals(values_PK, num_resamples=cfg.num_resamples, seed=cfg.seed)
    rows = [
        (k, interval.value, interval.low, interval.high, len(usable), int(n_P.max()))
        for k, interval in zip(cfg.ks, intervals, strict=True)
    ]
    return pd.DataFrame(rows, columns=_COLUMNS)


def pass_table_by_kind(counts: pd.DataFrame, cfg: EvalConfig) -> pd.DataFrame:
    """`pass_table` for each kind that has usable problems, with a leading column `kind`."""
    usable = counts[counts["n"] >= max(cfg.ks)]  # an empty table's columns would have no type
    if usable.empty:
        return pd.DataFrame(columns=["kind", *_COLUMNS])
    parts = []
    for kind, group in usable.groupby("kind", sort=True):
        table = pass_table(group, cfg)
        table.insert(0, "kind", kind)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def percent_cells(table: pd.DataFrame) -> list[str]:
    """`54.7 [52.0, 57.5]`, in percent, for each row of a Pass@k table."""
    columns = (100 * table[["value", "ci_low", "ci_high"]]).to_numpy()
    return [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in columns]
