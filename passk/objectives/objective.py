"""Objective of a training step, and the weight that it gives each sample of a batch."""

from dataclasses import dataclass

from passk.config.schema import RegimeConfig, target_k, trained_k
from passk.objectives.advantages import enough_success, estimate_advantages, prompt_weights
from passk.objectives.pass_at_k import FloatArray


@dataclass(frozen=True, slots=True)
class Objective:
    """pass1_weight Pass@1 + (1 - pass1_weight) Pass@k, by an estimator of `advantages.ESTIMATORS`.

    With `min_success`, a sample counts only if at least that share of the *other* samples of its
    prompt is right. The factor does not depend on the sample itself, so the estimate stays
    unbiased, for the objective whose weight is multiplied by the chance of that event at p.
    """

    estimator: str = "mixture"
    k: int = 1
    pass1_weight: float = 1.0
    min_success: float = 0.0

    def advantages(self, rewards_PG: FloatArray) -> FloatArray:
        """Compute the advantage of each sample, [P, n]; see `passk.objectives.advantages`."""
        advantages_PG = estimate_advantages(rewards_PG, self.estimator, self.k, self.pass1_weight)
        masked_PG: FloatArray = advantages_PG * enough_success(rewards_PG, self.min_success)
        return masked_PG

    def prompt_weights(self, rewards_PG: FloatArray) -> FloatArray:
        """Estimate, without bias, the mixture's factor of each prompt's Pass@1 gradient, [P]."""
        return prompt_weights(rewards_PG, self.k, self.pass1_weight, self.min_success)


PASS1 = Objective()


def as_configured(regime: RegimeConfig) -> Objective:
    """Return the configured objective, over all prompts (without `min_success`)."""
    return Objective(regime.estimator, trained_k(regime), regime.pass1_weight)


def objective_in_words(regime: RegimeConfig) -> str:
    """Write the objective as `0.7 Pass@1 + 0.3 Pass@8`, or as one of the two alone."""
    weight = regime.pass1_weight
    if weight in (0, 1):
        return f"Pass@{target_k(regime)}"
    return f"{weight:g} Pass@1 + {round(1 - weight, 6):g} Pass@{regime.k}"
