"""What each command does once its configuration is known to be good. Imports torch."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from passk.build import Parts, open_parts, prepare_torch
from passk.checkpoint import TrainState, restore
from passk.composition import compose_train
from passk.config import (
    DiagnoseConfig,
    EvaluateConfig,
    ReportConfig,
    ReproduceConfig,
    RunConfig,
    TrainConfig,
)
from passk.diagnose import as_training, diagnose
from passk.disk import only_writer, replacing
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
from passk.problems import Data, load_data
from passk.progress import display
from passk.ranks import rank
from passk.report import write_report
from passk.reproduce import planned_overrides, reproduce
from passk.run import Run
from passk.starting import (
    how_to_resume,
    measured_policy,
    model_location,
    refuse_changes,
    refuse_other_contents,
    starting_point,
    weights_state,
)
from passk.train import Stopped, train
from passk.types import Problem
from passk.verifier_checks import GoldCheck, check_gold, self_test


def run_train(
    cfg: TrainConfig, run_dir: Path, overrides: Sequence[str], *, show_notes: bool = True
) -> None:
    """One training run in `run_dir`, from its start or, resumed, from its last checkpoint.

    On as many ranks as `learner.num_processes` says. `overrides` are the words the user typed.
    Raises Interrupted when asked to stop.
    """
    on_all_ranks(cfg.learner, _alone, train_as_rank, cfg, run_dir, overrides, show_notes)


def _alone(work: Callable[..., None], cfg: RunConfig, run_dir: Path, *others: Any) -> None:
    """Do the work while no other run writes in `run_dir`: one that was left may not have ended."""
    with only_writer(run_dir) if rank() == 0 else nullcontext():
        work(cfg, run_dir, *others)


def train_as_rank(
    cfg: TrainConfig, run_dir: Path, overrides: Sequence[str], show_notes: bool
) -> None:
    """What each rank of a training run does."""
    prepare_torch(cfg.num_threads, cfg.train.seed)
    start, checkpoint = starting_point(cfg, run_dir)
    with open_parts(cfg, start) as parts:
        facts = parts.facts  # of all problems: which gold answers are refused may depend on time
        if cfg.resume:
            refuse_other_contents(facts, run_dir)
        if show_notes:
            _print_notes(parts.data)
        trained_on = parts.data.train if cfg.regime.name != "sft" else ()
        parts, checked = _checked(cfg, parts, trained_on)
        state = restore(checkpoint, parts.learner) if checkpoint else TrainState(0, 0)
        run = Run(run_dir, "train", cfg.train.seed)
        run.begin_saving(in_background=cfg.train.async_save)
        run.rewind(parts.learner.step)
        run.start(cfg, overrides, **facts)
        run.write_gold_refused(checked.refused)
        _train_and_record(cfg, parts, run, overrides, state)


def _train_and_record(
    cfg: TrainConfig, parts: Parts, run: Run, overrides: Sequence[str], state: TrainState
) -> None:
    """Run the loop, and record how it ended."""
    status = "failed"
    try:
        with (
            interrupt_flag(silent=rank() > 0) as stop,
            display(cfg.regime.name, cfg.train.num_steps, parts.learner.step) as shown,
        ):
            train(cfg, parts, run, shown, stop, state)
        status = "finished"
        if stop.is_set():
            raise Interrupted(f"stopped as asked; the run in {run.path} had just finished")
    except Stopped as stopped:
        status = "interrupted"
        print(f"saved at step {stopped.step}")
        raise Interrupted(how_to_resume("train", run.path, overrides)) from None
    except KeyboardInterrupt:
        status = "interrupted"
        raise Interrupted(how_to_resume("train", run.path, overrides)) from None
    finally:
        run.finish(status)


def _print_notes(data: Data) -> None:
    """What was left out of the data, a line each."""
    print(*data.notes, sep="\n", end="\n" if data.notes else "", flush=True)


def _checked(cfg: RunConfig, parts: Parts, train: Sequence[Problem]) -> tuple[Parts, GoldCheck]:
    """The parts, once their verifier has shown that it works, without hopeless training problems.

    `train` are the training problems whose gold answers matter.
    """
    self_test(parts.verifier)
    if not cfg.data.check_gold:
        return parts, GoldCheck(0, ())
    checked = check_gold(parts.verifier, train, parts.data.heldout)
    kept = checked.kept(parts.data.train)
    if checked.refused:
        print(checked.sentence(len(parts.data.train) - len(kept)), flush=True)
    return replace(parts, data=replace(parts.data, train=kept)), checked


def run_eval(cfg: EvaluateConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Samples and tables of a run's checkpoint, or of `model.path`; see docs/evaluation.md.

    Problems, verifier and sampling are those of the run, unless the user typed others. Resumed, it
    samples only problems that have no samples yet. On as many ranks as `learner.num_processes`
    says. Raises Interrupted when asked to stop.
    """
    on_all_ranks(cfg.learner, _alone, eval_as_rank, cfg, run_dir, overrides)


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
        _print_notes(parts.data)
        parts, checked = _checked(base, parts, ())
        run = Run(run_dir, "eval", base.eval.seed, policy)
        run.rewind(step)
        run.start(base, overrides, **facts)
        run.write_gold_refused(checked.refused)
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
    on_all_ranks(cfg.learner, _alone, diagnose_as_rank, cfg, run_dir, overrides)


