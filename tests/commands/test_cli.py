"""What the command line prints and returns; bad input costs one line and leaves nothing behind."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import (
    LEARNER_FILE,
    SMALL,
    Outcome,
    assert_refused,
    cut_short,
    in_subprocess,
    snapshot,
    train,
)

from passk import __version__
from passk.cli import main as cli_module
from passk.cli.main import SUMMARIES


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished run of two steps with a checkpoint after each."""
    run = tmp_path_factory.mktemp("trained") / "run"
    assert train(run, "train.num_steps=2", "train.save_every=1", "diagnostics.every=0") == 0
    return run


REGIMES = "adaptive_k, curriculum, hybrid, pass1, passk, projected, sft"


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_the_commands(passk, words):
    outcome = passk(*words)
    assert (outcome.code, outcome.err) == (0, "")
    for command in SUMMARIES:
        assert f"\n  {command} " in outcome.out


def test_version(passk):
    assert passk("--version") == Outcome(0, f"{__version__}\n", "")


def test_unknown_command(passk, tmp_path):
    assert_refused(passk("trian"), "trian is not a command", "train, eval, reproduce, report")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        (["--help"], (0, "")),
        (["train", "--help"], (0, "")),
        (
            ["explain"],
            (1, "passk: stopped: the program that read its output has ended, as head does\n"),
        ),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves(tmp_path, words, ends, unbuffered):
    """As `passk ... | head` does; without a buffer it is noticed at the first line, else later."""
    with subprocess.Popen(
        [sys.executable, "-m", "passk", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        err = process.stderr.read()
        if unbuffered or ends[0] == 0:
            assert (process.wait(), err) == ends
        else:
            assert "Traceback" not in err and process.wait() in (0, 1)


@pytest.mark.parametrize("command", sorted(SUMMARIES))
def test_help_of_every_command(passk, tmp_path, command):
    outcome = passk(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"passk {command}" in outcome.out
    assert "DIR" in outcome.out and (command == "sweep" or "hydra.run.dir=DIR" in outcome.out)
    assert not list(tmp_path.iterdir())


def test_help_of_train_names_groups_and_keys(passk):
    shown = passk("train", "--help").out
    for group, options in {
        "model": "tiny",
        "data": "conventions, ",
        "regime": REGIMES,
        "rollout": "auto, torch, vllm",
        "learner": "adamw",
        "eval": "default",
        "experiment": "gsm8k-smollm2, math-diagnostic, smoke",
    }.items():
        assert f"{group}: {options}" in shown
    for key in ("pass1_weight", "num_samples", "init_from", "calculator_fraction"):
        assert key in shown
    assert "_schema" not in shown
    assert "regime:" not in passk("report", "--help").out


def test_help_shows_what_was_chosen_and_refuses_what_cannot_be(passk):
    shown = passk("train", "regime=sft", "--help").out
    assert "\n  name: sft\n" in shown
    assert_refused(passk("train", "regime=none", "--help"), "regime=none is unknown")


@pytest.mark.parametrize("command", ["train", "eval", "reproduce"])
def test_cfg_job_prints_resolved_yaml(passk, tmp_path, command):
    outcome = passk(command, "data.cue=0.25", "--cfg", "job")
    assert (outcome.code, outcome.err) == (0, "")
    shown = yaml.safe_load(outcome.out)
    assert shown["data"]["corpus_cue"] == 0.25
    assert "${" not in outcome.out
    assert not list(tmp_path.iterdir())


def test_cheap_paths_do_not_import_torch(tmp_path):
    code = f"""
import io, contextlib, sys
from passk.cli.main import main
codes = []
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    for words in (["--help"], ["train", "--help"], ["train", "--cfg", "job"],
                  ["train", "regime.k=99"], ["train", "regime.kk=1"], ["report"],
                  ["train", "hydra.run.dir={tmp_path}"], ["eval", "run=nowhere"]):
        codes.append(main(words))
print(codes, [m for m in ("torch", "transformers", "pandas") if m in sys.modules])
"""
    (tmp_path / "something").touch()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[0, 0, 0, 2, 2, 2, 2, 2] []\n"
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.parametrize("command", ["report", "compare", "toy", "explain"])
def test_commands_without_a_model_do_not_import_torch(command):
    code = f"import sys, passk.cli.main, passk.cli.commands.{command}"
    code += "; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


REFUSED = [
    (["regime.kk=3"], ["regime.kk", "did you mean regime.k?"]),
    (["nonsense=1"], ["nonsense is not a key"]),
    (["+unknown=1"], ["unknown is not a key"]),
    (["regime.k=32"], ["regime.k=32", "no unbiased estimator"]),
    (["regime.k=many"], ["regime.k", "many"]),
    (
        ["regime=none"],
        ["regime=none is unknown", "adaptive_k, curriculum, hybrid, pass1, passk, projected, sft"],
    ),
    (["train.init_from=no/such/run"], ["train.init_from=no/such/run does not exist"]),
    (["data=jsonl"], ["data=jsonl", "verifier=math"]),
    (["data=jsonl", "verifier=exact"], ["data.path", "data.eval_path"]),
    (["data.path=nowhere.jsonl"], ["data.path=nowhere.jsonl cannot be read"]),
    (
        ["+data.prompt.chat_template_kwargs.tokenize=true"],
        ["data.prompt.chat_template_kwargs.tokenize", "enable_thinking=false"],
    ),
    (["data.prompt.chat_template_kwargs={a: 1}"], ["+data.prompt.chat_template_kwargs.KEY=VALUE"]),
    (["data.prompt.chat_template_kwargs.a=1"], ["+data.prompt.chat_template_kwargs.KEY=VALUE"]),
    (["regime.k=[1"], ["[1"]),
    (["train"], ["train"]),
    (["regime.k=2,4"], ["--multirun"]),
    (["resume=true", "hydra.run.dir=empty"], ["hydra.run.dir", "holds no run to resume"]),
]


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(passk, tmp_path, words, says):
    assert_refused(passk("train", *words), *says)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("command", ["eval", "reproduce"])
def test_other_commands_refuse_as_train_does(passk, tmp_path, command):
    assert_refused(passk(command, "model.pth=x"), "model.pth", "did you mean model.path?")
    assert_refused(passk(command, "eval.num_samples=4"), "eval.num_samples=4")
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("ks", ["[{}]", "[[2,3]]", "[1,[2,x]]", "[{a: 1}]"])
@pytest.mark.parametrize(("command", "key"), [("eval", "eval.ks"), ("diagnose", "diagnose.ks")])
def test_lists_in_lists_are_refused(passk, tmp_path, command, key, ks):
    """Also where the list may be null."""
    words = ("model.path=tiny", f"{key}={ks}")
    assert_refused(passk(command, *words), key, "must be a list of whole numbers")
    assert snapshot(tmp_path) == {}


def test_a_refusal_from_the_shell(tmp_path):
    outcome = in_subprocess(["train", "regime.k=32", "eval.num_samples=128"], tmp_path)
    assert_refused(outcome, "regime.k=32 with rollout.num_samples=16", "no unbiased estimator")
    assert (outcome.out, snapshot(tmp_path)) == ("", {})


def test_missing_run_to_evaluate(passk, tmp_path):
    assert_refused(passk("eval", "run=no/such/run"), "run=no/such/run does not exist")
    (tmp_path / "plain").mkdir()
    before = snapshot(tmp_path)
    assert_refused(passk("eval", "run=plain"), "plain is not a run directory")
    assert_refused(passk("train", "train.init_from=plain"), "neither a run directory nor")
    assert snapshot(tmp_path) == before


def test_run_directory_that_is_not_empty(passk, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    before = snapshot(tmp_path)
    for command in ("train", "reproduce", "eval"):
        assert_refused(passk(command, "hydra.run.dir=mine"), "mine is not empty", "resume=true")
    assert_refused(passk("train", "hydra.run.dir=mine", "resume=true"), "holds no run to resume")
    assert snapshot(tmp_path) == before


def test_run_directory_that_cannot_be_made(passk, tmp_path):
    (tmp_path / "file").touch()
    assert_refused(passk("train", "hydra.run.dir=file/run"), "hydra.run.dir", "file")
    assert list(snapshot(tmp_path)) == ["file"]


MALFORMED = [
    ('{"prompt": "T1+1=", "answer": [2]}', "'answer' must be text or a finite number"),
    ('{"prompt": "T1+1="}', "'answer' is missing"),
    ('{"prompt": "T1+1=", ', "not a JSON object"),
]


@pytest.mark.parametrize(("row", "says"), MALFORMED)
@pytest.mark.parametrize("key", ["path", "eval_path"])
def test_malformed_data_row_names_file_and_line(passk, tmp_path, key, row, says):
    (tmp_path / "good.jsonl").write_text('{"prompt": "T1+2=", "answer": "3"}\n')
    (tmp_path / "bad.jsonl").write_text(f'{{"prompt": "T2+2=", "answer": "4"}}\n{row}\n')
    before = snapshot(tmp_path)
    paths = {"path": "good.jsonl", "eval_path": "good.jsonl"} | {key: "bad.jsonl"}
    words = [f"data.{name}={file}" for name, file in paths.items()]
    assert_refused(
        passk("train", "data=jsonl", "verifier=conventions", *words), "bad.jsonl, line 2", says
    )
    assert snapshot(tmp_path) == before


def test_reproduce_refuses_a_malformed_row_and_leaves_nothing(passk, tmp_path):
    (tmp_path / "bad.jsonl").write_text("no\n")
    before = snapshot(tmp_path)
    assert_refused(passk("reproduce", *SMALL, "data.path=bad.jsonl"), "bad.jsonl, line 1")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ["train", "train.init_from=run"],
        ["train", "train.init_from=run/checkpoints/step-000002"],
        ["train", "model.path=run/checkpoints/step-000002"],
        ["eval", "run=run"],
        ["eval", "model.path=run/checkpoints/step-000002"],
    ],
)
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_checkpoint_cut_short_is_found_and_the_one_before_offered(
    passk, tmp_path, trained, words, file
):
    shutil.copytree(trained, tmp_path / "run")
    cut_short(tmp_path / "run" / "checkpoints" / "step-000002" / file)
    before = snapshot(tmp_path)
    outcome = passk(*words, *(SMALL if words[0] == "train" else ()))
    assert_refused(outcome, "step-000002 is damaged", file, "1000 bytes", "step-000001 before it")
    assert snapshot(tmp_path) == before


def test_checkpoint_of_the_right_size_with_other_content(passk, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    for step in (1, 2):
        file = tmp_path / "run" / "checkpoints" / f"step-00000{step}" / "model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert_refused(passk("eval", "run=run"), "model.safetensors", "SHA-256", "no earlier one")


def test_checkpoint_with_a_file_missing(passk, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "step-000002" / LEARNER_FILE).unlink()
    assert_refused(passk("eval", "run=run"), f"{LEARNER_FILE} is missing", "step-000001")


def test_eval_gives_the_table_of_the_last_checkpoint(passk, tmp_path, trained):
    words = ("hydra.run.dir=measured", "num_threads=1", "eval.temperatures=[]")  # as a run has it
    outcome = passk("eval", f'run="{trained}"', *words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "| step | Pass@1 | Pass@2 |" in outcome.out
    measured, ended = tmp_path / "measured", trained / "eval" / "step-000002.parquet"
    assert (measured / "eval" / "step-000002.parquet").read_bytes() == ended.read_bytes()
    assert json.loads((measured / "manifest.json").read_text())["command"] == "eval"


def test_report_takes_directories_even_with_an_equals_sign(passk, tmp_path, trained):
    cell = tmp_path / "regime.k=2,regime.pass1_weight=0.5"
    shutil.copytree(trained, cell)
    outcome = passk("report", str(cell), "out=page")
    assert (outcome.code, outcome.err) == (0, "")
    assert {"table.csv", "table.md", "report.html"} <= set(snapshot(tmp_path / "page"))
    assert not (tmp_path / "outputs").exists()
    assert_refused(passk("report", "nowhere"), "nowhere is not a directory")


def test_a_cell_is_named_as_its_directory_is(passk, tmp_path, trained):
    """With the signs that Hydra takes for its own, and without quotes."""
    for k in (2, 4):
        shutil.copytree(trained, tmp_path / f"s/regime.k={k},regime.pass1_weight=0.5")
    small = ("eval.num_problems=4", "eval.num_samples=8", "eval.ks=[1,2]")
    cell = "s/regime.k=2,regime.pass1_weight=0.5"
    done = passk("eval", f"run={cell}", *small, "hydra.run.dir=a, b=c")
    assert (done.code, done.err) == (0, "") and (tmp_path / "a, b=c" / "eval").is_dir()
    missing = passk("eval", "run=s/regime.k=3,regime.pass1_weight=0.5", *small)
    assert_refused(missing, "run=s/regime.k=3,regime.pass1_weight=0.5 does not exist")


def test_anything_else_is_exit_code_1_with_a_traceback(passk, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(cli_module, "to_config", broken)
    outcome = passk("train")
    assert outcome.code == 1
    assert "RuntimeError: a bug of ours" in outcome.err
    assert outcome.err.splitlines()[-1].startswith("passk: failed")
