"""Rules of the commands that measure, compare and report; `check` applies all rules."""

import re
from math import isfinite
from pathlib import Path
from typing import Any

from passk.config.commands import (
    DiagnoseConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    FilterConfig,
    PopulationConfig,
    ReportConfig,
    ReproduceConfig,
    ToyConfig,
)
from passk.config.fields import check_fields
from passk.config.rules import check_exists, check_group, check_run
from passk.config.schema import ESTIMATOR_NAMES, REGIMES, RunConfig, TrainConfig, is_noisy, target_k
from passk.errors import UserError
from passk.files import is_free

MOST_MATRIX_PROMPTS = 2000  # matrix and figure are of no use above this


def check(
    cfg: RunConfig | ReportConfig | ExportConfig | ToyConfig | ExplainConfig,
    *,
    trains: bool = True,
) -> None:
    """Raise UserError for the first broken rule, with a sentence that names the key.

    `trains` is False for the configuration of a run that is only measured.
    """
    check_fields(cfg)
    if isinstance(cfg, RunConfig):
        check_run(cfg)
    if isinstance(cfg, TrainConfig) and trains and cfg.rollout.top_p < 1:
        raise UserError(
            f"rollout.top_p={cfg.rollout.top_p} would train off-policy, on samples of another "
            "distribution than the one whose gradient is taken; use rollout.top_p=1 (passk "
            "diagnose takes less, and eval.top_p too)"
        )
    if isinstance(cfg, ReproduceConfig):
        _check_reproduce(cfg)
    if isinstance(cfg, EvaluateConfig | DiagnoseConfig | ExportConfig):
        _check_measured(cfg)
    if isinstance(cfg, EvaluateConfig) and is_noisy(cfg.verifier):
        raise UserError(
            "verifier.false_negative_rate and verifier.false_positive_rate go with passk train, "
            "reproduce, diagnose and filter; passk eval measures with the verifier as it is"
        )
    if isinstance(cfg, DiagnoseConfig):
        _check_diagnose(cfg)
    if isinstance(cfg, ReportConfig) and not cfg.dirs:
        raise UserError("passk report needs at least one run directory: passk report DIR...")
    if isinstance(cfg, ToyConfig):
        _check_toy(cfg.toy)
    if isinstance(cfg, ExplainConfig):
        _check_explain(cfg)


def _check_measured(cfg: EvaluateConfig | DiagnoseConfig | ExportConfig) -> None:
    if isinstance(cfg, ExportConfig):
        _check_export(cfg)
    if cfg.run is not None:
        check_exists("run", cfg.run)
    which = cfg.checkpoint
    names = ("all", "last", "best") if isinstance(cfg, FilterConfig) else ("last", "best")
    if which not in names and not which.isdecimal():
        raise UserError(f"checkpoint={which} must be {', '.join(names)} or the number of a step")
    if which not in ("all", "last") and cfg.run is None:
        raise UserError(f"checkpoint={which} needs the run it belongs to: run=DIR")


def _check_export(cfg: ExportConfig) -> None:
    if cfg.run is None:
        raise UserError("passk export needs the run whose model it writes: run=DIR")
    license, base = cfg.export.license, cfg.export.base_model
    if license is not None and not re.fullmatch(r"[a-z0-9]+([.-][a-z0-9]+)*", license):
        raise UserError(
            f"export.license={license} must be a licence as the hub spells it, in small letters: "
            "apache-2.0, mit, llama3.1, other"
        )
    if base is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", base):
        raise UserError(f"export.base_model={base} must be a model of the hub, OWNER/NAME")


