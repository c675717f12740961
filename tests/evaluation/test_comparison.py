"""Comparison at all k: against passk-inference (arXiv 2609.22547), by hand, and for coverage."""

import numpy as np
import pandas as pd
import passk_inference
import pytest
from passk_inference.core import certify
from populations import EVEN, KS, OF_COUNT_CK, SAMPLES, UNEVEN, draw_pairs, true_difference

from passk.errors import UserError
from passk.evaluation.comparison import Comparison, compare, pair_counts
from passk.statistics import simultaneous_band


def counts(c_P, n=SAMPLES) -> pd.DataFrame:
    ids = [f"problem-{i}" for i in range(len(c_P))]
    return pd.DataFrame({"problem_id": ids, "n": n, "c": c_P})


def compared(c_a, c_b, **settings) -> Comparison:
    return compare(pair_counts(counts(c_a), counts(c_b), None), **settings)


def test_it_agrees_with_passk_inference():
    """Means to rounding. Bands within what 4,000 draws leave open: about 1 % of their width."""
    c_a, c_b = draw_pairs(UNEVEN, EVEN, 600, np.random.default_rng(1))
    theirs = passk_inference.compare(c_a, SAMPLES, c_b, SAMPLES, bootstrap=4000, seed=17)
    found = compared(c_a, c_b)
    table = found.table
    assert table["k"].tolist() == theirs["ks"]
    assert table["a"].to_numpy() == pytest.approx(theirs["base_pass_at_k"], rel=1e-12)
    assert table["b"].to_numpy() == pytest.approx(theirs["rl_pass_at_k"], rel=1e-12)
    assert table["difference"].to_numpy() == pytest.approx(theirs["mean"], abs=1e-12)
    width_K = np.array(theirs["upper"]) - theirs["lower"]
    for ours, end in (("band_low", "lower"), ("band_high", "upper")):
        assert (table[ours] - theirs[end]).abs().max() < 0.03 * width_K.max()
        assert ((table[ours] - theirs[end]).abs() < 0.03 * width_K).all()
    same_draws = passk_inference.compare(c_a, SAMPLES, c_b, SAMPLES, bootstrap=4000, seed=0)
    assert table["band_low"].to_numpy() == pytest.approx(same_draws["lower"], abs=1e-9)
    assert found.supported("gain") == same_draws["certified_positive_budgets"]
    assert found.supported("loss") == same_draws["certified_negative_budgets"]
    assert list(found.first("loss")) == same_draws["first_loss_interval"]


@pytest.mark.parametrize("seed", range(30))
def test_findings_are_those_of_passk_inference_for_any_band(seed):
    """Bands that cross 0 at random, also at the ends."""
    rng = np.random.default_rng(seed)
    middle_K = np.cumsum(rng.normal(size=12)) * rng.choice([0.5, 2])
    low_K, high_K = middle_K - rng.random(12), middle_K + rng.random(12)
    signs = np.select([low_K > 0, high_K < 0], ["gain", "loss"], "")
    found = Comparison(pd.DataFrame({"k": range(1, 13), "supported": signs}), 99)
    theirs = certify(range(1, 13), low_K, high_K)
    assert found.supported("gain") == theirs["certified_positive_budgets"]
    assert found.supported("loss") == theirs["certified_negative_budgets"]
    assert list(found.first("loss")) == theirs["first_loss_interval"]
    turned = certify(range(1, 13), -high_K, -low_K)
    assert list(found.first("gain")) == turned["first_loss_interval"]


def test_the_band_covers_the_whole_curve():
    """In 95 % of 200 experiments: fewer than 90 % by chance about once in a thousand times.

    scripts/studies/interval_coverage.py does it for more populations, and with more experiments.
    """
    rng, truth_K = np.random.default_rng(2), true_difference(UNEVEN, EVEN)
    assert truth_K[0] < -0.02 and truth_K[-1] > 0.02  # A ahead at k = 1, B later
    first_gain = int(np.argmax(truth_K > 0)) + 1
    inside, crossing = [], []
    for _ in range(200):
        c_a, c_b = draw_pairs(UNEVEN, EVEN, 500, rng)
        band = simultaneous_band(OF_COUNT_CK[c_b] - OF_COUNT_CK[c_a], num_resamples=200)
        inside.append(((band.low_K <= truth_K) & (truth_K <= band.high_K)).all())
        signs = np.select([band.low_K > 0, band.high_K < 0], ["gain", "loss"], "")
        found = Comparison(pd.DataFrame({"k": KS, "supported": signs}), 500)
        low, high = found.first("gain")
        crossing.append(low <= first_gain <= (high or SAMPLES))
    assert 0.9 <= np.mean(inside) < 1
    assert np.mean(crossing) > 0.93


def test_where_few_problems_differ_nothing_is_said():
    """At k = 1 most problems lose a little; at n only the three that B cannot solve any more."""
    c_a = np.full(200, 32)
    c_b = np.where(np.arange(200) < 3, 0, 20 + np.arange(200) % 20)
    table = compared(c_a, c_b).table
    assert table["supported"].iloc[0] == "loss"
    last = table.iloc[-1]
    assert last["difference"] == pytest.approx(-3 / 200)
    assert last["effective_problems"] == pytest.approx(3, rel=0.05)
    assert last[["band_low", "band_high", "difference_low", "difference_high"]].isna().all()
    assert last["supported"] == ""


def test_equal_counts_support_nothing():
    c_P = np.arange(64)
    table = compared(c_P, c_P).table
    assert (table["difference"] == 0).all() and table["band_low"].isna().all()
    assert (table["supported"] == "").all() and (table["effective_problems"] == 0).all()
    assert compared(c_P, c_P).first("loss") == (1, None)


def test_pairs_are_by_id_and_leave_out_the_rest():
    a = pd.DataFrame({"problem_id": ["x", "y", "z", "w"], "n": [4, 8, 8, 0], "c": [1, 2, 3, 0]})
    b = pd.DataFrame({"problem_id": ["z", "q", "y", "x", "w"], "n": 8, "c": [5, 6, 7, 8, 1]})
    assert pair_counts(a, b, None).to_dict("list") == {
        "problem_id": ["x", "y", "z"], "n_a": [4, 8, 8], "c_a": [1, 2, 3],
        "n_b": [8, 8, 8], "c_b": [8, 7, 5],
    }  # fmt: skip
    assert pair_counts(a, b, 5)["problem_id"].tolist() == ["y", "z"]
    assert compare(pair_counts(a, b, None)).table["k"].tolist() == [1, 2, 3, 4]
    assert compare(pair_counts(a, b, 5), 5).table["k"].tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(UserError, match=r"A has counts of 4 problems and B of 1, and 0 of them"):
        pair_counts(a, b[b["problem_id"] == "q"], None)
    with pytest.raises(UserError, match=r"k_max=9 leaves 0 of the 4 problems .* both are 8"):
        pair_counts(a, b, 9)
