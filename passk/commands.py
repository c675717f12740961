"""What each command does once its configuration is known to be good. Imports torch."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from passk.build import build_parts, prepare_torch
from passk.checkpoint import TrainState, last_checkpoint, resolve_model, restore, saved_step
from passk.composition import compose_train, load_run_config
from passk.config import EvaluateConfig, ReportConfig, ReproduceConfig, RunConfig, TrainConfig
from passk.errors import Interrupted, UserError
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
from passk.plots import pass_at_k_curve
from passk.problems import Data, load_data
from passk.progress import display
from passk.report import write_report
from passk.reproduce import planned_overrides, reproduce
from passk.rules import check
from passk.run import Run
from passk.train import Stopped, train

# Fields that may differ between a run and its resumption: they change no completed step.
_FREE_ON_RESUME = (
    "resume",
    "num_threads",
    "train.save_every",
    "train.keep_last",
    "rollout.max_batch_samples",
    "rollout.memory_fraction",
    "verifier.num_workers",
    "seeds",  # a finished reproduction may be given more of both
    "regimes",
)
# An evaluation's tables are computed from its samples, whatever chunks those came in.
_FREE_IN_EVAL = (*_FREE_ON_RESUME, "eval.chunk_size", "eval.ks", "eval.num_resamples")


def run_train(
    cfg: TrainConfig, run_dir: Path, overrides: Sequence[str], *, show_notes: bool = True
) -> None:
    """One training run in `run_dir`, from its start or, resumed, from its last checkpoint.

    `overrides` are the words the user typed. Raises Interrupted when asked to stop.
    """
    prepare_torch(cfg.num_threads, cfg.train.seed)
    start, checkpoint = _starting_point(cfg, run_dir)
    parts = build_parts(cfg, start)
    if show_notes:
        _print_notes(parts.data)
    state = restore(checkpoint, parts.learner) if checkpoint else TrainState(0, 0)
    run = Run(run_dir, "train", cfg.train.seed)
    run.rewind(parts.learner.step)
    run.start(cfg, overrides, **parts.facts)
    status = "failed"
    try:
        with (
            interrupt_flag() as stop,
            display(cfg.regime.name, cfg.train.num_steps, parts.learner.step) as shown,
        ):
            train(cfg, parts, run, shown, stop, state)
        status = "finished"
        if stop.is_set():
            raise Interrupted(f"stopped as asked; the run in {run_dir} had just finished")
    except Stopped as stopped:
        status = "interrupted"
        print(f"saved at step {stopped.step}")
        raise Interrupted(_how_to_resume("train", run_dir, overrides)) from None
    except KeyboardInterrupt:
        status = "interrupted"
        raise Interrupted(_how_to_resume("train", run_dir, overrides)) from None
    finally:
        run.finish(status)
        parts.sampler.close()
        parts.verifier.close()


def _print_notes(data: Data) -> None:
    """What was left out of the data, a line each."""
    print(*data.notes, sep="\n", end="\n" if data.notes else "", flush=True)


def _starting_point(cfg: TrainConfig, run_dir: Path) -> tuple[str, Path | None]:
    """Where the weights come from, and the checkpoint to resume from.

    With adapters the weights are those the run started from: a checkpoint has them merged.
    """
    checkpoint = None
    if cfg.resume:
        _refuse_changes("train", cfg, run_dir)
        if any((run_dir / "checkpoints").glob("step-*")):
            checkpoint = last_checkpoint(run_dir)
    if checkpoint is not None and not cfg.model.lora_rank:
        return str(checkpoint), checkpoint
    if cfg.train.init_from is not None:
        return resolve_model(cfg.train.init_from, "train.init_from"), checkpoint
    return _model_location(cfg), checkpoint


def _model_location(cfg: RunConfig) -> str:
    """`model.path`: what is a folder here may be a run or checkpoint too; the rest goes by name."""
    path = cfg.model.path
    if path.startswith(("/", "./", "../", "~")) and not Path(path).is_dir():
        raise UserError(f"model.path={path} does not exist; give a folder, a hub id, or tiny")
    return resolve_model(path, "model.path") if Path(path).is_dir() else path


def _refuse_changes(
    command: str, cfg: TrainConfig, run_dir: Path, policy: str | None = None
) -> None:
    """A resumed run must be the run that was started, or its record would be of two."""
    manifest = run_dir / "manifest.json"
    started = json.loads(manifest.read_text()) if manifest.is_file() else {"command": command}
    if started["command"] != command:
        raise UserError(
            f"resume=true with hydra.run.dir={run_dir}, which holds a run of passk "
            f"{started['command']}, not of passk {command}"
        )
    if started.get("policy", policy) != policy:
        raise UserError(
            f"resume=true would evaluate {policy}, but the samples in {run_dir} are of "
            f"{started['policy']}; evaluate it in another directory"
        )
    free = _FREE_IN_EVAL if command == "eval" else _FREE_ON_RESUME
    before, now = (_flat(asdict(c)) for c in (load_run_config(run_dir, type(cfg)), cfg))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in free:
            raise UserError(
                f"resume=true with {key}={now.get(key)}, but the run in {run_dir} was started "
                f"with {key}={before.get(key)}; repeat its overrides, which are in overrides.txt"
            )


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _how_to_resume(command: str, run_dir: Path, overrides: Sequence[str]) -> str:
    kept = [word for word in overrides if not word.startswith(("resume=", "hydra.run.dir="))]
    # Quoted for Hydra too: a cell of a sweep has = and commas in its name.
    named = f"hydra.run.dir={json.dumps(str(run_dir), ensure_ascii=False)}"
    line = shlex.join(["passk", command, *kept, named, "resume=true"])
    return f"interrupted; go on with: {line}"


def run_eval(cfg: EvaluateConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Samples and tables of a run's last checkpoint, or of `model.path`; see docs/evaluation.md.

    Problems, verifier and sampling are those of the run, unless the user typed others. Resumed, it
    samples only problems that have no samples yet. Raises Interrupted when asked to stop.
    """
    prepare_torch(cfg.num_threads, cfg.eval.seed)
    base = TrainConfig(**{field.name: getattr(cfg, field.name) for field in fields(RunConfig)})
    if cfg.run is not None:
        base = _with_typed(load_run_config(Path(cfg.run)), base, overrides)
        check(base)
        checkpoint = last_checkpoint(Path(cfg.run))
        start, step = str(checkpoint), saved_step(checkpoint)
    else:
        start, step = _model_location(cfg), 0
    policy = str(Path(start).resolve()) if Path(start).is_dir() else start
    if cfg.resume:
        _refuse_changes("eval", base, run_dir, policy)
    parts = build_parts(base, start, needs_training=False)
    _print_notes(parts.data)
    run = Run(run_dir, "eval", base.eval.seed, policy)
    run.rewind(step)
    run.start(base, overrides, **parts.facts)
    status = "failed"
    try:
        num_problems = len(parts.data.heldout)
        with interrupt_flag("chunk") as stop, display("eval", num_problems) as shown:
            if not sample_in_chunks(base, parts, run, shown, stop):
                raise KeyboardInterrupt
            shown_tables = _write_tables(step, base, run, samples_in_order(run, parts))
        status = "finished"
        print(shown_tables)
        print(f"tables are in {run_dir / 'eval'}, samples in {run_dir / 'samples'}")
        if stop.is_set():
            raise Interrupted(f"stopped as asked; the evaluation in {run_dir} had just finished")
    except KeyboardInterrupt:
        status = "interrupted"
        raise Interrupted(_how_to_resume("eval", run_dir, overrides)) from None
    finally:
        run.finish(status)
        parts.sampler.close()
        parts.verifier.close()


