"""What is refused once the data are read, before step 0."""

import pytest

from passk.config.schema import TrainConfig
from passk.data.problems import Data
from passk.errors import UserError
from passk.training.build import require_weights
from passk.types import Problem


def problems(*weights: float) -> tuple[Problem, ...]:
    return tuple(
        Problem(f"p{i}", "1+1=", "2", solution="2", weight=weight)
        for i, weight in enumerate(weights)
    )


@pytest.mark.parametrize("regime", ["sft", "pass1", "passk", "hybrid", "adaptive_k"])
def test_problems_of_which_none_trains_are_refused(regime):
    cfg = TrainConfig()
    cfg.regime.name = regime
    for weights in ((1.0, 1.0), (0.0, 1e-300), (0.0, 0.0, 2.0)):
        require_weights(cfg, Data(problems(*weights), (), problems(*weights)))
    with pytest.raises(UserError, match="all 2 training problems have weight 0, so nothing"):
        require_weights(cfg, Data(problems(0.0, -0.0), (), problems(0.0, 0.0)))
