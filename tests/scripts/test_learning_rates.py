"""Runs of other learning rates are compared where their paths are at the same place."""

import learning_rates
import numpy as np
import pandas as pd
import pytest

PATH = pd.DataFrame(
    {
        "step": [0, 10, 20, 30],
        "kl": [0.0, 0.1, 0.3, 0.4],
        "pass1": [0.0, -2.0, -3.0, -2.0],
        "passk": [0.0, 1.0, 3.0, 2.0],
    }
)


def test_a_level_is_reached_on_the_straight_line_between_two_evaluations():
    point = learning_rates.where_first(PATH, "passk", 2.0)
    assert point.to_dict() == pytest.approx({"step": 15, "kl": 0.2, "pass1": -2.5, "passk": 2.0})
    at_start = learning_rates.where_first(PATH, "passk", 0.0)
    assert at_start["step"] == 0
    assert learning_rates.where_first(PATH, "passk", 3.1) is None


def test_means_are_over_the_seeds_that_get_there():
    slow = PATH.assign(passk=PATH["passk"] / 2, kl=PATH["kl"] / 2)
    paths = pd.concat(
        [
            path.assign(seed=seed, regime="passk", lr="1e-5")
            for seed, path in enumerate([PATH, PATH, slow])
        ]
    )
    rows = pd.DataFrame(learning_rates.compared(paths, [2.0], [0.2])).set_index("at")
    assert rows.loc["end", "reached"] == 3
    assert rows.loc["end", "passk"] == pytest.approx(np.mean([2.0, 2.0, 1.0]))
    assert rows.loc["Pass@8 +2", "reached"] == 2
    assert rows.loc["Pass@8 +2", "step"] == 15
    assert rows.loc["KL 0.2", "reached"] == 3
    steps = [15, 15, 30]
    assert rows.loc["KL 0.2", "step"] == pytest.approx(np.mean(steps))
    half = 4.302653 * np.std(steps, ddof=1) / 3**0.5  # Student's t, 2 degrees of freedom
    assert rows.loc["KL 0.2", "step_high"] == pytest.approx(20 + half, rel=1e-5)
