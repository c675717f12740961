"""Pass@1 and Pass@k over the distance from the start, from the files of runs."""

import numpy as np
import pandas as pd
import pytest
from run_files import write_reproduction

from passk.report.distances import distance_curves, distance_sheet, distance_table
from passk.report.report import write_report
from passk.report.tables import titles_of
from passk.runs.reader import find_runs
from passk.style import picture


def write_distances(root) -> None:
    """KL that grows with the step, and twice as fast for the second seed."""
    for run in find_runs([root]):
        steps = sorted({int(step) for step in run.evals["step"]})
        kl = [0.01 * step * (1 + run.seed) for step in steps]
        table = pd.DataFrame({"step": steps, "kl_per_answer": kl, "kl_per_token": 0.1})
        table = table.assign(entropy_per_answer=2.0, relative_distance=1e-3)
        for end, sign in (("low", -1), ("high", 1)):
            table[f"kl_per_answer_{end}"] = table["kl_per_answer"] + sign * 0.001
        table.to_csv(run.path / "eval" / "distance.csv", index=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "main"
    write_reproduction(root, seeds=(0, 1))
    write_distances(root)
    return root


def test_lines_join_evaluations_by_distance(root):
    records = find_runs([root])
    data = distance_curves(records, titles_of(records)).data
    run = next(r for r in records if r.regime == "passk" and r.seed == 1)
    title = titles_of([run])["passk"]
    line = data[(data["run"] == title) & (data["seed"] == "1") & (data["measure"] == "Pass@1")]
    rates = run.evals[run.evals["k"] == 1].set_index("step")["value"]
    assert list(line["step"]) == list(rates.index)
    np.testing.assert_allclose(line["kl"], 0.02 * line["step"])
    np.testing.assert_allclose(line["value"], 100 * rates)
    mean = data[(data["run"] == title) & (data["role"] == "main") & (data["measure"] == "Pass@1")]
    np.testing.assert_allclose(mean["kl"], 0.015 * mean["step"])
    assert set(data["measure"]) == {"Pass@1", "Pass@8"}
    assert len(picture(distance_curves(records, titles_of(records)))) > 10_000


def test_one_seed_is_its_own_line(root):
    records = [record for record in find_runs([root]) if record.seed == 0]
    data = distance_curves(records, titles_of(records)).data
    assert set(data["role"]) == {"main"} and set(data["seed"]) == {"0"}


def test_the_table_has_the_last_row_of_each_run(root):
    records = find_runs([root])
    table = distance_table(records)
    rows = table[table["regime"] == "passk"].set_index("seed")
    last = max(next(r for r in records if r.regime == "passk").evals["step"])
    assert rows.loc[1, "kl_per_answer"] == pytest.approx(0.02 * last)
    assert rows.loc["all", "kl_per_answer"] == pytest.approx(0.015 * last)
    assert "KL per answer (nats)" in distance_sheet(table, titles_of(records)).markdown()


def test_the_report_shows_them_and_does_without(root, tmp_path):
    page = write_report([root], tmp_path / "out")
    assert (page.parent / "figures" / "distance_curves.png").is_file()
    assert len(pd.read_csv(page.parent / "tables" / "distance.csv")) == 4 * 3
    assert "How far each run moved from its start" in page.read_text()
    write_reproduction(tmp_path / "other", seeds=(0,))
    page = write_report([tmp_path / "other"], tmp_path / "without")
    assert not (page.parent / "figures" / "distance_curves.png").exists()
    assert not (page.parent / "tables" / "distance.csv").exists()
    assert distance_table(find_runs([tmp_path / "other"])).empty
