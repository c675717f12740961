"""`passk filter`: its data files, tables and page; weights in training; resuming; bad input."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import assert_refused, metrics, train

from passk.cli.main import main
from passk.config.commands import FilteringConfig
from passk.config.compose import load_run_config
from passk.config.schema import ConventionsConfig, EvalConfig, TableConfig
from passk.data.problems import load_data, normalised, read_problems, write_problems
from passk.report.filter_tables import decisions, filter_page, product_after
from passk.types import Problem

MEASURED = ("num_threads=1", "diagnose.num_samples=8", "diagnose.num_blocks=4")
FILES = {"filter.csv", "filter.md", "filtered.jsonl", "random.jsonl", "matched.jsonl"}


def filter_run(directory: Path, *words: str) -> int:
    return main(["filter", *MEASURED, *words, f'hydra.run.dir="{directory}"'])


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with a checkpoint after each of three steps."""
    run = tmp_path_factory.mktemp("trained") / "run"
    words = ("regime=passk", "train.num_steps=3", "train.save_every=1", "train.keep_last=3")
    assert train(run, *words, "diagnostics.every=0", "eval.every=0") == 0
    return run


@pytest.fixture(scope="module")
def filtered(trained, tmp_path_factory) -> Path:
    """A filter over its checkpoints, lenient so that something is found."""
    directory = tmp_path_factory.mktemp("filtered") / "run"
    assert filter_run(directory, f"run={trained}", "filter.fdr=0.9") == 0
    return directory


def test_files_agree(trained, filtered):
    assert {file.name for file in filtered.iterdir()} >= FILES
    steps = sorted(file.stem for file in (filtered / "agreement").iterdir())
    assert steps == ["step-000001", "step-000002", "step-000003"]
    decided = pd.read_csv(filtered / "filter.csv")
    assert len(decided) == 48 == decided["problem_id"].nunique()
    assert decided["filtered"].sum() == (decided["verdict"] == "interferes").sum() > 0
    for name in ("filtered", "random", "matched"):
        problems, _ = read_problems(str(filtered / f"{name}.jsonl"), "data.path")
        assert [p.id for p in problems] == decided["problem_id"][~decided[name]].tolist()
    assert decided["random"].sum() == decided["filtered"].sum()
    assert not (decided["matched"] & decided["filtered"]).any()
    manifest = json.loads((filtered / "manifest.json").read_text())
    assert manifest["command"] == "filter" and manifest["status"] == "finished"
    page = (filtered / "filter.md").read_text()
    assert f"{decided['filtered'].sum()} interfere" in page and "3 checkpoints" in page


def test_what_is_left_can_be_trained_on(filtered, tmp_path):
    run = tmp_path / "run"
    assert train(run, "train.num_steps=1", f"data.path={filtered / 'filtered.jsonl'}") == 0
    kept, _ = read_problems(str(filtered / "filtered.jsonl"), "data.path")
    rows = pd.read_parquet(run / "rollouts" / "step-000000.parquet")
    assert set(rows["problem_id"]) <= {problem.id for problem in kept}


def test_down_weighted_problems_stay_with_their_weight(trained, tmp_path):
    directory = tmp_path / "run"
    words = (f"run={trained}", "filter.fdr=0.9", "filter.weight=0.25")
    assert filter_run(directory, *words) == 0
    decided = pd.read_csv(directory / "filter.csv")
    problems, _ = read_problems(str(directory / "filtered.jsonl"), "data.path")
    weights = np.where(decided["filtered"], 0.25, 1.0).tolist()
    assert [problem.weight for problem in problems] == weights


def test_one_checkpoint_is_tested_over_samples_and_said_to_be_weak(trained, tmp_path):
    directory = tmp_path / "run"
    assert filter_run(directory, f"run={trained}", "checkpoint=last") == 0
    assert [f.stem for f in (directory / "agreement").iterdir()] == ["step-000003"]
    assert "fewer than 3 checkpoints" in (directory / "filter.md").read_text()


