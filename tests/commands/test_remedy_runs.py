"""Runs whose objective is chosen while training: what they log, resumed, on two ranks, refused."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
from resuming import as_if_killed, assert_same_run
from small_runs import SMALL, assert_refused, metrics, train

from passk.cli.main import main
from passk.config.compose import load_run_config
from passk.learner.checkpoint import MANIFEST, STATE, fingerprint
from passk.objectives.adaptive import History, choose, evidence, remember

STEPS = 6
WORDS = (f"train.num_steps={STEPS}", "train.save_every=2", "train.keep_last=9", "eval.every=0")
WORDS += ("diagnostics.every=0", "eval.num_samples=16", "rollout.num_prompts=9")
WORDS += ("learner.lr=1e-3", "regime.window=3", "regime.num_blocks=3")
EVERY_STEP = "regime.measure_every=1"
REMEDIES = {
    "adaptive_k": ("regime=adaptive_k", "regime.k=4", "regime.level=0.1", EVERY_STEP),
    "slope": ("regime=adaptive_k", "regime.k=4", "regime.trigger=slope", "regime.level=0.01"),
    "projected": ("regime=projected", "regime.k=4", "regime.level=0.1", "train.seed=2"),
    "along_adam": (
        "regime=projected",
        "regime.preconditioned=true",
        "regime.level=0.1",
        EVERY_STEP,
    ),
    "curriculum": ("regime=curriculum", "regime.min_success=0.5"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A run of each."""
    root = tmp_path_factory.mktemp("remedies")
    for name, words in REMEDIES.items():
        assert train(root / name, *WORDS, *words) == 0
    return {name: root / name for name in REMEDIES}


@pytest.mark.parametrize("name", REMEDIES)
def test_each_step_logs_the_objective_that_its_past_gives(runs, name):
    """The rules, fed with what the lines before say, give the objective of the next line."""
    regime, history, chosen = load_run_config(runs[name]).regime, History(), []
    for line in metrics(runs[name]):
        objective = choose(regime, history)
        chosen.append((objective.k, objective.pass1_weight, objective.min_success))
        assert (line["trained_k"], line["pass1_weight"], line["min_success"]) == chosen[-1]
        for key, value in evidence(regime, history, objective).items():
            assert line[key] == (None if value != value else value), key
        products = line["products"]
        assert (products is None) == (name in ("slope", "curriculum") or not _is_due(line, regime))
        assert products is None or len(products) == regime.k
        told = None if products is None else tuple(products)
        history = remember(regime, history, objective, line["pass1"], told)
    assert len(set(chosen)) > 1, "the objective changes, or this proves little"


def _is_due(line, regime) -> bool:
    return line["step"] % regime.measure_every == 0


@pytest.mark.parametrize("name", REMEDIES)
def test_a_resumed_run_is_the_run_that_was_never_stopped(runs, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(runs[name], run)
    as_if_killed(run, last_step=4)
    assert train(run, *WORDS, *REMEDIES[name], "resume=true") == 0
    assert_same_run(run, runs[name], STEPS)


def test_a_checkpoint_of_an_earlier_version_has_no_history(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs["curriculum"], run)
    as_if_killed(run, last_step=4)
    folder = run / "checkpoints" / "step-000004"
    state = json.loads((folder / STATE).read_text())
    del state["history"]
    (folder / STATE).write_text(json.dumps(state))
    listed = json.loads((folder / MANIFEST).read_text())
    listed |= {STATE: asdict(fingerprint(folder / STATE))}
    (folder / MANIFEST).write_text(json.dumps(listed))
    assert train(run, *WORDS, *REMEDIES["curriculum"], "resume=true") == 0
    assert metrics(run)[4]["min_success"] == 0.5


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_choose_as_one(tmp_path):
    words = [*WORDS, *REMEDIES["projected"], "train.num_steps=4", "learner.lr=1e-4"]
    assert train(tmp_path / "one", *words) == 0
    assert train(tmp_path / "two", *words, "learner.num_processes=2") == 0
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    for line, also in zip(one, two, strict=True):
        assert also["reasons"] == line["reasons"]
        assert also["pass1_weight"] == pytest.approx(line["pass1_weight"], rel=5e-3)
        if line["products"]:
            size = max(map(abs, line["products"]))
            assert also["products"] == pytest.approx(line["products"], abs=5e-3 * size)


def test_reproduce_takes_them_and_the_report_shows_them(tmp_path):
    names = ["passk", "adaptive_k", "curriculum", "projected"]
    words = ["train.num_steps=2", "sft_steps=2", "eval.every=2", "alignment_prompts=8"]
    words += ["alignment_samples=8", "regime.num_blocks=3", "regime.window=3"]
    regimes = f"regimes=[{','.join(names)}]"
    run = tmp_path / "run"
    assert main(["reproduce", *SMALL, *words, regimes, f'hydra.run.dir="{run}"']) == 0
    table = pd.read_csv(run / "table.csv")
    assert set(table["regime"]) == {"base", "sft", *names}
    aligned = pd.read_csv(run / "seed-0" / "alignment.csv").set_index("regime")
    # At step 0 the adaptive one is Pass@1 alone, and the projected one as its weight says.
    assert aligned["k"].to_dict() == {"passk": 2, "adaptive_k": 1, "curriculum": 2, "projected": 2}
    assert aligned.loc["projected", "pass1_weight"] == 0.7
    page = (run / "report.html").read_text()
    for words_on_page in ("Adaptive k up to 2", "Curriculum, Pass@2", "Projected Pass@2"):
        assert words_on_page in page
    assert (run / "figures" / "pareto_regimes.png").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["regime=adaptive_k", "regime.window=2"], ["regime.window=2", "at least 3"]),
        (["regime=projected", "regime.measure_every=0"], ["regime.measure_every=0", "at least 1"]),
        (["regime=projected", "regime.num_blocks=1"], ["regime.num_blocks=1", "at least 2"]),
        (["regime=projected", "regime.num_blocks=7"], ["rollout.num_prompts=6", "num_blocks=7"]),
        (["regime=adaptive_k", "regime.trigger=x"], ["regime.trigger=x", "products, slope"]),
        (["regime=adaptive_k", "regime.level=1"], ["regime.level=1", "below 1"]),
        (["regime=adaptive_k", "regime.k=1"], ["regime.k=1", "regime.k>=2"]),
        (["regime=projected", "regime.pass1_weight=1"], ["regime.pass1_weight=1", "below 1"]),
        (["regime=projected", "regime.estimator=s"], ["regime.estimator=mixture only, not s"]),
        (["regime=curriculum", "regime.min_success=0"], ["regime.min_success=0", "above 0"]),
        (["regime=passk", "regime.min_success=0.5"], ["regime.min_success=0.5", "no other"]),
        (["regime=curriculum", "regime.min_success=2"], ["regime.min_success=2", "0 and 1"]),
    ],
)
def test_bad_input_is_one_sentence(passk, tmp_path, words, says):
    assert_refused(passk("train", *SMALL, *words, "hydra.run.dir=out"), *says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["adaptive_k", "curriculum", "projected"])
def test_explain_refuses_what_has_no_one_objective(passk, name):
    outcome = passk("explain", f"regime={name}", "hydra.run.dir=out")
    assert_refused(outcome, f"regime={name} chooses its objective anew", "pass1, passk or hybrid")


def test_reproduce_names_the_regimes_there_are(passk):
    outcome = passk("reproduce", *SMALL, "regimes=[sft]", "hydra.run.dir=out")
    assert_refused(outcome, "pass1, passk, hybrid, adaptive_k, curriculum, projected")
