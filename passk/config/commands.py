"""Configuration of the commands that measure, compare, report, or compute exactly.

Training's own configuration is in `passk.config.schema`.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from passk.config.fields import LARGEST_SEED, bounded, one_of, share
from passk.config.schema import RegimeConfig, RolloutConfig, RunConfig, SweepConfig, TrainConfig
from passk.errors import UserError


@dataclass(kw_only=True)
class EvaluateConfig(RunConfig):
    """`passk eval`: table of Pass@k of a run's checkpoint, or of `model.path`."""

    run: str | None = None
    checkpoint: str = "last"  # of the run: last, best (by its own evaluations), or a step
    # MODEL:W,W,...: not that model, but (1 - W) of its weights and W of those of MODEL (a run, a
    # checkpoint or a model folder), for each W from 0 to 1
    interpolate: str | None = None
    resume: bool = False


class Interpolated(NamedTuple):
    """Value of `interpolate`: the other model, and its weights, ascending."""

    other: str
    weights: tuple[float, ...]


def read_interpolate(text: str) -> Interpolated:
    """Read MODEL:W,W,... of `interpolate`; raise UserError unless it has this form."""
    other, _, listed = text.rpartition(":")
    try:
        weights = sorted({float(weight) for weight in listed.split(",")})
    except ValueError:
        weights = []
    if not other or not weights or not all(0 <= weight <= 1 for weight in weights):
        raise UserError(
            f"interpolate={text} must be MODEL:W,W,... with a run, checkpoint or model folder, "
            "and weights from 0 to 1 that it gets"
        )
    return Interpolated(other, tuple(weights))


@dataclass(kw_only=True)
class DiagnosisConfig:
    """Measurements of `passk diagnose`, on training problems with newly drawn samples."""

    num_prompts: int | None = bounded(512, at_least=3)  # null, or where there are fewer: all
    num_samples: int = bounded(32, at_least=4)  # of each; products are measured for k up to it
    ks: list[int] | None = None  # shown by prompt, and with cosines; null: those of eval.ks
    # a learner pass and two forward passes for each of ks: its cosine, and honest intervals
    cosines: bool = True
    # that gradients are taken of, or those of last_layer, of final_norm
    parameters: str = one_of("all", ("all", "last_layer", "final_norm"))
    # products as Adam scales them, by the moments of the checkpoint; null: beside the plain ones
    preconditioned: bool | None = None
    # of prompts; a prompt meets the gradient over the other blocks
    num_blocks: int = bounded(8, at_least=3)
    matrix_prompts: int = bounded(256, at_least=0)  # of the interference matrix; 0: no matrix
    # numbers kept of each gradient: errors of products go by its root
    sketch_size: int = bounded(4096, at_least=64)
    seed: int = bounded(0, at_least=0, at_most=LARGEST_SEED)  # of problems and their samples
    # sets of easy and hard prompts as in the paper's section 5, [EASY_ABOVE,HARD_BELOW] each
    filtered_sets: list[Any] = field(default_factory=list)
    keep_unsolved: bool = False  # among the hard prompts those of which no sample is right
    fresh_sets: bool = False  # split easy from hard by other samples than are measured
    # held-out Pass@1 to second order along Adam's steps, by sampling at theta and beside it
    curvature: bool = False
    reach: int = bounded(5, at_least=1)  # steps of learner.lr to either side, for the curvature


@dataclass(kw_only=True)
class DiagnoseConfig(RunConfig):
    """`passk diagnose`: prompts that interfere at a run's checkpoint, or at `model.path`."""

    run: str | None = None
    checkpoint: str = "last"  # of the run: last, best (by its own evaluations), or a step
    diagnose: DiagnosisConfig = field(default_factory=DiagnosisConfig)


@dataclass(kw_only=True)
class FilteringConfig:
    """Choice of the prompts that `passk filter` removes or down-weights."""

    fdr: float = share(0.1)  # false-discovery rate: harmless ones among them, at most
    weight: float = share(0.0)  # that they keep in training; 0 drops them
    num_checkpoints: int | None = bounded(None, at_least=1)  # newest ones of the run; null: all
    # file of trusted problems: agreement is with their gradient of Pass@1, not with that of the
    # training problems
    trusted: str | None = None


