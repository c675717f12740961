"""Describe the state of a sweep: a table of its cells, and sentences on what has changed."""

import csv
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from passk.console import say
from passk.errors import UserError
from passk.files import read_lines, read_yaml
from passk.runs.ledger import (
    FINISHED,
    FOLDER,
    INTERRUPTED,
    REFUSED,
    STATES,
    Attempt,
    Cell,
    log_file,
    read_ledger,
    state,
)
from passk.text import Table

_REPORT_EVERY_SECONDS = 0.5

_COLUMNS = ("cell", "state", "attempts", "step", "Pass@1 (%)", "Pass@k (%)", "time", "directory")


def status(sweep_dir: Path) -> str:
    """Return the text of `passk sweep status DIR`. Raises UserError without a ledger."""
    cells = read_ledger(sweep_dir)
    if not cells:
        raise UserError(
            f"{sweep_dir} is not the directory of a sweep: it holds no {FOLDER}/ with cells, which "
            "passk train -m writes"
        )
    states = [state(sweep_dir, cell) for cell in cells]
    counts = [f"{states.count(name)} {name}" for name in STATES if name in states]
    lines = [sweep_markdown(sweep_dir, cells), f"{len(cells)} cells: {', '.join(counts)}"]
    lines += sweep_sentences(cells)
    if "running" not in states:
        left = dict.fromkeys(cell.line for cell in cells if cell.line and not cell.is_finished)
        lines += [f"go on with the same line: {line}" for line in left]
    return "\n".join(lines)


def sweep_markdown(sweep_dir: Path, cells: Sequence[Cell]) -> str:
    """Format a row per cell: its state, how far it came, and its last measurements."""
    return Table(list(_COLUMNS), [_row(sweep_dir, cell) for cell in cells]).markdown()


def sweep_sentences(cells: Sequence[Cell]) -> list[str]:
    """Return a sentence per failed cell."""
    return [f"cell {c.name}: {c.last.sentence}" for c in cells if c.last and c.has_failed]


def say_what_is_left(
    sweep_dir: Path, cells: Sequence[Cell], todo: Sequence[Cell], *, are_jobs: bool
) -> None:
    """Print how many cells there are, and how many of them need not be run."""
    if are_jobs:
        print("passk: each cell is a job; what it prints is in .submitit/ of the sweep's directory")
    finished = sum(cell.is_finished for cell in cells)
    elsewhere = len(cells) - finished - len(todo)
    parts = [f"{len(cells)} cells"]
    parts += [f"{finished} finished before"] if finished else []
    parts += [f"{elsewhere} being run by earlier jobs"] if elsewhere else []
    print(f"passk: {', '.join(parts)}; passk sweep status {sweep_dir}", flush=True)


@contextmanager
def reporting(sweep_dir: Path, cells: Sequence[Cell]) -> Iterator[None]:
    """Print what happens to the cells as it happens, whoever runs them, from a thread."""
    done = threading.Event()
    printed = {cell.name: len(_events(sweep_dir, cell)) for cell in cells}

    def report() -> None:
        for cell in read_ledger(sweep_dir):
            if cell.name not in printed:
                continue
            events = _events(sweep_dir, cell)
            for sentence, is_failure in events[printed[cell.name] :]:
                if is_failure:
                    say(sentence)
                else:
                    print(f"passk: {sentence}", flush=True)
            printed[cell.name] = len(events)

    def watch() -> None:
        while not done.wait(_REPORT_EVERY_SECONDS):
            report()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        report()


def close(sweep_dir: Path, cells: Sequence[Cell], stopped: bool) -> int:
    """Print the states of the cells and their failures; returns the exit code of the sweep."""
    names = {cell.name for cell in cells}
    ended = [cell for cell in read_ledger(sweep_dir) if cell.name in names]
    print(sweep_markdown(sweep_dir, ended), flush=True)
    for sentence in sweep_sentences(ended):
        say(sentence)
    left = [cell for cell in ended if not cell.is_finished]
    if left:
        print(f"passk: the same line again goes on; {FOLDER}: {sweep_dir / FOLDER}", flush=True)
    if stopped:
        return INTERRUPTED
    return 0 if not left else 2 if all(cell.code == REFUSED for cell in left) else 1


def _events(sweep_dir: Path, cell: Cell) -> list[tuple[str, bool]]:
    """Return a sentence per start and end of its attempts, and True if it is about a failure."""
    events = []
    for number, attempt in enumerate(cell.attempts, 1):
        begins = f"attempt {number} in" if number > 1 else "starts in"
        events.append((f"cell {cell.name}: {begins} {sweep_dir / cell.run_dir}", False))
        if attempt.code is not None:
            is_failure = attempt.code not in (FINISHED, INTERRUPTED)
            events.append((f"cell {cell.name}: {_ending(sweep_dir, cell, attempt)}", is_failure))
    return events


def _ending(sweep_dir: Path, cell: Cell, attempt: Attempt) -> str:
    if attempt.code == FINISHED:
        return f"finished after {attempt.seconds or 0:.0f} s"
    if attempt.code == INTERRUPTED:
        return "interrupted, and saved"
    log = log_file(sweep_dir, cell.name)
    has_log = attempt.code != REFUSED and log.is_file() and log.stat().st_size > 0
    where = f" (its output: {log})" if has_log else ""
    return (attempt.sentence or f"ended with exit code {attempt.code}") + where


def _row(sweep_dir: Path, cell: Cell) -> list[str]:
    run_dir = sweep_dir / cell.run_dir
    steps = _steps(run_dir) if cell.command == "train" else ""
    shown = [cell.name, state(sweep_dir, cell), str(len(cell.attempts)), steps]
    return [*shown, *_measured(run_dir / "eval" / "table.csv"), _time(cell.attempts), cell.run_dir]


def _steps(run_dir: Path) -> str:
    """Return progress such as `75 of 150`; empty if the run has not begun or has no steps."""
    config = run_dir / "config.yaml"
    known = read_yaml(config) if config.is_file() else {}
    if "train" not in known:
        return ""
    done = len({row["step"] for _, row in read_lines(run_dir / "metrics.jsonl")})
    return f"{done} of {known['train']['num_steps']}"


def _measured(table: Path) -> tuple[str, str]:
    """Return Pass@1 and Pass@k at the largest k of the last evaluation, in percent."""
    if not table.is_file():
        return "", ""
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    by_k = {int(row["k"]): 100 * float(row["value"]) for row in last if row["value"]}
    if not by_k:
        return "", ""
    k = max(by_k)
    return f"{by_k[1]:.1f}" if 1 in by_k else "", f"{by_k[k]:.1f} (k = {k})"


def _time(attempts: Sequence[Attempt]) -> str:
    """Format the total time of the attempts that have ended."""
    seconds = sum(attempt.seconds or 0.0 for attempt in attempts)
    if not seconds:
        return ""
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
