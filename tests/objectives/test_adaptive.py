"""The rules that choose the objective, against histories made by hand and exact gradients."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from passk.config.schema import RegimeConfig, mix
from passk.objectives.adaptive import History, choose, evidence, pooled, remember
from passk.objectives.advantages import Objective
from passk.objectives.theory import passk_gradient
from passk.statistics import seed_interval, slope_interval
from passk.toy.bandit import policy_at, population

WINDOW, K = 6, 4


def regime(name: str, **settings) -> RegimeConfig:
    weight = settings.pop("pass1_weight", 0.0)
    return RegimeConfig(name=name, k=K, pass1_weight=weight, window=WINDOW, **settings)


def measured(*means: float, noise: float = 0.0, count: int = WINDOW) -> tuple:
    """Measurements of f(1), f(2), ...: alternately above and below the means."""
    return tuple(tuple(mean + noise * (-1) ** turn for mean in means) for turn in range(count))


def after(products=(), pass1=(), **in_force) -> History:
    if not in_force:
        return History(products, tuple(pass1))
    terms = mix(in_force.pop("k"), in_force.pop("pass1_weight"))
    return History(products, tuple(pass1), Objective("mixture", terms, **in_force))


def test_pooling_is_the_mean_over_measurements_with_students_t():
    products = measured(1.0, -2.0, noise=0.5)
    found = pooled(regime("adaptive_k"), History(products))
    assert found == [seed_interval([row[i] for row in products]) for i in range(2)]
    assert pooled(regime("adaptive_k"), History()) == []


PEACE, CLEAR, FAINT = (3, 2, 1, 0.5), (3, 1, -1, -2), (3, 0.2, -0.2, -0.4)


@pytest.mark.parametrize(
    ("means", "noise", "bold", "cautious"),
    [
        (PEACE, 0.1, 4, 4),
        (CLEAR, 0.1, 2, 2),
        ((3, -1, -2, -3), 0.1, 1, 1),
        (FAINT, 1.0, 4, 1),  # neither a conflict nor none can be told from chance
        ((3, 1, -1, 0.5), 0.1, 2, 2),  # the first conflict counts, whatever comes after it
        ((-1, 1, 1, 1), 0.1, 4, 4),  # |grad J_1|^2 is below 0 by chance alone
    ],
)
def test_k_is_lowered_to_below_the_first_conflict(means, noise, bold, cautious):
    history = after(measured(*means, noise=noise), k=3, pass1_weight=0.0)
    for doubt, k in ((True, cautious), (False, bold)):
        chosen = choose(regime("adaptive_k", cautious=doubt), history)
        assert chosen == Objective("mixture", mix(k, 0.0))


def test_without_measurements_caution_begins_at_1_and_boldness_at_k():
    for history in (History(), History(measured(*PEACE, count=1))):
        assert choose(regime("adaptive_k"), history).k == 1
        assert choose(regime("adaptive_k", cautious=False), history).k == K


def test_k_goes_up_again_when_the_conflict_is_gone():
    rule, history, chosen = regime("adaptive_k"), History(), []
    for products in (*measured(*CLEAR, noise=0.1), *measured(*PEACE, noise=0.1)):
        objective = choose(rule, history)
        chosen.append(objective.k)
        history = remember(rule, history, objective, 0.5, products)
    assert chosen[0] == 1 and chosen[WINDOW] == 2
    assert choose(rule, history).k == K


def test_k_is_halved_when_pass1_falls_and_the_window_begins_anew():
    rule, history, chosen = regime("adaptive_k", trigger="slope"), History(), []
    falling = [0.6 - 0.01 * turn + 0.001 * (turn % 2) for turn in range(4 * WINDOW)]
    for pass1 in falling:
        objective = choose(rule, history)
        chosen.append(objective.k)
        history = remember(rule, history, objective, pass1, None)
    assert chosen == [4] * WINDOW + [2] * WINDOW + [1] * 2 * WINDOW
    steady = after(pass1=[0.5, 0.6, 0.5, 0.6, 0.5, 0.6], k=4, pass1_weight=0.0)
    assert choose(rule, steady).k == 4


def test_the_weight_takes_the_conflict_out():
    rule = regime("projected", pass1_weight=0.7)
    history = after(measured(2.0, 1.0, -1.0, -3.0, noise=0.1), k=K, pass1_weight=0.1)
    lower = seed_interval([-3.0 + 0.1 * (-1) ** turn for turn in range(WINDOW)]).low
    assert choose(rule, history).pass1_weight == pytest.approx(-lower / (2 - lower))
    bold = regime("projected", pass1_weight=0.7, cautious=False)
    assert choose(bold, history).pass1_weight == pytest.approx(1.5 / 2.5)
    at_peace = after(measured(2.0, 1.0, 0.5, 0.3, noise=0.1), k=K, pass1_weight=0.1)
    assert choose(rule, at_peace).pass1_weight == 0.0


@pytest.mark.parametrize("means", [(0.05, -1, -1, -1), (-2, -1, -1, -1)])
def test_where_the_norm_is_not_told_from_0_the_last_weight_stays(means):
    rule = regime("projected", pass1_weight=0.7)
    faint = measured(*means, noise=0.5)
    assert choose(rule, after(faint, k=K, pass1_weight=0.25)).pass1_weight == 0.25
    assert choose(rule, History(faint)).pass1_weight == 0.7
    assert choose(rule, History()).pass1_weight == 0.7


@pytest.mark.parametrize("k", [2, 5, 20])
@pytest.mark.parametrize("theta", [(-2.0, -2.0), (-1.0, 0.5), (0.3, 2.0)])
def test_with_exact_gradients_the_projected_step_is_orthogonal_where_they_conflict(k, theta):
    policy = policy_at(theta, population(0.4, 0.2))
    pass1, passk = passk_gradient(policy, 1), passk_gradient(policy, k)
    f = tuple(float(passk_gradient(policy, j) @ pass1) for j in range(1, k + 1))
    rule = RegimeConfig(name="projected", k=k, pass1_weight=0.7, window=3)
    weight = choose(rule, History((f, f, f))).pass1_weight
    direction = weight * pass1 + (1 - weight) * passk
    if f[-1] < 0:
        assert direction @ pass1 == pytest.approx(0, abs=1e-15)
        removed = passk - (passk @ pass1) / (pass1 @ pass1) * pass1  # PCGrad
        np.testing.assert_allclose(direction / (1 - weight), removed, atol=1e-15)
    else:
        assert weight == 0


def test_both_cases_of_the_exact_gradients_are_met():
    policies = [policy_at(t, population(0.4, 0.2)) for t in ((-2.0, -2.0), (0.3, 2.0))]
    signs = [passk_gradient(p, 5) @ passk_gradient(p, 1) < 0 for p in policies]
    assert signs == [True, False]


def test_low_success_enters_when_pass1_has_levelled_off_and_stays():
    rule, history, entered = regime("curriculum", min_success=0.3), History(), []
    rising = [0.4 + 0.02 * turn + 0.001 * (turn % 2) for turn in range(2 * WINDOW)]
    for pass1 in [*rising, *[0.64] * WINDOW, *rising]:
        objective = choose(rule, history)
        entered.append(objective.min_success == 0)
        assert objective == Objective("mixture", mix(K, 0.0), 0.0 if entered[-1] else 0.3)
        history = remember(rule, history, objective, pass1, None)
    first = entered.index(True)
    assert 2 * WINDOW < first < 4 * WINDOW and all(entered[first:])


def test_before_a_whole_window_nothing_has_levelled_off():
    flat = after(pass1=[0.5] * (WINDOW - 1), k=K, pass1_weight=0.0, min_success=0.3)
    assert choose(regime("curriculum", min_success=0.3), flat).min_success == 0.3


@pytest.mark.parametrize("name", ["pass1", "passk", "hybrid"])
def test_other_regimes_stay_as_configured_and_remember_nothing(name):
    rule = regime(name, pass1_weight=0.4)
    history = remember(rule, History(), Objective("mixture", mix(K, 0.4)), 0.5, None)
    assert history == History() and evidence(rule, history, choose(rule, history)) == {}
    assert choose(rule, history) == Objective("mixture", mix(K, 0.4))


def test_a_window_is_kept_and_a_step_without_a_measurement_adds_none():
    rule, history = regime("projected"), History()
    for turn in range(2 * WINDOW):
        found = (float(turn), 0.0, 0.0, 0.0) if turn % 2 == 0 else None
        history = remember(rule, history, Objective("mixture", mix(K, 0.1)), None, found)
    assert [row[0] for row in history.products] == [0, 2, 4, 6, 8, 10]
    assert history.pass1 == ()


def test_a_history_survives_json_bit_by_bit():
    history = after(measured(0.1, 1 / 3, -2e-17, 5.0), [0.1, 2 / 3], k=2, pass1_weight=0.3)
    assert History.read(json.loads(json.dumps(asdict(history)))) == history
    assert History.read(json.loads(json.dumps(asdict(History())))) == History()


def test_the_evidence_is_what_the_choice_rests_on():
    rule = regime("adaptive_k")
    history = after(measured(3, 1, -1, -2, noise=0.1), k=3, pass1_weight=0.0)
    found = evidence(rule, history, choose(rule, history))
    products = pooled(rule, history)
    for name, k in (("1", 1), ("used", 2), ("asked", K)):
        assert found[f"product_{name}"] == products[k - 1].value
        assert found[f"product_{name}_high"] == products[k - 1].high
    assert set(evidence(rule, History(), Objective())) == set(found)
    by_slope = evidence(regime("curriculum", min_success=0.3), after(pass1=[1, 2, 3]), Objective())
    assert set(by_slope) == {"pass1_slope", "pass1_slope_low", "pass1_slope_high"}
    assert by_slope["pass1_slope"] == pytest.approx(1)


def test_slopes_are_least_squares_with_students_t():
    values = [0.1, 0.4, 0.2, 0.7, 0.5]
    found = slope_interval(values)
    x = np.arange(5)
    fit, covariance = np.polyfit(x, values, 1, cov="unscaled")
    residual = np.array(values) - np.polyval(fit, x)
    error = np.sqrt(covariance[0, 0] * (residual**2).sum() / 3)
    assert found.value == pytest.approx(fit[0])
    assert found.high - found.value == pytest.approx(3.182446 * error, rel=1e-6)
    with pytest.raises(ValueError, match="needs 3 values, got 2"):
        slope_interval([1.0, 2.0])


def test_slope_intervals_cover_the_truth():
    """95 % of 400: below 0.92 or above 0.98 once in a hundred seeds."""
    rng = np.random.default_rng(0)
    found = [slope_interval(0.02 * np.arange(8) + rng.normal(size=8)) for _ in range(400)]
    assert 0.92 < np.mean([i.low < 0.02 < i.high for i in found]) < 0.98