def _write_tables(step: int, cfg: TrainConfig, run: Run, samples: pd.DataFrame) -> str:
    """Everything under `eval/`, from the samples alone; the tables for people, in Markdown."""
    counts = count_correct(samples)
    curve, tables = pass_curve(counts, cfg.eval), eval_tables(samples, cfg.eval)
    run.write_eval(step, counts, tables | {"pass_at_k": curve})
    if len(curve):
        pass_at_k_curve(curve).savefig(run.path / "eval" / "pass_at_k.png")
    shown = [(run.path / "eval" / "table.md").read_text(), summary_markdown(tables["summary"])]
    for grouping in GROUPINGS:
        if (name := f"table_by_{grouping}") in tables:
            shown.append(pass_markdown(tables[name], grouping))
    return "\n".join(shown)


def _with_typed(trained: TrainConfig, typed: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """The run's configuration, with what the user typed for this evaluation in its place."""
    merged = replace(
        trained,
        resume=False,
        # Where its training started from is not needed here, and need not exist any more.
        train=replace(trained.train, init_from=None),
        # Training left these as they were for its own evaluations.
        eval=replace(trained.eval, greedy=typed.eval.greedy, chunk_size=typed.eval.chunk_size),
    )
    for word in overrides:
        name, *rest = word.lstrip("+").split("=")[0].split(".")
        if name == "run" or not hasattr(merged, name):
            continue
        if name == "model":
            raise UserError(f"{word} with run=: give the one or the other")
        if not rest:
            setattr(merged, name, getattr(typed, name))
        elif hasattr(getattr(merged, name), rest[0]):
            setattr(getattr(merged, name), rest[0], getattr(getattr(typed, name), rest[0]))
        else:
            raise UserError(f"{word}: the run's {name} has no field {rest[0]}")
    return merged


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
        _refuse_changes("reproduce", cfg, run_dir)
    _model_location(cfg)
    data = load_data(cfg.data, cfg.eval)  # bad input is refused before anything is written
    for words in planned_overrides(cfg, overrides):
        compose_train(words)
    run = Run(run_dir, "reproduce", cfg.train.seed)
    run.start(cfg, overrides, device=cfg.learner.device)
    status = "failed"
    try:
        _print_notes(data)
        train_quietly = partial(run_train, show_notes=False)  # the data are the same in all runs
        reproduce(cfg, run_dir, overrides, compose_train, train_quietly)
        page = write_report([run_dir], run_dir)
        status = "finished"
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
        raise Interrupted(_how_to_resume("reproduce", run_dir, overrides)) from None
    finally:
        run.finish(status)
    print((run_dir / "table.md").read_text())
    print(f"report: {page}")


COMMANDS: dict[str, Callable[[Any, Path, Sequence[str]], None]] = {
    "train": run_train,
    "eval": run_eval,
    "reproduce": run_reproduce,
    "report": run_report,
}
