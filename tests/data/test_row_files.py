"""Files of every form: read when they hold everything, else refused in one sentence."""

import bz2
import gzip
import json
import lzma
import os

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from passk.data.sources import read_file
from passk.errors import UserError

COLUMNS = ("prompt", "answer")
ROWS = [{"prompt": f"T{i}+1=", "answer": str(i + 1)} for i in range(3)]
LINES = "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()
CSV = pd.DataFrame(ROWS).to_csv(index=False)


def read(path):
    return [dict(fields) for _, fields in read_file(path, f"data.path={path}", COLUMNS).rows]


def refusal(path):
    with pytest.raises(UserError) as refused:
        read(path)
    sentence = str(refused.value)
    assert "\n" not in sentence and str(path) in sentence and len(sentence) < 500
    return sentence.replace(str(path), "FILE")


@pytest.fixture
def file(tmp_path):
    """Write bytes, or text as UTF-8, to a file of a name."""

    def write(name, content):
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / name

    return write


READ_CSV = {
    "plain": CSV,
    "BOM": "\ufeff" + CSV,
    "two BOMs": "\ufeff\ufeff" + CSV,
    "leading blank lines": "\n \r\n\n" + CSV,
    "blank lines within": CSV.replace("\n", "\n\n"),
    "CRLF": CSV.replace("\n", "\r\n"),
    "CR": CSV.replace("\n", "\r"),
    "semicolons": CSV.replace(",", ";"),
    "tabs": CSV.replace(",", "\t"),
    "blanks in the header": CSV.replace("prompt,answer", " prompt , answer"),
    "an index": pd.DataFrame(ROWS).to_csv(),
    "an empty unnamed column": CSV.replace("\n", ",\n"),
    "trailing commas": CSV.replace("=,1\n", "=,1,,\n"),
    "all in quotes": pd.DataFrame(ROWS).to_csv(index=False, quoting=1),
    "an unused column twice": CSV.replace("\n", ",n,n\n"),
    "no last newline": CSV.rstrip("\n"),
    "UTF-16": CSV.encode("utf-16"),
    "UTF-32": CSV.encode("utf-32"),
}


@pytest.mark.parametrize("content", READ_CSV.values(), ids=READ_CSV)
def test_csv_that_holds_everything_is_read(file, content):
    assert read(file("rows.csv", content)) == ROWS


def test_cells_may_hold_line_breaks_quotes_separators_and_a_novel(file):
    rows = [{"prompt": 'a\n"b", c;\td', "answer": "x" * 200_000}, {"prompt": "\0", "answer": " "}]
    assert read(file("rows.csv", pd.DataFrame(rows).to_csv(index=False))) == rows


REFUSED_CSV = {
    "ragged, too long": (CSV + "a,b,c\n", "row 4 (line 5): 3 cells, but the first line names 2"),
    "ragged, too short": (CSV + "a\n", "row 4 (line 5): 1 cells, but"),
    "an open quote": (CSV + '"a,b\n', "line 5: not CSV (unexpected end of data)"),
    "text behind a quote": ('prompt,answer\n"a"b,c\n', "line 2: not CSV"),
    "a wanted column twice": ("prompt,answer,answer\na,1,2\n", "the column 'answer' occurs twice"),
    "latin-1": (b"prompt,answer\ncaf\xe9,1\n", "line 2, byte 18 of the file: 0xe9"),
}


@pytest.mark.parametrize(("content", "says"), REFUSED_CSV.values(), ids=REFUSED_CSV)
def test_csv_that_is_broken_is_refused_by_line(file, content, says):
    assert says in refusal(file("rows.csv", content))


@pytest.mark.parametrize("content", ["", "\ufeff", "\n", "prompt,answer\n", " \n\n"])
def test_csv_without_rows_has_none(file, content):
    assert read(file("rows.csv", content)) == []


