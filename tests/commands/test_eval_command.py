"""`passk eval`: raw samples on disk, tables from them, and an interruption that loses none."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import cut_short, pixels_of, snapshot, train

from passk.cli.main import main
from passk.cli.resume import model_state, refuse_other_contents
from passk.config.compose import load_run_config
from passk.errors import UserError
from passk.evaluation.tables import (
    SAMPLE_COLUMNS,
    at_temperature,
    count_correct,
    eval_tables,
    pass_curve,
)
from passk.learner.policy import TINY
from passk.report.tables import kind_table
from passk.runs.reader import RunRecord, load_run

NUM_PROBLEMS, NUM_SAMPLES, CHUNK = 30, 8, 7
WORDS = ("num_threads=1", "eval.ks=[1,2]", f"eval.num_samples={NUM_SAMPLES}")
WORDS += (f"eval.num_problems={NUM_PROBLEMS}", f"eval.chunk_size={CHUNK}", "eval.num_resamples=50")
FILES = {"pass_at_k.csv", "pass_at_k.png", "step-000000.parquet", "summary.csv"}
FILES |= {"table.csv", "table.md", "table_by_kind.csv", "front.csv", "front_summary.csv"}


def evaluate(directory: Path, *words: str) -> int:
    """`passk eval` in this process; the exit code."""
    return main(["eval", *WORDS, *words, f'hydra.run.dir="{directory}"'])


def chunks(run: Path) -> list[Path]:
    return sorted((run / "samples").glob("chunk-*.parquet"))


def samples(run: Path) -> pd.DataFrame:
    return pd.concat(map(pd.read_parquet, chunks(run)), ignore_index=True)


def status(run: Path) -> str:
    return json.loads((run / "manifest.json").read_text())["status"]


def assert_same_evaluation(one: Path, other: Path) -> None:
    """Byte by byte, every table and every sample, and each sample once."""
    for folder in ("eval", "samples"):
        assert snapshot(one / folder) == snapshot(other / folder)
    drawn = samples(one)
    assert not drawn.duplicated(["problem_id", "sample", "temperature"]).any()
    assert (drawn.groupby("problem_id").size() == drawn.groupby("problem_id").size().max()).all()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An evaluation that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert evaluate(run) == 0
    return run


@pytest.fixture
def stopped(whole, tmp_path) -> Path:
    """The same evaluation as a kill leaves it in its fourth chunk."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "eval")
    for file in chunks(run)[3:]:
        file.unlink()
    (run / "samples" / ".chunk-000021.parquet.partial").write_bytes(b"half")
    return run


def test_files_and_rows(whole):
    assert {file.name for file in (whole / "eval").iterdir()} == FILES
    places = range(0, NUM_PROBLEMS, CHUNK)
    assert [f.stem for f in chunks(whole)] == [f"chunk-{place:06d}" for place in places]
    drawn = samples(whole)
    assert list(drawn.columns) == SAMPLE_COLUMNS
    assert len(drawn) == NUM_PROBLEMS * (NUM_SAMPLES + 1)  # passk eval is greedy too
    assert (drawn["temperature"] == 0).sum() == NUM_PROBLEMS
    by_problem = drawn[drawn["temperature"] == 1].groupby("problem_id")["sample"]
    assert (by_problem.apply(sorted).map(tuple) == tuple(range(NUM_SAMPLES))).all()
    assert set(drawn["reason"]) <= {"correct", "wrong", "unparsed", "truncated"}
    assert (drawn["logprob_sampler"] < 0).all()
    assert (drawn["num_tokens"] >= drawn["completion"].str.len()).all()


def test_every_table_is_rebuilt_from_the_samples_alone(whole):
    cfg = load_run_config(whole).eval
    drawn = samples(whole)
    counts = at_temperature(count_correct(drawn), 1.0)
    tables = eval_tables(drawn, cfg) | {"pass_at_k": pass_curve(counts, cfg)}
    assert {f"{name}.csv" for name in tables} == {name for name in FILES if name.endswith("csv")}
    for name, rows in tables.items():
        rows.insert(0, "step", 0)
        assert (whole / "eval" / f"{name}.csv").read_text() == rows.to_csv(index=False)
    assert tables["pass_at_k"]["k"].tolist() == list(range(1, NUM_SAMPLES + 1))
    summary = tables["summary"].set_index("metric")["value"]
    shares = summary[[name for name in summary.index if name.startswith("share_")]]
    assert shares.sum() == pytest.approx(1)
    front = tables["front"].set_index(["temperature", "k"])["value"]
    assert front[0, 1] == drawn["reward"][drawn["temperature"] == 0].mean()
    assert set(front.index) == {(0, 1), *((1, k) for k in cfg.ks)}


