"""Names in files stay what they are, and a file that cannot be read is named."""

import re

import pytest

from passk.errors import UserError
from passk.files import (
    overrides_text,
    read_lines,
    read_manifest,
    read_overrides,
    read_table,
    saved_steps,
    steps_of,
)


def test_names_are_text_also_where_they_look_like_a_number_or_like_nothing(tmp_path):
    file = tmp_path / "table.csv"
    file.write_text("kind,level,problem_id,value\nNA,1,007,0.5\n,2,null,\n")
    table = read_table(file)
    assert table["kind"].tolist() == ["NA", ""]
    assert table["level"].tolist() == ["1", "2"]
    assert table["problem_id"].tolist() == ["007", "null"]
    assert table["value"].isna().tolist() == [False, True]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{oops")
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match=r"table\.csv cannot be read"):
        read_table(tmp_path / "table.csv")
    assert read_manifest(tmp_path / "nowhere") == {}
    assert saved_steps(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "word",
    [
        "train.seed=3",
        'data.prompt.template="Q: {problem}\nA:"',
        "data.prompt.template='a\u2028b\rc\x0bd'",
        '"quoted" from its first letter',
        '"',
        "- a dash",
        " blanks around ",
        "+rollout.extra=\u00e4 \u4e2d",
        "x='a\\nb'",
    ],
)
def test_an_override_is_a_line_and_reads_back_as_it_was_typed(tmp_path, word):
    words = ("regime=hybrid", word, "learner.lr=1e-3")
    (tmp_path / "overrides.txt").write_text(overrides_text(words), encoding="utf-8")
    assert read_overrides(tmp_path) == words
    assert len((tmp_path / "overrides.txt").read_text(encoding="utf-8").splitlines()) == 3


def test_overrides_are_read_without_blank_lines_and_margins(tmp_path):
    assert read_overrides(tmp_path) == ()
    (tmp_path / "overrides.txt").write_text('regime=hybrid\n\n  train.seed=1\n"half\n')
    assert read_overrides(tmp_path) == ("regime=hybrid", "train.seed=1", '"half')


LINE = '{"step": 0, "seconds": 1.5}\n'
METRICS = [
    ("", []),
    (LINE, [0]),
    (LINE + LINE.replace("0,", "1,")[:9], [0]),  # what a power cut leaves of the last line
    (LINE + "\0" * 50, [0]),
    (LINE + "\0" * 50 + "\n", [0]),
]


@pytest.mark.parametrize(("text", "steps"), METRICS)
def test_a_last_line_that_is_not_whole_is_left_out(tmp_path, text, steps):
    (tmp_path / "metrics.jsonl").write_text(text)
    assert [row["step"] for _, row in read_lines(tmp_path / "metrics.jsonl")] == steps


@pytest.mark.parametrize(
    "line", ["garbage", "{}", "[]", '{"step": "a"}', '{"step": 1, "seconds": {}}']
)
def test_a_broken_line_before_the_last_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f"{LINE}{line}\n{LINE}")
    with pytest.raises(UserError, match=r"metrics\.jsonl is broken in line 2: .*; put it back"):
        read_lines(tmp_path / "metrics.jsonl")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is empty; put it back from a copy, or remove it"),
        ("[]", "holds list"),
        ("null", "holds nothing"),
        ('{"seconds": "a"}', "has seconds=a, of the wrong kind"),
        ('{"num_processes": null}', "has num_processes=None"),
        ("\0" * 20, "cannot be read"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_broken_manifest_is_named_with_what_to_do(tmp_path, text, says):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=re.escape(says)) as refused:
        read_manifest(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / 'manifest.json'} ")


def test_copies_under_other_names_are_no_steps(tmp_path):
    for name in ("step-000002", "step-000001", "step-000001 (copy)", "step-000003.bak", "step-x"):
        (tmp_path / name).mkdir()
    assert [path.name for path in steps_of(tmp_path).values()] == ["step-000001", "step-000002"]
