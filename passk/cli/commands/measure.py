"""Run the commands that measure checkpoints: `passk eval`, `diagnose`, `filter`. Imports torch."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from passk.cli.commands.diagnose import as_training, diagnose
from passk.cli.commands.filter import (
    agreement_file,
    as_saved,
    measure_checkpoint,
    write_agreement,
    write_filtered,
)
from passk.cli.launch import on_all_ranks
from passk.cli.resume import (
    how_to_resume,
    measured_policies,
    measured_policy,
    model_state,
    model_states,
    prompt_day,
    refuse_changed_problems,
    refuse_changes,
    refuse_other_contents,
)
from passk.config.commands import DiagnoseConfig, EvaluateConfig, FilterConfig
from passk.config.schema import TrainConfig
from passk.console import display, interrupt_flag
from passk.errors import Interrupted
from passk.evaluation.tables import (
    GROUPINGS,
    count_correct,
    eval_tables,
    pass_curve,
    pass_markdown,
    summary_markdown,
)
from passk.files import replacing
from passk.ranks import rank
from passk.report.eval_figure import pass_at_k_curve
from passk.runs.writer import Run
from passk.training.build import Parts, open_parts, prepare_torch
from passk.training.evaluate import sample_in_chunks, samples_in_order
from passk.training.preflight import print_notes, run_preflight
from passk.types import Problem
from passk.verifiers.checks import GoldCheck


@on_all_ranks
def run_eval(cfg: EvaluateConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Sample from a run's checkpoint or `model.path`, and write tables; see docs/evaluation.md.

    Problems, verifier and sampling are those of the run, unless the user typed others. If resumed,
    it samples only problems that have no samples yet. Runs on as many ranks as
    `learner.num_processes` says. Raises Interrupted when asked to stop.
    """
    prepare_torch(cfg.num_threads, cfg.eval.seed)
    base, start, step = measured_policy(cfg, overrides)
    refuse_changed_problems(cfg, overrides, needs_training=False)
    policy = str(Path(start).resolve()) if Path(start).is_dir() else start
    if cfg.resume:
        refuse_changes("eval", base, run_dir, policy)
    day = prompt_day(run_dir if cfg.resume else None, cfg.run)
    with open_parts(base, start, day=day, needs_training=False) as parts:
        facts = parts.facts | model_state(policy)
        if cfg.resume:
            refuse_other_contents(facts, run_dir)
        print_notes(parts.data)
        parts, gold = run_preflight(base, parts, ())
        run = Run(run_dir, "eval", base.eval.seed, policy)
        run.rewind(step)
        run.start(base, overrides, **facts)
        run.write_problems(heldout=parts.data.heldout)
        run.write_gold_refused(gold.refused)
        _evaluate_and_record(step, base, parts, run, overrides)


def _evaluate_and_record(
    step: int, cfg: TrainConfig, parts: Parts, run: Run, overrides: Sequence[str]
) -> None:
    """Sample missing problems, write and print the tables, and record how it ended."""
    status = "failed"
    try:
        num_problems = len(parts.data.heldout)
        with (
            interrupt_flag("chunk", silent=rank() > 0) as stop,
            display("eval", num_problems) as shown,
        ):
            if not sample_in_chunks(cfg, parts, run, shown, stop):
                raise KeyboardInterrupt
            if rank() == 0:
                shown_tables = _write_tables(step, cfg, run, samples_in_order(run, parts))
        status = "finished"
        if rank() == 0:
            print(shown_tables)
        print(f"tables are in {run.path / 'eval'}, samples in {run.path / 'samples'}")
        if stop.is_set():
            raise Interrupted(f"stopped as asked; the evaluation in {run.path} had just finished")
    except KeyboardInterrupt:
        status = "interrupted"
        raise Interrupted(how_to_resume("eval", run.path, overrides)) from None
    finally:
        run.finish(status)


def _write_tables(step: int, cfg: TrainConfig, run: Run, samples: pd.DataFrame) -> str:
    """Write everything under `eval/` from the samples alone; returns the tables in Markdown."""
    counts = count_correct(samples)
    curve, tables = pass_curve(counts, cfg.eval), eval_tables(samples, cfg.eval)
    run.write_eval(step, counts, tables | {"pass_at_k": curve})
    if len(curve):
        with replacing(run.path / "eval" / "pass_at_k.png") as partial_figure:
            pass_at_k_curve(curve).savefig(partial_figure, format="png")
    shown = [(run.path / "eval" / "table.md").read_text(), summary_markdown(tables["summary"])]
    for grouping in GROUPINGS:
        if (name := f"table_by_{grouping}") in tables:
            shown.append(pass_markdown(tables[name], grouping))
    return "\n".join(shown)


