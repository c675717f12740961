"""Trackers that a run's metrics can go to: TensorBoard, Weights & Biases, trackio and MLflow.

A library is imported where it was chosen. See docs/trackers.md; `passk.tracking` holds one open.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Protocol
from uuid import uuid4

from passk.config import TrackerConfig
from passk.errors import UserError

PATIENCE_SECONDS = 60.0  # with a library, once the run has ended


@dataclass(frozen=True)
class Session:
    """What a tracker is told of a run when it is opened.

    Attributes:
        path: the run's directory.
        name: of the run, and `group` of those it belongs to: a reproduction, a sweep.
        folder: where the user wants the files; None: where they belong.
        id: what the library called this run in an earlier session; None in the first.
        place: where that session was written.
        step: of training, at which the session begins.
        config: the hyper-parameters, nested.
        facts: versions, commit, device and the like.
    """

    path: Path
    project: str
    name: str
    group: str | None
    folder: Path | None
    mode: str
    id: str | None
    place: str | None
    step: int
    config: dict[str, Any]
    facts: dict[str, str]


class Tracker(Protocol):
    """An open run of a library; opened by calling the class with a `Session`."""

    id: str
    place: str  # for people: a folder or an address
    rewinds: ClassVar[bool]  # drops what it holds of steps that a resumed run repeats

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Metrics of a step; a step may come in several parts."""
        ...

    def finish(self, status: str) -> None:
        """Send what is left and close the run: `finished`, `interrupted` or `failed`."""
        ...


