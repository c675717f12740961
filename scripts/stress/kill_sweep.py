"""A sweep that is killed at random moments and finished by its own line, against one left alone.

    python scripts/stress/kill_sweep.py FOLDER [KILLS]

Trains an SFT checkpoint and two sweeps of 12 cells (k = 2, 4, 8, 16 x weight of Pass@1 0.5, 0.7,
0.9) from it: one undisturbed, one whose process is killed by SIGKILL at moments drawn from a seed,
or one of whose cells is, and started again by the same line. Checks that no cell is lost, none is
run twice, and that the tables are equal, byte for byte.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from passk.runs.ledger import read_ledger, state

SFT = ("train", "regime=sft", "train.num_steps=60", "eval.num_problems=100")
GRID = ("train", "-m", "regime.k=2,4,8,16", "regime.pass1_weight=0.5,0.7,0.9")
CELL = (
    *("train.num_steps=20", "train.save_every=5", "rollout.num_prompts=32", "eval.every=10"),
    *("eval.num_problems=100", "diagnostics.every=0", "sweep.num_parallel=2"),
)
# Between a start and the kill, of the time that the undisturbed sweep took: five fit in.
SHARES = (0.05, 0.25)


def start(words: tuple[str, ...], folder: Path, log: str) -> subprocess.Popen[bytes]:
    """`passk WORDS` in `folder`, with its output in a file there."""
    with (folder / log).open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "passk", *words], cwd=folder, stdout=file, stderr=file
        )


def kill_something(sweep: subprocess.Popen[bytes], sweep_dir: Path, draw: random.Random) -> str:
    """SIGKILL for the sweep's own process or for a running cell; says which."""
    cells = [cell for cell in read_ledger(sweep_dir) if state(sweep_dir, cell) == "running"]
    victim = draw.choice([None, *cells])
    if victim is None or victim.last is None:
        sweep.kill()
        sweep.wait()
        return "the sweep"
    os.kill(victim.last.pid, signal.SIGKILL)
    return f"its cell {victim.name}"


def disturbed(
    line: tuple[str, ...], folder: Path, num_kills: int, seed: int, seconds: float
) -> int:
    """Run the line until it ends by itself, killing something so many times; its exit code.

    `seconds` is what it takes undisturbed.
    """
    draw, starts, kills = random.Random(seed), 0, 0
    sweep = start(line, folder, "disturbed.log")
    starts += 1
    while kills < num_kills:
        time.sleep(seconds * draw.uniform(*SHARES))
        if sweep.poll() is not None:
            print("the sweep ended before all kills; use fewer, or slower cells")
            break
        what = kill_something(sweep, folder / "disturbed", draw)
        kills += 1
        print(f"kill {kills}: {what}", flush=True)
        if sweep.poll() is not None:
            sweep = start(line, folder, "disturbed.log")
            starts += 1
    if sweep.wait() != 0:
        sweep = start(line, folder, "disturbed.log")
        starts += 1
        sweep.wait()
    print(f"{kills} kills, the line was given {starts} times, it ended with {sweep.returncode}")
    return sweep.returncode


def compared(folder: Path) -> list[str]:
    """What is wrong with the disturbed sweep; empty if nothing is."""
    faults = []
    before = {cell.name: cell for cell in read_ledger(folder / "undisturbed")}
    after = {cell.name: cell for cell in read_ledger(folder / "disturbed")}
    if before.keys() != after.keys() or len(after) != 12:
        faults.append(f"cells differ: {sorted(before.keys() ^ after.keys())}")
    for name, cell in after.items():
        codes = [attempt.code for attempt in cell.attempts]
        print(f"{name}: exit codes {codes}")
        if codes.count(0) != 1 or codes[-1] != 0:
            faults.append(f"{name} was finished {codes.count(0)} times")
        for file in ("eval/table.csv", "eval/table_by_kind.csv", "eval/step-000020.parquet"):
            one, other = (folder / which / name / file for which in ("undisturbed", "disturbed"))
            if one.read_bytes() != other.read_bytes():
                faults.append(f"{name}/{file} differs")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("kills", type=int, nargs="?", default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if start((*SFT, "hydra.run.dir=sft"), asked.folder, "sft.log").wait():
        return 1
    grid = (*GRID, *CELL, "train.init_from=sft")
    began = time.monotonic()
    if start((*grid, "hydra.sweep.dir=undisturbed"), asked.folder, "undisturbed.log").wait():
        return 1
    seconds = time.monotonic() - began
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    began = time.monotonic()
    again = (*grid, "hydra.sweep.dir=disturbed")
    code = disturbed(again, asked.folder, asked.kills, asked.seed, seconds)
    print(f"disturbed: {time.monotonic() - began:.0f} s")
    faults = compared(asked.folder)
    print(*(faults or ["no cell lost, none run twice, tables equal"]), sep="\n")
    return int(bool(faults) or code != 0)


if __name__ == "__main__":
    sys.exit(main())