@dataclass(kw_only=True)
class FilterConfig(DiagnoseConfig):
    """`passk filter`: training problems without those that interfere over checkpoints of a run.

    Of `diagnose` it uses num_prompts, num_samples, num_blocks, parameters, preconditioned and
    seed.
    """

    checkpoint: str = "all"  # of the run: all, last, best (by its own evaluations), or a step
    filter: FilteringConfig = field(default_factory=FilteringConfig)
    resume: bool = False


@dataclass(kw_only=True)
class ReproduceConfig(TrainConfig):
    """`passk reproduce`: SFT, then RL regimes from that checkpoint, once per seed."""

    seeds: int = bounded(1, at_least=1, at_most=1000)
    regimes: list[str] = field(default_factory=lambda: ["pass1", "passk", "hybrid"])
    sft_steps: int | None = bounded(None, at_least=1)  # null: the default of regime=sft
    # runs at a time; null: as many as have cores or GPUs of their own
    num_parallel: int | None = bounded(None, at_least=1, at_most=1024)
    alignment_prompts: int = bounded(2048, at_least=1)
    alignment_samples: int = bounded(32, at_least=2)
    # weights of regime passk, the rest SFT's: interpolated policies that are evaluated, too
    interpolate: list[float] = field(default_factory=list)


@dataclass(kw_only=True)
class ReportConfig:
    """`passk report DIR...`: tables and figures of runs."""

    dirs: list[str] = field(default_factory=list)
    out: str | None = None  # null: a single sweep or reproduction, else a new directory
    baseline: str | None = None  # a run's label or regime; null: where each run started


@dataclass(kw_only=True)
class CompareConfig:
    """`passk compare A B`: Pass@k of two policies on the same problems, at all k at once."""

    # two runs, directories of passk eval, or files with the columns id, c and n
    paths: list[str] = field(default_factory=list)
    step_a: int | None = bounded(None, at_least=0)  # evaluation of a run; null: the last
    step_b: int | None = bounded(None, at_least=0)
    # largest k; problems with fewer judged samples are left out; null: the fewest of a problem
    k_max: int | None = bounded(None, at_least=1)


@dataclass(kw_only=True)
class PublishingConfig:
    """Facts about the model of `passk export` that its run does not record."""

    dtype: str | None = one_of(None, ("float32", "bfloat16", "float16"))  # null: as trained
    license: str | None = None  # as the hub spells it: apache-2.0, mit, other, ...
    base_model: str | None = None  # hub id of the starting model; null: model.path, if that is one


@dataclass(kw_only=True)
class ExportConfig:
    """`passk export`: model folder of a run's checkpoint, with a model card."""

    run: str | None = None
    checkpoint: str = "last"  # of the run: last, best (by its own evaluations), or a step
    out: str = ""  # the folder that is written; conf/export.yaml names one by time
    export: PublishingConfig = field(default_factory=PublishingConfig)


@dataclass(kw_only=True)
class GroupConfig:
    """Part of `RolloutConfig` that `passk explain` needs."""

    num_samples: int = bounded(RolloutConfig.num_samples, at_least=2)


@dataclass(kw_only=True)
class CurveConfig:
    """Success probabilities and further estimators that `passk explain` shows."""

    # success probabilities of the table
    p: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    compare: list[str] = field(default_factory=lambda: ["mixture", "grpo", "maxrl", "chen"])


@dataclass(kw_only=True)
class ExplainConfig:
    """`passk explain`: weight that an objective puts on a prompt, by its success probability."""

    regime: RegimeConfig = field(default_factory=RegimeConfig)
    rollout: GroupConfig = field(default_factory=GroupConfig)
    explain: CurveConfig = field(default_factory=CurveConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass(kw_only=True)
class PopulationConfig:
    """Population of `passk toy`, and gradient ascent on its Pass@k."""

    k: int = bounded(5, at_least=2)
    p_hard: float = 0.4  # share of hard prompts
    delta: float = 0.2  # distance of the means of s, hard minus easy, in standard deviations
    theta: list[float] = field(default_factory=lambda: [-2.0, -2.0])  # start: bias, slope over s
    step_size: float = bounded(1.0, positive=True)
    num_steps: int = bounded(500, at_least=1)
    # of the sample in the heatmap; all else is exact
    seed: int = bounded(0, at_least=0, at_most=LARGEST_SEED)


@dataclass(kw_only=True)
class ToyConfig:
    """`passk toy`: two toy examples; the one with two prompts has the paper's own settings."""

    toy: PopulationConfig = field(default_factory=PopulationConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
