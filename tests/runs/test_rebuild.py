"""The commands of the report's page: typed in an empty folder, they make the same runs again."""

import json
import shutil
import subprocess

import pytest
from run_files import simulated_counts, write_reproduction, write_run
from small_runs import SMALL, metrics, without_times

from passk.cli.main import main
from passk.files import overrides_text
from passk.report.report import write_report
from passk.runs.command_lines import Places, rebuilding_lines
from passk.runs.reader import find_runs

TINY = (
    *SMALL,
    "train.num_steps=2",
    "rollout.save_every=0",
    "diagnostics.every=0",
    "eval.every=0",
    "learner.lr=1e-3",
    "rollout.max_new_tokens=16",
)
TWO_LINES = 'tracker.project="a\nb"'


def lines(*folders):
    return rebuilding_lines(find_runs(folders))


def typed(line):
    """The words that a shell makes of a line."""
    script = f"passk() {{ printf '%s\\0' \"$@\"; }}; {line.command}"
    done = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True)
    return done.stdout.split("\0")[:-1]


def learnt(run):
    return without_times(metrics(run))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A reproduction with an override of two lines, and a sweep from its SFT."""
    root = tmp_path_factory.mktemp("somewhere")
    main_dir, sweep = root / "main", root / "sweep"
    words = ["sft_steps=3", "regimes=[pass1,hybrid]", TWO_LINES]
    assert main(["reproduce", *TINY, *words, f"hydra.run.dir={main_dir}"]) == 0
    start = f"train.init_from={main_dir / 'seed-0' / 'sft'}"
    words = ["regime.pass1_weight=0.5,0.9", TWO_LINES, start, f"hydra.sweep.dir={sweep}", "-m"]
    assert main(["train", *TINY, *words]) == 0
    return root


def test_the_lines_of_the_runs_rebuild_them(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = lines(made / "sweep", made / "main")
    names = [line.directory for line in found]
    assert names == [
        *("main", "main/seed-0/sft", "main/seed-0/pass1", "main/seed-0/hybrid", "sweep"),
        *(f"sweep/regime.pass1_weight={weight}" for weight in (0.5, 0.9)),
    ]
    for line in found:
        if line.record is not None:
            assert main(typed(line)) == 0
            assert learnt(tmp_path / line.directory) == learnt(made / line.directory)


def test_the_line_of_a_whole_rebuilds_its_runs(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wholes = [line for line in lines(made) if line.record is None]
    assert [line.directory for line in wholes] == ["main", "sweep"]
    assert typed(wholes[0])[0] == "reproduce" and typed(wholes[1])[0] == "train"
    for line in wholes:
        assert main(typed(line)) == 0
    for run in find_runs([made]):
        assert learnt(tmp_path / run.path.relative_to(made)) == learnt(run.path)


def test_the_page_names_no_place_of_this_machine(made, tmp_path):
    page = write_report([made], tmp_path / "out").read_text()
    assert "passk reproduce" in page and "hydra.sweep.dir=sweep" in page
    assert "train.init_from=main/seed-0/sft" in page
    assert str(made) not in page
    for file in (tmp_path / "out" / "tables").iterdir():
        assert str(made) not in file.read_text()
    versions = (tmp_path / "out" / "tables" / "versions.csv").read_text()
    assert "machine" in versions and "host" not in versions


def test_a_moved_reproduction_names_its_own_sft(tmp_path):
    root = write_reproduction(tmp_path / "here" / "main")
    run = root / "seed-0" / "hybrid"
    (run / "overrides.txt").write_text("regime=hybrid\ntrain.init_from=/gone/main/seed-0/sft\n")
    commands = {line.directory: line.command for line in lines(root)}
    assert commands["main/seed-0/hybrid"] == (
        "passk train regime=hybrid train.init_from=main/seed-0/sft hydra.run.dir=main/seed-0/hybrid"
    )


def test_a_reproduction_that_grew_is_rebuilt_whole(tmp_path):
    root = write_reproduction(tmp_path / "main", seeds=(0, 1, 2))
    (root / "manifest.json").write_text('{"command": "reproduce", "status": "finished"}')
    (root / "overrides.txt").write_text("seeds=1\nlearner.lr=1e-3\n")
    (root / "config.yaml").write_text("seeds: 3\nregimes: [pass1, passk, hybrid]\n")
    first = lines(root)[0]
    assert first.command == "passk reproduce learner.lr=1e-3 seeds=3 hydra.run.dir=main"
    assert first.manifest["status"] == "finished"


def test_a_run_comes_after_the_one_it_starts_from(tmp_path):
    counts, kinds = simulated_counts("pass1", (0, 10), seed=0, num_problems=10)
    about = {"counts": counts, "kinds": kinds}
    for regime, name, start in (("pass1", "b", "c"), ("hybrid", "c", "a"), ("pass1", "a", None)):
        place = None if start is None else str(tmp_path / start / "checkpoints" / "step-000010")
        run = tmp_path / name
        write_run(run, regime=regime, settings={"train": {"init_from": place}}, **about)
        if place:
            (run / "overrides.txt").write_text(f"regime={regime}\ntrain.init_from={place}\n")
    found = lines(tmp_path)
    assert [line.directory for line in found] == ["a", "c", "b"]
    assert "train.init_from=c/checkpoints/step-000010" in found[-1].command


def test_what_the_user_typed_outside_stays(tmp_path):
    counts, kinds = simulated_counts("pass1", (0,), seed=0, num_problems=4)
    for name in ("a", "b"):
        write_run(tmp_path / "x" / name, regime="pass1", counts=counts, kinds=kinds)
    inside, outside = tmp_path / "x" / "train.jsonl", tmp_path / "y" / "train.jsonl"
    typed_there = f"data.path={inside}\ndata.eval_path={outside}\nresume=true\n"
    (tmp_path / "x" / "a" / "overrides.txt").write_text(typed_there)
    assert lines(tmp_path)[0].command == (
        f"passk train data.path=train.jsonl data.eval_path={outside} hydra.run.dir=a"
    )
    places = Places(find_runs([tmp_path]))
    words = [f"train.init_from={tmp_path}/x/a,{tmp_path}/x/b", "hydra.launcher.timeout=3"]
    assert places.words(words) == ["train.init_from=a,b", words[1]]


def test_a_folder_with_letters_of_hydra_is_quoted(tmp_path):
    counts, kinds = simulated_counts("pass1", (0,), seed=0, num_problems=4)
    write_run(tmp_path / "k=2, lr", regime="pass1", counts=counts, kinds=kinds)
    (line,) = lines(tmp_path)
    assert typed(line)[-1] == 'hydra.run.dir="k=2, lr"'


def test_a_word_of_several_lines_stays_on_one(tmp_path):
    counts, kinds = simulated_counts("pass1", (0,), seed=0, num_problems=4)
    run = write_run(tmp_path / "run", regime="pass1", counts=counts, kinds=kinds)
    word = "data.prompt.template='it\\'s {problem}\n\tA\\\\B: $x'"
    (run / "overrides.txt").write_text(overrides_text([word]))
    (line,) = lines(tmp_path)
    assert "\n" not in line.command and typed(line) == ["train", word, "hydra.run.dir=run"]


def test_only_what_is_whole_keeps_its_report(passk, tmp_path):
    counts, kinds = simulated_counts("pass1", (0, 10), seed=0, num_problems=10)
    paper = tmp_path / "paper"
    write_run(paper / "run", regime="pass1", counts=counts, kinds=kinds)
    mine = {"table.md": "mine", "tables/headline.tex": "mine"}
    for name, text in mine.items():
        (paper / name).parent.mkdir(exist_ok=True)
        (paper / name).write_text(text)
    assert passk("report", "paper").code == 0
    assert {name: (paper / name).read_text() for name in mine} == mine
    assert not (paper / "report.html").exists()
    (page,) = (tmp_path / "outputs" / "report").rglob("report.html")
    assert passk("report", "paper/run").code == 0
    assert not (paper / "run" / "report.html").exists()
    # What was a report stays one; so do a sweep and a reproduction.
    shutil.copytree(paper / "run", tmp_path / "sweep" / "cell")
    shutil.copytree(paper / "run", tmp_path / "again" / "run")
    shutil.copytree(paper / "run", tmp_path / "main" / "seed-0" / "pass1")
    (tmp_path / "sweep" / "ledger").mkdir()
    (tmp_path / "again" / "report.html").write_bytes(page.read_bytes())
    (tmp_path / "main" / "manifest.json").write_text(json.dumps({"command": "reproduce"}))
    for name in ("sweep", "again", "main"):
        assert passk("report", name).code == 0
        assert (tmp_path / name / "table.md").is_file()
