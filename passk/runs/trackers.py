"""Send a run's metrics to a tracker: TensorBoard, Weights & Biases, trackio or MLflow.

A library is imported only if it was chosen, and runs in its own thread: the run neither waits for
it nor fails with it. `metrics.jsonl` always has everything. See docs/guide/train.md.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isfinite
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, ClassVar, Protocol
from uuid import uuid4

from passk.config.schema import TrainConfig
from passk.files import write_text
from passk.runs.ledger import FOLDER
from passk.runs.reader import flat

PATIENCE_SECONDS = 60.0  # how long to wait for a library after the run has ended


@dataclass(frozen=True)
class Session:
    """Information that a tracker gets about a run when it is opened.

    Attributes:
        path: the run's directory.
        name: of the run, and `group` of those it belongs to: a reproduction, a sweep.
        folder: where the user wants the files; None for the tracker's default place.
        id: the library's id of this run in an earlier session; None in the first.
        place: where that session was written.
        step: training step at which the session begins.
        config: the hyper-parameters, nested.
        facts: versions, commit, device and the like.
    """

    path: Path
    project: str
    name: str
    group: str | None
    folder: Path | None
    mode: str
    step: int
    config: dict[str, Any]
    facts: dict[str, str]
    id: str | None = None
    place: str | None = None


class Tracker(Protocol):
    """Open run of a tracking library; opened by calling the class with a `Session`."""

    id: str
    place: str  # folder or address to show to people
    rewinds: ClassVar[bool]  # True if it drops steps that a resumed run repeats

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of a step; a step may come in several parts."""
        ...

    def finish(self, status: str) -> None:
        """Send what is left and close the run: `finished`, `interrupted` or `failed`."""
        ...


