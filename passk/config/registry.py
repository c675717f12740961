"""Look up the configuration of each command: its dataclass, and its groups in `conf/`."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import yaml

from passk.config.commands import (
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

AnyConfig = RunConfig | ReportConfig | ExportConfig | ToyConfig | ExplainConfig
SCHEMAS: dict[str, type[AnyConfig]] = {
    "train": TrainConfig,
    "eval": EvaluateConfig,
    "reproduce": ReproduceConfig,
    "report": ReportConfig,
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


def text_keys(command: str) -> frozenset[str]:
    """Return the keys of a command that take a text, such as a path or an instruction."""
    own = _text_fields(SCHEMAS[command])
    of_data = [f"data.{key}" for schema in DATA_SCHEMAS.values() for key in _text_fields(schema)]
    return frozenset((*own, *of_data, *_TEXTS_OF_HYDRA))


def _text_fields(schema: type) -> Iterator[str]:
    for field in fields(schema):
        if is_dataclass(field.type):
            assert isinstance(field.type, type)
            yield from (f"{field.name}.{key}" for key in _text_fields(field.type))
        elif field.type in (str, str | None):
            yield field.name


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
