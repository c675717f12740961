"""`passk reproduce` in miniature: files, starting point, seeds, and who gets which override."""

import json
import shutil
from itertools import combinations_with_replacement

import numpy as np
import pandas as pd
import pytest
import yaml
from small_runs import SMALL, metrics, snapshot

from passk.cli.main import main
from passk.config.registry import conf_dir

TINY = (
    *SMALL,
    "train.num_steps=2",
    "sft_steps=3",
    "rollout.save_every=0",
    "diagnostics.every=1000",
    "eval.every=0",
    "alignment_prompts=12",
    "alignment_samples=8",
    "learner.lr=1e-3",
    "rollout.max_new_tokens=24",
)
CHILDREN = ("sft", "pass1", "passk", "hybrid")
ROWS = ("base", *CHILDREN)
TABLE = (
    "regime,seed,pass1,passk,delta_pass1,delta_pass1_low,delta_pass1_high,"
    "delta_passk,delta_passk_low,delta_passk_high,alignment,alignment_low,alignment_high,"
    "greedy,majk"
)
MEASURED = (
    "regime,k,pass1_weight,alignment,alignment_low,alignment_high,"
    "inner_product,inner_product_low,inner_product_high,num_prompts,num_samples"
)


def reproduce(directory, *overrides):
    return main(["reproduce", *TINY, *overrides, f"hydra.run.dir={directory}"])


def config(run):
    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """Two seeds; the user set k, the learning rate, the weight and the number of steps."""
    root = tmp_path_factory.mktemp("reproduced") / "main"
    assert reproduce(root, "seeds=2", "regime.pass1_weight=0.6") == 0
    return root


def test_every_file_of_the_contract_is_written(reproduced):
    for name in ("table.csv", "table.md", "report.html", "config.yaml", "overrides.txt"):
        assert (reproduced / name).stat().st_size > 0
    assert list((reproduced / "figures").glob("*.png"))
    assert json.loads((reproduced / "manifest.json").read_text())["status"] == "finished"
    for seed in (0, 1):
        seed_dir = reproduced / f"seed-{seed}"
        names = {path.name for path in seed_dir.iterdir()}
        assert names == {*CHILDREN, "alignment.csv", "kernel.csv"}
        for child in CHILDREN:
            manifest = json.loads((seed_dir / child / "manifest.json").read_text())
            assert manifest["status"] == "finished"


def test_table_has_a_row_per_regime_and_seed_and_one_over_seeds(reproduced):
    assert (reproduced / "table.csv").read_text().splitlines()[0] == TABLE
    table = pd.read_csv(reproduced / "table.csv", dtype={"seed": str})
    expected = [(regime, seed) for regime in ROWS for seed in ("0", "1", "all")]
    assert list(zip(table["regime"], table["seed"], strict=True)) == expected
    starts = table["regime"].isin(["base", "sft"])
    changes = table.columns.drop(["regime", "seed", "pass1", "passk", "greedy", "majk"])
    assert table.loc[starts, changes].isna().all(axis=None)
    assert table.loc[~starts, ["delta_pass1", "delta_passk"]].notna().all(axis=None)
    assert table["greedy"].between(0, 1).all() and table["majk"].isna().all()


def test_table_agrees_with_the_runs_below(reproduced):
    table = pd.read_csv(reproduced / "table.csv", dtype={"seed": str}).set_index(["regime", "seed"])
    for seed in ("0", "1"):
        ends = {}
        for child in CHILDREN:
            counts = pd.read_parquet(
                sorted((reproduced / f"seed-{seed}" / child / "eval").glob("*.parquet"))[-1]
            )
            counts = counts[counts["temperature"] == 1]
            ends[child] = float((counts["c"] / counts["n"]).mean())
            assert table.loc[(child, seed), "pass1"] == pytest.approx(ends[child])
        for child in CHILDREN[1:]:
            change = table.loc[(child, seed), "delta_pass1"]
            assert change == pytest.approx(ends[child] - ends["sft"])
    for child in CHILDREN:
        both = table.loc[[(child, "0"), (child, "1")], "pass1"]
        assert table.loc[(child, "all"), "pass1"] == pytest.approx(both.mean())


