"""The configuration of `passk toy` and `passk explain`, which compute exactly and need no model."""

from dataclasses import dataclass, field

from passk.config import RegimeConfig, RolloutConfig, SweepConfig


@dataclass(kw_only=True)
class GroupConfig:
    """The part of `RolloutConfig` that `passk explain` needs."""

    num_samples: int = RolloutConfig.num_samples


@dataclass(kw_only=True)
class CurveConfig:
    """Where `passk explain` looks, and what it shows beside `regime.estimator`."""

    # success probabilities of the table
    p: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])
    compare: list[str] = field(default_factory=lambda: ["mixture", "grpo", "maxrl", "chen"])


@dataclass(kw_only=True)
class ExplainConfig:
    """`passk explain`: the weight that an objective really puts on a prompt."""

    regime: RegimeConfig = field(default_factory=RegimeConfig)
    rollout: GroupConfig = field(default_factory=GroupConfig)
    explain: CurveConfig = field(default_factory=CurveConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)


@dataclass(kw_only=True)
class PopulationConfig:
    """The population of `passk toy`, and the gradient ascent on its Pass@k."""

    k: int = 5
    p_hard: float = 0.4  # share of hard prompts
    delta: float = 0.2  # distance of the means of s, hard minus easy, in standard deviations
    theta: list[float] = field(default_factory=lambda: [-2.0, -2.0])  # start: bias, slope over s
    step_size: float = 1.0
    num_steps: int = 500
    seed: int = 0  # of the sample in the heatmap; all else is exact


@dataclass(kw_only=True)
class ToyConfig:
    """`passk toy`; the two-prompt example has the paper's own settings."""

    toy: PopulationConfig = field(default_factory=PopulationConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
