"""`passk eval`: sample held-out problems at a run's checkpoint, or at any model, and judge them."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from passk.cli.launch import on_all_ranks
from passk.cli.resume import (
    how_to_resume,
    measured_policy,
    model_state,
    prompt_day,
    refuse_changed_problems,
    refuse_changes,
    refuse_other_contents,
)
from passk.config.commands import EvaluateConfig
from passk.config.schema import TrainConfig
from passk.console import InterruptFlag, display, interrupt_flag, working
from passk.errors import Interrupted
from passk.evaluation.tables import (
    count_correct,
    eval_tables,
    pass_curve,
    pass_markdown,
    summary_markdown,
)
from passk.ranks import rank
from passk.report.run_plots import pass_at_k_curve
from passk.runs.writer import Run
from passk.training.build import Parts, open_parts, prepare_torch, print_notes, run_preflight
from passk.training.evaluate import sample_in_chunks, samples_in_order
from passk.types import GROUPINGS


@on_all_ranks
def run_eval(cfg: EvaluateConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Sample from a run's checkpoint or `model.path`, and write tables; see docs/guide/evaluate.md.

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
        try:
            with run.recording_end():
                text, stop = _evaluate(step, base, parts, run)
        except KeyboardInterrupt:
            raise Interrupted(how_to_resume("eval", run_dir, overrides)) from None
    print(f"{text}\ntables are in {run_dir / 'eval'}, samples in {run_dir / 'samples'}")
    if stop.is_set():
        raise Interrupted(f"stopped as asked; the evaluation in {run_dir} had just finished")


def _evaluate(step: int, cfg: TrainConfig, parts: Parts, run: Run) -> tuple[str, InterruptFlag]:
    """Sample missing problems and write the tables; return these as text, and the flag to stop.

    Raises KeyboardInterrupt if asked to stop before all problems have samples.
    """
    num_problems = len(parts.data.heldout)
    with (
        interrupt_flag("chunk", silent=rank() > 0) as stop,
        display("eval", num_problems) as shown,
    ):
        if not sample_in_chunks(cfg, parts, run, shown, stop):
            raise KeyboardInterrupt
        text = ""
        if rank() == 0:
            text = _write_tables(step, cfg, run, samples_in_order(run, parts))
    return text, stop


@working("tables and figures")
def _write_tables(step: int, cfg: TrainConfig, run: Run, samples: pd.DataFrame) -> str:
    """Write everything under `eval/` from the samples alone; returns the tables in Markdown."""
    counts = count_correct(samples)
    curve, tables = pass_curve(counts, cfg.eval), eval_tables(samples, cfg.eval)
    run.write_eval(step, counts, tables | {"pass_at_k": curve})
    if len(curve):
        run.write_figure("eval/pass_at_k", pass_at_k_curve(curve))
    shown = [(run.path / "eval" / "table.md").read_text(), summary_markdown(tables["summary"])]
    if "front" in tables:
        shown.append(pass_markdown(tables["front"], "temperature"))
    for grouping in GROUPINGS:
        if (name := f"table_by_{grouping}") in tables:
            shown.append(pass_markdown(tables[name], grouping))
    return "\n".join(shown)
