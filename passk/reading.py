"""Files that commands left behind, read back; one that cannot be read is named in one sentence."""

import json
from collections.abc import Mapping, Sequence
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


def overrides_text(words: Sequence[str]) -> str:
    """What `overrides.txt` holds: an override a line, one that is not a line of text as JSON."""
    lines = (word if _overrides(word) == (word,) else json.dumps(word) for word in words)
    return "".join(f"{line}\n" for line in lines)


def read_overrides(folder: Path) -> tuple[str, ...]:
    """`overrides.txt` of any directory that a command wrote: what was typed, word by word."""
    file = folder / "overrides.txt"
    text: str = read_file(lambda f: f.read_text(encoding="utf-8"), file, default="")
    return _overrides(text)


def _overrides(text: str) -> tuple[str, ...]:
    """Older files may begin each line with a dash; no override begins with a quotation mark."""
    lines = (line.removeprefix("- ").strip() for line in text.splitlines())
    return tuple(_unquoted(line) for line in lines if line)


def _unquoted(line: str) -> str:
    try:
        return str(json.loads(line)) if line.startswith('"') else line
    except ValueError:
        return line


def saved_steps(folder: Path) -> list[int]:
    """The steps of `step-NNNNNN.parquet` in a folder, ascending."""
    found = folder.glob("step-*.parquet")
    return sorted(int(file.stem.removeprefix("step-")) for file in found)
