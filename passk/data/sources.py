"""Read the rows of a data set, each with its place, for error messages.

A source is a file, a folder with files of each split, or a data set on the hub (read by `datasets`,
which is imported when it is needed: it takes a second). A file is JSON lines, a JSON array, CSV,
Parquet or Arrow, compressed or not. Every number of a row is an `int` or a `Decimal` with the
digits in the file: a float would write 0.1 of single precision as 0.10000000149011612.
Whatever cannot be read raises UserError that names the file, and the line or row if there is one.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import logging
import lzma
import math
import os
import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

from passk.config.schema import RunConfig, is_own
from passk.errors import UserError

_ARROW = (".parquet", ".arrow", ".feather")
FORMS = (".jsonl", ".json", ".csv", ".tsv", *_ARROW)
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)
# Longest byte order marks first: the one of UTF-32 begins with that of UTF-16.
_MARKS = (
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
_SEPARATORS = (",", ";", "\t")
_NO_LIMIT = 2**31 - 1  # characters of a cell
_DECODER = json.JSONDecoder(
    parse_float=lambda text: _decimal(text),
    parse_int=lambda text: _decimal(text),
    parse_constant=Decimal,
)
_SPACE = re.compile(r"[ \t\r\n]*")

Fields = Mapping[str, Any]
C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True, slots=True)
class Part:
    """Numbered rows of a file or split, and the name of a row in messages (`train.jsonl, line`)."""

    place: str
    rows: Iterator[tuple[int, Fields]]


def form_of(path: Path) -> str:
    """Return the suffix of a file's format, `.csv` for `rows.csv.gz`; may be empty."""
    return Path(path.stem).suffix if path.suffix in COMPRESSIONS else path.suffix


def read_file(file: Path, shown: str, columns: Collection[str]) -> Part:
    """Return the rows of a file; `shown` names it in messages as the user did (`data.path=...`).

    Rows of tables (CSV, Parquet, Arrow) have only the fields of `columns` that the file has.
    """
    form = form_of(file)
    if not file.is_file():
        raise UserError(
            f"{shown} cannot be read: it is no regular file, and passk reads it more than once"
        )
    if form in _ARROW:
        return Part(f"{file}, row", _read_arrow(file, shown, columns))
    text = _text(_content(file, shown), shown)
    if form in (".csv", ".tsv"):
        return Part(f"{file}, row", _read_csv(text, file, columns))
    if text.lstrip()[:1] == "[":
        return Part(f"{file}, row", _read_array(text, file))
    return Part(f"{file}, line", _read_lines(text, file))


def _content(file: Path, shown: str) -> bytes:
    openers: dict[str, Callable[[Path], Any]] = {
        ".gz": gzip.open,
        ".bz2": bz2.open,
        ".xz": lzma.open,
        ".zst": _open_zst,
    }
    try:
        with openers.get(file.suffix, lambda path: path.open("rb"))(file) as opened:
            content: bytes = opened.read()
            return content
    except _DAMAGED as error:
        raise UserError(f"{shown} cannot be read: {first_line(error)}") from error


def _open_zst(file: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(file), compression="zstd")


def _text(content: bytes, shown: str) -> str:
    """Decode a text file: in UTF-8, or in the encoding of its byte order mark."""
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding).lstrip("\ufeff")
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1}"
        if encoding == "utf-8":
            line = content.count(b"\n", 0, error.start) + 1
            where = f"line {line}, {where} of the file: {content[error.start]:#x}"
        raise UserError(
            f"{shown} cannot be read as a {encoding.upper()} text file ({where}); save it as UTF-8"
        ) from error


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation:  # an exponent of 19 digits or more: not a usable number
        return Decimal("NaN")


