"""What one field alone cannot tell: the rules between fields, each as a sentence."""

from math import isfinite
from pathlib import Path
from string import Formatter

from passk.answers.text import PLACES
from passk.config import (
    ESTIMATOR_NAMES,
    ESTIMATORS_WITHOUT_K,
    REGIMES,
    ConventionsConfig,
    DiagnoseConfig,
    EvaluateConfig,
    ReportConfig,
    ReproduceConfig,
    RunConfig,
    TrainConfig,
    target_k,
    trained_k,
)
from passk.errors import UserError
from passk.exact_config import ExplainConfig, PopulationConfig, ToyConfig
from passk.limits import check_fields


def check(cfg: RunConfig | ReportConfig | ToyConfig | ExplainConfig) -> None:
    """Raise UserError, with a sentence that names the key, for the first rule that is broken."""
    check_fields(cfg)
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
    if isinstance(cfg, EvaluateConfig | DiagnoseConfig):
        _check_measured(cfg)
    if isinstance(cfg, DiagnoseConfig):
        _check_diagnose(cfg)
    if isinstance(cfg, ReportConfig) and not cfg.dirs:
        raise UserError("passk report needs at least one run directory: passk report DIR...")
    if isinstance(cfg, ToyConfig):
        _check_toy(cfg.toy)
    if isinstance(cfg, ExplainConfig):
        _check_explain(cfg)


def _check_measured(cfg: EvaluateConfig | DiagnoseConfig) -> None:
    if cfg.run is not None:
        _check_exists("run", cfg.run)
    which = cfg.checkpoint
    if which not in ("last", "best") and not which.isdecimal():
        raise UserError(f"checkpoint={which} must be last, best or the number of a step")
    if which != "last" and cfg.run is None:
        raise UserError(f"checkpoint={which} needs the run it belongs to: run=DIR")


def _check_diagnose(cfg: DiagnoseConfig) -> None:
    asked = cfg.diagnose
    if asked.num_prompts < asked.num_blocks:
        raise UserError(
            f"diagnose.num_prompts={asked.num_prompts} is less than "
            f"diagnose.num_blocks={asked.num_blocks}; every block needs a prompt"
        )
    n = asked.num_samples
    if asked.ks is not None and not all(1 <= k <= n for k in asked.ks):
        raise UserError(
            f"diagnose.ks={asked.ks} must lie between 1 and diagnose.num_samples={n}: no unbiased "
            "estimator of Pass@k exists from fewer than k samples"
        )
    if asked.preconditioned and cfg.run is None:
        raise UserError(
            "diagnose.preconditioned=true needs the second moments of Adam, which a run's own "
            "checkpoints hold; give run=DIR, or diagnose.preconditioned=false"
        )
    if cfg.model.dtype not in ("float32", "float64"):
        raise UserError(
            f"model.dtype={cfg.model.dtype} is too coarse for differences of log-probabilities; "
            "passk diagnose needs model.dtype=float32 or float64"
        )


def _check_toy(toy: PopulationConfig) -> None:
    if not 0 < toy.p_hard < 1:
        raise UserError(f"toy.p_hard={toy.p_hard} must lie between 0 and 1, and be neither")
    if not 0 <= toy.delta <= 10:
        raise UserError(f"toy.delta={toy.delta} must lie between 0 and 10 standard deviations")
    if len(toy.theta) != 2 or not all(abs(entry) <= 10 for entry in toy.theta):
        raise UserError(
            f"toy.theta={toy.theta} must be two numbers between -10 and 10: [bias,slope]"
        )
    if not isfinite(toy.step_size):
        raise UserError(f"toy.step_size={toy.step_size} must be finite")


def _check_exists(key: str, path: str) -> None:
    if not Path(path).is_dir():
        raise UserError(f"{key}={path} does not exist; give a run directory or a checkpoint")


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
    _check_group("regime.estimator", regime.estimator, trained_k(regime), n)
    if regime.estimator in ESTIMATORS_WITHOUT_K and regime.pass1_weight != 1:
        raise UserError(
            f"regime.estimator={regime.estimator} knows no k: it goes with "
            f"regime.pass1_weight=1 only, not {regime.pass1_weight:g}"
        )


def _check_group(key: str, estimator: str, k: int, n: int) -> None:
    """Refuse what no estimator of that name can do with n samples of a prompt."""
    if k > n:
        raise UserError(
            f"regime.k={k} with rollout.num_samples={n} is refused: no unbiased estimator "
            f"of Pass@{k} exists from fewer than k samples; use rollout.num_samples>="
            f"{k} (2 k or more is better) or a smaller regime.k"
        )
    if estimator == "s_loo" and k > n - 1:
        raise UserError(f"{key}=s_loo needs regime.k <= rollout.num_samples - 1 = {n - 1}, not {k}")


def _check_explain(cfg: ExplainConfig) -> None:
    regime, shown, n = cfg.regime, cfg.explain, cfg.rollout.num_samples
    if regime.name == "sft":
        raise UserError("regime=sft weights no prompts; use regime=pass1, passk or hybrid")
    _check_group("regime.estimator", regime.estimator, target_k(regime), n)
    for name in shown.compare:
        if name not in ESTIMATOR_NAMES:
            raise UserError(
                f"explain.compare={name} is unknown; allowed: {', '.join(ESTIMATOR_NAMES)}"
            )
        _check_group("explain.compare", name, target_k(regime), n)
    if not shown.p or not all(0 < p < 1 for p in shown.p):
        raise UserError(
            f"explain.p={shown.p} must hold numbers above 0 and below 1, and at least one"
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


def claim_directory(path: Path, resume: bool | None) -> None:
    """Refuse a directory that holds something, unless the run in it is to be resumed.

    `resume` is None where the command cannot go on with anything.
    """
    # A kill before the run began leaves no more than a file under a temporary name.
    is_empty = not path.exists() or all(file.name.endswith(".partial") for file in path.iterdir())
    if resume and not (path / "config.yaml").is_file():
        raise UserError(
            f"hydra.run.dir={path} holds no run to resume; name the run with hydra.run.dir=DIR"
        )
    if not resume and not is_empty:
        way_out = "" if resume is None else ", or add resume=true to go on with the run in it"
        raise UserError(f"hydra.run.dir={path} is not empty; choose another directory{way_out}")
