"""`passk train`: one training run, from its start or from its last checkpoint. Imports torch."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from passk.cli.launch import on_all_ranks
from passk.cli.resume import (
    how_to_resume,
    origin_state,
    prompt_day,
    refuse_other_contents,
    starting_point,
    unchanged_origin,
)
from passk.config.schema import TrainConfig, is_own
from passk.console import display, interrupt_flag
from passk.errors import Interrupted, UserError
from passk.learner.checkpoint import TrainState, restore
from passk.learner.checkpoint_writer import check_saving
from passk.learner.policy import generation_settings, model_name
from passk.learner.reference import read_reference
from passk.objectives.own_estimator import own_digest
from passk.ranks import rank
from passk.runs.writer import Run
from passk.training.build import (
    Parts,
    open_parts,
    prepare_torch,
    print_notes,
    require_weights,
    run_preflight,
)
from passk.training.loop import train
from passk.training.measured_weight import with_measured_weight


@on_all_ranks
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
    prepare_torch(cfg.num_threads, cfg.train.seed)
    start, checkpoint = starting_point(cfg, run_dir)
    day = day or prompt_day(run_dir if cfg.resume else None)
    compared = None
    has_kl = cfg.learner.kl_weight > 0 and cfg.regime.name != "sft"
    if cfg.eval.num_distance_samples or has_kl:
        compared = unchanged_origin(cfg, checkpoint, run_dir)
    if has_kl and compared is None:
        raise UserError(
            f"learner.kl_weight={cfg.learner.kl_weight:g} needs the model that {run_dir} "
            "started from; put it back as it was, or start in another directory"
        )
    with open_parts(cfg, start, day=day) as parts:
        # Facts of all problems: time limits may decide which gold answers are refused.
        facts = parts.facts | origin_state(start, checkpoint, run_dir)
        if is_own(cfg.regime.estimator):
            facts["estimator_sha256"] = own_digest(cfg.regime.estimator)
        if cfg.resume:
            refuse_other_contents(facts, run_dir)
        if show_notes:
            print_notes(parts.data)
        trained_on = parts.data.train if cfg.regime.name != "sft" else ()
        check_saving(parts.learner.model, parts.tokenizer, model_name(start))
        parts, gold = run_preflight(cfg, replace(parts, origin=compared), trained_on)
        require_weights(cfg, parts.data)
        state = restore(checkpoint, parts.learner) if checkpoint else TrainState(0, 0)
        if has_kl and compared is not None:
            reference = read_reference(parts.learner, cfg.model, compared)
            parts = replace(parts, reference=reference)
        measured, weight_facts = with_measured_weight(cfg, parts, run_dir)
        run = Run(run_dir, "train", cfg.train.seed)
        generation = generation_settings(start)
        run.begin_saving(in_background=cfg.train.async_save, generation=generation)
        run.rewind(parts.learner.step)
        run.start(cfg, overrides, **facts, **weight_facts)
        run.write_problems(train=trained_on, heldout=parts.data.heldout)
        run.write_gold_refused(gold.refused)
        run.track(measured, parts.learner.step)
        _train_and_record(measured, parts, run, overrides, state)


def _train_and_record(
    cfg: TrainConfig, parts: Parts, run: Run, overrides: Sequence[str], state: TrainState
) -> None:
    """Run the training loop, and record how it ended."""
    try:
        with run.recording_end():
            with (
                interrupt_flag(silent=rank() > 0) as stop,
                display(cfg.regime.name, cfg.train.num_steps, parts.learner.step) as shown,
            ):
                step = train(cfg, parts, run, shown, stop, state)
            if step < cfg.train.num_steps:
                print(f"saved at step {step}")
                raise KeyboardInterrupt
            if rank() == 0 and run.had_no_gradient:
                print("note: every gradient was 0, so nothing was trained: see docs/guide/faq.md")
    except KeyboardInterrupt:
        raise Interrupted(how_to_resume("train", run.path, overrides)) from None
    if stop.is_set():
        raise Interrupted(f"stopped as asked; the run in {run.path} had just finished")
