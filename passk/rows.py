"""Rows of a data set, each with the place to name when it is at fault.

A source is a file, a folder with files of each split, or a data set on the hub. Files are read by
`passk.row_files`; of the hub through `datasets`, which is imported when it is needed (it takes a
second).
"""

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passk.errors import UserError
from passk.row_files import (
    COMPRESSIONS,
    FORMS,
    Fields,
    Part,
    first_line,
    form_of,
    read_file,
    table_rows,
)


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
    return path.exists() or looks_local or form_of(path) in FORMS


def is_local(source: str) -> bool:
    """Whether `source` means a file or a folder, and no data set of the hub."""
    return is_file_name(source) or Path(source).expanduser().is_dir()


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix in COMPRESSIONS else path.stem


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
    """`<split>.jsonl`, or the shards `<split>-00000-of-00002.parquet`: in the folder, in the one
    of the subset, or else one level below, as in a copy of a hub repository."""
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
    parts = []
    for name, dataset in zip(subsets, loaded, strict=True):
        shown = f"{source}{f' ({name})' if len(subsets) > 1 else ''} {split}"
        table = dataset.with_format("arrow")[:]
        parts.append(Part(f"{shown}, row", table_rows(table, shown, columns)))
    return parts


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
    return first_line(error)
