"""Check rules between fields; each broken rule raises UserError with one sentence."""

import math
import re
from datetime import date
from importlib.util import find_spec
from os.path import isdir
from pathlib import Path
from string import Formatter
from typing import Any

from passk.config.commands import (
    CompareConfig,
    DiagnoseConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    FilterConfig,
    PopulationConfig,
    ReportConfig,
    ReproduceConfig,
    ToyConfig,
    read_interpolate,
)
from passk.config.fields import check_fields
from passk.config.schema import (
    ANSWER_PLACES,
    AUTO,
    ESTIMATOR_NAMES,
    ESTIMATORS_WITH_A_SPARE,
    MEASURES,
    REGIMES,
    ConventionsConfig,
    PromptConfig,
    RegimeConfig,
    RunConfig,
    TrackerConfig,
    TrainConfig,
    has_k,
    is_noisy,
    is_own,
    pass1_share,
    target_k,
    target_terms,
    trained_k,
    uses_products,
)
from passk.errors import UserError
from passk.files import is_free

MOST_MATRIX_PROMPTS = 2000  # matrix and figure are of no use above this


def check(
    cfg: RunConfig | ReportConfig | CompareConfig | ExportConfig | ToyConfig | ExplainConfig,
    *,
    trains: bool = True,
) -> None:
    """Raise UserError for the first broken rule, with a sentence that names the key.

    `trains` is False for the configuration of a run that is only measured.
    """
    check_fields(cfg)
    if isinstance(cfg, RunConfig):
        _check_run(cfg)
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
    if isinstance(cfg, EvaluateConfig):
        _check_evaluate(cfg)
    if isinstance(cfg, DiagnoseConfig):
        _check_diagnose(cfg)
    if isinstance(cfg, ReportConfig | CompareConfig):
        _check_places(cfg)
    if isinstance(cfg, ToyConfig):
        _check_toy(cfg.toy)
    if isinstance(cfg, ExplainConfig):
        _check_explain(cfg)


def _check_run(cfg: RunConfig) -> None:
    """Raise UserError for the first broken rule of those for every command that needs a model."""
    if isinstance(cfg, TrainConfig):
        _check_regime(cfg)
        _check_diagnostics(cfg)
        check_tracker(cfg.tracker)
    _check_data(cfg)
    _check_learner(cfg)
    _check_eval(cfg)
    if isinstance(cfg, TrainConfig) and cfg.train.init_from is not None:
        check_exists("train.init_from", cfg.train.init_from)


def _check_places(cfg: ReportConfig | CompareConfig) -> None:
    if isinstance(cfg, ReportConfig) and not cfg.dirs:
        raise UserError("passk report needs at least one run directory: passk report DIR...")
    if isinstance(cfg, CompareConfig) and len(cfg.paths) != 2:
        raise UserError(
            "passk compare needs two runs, evaluations or files of counts, not "
            f"{len(cfg.paths)}: passk compare A B"
        )


def check_exists(key: str, path: str) -> None:
    """Raise UserError if a run or checkpoint does not exist."""
    if not isdir(path):  # False for a name that is too long, without an exception
        raise UserError(f"{key}={path} does not exist; give a run directory or a checkpoint")


def check_tracker(cfg: TrackerConfig) -> None:
    """Raise UserError if the tracker is not installed, or cannot use one of its settings."""
    if cfg.name == "none":
        return
    spec = find_spec(cfg.name)
    if spec is None or spec.origin is None:  # a folder of that name here is not the library
        raise UserError(
            f"tracker={cfg.name} needs {cfg.name}, which is not installed: "
            "pip install 'passk-rl[tracking]'"
        )
    if cfg.mode == "online" and cfg.name != "wandb":
        raise UserError(
            f"tracker.mode=online goes with tracker=wandb; tracker={cfg.name} has no such mode "
            "(mlflow sends to where MLFLOW_TRACKING_URI says; trackio sync sends later)"
        )
    if cfg.dir is not None and cfg.name == "trackio":
        raise UserError(
            f"tracker.dir={cfg.dir} goes with tracker=tensorboard, wandb and mlflow; trackio keeps "
            "all runs in one place, which the environment variable TRACKIO_DIR names"
        )


