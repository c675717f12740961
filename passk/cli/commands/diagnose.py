"""`passk diagnose`: find the prompts that interfere with Pass@1, and from which k on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from passk.cli.launch import on_all_ranks
from passk.cli.resume import measured_policy, model_state, prompt_day, refuse_changed_problems
from passk.config.commands import DiagnoseConfig, DiagnosisConfig
from passk.config.schema import AUTO, RegimeConfig, RunConfig, TrainConfig
from passk.console import working
from passk.diagnostics.alignment import Products, measure_products, require_memory
from passk.diagnostics.derivatives import saved_adam_metric
from passk.diagnostics.gold_errors import suspect_golds
from passk.diagnostics.matrix import Matrix, measure_matrix
from passk.diagnostics.paper_gradients import measure_filtered
from passk.diagnostics.paper_sets import Filtered, Plan, plan
from passk.diagnostics.second_order import SecondOrder
from passk.errors import UserError
from passk.files import replacing
from passk.learner.checkpoint import LEARNER
from passk.learner.learner import Learner
from passk.memory import memory_advice
from passk.objectives.advantages import as_configured
from passk.ranks import rank
from passk.report.diagnosis import (
    Diagnosis,
    diagnosis,
    filtered_section,
    page,
    second_order_section,
)
from passk.report.interference import Interference, heatmap, interference_tables, section
from passk.report.prompt_plots import filtered_figures, histograms, weight_against_agreement
from passk.report.run_plots import product_curve
from passk.runs.writer import Run
from passk.training.build import Parts, open_parts, prepare_torch, print_notes, run_preflight
from passk.training.loop import diagnostic_groups
from passk.training.second_order import measure_second_order
from passk.types import Group


@dataclass(frozen=True, slots=True)
class Measured:
    """All that was measured of the sampled prompts, and the seconds that sampling took."""

    groups: Sequence[Group]
    products: Sequence[Products]  # the first as asked for; then along Adam's step, if known
    second: SecondOrder | None
    regime: RegimeConfig  # whose steps `second` is measured along
    matrix: Matrix | None  # of the first `diagnose.matrix_prompts`
    filtered: Filtered
    sampling_seconds: float


@on_all_ranks
def run_diagnose(cfg: DiagnoseConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Find interfering prompts at a run's checkpoint, or at `model.path`.

    See docs/guide/diagnose.md. Runs on as many ranks as `learner.num_processes` says. Raises
    UserError for what cannot be measured, before anything is written.
    """
    asked = cfg.diagnose
    prepare_torch(cfg.num_threads, asked.seed)
    trained, start, step = measured_policy(cfg, overrides)
    base = as_training(cfg, trained)
    refuse_changed_problems(cfg, overrides, needs_training=True)
    policy = str(Path(start).resolve()) if Path(start).is_dir() else start
    day = prompt_day(cfg.run)
    with open_parts(base, start, day=day, parameters=asked.parameters) as parts:
        print_notes(parts.data)
        parts, gold = run_preflight(base, parts, parts.data.train)
        facts = parts.facts | model_state(policy)
        metrics = _metrics(cfg, trained, parts.learner, Path(start))
        num_blocks = min(asked.num_blocks, len(parts.data.train))
        require_memory(parts.learner, num_blocks)
        regime = _stepping(trained.regime, _shown_k(asked, base))
        if asked.curvature:
            _require_batches(asked, base, regime.k, len(parts.data.train))
        started = time.perf_counter()
        groups = diagnostic_groups(step, base, parts, asked.num_prompts, asked.num_samples)
        require_gradient_signal(np.array([group.rewards() for group in groups]))
        sets = _planned_sets(step, base, asked, parts, groups)
        sampling_seconds = time.perf_counter() - started
        parts.sampler.sleep()
        second = None
        if asked.curvature:
            # SFT's moments end with it: a run of RL begins with none.
            goes_on = trained.regime.name != "sft" and _holds_moments(cfg, trained, Path(start))
            second = measure_second_order(
                base, parts, groups, as_configured(regime), reach=asked.reach, goes_on=goes_on
            )
        run = Run(run_dir, "diagnose", asked.seed, policy)
        run.start(replace(cfg, **common_fields(base)), overrides, **facts)
        with run.recording_end():
            with memory_advice("learner"):
                products = measure_products(
                    parts.learner,
                    groups,
                    _shown_ks(asked, base),
                    num_blocks,
                    cosines=asked.cosines,
                    metrics=metrics,
                )
                matrix = None
                if asked.matrix_prompts:
                    matrix = measure_matrix(
                        parts.learner,
                        groups[: asked.matrix_prompts],
                        asked.sketch_size,
                        seed=asked.seed,
                        metric=metrics[0],
                        length=products[0].derivatives.length,
                    )
                filtered = measure_filtered(parts.learner, groups, sets, base.eval.num_resamples)
            if rank() == 0:
                measured = Measured(
                    groups, products, second, regime, matrix, filtered, sampling_seconds
                )
                _write(asked, base, run, measured)
        run.write_gold_refused(gold.refused)


