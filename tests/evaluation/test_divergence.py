"""Estimates of KL and entropy from sampled answers: their expectation over all answers, exactly."""

import itertools
import math

import numpy as np
import pytest

from passk.evaluation.distance import SampledAnswer, distance_columns, k3

END = 2  # ends an answer; an answer has at most three tokens
LENGTH = 3


def policy(seed: int) -> dict[tuple[int, ...], np.ndarray]:
    """Draw a next-token distribution over {0, 1, END} for every prefix."""
    rng = np.random.default_rng(seed)
    prefixes = [p for n in range(LENGTH) for p in itertools.product((0, 1), repeat=n)]
    return {prefix: rng.dirichlet(np.ones(3)) for prefix in prefixes}


def answers(of: dict) -> dict[tuple[int, ...], list[float]]:
    """Return every answer with the log-probabilities of its tokens."""
    found = {}

    def grow(prefix: tuple[int, ...], logp: list[float]) -> None:
        if len(prefix) == LENGTH or prefix[-1:] == (END,):
            found[prefix] = logp
            return
        for token in (0, 1, END):
            grow((*prefix, token), [*logp, math.log(of[prefix][token])])

    grow((), [])
    return found


@pytest.fixture(scope="module")
def both():
    pi, start = answers(policy(0)), answers(policy(1))
    assert math.isclose(sum(math.exp(sum(logp)) for logp in pi.values()), 1)
    return pi, start


def measured(pi, start, weights) -> dict:
    """Measure a sample in which each answer stands as often as `weights` say, of one problem."""
    sampled = [
        SampledAnswer(0, count, pi[answer], start[answer]) for answer, count in weights.items()
    ]
    return distance_columns(sampled, 20).iloc[0].to_dict()


def test_expectations_are_the_divergence_and_the_entropy(both):
    pi, start = both
    chances = {answer: math.exp(sum(logp)) for answer, logp in pi.items()}
    found = dict.fromkeys(("kl_per_answer", "entropy_per_answer"), 0.0)
    for answer, chance in chances.items():
        row = measured(pi, start, {answer: 1})
        for name in found:
            found[name] += chance * row[name]
    kl = sum(chance * (sum(pi[a]) - sum(start[a])) for a, chance in chances.items())
    assert found["kl_per_answer"] == pytest.approx(kl, rel=1e-12) and kl > 0.1
    entropy = -sum(chance * math.log(chance) for chance in chances.values())
    assert found["entropy_per_answer"] == pytest.approx(entropy, rel=1e-12)


def test_tokens_have_less_noise_than_whole_answers_near_the_start():
    one, rng = policy(0), np.random.default_rng(2)
    moved = {prefix: chances * np.exp(0.4 * rng.normal(size=3)) for prefix, chances in one.items()}
    near = {prefix: values / values.sum() for prefix, values in moved.items()}
    pi, start = answers(one), answers(near)
    chances = {a: math.exp(sum(pi[a])) for a in pi}
    by_token = {a: measured(pi, start, {a: 1})["kl_per_answer"] for a in pi}
    by_answer = {a: sum(pi[a]) - sum(start[a]) for a in pi}
    mean = sum(chances[a] * by_answer[a] for a in pi)
    assert sum(chances[a] * by_token[a] for a in pi) == pytest.approx(mean, rel=1e-9)
    noise, noise_of_answers = (
        sum(chances[a] * (of[a] - mean) ** 2 for a in pi) for of in (by_token, by_answer)
    )
    assert noise < noise_of_answers / 5


def test_per_token_is_the_ratio_of_sums_and_counts_count(both):
    pi, start = both
    one, other = (0, END), (1, 0, 1)
    rows = [measured(pi, start, {answer: 1}) for answer in (one, other)]
    mixed = measured(pi, start, {one: 3, other: 1})
    assert mixed["num_samples"] == 4 and mixed["num_problems"] == 1
    kl, entropy = (
        (3 * rows[0][name] + rows[1][name]) / 4 for name in ("kl_per_answer", "entropy_per_answer")
    )
    assert mixed["kl_per_answer"] == pytest.approx(kl)
    tokens = (3 * 2 + 3) / 4
    assert mixed["kl_per_token"] == pytest.approx(kl / tokens)
    assert mixed["entropy_per_token"] == pytest.approx(entropy / tokens)
    assert math.isnan(mixed["kl_per_token_low"]), "one problem has no interval"


def test_problems_count_alike_and_give_intervals(both):
    pi, start = both
    rng = np.random.default_rng(5)
    drawn = rng.choice(len(pi), size=(300, 2), p=[math.exp(sum(logp)) for logp in pi.values()])
    names = list(pi)
    sampled = [
        SampledAnswer(problem, 1, pi[names[i]], start[names[i]])
        for problem, pair in enumerate(drawn)
        for i in pair
    ]
    row = distance_columns(sampled, 500).iloc[0]
    kl = sum(math.exp(sum(pi[a])) * (sum(pi[a]) - sum(start[a])) for a in pi)
    assert row["kl_per_answer_low"] < kl < row["kl_per_answer_high"]
    assert row["kl_per_token_low"] < row["kl_per_token"] < row["kl_per_token_high"]


def test_equal_policies_are_at_no_distance(both):
    pi, _ = both
    row = measured(pi, pi, dict.fromkeys(pi, 1))
    assert row["kl_per_answer"] == row["kl_per_token"] == 0
    assert (k3(np.linspace(-3, 3, 7)) >= 0).all()