def _check_diagnose(cfg: DiagnoseConfig) -> None:
    asked = cfg.diagnose
    if asked.num_prompts is not None and asked.num_prompts < asked.num_blocks:
        raise UserError(
            f"diagnose.num_prompts={asked.num_prompts} is less than "
            f"diagnose.num_blocks={asked.num_blocks}; every block needs a prompt"
        )
    if asked.matrix_prompts == 1 or asked.matrix_prompts > MOST_MATRIX_PROMPTS:
        raise UserError(
            f"diagnose.matrix_prompts={asked.matrix_prompts} must be 0 for no interference matrix, "
            f"or between 2 and {MOST_MATRIX_PROMPTS}"
        )
    n = asked.num_samples
    if asked.ks is not None and not all(1 <= k <= n for k in asked.ks):
        raise UserError(
            f"diagnose.ks={asked.ks} must lie between 1 and diagnose.num_samples={n}: no unbiased "
            "estimator of Pass@k exists from fewer than k samples"
        )
    for pair in asked.filtered_sets:
        if not _is_pair_of_shares(pair) or not pair[1] <= pair[0]:
            raise UserError(
                f"diagnose.filtered_sets: {pair} must be two shares from 0 to 1, "
                "[EASY_ABOVE,HARD_BELOW], the first no less than the second, such as [0.85,0.1]"
            )
    if asked.preconditioned and cfg.run is None:
        raise UserError(
            "diagnose.preconditioned=true needs the second moments of Adam, which a run's own "
            "checkpoints hold; give run=DIR, or diagnose.preconditioned=false"
        )
    if cfg.model.dtype not in ("float32", "float64"):
        raise UserError(
            f"model.dtype={cfg.model.dtype} is too coarse for differences of log-probabilities; "
            "use model.dtype=float32 or float64"
        )


def _is_pair_of_shares(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(end, int | float) and 0 <= end <= 1 for end in value)
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


def _check_explain(cfg: ExplainConfig) -> None:
    regime, shown, n = cfg.regime, cfg.explain, cfg.rollout.num_samples
    if regime.name == "sft":
        raise UserError("regime=sft weights no prompts; use regime=pass1, passk or hybrid")
    if regime.is_remedy:
        raise UserError(
            f"regime={regime.name} chooses its objective anew at every step of training; use "
            "regime=pass1, passk or hybrid with one of the objectives it may choose"
        )
    check_group("regime.estimator", regime.estimator, target_k(regime), n)
    for name in shown.compare:
        if name not in ESTIMATOR_NAMES:
            raise UserError(
                f"explain.compare={name} is unknown; allowed: {', '.join(ESTIMATOR_NAMES)}"
            )
        check_group("explain.compare", name, target_k(regime), n)
    if not shown.p or not all(0 < p < 1 for p in shown.p):
        raise UserError(
            f"explain.p={shown.p} must hold numbers above 0 and below 1, and at least one"
        )


def _check_reproduce(cfg: ReproduceConfig) -> None:
    unknown = [name for name in cfg.regimes if name not in REGIMES or name == "sft"]
    if unknown or not cfg.regimes:
        raise UserError(
            f"regimes={cfg.regimes} must name some of {', '.join(REGIMES[1:])}; sft always comes "
            "first"
        )
    if cfg.tracker.run_name is not None:
        raise UserError(
            f"tracker.run_name={cfg.tracker.run_name} would name all runs alike; passk reproduce "
            "names them seed-S/REGIME, in a group (tracker.group) of their own"
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


def claim_directory(path: Path, resume: bool | None, key: str = "hydra.run.dir") -> None:
    """Raise UserError if a directory is not empty, unless the run in it is to be resumed.

    Also raise it if there is no run to resume. `resume` is None for commands that cannot resume;
    `key` is the configuration key that names the directory.
    """
    if resume and not (path / "config.yaml").is_file():
        raise UserError(
            f"hydra.run.dir={path} holds no run to resume; name the run with hydra.run.dir=DIR"
        )
    if not resume and not is_free(path):
        way_out = "" if resume is None else ", or add resume=true to go on with the run in it"
        raise UserError(f"{key}={path} is not empty; choose another directory{way_out}")
