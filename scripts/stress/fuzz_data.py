r"""Gives random and damaged data files to the reader of problems and reports what it may not do.

    python scripts/stress/fuzz_data.py [--examples 100000] [--seed 0] [--forms jsonl,csv,...]

Files are JSON lines, JSON arrays, CSV, Parquet and Arrow with odd numbers, text, types and nesting,
compressed or not; each is read as it is and cut, overwritten or doubled at random bytes. What is
read must be problems that can be written again, or a UserError of one short line that names the
file, within seconds. The file at hand lies in a temporary folder, whose name is printed: it stays
there if the process dies of it.
"""

import argparse
import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import math
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import astuple
from decimal import Decimal
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from passk.config.schema import TableConfig
from passk.data.problems import read_problems
from passk.errors import UserError

MOST_SECONDS = 5.0
_PART = 5000
_VERSIONS = 10  # of each file: as it was drawn, and damaged
_COLUMNS = ("prompt", "answer", "id", "kind", "solution", "weight", "note", "", "prompt ", "Answer")
_CONFIGS = (
    TableConfig(level_column="note", type_column="note"),
    TableConfig(gold_in="after_hash", answer_column="solution", strip_calculations=True),
    TableConfig(gold_in="in_box", id_column=None),
)
_NUMBERS = (
    *("0", "-0", "7", "14.0", "1.50", "-0.0", "0.1", "1e-05", "1E16", "1e400", "1e-400", "-1e308"),
    *(
        "1e9999",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "NaN",
        "Infinity",
        "-Infinity",
    ),
    *(
        "9" * 400,
        "9" * 5000,
        "-" + "9" * 10_001,
        "0." + "3" * 40,
        "007",
        "+1",
        "1.",
        ".5",
        "1e",
        "0x1",
    ),
)
_TEXTS = (
    *("", " ", "7", "x", "T1+2=", "#### 7", "#### ", r"\boxed{7}", r"\boxed{", "<<1+1=2>>2", "NA"),
    *(
        "a,b",
        "a;b",
        "a\tb",
        'a"b',
        '"',
        "a\nb",
        "a\r\nb",
        "\x00",
        "\ufeff",
        "\u2028",
        "\x85",
        "\x1a",
    ),
    *(
        "\u0661\u0662",
        "\U0001f600",
        "e\u0301",
        "\u200f7",
        "null",
        "nan",
        "inf",
        "1e-05",
        "14.0",
        "0.5",
    ),
    *(r"\ud83d", "{", "}", "[", "]", "x" * 20_000, "\\", "=1+1", "\x7f", "\ud83d", "\udc00"),
)
_MOSTLY = st.sampled_from((True,) * 9 + (False,))
_MARKS = (b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\x00\x00", b"\n\n", b" ", b"[")
_PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


def _json_texts() -> st.SearchStrategy[str]:
    """JSON, some of it not quite, as text: a library would write neither 1e400 nor NaN."""
    texts = st.one_of(st.sampled_from(_TEXTS), st.text(st.characters(exclude_categories=())))
    leaves = st.one_of(
        texts.map(json.dumps),
        st.sampled_from(_NUMBERS),
        st.sampled_from(("true", "false", "null", "nul", "'x'", "", "[" * 3000, '{"a":' * 3000)),
        st.floats().map(repr),
        st.integers().map(str),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
            st.lists(st.tuples(st.sampled_from(_COLUMNS), inner), max_size=3).map(_object),
        ),
        max_leaves=4,
    )


def _object(fields: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in fields) + "}"


@st.composite
def _json_rows(draw: st.DrawFn) -> list[str]:
    """Objects, most of them problems but for a field or two."""
    rows = []
    for i in range(draw(st.sampled_from((1, 1, 1, 2, 3, 0)))):
        fields = {"prompt": json.dumps(f"T{i}+1="), "answer": str(i), "id": json.dumps(f"p{i}")}
        for _ in range(draw(st.sampled_from((0, 1, 1, 2)))):
            fields[draw(st.sampled_from(_COLUMNS))] = draw(_json_texts())
        rows.append(_object(list(fields.items())))
    return rows


def _json_lines() -> st.SearchStrategy[bytes]:
    ends = st.sampled_from(("\n", "\r\n", "\n\n", ",\n", "\r", ""))
    return st.tuples(_json_rows(), ends).map(
        lambda drawn: _encoded("".join(row + drawn[1] for row in drawn[0]))
    )


def _json_arrays() -> st.SearchStrategy[bytes]:
    return _json_rows().map(lambda rows: _encoded(f"[{', '.join(rows)}]"))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@st.composite
def _csv_files(draw: st.DrawFn) -> bytes:
    names = draw(st.lists(st.sampled_from(_COLUMNS), max_size=4))
    names = ["prompt", "answer", *(set(names) - {"prompt", "answer"})] if draw(_MOSTLY) else names
    cells = st.one_of(st.sampled_from(_TEXTS), st.sampled_from(_NUMBERS), st.floats().map(repr))
    opened = io.StringIO(newline="")
    writer = csv.writer(
        opened,
        delimiter=draw(st.sampled_from(",;\t|")),
        quoting=draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))),
        lineterminator=draw(st.sampled_from(("\n", "\r\n", "\r", "\n\n"))),
    )
    writer.writerow(names)
    for i in range(draw(st.integers(0, 4))):
        row = [f"T{i}+1=", str(i), *(draw(cells) for _ in names)]
        ragged = draw(st.sampled_from((*[0] * 20, 1, -1)))
        writer.writerow(row[: max(0, len(names) + ragged)])
    return _encoded(opened.getvalue())


