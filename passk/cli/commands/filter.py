"""`passk filter`: write the training problems without those that interfere over checkpoints."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from passk.cli.commands.diagnose import as_training, common_fields, require_gradient_signal
from passk.cli.launch import on_all_ranks
from passk.cli.resume import (
    MeasuredPolicy,
    how_to_resume,
    measured_policies,
    model_states,
    prompt_day,
    refuse_changed_problems,
    refuse_changes,
    refuse_other_contents,
)
from passk.config.commands import FilterConfig
from passk.config.schema import TrainConfig
from passk.data.problems import digest, read_trusted, write_problems
from passk.data.prompts import check_characters, check_room, check_shown
from passk.diagnostics.agreement import agreement_scores, correlations, weighted
from passk.diagnostics.alignment import pass_gradient
from passk.diagnostics.derivatives import derivatives_along, saved_adam_metric
from passk.errors import Interrupted, UserError
from passk.files import replacing, step_name
from passk.learner.policy import context_length
from passk.memory import memory_advice
from passk.objectives.advantages import prompt_weights
from passk.objectives.pass_at_k import judged_counts
from passk.ranks import rank
from passk.report.filter_tables import KEPT, MATCHED, RANDOM, decisions, filter_page
from passk.runs.writer import Run
from passk.training.build import Parts, open_parts, prepare_torch, print_notes, run_preflight
from passk.training.loop import diagnostic_groups
from passk.types import Problem


@on_all_ranks
def run_filter(cfg: FilterConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Write the training problems without those that interfere; see docs/guide/diagnose.md.

    Runs on as many ranks as `learner.num_processes` says. If resumed, it measures only at
    checkpoints that it has not measured yet.
    """
    prepare_torch(cfg.num_threads, cfg.diagnose.seed)
    policies = [
        policy._replace(base=as_training(cfg, policy.base))
        for policy in measured_policies(cfg, overrides)
    ]
    first, base, parameters = policies[0], policies[0].base, cfg.diagnose.parameters
    refuse_changed_problems(cfg, overrides, needs_training=True)
    as_started = replace(cfg, **common_fields(base))
    if cfg.resume:
        refuse_changes("filter", as_started, run_dir)
    day = prompt_day(run_dir if cfg.resume else None, cfg.run)
    try:
        with open_parts(base, first.start, day=day, parameters=parameters) as parts:
            facts = parts.facts | model_states([policy.start for policy in policies])
            trusted = _trusted(cfg.filter.trusted, base, parts)
            facts |= {"trusted_sha256": digest([trusted])} if trusted else {}
            if cfg.resume:
                refuse_other_contents(facts, run_dir)
            print_notes(parts.data)
            parts, gold = run_preflight(base, parts, parts.data.train)
            problems = parts.data.train
            measured_before = agreement_file(run_dir, first.step).is_file()
            number = f"1 of {len(policies)}"
            found = None
            if not measured_before:
                found = measure_checkpoint(cfg, first, parts, number, trusted)
    except KeyboardInterrupt:
        raise Interrupted("interrupted before anything was measured") from None
    run = Run(run_dir, "filter", cfg.diagnose.seed)
    run.start(as_started, overrides, **facts)
    try:
        with run.recording_end():
            run.write_gold_refused(gold.refused)
            if found is not None:
                write_agreement(agreement_file(run_dir, first.step), found)
            for place, policy in enumerate(policies[1:], 2):
                if (file := agreement_file(run_dir, policy.step)).is_file():
                    continue
                with open_parts(policy.base, policy.start, day=day, parameters=parameters) as parts:
                    parts = replace(parts, data=replace(parts.data, train=problems))
                    number = f"{place} of {len(policies)}"
                    found = measure_checkpoint(cfg, policy, parts, number, trusted)
                    write_agreement(file, found)
            if rank() == 0:
                _write_filtered(cfg, base, problems, [policy.step for policy in policies], run)
    except KeyboardInterrupt:
        raise Interrupted(how_to_resume("filter", run_dir, overrides)) from None


def _trusted(path: str | None, base: TrainConfig, parts: Parts) -> tuple[Problem, ...]:
    """Read the problems of `filter.trusted`, if it is given, and check that their prompts fit."""
    if path is None:
        return ()
    problems = read_trusted(path, "filter.trusted", base.data, parts.data)
    check_shown(parts.encoder, problems)
    check_characters(parts.encoder, problems, base.model.path)
    context, rollout = context_length(parts.learner.model), base.rollout
    key = "rollout.max_new_tokens"
    check_room(parts.encoder, problems, rollout.max_new_tokens, context, rollout.max_model_len, key)
    return problems


def agreement_file(run_dir: Path, step: int) -> Path:
    """Return the path for the agreements at a checkpoint; a resumed command reads it."""
    return run_dir / "agreement" / f"{step_name(step)}.parquet"


def measure_checkpoint(
    cfg: FilterConfig,
    policy: MeasuredPolicy,
    parts: Parts,
    number: str,
    trusted: Sequence[Problem] = (),
) -> pd.DataFrame:
    """Measure the agreement of every prompt at the policy in `parts`, from fresh samples.

    It is with the gradient of Pass@1 over `trusted`, as Yang et al. 2026 (arXiv:2602.21492) rank
    training problems, or without any over the training problems of other blocks.

    `number` is that of the checkpoint among all that are measured, for the line that says so.
    """
    asked, (base, start, step) = cfg.diagnose, policy
    print(f"agreement at step {step}, checkpoint {number}", flush=True)
    metric = saved_adam_metric(parts.learner, Path(start)) if asked.preconditioned else None
    groups = diagnostic_groups(step, base, parts, asked.num_prompts, asked.num_samples)
    rewards_PG = np.array([group.rewards() for group in groups])
    try:
        require_gradient_signal(rewards_PG)
    except UserError as error:
        raise UserError(
            f"step {step}: {error}; or leave early checkpoints out with filter.num_checkpoints"
        ) from None
    reference, num_blocks = groups, min(asked.num_blocks, len(groups))
    if trusted:  # judged by the verifier as it is
        of_trusted = replace(parts.data, train=tuple(trusted))
        exact = replace(parts, data=of_trusted, training_verifier=parts.verifier)
        reference = diagnostic_groups(step, base, exact, None, asked.num_samples, "trusted")
        require_gradient_signal(np.array([group.rewards() for group in reference]))
        num_blocks = 1
    parts.sampler.sleep()
    with memory_advice("learner"):
        pass1_MD = pass_gradient(parts.learner, reference, 1, num_blocks)
        derivatives_PG = derivatives_along(
            parts.learner, groups, pass1_MD, metric=metric, of_others=bool(trusted)
        ).values_PG
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


def _write_filtered(
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
