"""Several runs of one seed, and runs from several starts: nothing counts twice."""

import math
import shutil

import numpy as np
import pytest
from run_files import exact_pass_at_k, write_reproduction, write_run

from passk.config.schema import FREE_ON_RESUME
from passk.report.report import write_report
from passk.report.run_plots import training_curves
from passk.report.table_formats import differences
from passk.report.tables import (
    headline_table,
    kind_table,
    reproduction_table,
    sweep_table,
    titles_of,
)
from passk.runs.baselines import repeat_sentences
from passk.runs.labels import config_differences, run_labels, short_names
from passk.runs.reader import find_runs
from passk.statistics import seed_interval

T_OF_2 = 4.302652729911275  # t(0.975, 2 degrees)


def hybrid(path, shift=0, seed=0, **kwargs):
    """A run that ends `shift` right samples a problem above others of its seed."""
    start = [4, 8, 16, 3]
    counts = {0: start, 10: [c + 2 + seed + shift for c in start]}
    began = {"start": f"2026-05-01T10:00:{len(str(path)) % 60:02d}+00:00 {path.name}"}
    return write_run(
        path,
        regime="hybrid",
        counts=counts,
        kinds=["skill"] * 4,
        seed=seed,
        manifest=began,
        **kwargs,
    )


def test_a_copied_reproduction_changes_no_value(tmp_path):
    write_reproduction(tmp_path / "a", seeds=(0, 1, 2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_report([tmp_path / "a"], tmp_path / "once")
    page = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "twice").read_text()
    for name in ("headline.csv", "kinds.csv"):
        once, twice = (tmp_path / out / "tables" / name for out in ("once", "twice"))
        assert twice.read_bytes() == once.read_bytes()
    assert "count as one seed (2 of SFT, seed 0; " in page and "; and 8 more)." in page


def test_a_rerun_of_a_seed_is_averaged_within_it(tmp_path):
    shifts = {"a": (0, 0), "b": (0, 4), "c": (1, 0), "d": (2, 3)}
    for name, (seed, shift) in shifts.items():
        hybrid(tmp_path / name, shift, seed)
    records = find_runs([tmp_path])
    table = reproduction_table(records)
    assert list(table["seed"]) == [0, 0, 1, 2, "all"]
    gains = np.array([(2 + 6) / 2, 3, 7]) / 32  # of the three seeds
    half = T_OF_2 * gains.std(ddof=1) / math.sqrt(3)
    row = table.iloc[-1]
    assert row["delta_pass1"] == pytest.approx(gains.mean())
    assert row["delta_pass1_low"] == pytest.approx(gains.mean() - half)
    (first,) = headline_table(records, table).to_dict("records")
    values = gains + np.mean([4, 8, 16, 3]) / 32
    assert first["num_seeds"] == 3 and first["pass1"] == pytest.approx(values.mean())
    assert first["pass1_high"] == pytest.approx(seed_interval(values).high)
    assert kind_table(records)["num_problems"].tolist() == [3 * 4]
    sentences = repeat_sentences(records)
    assert sentences == [
        "Runs of one seed are averaged and count as one seed (2 of Hybrid 0.7/0.3, seed 0)."
    ]
    assert sentences[0] in write_report([tmp_path], tmp_path / "out").read_text()


def test_several_runs_of_one_seed_alone_keep_the_intervals_over_problems(tmp_path):
    for name, shift in (("a", 0), ("b", 4)):
        hybrid(tmp_path / name, shift)
    records = find_runs([tmp_path])
    table = reproduction_table(records)
    one, two, both = table.to_dict("records")
    assert both["seed"] == "all"
    for name in ("delta_passk", "delta_passk_low", "delta_passk_high"):
        assert both[name] == pytest.approx((one[name] + two[name]) / 2)
    (first,) = headline_table(records, table).to_dict("records")
    assert first["num_seeds"] == 1 and first["delta_passk"] == both["delta_passk"]
    data = training_curves(records, titles_of(records)).data
    ends = data[(data["measure"] == "Pass@1") & (data["step"] == 10)]["value"]
    assert ends.tolist() == pytest.approx([100 * (np.mean([4, 8, 16, 3]) + 4) / 32], abs=1e-3)


def test_seeds_without_an_evaluation_are_not_counted(tmp_path):
    for seed in (0, 1):
        hybrid(tmp_path / f"{seed}", seed=seed)
    write_run(tmp_path / "2", regime="hybrid", counts={}, kinds=[], seed=2, status="running")
    records = find_runs([tmp_path])
    (row,) = headline_table(records, reproduction_table(records)).to_dict("records")
    assert row["num_seeds"] == 2


def from_start(path, start, **kwargs):
    return hybrid(path, settings={"train": {"init_from": str(start)}}, **kwargs)


def test_runs_from_several_starts_have_rows_of_their_own(tmp_path):
    for name, shift in (("A", 0), ("B", 5)):
        from_start(tmp_path / f"rl-{name}", tmp_path / name / "sft", shift=shift)
    records = find_runs([tmp_path])
    assert run_labels(records) == ["hybrid init_from=A/sft", "hybrid init_from=B/sft"]
    table = headline_table(records, reproduction_table(records))
    assert table["regime"].tolist() == run_labels(records)
    words = write_report([tmp_path], tmp_path / "out").with_name("table.md").read_text()
    assert "| Hybrid 0.7/0.3, init_from=A/sft |" in words
    assert "| Hybrid 0.7/0.3, init_from=B/sft |" in words


def test_a_start_of_each_seed_is_part_of_the_seed(tmp_path):
    for seed in (0, 1):
        from_start(tmp_path / f"rl-{seed}", tmp_path / f"sft-{seed}", seed=seed)
    assert run_labels(find_runs([tmp_path])) == ["hybrid", "hybrid"]


def test_starts_of_two_families_are_told_apart_but_not_their_seeds(tmp_path):
    for family in "AB":
        for seed in (0, 1):
            start = tmp_path / family / f"seed-{seed}" / "sft"
            from_start(tmp_path / f"rl-{family}{seed}", start, seed=seed)
    labels = run_labels(find_runs([tmp_path]))
    assert labels == [f"hybrid init_from={family}/seed-S/sft" for family in "AABB"]


def test_reproductions_differ_by_where_their_sft_started(tmp_path):
    for name in "AB":
        write_reproduction(tmp_path / name)
        for run in (tmp_path / name / "seed-0").iterdir():
            if run.is_dir():
                text = (run / "config.yaml").read_text()
                start = tmp_path / f"model-{name}" if run.name == "sft" else run.parent / "sft"
                text = text.replace("init_from: null", f"init_from: {start}")
                (run / "config.yaml").write_text(text)
    records = find_runs([tmp_path])
    assert set(run_labels(records)) == {
        f"{regime} init_from=model-{name}"
        for name in "AB"
        for regime in ("sft", "pass1", "passk", "hybrid")
    }


def test_two_reproductions_of_the_same_seeds_share_their_labels(tmp_path):
    for name in "AB":
        write_reproduction(tmp_path / name)
        for run in (tmp_path / name / "seed-0").glob("*/config.yaml"):
            start = run.parent.parent / "sft" if run.parent.name != "sft" else "null"
            run.write_text(run.read_text().replace("init_from: null", f"init_from: {start}"))
    assert set(run_labels(find_runs([tmp_path]))) == {"sft", "pass1", "passk", "hybrid"}


def test_folders_of_one_name_are_told_apart(tmp_path):
    for name in "AB":
        hybrid(tmp_path / name, settings={"data": {"path": f"/data/{name}/train.jsonl"}})
    assert run_labels(find_runs([tmp_path])) == [
        "hybrid path=A/train.jsonl",
        "hybrid path=B/train.jsonl",
    ]
    assert short_names(["a/x", "x", "b/y", 3]) == {"a/x": "a/x", "x": "x", "b/y": "y"}


@pytest.mark.parametrize("key", FREE_ON_RESUME)
def test_what_may_change_on_resume_splits_no_seeds(tmp_path, key):
    group, _, name = key.rpartition(".")
    for seed, value in enumerate((1, 2)):
        settings = {group: {name: value}} if group else {}
        run = hybrid(tmp_path / f"{seed}", seed=seed, settings=settings)
        if not group:
            with open(run / "config.yaml", "a") as file:
                file.write(f"{name}: {value}\n")
    records = find_runs([tmp_path])
    assert records[0].setting(key) != records[1].setting(key)
    assert run_labels(records) == ["hybrid", "hybrid"] and config_differences(records).empty


def test_a_sweep_is_told_by_its_cells_not_its_seeds(tmp_path):
    for k in (2, 4):
        for seed in (0, 1, 2):
            hybrid(tmp_path / f"k{k}-{seed}", shift=k, seed=seed, k=k)
    page = write_report([tmp_path], tmp_path / "out").read_text()
    cells = sweep_table(find_runs([tmp_path]))
    gain = 100 * cells[(cells["seed"] == "all") & (cells["k"] == 4)]["delta_pass4"].iloc[0]
    assert "Of 2 cells of the sweep, 2 clearly raised Pass@4" in page
    assert f"the largest gain, +{gain:.1f} points of Pass@4 (k = 4" in page
    before, *after = (
        np.mean([exact_pass_at_k(32, c + more, 4) for c in (4, 8, 16, 3)]) for more in (0, 6, 7, 8)
    )
    assert gain == pytest.approx(100 * (np.mean(after) - before))


def test_sft_shows_no_objective_among_the_settings_that_differ(tmp_path):
    write_reproduction(tmp_path / "a")
    shown = differences(find_runs([tmp_path / "a"]))
    rows = {row[0]: dict(zip(shown.headings, row, strict=True)) for row in shown.rows}
    weights = {name: row["regime.pass1_weight"] for name, row in rows.items()}
    assert weights == {"sft": "", "pass1": "1.0", "passk": "0.0", "hybrid": "0.7"}