def _metrics(
    cfg: DiagnoseConfig, trained: TrainConfig, learner: Learner, start: Path
) -> list[Tensor | None]:
    """Return the metrics to measure in: none and Adam's if the checkpoint has it, or as asked."""
    asked = cfg.diagnose.preconditioned
    if asked:
        return [saved_adam_metric(learner, start)]
    if asked is None and _holds_moments(cfg, trained, start):
        return [None, saved_adam_metric(learner, start)]
    return [None]


def _holds_moments(cfg: DiagnoseConfig, trained: TrainConfig, start: Path) -> bool:
    """Return True if a checkpoint has Adam's moments of the weights that are measured."""
    return cfg.run is not None and not trained.model.lora_rank and (start / LEARNER).is_dir()


def _stepping(regime: RegimeConfig, k: int) -> RegimeConfig:
    """Return the regime whose steps are followed: the run's, or Pass@k alone where it has none.

    That is so for a model, a run of SFT, and an objective that was chosen while training.
    """
    if regime.name in ("pass1", "passk", "hybrid") and regime.pass1_weight != AUTO:
        return regime
    return RegimeConfig(name="passk", k=k, pass1_weight=0.0)


def _require_batches(asked: DiagnosisConfig, base: TrainConfig, k: int, num_train: int) -> None:
    """Raise UserError unless the prompts make two batches of training's size."""
    rollout = base.rollout
    num_prompts = min(asked.num_prompts or num_train, num_train)
    if num_prompts < 2 * rollout.num_prompts:
        raise UserError(
            f"diagnose.curvature=true needs two batches of rollout.num_prompts="
            f"{rollout.num_prompts}, not {num_prompts} prompts (diagnose.num_prompts, or the "
            "training problems there are)"
        )
    if not k <= rollout.num_samples <= asked.num_samples:
        raise UserError(
            f"diagnose.curvature=true with rollout.num_samples={rollout.num_samples}, which must "
            f"lie between k={k} and diagnose.num_samples={asked.num_samples}"
        )


def as_training(cfg: DiagnoseConfig, base: TrainConfig) -> TrainConfig:
    """Return a configuration that samples as training would, with the k of the run's regime.

    Raises UserError for diagnose.preconditioned=true with a run that trained adapters.
    """
    if cfg.diagnose.preconditioned and base.model.lora_rank:
        raise UserError(
            "diagnose.preconditioned=true with a run that trained adapters (model.lora_rank="
            f"{base.model.lora_rank}): its second moments are theirs, not those of the weights "
            "that are measured; use diagnose.preconditioned=false"
        )
    dtype = "float64" if base.model.dtype == "float64" else "float32"
    return replace(
        base,
        # A run's adapters are merged into its checkpoints, so the plain model is measured, in a
        # precision in which log-probabilities can be distinguished.
        model=replace(base.model, lora_rank=0, dtype=dtype),
        learner=replace(base.learner, compile=False),
        # With a nucleus the sampler's log-probabilities are not those of the policy.
        rollout=replace(
            base.rollout,
            importance_cap=base.rollout.importance_cap if base.rollout.top_p == 1 else None,
        ),
        regime=RegimeConfig(name="pass1", k=base.regime.k, pass1_weight=1.0),
        train=replace(base.train, seed=cfg.diagnose.seed),
    )


def common_fields(base: TrainConfig) -> dict[str, Any]:
    """Return the run's values of the fields that all commands share, for `config.yaml`."""
    return {field.name: getattr(base, field.name) for field in fields(RunConfig)}


def require_gradient_signal(rewards_PG: np.ndarray) -> None:
    """Raise UserError unless some prompt has both right and wrong samples."""
    num_prompts, num_samples = rewards_PG.shape
    sampled = f"{num_prompts} prompts x {num_samples} samples"
    if num_prompts < 3:
        raise UserError(f"{num_prompts} training problems are too few to compare; 3 are needed")
    if not (rewards_PG == 1).any():
        raise UserError(
            f"none of {sampled} is right, so no gradient can be seen; raise diagnose.num_samples, "
            "or take a model, data or a verifier with which some answers are right"
        )
    if not ((rewards_PG == 1).any(axis=1) & (rewards_PG == 0).any(axis=1)).any():
        raise UserError(
            f"of {sampled}, each prompt's are all right or all wrong, so no gradient can be seen; "
            "raise diagnose.num_samples"
        )


