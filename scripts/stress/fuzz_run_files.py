"""Breaks the files of a finished run in every way and reports each reader that ends in a traceback.

    python scripts/stress/fuzz_run_files.py RUN [--every 1] [--largest 65536] [--seed 0]

Each file is cut at every byte (of larger ones at `--largest` places), has each byte replaced by a
random other one, and is filled with NUL from there on. What resuming, `passk report` and what
measures a run read of it must give a UserError or a result. Each file is tried in a process of its
own, so that a library that ends the process is seen too.
"""

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path

import pandas as pd

from passk.cli.resume import refuse_other_contents
from passk.config.compose import load_run_config
from passk.errors import UserError
from passk.files import read_manifest, read_overrides, recorded
from passk.learner.checkpoint import best_steps, last_checkpoint, saved_step
from passk.runs.ledger import (
    Cell,
    attempting,
    cell_file,
    end_attempt,
    read_ledger,
    state,
    write_cell,
)
from passk.runs.manifest import Spending
from passk.runs.reader import RunRecord, read_config, read_evals, read_metrics, read_problems


def read_configuration(run: Path) -> None:
    """As resuming, measuring and `passk report` do."""
    cfg = load_run_config(run)
    asdict(cfg)
    read_config(run / "config.yaml")


def read_facts(run: Path) -> None:
    """`manifest.json`, as resuming and the report do."""
    manifest = read_manifest(run)
    Spending(manifest, 0.0)
    refuse_other_contents({key: str(value) for key, value in manifest.items()}, run)


def read_records(run: Path) -> None:
    """Lines and tables, as resuming and the report do."""
    recorded(run)
    read_metrics(run / "metrics.jsonl")
    read_evals(run / "eval" / "table.csv", ("step", "k"))
    best_steps(run)
    read_overrides(run)


def read_frames(run: Path) -> None:
    """Files of Parquet, as the report does."""
    read_problems(run)
    none = pd.DataFrame()
    record = RunRecord(run, {}, {}, none, none, none, ())  # its files alone
    for step in record.steps:
        record.counts(step)
    for step in record.rollout_steps:
        record.rollouts(step)
    _ = record.summary


def read_to_measure(run: Path) -> None:
    """A checkpoint, as `passk eval run=RUN` does."""
    saved_step(last_checkpoint(run))


def read_sweep(sweep: Path) -> None:
    """As a sweep and `passk sweep status` do."""
    for cell in read_ledger(sweep):
        state(sweep, cell)
        if cell.last is not None:
            _ = cell.last.seconds


def broken_versions(content: bytes, places: list[int], rng: random.Random) -> Iterator[bytes]:
    """The content cut, changed and filled up at each of the places."""
    for place in places:
        yield content[:place]
        if place < len(content):
            other = content[place] ^ rng.randrange(1, 256)
            yield content[:place] + bytes([other]) + content[place + 1 :]
            yield content[:place] + bytes(len(content) - place)


def readers_of(name: Path) -> list[Callable[[Path], None]]:
    """Who reads a file of a run."""
    if name.parts[0] in ("ledger", "checkpoints"):
        return [read_sweep if name.parts[0] == "ledger" else read_to_measure]
    of_ending = {".yaml": read_configuration, ".json": read_facts, ".parquet": read_frames}
    return [of_ending.get(name.suffix, read_records)]


def try_file(run: Path, name: Path, places: list[int], seed: int, results: Connection) -> None:
    """Send a count of what came of the versions of a file, and the first traceback of each kind."""
    content, found, shown = (run / name).read_bytes(), Counter[str](), dict[str, str]()
    for version in broken_versions(content, places, random.Random(f"{seed}/{name}")):
        (run / name).write_bytes(version)
        for reader in readers_of(name):
            try:
                reader(run)
                found["read"] += 1
            except UserError:
                found["refused"] += 1
            except BaseException as error:
                kind = f"{reader.__name__}: {type(error).__name__}"
                found[f"TRACEBACK {kind}"] += 1
                shown.setdefault(kind, f"{version[:60]!r}...\n{traceback.format_exc()}")
    results.send((found, shown))


def chosen_places(size: int, every: int, largest: int, rng: random.Random) -> list[int]:
    """Every so many bytes of a file, or as many at random of one that is larger."""
    if size <= largest:
        return list(range(0, size + 1, every))
    return sorted(rng.sample(range(size + 1), largest // every))


def fuzz(run: Path, every: int, largest: int, seed: int) -> tuple[Counter[str], dict[str, str]]:
    """What came of all versions of all files of a copy of the run."""
    total, shown, rng = Counter[str](), dict[str, str](), random.Random(seed)
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        for name in sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file()):
            copy = Path(folder, "run")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run, copy)
            places = chosen_places((run / name).stat().st_size, every, largest, rng)
            ours, theirs = multiprocessing.Pipe(duplex=False)
            arguments = (copy, name, places, seed, theirs)
            child = multiprocessing.get_context("fork").Process(target=try_file, args=arguments)
            child.start()
            theirs.close()
            try:
                found, tracebacks = ours.recv()
            except EOFError:
                found, tracebacks = Counter({f"TRACEBACK {name} ended the process": 1}), {}
            child.join()
            print(f"{name}: {dict(found)}", flush=True)
            total += found
            shown |= {f"{name}: {kind}": text for kind, text in tracebacks.items()}
    return total, shown


def with_ledger(run: Path, folder: Path) -> Path:
    """A copy of a run that is a sweep too, so that its ledger is broken with the rest."""
    shutil.copytree(run, folder)
    write_cell(folder, Cell("cell", 0, "train", ("regime.k=2",), "cell", line="passk train -m"))
    cell = read_ledger(folder)[0]
    with attempting(cell_file(folder, cell.name)):
        end_attempt(cell_file(folder, cell.name), 1, "failed")
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("run", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--largest", type=int, default=65536)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = with_ledger(given.run, Path(folder, "run"))
        total, shown = fuzz(run, given.every, given.largest, given.seed)
    for name, text in shown.items():
        print(f"\n== {name}\n{text}")
    print(f"{sum(total.values())} inputs: {dict(total)}")
    return 1 if shown or any(kind.startswith("TRACEBACK") for kind in total) else 0


if __name__ == "__main__":
    sys.exit(main())
