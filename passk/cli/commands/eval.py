"""`passk eval`: sample held-out problems at a run's checkpoint, or at any model, and judge them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from passk.cli.launch import on_all_ranks
from passk.cli.resume import (
    how_to_resume,
    measured_policy,
    model_states,
    prompt_day,
    refuse_changed_problems,
    refuse_changes,
    refuse_other_contents,
)
from passk.config.commands import EvaluateConfig, read_interpolate
from passk.config.schema import TrainConfig
from passk.console import InterruptFlag, display, interrupt_flag, working
from passk.errors import Interrupted, UserError
from passk.evaluation.tables import (
    at_temperature,
    count_correct,
    eval_tables,
    pass_curve,
    pass_markdown,
    summary_markdown,
)
from passk.files import read_manifest
from passk.learner.checkpoint import resolve_model
from passk.learner.interpolation import Interpolation, interpolations
from passk.learner.policy import model_location
from passk.ranks import any_rank, rank
from passk.report.run_plots import pass_at_k_curve
from passk.runs.interpolations import OTHER, WEIGHT
from passk.runs.writer import Run
from passk.training.build import Parts, open_parts, prepare_torch, print_notes, run_preflight
from passk.training.evaluate import sample_in_chunks, samples_in_order
from passk.training.weight_sync import hand_over
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
    policy = _place(start)
    other = None if cfg.interpolate is None else _other_model(read_interpolate(cfg.interpolate)[0])
    if cfg.resume:
        refuse_changes("eval", base, run_dir, policy)
        _refuse_other_end(run_dir, other)
    day = prompt_day(run_dir if cfg.resume else None, cfg.run)
    with open_parts(base, start, day=day, needs_training=False) as parts:
        facts = parts.facts | model_states([policy] if other is None else [policy, other])
        if cfg.resume:
            refuse_other_contents(facts, run_dir)
        between = None if other is None else _interpolations(cfg, base, parts, (policy, other))
        print_notes(parts.data)
        parts, gold = run_preflight(base, parts, ())
        facts |= {} if other is None else {"policy": policy, OTHER: other}
        run = Run(run_dir, "eval", base.eval.seed, policy)
        run.rewind(step)
        run.start(base, overrides, **facts)
        run.write_problems(heldout=parts.data.heldout)
        run.write_gold_refused(gold.refused)
        try:
            with run.recording_end():
                if between is None:
                    text, stop = _evaluate(step, base, parts, run)
                else:
                    text, stop = _evaluate_between(between, step, base, parts, run, facts)
        except KeyboardInterrupt:
            raise Interrupted(how_to_resume("eval", run_dir, overrides)) from None
    place = run_dir / "weight-W" if other else run_dir
    print(f"{text}\ntables are in {place / 'eval'}, samples in {place / 'samples'}")
    if stop.is_set():
        raise Interrupted(f"stopped as asked; the evaluation in {run_dir} had just finished")


def _place(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _other_model(path: str) -> str:
    """Resolve the model of `interpolate`: a run, a checkpoint, a model folder, or tiny."""
    return _place(model_location(path) if path == "tiny" else resolve_model(path, "interpolate"))


def _refuse_other_end(run_dir: Path, other: str | None) -> None:
    """Raise UserError if a resumed evaluation would have another model in `interpolate`."""
    before = read_manifest(run_dir).get(OTHER)
    if before != other:
        raise UserError(
            f"resume=true with interpolate={other}, but the evaluation in {run_dir} was started "
            f"with interpolate={before}; evaluate it in another directory"
        )


def _interpolations(
    cfg: EvaluateConfig, base: TrainConfig, parts: Parts, paths: tuple[str, str]
) -> list[Interpolation]:
    weights = read_interpolate(cfg.interpolate or "").weights
    trusted = base.model.trust_remote_code
    return interpolations(parts.learner.model, parts.tokenizer, paths, weights, trusted)


def _evaluate_between(
    between: Sequence[Interpolation],
    step: int,
    cfg: TrainConfig,
    parts: Parts,
    run: Run,
    facts: Mapping[str, str],
) -> tuple[str, InterruptFlag]:
    """Evaluate each interpolation in a directory of its own, then write a table of all weights.

    Returns and raises as `_evaluate` does.
    """
    tables = []
    for mixed in between:
        hand_over(mixed, parts.sampler, cfg.rollout.num_synced_checks)
        part = Run(run.path / mixed.folder, "eval", cfg.eval.seed)
        part.rewind(step)
        part.start(cfg, (), **facts, **{WEIGHT: mixed.weight})
        part.write_problems(heldout=parts.data.heldout)
        with part.recording_end():
            _, stop = _evaluate(step, cfg, parts, part)
        if any_rank(stop.is_set()) and mixed is not between[-1]:
            raise KeyboardInterrupt
        if rank() == 0:
            file = part.path / "eval" / "front.csv"
            table = pd.read_csv(file if file.is_file() else file.with_name("table.csv"))
            table.insert(0, "weight", mixed.weight)
            tables.append(table)
    if rank() > 0:
        return "", stop
    table = pd.concat(tables, ignore_index=True)
    run.write_table("interpolation", table)
    text = pass_markdown(at_temperature(table, cfg.eval.temperature), "weight")
    run.write_text("interpolation.md", text)
    return text, stop


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
