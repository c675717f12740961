"""Long runs: what a process holds at every step, and whether it grows. One table line per run.

    python scripts/stress/soak.py                          500 steps of the embedded task
    python scripts/stress/soak.py --verifier math          the same with workers of verifier=math
    python scripts/stress/soak.py --verifier python --num-steps 100

Sampled after a step's line of metrics was written, with garbage collected: resident memory, that of
child processes, open file descriptors, threads, child processes, and files in TMPDIR.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

BLOCK = 10  # steps: neighbouring samples of memory are alike, means of blocks are less so
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
FORMULA = r"\frac{{{}\sqrt{{8}}}}{{2\sqrt{{2}}}}"  # the number, as only computer algebra can tell
SIZES: dict[str, tuple[str, ...]] = {
    "conventions": ("rollout.num_prompts=16", "rollout.num_samples=8", "diagnostics.every=100"),
    "math": ("rollout.num_prompts=16", "rollout.num_samples=8", "diagnostics.every=100"),
    "python": ("rollout.num_prompts=4", "rollout.num_samples=2", "diagnostics.every=0"),
}
SIZES["math"] += ("verifier=math", "verifier.num_workers=2")
SIZES["python"] += ("verifier=python", "verifier.num_workers=2")
TESTS = {"math": FORMULA, "python": "assert f() == {}"}


def descendants(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that they have."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def resident_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KIB


def sample(temporary: Path) -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    children = list(descendants(os.getpid()))
    return {
        "memory_kib": resident_kib(os.getpid()),
        "children_kib": sum(map(resident_kib, children)),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # the listing is one
        "threads": len(os.listdir("/proc/self/task")),
        "processes": len(children),
        "temporary_files": sum(1 for _ in temporary.rglob("*")),
    }


def slope(values: list[int]) -> tuple[float, float]:
    """Least squares over means of blocks: growth a step, and half its 95 % interval."""
    blocks = np.array(values[: len(values) // BLOCK * BLOCK], dtype=float).reshape(-1, BLOCK)
    fit = stats.linregress(np.arange(len(blocks)) * BLOCK, blocks.mean(axis=1))
    return float(fit.slope), float(stats.t.ppf(0.975, len(blocks) - 2) * fit.stderr)


def write_problems(folder: Path, verifier: str) -> list[str]:
    """The embedded task's problems as a file, with answers for another verifier."""
    from passk.config.schema import ConventionsConfig, EvalConfig
    from passk.data.problems import load_data

    data = load_data(ConventionsConfig(name="conventions"), EvalConfig(num_problems=100))
    for split, problems in (("train", data.train), ("eval", data.heldout)):
        rows = [
            {"prompt": p.prompt, "id": p.id, "answer": TESTS[verifier].format(p.answer)}
            for p in problems
        ]
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    paths = [f"data.path={folder}/train.jsonl", f"data.eval_path={folder}/eval.jsonl"]
    return ["data=jsonl", *paths, "rollout.max_new_tokens=32", "data.check_gold=false"]


def run(num_steps: int, verifier: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Train, and report samples: before, one a step, and after."""
    temporary = folder / "tmp"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)  # before anything asks for it
    from passk.cli.main import main
    from passk.runs.writer import Run

    data = [] if verifier == "conventions" else write_problems(folder, verifier)
    samples: list[dict[str, int]] = []
    log = Run.log

    @wraps(log)
    def log_and_sample(self: Run, metrics: Any) -> None:
        log(self, metrics)
        samples.append(sample(temporary))

    Run.log = log_and_sample  # type: ignore[method-assign]
    before = sample(temporary)
    settings = [f"train.num_steps={num_steps}", "train.save_every=50", "eval.every=100"]
    settings += ["eval.num_problems=100", "eval.num_samples=16", "eval.ks=[1,4]"]
    settings += ["regime.k=4", "diagnostics.num_prompts=64", *SIZES[verifier], *data, *words]
    code = main(["train", "regime=hybrid", *settings, f'hydra.run.dir="{folder}/run"'])
    return {"code": code, "before": before, "steps": samples, "after": sample(temporary)}


def table_line(verifier: str, found: dict[str, Any]) -> str:
    """Growth over the last four fifths of the run, and counts at their beginning and end."""
    steps = found["steps"]
    tail = steps[len(steps) // 5 :]
    growth, half = slope([s["memory_kib"] for s in tail])
    memory = f"{tail[0]['memory_kib'] / 1024:.0f} to {tail[-1]['memory_kib'] / 1024:.0f}"
    of_children, half_of_children = slope([s["children_kib"] for s in tail])
    children = f"{of_children:+.2f} ± {half_of_children:.2f}" if tail[-1]["children_kib"] else "-"
    counts = [
        f"{tail[0][name]}, {tail[-1][name]}, {found['after'][name]}"
        for name in ("descriptors", "threads", "processes", "temporary_files")
    ]
    cells = [verifier, len(steps), memory, f"{growth:+.2f} ± {half:.2f}", children, *counts]
    return f"| {' | '.join(map(str, cells))} |"


def main_of_script() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=500)
    parser.add_argument("--verifier", choices=SIZES, default="conventions")
    parser.add_argument("--out", type=Path, help="write the samples here, as JSON")
    parser.add_argument("words", nargs="*", help="more settings, as key=value")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="passk-soak-") as folder:
        tempfile.tempdir = None  # asked again, once TMPDIR is set
        found = run(options.num_steps, options.verifier, options.words, Path(folder))
    if found["code"]:
        return int(found["code"])
    if options.out:
        options.out.write_text(json.dumps(found))
    print(table_line(options.verifier, found))
    return 0


if __name__ == "__main__":
    sys.exit(main_of_script())
