"""What one field alone cannot tell: the rules between fields, each as a sentence."""

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from string import Formatter

from passk.answers.text import PLACES
from passk.config import (
    ESTIMATOR_NAMES,
    ESTIMATORS_WITHOUT_K,
    REGIMES,
    ConventionsConfig,
    EvaluateConfig,
    ReportConfig,
    ReproduceConfig,
    RunConfig,
    TrainConfig,
    trained_k,
)
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
    "learner.device": ("auto", "cpu", "cuda"),
    "learner.schedule": ("constant", "linear", "cosine"),
    "regime.name": REGIMES,
    "regime.estimator": ESTIMATOR_NAMES,
}
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
    "train.num_steps": 1,
    "train.save_every": 0,
    "train.keep_last": 1,
    "eval.every": 0,
    "eval.num_problems": 1,
    "eval.num_samples": 1,
    "eval.num_resamples": 1,
    "eval.max_new_tokens": 1,
    "eval.chunk_size": 1,
    "diagnostics.every": 0,
    "diagnostics.num_blocks": 3,
    "data.answer_tokens": 1,
    "data.num_train": 1,
    "data.num_corpus": 1,
    "seeds": 1,
    "sft_steps": 1,
    "num_threads": 1,
    "data.prompt.num_shots": 0,
}
_FRACTIONS = (
    "regime.pass1_weight",
    "data.calculator_fraction",
    "data.skill_fraction",
    "data.corpus_calculator_fraction",
    "data.corpus_skill_fraction",
    "data.cue",
    "data.corpus_cue",
    "rollout.memory_fraction",
)
_POSITIVE = (
    "rollout.temperature",
    "rollout.importance_cap",
    "rollout.max_logprob_gap",
    "eval.temperature",
    "learner.lr",
    "learner.max_grad_norm",
    "verifier.timeout_seconds",
)


def check(cfg: RunConfig | ReportConfig) -> None:
    """Raise UserError, with a sentence that names the key, for the first rule that is broken."""
    for key, value in _flatten(cfg):
        _check_field(key, value)
    if isinstance(cfg, TrainConfig):
        _check_regime(cfg)
        _check_diagnostics(cfg)
    if isinstance(cfg, RunConfig):
        _check_data(cfg)
        _check_learner(cfg)
        _check_eval(cfg)
    if isinstance(cfg, ReproduceConfig):
        _check_reproduce(cfg)
    if isinstance(cfg, TrainConfig) and cfg.train.init_from is not None:
        _check_exists("train.init_from", cfg.train.init_from)
    if isinstance(cfg, EvaluateConfig) and cfg.run is not None:
        _check_exists("run", cfg.run)
    if isinstance(cfg, ReportConfig) and not cfg.dirs:
        raise UserError("passk report needs at least one run directory: passk report DIR...")


def _check_exists(key: str, path: str) -> None:
    if not Path(path).is_dir():
        raise UserError(f"{key}={path} does not exist; give a run directory or a checkpoint")


