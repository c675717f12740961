"""Expand Pass@1 to second order along the steps that Adam takes.

A product of gradients says how Pass@1 begins to change along a step, not how it goes on. Let u_b be
Adam's step on the gradient of a batch b (with the learning rate), u its mean over batches, and H
the Hessian of Pass@1. After s steps from theta, Pass@1 has changed by about

    s (f + tr(H Cov u_b) / 2) + s^2 u'Hu / 2,    f = <u, grad Pass@1>,

as the noise of different batches is independent: it adds up by s, what they have in common by s^2.
f and the two curvatures are differences of success rates at theta and theta +- reach u_b, sampled
with common random numbers. Needs neither models nor samplers.
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from passk.learner.learner import Learner
from passk.objectives.pass_at_k import FloatArray
from passk.ranks import gather
from passk.statistics import Interval, seed_interval

SHOWN_STEPS = (1, 2, 3, 5, 10)


@dataclass(frozen=True, slots=True)
class SecondOrder:
    """Slope and curvatures of the success of H held-out problems, in rates per step and per step^2.

    `noise_H` is the curvature that the noise of single batches adds, `common_H` that along the mean
    of their steps. Intervals are Student's t over problems, for the batches that were drawn.
    """

    slope_H: FloatArray
    common_H: FloatArray
    noise_H: FloatArray

    def change(self, num_steps: float) -> Interval:
        """Predict the change of Pass@1 after so many steps."""
        drift_H = self.slope_H + self.noise_H / 2
        return seed_interval(num_steps * drift_H + num_steps**2 / 2 * self.common_H)

    def turning_point(self) -> float:
        """Return the number of steps after which Pass@1 is predicted to be where it began.

        There the second order outweighs the first. Infinite if both have one sign.
        """
        drift = float((self.slope_H + self.noise_H / 2).mean())
        common = float(self.common_H.mean())
        return -2 * drift / common if drift * common < 0 else math.inf

    def table(self) -> pd.DataFrame:
        """Compute the predicted change of Pass@1 after some numbers of steps, a row each.

        `first_order` is that of the slope alone, `with_noise` adds the noise of batches, and
        `change`, with its interval, is that of all terms.
        """
        slope, noise = float(self.slope_H.mean()), float(self.noise_H.mean())
        rows = [
            {
                "steps": s,
                "first_order": s * slope,
                "with_noise": s * (slope + noise / 2),
                **self.change(s).columns("change"),
            }
            for s in SHOWN_STEPS
        ]
        return pd.DataFrame(rows)


def second_order(
    start_H: FloatArray, batch_ends_B2H: FloatArray, mean_ends_2H: FloatArray, reach: float
) -> SecondOrder:
    """Compute slope and curvatures from the success of each problem at the ends of each step.

    `start_H` is success at theta, `batch_ends_B2H` at theta + reach u_b and theta - reach u_b, and
    `mean_ends_2H` at both ends of the mean of the B >= 2 steps. The curvature along that mean still
    holds 1/B of the noise's, which is taken off.
    """

    def curvature(ends_2H: FloatArray) -> FloatArray:
        bent: FloatArray = (ends_2H[0] + ends_2H[1] - 2 * start_H) / reach**2
        return bent

    num_batches = len(batch_ends_B2H)
    averaged_2H = batch_ends_B2H.mean(axis=0)
    along_mean_H = curvature(mean_ends_2H)
    noise_H = (curvature(averaged_2H) - along_mean_H) * num_batches / (num_batches - 1)
    return SecondOrder(
        (averaged_2H[0] - averaged_2H[1]) / (2 * reach),
        along_mean_H - noise_H / num_batches,
        noise_H,
    )


def adam_step(learner: Learner, ascent: Tensor, *, goes_on: bool) -> Tensor:
    """Compute the change of the weights by Adam's next step on an ascent gradient, at its full lr.

    With `goes_on`, from the moments that the learner holds, else as its first step. Clipped as in
    training, without weight decay. Takes and returns this rank's part, as `Learner.gradient`.
    """
    cfg, (beta1, beta2) = learner.cfg, learner.cfg.betas
    # Gradients of R replicas are divided by sqrt(R).
    loss_D = -ascent * math.sqrt(cfg.replicas)
    if cfg.max_grad_norm is not None:
        norm = math.sqrt(sum(gather(float(ascent.double().square().sum()))))
        loss_D = loss_D * min(1.0, cfg.max_grad_norm / (norm + 1e-6))
    sizes = [part.numel() for part in learner.trained_parts().values()]
    moments = learner.moments() if goes_on else [{} for _ in sizes]
    steps = []
    for loss, held in zip(loss_D.split(sizes), moments, strict=True):
        first, second = (
            held[name].flatten().float().cpu() if held else torch.zeros_like(loss)
            for name in ("exp_avg", "exp_avg_sq")
        )
        time = 1 + (float(held["step"]) if held else 0.0)
        first = (beta1 * first + (1 - beta1) * loss) / (1 - beta1**time)
        second = (beta2 * second + (1 - beta2) * loss.square()) / (1 - beta2**time)
        steps.append(-cfg.lr * first / (second.sqrt() + cfg.eps))
    return torch.cat(steps)
