"""The report's fronts: a row for each regime and the base model, a point for each temperature."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from run_files import write_run

from passk.report.fronts import (
    BASE,
    COIN,
    FIRST,
    UNTRAINED,
    front_figure,
    front_sentences,
    front_tables,
    shown_changes,
)
from passk.report.run_plots import final_curves, training_curves
from passk.report.tables import headline_table, reproduction_table, titles_of
from passk.runs.interpolations import find_interpolations
from passk.runs.reader import find_runs

N, NUM_PROBLEMS = 32, 40


def with_temperatures(run, step, rises):
    """Add counts at T = 0.5, where each problem has so many more right, and greedy answers."""
    file = run / "eval" / f"step-{step:06d}.parquet"
    hot = pd.read_parquet(file)
    cool = hot.assign(temperature=0.5, c=(hot["c"] + rises).clip(0, N))
    cool = cool.assign(c_first=cool["c"] // 2)
    greedy = hot.assign(temperature=0.0, n=1, c=(cool["c"] > N / 2).astype(int), n_first=1)
    pd.concat([hot, cool, greedy]).to_parquet(file)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "seed-0"
    rng = np.random.default_rng(0)
    kinds = ["textbook"] * NUM_PROBLEMS
    rises = np.where(rng.random(NUM_PROBLEMS) < 0.7, 6, -6)
    c = {"base": rng.integers(0, 12, NUM_PROBLEMS), "sft": rng.integers(4, 24, NUM_PROBLEMS)}
    sft = write_run(
        place / "sft", regime="sft", kinds=kinds, counts={0: c["base"], 9: c["sft"]}, n=N
    )
    spread = np.where(c["sft"] > 14, c["sft"] - 5, c["sft"] + 3)  # less Pass@1, more Pass@k
    passk = write_run(
        place / "passk",
        regime="passk",
        kinds=kinds,
        counts={9: spread},
        n=N,
        settings={"train": {"init_from": str(sft)}},
    )
    for run, step in ((sft, 0), (sft, 9), (passk, 9)):
        with_temperatures(run, step, rises)
    return find_runs([place])


def test_rows_points_and_sentences(records):
    points, changes = front_tables(records)
    assert changes["regime"].tolist() == [BASE, "sft", "passk", COIN, FIRST]
    assert points.groupby("regime")["temperature"].apply(list).to_dict() == {
        name: [0.0, 0.5, 1.0] for name in (BASE, "sft", "passk", COIN, FIRST)
    }
    by_regime = changes.set_index("regime")
    assert by_regime.loc["sft"].filter(like="delta").isna().all()
    assert by_regime.loc[BASE, "delta_pass1"] < 0 < by_regime.loc["sft", "area"]
    at_1 = points[points["temperature"] == 1].set_index("regime")
    lost = at_1.loc["passk", "pass1"] - at_1.loc["sft", "pass1"]
    assert by_regime.loc["passk", "delta_pass1"] == pytest.approx(lost)
    best = points.groupby("regime")["passk"].max()
    gained = best["passk"] - best["sft"]
    assert by_regime.loc["passk", "delta_best_passk"] == pytest.approx(gained)
    assert by_regime.loc[FIRST, "delta_pass1"] == pytest.approx(0)  # the start's own answer
    assert by_regime.loc[COIN, "delta_pass1"] == pytest.approx(lost / 2)
    titles = titles_of(records)
    (sentence,) = front_sentences(changes, titles, {"sft": 8, "passk": 8}, 1.0)
    assert sentence.startswith("Pass@8-only changed Pass@1 by ") and "at temperature 1;" in sentence


def test_the_figure_has_a_line_for_each_and_none_without_temperatures(records, tmp_path):
    titles = titles_of(records)
    points, _ = front_tables(records)
    drawing = front_figure(points, records, titles, 8)
    assert drawing.legends[0].names == [
        "SFT",
        "Pass@8-only",
        *(title for title, *_ in UNTRAINED.values()),
    ]
    assert len(drawing.data) == 15 and drawing.data["x"].between(0, 100).all()
    run = write_run(
        tmp_path / "run", regime="passk", kinds=["x"] * 3, counts={0: [1] * 3, 9: [2] * 3}
    )
    points, changes = front_tables(find_runs([run]))
    assert points.empty and changes.empty
    assert front_figure(points, find_runs([run]), titles, 8) is None


def interpolated(folder, records, weight, digest=None):
    """Write an evaluation of weights from SFT to Pass@k-only: the counts of the better run."""
    passk, sft = (record.path for record in records)
    ends = [str(run / "checkpoints" / "step-000009") for run in (sft, passk)]
    facts = {"command": "eval", "interpolation_weight": weight}
    facts |= dict(zip(("policy", "interpolated_with"), ends, strict=True))
    shutil.copytree((sft if weight < 0.5 else passk) / "eval", folder / "eval")
    text = json.dumps(facts | ({"heldout_sha256": digest} if digest else {}))
    (folder / "manifest.json").write_text(text)


def test_interpolated_weights_have_a_row_and_a_line_each(records, tmp_path):
    for weight in (0.75, 0.25):
        interpolated(tmp_path / f"weight-{weight:g}", records, weight)
    found = find_interpolations([tmp_path], records)
    labels = ["0.75 sft + 0.25 passk", "0.25 sft + 0.75 passk"]
    assert [each.label for each in found] == labels
    points, changes = front_tables(records, None, found)
    assert changes["regime"].tolist() == [BASE, "sft", "passk", COIN, FIRST, *labels]
    by_regime = changes.set_index("regime")
    deltas = [name for name in changes if name.startswith("delta_")]
    np.testing.assert_allclose(by_regime.loc[labels[0], deltas].astype(float), 0, atol=1e-12)
    own, same = (by_regime.loc[label, ["area", *deltas]] for label in ("passk", labels[1]))
    np.testing.assert_array_equal(same.astype(float), own.astype(float))  # NaN equals NaN
    titles = titles_of(records)
    drawn = front_figure(points, records, titles, 8, found)
    shown = ["Weights 0.75 SFT + 0.25 Pass@8-only", "Weights 0.25 SFT + 0.75 Pass@8-only"]
    assert drawn.legends[0].names[-2:] == shown
    assert len({entry["shape"] for entry in drawn.legends[0].entries[-2:]}) == 2
    assert drawn.data["run"].notna().all() and (drawn.data["run"] == shown[0]).sum() == 3
    assert shown_changes(changes, titles, found)["regime"].tolist()[-2:] == shown
    sentences = front_sentences(changes, titles, {"sft": 8, "passk": 8}, 1.0)
    assert len(sentences) == 1 and "Weights" not in sentences[0]


def test_interpolations_of_other_problems_or_runs_are_left_out(records, tmp_path):
    """Runs that were moved are known by their place beside the evaluation."""
    moved = tmp_path / "moved"
    shutil.copytree(records[0].path.parent, moved)
    for run in moved.iterdir():
        facts = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(facts | {"heldout_sha256": "abc"}))
    copies = find_runs([moved])
    interpolated(moved / "interpolation" / "weight-0.5", records, 0.5, "abc")
    interpolated(moved / "interpolation" / "weight-0.25", records, 0.25, "def")
    interpolated(tmp_path / "elsewhere" / "weight-0.5", records, 0.5)
    (found,) = find_interpolations([tmp_path], copies)
    assert found.weight == 0.5 and found.record is next(r for r in copies if r.regime == "passk")
    (other,) = find_interpolations([tmp_path], records)
    assert other.path.parent.name == "elsewhere" and other.record in records


def test_the_base_model_has_a_row_and_greedy_and_majority_have_columns(records, tmp_path):
    runs = tmp_path / "seed-0"
    shutil.copytree(records[0].path.parent, runs)
    summary = {"step": [9, 9, 0], "metric": ["maj_8", "maj_4", "maj_8"], "value": [0.5, 0.9, 0.25]}
    ends = {"ci_low": 0.0, "ci_high": 1.0, "num_problems": NUM_PROBLEMS, "temperature": 1.0}
    pd.DataFrame(summary).assign(**ends).to_csv(runs / "sft" / "eval" / "summary.csv", index=False)
    copies = find_runs([runs])
    table = reproduction_table(copies)
    assert table["regime"].tolist() == [BASE, "sft", "passk"]
    assert table["majk"].tolist()[:2] == [0.25, 0.5] and np.isnan(table["majk"].iloc[2])
    assert table.filter(like="delta").iloc[:2].isna().all(axis=None)
    places = (("sft", 0), ("sft", 9), ("passk", 9))
    for (run, step), row in zip(places, table.to_dict("records"), strict=True):
        counts = pd.read_parquet(runs / run / "eval" / f"step-{step:06d}.parquet")
        hot, greedy = (counts[counts["temperature"] == t] for t in (1, 0))
        assert row["pass1"] == pytest.approx((hot["c"] / hot["n"]).mean())
        assert row["greedy"] == pytest.approx(greedy["c"].mean())
    shown = headline_table(copies, table).set_index("regime")
    base = shown.loc[BASE]
    assert base["num_seeds"] == 1 and base["pass1_low"] < base["pass1"] < base["pass1_high"]
    assert list(shown.columns[-2:]) == ["greedy", "majk"]


def test_the_base_model_is_a_level_of_the_curves_and_a_line_over_k(records):
    titles = titles_of(records)
    table = reproduction_table(records).set_index("regime")
    over_steps = training_curves(records, titles)
    rows = over_steps.data[over_steps.data["run"] == "Base model"]
    assert rows["role"].tolist() == ["level", "level"]
    expected = 100 * table.loc[BASE, ["pass1", "passk"]].astype(float)
    np.testing.assert_allclose(rows["value"].astype(float), expected)
    over_k = final_curves(records, titles)
    at_1 = over_k.data[(over_k.data["run"] == "Base model") & (over_k.data["at_k"] == 1)]
    assert at_1["value"].iloc[0] == pytest.approx(expected.iloc[0])
    for drawing in (over_steps, over_k):
        assert drawing.legends[0].names[0] == "Base model" and len(drawing.legends[0].names) == 3