def _columns(count: int) -> st.SearchStrategy[pa.Array]:
    """Arrow columns of every kind that an answer may be kept as, and of some that it may not."""
    texts = st.sampled_from([text for text in _TEXTS if not any(map(_is_surrogate, text))])
    options = [
        (st.one_of(st.none(), texts), pa.string()),
        (st.one_of(st.none(), texts), pa.large_string()),
        (st.binary(max_size=5), pa.binary()),
        (st.one_of(st.none(), st.floats()), pa.float64()),
        (st.floats(width=32), pa.float32()),
        (st.integers(-(2**63), 2**63 - 1), pa.int64()),
        (st.integers(0, 2**64 - 1), pa.uint64()),
        (st.booleans(), pa.bool_()),
        (st.decimals(-(10**9), 10**9, places=3).map(Decimal), pa.decimal128(20, 3)),
        (st.datetimes(min_value=datetime.datetime(1700, 1, 1)), pa.timestamp("us")),
        (st.integers(-(2**63), 2**63 - 1), pa.timestamp("ms")),
        (st.integers(-(2**63), 2**63 - 1), pa.duration("s")),
        (st.dates(), pa.date32()),
        (st.lists(st.integers(0, 9), max_size=2), pa.list_(pa.int8())),
        (st.fixed_dictionaries({"a": texts}), pa.struct([("a", pa.string())])),
        (st.none(), pa.null()),
    ]
    arrays = [
        st.lists(values, min_size=count, max_size=count).map(partial(pa.array, type=kind))
        for values, kind in options
    ]
    words = st.lists(texts, min_size=count, max_size=count).map(
        lambda cells: pa.array(cells).dictionary_encode()
    )
    return st.one_of(*arrays, words)


@st.composite
def _tables(draw: st.DrawFn) -> pa.Table:
    count = draw(st.sampled_from((1, 1, 2, 3, 0)))
    names = draw(st.lists(st.sampled_from(_COLUMNS), max_size=3))
    columns = [draw(_columns(count)) for _ in names]
    if draw(_MOSTLY):
        sound = {"prompt": [f"T{i}=" for i in range(count)], "answer": list(map(str, range(count)))}
        kept = draw(st.sampled_from((["prompt"], ["prompt", "answer"], ["prompt", "answer"])))
        columns = [pa.array(sound[name]) for name in kept] + [
            column for name, column in zip(names, columns, strict=True) if name not in kept
        ]
        names = [*kept, *(name for name in names if name not in kept)]
    return pa.Table.from_arrays(columns, names=names)


def _parquet(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    pq.write_table(table, out)
    return bytes(out.getvalue().to_pybytes())


def _arrow(table: pa.Table) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, table.schema) as opened:
        opened.write_table(table)
    return bytes(out.getvalue().to_pybytes())


def _is_surrogate(letter: str) -> bool:
    return "\ud800" <= letter <= "\udfff"


FORMS: dict[str, st.SearchStrategy[bytes]] = {
    "jsonl": _json_lines(),
    "json": _json_arrays(),
    "csv": _csv_files(),
    "tsv": _csv_files(),
    "parquet": _tables().map(_parquet),
    "arrow": _tables().map(_arrow),
    "txt": st.binary(max_size=200),
}


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return a file after one to three accidents."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at, size = rng.randint(0, len(content)), rng.randint(1, 40)
        before, after = content[:at], content[at:]
        content = rng.choice(
            (
                before,
                before + rng.randbytes(1) + after[1:],
                before + rng.randbytes(rng.randint(1, 8)) + after,
                before + after[size:],
                before + after[:size] + after,
                after + before,
            )
        )
    return content


