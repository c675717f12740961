"""Processes forked from one that has imported the libraries, which takes longer than their work.

Python's fork server makes the imports (7 seconds of CPU, and with vLLM 12) once for all processes
that the tests ask it for. How passk starts from the shell, and ranks from passk, is tried by the
tests that start a program, those of `test_rank_runs.py`, `test_resume.py` and `faults/` among them.
"""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_runs import Outcome

VLLM = ("vllm.entrypoints.llm", "vllm.v1.worker.cpu_worker")


@contextmanager
def ranks(*libraries: str) -> Iterator[None]:
    """Let `launch` fork its ranks from the server instead of starting an interpreter for each.

    They print to where the server was started, so this is not for tests that read what they say.
    """
    from passk.cli import launch

    commands = ("train", "eval", "diagnose", "filter")
    modules = [f"passk.cli.commands.{command}" for command in commands]
    multiprocessing.set_forkserver_preload([*modules, *libraries])
    spawning = launch.LaunchConfig

    def forking(**settings: Any) -> Any:
        return spawning(**settings | {"start_method": "forkserver"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "LaunchConfig", forking)
        yield


def passk(arguments: list[str], cwd: Path, *libraries: str) -> Outcome:
    """A command line in a process of its own, whose ranks are forked too, from its own server."""
    with tempfile.TemporaryDirectory() as folder:
        notes = [Path(folder, name) for name in ("out", "err")]
        server = multiprocessing.get_context("forkserver")
        process = server.Process(target=_passk, args=(arguments, cwd, notes, libraries))
        process.start()
        process.join()
        assert process.exitcode is not None
        return Outcome(process.exitcode, *(file.read_text() for file in notes))


def _passk(arguments: list[str], cwd: Path, notes: list[Path], libraries: tuple[str, ...]) -> None:
    os.chdir(cwd)
    for descriptor, file in enumerate(notes, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    from passk.cli.main import main

    with ranks(*libraries):
        sys.exit(main(arguments))