def test_tables_for_people_are_printed(tmp_path, capfd):
    assert evaluate(tmp_path / "run") == 0
    out = capfd.readouterr().out
    assert (tmp_path / "run" / "eval" / "table.md").read_text() in out
    for words in ("| 0.0 | ", "| Majority vote", "| Samples truncated (%) |"):
        assert words in out
    assert "| textbook |" in out and "| level |" not in out
    assert f"tables are in {tmp_path / 'run' / 'eval'}" in out
    assert re.search(rf"^eval {NUM_PROBLEMS}/{NUM_PROBLEMS}  Pass@1 0\.\d+  \S+ tok/s$", out, re.M)


def test_greedy_belongs_to_passk_eval_and_can_be_left_out(tmp_path):
    assert evaluate(tmp_path / "run", "eval.temperatures=[]") == 0
    assert set(samples(tmp_path / "run")["temperature"]) == {1.0}
    assert not (tmp_path / "run" / "eval" / "front.csv").exists()
    words = ("train.num_steps=2", "diagnostics.every=0", "eval.every=1")
    run, later = tmp_path / "train", tmp_path / "later"
    assert train(run, *words, "eval.temperatures=[0,0.5]") == 0
    assert train(later, *words, "eval.temperatures=[0,0.5]", f"train.init_from='{run}'") == 0
    for place, steps in ((run, [0, 2]), (later, [2])):  # where it began, another run has ended
        front = pd.read_csv(place / "eval" / "front.csv")
        assert sorted(set(front["step"])) == steps
        assert sorted(set(front["temperature"])) == [0, 0.5, 1]
        assert sorted(set(pd.read_csv(place / "eval" / "table.csv")["step"])) == [0, 1, 2]
        assert not (place / "samples").exists()


def test_a_run_is_evaluated_greedily_too_and_its_problems_are_its_own(tmp_path):
    words = ("train.num_steps=1", "diagnostics.every=0", "eval.every=0")
    assert train(tmp_path / "run", *words) == 0
    run_words = [f'run="{tmp_path / "run"}"', f'hydra.run.dir="{tmp_path / "measured"}"']
    assert main(["eval", *run_words]) == 0
    measured = samples(tmp_path / "measured")
    assert (measured["temperature"] == 0).sum() == 8 and len(measured) == 8 * 9
    ended, again = (
        at_temperature(pd.read_parquet(tmp_path / name / "eval/step-000001.parquet"), 1.0)
        for name in ("run", "measured")
    )
    pd.testing.assert_frame_equal(ended, again.reset_index(drop=True))


def test_what_the_run_s_data_do_not_have_is_refused(tmp_path, capsys):
    """The default data set has a cue, rows of a file have none."""
    assert main(["train", "data=jsonl", "verifier=exact", "data.path=a", "--cfg", "job"]) == 0
    (tmp_path / "config.yaml").write_text(capsys.readouterr().out)
    out = tmp_path / "out"
    assert main(["eval", f'run="{tmp_path}"', "data.cue=0.5", f'hydra.run.dir="{out}"']) == 2
    assert "data.cue=0.5: the run's data has no field cue" in capsys.readouterr().err
    assert not out.exists()


def test_chunks_change_no_table(whole, tmp_path):
    assert evaluate(tmp_path / "run", "eval.chunk_size=11") == 0
    assert len(chunks(tmp_path / "run")) == 3
    assert snapshot(tmp_path / "run" / "eval") == snapshot(whole / "eval")


@pytest.mark.parametrize("word", ["resume=true", "--resume"])
def test_resumed_evaluation_is_identical(whole, stopped, word):
    kept = {file: file.stat().st_mtime_ns for file in chunks(stopped)}
    assert evaluate(stopped, word) == 0
    assert_same_evaluation(stopped, whole)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept  # read, not drawn again
    assert status(stopped) == "finished"


