"""Make the paths of a configuration absolute, so that it works from any folder."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from passk.config.schema import RunConfig
from passk.data.sources import is_local

C = TypeVar("C", bound=RunConfig)


def with_absolute_paths(cfg: C) -> C:
    """Return a configuration in which the files and folders that it names are absolute paths.

    Names of the hub, and `tiny`, stay as they are. Runs are recorded in this form, so a later
    command in another folder finds the same problems and weights.
    """
    data = replace(cfg.data, path=_source(cfg.data.path), eval_path=_source(cfg.data.eval_path))
    changes: dict[str, Any] = {
        "data": data,
        "model": replace(cfg.model, path=_model(cfg.model.path)),
    }
    if train := getattr(cfg, "train", None):
        changes["train"] = replace(train, init_from=_folder(train.init_from))
    if run := getattr(cfg, "run", None):
        changes["run"] = _folder(run)
    return replace(cfg, **changes)


def _source(named: str | None) -> str | None:
    return _absolute(named) if named is not None and is_local(named) else named


def _model(named: str) -> str:
    return named if named == "tiny" else str(_folder(named))


def _folder(named: str | None) -> str | None:
    is_here = named is not None and Path(named).expanduser().is_dir()
    return _absolute(named) if is_here else named


def _absolute(named: str | None) -> str:
    # Do not resolve links: the target's name may lack the suffix that shows the format.
    return os.path.abspath(Path(str(named)).expanduser())
