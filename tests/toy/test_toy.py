"""`passk toy`: the paper's printed numbers, the population, and what the command leaves behind."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import integrate
from small_runs import assert_refused, pixels_of, snapshot

from passk.config.commands import PopulationConfig
from passk.objectives import theory
from passk.toy import bandit as toy
from passk.toy import figures
from passk.toy.tables import (
    agreement_table,
    ascent_path,
    ascent_table,
    quadrature_error,
    two_prompts_table,
)

# As the paper prints them.
PRINTED = {
    "psi(x_e), second entry": "-0.1",
    "psi(x_h), second entry": "0.1",
    "cos(psi_e, psi_h)": "0.98",
    "p(x_e)": "0.86",
    "p(x_h)": "0.10",
    "kappa(x_e, x_h)": "-0.01",
    "cos(grad p_e, grad p_h)": "-0.98",
    "w_10(x_e)": "2.33e-07",
    "w_10(x_h)": "3.88",
    "cos(grad J_1, grad J_10)": "-0.77",
    "J_1 before a step of 5": "0.48",
    "J_1 after it": "0.46",
    "J_10 before it": "0.83",
    "J_10 after it": "0.95",
}
# What follows from the same example, computed apart from this code.
FOLLOWS = {
    "a(x_e)": "0.002072",
    "a(x_h)": "-0.001339",
    "grad J_1 . grad J_2": "-9.11e-04",
    "grad J_1 . grad J_3": "-1.565e-03",
    "grad J_1 . grad J_5": "-2.196e-03",
    "grad J_1 . grad J_10": "-2.600e-03",
    "cos(grad J_1, grad J_2)": "-0.740",
    "cos(grad J_1, grad J_3)": "-0.770",
    "cos(grad J_1, grad J_5)": "-0.774",
    "first k in conflict": "2",
    "k* of proposition 4.5: every k above it conflicts": "3.836",
    "G^2 = F, the least that hold at every theta": "0.2525",
    "delta(theta) of corollary 4.4": "0.0026",
    "L_1": "0.505",
    "L_10": "27.8",
    "C_2 of proposition 4.6": "6.38",
    "largest step that proposition 4.6 promises": "4.08e-04",
}


def rounded_like(value: float, text: str) -> str:
    mantissa, e, _ = text.partition("e")
    return f"{value:.{len(mantissa.partition('.')[2])}{e or 'f'}}"


@pytest.fixture(scope="module")
def two_prompts() -> pd.DataFrame:
    return two_prompts_table().set_index("quantity")


def test_every_printed_number(two_prompts):
    here = {name: rounded_like(two_prompts["here"][name], text) for name, text in PRINTED.items()}
    assert here == PRINTED
    assert (two_prompts["agrees"][list(PRINTED)] == "yes").all()
    assert set(two_prompts.index[two_prompts["paper"] != ""]) == set(PRINTED)


def test_what_follows_from_the_example(two_prompts):
    here = {name: rounded_like(two_prompts["here"][name], text) for name, text in FOLLOWS.items()}
    assert here == FOLLOWS


def test_steps_promised_and_possible(two_prompts):
    promised, direct, possible = two_prompts["here"].iloc[-3:]
    assert promised < direct < 5 < possible


def test_theta_is_what_the_printed_weights_say():
    """w = 10 (1-p)^9 gives p to three digits, and the two margins give theta."""
    fails = [(w / 10) ** (1 / 9) for w in (2.33e-7, 3.88)]
    logits = [np.log(fails[0] / (1 - fails[0])), np.log((1 - fails[1]) / fails[1])]
    theta = np.linalg.solve(toy.two_prompts(0.2).features_PD, logits)
    np.testing.assert_allclose(theta, (-2, -2), atol=0.005)


def test_gradient_of_success():
    """Equation 7, and by finite differences."""
    prompts, theta = toy.population(0.3, 0.5, 31), np.array([-0.7, 1.3])
    policy, step = toy.policy_at(theta, prompts), 1e-6
    z = np.cosh(prompts.features_PD @ theta / 2) ** -2 / 4 * np.where(prompts.is_hard_P, 1, -1)
    np.testing.assert_allclose(policy.gradients_PD, z[:, None] * prompts.features_PD, rtol=1e-12)
    for entry, side in enumerate(step * np.eye(2)):
        ahead, behind = (toy.policy_at(theta + s, prompts).success_P for s in (side, -side))
        numeric = (ahead - behind) / (2 * step)
        np.testing.assert_allclose(policy.gradients_PD[:, entry], numeric, atol=1e-9)


def test_opposite_labels_interfere_where_features_agree():
    prompts = toy.sample_prompts(60, 40, 0.2, seed=1)
    products = theory.kernel(toy.policy_at((-2, -2), prompts))
    features_agree = np.sign(prompts.features_PD @ prompts.features_PD.T)
    same_label = np.sign(np.outer(prompts.sign_P, prompts.sign_P))
    np.testing.assert_array_equal(np.sign(products), features_agree * same_label)


@pytest.mark.parametrize("slope", [0.0, 1.0, 4.0, -10.0])
@pytest.mark.parametrize("k", [1, 5, 40])
def test_quadrature_against_adaptive_integration(slope, k):
    p_hard, delta, theta = 0.3, 0.8, np.array([-1.0, slope])

    def integral(value, mean):
        def density(s):
            return value(s) * np.exp(-((s - mean) ** 2) / 2) / np.sqrt(2 * np.pi)

        kink = float(np.clip(1 / slope if slope else 0, -8, 8))
        return integrate.quad(density, -10, 10, points=[kink], epsabs=1e-13, limit=500)[0]

    def fail_hard(s):
        return toy.sigmoid(-(theta[0] + slope * s))

    def fail_easy(s):
        return toy.sigmoid(theta[0] + slope * s)

    expected = p_hard * integral(lambda s: 1 - fail_hard(s) ** k, delta / 2)
    expected += (1 - p_hard) * integral(lambda s: 1 - fail_easy(s) ** k, -delta / 2)
    policy = toy.policy_at(theta, toy.population(p_hard, delta))
    assert float(theory.pass_at_k(policy, k)) == pytest.approx(expected, abs=1e-10)


ASCENTS = [  # p_hard, cosine at the start, {iteration: (J_1, J_5)}: checked apart from this code
    (0.4, "-0.110", {0: (0.532, 0.759), 50: (0.507, 0.970), 500: (0.506, 0.970)}),
    (0.2, "0.59", {0: (0.642, None), 500: (0.553, None)}),
    (0.5, "-0.13", {0: (0.478, None), 500: (0.501, None)}),
]


@pytest.mark.parametrize(("p_hard", "cosine", "levels"), ASCENTS)
def test_the_ascent_of_the_population(p_hard, cosine, levels):
    cfg = PopulationConfig(p_hard=p_hard)
    path = ascent_path(cfg)
    table = ascent_table(cfg, path)
    assert rounded_like(table["cosine"][0], cosine) == cosine
    for iteration, (pass1, passk) in levels.items():
        row = table.iloc[iteration]
        assert row["iteration"] == iteration
        assert row["pass1"] == pytest.approx(pass1, abs=6e-4)
        assert passk is None or row["passk"] == pytest.approx(passk, abs=6e-4)
    for name in ("pass1", "passk"):
        mixed = (1 - p_hard) * table[f"{name}_easy"] + p_hard * table[f"{name}_hard"]
        np.testing.assert_allclose(mixed, table[name], rtol=1e-12)
    assert quadrature_error(cfg, path) < 1e-14


@pytest.mark.parametrize("k", [2, 3, 5, 20])
@pytest.mark.parametrize(("p_hard", "delta"), [(0.4, 0.2), (0.1, 1.5), (0.5, 0.0)])
def test_best_theta_is_the_maximum(k, p_hard, delta):
    """The gradient vanishes there and J_k is lower all around, near and far."""
    prompts, best = toy.population(p_hard, delta), toy.best_theta(p_hard, delta, k)
    policy = toy.policy_at(best, prompts)
    assert np.abs(theory.passk_gradient(policy, k)).max() < 1e-14
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    around = np.stack([np.cos(angles), np.sin(angles)], -1)
    for distance in (1e-3, 0.1, 1, 5):
        others = toy.policy_at(best + distance * around, prompts)
        assert (theory.pass_at_k(others, k) < theory.pass_at_k(policy, k)).all()


def test_agreement_table_holds_the_whole_population():
    cfg = PopulationConfig(num_steps=40)
    path = ascent_path(cfg)
    table = agreement_table(cfg, path)
    shares = table.groupby(["iteration", "kind"])["share"].sum()
    np.testing.assert_allclose(shares, [0.6, 0.4, 0.6, 0.4], rtol=1e-12)
    fine = toy.population(cfg.p_hard, cfg.delta, 20_001)
    for iteration in (0, 40):
        bins = table[table["iteration"] == iteration]
        policy = toy.policy_at(path[iteration], fine)
        negative = float(fine.share_P @ (theory.agreement(policy) < 0))
        below = bins[bins["high"] < 1e-12]["share"].sum()
        assert below == pytest.approx(negative, abs=1e-9)
        middles = (bins["low"] + bins["high"]) / 2
        mean = float(theory.inner_product(policy, 1))  # E[a] = |grad J_1|^2
        assert (bins["share"] * middles).sum() == pytest.approx(mean, abs=2e-4)


def test_the_sample_of_the_heatmap():
    prompts = toy.sample_prompts(120, 80, 0.2, seed=0)
    assert prompts.is_hard_P.sum() == 80 and prompts.is_hard_P[-80:].all()
    s = prompts.features_PD[:, 1]
    assert (np.diff(s[:120]) > 0).all() and (np.diff(s[120:]) > 0).all()
    again = toy.sample_prompts(120, 80, 0.2, seed=0)
    np.testing.assert_array_equal(again.features_PD, prompts.features_PD)


def test_contours_lie_on_their_levels_and_cross_the_whole_grid():
    sides = [np.linspace(-1, 2, 31), np.linspace(0, 1, 21)]
    values = sides[0] + 2 * sides[1][:, None]  # linear, so that pieces are exact
    pieces = figures._contour_pieces(sides, values, np.array([0.5, 1.5, 9.0]))
    assert set(pieces["level"]) == {0.5, 1.5}
    for end in ("", "2"):
        found = pieces[f"bias{end}"] + 2 * pieces[f"slope{end}"]
        np.testing.assert_allclose(found, pieces["level"], atol=1e-12)
    length = np.hypot(pieces["bias2"] - pieces["bias"], pieces["slope2"] - pieces["slope"])
    np.testing.assert_allclose(length.groupby(pieces["level"]).sum(), np.hypot([1.5, 2], [0.75, 1]))


def test_names_of_lines_are_pushed_apart():
    apart = figures.apart(np.array([50.0, 51.0, 49.0]), gap=6, highest=98)
    assert apart.tolist() == [50, 56, 44]
    assert figures.apart(np.array([97.0, 98.0]), gap=6, highest=98).tolist() == [92, 98]


def test_the_command(passk, tmp_path):
    outcome = passk("toy", "toy.num_steps=60", "toy.k=4", "hydra.run.dir=run")
    assert (outcome.code, outcome.err) == (0, "")
    run = tmp_path / "run"
    pictures = {"kernel.png", "contours.png", "agreement.png", "ascent.png"}
    tables = {"two_prompts.csv", "population.csv", "ascent.csv", "agreement.csv"}
    record = {"config.yaml", "overrides.txt", "manifest.json"}
    assert set(snapshot(run)) == pictures | tables | record | {"toy.md"}
    for name in pictures:
        pixels = pixels_of(run / name)
        assert pixels.std() > 0.05 and (pixels < 0.9).any(axis=-1).mean() > 0.01, name
    for name in pictures | tables | {"toy.md"}:
        assert f"run/{name}\n" in outcome.out
    page = (run / "toy.md").read_text()
    assert page.partition("![")[0].strip() in outcome.out
    assert "| cos(grad J_1, grad J_10) | -0.77 | -0.77456 | yes |" in page
    assert "| iteration | Pass@1 | Pass@4 |" in page
    ascent = pd.read_csv(run / "ascent.csv")
    assert list(ascent["iteration"]) == list(range(61))
    assert ascent["passk"].is_monotonic_increasing
    printed = pd.read_csv(run / "two_prompts.csv", dtype={"paper": str})
    assert list(printed.columns) == ["quantity", "paper", "here", "agrees"]
    assert printed.set_index("quantity")["here"]["w_10(x_h)"] == pytest.approx(3.883882, abs=1e-6)
    ends = pd.read_csv(run / "population.csv").set_index("quantity")
    assert ends["end"]["pass1"] == pytest.approx(ascent["pass1"].iloc[-1], abs=1e-14)
    assert yaml.safe_load((run / "config.yaml").read_text())["toy"]["k"] == 4
    manifest = json.loads((run / "manifest.json").read_text())
    assert (manifest["command"], manifest["status"]) == ("toy", "finished")
    before = snapshot(run)
    refused = passk("toy", "hydra.run.dir=run")
    assert_refused(refused, "run is not empty; choose another directory\n")
    assert snapshot(run) == before


def test_it_needs_no_torch(tmp_path):
    code = """
