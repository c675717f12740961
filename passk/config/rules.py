"""Check rules between fields; each broken rule raises UserError with one sentence."""

from datetime import date
from importlib.util import find_spec
from os.path import isdir
from string import Formatter

from passk.config.schema import (
    ANSWER_PLACES,
    ESTIMATORS_WITHOUT_K,
    ConventionsConfig,
    PromptConfig,
    RunConfig,
    TrackerConfig,
    TrainConfig,
    trained_k,
    uses_products,
)
from passk.errors import UserError


def check_run(cfg: RunConfig) -> None:
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
            f"tracker.mode=online goes with tracker=wandb; tracker={cfg.name} knows no such thing "
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


def _check_regime(cfg: TrainConfig) -> None:
    regime, n = cfg.regime, cfg.rollout.num_samples
    if regime.name == "sft":
        if isinstance(cfg.data, ConventionsConfig) and cfg.data.path is not None:
            raise UserError(
                "regime=sft with data=conventions learns from generated solutions and would not "
                "read data.path; use data=jsonl for your own"
            )
        return
    check_group("regime.estimator", regime.estimator, trained_k(regime), n)
    if regime.estimator in ESTIMATORS_WITHOUT_K and regime.pass1_weight != 1:
        raise UserError(
            f"regime.estimator={regime.estimator} knows no k: it goes with "
            f"regime.pass1_weight=1 only, not {regime.pass1_weight:g}"
        )
    _check_remedy(cfg)


def _check_remedy(cfg: TrainConfig) -> None:
    """Check the regimes that choose their objective while training."""
    regime = cfg.regime
    if (regime.min_success > 0) != (regime.name == "curriculum"):
        raise UserError(
            f"regime={regime.name} with regime.min_success={regime.min_success:g}: it is above 0 "
            "for regime=curriculum, and for no other"
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
    if uses_products(regime) and (regime.k == 1 or regime.pass1_weight == 1):
        raise UserError(
            f"regime={regime.name} takes a conflict of Pass@k with Pass@1 out, and "
            f"regime.k={regime.k} with regime.pass1_weight={regime.pass1_weight:g} has none; use "
            "regime.k>=2 and regime.pass1_weight below 1, or regime=pass1"
        )
    if uses_products(regime) and cfg.model.dtype not in ("float32", "float64"):
        raise UserError(
            f"model.dtype={cfg.model.dtype} is too coarse for differences of log-probabilities; "
            f"regime={regime.name} needs model.dtype=float32 or float64 (activations may be "
            "coarser: learner.compute_dtype=bfloat16)"
        )
    if uses_products(regime) and cfg.rollout.num_prompts < regime.num_blocks:
        raise UserError(
            f"rollout.num_prompts={cfg.rollout.num_prompts} is less than "
            f"regime.num_blocks={regime.num_blocks}; every block needs a prompt"
        )


def check_group(key: str, estimator: str, k: int, n: int) -> None:
    """Raise UserError if the estimator cannot estimate Pass@k from n samples of a prompt."""
    if k > n:
        raise UserError(
            f"regime.k={k} with rollout.num_samples={n} is refused: no unbiased estimator "
            f"of Pass@{k} exists from fewer than k samples; use rollout.num_samples>="
            f"{k} (2 k or more is better) or a smaller regime.k"
        )
    if estimator == "s_loo" and k > n - 1:
        raise UserError(f"{key}=s_loo needs regime.k <= rollout.num_samples - 1 = {n - 1}, not {k}")


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
