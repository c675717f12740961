"""Rows of a data set, each with the place to name when it is at fault.

A source is a file, a folder with files of each split, or a data set on the hub. JSON lines are read
here, line by line, so that a malformed one is named by its line; everything else is read through
`datasets`, which is imported when it is needed (it takes a second).
"""

import csv
import json
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passk.errors import UserError

_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")

Fields = Mapping[str, Any]
Part = tuple[str, Iterator[tuple[int, Fields]]]  # what a row is called, numbered rows


@dataclass(frozen=True, slots=True)
class Row:
    """The fields of a row, where it stands (`train.jsonl, line 3`), and an id if it has none."""

    fields: Fields
    place: str
    default_id: str


def is_file_name(source: str) -> bool:
    """Whether `source` means a file: there is one, or the name can be nothing else."""
    path = Path(source).expanduser()
    if path.is_dir():
        return False
    looks_local = source.startswith(("/", "./", "../", "~")) or source.count("/") > 1
    return path.exists() or looks_local or path.suffix in _SUFFIXES


def refuse_missing(source: str, key: str) -> None:
    """Raise UserError where `source` means a file or folder here and there is none."""
    if is_file_name(source) and not Path(source).expanduser().exists():
        raise UserError(f"{key}={source} cannot be read: there is no such file or folder")


def read_rows(
    source: str, key: str, *, split: str, subset: str | None, columns: Collection[str]
) -> list[Row]:
    """The rows of `source`: of a file all, of a folder or hub data set those of `split`.

    Ids count rows (in JSON lines: lines) from 1. `columns` are the fields that will be looked at;
    others may be missing from the rows. Raises UserError naming `key` and the file or row.
    """
    refuse_missing(source, key)
    path = Path(source).expanduser()
    if is_file_name(source):
        name, parts = path.stem, [_read_file(path, f"{key}={source}", columns)]
    elif path.is_dir():
        files = _files_of_split(path, f"{key}={source}", split, subset)
        name, parts = split, [_read_file(file, f"{key}={file}", columns) for file in files]
    else:
        name, parts = split, _read_hub(source, key, split, subset, columns)
    rows: list[Row] = []
    before = 0
    for place, numbered in parts:
        number = 0
        for number, fields in numbered:
            rows.append(Row(fields, f"{place} {number}", f"{name}-{before + number}"))
        before += number
    if not rows:
        where = "" if is_file_name(source) else f" in its split {split!r}"
        raise UserError(f"{key}={source} holds no problems{where}; give at least one row")
    return rows


def _files_of_split(folder: Path, shown: str, split: str, subset: str | None) -> list[Path]:
    """`<split>.jsonl`, or the shards `<split>-00000-of-00002.parquet`: in the folder, in the one
    of the subset, or else one level below, as in a copy of a hub repository."""
    root = folder / subset if subset is not None and (folder / subset).is_dir() else folder
    name = re.compile(rf"{re.escape(split)}(-\d+-of-\d+)?({'|'.join(map(re.escape, _SUFFIXES))})")
    for pattern in ("*", "*/*"):
        files = sorted(file for file in root.glob(pattern) if name.fullmatch(file.name))
        if files:
            break
    else:
        raise UserError(
            f"{shown} holds no file of the split {split!r}; give {split}.jsonl, .json, .parquet or "
            f".csv (or shards such as {split}-00000-of-00001.parquet)"
        )
    suffixes = sorted({file.suffix for file in files})
    if len(suffixes) > 1:
        raise UserError(
            f"{shown} holds the split {split!r} as {' and as '.join(suffixes)}; keep one of them"
        )
    return files


def _read_file(file: Path, shown: str, columns: Collection[str]) -> Part:
    if file.suffix in (".json", ".parquet", ".csv"):
        return f"{file}, row", _read_table(file, shown, columns)
    return f"{file}, line", _read_lines(file, shown)


def _read_lines(file: Path, shown: str) -> Iterator[tuple[int, Fields]]:
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # U+2028 may stand in a string
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown} cannot be read as a UTF-8 text file: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"{error.msg}, column {error.colno}"
            raise UserError(f"{place}: not a JSON object ({reason})") from error
        if not isinstance(fields, dict):
            raise UserError(f"{place}: a JSON object is needed, found {type(fields).__name__}")
        yield number, fields


def _read_table(file: Path, shown: str, columns: Collection[str]) -> Iterator[tuple[int, Fields]]:
    """A file through `datasets`, past its cache: the file may change between two runs."""
    datasets = _datasets()
    try:
        if file.stat().st_size == 0:
            return
        with tempfile.TemporaryDirectory() as cache:
            options: dict[str, Any] = {"cache_dir": cache, "keep_in_memory": True}
            if file.suffix == ".json":
                dataset = datasets.Dataset.from_json(str(file), **options)
            elif file.suffix == ".parquet":
                dataset = datasets.Dataset.from_parquet(str(file), **options)
            else:
                with file.open(newline="", encoding="utf-8-sig") as opened:
                    header = next(csv.reader(opened))
                text = datasets.Features({name: datasets.Value("string") for name in header})
                options |= {"features": text, "keep_default_na": False}  # 007 and NA stay text
                dataset = datasets.Dataset.from_csv(str(file), **options)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if "corresponds to no data" in str(error):  # how `datasets` says that there are no rows
            return
        raise UserError(
            f"{shown} cannot be read as {file.suffix.removeprefix('.')} ({_reason(error)})"
        ) from error
    yield from _numbered(dataset, columns)


def _read_hub(
    source: str, key: str, split: str, subset: str | None, columns: Collection[str]
) -> list[Part]:
    """A split of a hub data set; without a subset, of all its configurations one after another."""
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
    return [
        (f"{source}{f' ({name})' if len(subsets) > 1 else ''} {split}, row", _numbered(d, columns))
        for name, d in zip(subsets, loaded, strict=True)
    ]


def _numbered(dataset: Any, columns: Collection[str]) -> Iterator[tuple[int, Fields]]:
    wanted = [name for name in dataset.column_names if name in columns]
    # Without columns a data set has no rows either, but here it has those that lack all fields.
    rows = dataset.select_columns(wanted) if wanted else ({} for _ in range(dataset.num_rows))
    yield from enumerate(rows, 1)


def _datasets() -> Any:
    """The `datasets` package without its chatter; errors come as exceptions."""
    import datasets
    import huggingface_hub

    datasets.utils.logging.set_verbosity(logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    return datasets


def _reason(error: BaseException) -> str:
    """The first line of an error; `datasets` hides what is wrong in a file behind a general one."""
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]