def _json_value(text: str, at: int, place: str) -> tuple[Any, int]:
    """Return the JSON value that begins at `at`, and where it ends."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        line, column = error.lineno, error.colno
        where = f"line {line}, column {column}" if line > 1 else f"column {column}"
        raise UserError(f"{place}: not a JSON object ({error.msg}, {where})") from error
    except RecursionError as error:
        raise UserError(f"{place}: JSON nested too deeply to be read") from error


def _checked_object(value: Any, place: str) -> Fields:
    if not isinstance(value, dict):
        found = "number" if isinstance(value, Decimal) else type(value).__name__
        raise UserError(f"{place}: a JSON object is needed, found {found}")
    return value


def _read_lines(text: str, file: Path) -> Iterator[tuple[int, Fields]]:
    for number, line in enumerate(text.split("\n"), 1):  # U+2028 may stand in a string
        if not (line := line.strip()):
            continue
        place = f"{file}, line {number}"
        value, end = _json_value(line, 0, place)
        if end != len(line):
            raise UserError(
                f"{place}: not a JSON object (more follows it, column {end + 1}); give one object "
                "a line, or an array of them"
            )
        yield number, _checked_object(value, place)


def _read_array(text: str, file: Path) -> Iterator[tuple[int, Fields]]:
    at, number = text.index("[") + 1, 0
    at = _space_end(text, at)
    while text[at : at + 1] != "]" or number:
        number += 1
        place = f"{file}, row {number}"
        value, at = _json_value(text, at, place)
        yield number, _checked_object(value, place)
        at = _space_end(text, at)
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise UserError(f"{place}: after it a comma or the end of the array, ], is missing")
        at = _space_end(text, at + 1)
    if text[at + 1 :].strip():
        raise UserError(f"{file}: more follows the end of the JSON array; give one array")


def _space_end(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _read_csv(text: str, file: Path, columns: Collection[str]) -> Iterator[tuple[int, Fields]]:
    """Yield the rows of a CSV file, as text except in columns of floats.

    The first line that is not blank names the columns.
    """
    csv.field_size_limit(_NO_LIMIT)
    separator = _separator(text, file, columns)
    lines = _csv_lines(text, file, separator)
    header = next((cells for _, cells in lines), [])
    names = [name if name in columns else name.strip() for name in header]
    wanted = _places(names, columns, str(file))
    rows = []
    for number, (line, cells) in enumerate(lines, 1):
        if len(cells) < len(names) or any(cells[len(names) :]):
            raise UserError(
                f"{file}, row {number} (line {line}): {len(cells)} cells, but the first line names "
                f"{len(names)} columns; text with a separator ({separator!r}), quote or line break "
                "needs quotes"
            )
        rows.append([cells[i] for i in wanted.values()])
    cells_by_column = [_numbers(column) for column in zip(*rows, strict=True)]
    for number, row in enumerate(zip(*cells_by_column, strict=True), 1):
        yield number, dict(zip(wanted, row, strict=True))
    if not wanted:
        yield from ((number, {}) for number in range(1, len(rows) + 1))


def _csv_lines(text: str, file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the cells of every row that is not blank, with the number of its last line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells[:1]) or len(cells) > 1:
                yield reader.line_num, cells
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: not CSV ({error})") from error


def _separator(text: str, file: Path, columns: Collection[str]) -> str:
    """Return the first of `_SEPARATORS` with which the first line names one of `columns`."""
    for separator in _SEPARATORS:
        try:
            header = next((cells for _, cells in _csv_lines(text, file, separator)), [])
        except UserError:
            continue
        if {name.strip() for name in header} & set(columns):
            return separator
    return _SEPARATORS[0]


def _numbers(cells: Sequence[str]) -> Sequence[str | Decimal]:
    """Convert a column of floats as pandas writes them (14.0, 1e-05); return others as they are."""
    filled = [cell for cell in cells if cell]
    is_float = map(_is_written_float, filled)
    if not any(cell[-1].isdigit() for cell in filled) or not all(is_float):
        return cells
    return [Decimal(cell) if cell else cell for cell in cells]


def _is_written_float(cell: str) -> bool:
    try:
        return repr(float(cell)) == cell
    except ValueError:
        return False


def _read_arrow(file: Path, shown: str, columns: Collection[str]) -> Iterator[tuple[int, Fields]]:
    import pyarrow

    if not (content := _content(file, shown)):
        return
    try:
        source = pyarrow.BufferReader(content)
        if form_of(file) == ".parquet":
            table = _parquet_table(source, columns)
        else:
            table = _arrow_table(source)
        table.validate(full=True)
    except (OSError, ValueError, pyarrow.ArrowException, MemoryError) as error:
        kind = form_of(file).removeprefix(".")
        raise UserError(f"{shown} cannot be read as {kind} ({first_line(error)})") from error
    yield from table_rows(table, str(file), columns)


def _parquet_table(source: Any, columns: Collection[str]) -> Any:
    import pyarrow.parquet

    parquet = pyarrow.parquet.ParquetFile(source)
    wanted = [name for name in parquet.schema_arrow.names if name in columns]
    if wanted:
        return parquet.read(columns=wanted)
    return parquet.read(columns=parquet.schema.names[:1])  # a table without columns has no rows


def _arrow_table(source: Any) -> Any:
    """Return the table of an IPC file (or Feather), or of a stream, which `datasets` writes."""
    import pyarrow.ipc

    try:
        return pyarrow.ipc.open_file(source).read_all()
    except pyarrow.ArrowInvalid:
        source.seek(0)
        return pyarrow.ipc.open_stream(source).read_all()


def _places(names: Sequence[str], columns: Collection[str], shown: str) -> dict[str, int]:
    """Return where the wanted `columns` of a table stand. Raises UserError for one that repeats."""
    if twice := [name for name in names if name in columns and names.count(name) > 1]:
        raise UserError(f"{shown}: the column {twice[0]!r} occurs twice; keep one of them")
    return {name: place for place, name in enumerate(names) if name in columns}


def table_rows(
    table: Any, name: str, columns: Collection[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of an Arrow table, numbered from 1, with the fields `columns`."""
    cells = {
        column: _column_values(table.column(place), f"{name}: {column!r}")
        for column, place in _places(table.column_names, columns, name).items()
    }
    for i in range(table.num_rows):
        yield i + 1, {column: values[i] for column, values in cells.items()}