@st.composite
def files(draw: st.DrawFn, forms: tuple[str, ...] = tuple(FORMS)) -> tuple[str, bytes, TableConfig]:
    """The name and content of a file, and how its columns are to be read."""
    form = draw(st.sampled_from(forms))
    content = draw(FORMS[form])
    if form not in ("parquet", "arrow"):
        content = draw(st.sampled_from((*[b""] * 30, *_MARKS))) + content
        if not draw(_MOSTLY):
            text = content.decode("utf-8", "replace")
            content = text.encode(draw(st.sampled_from(("utf-16", "utf-32", "latin-1"))), "replace")
    packed = draw(st.sampled_from((*[""] * 16, *_PACK)))
    return (
        f"rows.{form}{packed}",
        _PACK[packed](content),
        draw(st.sampled_from((*_CONFIGS[:1] * 4, *_CONFIGS))),
    )


def harm_done(folder: Path, name: str, content: bytes, cfg: TableConfig) -> tuple[list[str], str]:
    """Return what went wrong in reading a file, in words, and how it ended."""
    path = folder / name
    path.write_bytes(content)
    begun, harm, ending = time.monotonic(), [], ""
    try:
        problems, notes = read_problems(str(path), "data.path", cfg)
        ending = "problems"
        for problem in problems:
            texts = [field for field in astuple(problem) if isinstance(field, str)]
            "".join([*texts, *notes]).encode()
            is_sound = problem.prompt.strip() and problem.answer and problem.id.strip()
            if not is_sound or not 0 <= problem.weight < math.inf:
                harm.append(f"read {problem!r:.200}")
        if len({problem.id for problem in problems}) < len(problems) or not problems:
            harm.append("read ids that come twice, or nothing")
    except UserError as error:
        ending, sentence = "refused", str(error)
        if str(path) not in sentence or "\n" in sentence or len(sentence) > 1000 + len(str(path)):
            harm.append(f"says {sentence!r:.500}")
        sentence.encode()
    except Exception:
        ending = "raised"
        harm.append(traceback.format_exc(limit=-3))
    if (seconds := time.monotonic() - begun) > MOST_SECONDS:
        harm.append(f"took {seconds:.0f} s")
    path.unlink()
    return harm, ending


def fuzz(
    num_files: int, drawn_by: int, forms: tuple[str, ...], folder: Path
) -> tuple[Counter[str], dict[str, str]]:
    """Return how the reading of so many files ended, and what went wrong, each kind once."""
    counts: Counter[str] = Counter()
    harms: dict[str, str] = {}

    @seed(drawn_by)
    @settings(
        max_examples=max(1, num_files // _VERSIONS),
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(files(forms), st.integers(0, 2**32))
    def run(drawn: tuple[str, bytes, TableConfig], damage_seed: int) -> None:
        name, content, cfg = drawn
        rng = random.Random(damage_seed)
        for version in [content, *(damaged(content, rng) for _ in range(_VERSIONS - 1))]:
            harm, ending = harm_done(folder, name, version, cfg)
            counts[f"{name.split('.')[1]}: {ending}"] += 1
            for words in harm:
                harms.setdefault(words[-300:], f"{name} {version[:300]!r}\n{words}")

    run()
    return counts, harms


def main() -> int:
    """Draw, read and report; exit code 1 where there was harm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--forms", default=",".join(FORMS))
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    harms: dict[str, str] = {}
    folder = Path(tempfile.mkdtemp(prefix="fuzz-data-"))
    print(f"the file at hand lies in {folder}", file=sys.stderr)
    forms = tuple(options.forms.split(","))
    while (left := options.examples - counts.total()) >= _VERSIONS:
        # In parts: Hypothesis keeps all that it has drawn.
        seed_of_part = options.seed + counts.total()
        more, found = fuzz(min(left, _PART), seed_of_part, forms, folder)
        counts, harms = counts + more, found | harms
        print(f"{counts.total():,} files, harm {len(harms)}", file=sys.stderr, flush=True)
    print(f"{counts.total():,} files")
    print("".join(f"  {ending}: {count:,}\n" for ending, count in sorted(counts.items())), end="")
    print("\n\n".join(harms.values()) if harms else "no harm: all were problems or one sentence")
    return 1 if harms else 0


if __name__ == "__main__":
    sys.exit(main())
