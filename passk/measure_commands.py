"""The commands that measure a checkpoint: `passk eval` and `passk diagnose`. Imports torch."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from passk.build import Parts, open_parts, prepare_torch
from passk.command_config import DiagnoseConfig, EvaluateConfig
from passk.config import TrainConfig
from passk.diagnose import as_training, diagnose
from passk.disk import replacing
from passk.errors import Interrupted
from passk.eval_tables import (
    GROUPINGS,
    count_correct,
    eval_tables,
    pass_curve,
    pass_markdown,
    summary_markdown,
)
from passk.evaluation import sample_in_chunks, samples_in_order
from passk.interrupt import interrupt_flag
from passk.launch import on_all_ranks
from passk.plots import pass_at_k_curve
from passk.preparing import alone, checked, print_notes
from passk.progress import display
from passk.ranks import rank
from passk.run import Run
from passk.starting import (
    how_to_resume,
    measured_policy,
    refuse_changes,
    refuse_other_contents,
    weights_state,
)


def run_eval(cfg: EvaluateConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Samples and tables of a run's checkpoint, or of `model.path`; see docs/evaluation.md.

    Problems, verifier and sampling are those of the run, unless the user typed others. Resumed, it
    samples only problems that have no samples yet. On as many ranks as `learner.num_processes`
    says. Raises Interrupted when asked to stop.
    """
    on_all_ranks(cfg.learner, alone, eval_as_rank, cfg, run_dir, overrides)


def eval_as_rank(cfg: EvaluateConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """What each rank of an evaluation does."""
    prepare_torch(cfg.num_threads, cfg.eval.seed)
    base, start, step = measured_policy(cfg, overrides)
    policy = str(Path(start).resolve()) if Path(start).is_dir() else start
    if cfg.resume:
        refuse_changes("eval", base, run_dir, policy)
    weights = weights_state(policy)
    with open_parts(base, start, needs_training=False) as parts:
        facts = parts.facts | weights
        if cfg.resume:
            refuse_other_contents(facts, run_dir)
        print_notes(parts.data)
        parts, gold = checked(base, parts, ())
        run = Run(run_dir, "eval", base.eval.seed, policy)
        run.rewind(step)
        run.start(base, overrides, **facts)
        run.write_gold_refused(gold.refused)
        _evaluate_and_record(step, base, parts, run, overrides)


def _evaluate_and_record(
    step: int, cfg: TrainConfig, parts: Parts, run: Run, overrides: Sequence[str]
) -> None:
    """Sample what is missing, write and print the tables, and record how it ended."""
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
    """Everything under `eval/`, from the samples alone; the tables for people, in Markdown."""
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


def run_diagnose(cfg: DiagnoseConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Who interferes at a run's checkpoint, or at `model.path`; see docs/diagnose.md.

    On as many ranks as `learner.num_processes` says.
    """
    on_all_ranks(cfg.learner, alone, diagnose_as_rank, cfg, run_dir, overrides)


def diagnose_as_rank(cfg: DiagnoseConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """What each rank of a diagnosis does."""
    prepare_torch(cfg.num_threads, cfg.diagnose.seed)
    base, start, step = measured_policy(cfg, overrides)
    base = as_training(cfg, base)
    policy = str(Path(start).resolve()) if Path(start).is_dir() else start
    with open_parts(base, start, parameters=cfg.diagnose.parameters) as parts:
        print_notes(parts.data)
        parts, gold = checked(base, parts, parts.data.train)
        run = Run(run_dir, "diagnose", cfg.diagnose.seed, policy)
        facts = parts.facts | weights_state(policy)
        diagnose(cfg, base, parts, start, step, run, overrides, facts)
        run.write_gold_refused(gold.refused)