class TensorBoard:
    """TensorBoard event files in the run's directory."""

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
        settings = {key: _plain(value) for key, value in flat(session.config).items()}
        shown = {f"eval/pass@{k}": 0.0 for k in session.config["eval"]["ks"]}
        for summary in hparams(settings, shown):
            self._writer.file_writer.add_summary(summary)
        self._writer.add_text("facts", json.dumps(session.facts, indent=2), session.step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write at once, so readers see the last step and a kill loses none."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, status: str) -> None:
        """Write the status among the texts, and close."""
        self._writer.add_text("status", status)
        self._writer.close()


class WandB:
    """Weights & Biases: offline files in the run's directory, or its server."""

    rewinds: ClassVar[bool] = False

    def __init__(self, session: Session) -> None:
        import wandb

        folder = session.folder or session.path
        folder.mkdir(parents=True, exist_ok=True)  # else wandb uses a temporary folder
        wandb.setup(settings=wandb.Settings(silent=True))  # without a login prompt
        self._run = wandb.init(
            project=session.project,
            name=session.name,
            group=session.group,
            id=session.id or uuid4().hex[:8],
            resume="allow",
            mode=session.mode,
            dir=str(folder),
            config=session.config | {"manifest": session.facts},
            reinit="create_new",  # other users of wandb in this process keep their run
            settings=wandb.Settings(
                console="off",
                finish_timeout=PATIENCE_SECONDS,  # also limits the hook at exit
                finish_timeout_raises=True,
            ),
        )
        self.id = self._run.id
        offline = session.mode == "offline"
        self.place = str(Path(self._run.dir).parent) if offline else str(self._run.url)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values; parts of a step become one row."""
        self._run.log(dict(values), step=step)

    def finish(self, status: str) -> None:
        """Record the status in the summary; any run that did not finish is shown as failed."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=0 if status == "finished" else 1)


class Trackio:
    """The local database in TRACKIO_DIR, which all runs of trackio share."""

    rewinds: ClassVar[bool] = False

    def __init__(self, session: Session) -> None:
        import trackio

        # Not trackio.init: it finds a run to continue by its name alone, and sends to the space
        # that TRACKIO_SPACE_ID names.
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
        """Log a row for each part of a step."""
        self._run.log(dict(values), step=step)
        self._sent |= {(step, name) for name in values}

    def finish(self, status: str) -> None:
        """Close the run, and raise OSError if the database lacks values.

        trackio only warns about values that it could not write, and stores no status.
        """
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import get_storage_mode

        self._run.finish()
        if get_storage_mode() == "sqlite":  # other modes write files that its dashboard reads later
            rows = SQLiteStorage.get_logs(self._run.project, self._run.name, run_id=self.id)
            lost = self._sent - {(row["step"], name) for row in rows for name in row}
            if lost:
                raise OSError(f"{len(lost)} of {len(self._sent)} values are not in its database")


class MLflow:
    """The MLflow store at MLFLOW_TRACKING_URI, or files in ./mlruns that all runs share."""

    rewinds: ClassVar[bool] = False
    _STATUS: ClassVar = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
    _PER_BATCH = 100  # most parameters that a server accepts at once
    _LONGEST = 5000  # most characters of a value

    def __init__(self, session: Session) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.environment_variables import MLFLOW_TRACKING_URI

        self.place = MLFLOW_TRACKING_URI.get() or ""
        if session.folder or not self.place:
            self.place = (session.folder or Path("mlruns")).absolute().as_uri()
        self.place = session.place or self.place  # an earlier session's store, from any folder
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
            Param(key, str(value)[: self._LONGEST]) for key, value in flat(session.config).items()
        ]
        for start in range(0, len(settings), self._PER_BATCH):
            self._client.log_batch(self.id, params=settings[start : start + self._PER_BATCH])

    def _experiment(self, name: str) -> str:
        """Return the id of the experiment, which another run may be creating at the same time."""
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except Exception:
            if (found := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(found.experiment_id)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log values; MLflow allows few characters, so `eval/pass@8` is `eval/pass_at_8`."""
        now = int(time.time() * 1000)
        names = {key: re.sub(r"[^\w/.\- :]", "_", key.replace("@", "_at_")) for key in values}
        metrics = [self._metric(names[key], value, now, step) for key, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def finish(self, status: str) -> None:
        """Set the status; an interrupted run counts as killed here."""
        self._client.set_terminated(self.id, self._STATUS[status])


TRACKERS: dict[str, Callable[[Session], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
    "mlflow": MLflow,
}


def _plain(value: Any) -> str | float | bool:
    return value if isinstance(value, str | int | float) else str(value)


_LONGEST_REASON = 300  # characters of a library's error message
_OF_THE_MOMENT = ("status", "start")  # facts of a manifest that are not about how the run is made


class Tracking:
    """A tracker that cannot harm the run. State: its thread, and the error that stopped it.

    `tracker.json` in the run's directory holds, for each library, its id of the run, and for each
    kind of values the step before which the library has everything.
    """

    def __init__(self, cfg: TrainConfig, path: Path, facts: Mapping[str, Any], step: int) -> None:
        """Start the thread; `facts` are those of the manifest, and the session begins at `step`."""
        chosen = cfg.tracker
        group, name = place_among_runs(path)
        self._name, self._file = chosen.name, path / "tracker.json"
        self._place: str | None = None
        self._failure: str | None = None
        self._handed: SimpleQueue[tuple[str, int, dict[str, float]] | str] = SimpleQueue()
        session = Session(
            path=path,
            project=chosen.project,
            name=chosen.run_name or name,
            group=chosen.group or group,
            folder=Path(chosen.dir) if chosen.dir else None,
            mode=chosen.mode,
            step=step,
            config=asdict(cfg),
            facts={
                key: str(value) for key, value in flat(facts).items() if key not in _OF_THE_MOMENT
            },
        )
        self._thread = Thread(target=self._work, args=(session,), name="tracker", daemon=True)
        self._thread.start()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Queue a step's values; `kind` separates metrics from evaluations."""
        if self._failure is None:
            self._handed.put((kind, step, scalars(values)))

    def finish(self, status: str) -> dict[str, str]:
        """Wait up to `PATIENCE_SECONDS` for the tracker; returns facts for the manifest."""
        self._handed.put(status)
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._fail(f"it was not done {PATIENCE_SECONDS:g} s after the run had ended")
        elif self._failure is None:
            print(f"tracker={self._name}: {self._place}", flush=True)
        facts = {"tracker": self._place, "tracker_failure": self._failure}
        return {key: fact for key, fact in facts.items() if fact is not None}

    def _work(self, session: Session) -> None:
        """Run the tracker in the thread: open it, log until the status comes, and finish it."""
        try:
            known = json.loads(self._file.read_text()) if self._file.is_file() else {}
            own = known.setdefault(self._name, {"id": None, "place": None})
            before = replace(session, id=own["id"], place=own["place"])
            tracker = TRACKERS[self._name](before)
            self._place, own["id"] = tracker.place, tracker.id
            own["place"] = self._place
            self._remember(known)
            while not isinstance(item := self._handed.get(), str):
                kind, step, values = item
                if tracker.rewinds or step >= own.get(kind, 0):
                    tracker.log(values, step)
                    own[kind] = step + 1
                    self._remember(known)
            tracker.finish(item)
        except BaseException as error:  # libraries also end threads by SystemExit
            said = str(error).strip().splitlines() or [""]
            self._fail(f"{type(error).__name__}: {said[0][:_LONGEST_REASON]}".removesuffix(": "))

    def _remember(self, known: Mapping[str, Any]) -> None:
        write_text(self._file, json.dumps(known) + "\n")

    def _fail(self, reason: str) -> None:
        """Print the reason, the first time only."""
        if self._failure is None:
            self._failure = reason
            print(
                f"passk: tracker={self._name} failed: {reason}; the run goes on without it; "
                "metrics.jsonl has everything",
                file=sys.stderr,
                flush=True,
            )


def place_among_runs(path: Path) -> tuple[str | None, str]:
    """Derive a group and a name from a run's directory.

    Runs of a reproduction and cells of a sweep are named after their place in it.
    """
    path = path.resolve()
    if re.fullmatch(r"seed-\d+", path.parent.name):
        return path.parent.parent.name, f"{path.parent.name}/{path.name}"
    if (path.parent / FOLDER).is_dir():
        return path.parent.name, path.name
    return None, path.name


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Select the finite numbers among a step's metrics, without the step, each under its own name.

    Entries of lists are numbered from 1 (`products/1`), counts by name become `reasons/NAME`, and
    null is left out.
    """
    nested = {
        key: {str(i): entry for i, entry in enumerate(value, start=1)}
        if isinstance(value, list | tuple)
        else value
        for key, value in metrics.items()
    }
    return {
        key: float(value)
        for key, value in flat(nested, "/").items()
        if isinstance(value, int | float) and isfinite(value) and key != "step"
    }