class TensorBoard:
    """Event files, in the run's directory."""

    id = ""
    rewinds: ClassVar[bool] = True

    def __init__(self, session: Session) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = session.path / "tensorboard"
        if session.folder is not None:
            folder = session.folder / (session.group or "") / session.name
        self.place = str(folder)
        self._writer = SummaryWriter(self.place, purge_step=session.step)
        settings = {key: _plain(value) for key, value in flat(session.config, ".").items()}
        shown = {f"eval/pass@{k}": 0.0 for k in session.config["eval"]["ks"]}
        for summary in hparams(settings, shown):
            self._writer.file_writer.add_summary(summary)
        self._writer.add_text("facts", json.dumps(session.facts, indent=2), session.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Written at once: whoever looks sees the last step, and a kill takes none."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, status: str) -> None:
        """The status stands among the texts."""
        self._writer.add_text("status", status)
        self._writer.close()


class WandB:
    """Weights & Biases: offline files in the run's directory, or its server."""

    rewinds: ClassVar[bool] = False

    def __init__(self, session: Session) -> None:
        import wandb

        folder = session.folder or session.path
        folder.mkdir(parents=True, exist_ok=True)  # wandb would go to a temporary one
        wandb.setup(settings=wandb.Settings(silent=True))  # nor does it ask who one is
        self._run = wandb.init(
            project=session.project,
            name=session.name,
            group=session.group,
            id=session.id or uuid4().hex[:8],
            resume="allow",
            mode=session.mode,
            dir=str(folder),
            config=session.config | {"manifest": session.facts},
            reinit="create_new",  # whoever else uses wandb in this process keeps their run
            settings=wandb.Settings(
                console="off",
                finish_timeout=PATIENCE_SECONDS,  # the hook at exit keeps to it too
                finish_timeout_raises=True,
            ),
        )
        self.id = self._run.id
        offline = session.mode == "offline"
        self.place = str(Path(self._run.dir).parent) if offline else str(self._run.url)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Parts of a step become one row."""
        self._run.log(dict(values), step=step)

    def finish(self, status: str) -> None:
        """What did not finish is shown as failed; the summary says which it was."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)


class Trackio:
    """The local database that all runs of trackio share, in TRACKIO_DIR."""

    rewinds: ClassVar[bool] = False

    def __init__(self, session: Session) -> None:
        import trackio

        # Not trackio.init: it finds a run to go on with by its name alone, and sends to where
        # TRACKIO_SPACE_ID says.
        self._run = trackio.Run(
            url=None,
            project=session.project,
            client=None,
            name=session.name,
            run_id=session.id,
            group=session.group,
            config=session.config | {"manifest": session.facts},
        )
        self.id, self.place = self._run.id, str(trackio.utils.TRACKIO_DIR)
        self._sent: set[tuple[int, str]] = set()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """A row for each part of a step."""
        self._run.log(dict(values), step=step)
        self._sent |= {(step, name) for name in values}

    def finish(self, status: str) -> None:
        """There is no status here. What could not be written trackio only warns of: look."""
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import get_storage_mode

        self._run.finish()
        if get_storage_mode() == "sqlite":  # else files that its dashboard reads in later
            rows = SQLiteStorage.get_logs(self._run.project, self._run.name, run_id=self.id)
            lost = self._sent - {(row["step"], name) for row in rows for name in row}
            if lost:
                raise OSError(f"{len(lost)} of {len(self._sent)} values are not in its database")


class MLflow:
    """The store at MLFLOW_TRACKING_URI, or files in ./mlruns that all runs share."""

    rewinds: ClassVar[bool] = False
    _STATUS: ClassVar = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
    _PER_BATCH = 100  # parameters that a server takes at once
    _LONGEST = 5000  # characters of a value

    def __init__(self, session: Session) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.environment_variables import MLFLOW_TRACKING_URI

        self.place = MLFLOW_TRACKING_URI.get() or ""
        if session.folder or not self.place:
            self.place = (session.folder or Path("mlruns")).absolute().as_uri()
        self.place = session.place or self.place  # its run is there, wherever one stands now
        self._metric, self._client = Metric, MlflowClient(tracking_uri=self.place)
        if session.id is not None:
            self.id = session.id
            self._client.update_run(self.id, status="RUNNING")
            return
        tags = session.facts | ({"group": session.group} if session.group else {})
        run = self._client.create_run(
            self._experiment(session.project),
            tags={key: value[: self._LONGEST] for key, value in tags.items()},
            run_name=session.name,
        )
        self.id = run.info.run_id
        settings = [
            Param(key, str(value)[: self._LONGEST])
            for key, value in flat(session.config, ".").items()
        ]
        for start in range(0, len(settings), self._PER_BATCH):
            self._client.log_batch(self.id, params=settings[start : start + self._PER_BATCH])

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which another run may be making at this moment."""
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except Exception:
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Names may hold few signs here: `eval/pass@8` is `eval/pass_at_8`."""
        now = int(time.time() * 1000)
        names = {key: re.sub(r"[^\w/.\- :]", "_", key.replace("@", "_at_")) for key in values}
        metrics = [self._metric(names[key], value, now, step) for key, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def finish(self, status: str) -> None:
        """An interrupted run counts as killed here."""
        self._client.set_terminated(self.id, self._STATUS[status])


# The class of each `tracker.name`, and the package that it needs.
TRACKERS: dict[str, tuple[Callable[[Session], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboard"),
    "wandb": (WandB, "wandb"),
    "trackio": (Trackio, "trackio"),
    "mlflow": (MLflow, "mlflow"),
}


def check_tracker(cfg: TrackerConfig) -> None:
    """Refuse a library that is not installed, and settings that it has no use for."""
    if cfg.name == "none":
        return
    package = TRACKERS[cfg.name][1]
    spec = find_spec(package)
    if spec is None or spec.origin is None:  # a folder of that name here is no library
        raise UserError(
            f"tracker={cfg.name} needs {package}, which is not installed: "
            "pip install 'passk[tracking]'"
        )
    if cfg.mode == "online" and cfg.name != "wandb":
        raise UserError(
            f"tracker.mode=online goes with tracker=wandb; tracker={cfg.name} knows no such thing "
            "(mlflow sends to where MLFLOW_TRACKING_URI says; trackio sync sends later)"
        )
    if cfg.dir is not None and cfg.name == "trackio":
        raise UserError(
            f"tracker.dir={cfg.dir} goes with tracker=tensorboard, wandb and mlflow; trackio keeps "
            "all runs in one place, which the environment variable TRACKIO_DIR names"
        )


def flat(node: Mapping[str, Any], joint: str) -> dict[str, Any]:
    """Nested settings under one name each: `regime.k`."""
    named: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            named |= {f"{key}{joint}{name}": inner for name, inner in flat(value, joint).items()}
        else:
            named[key] = value
    return named


def _plain(value: Any) -> str | float | bool:
    return value if isinstance(value, str | int | float) else str(value)
