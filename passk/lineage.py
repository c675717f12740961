"""Where a run's weights come from, told without naming places of this machine."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from passk.errors import UserError
from passk.records import RunRecord, load_run
from passk.rows import is_file_name
from passk.shell_words import as_value, one_line, without_quotes

_PLACES = ("model.path", "data.path", "data.eval_path", "train.init_from")
_NOT_TOLD = ("resume=", "hydra.", "tracker")  # nobody else's tracker is this one's


@dataclass(frozen=True, slots=True)
class Lineage:
    """The runs that led to a model, the first of them first, and what that one started from.

    `model` is None where the first run that is known started from a checkpoint that is not here.
    """

    runs: tuple[RunRecord, ...]
    model: str | None

    @property
    def model_name(self) -> str:
        """The starting model in a word; without it the name of the run that came before."""
        start = self.model or str(_run_folder(Path(self.runs[0].setting("train.init_from"))))
        return shown_name(start).rpartition("/")[2]


def lineage(record: RunRecord) -> Lineage:
    """Follow `train.init_from` back, as far as the runs are still where they were."""
    runs = [record]
    while start := runs[0].setting("train.init_from"):
        earlier = _run_of(Path(start).expanduser())
        if earlier is None or earlier.path in {run.path for run in runs}:
            return Lineage(tuple(runs), None)
        runs.insert(0, earlier)
    return Lineage(tuple(runs), str(runs[0].setting("model.path", "tiny")))


def _run_of(start: Path) -> RunRecord | None:
    try:
        return load_run(_run_folder(start))
    except UserError:
        return None


def _run_folder(start: Path) -> Path:
    """The run that a starting point is, or is a checkpoint of."""
    return start.parent.parent if start.parent.name == "checkpoints" else start


def hub_id(path: str | None, kind: str = "model") -> str | None:
    """`path` where it is a repository of the hub, which this machine's cache of the hub shows.

    By its form alone a folder that is not here any more could be taken for one. `kind` is `model`
    or `dataset`.
    """
    if path is None or not _is_hub_form(path):
        return None
    cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type=kind)
    return path if cached.is_dir() else None


def _is_hub_form(path: str) -> bool:
    is_form = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) is not None
    return is_form and not is_file_name(path) and not Path(path).exists()


def shown_name(path: str) -> str:
    """A model, data set or run as others may read it: folders of this machine by name only."""
    folder = Path(path)
    if _is_hub_form(path):
        return path
    if folder.parent.name == "checkpoints":
        return "/".join(folder.parts[-3:])
    return folder.absolute().name


def command_line(record: RunRecord, *, named: bool = False) -> str:
    """The line that made the run, without places of this machine; `named` with its directory."""
    words = []
    for word in record.overrides:
        key, _, value = word.partition("=")
        plain = key.lstrip("+~")
        if word.lstrip("+~").startswith(_NOT_TOLD):
            continue
        if plain in _PLACES and record.setting(plain):
            word = f"{key}={as_value(shown_name(record.setting(plain)))}"
        else:
            word = f"{key}={_without_places(value)}" if value else word
        words.append(word)
    if named:
        words.append(f"hydra.run.dir={as_value(record.path.name)}")
    return one_line(["passk", "train", *words])


def _without_places(value: str) -> str:
    """An override's value with the last names of the paths that it is, or that its list holds."""
    if value.startswith("[") and value.endswith("]"):
        items = [_without_places(item.strip()) for item in value[1:-1].split(",")]
        return f"[{','.join(items)}]" if any(map(_is_place, value[1:-1].split(","))) else value
    return as_value(Path(without_quotes(value)).name) if _is_place(value) else value


def _is_place(value: str) -> bool:
    """An absolute path, but not a word of a prompt such as /think."""
    bare = without_quotes(value.strip())
    path = Path(bare)
    return bare.startswith("~/") or (path.is_absolute() and len(path.parts) > 2)