def _flatten(node: object, prefix: str = "") -> Iterable[tuple[str, object]]:
    if not is_dataclass(node):
        return
    names = [field.name for field in fields(node)]
    for extra in vars(node).keys() - set(names):  # Hydra's +key=value adds without asking
        raise UserError(f"{prefix}{extra} is not a key of passk; allowed: {', '.join(names)}")
    for field in fields(node):
        value = getattr(node, field.name)
        if is_dataclass(value):
            yield from _flatten(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def _check_field(key: str, value: object) -> None:
    if value is None:
        return
    if key in _CHOICES and value not in _CHOICES[key]:
        raise UserError(f"{key}={value} is unknown; allowed: {', '.join(_CHOICES[key])}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if key in _AT_LEAST and value < _AT_LEAST[key]:
        raise UserError(f"{key}={value} is too small; at least {_AT_LEAST[key]} is needed")
    if key in _FRACTIONS and not 0 <= value <= 1:
        raise UserError(f"{key}={value} must lie between 0 and 1")
    if key in _POSITIVE and not value > 0:
        raise UserError(f"{key}={value} must be above 0")


def _check_data(cfg: RunConfig) -> None:
    data = cfg.data
    places = cfg.verifier.answer_in
    if not places or not set(places) <= set(PLACES):
        raise UserError(
            f"verifier.answer_in={places} must name, in the order to try them, some of "
            f"{', '.join(PLACES)}"
        )
    if cfg.verifier.name == "auto":
        raise UserError(
            f"data={data.name} does not say how its answers are judged; add verifier=math, "
            "verifier=exact, verifier=python or verifier=conventions"
        )
    _check_template("data.prompt.template", data.prompt.template, "problem")
    _check_template("data.prompt.completion_template", data.prompt.completion_template, "solution")
    for key in ("conversation", "tokenize", "add_generation_prompt", "continue_final_message"):
        if key in data.prompt.chat_template_kwargs:
            raise UserError(
                f"data.prompt.chat_template_kwargs.{key} is set by passk itself; give what the "
                "model's own chat template asks for, such as enable_thinking=false"
            )
    is_conventions = isinstance(data, ConventionsConfig)
    if is_conventions != (data.name == "conventions"):
        raise UserError(f"data.name={data.name} cannot be set on its own; use data={data.name}")
    if not is_conventions:
        return
    for calculator, skill in (
        ("calculator_fraction", "skill_fraction"),
        ("corpus_calculator_fraction", "corpus_skill_fraction"),
    ):
        total = getattr(data, calculator) + getattr(data, skill)
        if total > 1:
            raise UserError(f"data.{calculator} + data.{skill} = {total:g}; at most 1 is possible")


def _check_template(key: str, template: str, field: str) -> None:
    try:
        # Pairs of braces that are signs have no field; `{problem!r}` and `{problem:9}` are refused.
        found = {tuple(part[1:]) for part in Formatter().parse(template) if part[1] is not None}
    except ValueError:
        found = set()
    if found != {(field, "", None)}:
        raise UserError(
            f"{key}={template!r} must hold {{{field}}} and no other field; other braces are "
            "written twice: {{ and }}"
        )


def _check_learner(cfg: RunConfig) -> None:
    betas = cfg.learner.betas
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"learner.betas={betas} must be two numbers from 0 on and below 1")
    count = cfg.learner.num_processes
    if count != "auto" and not (isinstance(count, int) and count >= 1):
        raise UserError(
            f"learner.num_processes={count} must be a whole number from 1 on, or auto (one per GPU)"
        )


def _check_eval(cfg: RunConfig) -> None:
    ks, num_samples = cfg.eval.ks, cfg.eval.num_samples
    if not ks or min(ks) < 1:
        raise UserError(f"eval.ks={ks} must hold whole numbers from 1 on, and at least one")
    if num_samples < (needed := 4 * max(ks)):
        raise UserError(
            f"eval.num_samples={num_samples} is too few for Pass@{max(ks)}: the estimate is too "
            f"noisy below 4 k; use eval.num_samples={needed} or smaller eval.ks"
        )


def _check_regime(cfg: TrainConfig) -> None:
    regime, n = cfg.regime, cfg.rollout.num_samples
    if regime.name == "sft":
        if isinstance(cfg.data, ConventionsConfig) and cfg.data.path is not None:
            raise UserError(
                "regime=sft with data=conventions learns from generated solutions and would not "
                "read data.path; use data=jsonl for your own"
            )
        return
    if trained_k(regime) > n:
        raise UserError(
            f"regime.k={regime.k} with rollout.num_samples={n} is refused: no unbiased estimator "
            f"of Pass@{regime.k} exists from fewer than k samples; use rollout.num_samples>="
            f"{regime.k} (2 k or more is better) or a smaller regime.k"
        )
    if regime.estimator in ESTIMATORS_WITHOUT_K and regime.pass1_weight != 1:
        raise UserError(
            f"regime.estimator={regime.estimator} knows no k: it goes with "
            f"regime.pass1_weight=1 only, not {regime.pass1_weight:g}"
        )
    if regime.estimator == "s_loo" and trained_k(regime) > n - 1:
        raise UserError(
            f"regime.estimator=s_loo needs regime.k <= rollout.num_samples - 1 = {n - 1}, "
            f"not {regime.k}"
        )


def _check_diagnostics(cfg: TrainConfig) -> None:
    diagnostics, k = cfg.diagnostics, trained_k(cfg.regime)
    if cfg.regime.name == "sft" or diagnostics.every == 0:
        return
    needed = 2 * max(k + (cfg.regime.estimator == "s_loo"), 2)
    if diagnostics.num_samples < needed:
        raise UserError(
            f"diagnostics.num_samples={diagnostics.num_samples} cannot give two halves of "
            f"{needed // 2} for Pass@{k}; use diagnostics.num_samples={needed} or "
            "diagnostics.every=0"
        )
    if diagnostics.num_prompts < diagnostics.num_blocks:
        raise UserError(
            f"diagnostics.num_prompts={diagnostics.num_prompts} is less than "
            f"diagnostics.num_blocks={diagnostics.num_blocks}; every block needs a prompt"
        )


def _check_reproduce(cfg: ReproduceConfig) -> None:
    unknown = [name for name in cfg.regimes if name not in REGIMES or name == "sft"]
    if unknown or not cfg.regimes:
        raise UserError(
            f"regimes={cfg.regimes} must name some of pass1, passk, hybrid; sft always comes first"
        )
    if cfg.diagnostics.every == 0:
        return
    k = cfg.regime.k
    half = max(k + (cfg.regime.estimator == "s_loo"), 2)
    if cfg.alignment_samples < 2 * half:
        raise UserError(
            f"alignment_samples={cfg.alignment_samples} cannot give two halves of "
            f"{half} for Pass@{k}; use at least {2 * half}"
        )
    if cfg.alignment_prompts < cfg.diagnostics.num_blocks:
        raise UserError(
            f"alignment_prompts={cfg.alignment_prompts} is less than "
            f"diagnostics.num_blocks={cfg.diagnostics.num_blocks}; every block needs a prompt"
        )


def claim_directory(path: Path, resume: bool) -> None:
    """Refuse a directory that holds something, unless the run in it is to be resumed."""
    is_empty = not path.exists() or not any(path.iterdir())
    if resume and not (path / "config.yaml").is_file():
        raise UserError(
            f"hydra.run.dir={path} holds no run to resume; name the run with hydra.run.dir=DIR"
        )
    if not resume and not is_empty:
        raise UserError(
            f"hydra.run.dir={path} is not empty; choose another directory, or add resume=true "
            "to go on with the run in it"
        )