def test_start_is_measured_for_each_regime_and_pair_of_kinds(reproduced):
    for seed in (0, 1):
        seed_dir = reproduced / f"seed-{seed}"
        assert (seed_dir / "alignment.csv").read_text().splitlines()[0] == MEASURED
        measured = pd.read_csv(seed_dir / "alignment.csv").set_index("regime")
        assert list(measured.index) == ["pass1", "passk", "hybrid"]
        assert list(measured["pass1_weight"]) == [1.0, 0.0, 0.6]
        assert set(measured["k"]) == {2}
        assert (set(measured["num_prompts"]), set(measured["num_samples"])) == ({12}, {8})
        ends = measured[["inner_product_low", "inner_product", "inner_product_high"]].to_numpy()
        assert (np.diff(ends, axis=1) >= 0).all()
        kernel = pd.read_csv(seed_dir / "kernel.csv")
        assert list(kernel.columns) == ["kind_a", "kind_b", "kernel", "kernel_low", "kernel_high"]
        kinds = sorted({*kernel["kind_a"], *kernel["kind_b"]})
        assert set(kinds) <= {"calculator", "skill", "textbook"}
        pairs = list(zip(kernel["kind_a"], kernel["kind_b"], strict=True))
        assert pairs == list(combinations_with_replacement(kinds, 2))


def test_regimes_start_from_the_sft_checkpoint_of_their_seed(reproduced):
    for seed in (0, 1):
        seed_dir = reproduced / f"seed-{seed}"
        assert config(seed_dir / "sft")["train"]["init_from"] is None
        first = {child: metrics(seed_dir / child)[0] for child in CHILDREN[1:]}
        for child in CHILDREN[1:]:
            assert config(seed_dir / child)["train"]["init_from"] == str(seed_dir / "sft")
        # The same policy, problems and seeds: the first batch is the same whatever is optimised.
        assert len({line["reward_mean"] for line in first.values()}) == 1
        assert len({line["loss"] for line in first.values()}) == 3


def test_overrides_go_to_the_runs_they_concern(reproduced):
    for seed in (0, 1):
        runs = {child: config(reproduced / f"seed-{seed}" / child) for child in CHILDREN}
        for child, cfg in runs.items():
            assert cfg["regime"]["name"] == child
            assert cfg["train"]["seed"] == cfg["data"]["seed"] == seed
            assert (cfg["num_threads"], cfg["eval"]["ks"], cfg["data"]["num_train"]) == (
                1,
                [1, 2],
                48,
            )
            assert cfg["rollout"]["max_new_tokens"] == 24, "all are measured alike"
            assert cfg["regime"]["num_demonstrations"] == 12
            is_sft = child == "sft"
            assert cfg["train"]["num_steps"] == (3 if is_sft else 2)
            assert (cfg["learner"]["lr"] == 1e-3) == (not is_sft or _sft_default("lr") == 1e-3)
        weights = [runs[child]["regime"]["pass1_weight"] for child in CHILDREN[1:]]
        assert weights == [1.0, 0.0, 0.6]
        assert {runs[child]["regime"]["k"] for child in CHILDREN[1:]} == {2}
        assert len(metrics(reproduced / f"seed-{seed}" / "sft")) == 3


def _sft_default(name):
    return float(yaml.safe_load((conf_dir() / "regime" / "sft.yaml").read_text())["learner"][name])


def test_seeds_differ_in_data_and_training(reproduced):
    tables = [
        pd.read_parquet(sorted((reproduced / f"seed-{seed}/sft/eval").glob("*.parquet"))[-1])
        for seed in (0, 1)
    ]
    assert set(tables[0]["problem_id"]).isdisjoint(tables[1]["problem_id"])


