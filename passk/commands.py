"""What each command does once its configuration is known to be good. Imports torch."""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from passk.build import Parts, build_parts, prepare_torch
from passk.checkpoint import TrainState, last_checkpoint, resolve_model, restore, saved_step
from passk.composition import compose_train, load_run_config
from passk.config import EvaluateConfig, ReportConfig, ReproduceConfig, RunConfig, TrainConfig
from passk.errors import Interrupted, UserError
from passk.interrupt import interrupt_flag
from passk.problems import load_data
from passk.progress import display
from passk.report import write_report
from passk.reproduce import planned_overrides, reproduce
from passk.rules import check
from passk.run import Run
from passk.train import Stopped, evaluate, train
from passk.types import Problem
from passk.verifier_checks import GoldCheck, check_gold, self_test

# Fields that may differ between a run and its resumption: they change no completed step.
_FREE_ON_RESUME = (
    "resume",
    "num_threads",
    "train.save_every",
    "train.keep_last",
    "seeds",  # a finished reproduction may be given more of both
    "regimes",
)


def run_train(cfg: TrainConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """One training run in `run_dir`, from its start or, resumed, from its last checkpoint.

    `overrides` are the words the user typed. Raises Interrupted when asked to stop.
    """
    prepare_torch(cfg.num_threads, cfg.train.seed)
    start, is_checkpoint = _starting_point(cfg, run_dir)
    parts = build_parts(cfg, start)
    parts, checked = _checked(cfg, parts, parts.data.train if cfg.regime.name != "sft" else ())
    state = restore(Path(start), parts.learner) if is_checkpoint else TrainState(0, 0)
    run = Run(run_dir, "train", cfg.train.seed)
    run.rewind(parts.learner.step)
    run.start(cfg, overrides, str(parts.learner.model.device))
    run.write_gold_refused(checked.refused)
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


def _checked(cfg: RunConfig, parts: Parts, train: Sequence[Problem]) -> tuple[Parts, GoldCheck]:
    """The parts, once their verifier has shown that it works, without hopeless training problems.

    `train` are the training problems whose gold answers matter.
    """
    try:
        self_test(parts.verifier)
        if not cfg.data.check_gold:
            return parts, GoldCheck(0, ())
        checked = check_gold(parts.verifier, train, parts.data.heldout)
    except BaseException:
        parts.sampler.close()
        parts.verifier.close()
        raise
    kept = checked.kept(parts.data.train)
    if checked.refused:
        print(checked.sentence(len(parts.data.train) - len(kept)), flush=True)
    return replace(parts, data=replace(parts.data, train=kept)), checked


def _starting_point(cfg: TrainConfig, run_dir: Path) -> tuple[str, bool]:
    """Where the weights come from, and whether optimiser state comes with them."""
    if cfg.resume:
        _refuse_changes(cfg, run_dir)
        if any((run_dir / "checkpoints").glob("step-*")):
            return str(last_checkpoint(run_dir)), True
    if cfg.train.init_from is not None:
        return resolve_model(cfg.train.init_from, "train.init_from"), False
    return _model_location(cfg), False


def _model_location(cfg: RunConfig) -> str:
    """`model.path`: what is a folder here may be a run or checkpoint too; the rest goes by name."""
    path = cfg.model.path
    if path.startswith(("/", "./", "../", "~")) and not Path(path).is_dir():
        raise UserError(f"model.path={path} does not exist; give a folder, a hub id, or tiny")
    return resolve_model(path, "model.path") if Path(path).is_dir() else path


def _refuse_changes(cfg: TrainConfig, run_dir: Path) -> None:
    """A resumed run must be the run that was started, or its record would be of two."""
    before, now = (_flat(asdict(c)) for c in (load_run_config(run_dir, type(cfg)), cfg))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in _FREE_ON_RESUME:
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
    """The Pass@1/Pass@k table of a run's last checkpoint, or of `model.path`.

    Problems, verifier and sampling are those of the run, unless the user typed others.
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
    parts, checked = _checked(base, build_parts(base, start, needs_training=False), ())
    run = Run(run_dir, "eval", cfg.eval.seed)
    run.start(base, overrides, str(parts.learner.model.device))
    run.write_gold_refused(checked.refused)
    status = "failed"
    try:
        with display(f"eval {cfg.run or start}", 1) as shown:
            evaluate(step, base, parts, run, shown)
        status = "finished"
    finally:
        run.finish(status)
        parts.sampler.close()
        parts.verifier.close()
    print((run_dir / "eval" / "table.md").read_text())
    print(f"tables are in {run_dir / 'eval'}")


def _with_typed(trained: TrainConfig, typed: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """The run's configuration, with what the user typed for this evaluation in its place."""
    # Where its training started from is not needed here, and need not exist any more.
    merged = replace(trained, resume=False, train=replace(trained.train, init_from=None))
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
        _refuse_changes(cfg, run_dir)
    _model_location(cfg)
    load_data(cfg.data, cfg.eval)  # bad input is refused before anything is written
    for words in planned_overrides(cfg, overrides):
        compose_train(words)
    run = Run(run_dir, "reproduce", cfg.train.seed)
    run.start(cfg, overrides, cfg.learner.device)
    status = "failed"
    try:
        reproduce(cfg, run_dir, overrides, compose_train, run_train)
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
