"""Where a run starts: at a model, a checkpoint, or where it stopped, and then unchanged."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from passk.build import sampling_engine
from passk.checkpoint import last_checkpoint, resolve_model
from passk.composition import load_run_config
from passk.config import RunConfig, TrainConfig
from passk.errors import UserError

# Fields that may differ between a run and its resumption: they change no completed step, and the
# steps to come by no more than the order of sums.
_FREE_ON_RESUME = (
    "resume",
    "num_threads",
    "train.save_every",
    "train.keep_last",
    "train.keep_best",
    "train.async_save",
    "rollout.max_batch_samples",
    "rollout.memory_fraction",
    "rollout.sleep",
    "rollout.enforce_eager",
    "rollout.max_logprob_gap",
    "rollout.num_synced_checks",
    "learner.max_tokens_per_batch",
    "learner.gradient_checkpointing",
    "learner.num_processes",
    "learner.replicas",
    "learner.defer_reduction",
    "learner.cpu_offload",
    "verifier.num_workers",
    "seeds",  # a finished reproduction may be given more of both
    "regimes",
)
# An evaluation's tables are computed from its samples, whatever chunks those came in.
_FREE_IN_EVAL = (*_FREE_ON_RESUME, "eval.chunk_size", "eval.ks", "eval.num_resamples")
# What stands behind a configuration and may change while it does not: facts of the manifest.
_BEHIND_NAMES = {
    "heldout_sha256": "the held-out problems of data.path or data.eval_path, or the shots,",
    "training_sha256": "the training problems of data.path",
    "weights": "the weights of model.path or run",
}


def starting_point(cfg: TrainConfig, run_dir: Path) -> tuple[str, Path | None]:
    """Where the weights come from, and the checkpoint to resume from.

    With adapters the weights are those the run started from: a checkpoint has them merged.
    """
    checkpoint = None
    if cfg.resume:
        refuse_changes("train", cfg, run_dir)
        if any((run_dir / "checkpoints").glob("step-*")):
            checkpoint = last_checkpoint(run_dir)
    if checkpoint is not None and not cfg.model.lora_rank:
        return str(checkpoint), checkpoint
    if cfg.train.init_from is not None:
        return resolve_model(cfg.train.init_from, "train.init_from"), checkpoint
    return model_location(cfg), checkpoint


def model_location(cfg: RunConfig) -> str:
    """`model.path`: what is a folder here may be a run or checkpoint too; the rest goes by name."""
    path = cfg.model.path
    if path.startswith(("/", "./", "../", "~")) and not Path(path).is_dir():
        raise UserError(f"model.path={path} does not exist; give a folder, a hub id, or tiny")
    return resolve_model(path, "model.path") if Path(path).is_dir() else path


def refuse_changes(
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
    engine = sampling_engine(cfg.rollout)
    if started.get("engine", engine) != engine:
        raise UserError(
            f"resume=true would go on with rollout.engine={engine}, but the run in {run_dir} was "
            f"sampled with {started['engine']}, which draws others; add "
            f"rollout.engine={started['engine']}"
        )
    free = _FREE_IN_EVAL if command == "eval" else _FREE_ON_RESUME
    before, now = (_flat(asdict(c)) for c in (load_run_config(run_dir, type(cfg)), cfg))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key) and key not in free:
            raise UserError(
                f"resume=true with {key}={now.get(key)}, but the run in {run_dir} was started "
                f"with {key}={before.get(key)}; repeat its overrides, which are in overrides.txt"
            )


def refuse_other_contents(facts: Mapping[str, str], run_dir: Path) -> None:
    """A resumed run must find the same problems and weights under the same names."""
    manifest = run_dir / "manifest.json"
    started = json.loads(manifest.read_text()) if manifest.is_file() else {}
    for fact, what in _BEHIND_NAMES.items():
        now = facts.get(fact)
        if started.get(fact, now) != now:
            raise UserError(
                f"resume=true, but {what} changed since the run in {run_dir} was started ({fact} "
                f"was {started[fact]}, is {now}); put them back, or start in another directory"
            )


def weights_state(policy: str) -> dict[str, str]:
    """The fact `weights` of a local model: size and time of change of each of its files."""
    files = sorted(Path(policy).glob("*.safetensors")) if Path(policy).is_dir() else []
    states = [f"{f.name} {f.stat().st_size} {f.stat().st_mtime_ns}" for f in files]
    return {"weights": ", ".join(states)} if states else {}


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def how_to_resume(command: str, run_dir: Path, overrides: Sequence[str]) -> str:
    """The sentence with the line that goes on with an interrupted run."""
    kept = [word for word in overrides if not word.startswith(("resume=", "hydra.run.dir="))]
    # Quoted for Hydra too: a cell of a sweep has = and commas in its name.
    named = f"hydra.run.dir={json.dumps(str(run_dir), ensure_ascii=False)}"
    line = shlex.join(["passk", command, *kept, named, "resume=true"])
    return f"interrupted; go on with: {line}"
