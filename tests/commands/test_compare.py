"""`passk compare`: what it takes, prints, writes and refuses."""

import numpy as np
import pandas as pd
import pytest
from populations import EVEN, SAMPLES, UNEVEN, draw_pairs
from run_files import write_run
from small_runs import assert_refused, pixels_of, snapshot

from passk.report.comparison import as_ranges

IDS = [f"heldout-0-{i}" for i in range(300)]  # as run_files names them


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Two runs, and the same counts as files, in other orders and forms."""
    monkeypatch.chdir(tmp_path)
    c_a, c_b = draw_pairs(UNEVEN, EVEN, 300, np.random.default_rng(8))
    kinds = ["skill"] * 300
    write_run(tmp_path / "base", regime="sft", counts={10: c_a}, kinds=kinds, n=SAMPLES)
    write_run(tmp_path / "k=8", regime="passk", counts={0: c_a, 10: c_b}, kinds=kinds, n=SAMPLES)
    a, b = (pd.DataFrame({"id": IDS, "c": c_P, "n": SAMPLES}) for c_P in (c_a, c_b))
    a.to_csv("a.csv", index=False)
    b[::-1].to_json("b.jsonl", orient="records", lines=True)
    b.rename(columns={"id": "problem_id"}).to_parquet("b.parquet")
    return tmp_path


def test_runs_and_files_of_the_same_counts_give_the_same(inputs, passk):
    tables = []
    for words in (
        ["base", "k=8"],
        ["k=8", "k=8", "step_a=0"],
        ["a.csv", "b.jsonl"],
        ["a.csv", "b.parquet"],
        ["base", "b.jsonl", "step_a=10"],
    ):
        out = inputs / f"out{len(tables)}"
        outcome = passk("compare", *words, f"hydra.run.dir={out}")
        assert (outcome.code, outcome.err) == (0, ""), outcome.err
        assert {path.name for path in out.iterdir()} == {
            *("compare.csv", "compare.md", "compare.png"),
        }
        assert outcome.out.startswith((out / "compare.md").read_text().split("\n![")[0].rstrip())
        tables.append(pd.read_csv(out / "compare.csv"))
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], atol=0.02)  # resamples follow the order
    assert tables[0]["k"].tolist() == list(range(1, SAMPLES + 1))
    pixels = pixels_of(inputs / "out0" / "compare.png")
    assert (
        pixels.shape[1] > 600 and len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 20
    )


def test_it_says_where_gains_and_losses_are_supported(inputs, passk):
    out = passk("compare", "base", "k=8").out
    assert "A is base, step 10; B is k=8, step 10. Compared on 300 problems" in out
    (folder,) = (inputs / "outputs" / "compare").iterdir()
    table = pd.read_csv(folder / "compare.csv", keep_default_na=False)
    for sign in ("gain", "loss"):
        ks = table["k"][table["supported"] == sign].tolist()
        assert ks and f"- {sign.capitalize()} supported for k = {as_ranges(ks)}.\n" in out
    assert "- The curves cross: the first k with a gain lies in " in out
    turned = passk("compare", "k=8", "base").out
    assert "- The curves cross: the first k with a loss lies in " in turned
    rows = [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")]
    assert rows[1:] == ["| 1", "| 2", "| 4", "| 8", "| 16", "| 32", "| 64"]


def test_equal_counts_have_no_interval(inputs, passk):
    out = passk("compare", "a.csv", "base").out
    assert "none: 0 problems differ" in out
    assert "- No gain is supported.\n- No loss is supported.\n- Nothing is said of a cross" in out


def test_problems_that_cannot_be_paired_are_left_out_and_counted(inputs, passk):
    rows = pd.read_csv("a.csv")
    rows.loc[:4, ["n", "c"]] = 2
    rows[:250].to_csv("fewer.csv", index=False)
    out = passk("compare", "fewer.csv", "base").out
    assert "Compared on 250 problems that both have, k = 1 to 2." in out
    assert "Left out: 50 problems of B alone." in out
    out = passk("compare", "fewer.csv", "base", "k_max=16").out
    assert "Compared on 245 problems that both have, k = 1 to 16." in out
    assert "Left out: 50 problems of B alone; 5 with fewer than 16 judged samples." in out


REFUSED = [
    (["base"], ["needs two runs, evaluations or files of counts, not 1: passk compare A B"]),
    ([], ["not 0"]),
    (["base", "nowhere"], ["nowhere holds no counts"]),
    (["base", "base/eval"], ["base/eval holds no counts", ".csv, .jsonl, .parquet"]),
    (["base", "k=8", "step_b=5"], ["step_b=5 was not evaluated in k=8; steps there: 0, 10"]),
    (["a.csv", "k=8", "step_a=0"], ["step_a=0", "a.csv is a file"]),
    (["base", "k=8", "k_max=65"], ["k_max=65 leaves 0 of the 300 problems", "both are 64"]),
    (["base", "k=8", "k_max=0"], ["k_max=0 is too small"]),
    (["base", "other.csv"], ["A has counts of 300 problems and B of 1, and 0 of them"]),
    (["base", "notes.txt"], ["notes.txt is no file of counts"]),
    (["base", "twice.csv"], ["twice.csv has the id x twice"]),
    (["base", "many.csv"], ["many.csv has c=5 and n=4 in row 2"]),
    (["base", "half.csv"], ["half.csv has c=0.5 and n=4 in row 1"]),
    (["base", "text.csv"], ["text.csv has text in the column 'c'"]),
    (["base", "short.csv"], ["short.csv lacks the column 'n'"]),
    (["base", "nameless.csv"], ["nameless.csv lacks the column 'id'"]),
    (["base", "broken.jsonl"], ["broken.jsonl cannot be read"]),
    (["base", "list.jsonl"], ["list.jsonl holds no JSON object in line 1"]),
]


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(inputs, passk, words, says):
    for name, text in {
        "other.csv": "id,c,n\nx,1,4\n",
        "notes.txt": "",
        "twice.csv": "id,c,n\nx,1,4\nx,1,4\n",
        "many.csv": "id,c,n\nx,1,4\ny,5,4\n",
        "half.csv": "id,c,n\nx,0.5,4\n",
        "text.csv": "id,c,n\nx,all,4\n",
        "short.csv": "id,c\nx,1\n",
        "nameless.csv": "c,n\n1,4\n",
        "broken.jsonl": '{"id": 1\n',
        "list.jsonl": "[1]\n",
    }.items():
        (inputs / name).write_text(text)
    before = snapshot(inputs)
    assert_refused(passk("compare", *words), *says)
    assert snapshot(inputs) == before


def test_other_problems_of_the_same_ids_are_refused(inputs, passk):
    for name, last in (("base", "?"), ("k=8", "!")):
        prompts = [f"{i}?" for i in range(299)] + [f"299{last}"]
        problems = {"problem_id": IDS, "split": "heldout", "prompt": prompts, "answer": "1"}
        pd.DataFrame(problems).to_parquet(inputs / name / "problems.parquet")
    assert_refused(
        passk("compare", "base", "k=8"),
        "base and k=8 hold different problems of the same id, 1 of 300 (such as heldout-0-299)",
    )
    assert passk("compare", "base", "b.jsonl").code == 0  # a file does not say what they are


def test_ranges():
    assert as_ranges([]) == ""
    assert as_ranges([1, 4, 5, 6, 9, 10]) == "1, 4..6, 9..10"
