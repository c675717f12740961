"""Distances from a start, by enumeration of every answer of a small policy."""

from itertools import product

import numpy as np
import pytest

from passk.config.schema import EvalConfig
from passk.evaluation.distance import distance_table, k3
from passk.statistics import bootstrap_interval

VOCABULARY, LONGEST, END = 3, 4, 0


def random_policy(seed: int, base=None, size: float = 1.0):
    """A table of log-probabilities of the next token after each prefix; near `base` if given."""
    rng = np.random.default_rng(seed)
    policy = {}
    for length in range(LONGEST):
        for prefix in product(range(1, VOCABULARY), repeat=length):
            logits = size * rng.normal(size=VOCABULARY)
            logits = logits if base is None else logits + base[prefix]
            policy[prefix] = logits - np.log(np.exp(logits).sum())
    return policy


def answers():
    """Every answer: ended by END, or cut at the length limit."""
    for length in range(LONGEST):
        for prefix in product(range(1, VOCABULARY), repeat=length):
            yield (*prefix, END)
    yield from product(range(1, VOCABULARY), repeat=LONGEST)


def logprobs_of(policy, answer) -> np.ndarray:
    return np.array([policy[answer[:t]][answer[t]] for t in range(len(answer))])


def moments(values, chances) -> tuple[float, float]:
    mean = float(values @ chances)
    return mean, float((values - mean) ** 2 @ chances)


@pytest.mark.parametrize("size", [0.1, 0.5, 2.0])
def test_k3_has_the_mean_of_the_divergence_and_near_the_start_less_variance(size):
    start = random_policy(0)
    policy = random_policy(1, start, size)
    found = [(logprobs_of(policy, a), logprobs_of(start, a)) for a in answers()]
    chances = np.exp([logp.sum() for logp, _ in found])
    assert chances.sum() == pytest.approx(1, abs=1e-12)
    plain = np.array([(logp - other).sum() for logp, other in found])
    by_k3 = np.array([k3(logp, other).sum() for logp, other in found])
    (divergence, variance), (mean, smaller) = moments(plain, chances), moments(by_k3, chances)
    assert mean == pytest.approx(divergence, rel=1e-10) and divergence > 0
    assert (by_k3 >= 0).all() and (smaller < variance) == (size < 1)


def test_no_bias_whatever_is_merged_and_per_token_is_a_ratio_of_sums():
    """Two problems, each with every answer, as often as its chance says."""
    policies = [(random_policy(s, random_policy(s + 9), 0.5), random_policy(s + 9)) for s in (1, 2)]
    places, counts, logprobs, others = [], [], [], []
    expected = np.zeros(3)  # KL, entropy and tokens of an answer
    for place, (policy, start) in enumerate(policies):
        for answer in answers():
            logp, other = logprobs_of(policy, answer), logprobs_of(start, answer)
            chance = np.exp(logp.sum())
            expected += chance / 2 * np.array([(logp - other).sum(), -logp.sum(), len(answer)])
            for part in (0.25, 0.75):  # a completion may stand in several rows
                places.append(place)
                counts.append(part * chance)
                logprobs.append(logp)
                others.append(other)
    row = distance_table(places, counts, logprobs, others, EvalConfig(num_resamples=50)).iloc[0]
    kl, entropy, tokens = expected
    assert row["kl_per_answer"] == pytest.approx(kl, rel=1e-10)
    assert row["entropy_per_answer"] == pytest.approx(entropy, rel=1e-10)
    assert row["kl_per_token"] == pytest.approx(kl / tokens, rel=1e-10)
    assert row["entropy_per_token"] == pytest.approx(entropy / tokens, rel=1e-10)


def test_intervals_are_over_problems():
    rng = np.random.default_rng(0)
    logprobs = [-rng.exponential(size=1 + i % 5) for i in range(40)]
    others = [logp + 0.3 * rng.normal(size=len(logp)) for logp in logprobs]
    cfg = EvalConfig(num_resamples=500, seed=3, temperature=0.7)
    places = [i // 2 for i in range(40)]
    row = distance_table(places, [1, 3] * 20, logprobs, others, cfg).iloc[0]
    sums = [k3(*pair).sum() for pair in zip(logprobs, others, strict=True)]
    means = [(sums[i] + 3 * sums[i + 1]) / 4 for i in range(0, 40, 2)]
    expected = bootstrap_interval(means, num_resamples=500, seed=3)
    assert row["kl_per_answer"] == pytest.approx(expected.value, rel=1e-12)
    assert row["kl_per_answer_low"] == pytest.approx(expected.low, rel=1e-12)
    assert row["kl_per_answer_high"] == pytest.approx(expected.high, rel=1e-12)
    assert row["kl_per_token_low"] < row["kl_per_token"] < row["kl_per_token_high"]
    assert (row["num_problems"], row["num_samples"], row["temperature"]) == (20, 80, 0.7)
    alone = distance_table([0, 0], [1, 1], logprobs[:2], others[:2], cfg).iloc[0]
    assert np.isnan(alone["kl_per_answer_low"]) and alone["kl_per_answer"] > 0