def diagnose_as_rank(cfg: DiagnoseConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """What each rank of a diagnosis does."""
    prepare_torch(cfg.num_threads, cfg.diagnose.seed)
    base, start, step = measured_policy(cfg, overrides)
    base = as_training(cfg, base)
    policy = str(Path(start).resolve()) if Path(start).is_dir() else start
    with open_parts(base, start) as parts:
        _print_notes(parts.data)
        parts, checked = _checked(base, parts, parts.data.train)
        run = Run(run_dir, "diagnose", cfg.diagnose.seed, policy)
        facts = parts.facts | weights_state(policy)
        diagnose(cfg, base, parts, start, step, run, overrides, facts)
        run.write_gold_refused(checked.refused)


def run_report(cfg: ReportConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Tables, plots and one HTML page over the runs in `dirs`, written to `out`."""
    # A sweep or reproduction keeps its own report; a run's directory is never written into.
    alone = len(cfg.dirs) == 1 and not (Path(cfg.dirs[0]) / "metrics.jsonl").is_file()
    out = Path(cfg.out) if cfg.out else Path(cfg.dirs[0]) if alone else run_dir
    page = write_report(cfg.dirs, out)
    print((out / "table.md").read_text())
    print(f"report: {page}")


def run_reproduce(cfg: ReproduceConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """SFT, the RL regimes from it, alignment at the start, table and report; once per seed."""
    prepare_torch(cfg.num_threads, cfg.train.seed)
    if cfg.resume:
        refuse_changes("reproduce", cfg, run_dir)
    model_location(cfg)
    data = load_data(cfg.data, cfg.eval)  # bad input is refused before anything is written
    if cfg.resume:
        refuse_other_contents(data.digests, run_dir)
    for words in planned_overrides(cfg, overrides):
        compose_train(words)
    run = Run(run_dir, "reproduce", cfg.train.seed)
    run.start(cfg, overrides, device=cfg.learner.device, **data.digests)
    status = "failed"
    try:
        _print_notes(data)
        train_quietly = partial(run_train, show_notes=False)  # the data are the same in all runs
        reproduce(cfg, run_dir, overrides, compose_train, train_quietly)
        page = write_report([run_dir], run_dir)
        status = "finished"
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
        raise Interrupted(how_to_resume("reproduce", run_dir, overrides)) from None
    finally:
        run.finish(status)
    print((run_dir / "table.md").read_text())
    print(f"report: {page}")


COMMANDS: dict[str, Callable[[Any, Path, Sequence[str]], None]] = {
    "train": run_train,
    "eval": run_eval,
    "diagnose": run_diagnose,
    "reproduce": run_reproduce,
    "report": run_report,
}