import sys
from passk.cli.main import main
code = main(["toy", "toy.num_steps=2", "hydra.run.dir=run"])
print(code, [name for name in ("torch", "transformers") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0 []"


REFUSED = [
    ("toy.k=1", "toy.k=1 is too small; at least 2 is needed"),
    ("toy.k=2.5", "toy.k"),
    ("toy.p_hard=0", "toy.p_hard=0.0 must lie between 0 and 1"),
    ("toy.p_hard=1", "toy.p_hard=1.0 must lie between 0 and 1"),
    ("toy.p_hard=nan", "toy.p_hard=nan must be a finite number"),
    ("toy.delta=-0.1", "toy.delta=-0.1 must lie between 0 and 10"),
    ("toy.delta=inf", "toy.delta=inf must be a finite number"),
    ("toy.theta=[1,2,3]", "must be two numbers between -10 and 10"),
    ("toy.theta=[0,11]", "must be two numbers between -10 and 10"),
    ("toy.theta=[0,nan]", "must be two numbers between -10 and 10"),
    ("toy.theta=hard", "toy.theta"),
    ("toy.step_size=0", "toy.step_size=0.0 must be above 0"),
    ("toy.step_size=inf", "toy.step_size=inf must be a finite number"),
    ("toy.step_size=1e6", "toy.step_size=1e+06 is too long for Pass@5"),
    ("toy.num_steps=0", "toy.num_steps=0 is too small"),
    ("toy.seed=-1", "toy.seed=-1 is too small"),
    ("k=5", "k is not a key of passk toy"),
    ("toy.kk=5", "did you mean toy.k?"),
    ("resume=true", "resume is not a key of passk toy"),
]


@pytest.mark.parametrize(("word", "says"), REFUSED)
def test_bad_values_are_one_line_and_leave_nothing(passk, tmp_path, word, says):
    assert_refused(passk("toy", word), says)
    assert snapshot(tmp_path) == {}


def test_help_and_cfg(passk, tmp_path):
    shown = passk("toy", "--help").out
    for key in ("k: 5", "p_hard: 0.4", "delta: 0.2", "step_size: 1.0", "num_steps: 500"):
        assert key in shown
    outcome = passk("toy", "toy.p_hard=0.3", "--cfg", "job")
    assert (outcome.code, yaml.safe_load(outcome.out)["toy"]["p_hard"]) == (0, 0.3)
    assert not list(tmp_path.iterdir())
