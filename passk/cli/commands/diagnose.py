"""`passk diagnose`: find the prompts that interfere with Pass@1, and from which k on."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from passk.cli.resume import MeasuredPolicy
from passk.config.commands import DiagnoseConfig, DiagnosisConfig
from passk.config.schema import RegimeConfig, RunConfig, TrainConfig
from passk.diagnostics.agreement import measure, weighted
from passk.diagnostics.alignment import alignment, weighted_gradients
from passk.diagnostics.derivatives import Derivatives, derivatives_along, saved_adam_metric
from passk.diagnostics.gold_errors import suspect_golds
from passk.diagnostics.matrix import Matrix, measure_matrix
from passk.diagnostics.paper_gradients import measure_filtered
from passk.diagnostics.paper_sets import Filtered
from passk.errors import UserError
from passk.files import replacing
from passk.learner.batch import advantage_weights
from passk.memory import memory_advice
from passk.objectives.advantages import mixture_advantages
from passk.objectives.pass_at_k import FloatArray
from passk.ranks import rank
from passk.report.curves import product_curve
from passk.report.diagnosis_figures import filtered_figures, heatmap, histograms
from passk.report.diagnosis_page import page
from passk.report.diagnosis_tables import Diagnosis, Measurements, diagnosis
from passk.report.interference import Interference, interference_tables, section
from passk.report.paper_sets import filtered_section
from passk.report.prompt_plots import weight_against_agreement
from passk.runs.writer import Run
from passk.training.build import Parts
from passk.training.loop import diagnostic_groups
from passk.types import Group


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that each part took."""

    sampling: float
    gradient: float  # of Pass@1, by block
    derivatives: float
    cosines: float  # and other computations for the intervals


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


def diagnose(
    cfg: DiagnoseConfig,
    policy: MeasuredPolicy,
    parts: Parts,
    run: Run,
    overrides: Sequence[str],
    facts: dict[str, str],
) -> None:
    """Sample, measure, and write the tables and the page to `run`.

    Samples without a gradient signal raise UserError before anything is written.
    """
    asked, base, step = cfg.diagnose, policy.base, policy.step
    metric = saved_adam_metric(parts.learner, Path(policy.start)) if asked.preconditioned else None
    started = time.perf_counter()
    groups = diagnostic_groups(step, base, parts, asked.num_prompts, asked.num_samples)
    rewards_PG = np.array([group.rewards() for group in groups])
    refuse_silence(rewards_PG)
    selecting_PG = _selecting_rewards(step, base, asked, parts, rewards_PG)
    seconds_sampled = time.perf_counter() - started
    parts.sampler.sleep()
    common = {field.name: getattr(base, field.name) for field in fields(RunConfig)}
    run.start(replace(cfg, **common), overrides, **facts)
    status = "failed"
    try:
        with memory_advice("learner"):
            found, derivatives, cost = _measured(cfg, base, parts, groups, rewards_PG, metric)
            matrix = None
            if asked.matrix_prompts:
                matrix = measure_matrix(
                    parts.learner,
                    groups[: asked.matrix_prompts],
                    asked.sketch_size,
                    seed=asked.seed,
                    metric=metric,
                    length=derivatives.length,
                )
            filtered = measure_filtered(
                asked, parts.learner, groups, selecting_PG, found.k, base.eval.num_resamples
            )
        cost = replace(cost, sampling=seconds_sampled)
        if rank() == 0:
            differences = {
                "length": derivatives.length,
                "error": derivatives.error,
                "num_tried": derivatives.num_tried,
            }
            shown, text = None, ""
            if matrix is not None:
                shown = _interference(groups, matrix, base.eval.num_resamples)
                times = matrix.seconds, matrix.seconds_beside
                text = section(shown, asked.sketch_size, *times)
            text = page(found, asked, base.rollout, differences, asdict(cost), text)
            _write(run, found, shown, filtered, text + filtered_section(filtered, asked))
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        run.finish(status)


def refuse_silence(rewards_PG: np.ndarray) -> None:
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


