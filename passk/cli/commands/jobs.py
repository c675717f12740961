"""Run each command once its configuration is known to be valid. Imports torch."""

from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from passk.cli.commands.diagnose import run_diagnose
from passk.cli.commands.eval import run_eval
from passk.cli.commands.export import run_export
from passk.cli.commands.filter import run_filter
from passk.cli.commands.reproduce import planned_overrides, reproduce
from passk.cli.launch import on_all_ranks
from passk.cli.resume import (
    how_to_resume,
    model_location,
    origin_state,
    prompt_day,
    refuse_changes,
    refuse_other_contents,
    starting_point,
)
from passk.config.commands import ReportConfig, ReproduceConfig
from passk.config.compose import compose_train
from passk.config.schema import TrainConfig
from passk.console import display, interrupt_flag
from passk.data.problems import load_data
from passk.errors import Interrupted
from passk.files import only_writer
from passk.learner.checkpoint import TrainState, restore
from passk.learner.checkpoint_writer import check_saving
from passk.learner.policy import generation_settings, model_name
from passk.ranks import rank
from passk.report.report import keeps_report, write_report
from passk.runs.writer import Run
from passk.training.build import Parts, open_parts, prepare_torch
from passk.training.loop import Stopped, train
from passk.training.preflight import alone, checked, print_notes, require_weights


def run_train(
    cfg: TrainConfig,
    run_dir: Path,
    overrides: Sequence[str],
    *,
    show_notes: bool = True,
    day: date | None = None,
) -> None:
    """Train in `run_dir`, from the start of the run or, if resumed, from its last checkpoint.

    Runs on as many ranks as `learner.num_processes` says. `overrides` are the words the user typed.
    Chat templates write `day`, by default that of the run's start. Raises Interrupted when asked to
    stop.
    """
    on_all_ranks(cfg.learner, alone, train_as_rank, cfg, run_dir, overrides, show_notes, day)


def train_as_rank(
    cfg: TrainConfig,
    run_dir: Path,
    overrides: Sequence[str],
    show_notes: bool,
    day: date | None,
) -> None:
    """Run one rank of a training run."""
    prepare_torch(cfg.num_threads, cfg.train.seed)
    start, checkpoint = starting_point(cfg, run_dir)
    day = day or prompt_day(run_dir if cfg.resume else None)
    with open_parts(cfg, start, day=day) as parts:
        # Facts of all problems: time limits may decide which gold answers are refused.
        facts = parts.facts | origin_state(start, checkpoint, run_dir)
        if cfg.resume:
            refuse_other_contents(facts, run_dir)
        if show_notes:
            print_notes(parts.data)
        trained_on = parts.data.train if cfg.regime.name != "sft" else ()
        check_saving(parts.learner.model, parts.tokenizer, model_name(start))
        parts, gold = checked(cfg, parts, trained_on)
        require_weights(cfg, parts.data)
        state = restore(checkpoint, parts.learner) if checkpoint else TrainState(0, 0)
        run = Run(run_dir, "train", cfg.train.seed)
        generation = generation_settings(start)
        run.begin_saving(in_background=cfg.train.async_save, generation=generation)
        run.rewind(parts.learner.step)
        run.start(cfg, overrides, **facts)
        run.write_problems(train=trained_on, heldout=parts.data.heldout)
        run.write_gold_refused(gold.refused)
        run.track(cfg, parts.learner.step)
        _train_and_record(cfg, parts, run, overrides, state)


def _train_and_record(
    cfg: TrainConfig, parts: Parts, run: Run, overrides: Sequence[str], state: TrainState
) -> None:
    """Run the training loop, and record how it ended."""
    status = "failed"
    try:
        with (
            interrupt_flag(silent=rank() > 0) as stop,
            display(cfg.regime.name, cfg.train.num_steps, parts.learner.step) as shown,
        ):
            train(cfg, parts, run, shown, stop, state)
        status = "finished"
        if rank() == 0 and run.had_no_gradient:
            print("note: every gradient was 0, so nothing was trained: see docs/guide/faq.md")
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


def run_report(cfg: ReportConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Write tables, plots and one HTML page over the runs in `dirs` to `out`."""
    only = Path(cfg.dirs[0]) if len(cfg.dirs) == 1 else None
    out = Path(cfg.out) if cfg.out else only if only and keeps_report(only) else run_dir
    with only_writer(out):
        page = write_report(cfg.dirs, out, cfg.baseline)
    print((out / "table.md").read_text())
    print(f"report: {page}")


def run_reproduce(cfg: ReproduceConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Run SFT, then the RL regimes, measure alignment at the start, and report; once per seed."""
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
    day = prompt_day(run_dir if cfg.resume else None)  # one date for all runs, whenever they begin
    facts = {"device": cfg.learner.device, "prompt_date": day.isoformat()}
    run.start(cfg, overrides, **facts, **data.digests)
    status = "failed"
    try:
        print_notes(data)
        train_quietly = partial(
            run_train, show_notes=False, day=day
        )  # the data are the same in all runs
        reproduce(cfg, run_dir, overrides, compose_train, train_quietly, day)
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
    "filter": run_filter,
    "export": run_export,
    "reproduce": run_reproduce,
    "report": run_report,
}