def _check_data(cfg: RunConfig) -> None:
    data = cfg.data
    places = cfg.verifier.answer_in
    if not places or not set(places) <= set(ANSWER_PLACES):
        raise UserError(
            f"verifier.answer_in={places} must name, in the order to try them, some of "
            f"{', '.join(ANSWER_PLACES)}"
        )
    if cfg.verifier.name == "auto":
        raise UserError(
            f"data={data.name} does not say how its answers are judged; add verifier=math, "
            "verifier=exact, verifier=python or verifier=conventions"
        )
    _check_noise(cfg)
    _check_template("data.prompt.template", data.prompt.template, "problem")
    _check_template("data.prompt.completion_template", data.prompt.completion_template, "solution")
    _check_prompt(data.prompt)
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


def _check_prompt(prompt: PromptConfig) -> None:
    if "" in prompt.stop:
        raise UserError(
            'data.prompt.stop holds the empty text "", which every answer begins with; leave it '
            "out, or give a text such as a line break"
        )
    if prompt.date is None:
        return
    try:
        date.fromisoformat(prompt.date)
    except ValueError:
        raise UserError(
            f"data.prompt.date={prompt.date} is no date; write it as YYYY-MM-DD, or null for the "
            "day on which a run is started"
        ) from None


def _check_noise(cfg: RunConfig) -> None:
    missed, passed = cfg.verifier.false_negative_rate, cfg.verifier.false_positive_rate
    if missed + passed >= 1:
        raise UserError(
            f"verifier.false_negative_rate={missed:g} and verifier.false_positive_rate={passed:g} "
            "must add up to less than 1: from there on a wrong answer is accepted as often as a "
            "right one, or more often"
        )


def _check_template(key: str, template: str, field: str) -> None:
    try:
        # Doubled braces stand for themselves; `{problem!r}` and `{problem:9}` are refused.
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
    if not all(0 <= temperature <= 100 for temperature in cfg.eval.temperatures):
        raise UserError(
            f"eval.temperatures={cfg.eval.temperatures} must hold numbers from 0 (greedy) to 100"
        )
    if unknown := [name for name in cfg.eval.measures if name not in MEASURES]:
        raise UserError(f"eval.measures={unknown[0]} is unknown; allowed: {', '.join(MEASURES)}")
    if not all(0 < tau <= 1 for tau in cfg.eval.taus):
        raise UserError(f"eval.taus={cfg.eval.taus} must hold shares above 0, up to 1")


def _check_regime(cfg: TrainConfig) -> None:
    regime, n = cfg.regime, cfg.rollout.num_samples
    if regime.name == "sft":
        if isinstance(cfg.data, ConventionsConfig) and cfg.data.path is not None:
            raise UserError(
                "regime=sft with data=conventions learns from generated solutions and would not "
                "read data.path; use data=jsonl for your own"
            )
        return
    _check_weight(regime)
    check_terms(regime)
    _check_group("regime.estimator", regime.estimator, trained_k(regime), n)
    if not has_k(regime.estimator) and regime.weight != 1:
        raise UserError(
            f"regime.estimator={regime.estimator} knows no k: it goes with "
            f"regime.pass1_weight=1 only, not {regime.pass1_weight}"
        )
    if regime.pass1_weight == AUTO:
        _check_measured_weight(cfg)
    _check_remedy(cfg)


def check_terms(regime: RegimeConfig) -> None:
    """Raise UserError unless `regime.ks` and `regime.weights` are an objective, or both null."""
    ks, weights = regime.ks, regime.weights
    if ks is None:
        if weights is not None:
            raise UserError(f"regime.weights={weights} needs the k of each weight: regime.ks=[...]")
        return
    if regime.name != "hybrid":
        raise UserError(
            f"regime.ks={ks} mixes several Pass@k, which goes with regime=hybrid only, not with "
            f"regime={regime.name}"
        )
    if not ks or ks[0] < 1 or ks != sorted(set(ks)):
        raise UserError(f"regime.ks={ks} must hold whole numbers from 1 on, each once, ascending")
    if weights is not None and len(weights) != len(ks):
        raise UserError(
            f"regime.weights={weights} must be as many numbers as regime.ks={ks}, one for each k"
        )
    if weights is not None and not all(0 < weight < math.inf for weight in weights):
        raise UserError(
            f"regime.weights={weights} must be numbers above 0; leave a k without weight out of "
            "regime.ks"
        )
    terms = target_terms(regime)
    for key, value, settled in (
        ("k", regime.k, terms[-1][0]),
        ("pass1_weight", regime.pass1_weight, pass1_share(terms)),
    ):
        if value not in (getattr(RegimeConfig, key), settled):
            raise UserError(
                f"regime.{key}={value} cannot be set beside regime.ks={ks}: k is the largest of "
                "these, and the weights stand in regime.weights"
            )


