"""Names in files stay what they are, and a file that cannot be read is named."""

import pytest

from passk.errors import UserError
from passk.reading import overrides_text, read_manifest, read_overrides, read_table, saved_steps


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


def test_older_overrides_are_read(tmp_path):
    assert read_overrides(tmp_path) == ()
    (tmp_path / "overrides.txt").write_text('- regime=hybrid\n\n  train.seed=1\n"half\n')
    assert read_overrides(tmp_path) == ("regime=hybrid", "train.seed=1", '"half')
