"""Names in files stay what they are, and a file that cannot be read is named."""

import pytest

from passk.errors import UserError
from passk.reading import read_manifest, read_table, saved_steps


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
