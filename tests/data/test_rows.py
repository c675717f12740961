"""Rows of folders, of files in other forms, and of hub data sets."""

import json

import pandas as pd
import pytest
from small_runs import in_subprocess, snapshot

from passk.data import sources
from passk.data.sources import is_file_name, read_rows
from passk.errors import UserError

COLUMNS = ("question", "answer")


def read(source, split="train", subset=None):
    found = read_rows(
        str(source), "data.path", split=split, subset=subset, columns=[*COLUMNS, None, "level"]
    )
    return [(row.default_id, row.place, dict(row.fields)) for row in found]


def refusal(source, **options):
    with pytest.raises(UserError) as refused:
        read(source, **options)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def write(path, questions):
    """One row per question, in the form that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = [{"question": question, "answer": f"{question}!", "n": 1} for question in questions]
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in table))
    elif path.suffix == ".json":
        path.write_text(json.dumps(table))
    elif path.suffix == ".csv":
        pd.DataFrame(table).to_csv(path, index=False)
    else:
        pd.DataFrame(table).to_parquet(path)
    return path


def questions(found):
    return [fields["question"] for _, _, fields in found]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_a_file_in_every_form(tmp_path, suffix):
    file = write(tmp_path / f"mine.{suffix}", ["one, 1", "zwei\u2028è"])
    word = "line" if suffix == "jsonl" else "row"
    found = read(file)
    assert [(i, place) for i, place, _ in found] == [
        ("mine-1", f"{file}, {word} 1"),
        ("mine-2", f"{file}, {word} 2"),
    ]
    assert questions(found) == ["one, 1", "zwei\u2028è"]
    write(file, ["changed"])
    assert questions(read(file)) == ["changed"], "nothing is cached"


def test_csv_is_text(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('question,answer,level\n"a, b",007,\nc,NA,5\nd,1.50,x\n', encoding="utf-8-sig")
    assert [fields for _, _, fields in read(file)] == [
        {"question": "a, b", "answer": "007", "level": ""},
        {"question": "c", "answer": "NA", "level": "5"},
        {"question": "d", "answer": "1.50", "level": "x"},
    ]


def test_json_may_be_lines_too_and_numbers_stay_numbers(tmp_path):
    (tmp_path / "rows.json").write_text('{"question": "a", "answer": 3}\n{"question": "b"}\n')
    assert [fields for _, _, fields in read(tmp_path / "rows.json")] == [
        {"question": "a", "answer": 3},
        {"question": "b"},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_a_folder_with_both_splits(tmp_path, suffix):
    write(tmp_path / f"train.{suffix}", "ab")
    write(tmp_path / f"test.{suffix}", "c")
    write(tmp_path / f"train-old.{suffix}", "x")
    write(tmp_path / "notes.md", "x") if suffix == "parquet" else None
    assert [i for i, _, _ in read(tmp_path)] == ["train-1", "train-2"]
    assert questions(read(tmp_path)) == ["a", "b"]
    assert questions(read(tmp_path, split="test")) == ["c"]
    assert "holds no file of the split 'validation'; give validation.jsonl" in refusal(
        tmp_path, split="validation"
    )


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_rows_without_any_wanted_field_are_rows(tmp_path, suffix):
    file = write(tmp_path / f"mine.{suffix}", "ab")
    found = read_rows(str(file), "data.path", split="train", subset=None, columns=["problem"])
    assert [row.default_id for row in found] == ["mine-1", "mine-2"]
    assert not any("problem" in row.fields for row in found)


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"question": "a"}\n', encoding="utf-8-sig")
    assert questions(read(tmp_path / "rows.jsonl")) == ["a"]


def test_shards_are_one_split(tmp_path):
    for shard, two in enumerate(("ab", "cd", "ef")):
        write(tmp_path / "data" / f"train-0000{shard}-of-00003.parquet", two)
    found = read(tmp_path)
    assert questions(found) == list("abcdef")
    assert [i for i, _, _ in found] == [f"train-{n}" for n in range(1, 7)]
    assert found[3][1].endswith("train-00001-of-00003.parquet, row 2")


def test_ids_of_json_lines_go_on_over_files(tmp_path):
    write(tmp_path / "train-0-of-2.jsonl", "ab").write_text(
        '{"question": "a"}\n\n\n{"question": "b"}\n'
    )
    write(tmp_path / "train-1-of-2.jsonl", "cd")
    assert [i for i, _, _ in read(tmp_path)] == ["train-1", "train-4", "train-5", "train-6"]


def test_a_copy_of_a_hub_repository(tmp_path):
    for subset in ("algebra", "geometry"):
        write(tmp_path / subset / "train.jsonl", [subset])
    assert questions(read(tmp_path)) == ["algebra", "geometry"]
    assert questions(read(tmp_path, subset="geometry")) == ["geometry"]
    write(tmp_path / "train.jsonl", ["top"])
    assert questions(read(tmp_path)) == questions(read(tmp_path, subset="main")) == ["top"]


def test_a_split_in_two_forms_is_refused(tmp_path):
    write(tmp_path / "train.jsonl", "a")
    write(tmp_path / "train.parquet", "a")
    assert "holds the split 'train' as .jsonl and as .parquet" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe no {", b'{"question": '])
def test_broken_and_empty_files(tmp_path, capfd, suffix, content):
    file = tmp_path / f"rows.{suffix}"
    file.write_bytes(content)
    says = refusal(file)
    assert f"{file}" in says
    if not content:
        assert says == f"data.path={file} holds no problems; give at least one row"
    elif suffix != "csv" or content[0] == 0xFF:
        assert "cannot be read" in says or "not a JSON object" in says
    assert capfd.readouterr() == ("", "")


def test_an_empty_split_is_named(tmp_path):
    write(tmp_path / "train.jsonl", "")
    write(tmp_path / "test.csv", "a").write_text("question,answer\n")
    write(tmp_path / "dev.json", "")
    for split in ("train", "test", "dev"):
        says = refusal(tmp_path, split=split)
        assert says.startswith(f"data.path={tmp_path} holds no problems in its split '{split}'")


def test_what_is_a_file_and_what_may_be_on_the_hub(tmp_path):
    for name in ("rows.jsonl", "./rows", "/no/rows", "../rows", "~/rows", "a/b/c", "x.parquet"):
        assert is_file_name(name), name
    for name in ("openai/gsm8k", "squad", "user/set-1.5", str(tmp_path)):
        assert not is_file_name(name), name
    assert "cannot be read" in refusal("nowhere/rows.parquet")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A folder in the form of a hub data set with two configurations."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    lines = ["---", "configs:"]
    for subset in ("algebra", "geometry"):
        lines += [f"- config_name: {subset}", "  data_files:"]
        for split in ("train", "test"):
            write(tmp_path / "set" / subset / f"{split}.jsonl", [f"{subset} {split}", "more"])
            lines += [f"  - split: {split}", f"    path: {subset}/{split}.jsonl"]
    (tmp_path / "set" / "README.md").write_text("\n".join([*lines, "---", ""]))
    return str(tmp_path / "set")


def test_a_hub_data_set_by_split_and_subset(repository):
    """`datasets` reads a folder in a repository's form as it reads the repository."""
    (part,) = sources._read_hub(repository, "data.path", "test", "geometry", COLUMNS)
    assert part.place == f"{repository} test, row"
    first = {"question": "geometry test", "answer": "geometry test!"}  # no other column
    assert list(part.rows) == [(1, first), (2, {"question": "more", "answer": "more!"})]


