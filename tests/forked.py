"""Processes forked from one that has imported the libraries, which takes longer than tests do.

Python's fork server makes the imports (7 seconds of CPU, and as many for vLLM) once for all
processes that a file's tests ask for. What a process of the user's own does from its first line on
is tried from the shell, in `test_rank_runs.py` and `faults/`.
"""

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def ranks(*libraries: str) -> Iterator[None]:
    """Let `launch` fork its ranks instead of starting an interpreter for each.

    They print to where the first of them printed, so this is not for tests that read what they say.
    """
    from passk import launch

    multiprocessing.set_forkserver_preload(["passk.commands", *libraries])
    spawning = launch.LaunchConfig

    def forking(**settings: Any) -> Any:
        return spawning(**settings | {"start_method": "forkserver"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "LaunchConfig", forking)
        yield