def _planned_sets(
    step: int, base: TrainConfig, asked: DiagnosisConfig, parts: Parts, groups: Sequence[Group]
) -> Plan:
    """Plan `diagnose.filtered_sets`; raise UserError if their gradients would not fit in memory.

    The corrected way splits easy from hard prompts by the samples that are measured, or with
    `diagnose.fresh_sets` by other samples of the same prompts: a prompt that is hard by the samples
    it is measured by may only have been unlucky.
    """
    selecting = groups
    if asked.filtered_sets and asked.fresh_sets:
        selecting = diagnostic_groups(
            step, base, parts, asked.num_prompts, asked.num_samples, purpose="filter"
        )
    rewards_PG, selecting_PG = (
        np.array([group.rewards() for group in drawn]) for drawn in (groups, selecting)
    )
    sets = plan(asked, rewards_PG, selecting_PG, _shown_k(asked, base))
    require_memory(
        parts.learner,
        len(sets.coefficients),
        "diagnose.filtered_sets",
        "use diagnose.parameters=last_layer or fewer thresholds",
    )
    return sets


def _shown_ks(asked: DiagnosisConfig, base: TrainConfig) -> tuple[int, ...]:
    """Return `diagnose.ks`, or the values of `eval.ks` up to n; always with 1."""
    wanted = base.eval.ks if asked.ks is None else asked.ks
    return tuple(sorted({1, *(k for k in wanted if k <= asked.num_samples)}))


def _shown_k(asked: DiagnosisConfig, base: TrainConfig) -> int:
    """Return the k at which groups of prompts are shown: the run's, or the largest shown k."""
    ks = _shown_ks(asked, base)
    return base.regime.k if base.regime.k in ks else max(ks)


@working("tables and figures")
def _write(asked: DiagnosisConfig, base: TrainConfig, run: Run, measured: Measured) -> None:
    """Compute the tables, and write them with the figures and the page; print the page."""
    groups, num_resamples = measured.groups, base.eval.num_resamples
    derivatives = measured.products[0].derivatives
    found = diagnosis(
        groups,
        measured.products,
        _shown_ks(asked, base),
        _shown_k(asked, base),
        num_resamples,
        base.verifier.false_negative_rate,
    )
    shown, text = None, ""
    if (matrix := measured.matrix) is not None:
        shown = interference_tables(
            groups[: matrix.halves_2PD.shape[1]],
            matrix.halves_2PD,
            matrix.pairs,
            matrix.exact,
            num_resamples,
        )
        text = section(shown, asked.sketch_size, matrix.seconds, matrix.seconds_beside)
    differences = {
        "length": derivatives.length,
        "error": derivatives.error,
        "num_tried": derivatives.num_tried,
    }
    seconds = {"sampling": measured.sampling_seconds} | measured.products[0].seconds
    if measured.second is not None:
        text = second_order_section(measured.second, measured.regime, asked, base.learner) + text
        run.write_table("curvature", measured.second.table())
    text = page(found, asked, base.rollout, differences, seconds, text)
    text += filtered_section(measured.filtered, asked)
    _write_files(run, found, shown, measured.filtered, text)
    print(text)
    print(f"tables and figures are in {run.path}")


def _write_files(
    run: Run, found: Diagnosis, shown: Interference | None, filtered: Filtered, text: str
) -> None:
    tables = {"prompts": found.prompts, "curve": found.curve}
    tables |= {f"by_{name}": table for name, table in found.groups.items()}
    tables |= {"suspect_golds": suspect_golds(found.agreed)}
    tables |= {"injected": found.injected} if len(found.injected) else {}
    figures = {
        "curve": product_curve(found.curve),
        "histograms": histograms(found.prompts, found.k),
        "weight_against_agreement": weight_against_agreement(
            found.prompts, found.k, by_success=True
        ),
    }
    if shown is not None:
        tables |= {"interference_prompts": shown.prompts, "interference_exact": shown.exact}
        tables |= {f"interference_by_{name}": table for name, table in shown.groups.items()}
        tables |= {"interference_clusters": shown.clusters, "antagonists": shown.pairs}
        drawn = heatmap(shown.cosines_PP, shown.prompts, list(shown.groups))
        figures |= {"interference": drawn} if drawn else {}
        with replacing(run.path / "interference.npy") as partial, partial.open("wb") as file:
            np.save(file, shown.kappa_PP.astype(np.float32), allow_pickle=False)
    if len(filtered.table):
        tables |= {"filtered": filtered.table, "filtered_prompts": filtered.prompts}
        figures |= filtered_figures(filtered)
    for name, table in tables.items():
        run.write_table(name, table)
    for name, figure in figures.items():
        run.write_figure(name, figure)
    links = "".join(f"\n![{name}]({name}.png)\n" for name in figures)
    run.write_text("diagnose.md", text + links)