def test_finished_evaluation_may_be_resumed_and_stays_as_it_is(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    assert evaluate(tmp_path / "run", "--resume") == 0
    assert_same_evaluation(tmp_path / "run", whole)


def test_chunk_cut_short_is_drawn_again(whole, stopped):
    cut_short(chunks(stopped)[1])
    chunks(stopped)[2].write_bytes(b"")
    assert evaluate(stopped, "--resume") == 0
    assert_same_evaluation(stopped, whole)


def test_other_chunks_on_resume_lose_nothing_and_keep_the_order(whole, stopped):
    """Problems 0 to 6 and 14 to 20 were lost; the new chunks reach over what is there."""
    for place in (0, 2):
        cut_short(chunks(stopped)[place])
    assert evaluate(stopped, "--resume", "eval.chunk_size=10") == 0
    assert [f.stem[-2:] for f in chunks(stopped)] == ["00", "07", "17", "27"]  # 14: removed
    assert snapshot(stopped / "eval") == snapshot(whole / "eval")
    assert len(samples(stopped)) == NUM_PROBLEMS * (NUM_SAMPLES + 1)


def test_other_tables_of_the_same_samples(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    assert evaluate(run, "--resume", "eval.ks=[1]") == 0
    assert pd.read_csv(run / "eval" / "table.csv")["k"].tolist() == [1]
    assert snapshot(run / "samples") == snapshot(whole / "samples")


@pytest.mark.parametrize(
    "changed",
    ["eval.num_samples=16", "eval.temperature=0.7", "eval.temperatures=[]", "eval.num_problems=40"],
)
def test_resuming_with_other_samples_is_refused(stopped, capsys, changed):
    before = snapshot(stopped)
    assert evaluate(stopped, "--resume", changed) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"passk: resume=true with {changed}, but ")
    assert err.count("\n") == 1
    assert snapshot(stopped) == before


DECISIVE = {
    "chat_template.jinja": "{{ messages[0]['content'] }}",
    "generation_config.json": '{"eos_token_id": [1, 3]}',
    "config.json": "{}",
    "tokenizer.json": "{}",
    "tokenizer_config.json": "{}",
    "special_tokens_map.json": "{}",
    "added_tokens.json": "{}",
    "additional_chat_templates/rag.jinja": "{{ messages }}",
    "modeling_own.py": "",
    "merges.txt": "a b",
    "tokenizer.model": "",
}


@pytest.mark.parametrize("name", DECISIVE)
def test_a_model_folder_is_known_by_all_that_decides_samples(tmp_path, name):
    folder, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(TINY, folder)
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps(model_state(str(folder))))
    for other in ("README.md", "training.json", "trainer_state.json", "logs.txt"):
        (folder / other).write_text("other")
    refuse_other_contents(model_state(str(folder)), run)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(DECISIVE[name])
    with pytest.raises(
        UserError, match=f"^resume=true, but {re.escape(name)} of the model changed"
    ):
        refuse_other_contents(model_state(str(folder)), run)


def test_a_run_that_knows_less_of_its_model_goes_on(tmp_path):
    """One of an earlier version, or of a model that is no folder."""
    (tmp_path / "manifest.json").write_text('{"command": "eval"}')
    refuse_other_contents(model_state(str(TINY)), tmp_path)
    assert model_state("tiny") == {} == model_state("no/such-model")


def test_an_evaluation_does_not_go_on_with_another_chat_template(tmp_path, capsys):
    folder, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(TINY, folder)
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    words = (f"model.path={folder}", "eval.num_problems=4", "eval.chunk_size=2")
    assert evaluate(run, *words) == 0
    chunks(run)[1].unlink()
    before = snapshot(run)
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }} ")
    capsys.readouterr()
    assert evaluate(run, *words, "--resume") == 2
    err = capsys.readouterr().err
    assert err.startswith("passk: resume=true, but chat_template.jinja of the model changed since")
    assert err.count("\n") == 1 and snapshot(run) == before
    (folder / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}")
    assert evaluate(run, *words, "--resume") == 0


def test_resuming_with_another_policy_or_in_a_training_run_is_refused(stopped, tmp_path, capsys):
    words = ("train.num_steps=1", "diagnostics.every=0", "eval.every=0")
    assert train(tmp_path / "trained", *words) == 0
    before = snapshot(tmp_path)
    (checkpoint,) = (tmp_path / "trained" / "checkpoints").iterdir()
    # A copy of the settings, as the same command line over a folder that has changed gives.
    config = (stopped / "config.yaml").read_text()
    named = config.replace("path: tiny", f"path: {checkpoint}", 1)
    (stopped / "config.yaml").write_text(named)
    capsys.readouterr()
    assert evaluate(stopped, "--resume", f'model.path="{checkpoint}"') == 2
    err = capsys.readouterr().err
    assert f"resume=true would evaluate {checkpoint}, but the samples in" in err
    assert "are of tiny" in err and err.count("\n") == 1
    (stopped / "config.yaml").write_text(config)
    run = tmp_path / "trained"
    assert main(["eval", f'run="{run}"', f'hydra.run.dir="{run}"', "--resume"]) == 2
    assert "holds a run of passk train, not of passk eval" in capsys.readouterr().err
    assert train(stopped, "--resume") == 2
    assert "holds a run of passk eval, not of passk train" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_resume_is_a_flag_of_train_too_and_in_the_help(tmp_path, capsys):
    assert train(tmp_path / "nothing", "--resume") == 2
    assert "holds no run to resume" in capsys.readouterr().err
    assert main([]) == 0
    assert "--resume" in capsys.readouterr().out


