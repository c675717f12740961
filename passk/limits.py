"""What each field of the configuration may be by itself, as a sentence where it is not."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import get_args, get_origin

from passk.config import ESTIMATOR_NAMES, REGIMES
from passk.errors import UserError

_CHOICES = {
    "model.dtype": ("float32", "float64", "bfloat16"),
    "model.attn_implementation": ("sdpa", "eager", "flash_attention_2", "flash_attention_3"),
    "rollout.engine": ("auto", "torch", "vllm"),
    "rollout.dtype": ("float32", "float64", "bfloat16", "float16"),
    "verifier.name": ("auto", "conventions", "exact", "math", "python"),
    "learner.compute_dtype": ("bfloat16",),  # float16 would need its gradients scaled
    "data.prompt.style": ("plain", "chat", "auto"),
    "data.gold_in": ("whole", "after_hash", "in_box"),
    "diagnose.parameters": ("all", "last_layer", "final_norm"),
    "export.dtype": ("float32", "bfloat16", "float16"),
    "learner.device": ("auto", "cpu", "cuda"),
    "learner.schedule": ("constant", "linear", "cosine"),
    "regime.name": REGIMES,
    "regime.estimator": ESTIMATOR_NAMES,
    "regime.trigger": ("products", "slope"),
    "tracker.name": ("none", "tensorboard", "wandb", "trackio", "mlflow"),
    "tracker.mode": ("offline", "online"),
}
_LARGEST_SEED = 2**32 - 1  # of NumPy and of the trackers; torch takes more
_SEEDS = (
    "data.seed",
    "train.seed",
    "eval.seed",
    "diagnose.seed",
    "verifier.noise_seed",
    "toy.seed",
)
_AT_LEAST = {
    "rollout.num_prompts": 1,
    "rollout.num_samples": 2,
    "rollout.max_new_tokens": 1,
    "rollout.save_every": 0,
    "rollout.max_batch_samples": 1,
    "rollout.max_model_len": 2,
    "rollout.tensor_parallel": 1,
    "rollout.num_synced_checks": 0,
    "model.lora_rank": 0,
    "model.lora_alpha": 1,
    "verifier.num_workers": 1,
    "verifier.max_memory_mib": 64,
    "verifier.max_file_mib": 1,
    "learner.replicas": 1,
    "learner.warmup_steps": 0,
    "learner.max_tokens_per_batch": 1,
    "learner.weight_decay": 0,
    "regime.k": 1,
    "regime.num_demonstrations": 1,
    "regime.window": 3,
    "regime.measure_every": 1,
    "regime.num_blocks": 2,
    "train.num_steps": 1,
    "train.save_every": 0,
    "train.keep_last": 1,
    "train.keep_best": 0,
    "eval.every": 0,
    "eval.num_problems": 1,
    "eval.num_samples": 1,
    "eval.num_resamples": 1,
    "eval.max_new_tokens": 1,
    "eval.chunk_size": 1,
    "diagnostics.every": 0,
    "diagnostics.num_blocks": 3,
    "diagnose.num_prompts": 3,
    "diagnose.num_samples": 4,
    "diagnose.num_blocks": 3,
    "filter.num_checkpoints": 1,
    "diagnose.matrix_prompts": 0,
    "diagnose.sketch_size": 64,
    "data.answer_tokens": 1,
    "data.num_train": 1,
    "data.num_corpus": 1,
    "seeds": 1,
    "sweep.num_parallel": 1,
    "sweep.retries": 0,
    "sft_steps": 1,
    "num_threads": 1,
    "data.prompt.num_shots": 0,
    "toy.k": 2,
    "toy.num_steps": 1,
    "alignment_prompts": 1,
    "alignment_samples": 2,
    "diagnostics.num_prompts": 1,
    "diagnostics.num_samples": 2,
    **dict.fromkeys(_SEEDS, 0),
}
_MOST = 10**9  # of any count: what is above is a slip of the hand
_AT_MOST = {
    "rollout.temperature": 100,
    "eval.temperature": 100,
    "verifier.timeout_seconds": 86_400,
    "verifier.max_memory_mib": 2**24,
    "verifier.max_file_mib": 2**24,
    "verifier.num_workers": 1024,
    "learner.replicas": 2**16,
    "rollout.tensor_parallel": 1024,
    "num_threads": 1024,
    "sweep.num_parallel": 1024,
    "sweep.retries": 1000,
    "seeds": 1000,
    **dict.fromkeys(_SEEDS, _LARGEST_SEED),
}
_FRACTIONS = (
    "filter.fdr",
    "filter.weight",
    "regime.pass1_weight",
    "regime.min_success",
    "data.calculator_fraction",
    "data.skill_fraction",
    "data.corpus_calculator_fraction",
    "data.corpus_skill_fraction",
    "data.cue",
    "data.corpus_cue",
    "rollout.memory_fraction",
    "rollout.top_p",
    "eval.top_p",
    "verifier.false_negative_rate",
    "verifier.false_positive_rate",
)
_POSITIVE = (
    "rollout.temperature",
    "rollout.top_p",
    "rollout.importance_cap",
    "rollout.max_logprob_gap",
    "eval.temperature",
    "eval.top_p",
    "learner.lr",
    "learner.eps",
    "learner.max_grad_norm",
    "verifier.timeout_seconds",
    "toy.step_size",
)
_ITEMS: dict[object, tuple[str, type | tuple[type, ...]]] = {
    str: ("texts", str),
    int: ("whole numbers", int),
    float: ("numbers", (int, float)),
}


def choices(key: str) -> tuple[str, ...]:
    """The values that a field takes, where they can be told one by one."""
    return _CHOICES.get(key, ())


def check_fields(cfg: object) -> None:
    """Raise UserError for the first field whose value is not allowed, or that is no field."""
    for key, value in _flatten(cfg):
        check_field(key, value)


def _flatten(node: object, prefix: str = "") -> Iterable[tuple[str, object]]:
    if not is_dataclass(node):
        return
    names = [field.name for field in fields(node)]
    for extra in vars(node).keys() - set(names):  # Hydra's +key=value adds without asking
        raise UserError(f"{prefix}{extra} is not a key of passk; allowed: {', '.join(names)}")
    for field in fields(node):
        value = getattr(node, field.name)
        key = f"{prefix}{field.name}"
        if is_dataclass(value):
            yield from _flatten(value, f"{key}.")
        else:
            _check_items(key, field.type, value)
            yield key, value


def _check_items(key: str, kind: object, value: object) -> None:
    """Refuse a list in a list, which OmegaConf takes for an item of any type."""
    listed = [part for part in (kind, *get_args(kind)) if get_origin(part) is list]  # or `| None`
    kinds = get_args(listed[0]) if listed else ()
    if kinds and kinds[0] in _ITEMS and isinstance(value, list):
        name, allowed = _ITEMS[kinds[0]]
        if not all(isinstance(item, allowed) for item in value):
            raise UserError(f"{key}={value} must be a list of {name}")


def check_field(key: str, value: object) -> None:
    """Raise UserError where a field may not have this value, whatever the others have."""
    if value is None:
        return
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UserError(f"{key}={value} is unknown; allowed: {', '.join(_CHOICES[key])}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if key in _FRACTIONS and not 0 <= value <= 1:
        raise UserError(f"{key}={value} must lie between 0 and 1")
    if isinstance(value, float) and not isfinite(value):
        raise UserError(f"{key}={value} must be a finite number")
    if key in _AT_LEAST and value < _AT_LEAST[key]:
        raise UserError(f"{key}={value} is too small; at least {_AT_LEAST[key]} is needed")
    if value > (most := _AT_MOST.get(key, _MOST)) and (isinstance(value, int) or key in _AT_MOST):
        raise UserError(f"{key}={value} is too large; at most {most} is possible")
    if key in _POSITIVE and not value > 0:
        raise UserError(f"{key}={value} must be above 0")