def _check_weight(regime: RegimeConfig) -> None:
    if isinstance(regime.pass1_weight, str) and regime.pass1_weight != AUTO:
        raise UserError(
            f"regime.pass1_weight={regime.pass1_weight} must be a number between 0 and 1, or auto"
        )


def _check_measured_weight(cfg: TrainConfig) -> None:
    """Check that the weight of Pass@1 can be measured at the start of training."""
    regime, diagnostics = cfg.regime, cfg.diagnostics
    if regime.name != "hybrid" or regime.k == 1 or regime.estimator != "mixture":
        raise UserError(
            "regime.pass1_weight=auto measures the weight that keeps Pass@k from lowering Pass@1; "
            "it goes with regime=hybrid, regime.k>=2 and regime.estimator=mixture, not with "
            f"regime={regime.name}, regime.k={regime.k} and regime.estimator={regime.estimator}"
        )
    if diagnostics.num_samples < regime.k:
        raise UserError(
            f"regime.pass1_weight=auto with regime.k={regime.k} needs as many samples of a prompt; "
            f"use diagnostics.num_samples={regime.k} or more, not {diagnostics.num_samples}"
        )
    num_prompts, num_blocks = diagnostics.num_prompts, diagnostics.num_blocks
    _check_blocks("diagnostics.num_prompts", num_prompts, "diagnostics.num_blocks", num_blocks)


def _check_remedy(cfg: TrainConfig) -> None:
    """Check the regimes that choose their objective while training."""
    regime = cfg.regime
    if (regime.min_success > 0) != (regime.name == "curriculum"):
        raise UserError(
            f"regime={regime.name} with regime.min_success={regime.min_success:g}: "
            "regime=curriculum needs a value above 0, and no other regime takes one"
        )
    if not regime.is_remedy:
        return
    if not 0 < regime.level < 1:
        raise UserError(f"regime.level={regime.level:g} must lie above 0 and below 1")
    if regime.estimator != "mixture":
        raise UserError(
            f"regime={regime.name} chooses the numbers of the mixture of Pass@1 and Pass@k; it "
            f"goes with regime.estimator=mixture only, not {regime.estimator}"
        )
    if uses_products(regime) and (regime.k == 1 or regime.weight == 1):
        raise UserError(
            f"regime={regime.name} avoids a conflict of Pass@k with Pass@1, but "
            f"regime.k={regime.k} with regime.pass1_weight={regime.weight:g} has none; use "
            "regime.k>=2 and regime.pass1_weight below 1, or regime=pass1"
        )
    if uses_products(regime):
        _check_dtype(
            cfg,
            f"regime={regime.name} needs model.dtype=float32 or float64 (activations may be "
            "coarser: learner.compute_dtype=bfloat16)",
        )
        num_prompts = cfg.rollout.num_prompts
        _check_blocks("rollout.num_prompts", num_prompts, "regime.num_blocks", regime.num_blocks)


def _check_dtype(cfg: RunConfig, way_out: str) -> None:
    """Raise UserError if the weights are too coarse to take differences of log-probabilities."""
    if cfg.model.dtype not in ("float32", "float64"):
        raise UserError(
            f"model.dtype={cfg.model.dtype} is too coarse for differences of log-probabilities; "
            f"{way_out}"
        )


def _check_blocks(prompts_key: str, num_prompts: int, blocks_key: str, num_blocks: int) -> None:
    """Raise UserError if there are fewer prompts than blocks."""
    if num_prompts < num_blocks:
        raise UserError(
            f"{prompts_key}={num_prompts} is less than {blocks_key}={num_blocks}; every block "
            "needs a prompt"
        )


def _check_halves(key: str, num_samples: int, estimator: str, k: int, way_out: str) -> None:
    """Raise UserError if samples are too few for two estimates of Pass@k; N in `way_out` is enough.

    Each half needs one sample more for `ESTIMATORS_WITH_A_SPARE`, and at least two.
    """
    half = max(k + (estimator in ESTIMATORS_WITH_A_SPARE), 2)
    if num_samples < 2 * half:
        raise UserError(
            f"{key}={num_samples} cannot give two halves of {half} for Pass@{k}; use "
            f"{way_out.format(2 * half)}"
        )


def _check_group(key: str, estimator: str, k: int, n: int) -> None:
    """Raise UserError if the estimator cannot estimate Pass@k from n samples of a prompt."""
    if k > n:
        raise UserError(
            f"regime.k={k} with rollout.num_samples={n} is refused: no unbiased estimator "
            f"of Pass@{k} exists from fewer than k samples; use rollout.num_samples>="
            f"{k} (2 k or more is better) or a smaller regime.k"
        )
    if estimator in ESTIMATORS_WITH_A_SPARE and k > n - 1:
        raise UserError(
            f"{key}={estimator} needs regime.k <= rollout.num_samples - 1 = {n - 1}, not {k}"
        )


