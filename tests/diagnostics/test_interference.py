"""The interference matrix: means between groups, clusters, the worst pairs, tables and page."""

import itertools
from base64 import b64decode
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from bandit import TwoPromptBandit, draw_bandit, exact_success
from PIL import Image

from passk.config.schema import LearnerConfig
from passk.diagnostics.interference import (
    between_groups,
    cluster_agreements,
    clustered_order,
    cosines,
    interference,
    like_prompts,
    most_antagonistic,
    recovered,
)
from passk.diagnostics.matrix import measured_pairs, sketches
from passk.learner.learner import Learner
from passk.report.interference import heatmap, interference_tables, section
from passk.style import specification


def three_kinds(rng, sizes=(40, 25, 35), dimension=300, noise=1.0):
    """Halves of the gradients of three kinds of prompts, the first two against each other."""
    directions = np.linalg.qr(rng.normal(size=(dimension, 2)))[0].T * np.sqrt(dimension)
    centres = np.stack([directions[0], -directions[0], directions[1]])
    kind_P = np.repeat(np.arange(3), sizes)
    vectors = centres[kind_P] + noise * rng.normal(size=(2, sum(sizes), dimension))
    return vectors, kind_P


def test_the_matrix_is_between_halves_on_its_diagonal_alone():
    rng = np.random.default_rng(0)
    a, b = halves = rng.normal(size=(2, 7, 5))
    found = interference(halves)
    for x, y in itertools.product(range(7), repeat=2):
        mean = (a[x] + b[x]) @ (a[y] + b[y]) / 4
        assert found[x, y] == pytest.approx(a[x] @ b[x] if x == y else mean)
    both = (a + b) / 2
    both /= np.linalg.norm(both, axis=1, keepdims=True)
    np.testing.assert_allclose(cosines(halves), both @ both.T, atol=1e-12)
    halves[:, 3] = 0
    assert not cosines(halves)[3].any() and not cosines(halves)[:, 3].any()


def test_the_most_antagonistic_are_the_lowest_products_below_0():
    vectors = np.random.default_rng(1).normal(size=(30, 4))
    products = {(x, y): vectors[x] @ vectors[y] for x, y in itertools.combinations(range(30), 2)}
    negative = sorted((pair for pair in products if products[pair] < 0), key=products.get)
    assert most_antagonistic(vectors, 20) == negative[:20]
    assert most_antagonistic(vectors, 10_000) == negative
    assert most_antagonistic(np.ones((5, 2)), 3) == []


def test_means_between_groups_and_their_coverage():
    rng, repetitions = np.random.default_rng(2), 200
    centres = np.array([[1.0, 0.2, 0.0], [-0.5, 0.1, 0.3]])
    members = {"one": np.arange(30), "two": np.arange(30, 50)}
    exact = centres @ centres.T
    covered = np.zeros(3)
    for _ in range(repetitions):
        vectors = np.repeat(centres, (30, 20), axis=0) + rng.normal(size=(50, 3))
        kappa = vectors @ vectors.T
        table = between_groups(kappa, members, "kind", num_resamples=200)
        rows = table.to_dict("records")
        expected = [exact[0, 0], exact[0, 1], exact[1, 1]]
        covered += [
            row["kappa_low"] <= value <= row["kappa_high"]
            for row, value in zip(rows, expected, strict=True)
        ]
    assert (covered / repetitions >= 0.88).all(), covered  # 0.95 but for small groups
    one = [kappa[x, y] for x, y in itertools.permutations(members["one"], 2)]
    assert rows[0]["kappa"] == pytest.approx(np.mean(one))
    across = kappa[np.ix_(members["one"], members["two"])].mean()
    assert rows[1]["kappa"] == pytest.approx(across)
    assert [row["num_others"] for row in rows] == [30, 20, 20]
    assert rows[1]["cosine"] == pytest.approx(across / np.sqrt(rows[0]["kappa"] * rows[2]["kappa"]))


def test_a_group_of_one_prompt_has_no_mean_with_itself():
    members = {"alone": np.array([0]), "rest": np.arange(1, 6)}
    vectors = np.random.default_rng(3).normal(size=(6, 3))
    table = between_groups(vectors @ vectors.T, members, "kind", num_resamples=20)
    assert np.isnan(table["kappa"][0]) and np.isfinite(table["kappa"][1])
    assert table["kappa_low"].isna().tolist() == [True, True, False]


def test_like_prompts_are_found_without_being_told():
    vectors, kind_P = three_kinds(np.random.default_rng(4), noise=1.5)
    vectors[:, [3, 60]] = 0  # no signal
    labels = like_prompts(cosines(vectors))
    assert (np.flatnonzero(labels < 0) == [3, 60]).all()
    seen = labels >= 0
    assert recovered(labels[seen].tolist(), kind_P[seen].tolist()) == (1.0, 1.0)
    assert np.bincount(labels[seen]).tolist() == [39, 35, 24]  # the largest first
    assert like_prompts(np.zeros((3, 3))).tolist() == [-1, -1, -1]
    assert like_prompts(np.diag([0.0, 1.0])).tolist() == [-1, 0]