def _measured(
    cfg: DiagnoseConfig,
    base: TrainConfig,
    parts: Parts,
    groups: Sequence[Group],
    rewards_PG: np.ndarray,
    metric: Tensor | None,
) -> tuple[Diagnosis, Derivatives, Cost]:
    """Run a pass for the Pass@1 gradient, two forward passes, and a pass for each cosine."""
    asked, learner = cfg.diagnose, parts.learner
    num_samples, num_blocks = rewards_PG.shape[1], min(asked.num_blocks, len(groups))
    ks = _shown_ks(asked, base.eval.ks, num_samples)
    times = [time.perf_counter()]
    pass1_MD = pass_gradient(parts, groups, rewards_PG, 1, num_blocks)
    times.append(time.perf_counter())
    derivatives = derivatives_along(learner, groups, pass1_MD, metric=metric)
    times.append(time.perf_counter())
    towards, cosines = dict[int, np.ndarray](), [_cosine(1, pass1_MD, pass1_MD, metric)]
    for k in ks[1:] if asked.cosines else ():
        passk_MD = pass_gradient(parts, groups, rewards_PG, k, num_blocks)
        cosines.append(_cosine(k, passk_MD, pass1_MD, metric))
        slopes = derivatives_along(
            learner, groups, passk_MD, metric=metric, length=derivatives.length
        )
        towards[k] = weighted(rewards_PG, slopes.values_PG, 1)
    times.append(time.perf_counter())
    measured = measure(rewards_PG, derivatives.values_PG, towards if asked.cosines else None)
    shown_k = base.regime.k if base.regime.k in ks else max(ks)
    found = diagnosis(
        groups,
        Measurements(rewards_PG, derivatives.values_PG, measured),
        ks,
        shown_k,
        base.eval.num_resamples,
        base.verifier.false_negative_rate,
    )
    if asked.cosines:
        found = replace(found, curve=found.curve.merge(pd.DataFrame(cosines), on="k", how="left"))
    return found, derivatives, Cost(0.0, *np.diff(times).tolist())


def pass_gradient(
    parts: Parts, groups: Sequence[Group], rewards_PG: np.ndarray, k: int, num_blocks: int
) -> Tensor:
    """Compute the gradient of Pass@k by non-empty block of prompts, [blocks, parameters]."""
    num_blocks = min(num_blocks, len(groups))
    weights_PG = advantage_weights(mixture_advantages(rewards_PG, k, 0.0), rewards_PG)
    return weighted_gradients(parts.learner, groups, weights_PG[..., None], num_blocks)[0]


def _cosine(k: int, passk_MD: Tensor, pass1_MD: Tensor, metric: Tensor | None) -> dict[str, float]:
    """Compute the cosine of two gradients from products between blocks, also for the norms."""
    root = 1.0 if metric is None else metric.sqrt()
    # `alignment` expects halves of the samples; blocks already share no samples.
    both = [(blocks_MD * root).expand(2, -1, -1) for blocks_MD in (passk_MD, pass1_MD)]
    cosine = alignment(both[0], both[1]).cosine
    return {"k": k, "cosine": cosine.value, "cosine_low": cosine.low, "cosine_high": cosine.high}


def _shown_ks(asked: DiagnosisConfig, evaluated: Sequence[int], n: int) -> tuple[int, ...]:
    """Return `diagnose.ks`, or the values of `eval.ks` up to n; always with 1."""
    wanted = evaluated if asked.ks is None else asked.ks
    return tuple(sorted({1, *(k for k in wanted if k <= n)}))


def _interference(groups: Sequence[Group], matrix: Matrix, num_resamples: int) -> Interference:
    return interference_tables(
        groups[: matrix.halves_2PD.shape[1]],
        matrix.halves_2PD,
        matrix.pairs,
        matrix.exact,
        num_resamples,
    )


def _write(
    run: Run, found: Diagnosis, matrix: Interference | None, filtered: Filtered, text: str
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
    if matrix is not None:
        tables |= {"interference_prompts": matrix.prompts, "interference_exact": matrix.exact}
        tables |= {f"interference_by_{name}": table for name, table in matrix.groups.items()}
        tables |= {"interference_clusters": matrix.clusters, "antagonists": matrix.pairs}
        drawn = heatmap(matrix.cosines_PP, matrix.prompts, list(matrix.groups))
        figures |= {"interference": drawn} if drawn else {}
        with replacing(run.path / "interference.npy") as partial, partial.open("wb") as file:
            np.save(file, matrix.kappa_PP.astype(np.float32), allow_pickle=False)
    if len(filtered.table):
        tables |= {"filtered": filtered.table, "filtered_prompts": filtered.prompts}
        figures |= filtered_figures(filtered)
    for name, table in tables.items():
        run.write_table(name, table)
    for name, figure in figures.items():
        run.write_figure(name, figure)
    links = "".join(f"\n![{name}]({name}.png)\n" for name in figures)
    run.write_text("diagnose.md", text + links)
    print(text)
    print(f"tables and figures are in {run.path}")


def _selecting_rewards(
    step: int, cfg: TrainConfig, asked: DiagnosisConfig, parts: Parts, rewards_PG: FloatArray
) -> FloatArray:
    """Return the rewards by which the corrected way splits easy from hard prompts.

    They are those measured, or with `diagnose.fresh_sets` those of other samples of the same
    prompts: a prompt that is hard by the samples it is measured by may only have been unlucky.
    """
    if not (asked.filtered_sets and asked.fresh_sets):
        return rewards_PG
    groups = diagnostic_groups(
        step, cfg, parts, asked.num_prompts, asked.num_samples, purpose="filter"
    )
    return np.array([group.rewards() for group in groups])