def _check_diagnostics(cfg: TrainConfig) -> None:
    diagnostics, k = cfg.diagnostics, trained_k(cfg.regime)
    if cfg.regime.name == "sft" or diagnostics.every == 0:
        return
    _check_halves(
        "diagnostics.num_samples",
        diagnostics.num_samples,
        cfg.regime.estimator,
        k,
        "diagnostics.num_samples={} or diagnostics.every=0",
    )
    num_prompts, num_blocks = diagnostics.num_prompts, diagnostics.num_blocks
    _check_blocks("diagnostics.num_prompts", num_prompts, "diagnostics.num_blocks", num_blocks)


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


def _check_evaluate(cfg: EvaluateConfig) -> None:
    if is_noisy(cfg.verifier):
        raise UserError(
            "verifier.false_negative_rate and verifier.false_positive_rate go with passk train, "
            "reproduce, diagnose and filter; passk eval measures with the verifier as it is"
        )
    if cfg.interpolate is not None:
        read_interpolate(cfg.interpolate)


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
    if (count := asked.num_prompts) is not None:
        _check_blocks("diagnose.num_prompts", count, "diagnose.num_blocks", asked.num_blocks)
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
    _check_dtype(cfg, "use model.dtype=float32 or float64")


def _is_pair_of_shares(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(end, int | float) and 0 <= end <= 1 for end in value)
    )


def _check_toy(toy: PopulationConfig) -> None:
    if not 0 < toy.p_hard < 1:
        raise UserError(f"toy.p_hard={toy.p_hard} must lie between 0 and 1, both excluded")
    if not 0 <= toy.delta <= 10:
        raise UserError(f"toy.delta={toy.delta} must lie between 0 and 10 standard deviations")
    if len(toy.theta) != 2 or not all(abs(entry) <= 10 for entry in toy.theta):
        raise UserError(
            f"toy.theta={toy.theta} must be two numbers between -10 and 10: [bias,slope]"
        )


def _check_explain(cfg: ExplainConfig) -> None:
    regime, shown, n = cfg.regime, cfg.explain, cfg.rollout.num_samples
    if regime.name == "sft":
        raise UserError("regime=sft weights no prompts; use regime=pass1, passk or hybrid")
    if regime.is_remedy:
        raise UserError(
            f"regime={regime.name} chooses its objective anew at every step of training; use "
            "regime=pass1, passk or hybrid with one of the objectives it may choose"
        )
    _check_weight(regime)
    check_terms(regime)
    if regime.pass1_weight == AUTO:
        raise UserError(
            "regime.pass1_weight=auto is measured at the start of training; passk explain needs a "
            "number between 0 and 1"
        )
    _check_group("regime.estimator", regime.estimator, target_k(regime), n)
    for name in shown.compare:
        if name not in ESTIMATOR_NAMES and not is_own(name):
            raise UserError(
                f"explain.compare={name} is unknown; allowed: {', '.join(ESTIMATOR_NAMES)}, "
                "FILE.py:FUNCTION"
            )
        _check_group("explain.compare", name, target_k(regime), n)
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
    if cfg.regime.ks is not None:
        raise UserError(
            f"regime.ks={cfg.regime.ks} goes with passk train: passk reproduce compares Pass@1, "
            "Pass@k and their mixture at one regime.k"
        )
    if cfg.tracker.run_name is not None:
        raise UserError(
            f"tracker.run_name={cfg.tracker.run_name} would give all runs one name; passk "
            "reproduce names them seed-S/REGIME, in a group (tracker.group) of their own"
        )
    if not all(0 <= weight <= 1 for weight in cfg.interpolate):
        raise UserError(f"interpolate={cfg.interpolate} must be weights from 0 to 1")
    if cfg.interpolate and "passk" not in cfg.regimes:
        raise UserError(
            f"interpolate={cfg.interpolate} is between SFT and passk, which is not in "
            f"regimes={cfg.regimes}"
        )
    if cfg.diagnostics.every == 0:
        return
    samples, regime = cfg.alignment_samples, cfg.regime
    _check_halves("alignment_samples", samples, regime.estimator, regime.k, "at least {}")
    num_blocks = cfg.diagnostics.num_blocks
    _check_blocks("alignment_prompts", cfg.alignment_prompts, "diagnostics.num_blocks", num_blocks)


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