def test_agreements_of_clusters_and_their_coverage():
    """Clusters whose mean gradients are known; the population drawn anew each time."""
    rng, repetitions, num_prompts = np.random.default_rng(11), 200, 60
    centres = np.array([[1.0, 0.2], [-0.9, 0.3], [0.0, -0.1]])
    shares = np.array([0.5, 0.3, 0.2])
    exact = centres @ (shares @ centres)
    covered = np.zeros(3)
    for _ in range(repetitions):
        labels = rng.choice(3, size=num_prompts, p=shares)
        vectors = centres[labels] + rng.normal(size=(num_prompts, 2))
        kappa = vectors @ vectors.T
        table = cluster_agreements(kappa, labels, least_size=1, num_resamples=200)
        covered += (table["agreement_low"] <= exact) & (exact <= table["agreement_high"])
    assert (covered / repetitions >= 0.88).all(), covered
    for row in table.to_dict("records"):
        pairs = [
            kappa[x, y]
            for x in np.flatnonzero(labels == row["cluster"])
            for y in range(num_prompts)
            if x != y
        ]
        assert row["agreement"] == pytest.approx(np.mean(pairs))
    of_two = cluster_agreements(kappa, np.array([0] * 5 + [1] * 2 + [-1] * 53), 3, 20)
    assert of_two["cluster"].tolist() == [0] and of_two["num_prompts"].tolist() == [5]
    assert cluster_agreements(kappa, np.full(num_prompts, -1), 1, 20).empty


def test_the_order_of_the_heatmap_keeps_names_and_likes_together():
    vectors, kind_P = three_kinds(np.random.default_rng(5), noise=1.5)
    vectors[:, 7] = 0
    shuffled = np.random.default_rng(6).permutation(len(kind_P))
    vectors, kind_P = vectors[:, shuffled], kind_P[shuffled]
    names = np.where(kind_P == 2, "b", "a")  # the two that interfere have one name
    order = clustered_order(cosines(vectors), names.tolist(), ["b", "a"])
    assert len(set(order)) == len(order) == len(kind_P) - 1
    runs = [key for key, _ in itertools.groupby(kind_P[order])]
    assert runs in ([2, 0, 1], [2, 1, 0])


def test_purity_and_the_adjusted_rand_index():
    labels, names = [0, 0, 0, 1, 1, 2, 2, 2], list("aabbbcca")
    purity, index = recovered(labels, names)
    assert purity == (2 + 2 + 2) / 8
    together = [
        (labels[i] == labels[j], names[i] == names[j])
        for i, j in itertools.combinations(range(8), 2)
    ]
    both = sum(a and b for a, b in together)
    one, two = (sum(pair[i] for pair in together) for i in (0, 1))
    chance = one * two / len(together)
    assert index == pytest.approx((both - chance) / ((one + two) / 2 - chance))
    assert recovered([0, 0], ["a", "a"]) == (1.0, 1.0)
    rng = np.random.default_rng(7)
    by_chance = [
        recovered(rng.integers(3, size=60).tolist(), rng.integers(3, size=60).tolist())[1]
        for _ in range(200)
    ]
    assert abs(np.mean(by_chance)) < 4 * np.std(by_chance) / np.sqrt(200)


def test_pairs_chosen_by_one_half_are_measured_by_the_other_without_bias():
    """The bandit's prompts, whose kappa is known: the worst of many pairs look worse than it."""
    p = exact_success()
    slope = p * (1 - p)
    vectors = np.stack([slope[0] * np.array([-1, 0.1]), slope[1] * np.array([1, 0.1])])
    truth = vectors @ vectors.T
    learner = Learner(TwoPromptBandit(), LearnerConfig(), 1, temperature=1.0)
    rng, tables, gaps = np.random.default_rng(8), [], []
    prompts = np.arange(16) % 2
    for seed in range(25):
        groups = draw_bandit(rng, prompts, 24)
        halves_2PD = sketches(learner, groups, 64, seed=seed).numpy()
        chosen = most_antagonistic(halves_2PD[0], 6)
        found = measured_pairs(learner, groups, halves_2PD, chosen, None, 1e-3)
        found["truth"] = [truth[prompts[x], prompts[y]] for x, y in chosen]
        tables.append(found)
        gaps.append([(found[name] - found["truth"]).mean() for name in ("selected_by", "kappa")])
    selected, measured = np.array(gaps).T
    error = measured.std(ddof=1) / np.sqrt(len(gaps))
    assert abs(measured.mean()) < 4 * error
    assert selected.mean() < -10 * error  # what choosing does
    pairs = pd.concat(tables)
    # From second halves, whose products the sketches know too: 2 entries are sketched exactly.
    seen = pairs["kappa_error"].notna()
    assert 0.3 < seen.mean() < 1
    assert (pairs["kappa"][~seen] == 0).all()
    assert set(pairs["cosine"].dropna().round(2)) <= {-0.98, 1.0, -1.0, 0.99}
    z = ((pairs["kappa"] - pairs["truth"]) / pairs["kappa_error"])[seen]
    assert np.mean(np.abs(z) < 1.96) > 0.8  # few samples of a rare success, and only those seen