SLOW = ("num_threads=1", "eval.ks=[1,2]", "eval.num_samples=24", "eval.num_problems=80")
SLOW += ("eval.chunk_size=4", "eval.num_resamples=50")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("long") / "run"
    assert main(["eval", *SLOW, f"hydra.run.dir={run}"]) == 0
    return run


def start(run: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "passk", "eval", *SLOW, f'hydra.run.dir="{run}"'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=run.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_for_chunks(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while len(chunks(run)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_killed_evaluation_resumes_to_the_same_tables(long_run, tmp_path):
    run = tmp_path / "run"
    with start(run) as process:
        wait_for_chunks(run, 3, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert status(run) == "running" and not (run / "eval").exists()
    kept = {file: file.stat().st_mtime_ns for file in chunks(run)}
    assert 3 <= len(kept) < 20
    assert main(["eval", *SLOW, f"hydra.run.dir={run}", "--resume"]) == 0
    assert_same_evaluation(run, long_run)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert len(samples(run)) == 80 * 25


def test_interrupt_ends_with_the_chunk_and_says_how_to_go_on(long_run, tmp_path, monkeypatch):
    run = tmp_path / "a=b, c"  # as a cell of a sweep is named, and with a space
    with start(run) as process:
        wait_for_chunks(run, 2, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    line = assert_interrupted(run, err, "SIGINT")
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(line)[1:]) == 0
    assert_same_evaluation(run, long_run)


def test_sigterm_as_a_scheduler_sends_it(tmp_path, capfd):
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # should it come late: harmless
    run = tmp_path / "run"

    def send_when_running() -> None:
        while len(chunks(run)) < 2:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send_when_running, daemon=True).start()
    try:
        assert main(["eval", *SLOW, f'hydra.run.dir="{run}"']) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert_interrupted(run, capfd.readouterr().err, "SIGTERM")


def assert_interrupted(run: Path, err: str, signal_name: str) -> str:
    """Whole chunks are kept, and it said so; return the command line that goes on."""
    assert f"{signal_name}: finishing this chunk, then saving" in err
    assert "Traceback" not in err
    assert 2 <= len(chunks(run)) < 20 and not list(run.rglob("*.partial"))
    assert status(run) == "interrupted"
    found = re.search(r"^passk: interrupted; go on with: (passk eval .* resume=true)$", err, re.M)
    assert found, err
    return found[1]


def levelled(folder: Path) -> Path:
    """A run whose problems have levels and types, but no kinds."""
    (folder / "eval").mkdir(parents=True)
    (folder / "config.yaml").write_text("regime: {name: hybrid}\n")
    rows = {"problem_id": ["a", "b"], "kind": "", "level": ["Level 1", "Level 2"], "type": "x"}
    counts = pd.DataFrame(rows | {"temperature": 1.0, "n": [4, 4], "c": [1, 2]})
    counts = counts.assign(n_first=2, c_first=1)
    counts.to_parquet(folder / "eval" / "step-000000.parquet")
    header = "k,value,ci_low,ci_high,num_problems,num_samples\n"
    (folder / "eval" / "table.csv").write_text(f"step,{header}0,1,0.375,0.25,0.5,2,4\n")
    for name, values in (("level", ("Level 1", "Level 2")), ("type", ("x", "x"))):
        lines = [f"0,{value},1,0.5,,,1,4\n" for value in dict.fromkeys(values)]
        table = folder / "eval" / f"table_by_{name}.csv"
        table.write_text(f"step,{name},{header}{''.join(lines)}")
    return folder


def test_reports_take_levels_then_types_where_there_are_no_kinds(tmp_path):
    record: RunRecord = load_run(levelled(tmp_path / "run"))
    assert record.by_kind["kind"].tolist() == ["Level 1", "Level 2"]
    assert record.counts(0)["kind"].tolist() == ["Level 1", "Level 2"]
    table = tmp_path / "run" / "eval" / "table_by_level.csv"
    table.write_text(table.read_text() + "0,Level 3,1,,,,0,0\n")  # none of its problems is usable
    kinds = kind_table([load_run(tmp_path / "run")])
    assert kinds["num_problems"].tolist() == [1, 1, 0]
    assert kinds["pass1"].isna().tolist() == [False, False, True]
    (tmp_path / "run" / "eval" / "table_by_level.csv").unlink()
    assert load_run(tmp_path / "run").by_kind["kind"].tolist() == ["x"]
    (tmp_path / "run" / "eval" / "table_by_type.csv").unlink()
    assert load_run(tmp_path / "run").by_kind.empty


def test_the_figure_is_drawn(whole):
    pixels = pixels_of(whole / "eval" / "pass_at_k.png")
    assert pixels.shape[0] > 200 and np.ptp(pixels) > 0.5
