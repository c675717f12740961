"""Find where a run starts: at a model, a checkpoint, or where it stopped with equal settings."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import try_to_load_from_cache

from passk.config.commands import DiagnoseConfig, EvaluateConfig, FilterConfig
from passk.config.compose import load_config, load_run_config
from passk.config.rules import check
from passk.config.schema import FREE_ON_RESUME, RunConfig, TrackerConfig, TrainConfig
from passk.config.words import in_quotes
from passk.data.problems import load_data
from passk.data.sources import with_absolute_paths
from passk.errors import UserError
from passk.files import read_manifest, read_object, recorded
from passk.learner.checkpoint import (
    checkpoints,
    chosen_checkpoint,
    fingerprint,
    last_checkpoint,
    resolve_model,
    saved_step,
)
from passk.learner.policy import model_location as model_folder
from passk.runs.reader import flat
from passk.training.build import sampling_engine

_FREE_IN_FILTER = (*FREE_ON_RESUME, "filter.fdr", "filter.weight")
# An evaluation's tables depend only on its samples, not on the chunks they came in.
_TABLES = ("eval.ks", "eval.num_resamples", "eval.measures", "eval.taus")
_FREE_IN_EVAL = (*FREE_ON_RESUME, "eval.chunk_size", *_TABLES)
# Contents that may change while the configuration does not: facts of the manifest.
_BEHIND_NAMES = {
    "heldout_sha256": "the held-out problems of data.path or data.eval_path, or the shots,",
    "training_sha256": "the training problems of data.path",
    "trusted_sha256": "the problems of filter.trusted",
    "estimator_sha256": "the file of regime.estimator",
}
# The fact about prompts, which depend on the model and the problems.
_PROMPTS = "prompts_sha256"
# The facts about a model, each a list of files.
_WEIGHTS, _MODEL_FILES = "weights", "model_files"
# The files of a model folder that affect sampling, beside its weights.
_DECISIVE = (
    *("config.json", "generation_config.json", "*.py", "tokenizer*", "*.model", "*.tiktoken"),
    *("vocab*", "merges.txt", "added_tokens.json", "special_tokens_map.json"),
    *("chat_template*", "additional_chat_templates/*"),
)


def starting_point(cfg: TrainConfig, run_dir: Path) -> tuple[str, Path | None]:
    """Return the place of the weights, and the checkpoint to resume from, if any.

    With adapters the weights are those the run started from: checkpoints have the adapters merged.
    """
    checkpoint = None
    if cfg.resume:
        refuse_changes("train", cfg, run_dir)
        if checkpoints(run_dir):
            checkpoint = last_checkpoint(run_dir)
    if checkpoint is not None and not cfg.model.lora_rank:
        return str(checkpoint), checkpoint
    return origin(cfg), checkpoint


def origin(cfg: TrainConfig) -> str:
    """Return the place of the weights that a run starts from before its first step."""
    if cfg.train.init_from is not None:
        return resolve_model(cfg.train.init_from, "train.init_from")
    return model_location(cfg)


def unchanged_origin(cfg: TrainConfig, checkpoint: Path | None, run_dir: Path) -> str | None:
    """Return `origin` to compare the run with; None, after a note, where it is gone or changed.

    A run that goes on from its own checkpoint needs its start for nothing else. Adapters do, and
    `restore` compares its weights.
    """
    if checkpoint is None or cfg.model.lora_rank:
        return origin(cfg)
    started = read_manifest(run_dir)
    recorded_state = {fact: started[fact] for fact in (_WEIGHTS, _MODEL_FILES) if fact in started}
    try:
        place = origin(cfg)
        if model_state(place) == recorded_state:
            return place
    except UserError:
        pass
    print(
        "note: the model that the run started from is gone or was changed, so eval/distance.csv "
        "gets no further rows",
        flush=True,
    )
    return None


def model_location(cfg: RunConfig) -> str:
    """Resolve `model.path`: a folder may be a model, a run or a checkpoint; other values are names.

    Raises UserError for a path that does not exist.
    """
    path = cfg.model.path
    if path.startswith(("/", "./", "../", "~")) and not Path(path).is_dir():
        raise UserError(f"model.path={path} does not exist; give a folder, a hub id, or tiny")
    return resolve_model(path, "model.path") if Path(path).is_dir() else path


class MeasuredPolicy(NamedTuple):
    """A policy to measure: its configuration as of a run, the place of its weights, its step."""

    base: TrainConfig
    start: str
    step: int


def measured_policy(
    cfg: EvaluateConfig | DiagnoseConfig, overrides: Sequence[str], which: str | None = None
) -> MeasuredPolicy:
    """Return the policy to measure.

    Problems, verifier and sampling are those of `run`, unless the user typed others. `which` is the
    checkpoint, if it is not the one that `cfg` names.
    """
    base = TrainConfig(**{field.name: getattr(cfg, field.name) for field in fields(RunConfig)})
    if cfg.run is None:
        return MeasuredPolicy(base, model_location(cfg), 0)
    trained = load_run_config(Path(cfg.run))
    base = _with_typed(trained, base, overrides)
    check(base, trains=False)
    checkpoint = chosen_checkpoint(Path(cfg.run), which or cfg.checkpoint)
    _refuse_other_architecture(trained, checkpoint)
    return MeasuredPolicy(base, str(checkpoint), saved_step(checkpoint))


def refuse_changed_problems(
    cfg: EvaluateConfig | DiagnoseConfig, overrides: Sequence[str], *, needs_training: bool
) -> None:
    """Raise UserError if the problems of `run` have changed since its training.

    They are not checked if the user says which problems to take instead.
    """
    chosen = ("data.path=", "data.eval_path=")
    if cfg.run is not None and not any(word.lstrip("+").startswith(chosen) for word in overrides):
        trained = load_run_config(Path(cfg.run))
        refuse_other_problems(trained, Path(cfg.run), needs_training=needs_training)


def refuse_other_problems(cfg: RunConfig, run_dir: Path, *, needs_training: bool) -> None:
    """Raise UserError unless the files of `cfg` hold the problems that a run has recorded."""
    if cfg.data.path is None and cfg.data.eval_path is None:
        return  # generated, so always the same
    started = read_manifest(run_dir)
    try:
        now = load_data(cfg.data, cfg.eval, needs_training=needs_training).digests
    except UserError as error:
        raise UserError(
            f"the problems of the run in {run_dir} cannot be read: {error}; give data.path and "
            "data.eval_path if they have been moved"
        ) from error
    for fact, digest in now.items():
        if started.get(fact, digest) != digest:
            raise UserError(
                f"{_BEHIND_NAMES[fact]} are not those of the run in {run_dir} any more ({fact} "
                f"was {started[fact]}, is {digest}): the file was changed, or another version of "
                "passk reads it differently; put it back, or give data.path or data.eval_path to "
                "take what is there now"
            )


def measured_policies(cfg: FilterConfig, overrides: Sequence[str]) -> list[MeasuredPolicy]:
    """Return `measured_policy` for every checkpoint that is asked for, in order."""
    names = [cfg.checkpoint]
    if cfg.run is None:
        names = ["last"]
    elif cfg.checkpoint == "all":
        steps = [str(step) for step in checkpoints(Path(cfg.run))]
        names = steps[-(cfg.filter.num_checkpoints or len(steps)) :] or ["last"]
    return [measured_policy(cfg, overrides, name) for name in names]


def _with_typed(trained: TrainConfig, typed: TrainConfig, overrides: Sequence[str]) -> TrainConfig:
    """Return the run's configuration, with the user's overrides for this measurement."""
    merged = replace(
        trained,
        resume=False,
        tracker=TrackerConfig(),
        # The start of its training is not needed here, and may no longer exist.
        train=replace(trained.train, init_from=None),
        # For the ranks of this command, not those of training.
        rollout=replace(trained.rollout, tensor_parallel=typed.rollout.tensor_parallel),
        # The run's values of these were for its own evaluations during training.
        eval=replace(
            trained.eval, temperatures=typed.eval.temperatures, chunk_size=typed.eval.chunk_size
        ),
    )
    for word in overrides:
        name, *rest = word.lstrip("+").split("=")[0].split(".")
        if name == "run" or not hasattr(merged, name):
            continue
        if name == "model":
            raise UserError(f"{word} and run= cannot both be given; leave one out")
        target: Any = merged
        source: Any = typed
        last, seen = name, name
        for part in rest:
            target, source = getattr(target, last), getattr(source, last)
            if not hasattr(target, part):
                raise UserError(f"{word}: the run's {seen} has no field {part}")
            last, seen = part, f"{seen}.{part}"
        setattr(target, last, getattr(source, last))
    return merged


def _refuse_other_architecture(trained: TrainConfig, checkpoint: Path) -> None:
    """Raise UserError if a checkpoint's architecture differs from the one its run starts from.

    Checked only if that model is on this machine: one on the hub, or one that was removed, is
    skipped.
    """
    origin = Path(trained.train.init_from or model_folder(trained.model.path))
    steps = list(checkpoints(origin).values())
    configs = [folder / "config.json" for folder in (*steps[-1:], origin, checkpoint)]
    there = [read_object(path) for path in configs if path.is_file()]
    if len(there) < 2:
        return
    before, now = there[0], there[-1]
    for key in sorted(before.keys() & now.keys()):
        is_size = isinstance(before[key], int) and not key.endswith("_token_id")
        if (is_size or key == "model_type") and before[key] != now[key]:
            raise UserError(
                f"run={checkpoint.parent.parent} starts from {origin} ({key}={before[key]}), but "
                f"its {checkpoint.name} is of another architecture ({key}={now[key]}); put the "
                "run's own checkpoint back, or measure this one with model.path="
            )


def refuse_changes(command: str, cfg: RunConfig, run_dir: Path, policy: str | None = None) -> None:
    """Raise UserError if a resumed run differs from the run that was started.

    Otherwise its record would be of two runs.
    """
    started = read_manifest(run_dir)
    if started.get("command", command) != command:
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
            f"sampled with {started['engine']}, which draws other samples; add "
            f"rollout.engine={started['engine']}"
        )
    recorded(run_dir)  # raises if its records cannot be read
    free = {"eval": _FREE_IN_EVAL, "filter": _FREE_IN_FILTER}.get(command, FREE_ON_RESUME)
    # Compare as recorded: a relative path, typed in another folder, names another file.
    both = map(with_absolute_paths, (load_config(run_dir, type(cfg)), cfg))
    before, now = (flat(asdict(either)) for either in both)
    for key in sorted(before.keys() | now.keys()):
        is_free = key in free or key.startswith("tracker.")  # trackers may change
        if before.get(key) != now.get(key) and not is_free:
            raise UserError(
                f"resume=true with {key}={now.get(key)}, but the run in {run_dir} was started "
                f"with {key}={before.get(key)}; repeat its overrides, which are in overrides.txt"
            )


def refuse_other_contents(facts: Mapping[str, str], run_dir: Path) -> None:
    """Raise UserError unless a resumed run finds the same problems and model under their names."""
    started = read_manifest(run_dir)
    for fact, what in _BEHIND_NAMES.items():
        now = facts.get(fact)
        if started.get(fact, now) != now:
            raise UserError(
                f"resume=true, but {what} changed since the run in {run_dir} was started ({fact} "
                f"was {started[fact]}, is {now}); put them back, or start in another directory"
            )
    for fact in (_WEIGHTS, _MODEL_FILES):
        now = facts.get(fact, "")
        before = str(started.get(fact, now))
        if before != now:
            raise UserError(
                f"resume=true, but {_changed(before, now)} of the model changed since the run in "
                f"{run_dir} was started, so samples would be of two models; put back what was "
                "there, or start in another directory"
            )
    if started.get(_PROMPTS, facts.get(_PROMPTS)) != facts.get(_PROMPTS):
        raise UserError(
            f"resume=true, but the prompts are not those of the run in {run_dir} (another version "
            "of passk or transformers writes them differently); start in another directory"
        )


def _changed(before: str, now: str) -> str:
    """Return names of files whose states differ between two facts, or that only one lists."""
    differing = set(re.split("[,;] ", before)) ^ set(re.split("[,;] ", now))
    return ", ".join(sorted({entry.partition(" ")[0] for entry in differing if entry}))


def model_state(policy: str) -> dict[str, str]:
    """Return the manifest's facts about the model at `policy`, once it is loaded.

    For a folder: `weights`, size and modification time of each weight file, and `model_files`, the
    hashes of all other files that affect sampling. For a hub id: the commit that was loaded.
    """
    folder = Path(policy)
    if not folder.is_dir():
        cached = try_to_load_from_cache(policy, "config.json") if "/" in policy else None
        commit = Path(cached).parent.name if isinstance(cached, str) else None
        return {_MODEL_FILES: f"commit {commit}"} if commit else {}
    weights = [
        f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}"
        for file in sorted(folder.glob("*.safetensors"))
    ]
    decisive = {file for pattern in _DECISIVE for file in folder.glob(pattern) if file.is_file()}
    hashes = [
        f"{file.relative_to(folder)} {fingerprint(file).sha256[:16]}" for file in sorted(decisive)
    ]
    facts = {_WEIGHTS: ", ".join(weights), _MODEL_FILES: ", ".join(hashes)}
    return {fact: files for fact, files in facts.items() if files}


def model_states(policies: Sequence[str]) -> dict[str, str]:
    """Return the facts of several models joined, for a filter that measures each of them."""
    states = [model_state(policy) for policy in policies]
    joined = {
        fact: "; ".join(state[fact] for state in states if fact in state)
        for fact in (_WEIGHTS, _MODEL_FILES)
    }
    return {fact: files for fact, files in joined.items() if files}


def origin_state(start: str, checkpoint: Path | None, run_dir: Path) -> dict[str, str]:
    """Return the manifest's facts about the model that a training run started from.

    With a checkpoint the weights stay as recorded: the run's own weights count from there on, and
    where adapters need the original weights, `restore` compares them.
    """
    if checkpoint is None:
        return model_state(start)
    started = read_manifest(run_dir)
    kept = {fact: started[fact] for fact in (_WEIGHTS, _MODEL_FILES) if fact in started}
    if start != str(checkpoint):
        kept |= {fact: now for fact, now in model_state(start).items() if fact == _MODEL_FILES}
    return kept


def prompt_day(*runs: Path | str | None) -> date:
    """Return the date for chat templates: of the first of `runs` that has one, else today.

    So a resumed run and the evaluation of a run see the same prompts as the run.
    """
    for run in runs:
        facts = {} if run is None else read_manifest(Path(run))
        if "prompt_date" in facts:  # written where prompts depend on it
            return date.fromisoformat(facts["prompt_date"])
    return date.today()


def how_to_resume(command: str, run_dir: Path, overrides: Sequence[str]) -> str:
    """Write the sentence with the command that resumes an interrupted run."""
    kept = [word for word in overrides if not word.startswith(("resume=", "hydra.run.dir="))]
    # Quoted for Hydra too: names of a sweep's cells contain = and commas.
    named = f"hydra.run.dir={in_quotes(str(run_dir))}"
    line = shlex.join(["passk", command, *kept, named, "resume=true"])
    return f"interrupted; go on with: {line}"
