"""Look up the configuration of each command: its dataclass, and its groups in `conf/`."""

from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from passk.config.commands import (
    CompareConfig,
    DiagnoseConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    FilterConfig,
    ReportConfig,
    ReproduceConfig,
    ToyConfig,
)
from passk.config.schema import ConventionsConfig, DataConfig, RunConfig, TableConfig, TrainConfig

AnyConfig = RunConfig | ReportConfig | CompareConfig | ExportConfig | ToyConfig | ExplainConfig
SCHEMAS: dict[str, type[AnyConfig]] = {
    "train": TrainConfig,
    "eval": EvaluateConfig,
    "reproduce": ReproduceConfig,
    "report": ReportConfig,
    "compare": CompareConfig,
    "diagnose": DiagnoseConfig,
    "filter": FilterConfig,
    "export": ExportConfig,
    "toy": ToyConfig,
    "explain": ExplainConfig,
}
DATA_SCHEMAS: dict[str, type[DataConfig]] = {
    "conventions": ConventionsConfig,
    "gsm8k": TableConfig,
    "math": TableConfig,
    "jsonl": TableConfig,
}

_TEXTS_OF_HYDRA = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")


@cache
def keys(command: str) -> dict[str, Field[Any]]:
    """Return the keys of a command that take a value, such as regime.k, with their fields.

    The data set that is chosen is not known here, so the fields of all of them are there.
    """
    found = dict(_keys(SCHEMAS[command]))
    if "data.name" in found:
        for schema in DATA_SCHEMAS.values():
            found |= _keys(schema, "data.")
    return found


def _keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Field[Any]]]:
    for field in fields(schema):
        if is_dataclass(field.type):
            assert isinstance(field.type, type)
            yield from _keys(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field


def text_keys(command: str) -> frozenset[str]:
    """Return the keys of a command that take a text, such as a path or an instruction."""
    own = (key for key, field in keys(command).items() if field.type in (str, str | None))
    return frozenset((*own, *_TEXTS_OF_HYDRA))


def choices(command: str, key: str) -> tuple[str, ...]:
    """Return the values that a key may have, if they can be listed; else an empty tuple."""
    field = keys(command).get(key)
    if field is None:
        return ()
    return ("true", "false") if field.type is bool else field.metadata.get("choices", ())


def conf_dir() -> Path:
    """Return the folder of the YAML files: inside the package if installed, else beside it."""
    package = Path(__file__).parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def groups(command: str) -> dict[str, list[str]]:
    """Return the configuration groups of a command, each with its options.

    Hydra's own listing takes more than a second: it copies all that it has read for each group.
    """
    defaults = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text())["defaults"]
    named = {name for entry in defaults if not isinstance(entry, str) for name in entry}
    folders = sorted(folder for folder in conf_dir().iterdir() if folder.name in named)
    return {f.name: sorted(file.stem for file in f.glob("*.yaml")) for f in folders}
