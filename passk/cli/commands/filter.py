"""`passk filter`: write the training problems without those that interfere at every checkpoint."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd

from passk.cli.commands.diagnose import pass_gradient, refuse_silence
from passk.config.commands import FilterConfig
from passk.config.schema import RunConfig, TrainConfig
from passk.data.problems import write_problems
from passk.diagnostics.agreement import agreement_scores, weighted
from passk.diagnostics.derivatives import derivatives_along, saved_adam_metric
from passk.diagnostics.persistence import correlations
from passk.errors import UserError
from passk.files import replacing, step_name
from passk.memory import memory_advice
from passk.objectives.advantages import prompt_weights
from passk.objectives.pass_at_k import judged_counts
from passk.ranks import rank
from passk.report.filter_tables import KEPT, MATCHED, RANDOM, decisions, filter_page
from passk.runs.writer import Run
from passk.training.build import Parts
from passk.training.loop import diagnostic_groups
from passk.types import Problem


def agreement_file(run_dir: Path, step: int) -> Path:
    """Return the path for the agreements at a checkpoint; a resumed command reads it."""
    return run_dir / "agreement" / f"{step_name(step)}.parquet"


def measure_checkpoint(
    cfg: FilterConfig, base: TrainConfig, parts: Parts, start: str, step: int
) -> pd.DataFrame:
    """Measure the agreement of every prompt at the policy in `parts`, from fresh samples."""
    asked = cfg.diagnose
    metric = saved_adam_metric(parts.learner, Path(start)) if asked.preconditioned else None
    groups = diagnostic_groups(step, base, parts, asked.num_prompts, asked.num_samples)
    rewards_PG = np.array([group.rewards() for group in groups])
    try:
        refuse_silence(rewards_PG)
    except UserError as error:
        raise UserError(
            f"step {step}: {error}; or leave early checkpoints out with filter.num_checkpoints"
        ) from None
    parts.sampler.sleep()
    with memory_advice("learner"):
        pass1_MD = pass_gradient(parts, groups, rewards_PG, 1, asked.num_blocks)
        derivatives_PG = derivatives_along(parts.learner, groups, pass1_MD, metric=metric).values_PG
    scores_P, errors_P = agreement_scores(rewards_PG, derivatives_PG)
    n_P, c_P = judged_counts(rewards_PG)
    k = min(base.regime.k, asked.num_samples)
    return pd.DataFrame(
        {
            "problem_id": [group.problem.id for group in groups],
            "n": n_P,
            "c": c_P,
            "agreement": scores_P,
            "agreement_error": errors_P,
            "correlation": correlations(rewards_PG, derivatives_PG),
            f"weight_{k}": prompt_weights(rewards_PG, k, 0.0),
            f"contribution_{k}": weighted(rewards_PG, derivatives_PG, k),
        }
    )


def write_agreement(file: Path, found: pd.DataFrame) -> None:
    """Write the agreements at a checkpoint to a file, atomically."""
    if rank() == 0:
        with replacing(file) as partial:
            found.to_parquet(partial, index=False)


def write_filtered(
    cfg: FilterConfig,
    base: TrainConfig,
    problems: Sequence[Problem],
    steps: Sequence[int],
    run: Run,
) -> None:
    """Decide from all agreements, and write the data files, the table and the page."""
    tables = {step: pd.read_parquet(agreement_file(run.path, step)) for step in steps}
    decided = decisions(problems, tables, cfg.filter, cfg.diagnose.seed)
    for name in (KEPT, RANDOM, MATCHED):
        weights_P = np.where(decided[name], cfg.filter.weight, 1.0)
        kept = [
            replace(problem, weight=problem.weight * weight)
            for problem, weight in zip(problems, weights_P.tolist(), strict=True)
            if weight > 0
        ]
        write_problems(run.path / f"{name}.jsonl", kept, base.data)
    run.write_table("filter", decided)
    text = filter_page(decided, tables[max(steps)], cfg.filter, len(tables))
    run.write_text("filter.md", text)
    print(text)
    print(f"data files and tables are in {run.path}")


def as_saved(cfg: FilterConfig, base: TrainConfig) -> FilterConfig:
    """Return the configuration for `config.yaml`, with the run's values in place of defaults."""
    return replace(cfg, **{field.name: getattr(base, field.name) for field in fields(RunConfig)})