def test_a_hub_data_set_without_a_subset_is_all_of_them(repository):
    parts = sources._read_hub(repository, "data.path", "train", None, COLUMNS)
    assert [part.place for part in parts] == [
        f"{repository} (algebra) train, row",
        f"{repository} (geometry) train, row",
    ]
    assert [[f["question"] for _, f in part.rows] for part in parts] == [
        ["algebra train", "more"],
        ["geometry train", "more"],
    ]


@pytest.mark.parametrize(
    ("split", "subset", "says"),
    [
        ("train", "topology", "'topology' not found. Available: ['algebra', 'geometry']"),
        ("dev", None, "Unknown split"),
    ],
)
def test_what_the_hub_does_not_have(repository, split, subset, says):
    with pytest.raises(UserError, match=r"^data\.path=.* cannot be loaded") as refused:
        sources._read_hub(repository, "data.path", split, subset, COLUMNS)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path):
    outcome = in_subprocess(
        ["train", "data=gsm8k", "verifier=exact"],
        tmp_path,
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path),
    )
    assert outcome.code == 2, outcome.err
    assert outcome.err.count("\n") == 1
    assert "data.path=openai/gsm8k (data.subset=main, split 'train') cannot be" in outcome.err
    assert not [name for name in snapshot(tmp_path) if name.startswith("outputs")]
