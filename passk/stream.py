"""The order in which training problems come."""

import random
from collections.abc import Sequence

from passk.types import Problem


class ProblemStream:
    """Endless passes over problems, each in a new seeded order; `position` is all its state."""

    def __init__(self, problems: Sequence[Problem], seed: int, position: int = 0) -> None:
        self.problems = problems
        self.seed = seed
        self.position = position
        self._epoch, self._order = -1, list[int]()

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems; a pass ends before any problem comes again."""
        taken = []
        for position in range(self.position, self.position + count):
            epoch, index = divmod(position, len(self.problems))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, list(range(len(self.problems)))
                random.Random(f"order/{self.seed}/{epoch}").shuffle(self._order)
            taken.append(self.problems[self._order[index]])
        self.position += count
        return taken
