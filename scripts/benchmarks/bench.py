"""Measure how fast passk is, beside TRL's GRPOTrainer and bare vLLM (`make bench`).

    python scripts/benchmarks/bench.py [--data FOLDER] [--only SECTION ...]

Prints its tables and puts each into docs/research/benchmarks.md as soon as it is measured, between
the markers of its section; the rest of that file is left alone. A whole RL step on a real model
needs word problems: FOLDER holds train.jsonl and test.jsonl, with the columns prompt, answer and
solution. A benchmark, not a test: targets stand beside the figures, and no figure fails it.

What is timed runs in processes of its own (`bench_workers.py`), so that peak memory is its own too.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench_document import STEP_HEADER, median, quartiles, section, step_cells, write
from bench_real_model import (
    Start,
    after_sft,
    learner_memory,
    vllm_throughput,
    whole_step,
    whole_step_vllm,
)
from bench_turns import WAITING, Job, Settings, WorkerFailed

# What to turn off in the passk step, as switches of `bench_workers.py`.
VARIANTS: dict[str, tuple[str, ...]] = {
    "all on": (),
    "no shared prefixes": ("unshared",),
    "no merging of identical completions": ("learner.merge_identical=false",),
    "no skipping of zero advantages": ("learner.skip_zero_advantages=false",),
    "neither merging nor skipping": (
        "learner.merge_identical=false",
        "learner.skip_zero_advantages=false",
    ),
    "none of the three": (
        "unshared",
        "learner.merge_identical=false",
        "learner.skip_zero_advantages=false",
    ),
}
COMMANDS = (
    ("--help",),
    ("train", "--help"),
    ("train", "--cfg", "job"),
    ("train", "regime.k=abc"),
)


def compare(settings: Settings) -> str:
    """passk beside TRL: time with quartiles, memory, and whether both sample one policy."""
    rows, ratios = [], []
    for threads in settings.threads:
        sides = settings.measure(Job("passk", threads), Job("trl", threads, ("whole_batch",)))
        ours, theirs = (statistics.median(side.seconds) for side in sides)
        ratios.append(f"{theirs / ours:.1f} with {threads} thread{'s' * (threads > 1)}")
        names = ("passk (hybrid, k=8)", "TRL `GRPOTrainer`")
        rows += [[str(threads), *step_cells(*pair)] for pair in zip(names, sides, strict=True)]
    return section(
        f"A training step, times as fast as TRL's: {', '.join(ratios)} (target: at least 4)",
        "64 prompts x 16 samples of the default task, the shipped tiny model, at most 32 new "
        "tokens, temperature 1: sampling, verifying, advantages, one optimiser step, weights "
        f"handed over. Medians of {settings.steps} steps after {settings.warmup} to warm up, each "
        "side in a process of its own, taking turns step by step. TRL: transformers engine, "
        "`beta=0`, `loss_type=dr_grpo`, the 1,024 completions in one batch, no gradient "
        "checkpointing, no bf16, no logging, no saving; same prompts in the same order, same "
        "verifier. Both wait for threads passively "
        f"({', '.join(f'`{name}={value}`' for name, value in WAITING.items())}). Step 1 samples "
        "the same policy on both sides; later the objectives differ. *Computed* are tokens that "
        "went through the model in a step, padding included.",
        ["threads", *STEP_HEADER],
        rows,
    )


def split(settings: Settings) -> str:
    """Where the passk step spends its time, and what each way of not repeating work saves."""
    variants = settings.measure(*(Job("passk", 1, switches) for switches in VARIANTS.values()))
    header, rows = ["", "step", *variants[0].phases, "rows", "peak MiB"], []
    for label, steps in zip(VARIANTS, variants, strict=True):
        rows.append(
            [
                label,
                median(steps.seconds),
                *map(median, steps.phases.values()),
                f"{statistics.fmean(steps.rows):.0f}",
                f"{steps.peak_mib:.0f}",
            ]
        )
    return section(
        "The passk step by phase, and without its savings",
        "One torch thread, median seconds; `rows` are what the learner is fed a step, of 1,024.",
        header,
        rows,
    )


def start_up(settings: Settings, repeats: int = 5) -> str:
    """Commands that do no work, as a user starts them, in an empty folder."""
    passk = str(Path(sys.executable).with_name("passk"))
    rows = []
    for words in COMMANDS:
        seconds, code = [], 0
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(repeats):
                started = time.perf_counter()
                code = subprocess.run([passk, *words], cwd=folder, capture_output=True).returncode
                seconds.append(time.perf_counter() - started)
        rows.append([f"`passk {' '.join(words)}`", median(seconds), quartiles(seconds), str(code)])
    return section(
        "Start-up (target: under 1 s each)",
        f"Medians of {repeats} processes; the last command is refused, with exit code 2.",
        ["command", "s", "quartiles, s", "exit code"],
        rows,
    )


def estimator(settings: Settings) -> str:
    """Unbiased Pass@k at the size of a large evaluation."""
    seconds = settings.measure(Job("estimator"))[0].seconds
    return section(
        "`pass_at_k` (target: under 1 s)",
        "5,000 problems x n = 1,024 samples, c drawn uniformly from 0..n, k = 1, 2, 4, ..., 512.",
        ["s", "quartiles, s"],
        [[median(seconds), quartiles(seconds)]],
    )


SECTIONS: dict[str, Callable[[Settings], str]] = {
    "step": compare,
    "phases": split,
    "pass-at-k": estimator,
    "start-up": start_up,
}
ON_A_MODEL: dict[str, Callable[[Settings], str]] = {
    "learner-memory": learner_memory,
    "vllm": vllm_throughput,
}
AFTER_SFT: dict[str, Callable[[Settings, Start], str]] = {
    "real-model": whole_step,
    "real-model-vllm": whole_step_vllm,
}


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; `only` holds the sections to measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*SECTIONS, *ON_A_MODEL, *AFTER_SFT]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="SECTION", help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="word problems, train.jsonl and test.jsonl"
    )
    parser.add_argument(
        "--sft",
        type=Path,
        metavar="RUN",
        default=Path("outputs/bench/sft"),
        help="the SFT run on them; made there if it is missing",
    )
    parser.add_argument("--steps", type=int, default=20, help="timed steps")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="torch threads, on both sides"
    )
    parser.add_argument(
        "--model-steps", type=int, default=3, help="timed steps on SmolLM2, after one to warm up"
    )
    parser.add_argument(
        "--print-only", action="store_true", help="leave docs/research/benchmarks.md as it is"
    )
    args = parser.parse_args(words)
    if args.data is None and set(args.only or ()) & set(AFTER_SFT):
        parser.error("a whole RL step needs --data FOLDER (make bench data=FOLDER)")
    args.only = args.only or names
    return args


def main(words: Sequence[str] | None = None) -> None:
    """Measure the chosen sections; print each and write it down."""
    args = parse(words)
    settings = Settings(args.steps, args.warmup, args.threads)
    on_model = Settings(args.model_steps, 1)
    start = None
    for name in args.only:
        try:
            if name in SECTIONS:
                text = SECTIONS[name](settings)
            elif name in ON_A_MODEL:
                text = ON_A_MODEL[name](on_model)
            elif args.data is None:
                print(
                    f"{name}: left out; give the folder with train.jsonl and test.jsonl of the "
                    "word problems: make bench data=FOLDER, or --data FOLDER",
                    file=sys.stderr,
                )
                continue
            else:
                data = args.data.resolve()
                start = start or Start(data, after_sft(data, args.sft.resolve()))
                text = AFTER_SFT[name](on_model, start)
        except WorkerFailed as failure:
            sys.exit(str(failure))
        print(text, flush=True)
        if not args.print_only:
            write(name, text, "make bench data=FOLDER" if name in AFTER_SFT else "make bench")


if __name__ == "__main__":
    main()
