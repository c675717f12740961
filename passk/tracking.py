"""What a run says to its tracker, from a thread that holds the library.

So the run neither waits for a library nor fails with it: what the run wrote itself, `metrics.jsonl`
above all, has everything.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from passk.config import TrainConfig
from passk.disk import write_text
from passk.ledger import FOLDER
from passk.trackers import PATIENCE_SECONDS, TRACKERS, Session, flat

_LONGEST_REASON = 300  # characters of what a library said when it failed
_OF_THE_MOMENT = ("status", "start")  # facts of a manifest that say nothing of the run's making


class Tracking:
    """A tracker that cannot hurt the run. State: its thread, and what kept it from going on.

    `tracker.json` in the run's directory says for each library under which id it knows the run,
    and the step before which it has everything of a kind.
    """

    def __init__(self, cfg: TrainConfig, path: Path, facts: Mapping[str, Any], step: int) -> None:
        """`facts` are those of the manifest; the session begins at `step`."""
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
            id=None,
            place=None,
            step=step,
            config=asdict(cfg),
            facts={
                key: str(value)
                for key, value in flat(facts, ".").items()
                if key not in _OF_THE_MOMENT
            },
        )
        self._thread = Thread(target=self._work, args=(session,), name="tracker", daemon=True)
        self._thread.start()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Hand a step's values over; `kind` tells lines of metrics from evaluations."""
        if self._failure is None:
            self._handed.put((kind, step, scalars(values)))

    def finish(self, status: str) -> dict[str, str]:
        """Wait for the tracker, but not for ever; facts for the manifest."""
        self._handed.put(status)
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            self._fail(f"it was not done {PATIENCE_SECONDS:g} s after the run had ended")
        elif self._failure is None:
            print(f"tracker={self._name}: {self._place}", flush=True)
        facts = {"tracker": self._place, "tracker_failure": self._failure}
        return {key: fact for key, fact in facts.items() if fact is not None}

    def _work(self, session: Session) -> None:
        """The life of the thread."""
        try:
            known = json.loads(self._file.read_text()) if self._file.is_file() else {}
            own = known.setdefault(self._name, {"id": None, "place": None})
            before = replace(session, id=own["id"], place=own.get("place"))
            tracker = TRACKERS[self._name][0](before)
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
        except BaseException as error:  # libraries end threads by SystemExit too
            said = str(error).strip().splitlines() or [""]
            self._fail(f"{type(error).__name__}: {said[0][:_LONGEST_REASON]}".removesuffix(": "))

    def _remember(self, known: Mapping[str, Any]) -> None:
        write_text(self._file, json.dumps(known) + "\n")

    def _fail(self, reason: str) -> None:
        """Tell it, the first time."""
        if self._failure is None:
            self._failure = reason
            print(
                f"passk: tracker={self._name} failed: {reason}; the run goes on without it; "
                "metrics.jsonl has everything",
                file=sys.stderr,
                flush=True,
            )


def place_among_runs(path: Path) -> tuple[str | None, str]:
    """The group and the name that a run's directory gives it.

    Runs of a reproduction and cells of a sweep are named after their place in it.
    """
    path = path.resolve()
    if re.fullmatch(r"seed-\d+", path.parent.name):
        return path.parent.parent.name, f"{path.parent.name}/{path.name}"
    if (path.parent / FOLDER).is_dir():
        return path.parent.name, path.name
    return None, path.name


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among a step's metrics, but for the step itself, under names of their own.

    Lists are counted from 1 (`products/1`), counts by name are `reasons/NAME`; null is left out.
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