PACKED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", PACKED)
def test_compressed_files(file, suffix):
    pack = PACKED[suffix]
    for name, content in (("rows.jsonl", LINES), ("rows.json", LINES), ("rows.csv", CSV.encode())):
        packed = pack(content)
        assert read(file(f"{name}.{suffix}", packed)) == ROWS
        assert "cannot be read" in refusal(file(f"{name}.{suffix}", packed[: len(packed) // 2]))
        assert "cannot be read" in refusal(file(f"{name}.{suffix}", content))


READ_JSON = {
    "lines": LINES,
    "an array": json.dumps(ROWS),
    "an array over lines": "\n " + json.dumps(ROWS, indent=1) + "\n",
    "CRLF and a BOM": b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n"),
    "UTF-16": LINES.decode().encode("utf-16"),
    "a number of 5,000 digits elsewhere": LINES.replace(b"}", b', "n": ' + b"7" * 5000 + b"}"),
    "half a character elsewhere": LINES.replace(b"}", b', "n": "\\ud83d"}'),
}


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows", "rows.txt"])
@pytest.mark.parametrize("content", READ_JSON.values(), ids=READ_JSON)
def test_json_that_holds_everything_is_read(file, name, content):
    found = read(file(name, content))
    assert [{key: fields[key] for key in COLUMNS} for fields in found] == ROWS


REFUSED_JSON = {
    "nested deeply": (b'{"a": ' + b"[" * 100_000, "line 1: JSON nested too deeply to be read"),
    "an array nested deeply": (b'[{"a": 1}, ' + b"[" * 100_000, "row 2: JSON nested too deeply"),
    "NULs": (LINES + b"\0\0\n", "line 4: not a JSON object (Expecting value"),
    "commas after lines": (LINES.replace(b"}", b"},"), "line 1: not a JSON object (more follows"),
    "a cut line": (LINES[:-9], "line 3: not a JSON object (Unterminated string"),
    "a cut array": (json.dumps(ROWS)[:-1], "row 3: after it a comma or the end of the array"),
    "a comma at the end": ("[{}, ]", "row 2: not a JSON object (Expecting value"),
    "text behind an array": ("[{}] {}", "more follows the end of the JSON array"),
    "an array of numbers": ("[1]", "row 1: a JSON object is needed, found number"),
    "a number": ("5", "line 1: a JSON object is needed, found number"),
    "latin-1": (LINES.replace(b"+", b"\xe9"), "line 1, byte 15 of the file: 0xe9"),
    "a picture": (b"\x89PNG\r\n\x1a\n", "line 1, byte 1 of the file: 0x89"),
}


@pytest.mark.parametrize(("content", "says"), REFUSED_JSON.values(), ids=REFUSED_JSON)
def test_json_that_is_broken_is_refused_by_line_or_row(file, content, says):
    assert says in refusal(file("rows.jsonl", content))


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff", "[]", " [ ] "])
def test_json_without_rows_has_none(file, content):
    assert read(file("rows.json", content)) == []


def test_arrow_as_file_and_as_stream(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    for name, writer in (("f.arrow", pa.ipc.new_file), ("s.arrow", pa.ipc.new_stream)):
        with writer(str(tmp_path / name), table.schema) as opened:
            opened.write_table(table)
        assert read(tmp_path / name) == ROWS


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather"])
def test_tables_that_are_cut_anywhere(tmp_path, suffix):
    whole = pa.BufferOutputStream()
    table = pa.Table.from_pylist(ROWS)
    if suffix == "parquet":
        pq.write_table(table, whole)
    else:
        with pa.ipc.new_file(whole, table.schema) as opened:
            opened.write_table(table)
    content = whole.getvalue().to_pybytes()
    for cut in range(1, len(content) - 1, 37):
        path = tmp_path / f"rows.{suffix}"
        path.write_bytes(content[:cut])
        assert f"cannot be read as {suffix}" in refusal(path)


def test_a_column_of_a_table_that_stands_twice(tmp_path):
    table = pa.table([["a"], ["1"], ["2"]], names=["prompt", "answer", "answer"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert "'answer' occurs twice" in refusal(tmp_path / "rows.parquet")


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "rows.jsonl")
    assert "no regular file" in refusal(tmp_path / "rows.jsonl")