def _column_values(column: Any, shown: str) -> list[Any]:
    import pyarrow
    from pyarrow import types

    try:
        if types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if types.is_binary(column.type) or types.is_large_binary(column.type):
            column = column.cast(pyarrow.large_string())  # text that was written as bytes
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise UserError(f"{shown} cannot be read ({first_line(error)})") from error
    if not types.is_floating(column.type):
        return values
    return [None if value is None else _shortest(value, column.type.bit_width) for value in values]


def _shortest(value: float, bit_width: int) -> Decimal:
    """Return the number with the fewest digits whose nearest float of this width is `value`."""
    import numpy as np

    kinds = {16: np.float16, 32: np.float32, 64: np.float64}
    return Decimal(str(kinds[bit_width](value))) if math.isfinite(value) else Decimal(value)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@dataclass(frozen=True, slots=True)
class Row:
    """Fields of a row, its place (`train.jsonl, line 3`), and an id to use if it has none."""

    fields: Fields
    place: str
    default_id: str


def is_file_name(source: str) -> bool:
    """Return True if `source` means a file: it exists, or the name cannot mean anything else."""
    path = Path(source).expanduser()
    if path.is_dir():
        return False
    looks_local = source.startswith(("/", "./", "../", "~")) or source.count("/") > 1
    return path.exists() or looks_local or form_of(path) in FORMS


def is_local(source: str) -> bool:
    """Return True if `source` means a file or a folder, not a data set on the hub."""
    return is_file_name(source) or Path(source).expanduser().is_dir()


def with_absolute_paths(cfg: C) -> C:
    """Return a configuration in which the files and folders that it names are absolute paths.

    Names of the hub, and `tiny`, stay as they are. Runs are recorded in this form, so a later
    command in another folder finds the same problems and weights.
    """
    sources = {name: getattr(cfg.data, name) for name in ("path", "eval_path")}
    local: dict[str, Any] = {
        name: _absolute(named) for name, named in sources.items() if named and is_local(named)
    }
    changes: dict[str, Any] = {"data": replace(cfg.data, **local)}
    if cfg.model.path != "tiny":
        changes["model"] = replace(cfg.model, path=str(_absolute_folder(cfg.model.path)))
    if train := getattr(cfg, "train", None):
        changes["train"] = replace(train, init_from=_absolute_folder(train.init_from))
    if (regime := getattr(cfg, "regime", None)) and is_own(regime.estimator):
        changes["regime"] = replace(regime, estimator=_absolute(regime.estimator))
    if (filtering := getattr(cfg, "filter", None)) and filtering.trusted:
        changes["filter"] = replace(filtering, trusted=_absolute(filtering.trusted))
    if run := getattr(cfg, "run", None):
        changes["run"] = _absolute_folder(run)
    return replace(cfg, **changes)


def _absolute_folder(named: str | None) -> str | None:
    return _absolute(named) if named and Path(named).expanduser().is_dir() else named


