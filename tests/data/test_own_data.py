"""Runs on problems of the user's own: columns, shots, what is left out, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from small_runs import SMALL, assert_refused, metrics, snapshot

import passk as passk_package
from passk.cli.resume import refuse_other_problems
from passk.config.schema import TableConfig, TrainConfig
from passk.data.problems import load_data
from passk.errors import UserError

WORDS = [word for word in SMALL if not word.startswith("data.")]
OWN = [
    *WORDS,
    "data=jsonl",
    "data.path=sums",
    "verifier=conventions",
    "data.prompt_column=q",
    "data.answer_column=a",
    "data.gold_in=after_hash",
    "data.solution_column=steps",
    "data.type_column=sort",
    "rollout.max_new_tokens=16",
    "train.num_steps=2",
    "diagnostics.every=0",
]


def row(a, b):
    total = f"{a}+{b}={a + b}"
    return {"q": f"T{a}+{b}=", "a": f"{total} #### {a + b}", "steps": total, "sort": "sum"}


@pytest.fixture
def sums(tmp_path):
    """A folder with both splits, in the tiny model's alphabet; one training problem is held out
    too and one has no answer."""
    folder = tmp_path / "sums"
    folder.mkdir()
    train = [row(a, b) for a in range(1, 6) for b in range(1, 6)]
    train += [row(7, 7), row(8, 8) | {"a": "none"}]
    heldout = [row(a, 9) for a in range(1, 10)] + [row(7, 7)]
    for split, rows in (("train", train), ("test", heldout)):
        text = "".join(f"{json.dumps(fields)}\n" for fields in rows)
        (folder / f"{split}.jsonl").write_text(text)
    return folder


NOTES = (
    "data: rows left out because they hold no answer: 1 (sums/train.jsonl, line 27)",
    "data: problems left out of training because they are held out too: 1 (train-26 is test-10)",
)


@pytest.mark.parametrize("regime", ["hybrid", "sft"])
def test_a_run_on_a_folder(passk, sums, tmp_path, regime):
    words = [word for word in OWN if regime == "hybrid" or "regime.k=" not in word]
    outcome = passk("train", *words, f"regime={regime}", "hydra.run.dir=run")
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    for note in NOTES:
        assert outcome.out.count(note) == 1
    assert len(metrics(tmp_path / "run")) == 2
    evaluated = set(
        pd.read_parquet(tmp_path / "run" / "eval" / "step-000002.parquet")["problem_id"]
    )
    assert len(evaluated) == 8 and evaluated < {f"test-{i}" for i in range(1, 11)}
    if regime == "hybrid":
        drawn = pd.read_parquet(tmp_path / "run" / "rollouts")["problem_id"]
        assert not set(drawn) & {"train-26", "train-27"}
    again = passk("eval", "run=run", "hydra.run.dir=again")
    assert again.code == 0 and "left out" not in again.out, "the training side is not needed"
    table = pd.read_parquet(tmp_path / "again" / "eval" / "step-000002.parquet")
    assert set(table["problem_id"]) == evaluated


def test_a_run_with_shots(passk, sums, tmp_path):
    shots = ["data.prompt.num_shots=2", "data.prompt.separator=';'"]
    outcome = passk("train", *OWN, *shots, "hydra.run.dir=run")
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert passk("eval", "run=run", "hydra.run.dir=again", "eval.temperatures=[]").code == 0
    tables = [tmp_path / name / "eval" / "step-000002.parquet" for name in ("run", "again")]
    assert tables[0].read_bytes() == tables[1].read_bytes(), "evaluated with the same shots"


def test_a_reproduction_says_once_what_was_left_out(passk, sums):
    words = [word for word in OWN if not word.startswith("train.num_steps")]
    small = ["train.num_steps=1", "sft_steps=1", "regimes=[pass1]", "diagnostics.num_blocks=3"]
    outcome = passk("reproduce", *words, *small, "alignment_prompts=6", "alignment_samples=4")
    assert outcome.code == 0, outcome.err
    for note in NOTES:
        assert outcome.out.count(note) == 1


@pytest.fixture
def evaluation(passk, sums):
    """Evaluate the held-out sums of a folder; the words that do it."""
    own = [word for word in OWN if not word.startswith(("train.", "regime.", "diagnostics."))]
    kept = ("data", "verifier", "eval.", "rollout.max_new", "num_threads")
    words = ["eval", *(w for w in own if w.startswith(kept)), "hydra.run.dir=measured"]
    first = passk(*words)
    assert (first.code, first.err) == (0, ""), first.err
    return words


def other_sums(file, change):
    lines = file.read_text().splitlines()
    file.write_text("".join(f"{line}\n" for line in change(lines)))


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:1],
        lambda lines: lines[::-1],
        lambda lines: [line.replace("1+9=10 #### 10", "1+9=10 #### 11") for line in lines],
    ],
)
def test_an_evaluation_of_other_problems_is_not_resumed(passk, sums, evaluation, tmp_path, change):
    other_sums(sums / "train.jsonl", lambda lines: lines[1:])
    assert passk(*evaluation, "--resume").code == 0, "the training side is not measured"
    other_sums(sums / "test.jsonl", change)
    before = snapshot(tmp_path)
    says = ("held-out problems of data.path or data.eval_path, or the shots, changed since",)
    assert_refused(passk(*evaluation, "--resume"), *says, "measured", "another directory")
    assert snapshot(tmp_path) == before


def test_an_evaluation_of_other_weights_is_not_resumed(passk, sums, evaluation, tmp_path):
    tiny = Path(passk_package.__file__).parent / "assets" / "tiny"
    shutil.copytree(tiny, tmp_path / "model")
    words = [*evaluation[:-1], "model.path=./model", "hydra.run.dir=of_model"]
    assert passk(*words).code == 0
    assert passk(*words, "--resume").code == 0
    os.utime(tmp_path / "model" / "model.safetensors", (1, 1))
    before = snapshot(tmp_path)
    assert_refused(passk(*words, "--resume"), "model.safetensors of the model changed since")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("split", "says"),
    [("train", "the training problems of data.path changed"), ("test", "the held-out problems")],
)
def test_training_on_other_problems_is_not_resumed(passk, sums, tmp_path, split, says):
    words = ["train", *OWN, "eval.every=0", "hydra.run.dir=run"]
    assert passk(*words).code == 0
    assert passk(*words, "--resume").code == 0
    other_sums(sums / f"{split}.jsonl", lambda lines: lines[1:])
    before = snapshot(tmp_path)
    assert_refused(passk(*words, "--resume"), says)
    assert snapshot(tmp_path) == before


def test_what_is_typed_for_the_evaluation_of_a_run_replaces_no_more(passk, sums, tmp_path):
    plain = ["data.prompt.separator=';'", "data.prompt.template='T{problem}'"]
    outcome = passk("train", *OWN, *plain, "eval.every=0", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    typed = ["data.prompt.num_shots=1", "data.prompt.style=plain"]
    assert passk("eval", "run=run", *typed, "hydra.run.dir=again").code == 0
    prompts = [
        yaml.safe_load((tmp_path / name / "config.yaml").read_text())["data"]["prompt"]
        for name in ("run", "again")
    ]
    assert prompts[1] == prompts[0] | {"num_shots": 1, "style": "plain"}
    assert prompts[1]["template"] == "T{problem}"


@pytest.mark.parametrize("split", ["train", "test"])
def test_characters_that_the_tokenizer_does_not_know_are_refused(passk, sums, tmp_path, split):
    other_sums(sums / f"{split}.jsonl", lambda lines: [lines[0].replace("T1+", "What is 1+")])
    before = snapshot(tmp_path)
    says = ("the tokenizer of model.path=tiny does not know", f"the prompt of {split}-1,")
    assert_refused(passk("train", *OWN), *says)
    assert snapshot(tmp_path) == before


REFUSED = [
    (["data.prompt.style=chat"], ["data.prompt.style=chat", "no chat template"]),
    (["data.prompt.num_shots=26"], ["data.prompt.num_shots=26", "only 25 training problems"]),
    (["rollout.max_new_tokens=124"], ["test-", "rollout.max_new_tokens=124", "context of 128"]),
    (["eval.max_new_tokens=125"], ["eval.max_new_tokens=125", "lower eval.max_new_tokens"]),
    (["rollout.max_model_len=20"], ["rollout.max_model_len of 20", "rollout.max_new_tokens=16"]),
    (["rollout.max_model_len=129"], ["rollout.max_model_len=129", "context of 128"]),
    (["data.prompt_column=question"], ["sums/train.jsonl, line 1", "'question' is missing"]),
    (["data.eval_split=dev"], ["data.path=sums", "no file of the split 'dev'"]),
    (["data.gold_in=in_box"], ["data.path=sums", "data.gold_in=in_box"]),
    (["data.eval_path=empty.jsonl"], ["data.eval_path=empty.jsonl holds no problems"]),
    (["regime=sft", "data.solution_column=null"], ["regime=sft", "data.solution_column"]),
]


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_data_that_cannot_be_used_is_one_line_and_leaves_nothing(
    passk,
    sums,
    tmp_path,
    words,
    says,
):
    (tmp_path / "empty.jsonl").touch()
    before = snapshot(tmp_path)
    given = OWN if "regime=sft" not in words else [w for w in OWN if "regime.k=" not in w]
    keys = {word.split("=")[0] for word in words}
    outcome = passk("train", *(w for w in given if w.split("=")[0] not in keys), *words)
    assert_refused(outcome, *says)
    assert snapshot(tmp_path) == before


def with_wrong_answers(lines):
    return [line.replace("#### 1", "#### 2") for line in lines]


MEASURE = {
    "eval": ("eval",),
    "diagnose": (
        "diagnose",
        "diagnose.num_prompts=4",
        "diagnose.num_blocks=4",
        "diagnose.num_samples=4",
    ),
    "filter": (
        "filter",
        "diagnose.num_prompts=4",
        "diagnose.num_blocks=4",
        "diagnose.num_samples=4",
    ),
}


def test_a_run_is_measured_on_its_own_problems_from_every_folder(
    passk, sums, tmp_path, monkeypatch
):
    """Other folders may hold other problems of the same name, or none."""
    assert passk("train", *OWN, "hydra.run.dir=run").code == 0
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["data"]["path"] == str(sums)
    other = tmp_path / "other"
    shutil.copytree(sums, other / "sums")
    other_sums(other / "sums" / "test.jsonl", with_wrong_answers)
    monkeypatch.chdir(other)
    outcome = passk("eval", "run=../run", "hydra.run.dir=ev")
    assert outcome.code == 0, outcome.err
    ids = [pd.read_parquet(f / "problems.parquet") for f in (tmp_path / "run", other / "ev")]
    heldout = ids[0][ids[0]["split"] == "heldout"].reset_index(drop=True)
    assert heldout["answer"].to_list() == ids[1]["answer"].to_list()
    assert passk("eval", "run=../run", "data.path=sums", "hydra.run.dir=typed").code == 0
    typed = pd.read_parquet(other / "typed" / "problems.parquet")
    assert typed["answer"].to_list() != heldout["answer"].to_list()
    words = ["train", *OWN, "hydra.run.dir=../run", "resume=true"]
    says = f"resume=true with data.path={other / 'sums'}, but the run in"
    assert_refused(passk(*words), says, f"was started with data.path={sums}")


@pytest.mark.parametrize("command", MEASURE)
def test_a_run_whose_problems_were_changed_is_not_measured_without_a_word(
    passk, sums, tmp_path, command
):
    assert passk("train", *OWN, "hydra.run.dir=run").code == 0
    words = [*MEASURE[command], "run=run", "hydra.run.dir=measured"]
    other_sums(sums / "test.jsonl", with_wrong_answers)
    before = snapshot(tmp_path)
    says = ("held-out problems of data.path", "the run in run any more (heldout_sha256 was ")
    assert_refused(passk(*words), *says, "or give data.path or data.eval_path to take what")
    (tmp_path / "sums").rename(tmp_path / "moved")
    says = ("the problems of the run in run cannot be read: data.path=", "sums cannot be read")
    assert_refused(
        passk(*words), *says, "give data.path and data.eval_path if they have been moved"
    )
    (tmp_path / "moved").rename(tmp_path / "sums")
    assert snapshot(tmp_path) == before
    if command == "eval":
        outcome = passk(*words, "data.path=sums")
        assert outcome.code == 0, outcome.err
    else:
        original = (sums / "test.jsonl").read_text().replace("#### 2", "#### 1")
        (sums / "test.jsonl").write_text(original)
        other_sums(sums / "train.jsonl", lambda lines: lines[1:])
        says = ("the training problems of data.path are not those of the run", "training_sha256")
        assert_refused(passk(*words), *says)


def test_a_reproduction_whose_problems_change_on_the_way_stops(sums, tmp_path):
    cfg = TrainConfig(data=jsonl_config(sums))
    digests = load_data(cfg.data, cfg.eval).digests
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "manifest.json").write_text(json.dumps(digests))
    refuse_other_problems(cfg, tmp_path / "sft", needs_training=True)
    other_sums(sums / "train.jsonl", lambda lines: lines[1:])
    refuse_other_problems(cfg, tmp_path / "sft", needs_training=False)
    other_sums(sums / "test.jsonl", lambda lines: lines[1:])
    with pytest.raises(UserError, match=r"heldout_sha256 was .* put it back, or give data"):
        refuse_other_problems(cfg, tmp_path / "sft", needs_training=False)


def jsonl_config(folder):
    columns = {"prompt_column": "q", "answer_column": "a", "gold_in": "after_hash"}
    return TableConfig(name="jsonl", path=str(folder), solution_column="steps", **columns)


def test_bad_files_are_refused_before_torch_is_imported(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"prompt": "\\ud83d", "answer": "1"}\n')
    words = ["train", "data=jsonl", "verifier=exact", "data.path=bad.jsonl"]
    words.append("data.eval_path=bad.jsonl")
    code = f"import sys; from passk.cli.main import main; print(main({words}))"
    code += "; print('torch' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", "False", "False"], done.stderr
    assert "bad.jsonl, line 1: 'prompt' holds half of a surrogate pair" in done.stderr
