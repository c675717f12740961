"""Copy the weights from the learner to the sampler, and prove that they have arrived.

A sampler that keeps old weights ruins a run without any error, which has happened to every large
trainer. So after each copy some tensors are chosen at random, different ones each time, and the
sampler must show that it holds the learner's values.
"""

import random
from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from passk.console import working
from passk.errors import Diverged, PolicyMismatch
from passk.memory import memory_advice
from passk.rollout.base import Sampler


class WeightSource(Protocol):
    """Weights at a step: those of a `Learner`, or interpolated between two models."""

    @property
    def step(self) -> int:
        """Number of the policy version."""
        ...

    def weight_names(self) -> list[str]:
        """Return the names that `weights` yields."""
        ...

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the parameters by name, each once."""
        ...


def hand_over(learner: WeightSource, sampler: Sampler, num_checks: int) -> None:
    """Give the sampler the learner's weights as policy version `learner.step`.

    Compares `num_checks` tensors, drawn anew at each step; tensors that the sampler cannot see are
    skipped. Raises PolicyMismatch for the first one that differs or was not taken, and Diverged for
    one that is not finite.
    """
    names = learner.weight_names()
    drawn = random.Random(f"sync/{learner.step}").sample(names, min(num_checks, len(names)))
    taken: dict[str, Tensor] = {}

    def stream() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in learner.weights():
            if name in drawn:
                taken[name] = tensor
            yield name, tensor

    # An engine that slept allocates its memory again.
    with memory_advice("rollout"), working("handing over the weights"):
        sampler.load_weights(stream(), version=learner.step)
    for name in drawn:
        if name in taken and not taken[name].isfinite().all():
            raise Diverged(
                f"step {learner.step}: the learner's {name} is not finite, so the run has "
                "diverged, or began with broken weights"
            )
        if name not in taken or sampler.holds(name, taken[name]) is False:
            raise PolicyMismatch(
                f"step {learner.step}: the sampler does not hold the learner's {name} after the "
                "weights were handed over, so it would sample from an old policy; the run stops "
                "before it learns from such samples"
            )