@on_all_ranks
def run_diagnose(cfg: DiagnoseConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Find interfering prompts at a run's checkpoint, or at `model.path`; see docs/diagnose.md.

    Runs on as many ranks as `learner.num_processes` says.
    """
    prepare_torch(cfg.num_threads, cfg.diagnose.seed)
    measured = measured_policy(cfg, overrides)
    measured = measured._replace(base=as_training(cfg, measured.base))
    base, start, _ = measured
    refuse_changed_problems(cfg, overrides, needs_training=True)
    policy = str(Path(start).resolve()) if Path(start).is_dir() else start
    day = prompt_day(cfg.run)
    with open_parts(base, start, day=day, parameters=cfg.diagnose.parameters) as parts:
        print_notes(parts.data)
        parts, gold = run_preflight(base, parts, parts.data.train)
        run = Run(run_dir, "diagnose", cfg.diagnose.seed, policy)
        facts = parts.facts | model_state(policy)
        diagnose(cfg, measured, parts, run, overrides, facts)
        run.write_gold_refused(gold.refused)


@on_all_ranks
def run_filter(cfg: FilterConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Write the training problems without those that interfere; see docs/filter.md.

    Runs on as many ranks as `learner.num_processes` says. If resumed, it measures only at
    checkpoints that it has not measured yet.
    """
    prepare_torch(cfg.num_threads, cfg.diagnose.seed)
    policies = [
        (as_training(cfg, base), start, step)
        for base, start, step in measured_policies(cfg, overrides)
    ]
    base = policies[0][0]
    refuse_changed_problems(cfg, overrides, needs_training=True)
    as_started = as_saved(cfg, base)
    if cfg.resume:
        refuse_changes("filter", as_started, run_dir)
    run, status = Run(run_dir, "filter", cfg.diagnose.seed), ""

    def begin(facts: dict[str, str], gold: GoldCheck) -> None:
        nonlocal status  # until here, refused input leaves nothing behind
        run.start(as_started, overrides, **facts)
        run.write_gold_refused(gold.refused)
        status = "failed"

    try:
        problems = _measure_missing(cfg, policies, run_dir, begin)
        if rank() == 0:
            write_filtered(cfg, base, problems, [step for _, _, step in policies], run)
        status = "finished"
    except KeyboardInterrupt:
        if not status:
            raise Interrupted("interrupted before anything was measured") from None
        status = "interrupted"
        raise Interrupted(how_to_resume("filter", run_dir, overrides)) from None
    finally:
        if status:
            run.finish(status)


def _measure_missing(
    cfg: FilterConfig,
    policies: Sequence[tuple[TrainConfig, str, int]],
    run_dir: Path,
    begin: Callable[[dict[str, str], GoldCheck], None],
) -> tuple[Problem, ...]:
    """Measure agreements at the checkpoints that have none yet; returns their problems.

    `begin` is called after the first measurement, before it is written.
    """
    problems: tuple[Problem, ...] = ()
    day = prompt_day(run_dir if cfg.resume else None, cfg.run)
    for base, start, step in policies:
        file = agreement_file(run_dir, step)
        if problems and file.is_file():
            continue
        with open_parts(base, start, day=day, parameters=cfg.diagnose.parameters) as parts:
            is_first = not problems
            if is_first:
                facts = parts.facts | model_states([start for _, start, _ in policies])
                if cfg.resume:
                    refuse_other_contents(facts, run_dir)
                print_notes(parts.data)
                parts, gold = run_preflight(base, parts, parts.data.train)
                problems = parts.data.train
            parts = replace(parts, data=replace(parts.data, train=problems))
            found = None
            if not file.is_file():
                print(f"agreement at step {step}", flush=True)
                found = measure_checkpoint(cfg, base, parts, start, step)
            if is_first:
                begin(facts, gold)
            if found is not None:
                write_agreement(file, found)
    return problems
