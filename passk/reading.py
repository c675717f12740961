"""Files that commands left behind, read back; one that cannot be read is named in one sentence."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from passk.errors import UserError

# Text, also where it looks like a number or like a missing value.
_TEXT = ("kind", "level", "type", "problem_id", "signal", "metric")


def read_file(reader: Any, file: Path, default: Any = None) -> Any:
    """What the reader makes of a file; `default`, if there is one, where there is no file.

    Raises:
        UserError: the file cannot be read; says which and why.
    """
    if default is not None and not file.is_file():
        return default
    try:
        return reader(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{file} cannot be read: {reason}") from error


def read_table(file: Path, default: pd.DataFrame | None = None) -> pd.DataFrame:
    """A CSV file, in which the names of groups and problems are text."""
    table: pd.DataFrame = read_file(_read_csv, file, default=default)
    return table


def _read_csv(file: Path) -> pd.DataFrame:
    """Only in columns of numbers is a value missing where there is nothing."""
    columns = pd.read_csv(file, nrows=0).columns
    return pd.read_csv(
        file,
        dtype={name: str for name in columns if name in _TEXT},
        keep_default_na=False,
        na_values={name: [""] for name in columns if name not in _TEXT},
    )


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """`manifest.json` of any directory that a command wrote; empty where there is none."""
    file = folder / "manifest.json"
    manifest: dict[str, Any] = read_file(lambda f: json.loads(f.read_text()), file, default={})
    return manifest


def saved_steps(folder: Path) -> list[int]:
    """The steps of `step-NNNNNN.parquet` in a folder, ascending."""
    found = folder.glob("step-*.parquet")
    return sorted(int(file.stem.removeprefix("step-")) for file in found)