@pytest.fixture(scope="module")
def tables():
    """Prompts with kinds, levels and long texts, of which two halves and two pairs are known."""
    halves_2PD, kind_P = three_kinds(np.random.default_rng(9), sizes=(8, 6, 5))
    halves_2PD[:, 4] = 0
    groups = [
        replace(
            group,
            problem=replace(
                group.problem,
                id=f"id-{p}",
                prompt=f"Find | `x` in\nequation {p} " + "and so on " * 9,
                answer=str(p),
                kind=("textbook", "calculator", "skill")[kind_P[p]],
                level=f"Level {p % 2}",
            ),
        )
        for p, group in enumerate(draw_bandit(np.random.default_rng(10), np.zeros(19, int), 4))
    ]
    pairs = pd.DataFrame(
        {
            "first": [0, 1],
            "second": [9, 10],
            "selected_by": [-9.0, -8.0],
            "kappa": [-7.0, 0.0],
            "kappa_error": [1.5, np.nan],
            "cosine": [-0.5, np.nan],
        }
    )
    exact = pd.DataFrame(
        {
            "first": [0, 0, 1],
            "second": [1, 2, 2],
            "exact": [3.0, -2, 1],
            "sketched": [3.1, -2.1, 1.0],
            "norms": [4.0, 4.0, 4.0],
        }
    )
    return interference_tables(groups, halves_2PD, pairs, exact, num_resamples=30)


def test_tables_name_prompts_groups_and_texts(tables):
    assert tables.kappa_PP.shape == (19, 19)
    assert tables.prompts["cluster"][4] == -1 and set(tables.groups) == {"kind", "level"}
    by_kind = tables.groups["kind"].set_index(["kind", "other_kind"])
    assert len(by_kind) == 6 and by_kind["kappa"]["textbook", "calculator"] < 0
    assert len(tables.groups["level"]) == 3
    worst = tables.pairs.iloc[0]
    assert (worst["first_problem_id"], worst["second_problem_id"]) == ("id-0", "id-9")
    assert worst["second_answer"] == "9" and worst["first_kind"] == "textbook"
    assert worst["second_prompt"].count("and so on") == 9  # whole
    assert tables.exact["second"].tolist() == ["id-1", "id-2", "id-2"]


def test_the_section_says_what_the_tables_hold(tables):
    text = section(tables, size=400, seconds=2.0, seconds_beside=1.0)
    for words in (
        "of 19 prompts",
        "1 show no gradient",
        "The 18 prompts that show a gradient",
        "make 3 clusters",
        "| 0 | 7 | textbook (100 %), Level 1 (57 %) |",
        "Mean kappa by level",
        "| textbook |",
        "-7 ± 1.5 | -0.50",
        "\\| 'x' in equation 0",
        "(textbook, Level 0, ",
        "1 of them are clearly negative",
        "root mean square error 2 % of",
        "5 % of |g| |g'| is expected of a sketch of 400",
    ):
        assert words in text, words
    assert "and so on and so on and so on and so on and so on" not in text  # cut
    empty = {name: getattr(tables, name).head(0) for name in ("pairs", "exact", "clusters")}
    nobody = replace(tables, **empty, groups={})
    text = section(nobody, size=400, seconds=2.0, seconds_beside=1.0)
    assert "No two prompts interfere" in text and "do not fit in memory" in text


def test_the_heatmap_has_a_panel_for_each_grouping(tables):
    panels = specification(heatmap(tables.cosines_PP, tables.prompts, ["kind", "level"]))["hconcat"]
    assert [panel["title"] for panel in panels] == [
        "Interference of 18 prompts, by kind",
        "Interference of 18 prompts, by level",
    ]
    image, _, *borders = panels[0]["layer"]
    assert [border["encoding"] for border in borders] == [
        {side: {"datum": at}} for at in (7, 13) for side in "xy"
    ]
    for name, size in (("textbook", 7), ("calculator", 6), ("skill", 5)):
        assert f'["{name}", "{size}"]' in image["encoding"]["y"]["axis"]["labelExpr"]
    content = b64decode(image["mark"]["url"].partition(",")[2])
    pixels = np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(int)
    step = len(pixels) // 18
    shown = pixels[step // 2 :: step, step // 2 :: step]
    assert shown.shape == (18, 18, 3)
    assert (shown == 255).all(axis=-1).sum() == 18  # the diagonal is left out
    assert (shown[:7, 7:13, 2] > shown[:7, 7:13, 0]).mean() > 0.9  # blue: they interfere


def test_the_heatmap_without_groups_or_signal(tables):
    (panel,) = specification(heatmap(tables.cosines_PP, tables.prompts, []))["hconcat"]
    assert panel["title"] == "Interference of 18 prompts"
    assert heatmap(np.zeros((19, 19)), tables.prompts, ["kind"]) is None
