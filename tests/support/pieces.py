"""Pieces of work that need no torch, for the processes that run them side by side."""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from passk.cli.workers import Piece, run_pieces
from passk.errors import Diverged, Interrupted

SLOTS = [{"SLOT": "a"}, {"SLOT": "b"}]


def note(folder: Path, name: str) -> None:
    """Write down who began, in which process and slot."""
    with (folder / "notes.txt").open("a") as file:
        file.write(f"{name} {os.getpid()} {os.environ['SLOT']}\n")


def quick(folder: Path, name: str) -> None:
    """Print, and let a process print."""
    note(folder, name)
    print("half", end="", flush=True)
    print(" a line", flush=True)
    os.system("echo from another process >&2")


def patient(folder: Path, name: str) -> None:
    """Work until a signal comes, then save."""
    note(folder, name)
    try:
        time.sleep(120)
    except KeyboardInterrupt:
        (folder / f"{name}.saved").touch()
        raise Interrupted from None


def once_begun(folder: Path, other: str, harm: str) -> None:
    """Come to harm once another piece has begun."""
    while not (folder / "notes.txt").is_file() or other not in (folder / "notes.txt").read_text():
        time.sleep(0.01)
    if harm == "diverges":
        raise Diverged("the loss is not finite")
    if harm == "breaks":
        raise ValueError("a mistake")
    os.kill(os.getpid(), signal.SIGKILL)


def main(what: str, folder: Path) -> None:
    """Run pieces side by side in which `what` happens."""
    needed = Piece("first", partial(quick, folder, "first"))
    others = [Piece(f"p{i}", partial(quick, folder, f"p{i}"), needs="first") for i in range(3)]
    pieces = [needed, *others]
    if what != "nothing":
        pieces = [Piece("long", partial(patient, folder, "long"))]
        harmed = partial(once_begun, folder, "long", what)
        pieces += [Piece("harmed", harmed), Piece("never", partial(quick, folder, "never"))]
    try:
        run_pieces(pieces, SLOTS, partial(note, folder, "ready"))
    except Exception as error:
        print(f"raised {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