def _absolute(named: str) -> str:
    # Do not resolve links: the target's name may lack the suffix that shows the format.
    return os.path.abspath(Path(named).expanduser())


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix in COMPRESSIONS else path.stem


def refuse_missing(source: str, key: str) -> None:
    """Raise UserError if `source` means a local file or folder that does not exist."""
    if is_file_name(source) and not Path(source).expanduser().exists():
        raise UserError(f"{key}={source} cannot be read: there is no such file or folder")


def read_rows(
    source: str, key: str, *, split: str, subset: str | None, columns: Collection[str]
) -> list[Row]:
    """Read the rows of `source`: all of a file, those of `split` of a folder or hub data set.

    Default ids count rows (in JSON lines: lines) from 1. `columns` are the fields that are needed;
    others may be missing from the rows. Raises UserError naming `key` and the file or row.
    """
    refuse_missing(source, key)
    path = Path(source).expanduser()
    if is_file_name(source):
        name, parts = _stem(path), [read_file(path, f"{key}={source}", columns)]
    elif path.is_dir():
        files = _files_of_split(path, f"{key}={source}", split, subset)
        name, parts = split, [read_file(file, f"{key}={file}", columns) for file in files]
    else:
        name, parts = split, _read_hub(source, key, split, subset, columns)
    rows: list[Row] = []
    before = 0
    for part in parts:
        number = 0
        for number, fields in part.rows:
            rows.append(Row(fields, f"{part.place} {number}", f"{name}-{before + number}"))
        before += number
    if not rows:
        where = "" if is_file_name(source) else f" in its split {split!r}"
        raise UserError(f"{key}={source} holds no problems{where}; give at least one row")
    return rows


def _files_of_split(folder: Path, shown: str, split: str, subset: str | None) -> list[Path]:
    """Find `<split>.jsonl` (or another form), or shards such as `<split>-00000-of-00002.parquet`.

    They lie in the folder, or in the subset's folder if there is one, or else one level below, as
    in a copy of a hub repository.
    """
    root = folder / subset if subset is not None and (folder / subset).is_dir() else folder
    forms, packed = ("|".join(map(re.escape, names)) for names in (FORMS, COMPRESSIONS))
    name = re.compile(rf"{re.escape(split)}(-\d+-of-\d+(-[0-9a-f]{{16}})?)?({forms})({packed})?")
    for pattern in ("*", "*/*"):
        files = sorted(file for file in root.glob(pattern) if name.fullmatch(file.name))
        if files:
            break
    else:
        raise UserError(
            f"{shown} holds no file of the split {split!r}; give {split}.jsonl, .json, .parquet, "
            f".csv or .arrow (or shards such as {split}-00000-of-00001.parquet)"
        )
    suffixes = sorted({file.name.removeprefix(_stem(file)) for file in files})
    if len(suffixes) > 1:
        raise UserError(
            f"{shown} holds the split {split!r} as {' and as '.join(suffixes)}; keep one of them"
        )
    return files


def _read_hub(
    source: str, key: str, split: str, subset: str | None, columns: Collection[str]
) -> list[Part]:
    """Read a split of a hub data set; without a subset, of all its configurations in turn."""
    datasets = _datasets()
    try:
        subsets = [subset] if subset is not None else datasets.get_dataset_config_names(source)
        loaded = [datasets.load_dataset(source, name, split=split) for name in subsets]
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        which = f" (data.subset={subset}, split {split!r})" if subset else f" (split {split!r})"
        raise UserError(
            f"{key}={source}{which} cannot be loaded: there is no such file or folder here, and "
            f"the hub gives: {_reason(error)}; {key} takes a file, a folder or a hub id"
        ) from error
    parts = []
    for name, dataset in zip(subsets, loaded, strict=True):
        shown = f"{source}{f' ({name})' if len(subsets) > 1 else ''} {split}"
        table = dataset.with_format("arrow")[:]
        parts.append(Part(f"{shown}, row", table_rows(table, shown, columns)))
    return parts


def _datasets() -> Any:
    """Import `datasets` and silence its log and progress bars; errors come as exceptions."""
    import datasets
    import huggingface_hub

    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    return datasets


def _reason(error: BaseException) -> str:
    """Return the first line of an error, or of its cause if `datasets` wraps that in another."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