def test_a_resumed_filter_measures_what_is_missing(trained, filtered, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(filtered, directory)
    (directory / "agreement" / "step-000002.parquet").unlink()
    (directory / "filter.csv").unlink()
    before = (directory / "agreement" / "step-000001.parquet").stat().st_mtime_ns
    words = (f"run={trained}", "filter.fdr=0.9", "resume=true")
    assert filter_run(directory, *words) == 0
    assert (directory / "agreement" / "step-000001.parquet").stat().st_mtime_ns == before
    for name in ("filter.csv", "filter.md", "filtered.jsonl"):
        assert (directory / name).read_bytes() == (filtered / name).read_bytes()
    assert filter_run(directory, *words, "diagnose.seed=1") == 2


def test_a_filter_is_not_resumed_over_other_problems(passk, trained, filtered, tmp_path):
    directory, file = tmp_path / "run", tmp_path / "p.jsonl"
    rows = (filtered / "random.jsonl").read_text().splitlines(keepends=True)
    file.write_text("".join(rows))
    words = (f"run={trained}", f"data.path={file}", "filter.num_checkpoints=1")
    assert filter_run(directory, *words) == 0
    file.write_text("".join(rows[:-3]))
    outcome = passk("filter", *MEASURED, *words, "resume=true", f"hydra.run.dir={directory}")
    assert_refused(outcome, "the training problems of data.path changed")


def test_fewer_problems_than_blocks_are_enough(trained, filtered, tmp_path):
    file, rows = tmp_path / "p.jsonl", (filtered / "random.jsonl").read_text().splitlines(True)
    file.write_text("".join(rows[:6]))
    words = (f"run={trained}", f"data.path={file}", "checkpoint=last", "diagnose.num_blocks=8")
    assert filter_run(tmp_path / "run", *words) == 0
    assert len(pd.read_csv(tmp_path / "run" / "filter.csv")) == 6


def problem(index: int, kind: str = "") -> Problem:
    return Problem(f"p{index}", f"prompt {index}", "1", kind)


def table(correlations: list[float], contributions: list[float], c: int = 4) -> pd.DataFrame:
    count = len(correlations)
    return pd.DataFrame(
        {
            "problem_id": [f"p{i}" for i in range(count)],
            "n": 8,
            "c": c,
            "agreement": correlations,
            "agreement_error": 0.1,
            "correlation": correlations,
            "weight_8": 1.0,
            "contribution_8": contributions,
        }
    )


def test_decisions_over_checkpoints():
    """p0 is negative throughout, p1 now and then, p2 never; p3 was not measured."""
    problems = [problem(i) for i in range(4)]
    tables = {
        step: table([-0.5 + 0.01 * step, value, 0.4], [-2.0, 0.5, 1.0])
        for step, value in enumerate((-0.9, 0.8, -0.7, 0.9))
    }
    decided = decisions(problems, tables, FilteringConfig(fdr=0.1), seed=0)
    assert decided["verdict"].tolist() == ["interferes", "stays", "stays", "not measured"]
    assert decided["filtered"].tolist() == [True, False, False, False]
    assert decided["matched"].sum() == 1 and not decided["matched"][3]
    last = tables[3]
    # f(k) over the others, and where it has a quarter of its weight.
    assert product_after(decided, last, "filtered", 0.0) == pytest.approx(1.5 / 2)
    assert product_after(decided, last, "filtered", 0.25) == pytest.approx((1.5 - 0.5) / 2.25)
    page = filter_page(decided, last, FilteringConfig(), 4)
    assert "1 interfere with Pass@1" in page and "1 were not measured" in page


@pytest.mark.parametrize("data", ["gsm8k", "math", "jsonl"])
def test_problems_read_back_as_they_were(data, tmp_path):
    """In the columns of the data set, with the answer where it is looked for."""
    cfg = {
        "jsonl": TableConfig(level_column="difficulty", weight_column="share"),
        "gsm8k": TableConfig(
            prompt_column="question",
            answer_column="answer",
            solution_column="answer",
            gold_in="after_hash",
            strip_calculations=True,
        ),
        "math": TableConfig(
            prompt_column="problem",
            answer_column="solution",
            solution_column="solution",
            level_column="level",
            type_column="type",
            gold_in="in_box",
        ),
    }[data]
    gold = {"jsonl": "72", "gsm8k": "48+24 = 72\n#### 72", "math": r"Thus $\boxed{72}$."}[data]
    level = {"jsonl": "hard", "math": "Level 3"}.get(data, "")
    problems = [
        Problem("a", "How many?", "72", solution=gold, level=level, weight=0.5),
        Problem("b", "Ünïcode\nand lines?", r"\frac{1}{2}"),
    ]
    write_problems(tmp_path / "p.jsonl", problems, cfg)
    found, notes = read_problems(str(tmp_path / "p.jsonl"), "data.path", cfg)
    if data != "jsonl":  # where the answer stands in the solution, it is one
        answer = {"gsm8k": r"#### \frac{1}{2}", "math": r"\boxed{\frac{1}{2}}"}[data]
        problems[1] = replace(problems[1], solution=answer)
    assert list(found) == problems
    assert notes == ["data: problems with a weight other than 1: 1 (a)"]


def test_generated_problems_read_back_as_they_were(tmp_path):
    cfg = ConventionsConfig(name="conventions", num_train=30, num_corpus=10)
    train_side = load_data(cfg, EvalConfig(num_problems=5)).train
    write_problems(tmp_path / "p.jsonl", train_side, cfg)
    assert read_problems(str(tmp_path / "p.jsonl"), "data.path")[0] == train_side


def test_weights_multiply_the_gradient(filtered, tmp_path):
    """Weight 2 on every problem doubles the loss and the gradient."""
    problems, _ = read_problems(str(filtered / "filtered.jsonl"), "data.path")
    lines = {}
    for weight in (1.0, 2.0):
        file = tmp_path / f"{weight}.jsonl"
        write_problems(file, [replace(p, weight=weight) for p in problems], ConventionsConfig())
        run = tmp_path / f"run-{weight}"
        words = ("train.num_steps=1", "diagnostics.every=0", "eval.every=0")
        assert train(run, *words, f"data.path={file}") == 0
        (lines[weight],) = metrics(run)
    assert lines[2.0]["grad_norm"] == pytest.approx(2 * lines[1.0]["grad_norm"], rel=1e-4)
    assert lines[2.0]["loss"] == pytest.approx(2 * lines[1.0]["loss"], rel=1e-4)
    assert lines[1.0]["grad_norm"] > 0
    write_problems(file, [replace(p, weight=0.0) for p in problems], ConventionsConfig())
    assert train(tmp_path / "none", f"data.path={file}") == 2, "it would train nothing"


def test_bad_input_is_one_sentence(passk, trained, tmp_path):
    refused = partial(passk, "filter", *MEASURED)
    assert_refused(refused("run=/nowhere"), "run=/nowhere does not exist")
    assert_refused(refused(f"run={trained}", "checkpoint=first"), "all, last, best or the number")
    assert_refused(refused(f"run={trained}", "filter.fdr=1.5"), "filter.fdr=1.5", "between 0 and 1")
    assert_refused(refused(f"run={trained}", "diagnose.num_samples=3"), "at least 4 is needed")
    directory = tmp_path / "run"
    hopeless = (f"run={trained}", "rollout.max_new_tokens=2", f"hydra.run.dir={directory}")
    assert_refused(refused(*hopeless), "is right, so no gradient can be seen")
    assert not directory.exists()


@pytest.mark.parametrize("weight", ["-1", '"a"', "true"])
def test_a_bad_weight_is_named_by_its_line(weight, tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(f'{{"prompt": "a", "answer": "1", "weight": {weight}}}\n')
    with pytest.raises(Exception, match="line 1: 'weight' must be a finite number of 0 or more"):
        read_problems(str(file), "data.path")


def write_trusted(file: Path, run: Path, count: int = 12) -> Path:
    """Problems of another seed, whose expressions are neither held out nor trained on."""
    cfg = load_run_config(run)
    data = load_data(cfg.data, cfg.eval)
    known = {normalised(problem.prompt) for problem in (*data.train, *data.heldout)}
    others = load_data(replace(cfg.data, seed=1), replace(cfg.eval, num_problems=40)).heldout
    apart = [problem for problem in others if normalised(problem.prompt) not in known]
    assert len(apart) >= count
    write_problems(file, apart[:count], cfg.data)
    return file


def test_trusted_problems_give_the_direction(trained, filtered, tmp_path):
    file = write_trusted(tmp_path / "trusted.jsonl", trained)
    words = (f"run={trained}", "filter.num_checkpoints=1", "filter.fdr=0.9")
    run = tmp_path / "run"
    assert filter_run(run, *words, f"filter.trusted={file}") == 0
    found = pd.read_parquet(run / "agreement" / "step-000003.parquet")
    usual = pd.read_parquet(filtered / "agreement" / "step-000003.parquet")
    pd.testing.assert_frame_equal(found[["problem_id", "n", "c"]], usual[["problem_id", "n", "c"]])
    differ = found["agreement"] != usual["agreement"]  # the same samples along another gradient
    signal = found["c"].between(1, found["n"] - 1)
    assert signal.any() and (differ == signal).all()
    page = (run / "filter.md").read_text()
    assert "gradient of Pass@1 is that of the trusted problems (filter.trusted)" in page
    assert "trusted" not in (filtered / "filter.md").read_text()
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert filter_run(run, *words, f"filter.trusted={file}", "resume=true") == 2


@pytest.mark.parametrize(("side", "what"), [("heldout", "held out"), ("train", "a training pro")])
def test_trusted_problems_that_measure_or_train_are_refused(passk, trained, tmp_path, side, what):
    cfg = load_run_config(trained)
    problems = getattr(load_data(cfg.data, cfg.eval), side)
    file = tmp_path / "trusted.jsonl"
    write_problems(file, problems[:2], cfg.data)
    outcome = passk("filter", *MEASURED, f"run={trained}", f"filter.trusted={file}")
    assert_refused(outcome, f"filter.trusted={file}", f"{problems[0].id} is {what}")
    outcome = passk("filter", *MEASURED, f"run={trained}", "filter.trusted=nowhere.jsonl")
    assert_refused(outcome, "filter.trusted=nowhere.jsonl cannot be read")
