"""Files that commands left behind, read back; one that cannot be read is named in one sentence."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from passk.errors import UserError

if TYPE_CHECKING:  # else imported with the first table: a line that is refused does not wait for it
    import pandas as pd

# Text, also where it looks like a number or like a missing value.
_TEXT = ("kind", "level", "type", "problem_id", "signal", "metric")
_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WITHOUT = "put it back from a copy, or remove it, and "
# What to do about a file of a run that is broken; others can only be put back.
_ADVICE = {
    "manifest.json": _WITHOUT + "the run goes on without its times and the hashes of its problems",
    "metrics.jsonl": "put it back from a copy, or remove the lines that are broken",
    "overrides.txt": _WITHOUT + "nothing but lines in reports is lost",
    **dict.fromkeys(
        ("table.csv", "summary.csv", *(f"table_by_{name}.csv" for name in _TEXT[:3])),
        _WITHOUT + "it begins anew with the next evaluation",
    ),
}
_NUMBER = (int, float)
_MANIFEST_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("command", "status", "policy", "engine", "start", "end", "device"), (str,)),
    **dict.fromkeys(("seconds", "device_seconds"), _NUMBER),
    **dict.fromkeys(("seed", "num_processes"), (int,)),
    "versions": (dict,),
    "git": (dict, type(None)),
}


def broken(file: Path, reason: str) -> UserError:
    """The sentence for a file that is not what passk wrote: which, why, and what to do."""
    return UserError(f"{file} {reason}; {_ADVICE.get(file.name, 'put it back from a copy')}")


def read_file(reader: Any, file: Path, default: Any = None) -> Any:
    """What the reader makes of a file; `default`, if there is one, where there is no file.

    Raises:
        UserError: the file cannot be read; says which, why, and what to do.
    """
    if default is not None and not file.is_file():
        return default
    try:
        return reader(file)
    except UserError:
        raise
    except Exception as error:  # a library meets what is broken anywhere, in any way
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif file.stat().st_size == 0:
            reason = "it is empty"
        else:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise broken(file, f"cannot be read: {reason}") from error


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object."""
    found = read_file(lambda f: json.loads(f.read_text(encoding="utf-8")), file)
    if not isinstance(found, dict):
        raise broken(file, f"holds {_named(found)} where a JSON object is needed")
    return found


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML file that holds keys and values."""
    found = read_file(lambda f: yaml.safe_load(f.read_text(encoding="utf-8")), file)
    if not isinstance(found, dict):
        raise broken(file, f"holds {_named(found)} where keys and values are needed")
    return found


def _named(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def read_table(
    file: Path,
    default: "pd.DataFrame | None" = None,
    *,
    columns: Iterable[str] = (),
    numbers: Iterable[str] = (),
) -> "pd.DataFrame":
    """A CSV file, in which the names of groups and problems are text.

    It needs these columns; those of `numbers` hold numbers, or nothing.
    """
    table: pd.DataFrame = read_file(_read_csv, file, default=default)
    return with_columns(file, table, columns=columns, numbers=numbers)


def with_columns(
    file: Path,
    table: "pd.DataFrame",
    *,
    columns: Iterable[str] = (),
    numbers: Iterable[str] = (),
) -> "pd.DataFrame":
    """The table of a file, if it has the columns that are needed."""
    from pandas.api.types import is_numeric_dtype

    needed = list(dict.fromkeys([*columns, *numbers]))
    for name in needed:
        if name not in table:
            raise broken(file, f"lacks the column {name!r}: it needs {', '.join(needed)}")
    for name in numbers:
        if len(table) and not is_numeric_dtype(table[name]):
            raise broken(file, f"has text in the column {name!r}, which holds numbers")
    return table


def _read_csv(file: Path) -> "pd.DataFrame":
    """Only in columns of numbers is a value missing where there is nothing."""
    import pandas as pd

    columns = pd.read_csv(file, nrows=0).columns
    return pd.read_csv(
        file,
        dtype={name: str for name in columns if name in _TEXT},
        keep_default_na=False,
        na_values={name: [""] for name in columns if name not in _TEXT},
    )


def printable(text: str) -> str:
    """Text with each character replaced that neither XML nor LaTeX can hold, such as NUL."""
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def read_manifest(folder: Path) -> Mapping[str, Any]:
    """`manifest.json` of any directory that a command wrote; empty where there is none."""
    file = folder / "manifest.json"
    if not file.is_file():
        return {}
    manifest = read_object(file)
    for key, types in _MANIFEST_TYPES.items():
        if key in manifest and not isinstance(manifest[key], types):
            raise broken(file, f"has {key}={str(manifest[key])[:40]}, of the wrong kind")
    return manifest


def read_lines(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of `metrics.jsonl`, as text and as values; empty where there is no file.

    What was being written when the machine stopped is the last line, and is left out if it is not
    whole.
    """
    text: str = read_file(lambda f: f.read_bytes().decode("utf-8", "replace"), file, default="")
    lines = text.split("\n")
    is_whole = lines[-1] == ""
    lines = lines[:-1] if is_whole else lines
    rows = [_metrics(line) for line in lines]
    if (rows and rows[-1] is None) or (rows and not is_whole):
        rows.pop()
    if None in rows:
        number = rows.index(None) + 1
        raise broken(file, f"is broken in line {number}: a line is the JSON object of one step")
    return [(line, row) for line, row in zip(lines, rows, strict=False) if row is not None]


def _metrics(line: str) -> dict[str, Any] | None:
    """The values of one step's line; None if it is broken."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_step = isinstance(row, dict) and type(row.get("step")) is int
    is_timed = is_step and isinstance(row.get("seconds", 0.0), _NUMBER)
    return row if is_timed else None


def recorded(run_dir: Path) -> tuple[list[tuple[str, dict[str, Any]]], "dict[Path, pd.DataFrame]"]:
    """What a run goes on from: the lines of its metrics, and the tables of its evaluations."""
    tables = {file: read_file(_read_rows, file) for file in (run_dir / "eval").glob("*.csv")}
    return read_lines(run_dir / "metrics.jsonl"), tables


def _read_rows(file: Path) -> "pd.DataFrame":
    """As text, so that numbers keep their digits, but for the column `step`."""
    import pandas as pd

    rows = pd.read_csv(file, dtype=str, keep_default_na=False)
    if "step" not in rows:
        raise ValueError("it lacks the column 'step'")
    return rows.assign(step=rows["step"].map(int))


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
    return list(steps_of(folder, ".parquet"))


def steps_of(folder: Path, ending: str = "") -> dict[int, Path]:
    """What is named `step-NNNNNN` in a folder, by step; copies under other names are left out."""
    named = ((re.fullmatch(rf"step-(\d{{6,}}){ending}", p.name), p) for p in folder.glob("step-*"))
    return dict(sorted((int(match[1]), path) for match, path in named if match))
