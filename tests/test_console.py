"""The line that a run shows where there is no terminal."""

import pytest

from passk import console
from passk.console import Display


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_an_evaluation_shows_problems_pass_at_1_speed_and_time_left(clock, capsys):
    shown = Display("eval", 500, None)
    shown.step(0, {"pass1": None})
    clock[0] = 20.0
    shown.step(40, {"pass1": 0.3104, "tokens_per_second": 12_345.0})
    clock[0] = 240.0
    shown.step(480, {"pass1": 0.25, "tokens_per_second": 87.4})
    clock[0] = 241.0
    shown.step(490, {"pass1": 0.25})  # too soon after the last
    shown.step(500, {"pass1": 0.25})
    assert capsys.readouterr().out.splitlines() == [
        "eval 0/500",
        "eval 40/500  Pass@1 0.310  12k tok/s  4 min left",
        "eval 480/500  Pass@1 0.250  87 tok/s  10 s left",
        "eval 500/500  Pass@1 0.250",
    ]


def test_training_shows_reward_and_both_estimates(capsys):
    metrics = {"reward_mean": 0.5, "pass1": 0.5, "passk": 0.75, "k": 4, "loss": 0.1}
    Display("hybrid", 3, None).step(1, metrics | {"tokens_per_second": 2500.0})
    Display("sft", 3, None).step(1, {"reward_mean": None, "pass1": None, "passk": None, "loss": 2})
    assert capsys.readouterr().out.splitlines() == [
        "hybrid 1/3  reward 0.500  Pass@1/4 0.500/0.750  2k tok/s",
        "sft 1/3  loss 2.0000",
    ]
