"""The time that a run takes, over all its sessions: interrupted, killed and resumed ones too."""

import time
from collections.abc import Mapping
from typing import Any

from passk.ranks import num_ranks


class Spending:
    """Seconds since the first session began to record, and seconds times processes.

    Of a session that was killed the last line of `metrics.jsonl` tells how far it came. Sessions
    may differ in their number of processes.
    """

    def __init__(self, manifest: Mapping[str, Any], last_logged: float) -> None:
        """`manifest` is that of the session before, `last_logged` what its last line told."""
        self._started = time.monotonic()
        num_processes = int(manifest.get("num_processes", 1))
        seconds = float(manifest.get("seconds", 0.0))
        device_seconds = float(manifest.get("device_seconds", seconds * num_processes))
        unrecorded = max(0.0, last_logged - seconds)
        self._seconds = seconds + unrecorded
        self._device_seconds = device_seconds + unrecorded * num_processes

    @property
    def seconds(self) -> float:
        """All seconds until now."""
        return self._seconds + time.monotonic() - self._started

    def facts(self) -> dict[str, float]:
        """What the manifest says of it: one process is one device."""
        seconds = self.seconds
        device_seconds = self._device_seconds + (seconds - self._seconds) * num_ranks()
        return {
            "num_processes": num_ranks(),
            "seconds": round(seconds, 1),
            "device_seconds": round(device_seconds, 1),
        }