def test_resuming_runs_only_what_is_missing(reproduced, tmp_path, capsys):
    copy = tmp_path / "main"
    shutil.copytree(reproduced, copy)
    for run in copy.glob("seed-*/*/config.yaml"):  # the copy stands elsewhere
        run.write_text(run.read_text().replace(str(reproduced), str(copy)))
    shutil.rmtree(copy / "seed-1" / "hybrid")
    (copy / "table.csv").unlink()
    kept = {name: what for name, what in snapshot(copy).items() if name.startswith("seed-")}
    assert reproduce(copy, "seeds=2", "regime.pass1_weight=0.6", "resume=true") == 0
    out = capsys.readouterr().out
    assert "hybrid 2/2" in out
    assert "sft " not in out and "passk " not in out and "gradient alignment" not in out
    after = snapshot(copy)
    assert {name: after[name] for name in kept} == kept
    assert (copy / "seed-1" / "hybrid" / "metrics.jsonl").is_file()
    assert after["table.csv"] == (reproduced / "table.csv").read_bytes()


def test_resuming_with_other_settings_is_refused(reproduced, capsys):
    before = snapshot(reproduced)
    words = ["seeds=2", "regime.pass1_weight=0.6", "resume=true"]
    assert reproduce(reproduced, *words, "alignment_prompts=16") == 2
    assert "alignment_prompts=16" in capsys.readouterr().err
    assert reproduce(reproduced, *words, "eval.num_problems=5") == 2
    assert "eval.num_problems=5" in capsys.readouterr().err
    assert snapshot(reproduced) == before


def test_some_regimes_only(tmp_path):
    root = tmp_path / "with space é"
    words = [*TINY, "regimes=[passk]", "train.seed=4", f'hydra.run.dir="{root}"']
    assert main(["reproduce", *words]) == 0
    assert {p.name for p in (root / "seed-4").iterdir() if p.is_dir()} == {"sft", "passk"}
    table = pd.read_csv(root / "table.csv")
    assert table["regime"].tolist() == ["base", "sft", "passk"] and (table["seed"] == 4).all()


def test_weights_between_sft_and_passk_are_evaluated_and_reported(tmp_path, capsys):
    words = ("diagnostics.every=0", "eval.num_samples=8", "eval.ks=[1,2]", "eval.num_problems=6")
    run = tmp_path / "run"
    assert reproduce(run, *words, "regimes=[pass1]", "interpolate=[0.5]") == 2
    assert "between SFT and passk, which is not in regimes=['pass1']" in capsys.readouterr().err
    assert reproduce(run, *words, "interpolate=[1.5]") == 2
    assert "interpolate=[1.5] must be weights from 0 to 1" in capsys.readouterr().err
    words += ("regimes=[passk]", "interpolate=[0.5,1]")
    assert reproduce(run, *words) == 0
    evaluation = run / "seed-0" / "interpolation"
    fronts = pd.read_csv(run / "tables" / "fronts.csv")
    assert fronts["regime"].tolist()[-2:] == ["0.5 sft + 0.5 passk", "0 sft + 1 passk"]
    deltas = [name for name in fronts if name.startswith("delta_")]
    ends = (fronts.set_index("regime").loc[name, deltas] for name in ("0 sft + 1 passk", "passk"))
    np.testing.assert_array_equal(*ends)  # all of the weight is Pass@k-only itself
    assert "Weights 0.5 SFT + 0.5 Pass@2-only" in (run / "report.html").read_text()
    before = snapshot(evaluation)
    shutil.rmtree(evaluation / "weight-1")
    facts = json.loads((evaluation / "manifest.json").read_text())
    (evaluation / "manifest.json").write_text(json.dumps(facts | {"status": "interrupted"}))
    assert reproduce(run, *words, "resume=true") == 0
    after = snapshot(evaluation)
    assert after["weight-1/eval/table.csv"] == before["weight-1/eval/table.csv"]
    assert reproduce(run, *words, "resume=true") == 0  # finished: not evaluated again
    assert snapshot(evaluation) == after
