"""Size a training job before a machine is rented: memory of a GPU and seconds of a step.

    python scripts/sizing.py job --model 7b --ranks 8 --gradient-checkpointing
    python scripts/sizing.py job --config FOLDER --ranks 16 --replicas 2 --k 16
    python scripts/sizing.py table    # what fits on 80 GB, for three sizes of Qwen2.5
    python scripts/sizing.py check    # the predicted peak against the learner's own update
    python scripts/sizing.py seconds  # operations against the time of updates on this CPU

docs/method/scaling.md explains the terms and says what is left out.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fake_ranks import peak_of_update
from step_costs import (
    GIB,
    MODELS,
    Hardware,
    Job,
    Shape,
    Terms,
    cached_tokens,
    checkpoint_bytes,
    collectives,
    hand_over_memory,
    learned_rows,
    learned_share,
    learner_flops,
    learner_memory,
    main_memory,
    micro_batches,
    sampler_memory,
    step_seconds,
)
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen2Config

from passk.config.schema import LearnerConfig, ModelConfig
from passk.errors import UserError
from passk.learner.batch import TokenRow
from passk.learner.fsdp import shard
from passk.learner.learner import Learner
from passk.learner.lora import add_adapters

ON_1 = Job(success=(0.5,), prompt_tokens=256, answer_tokens=768, max_tokens_per_batch=8192)
ON_8 = replace(ON_1, ranks=8, max_tokens_per_batch=16384)
ON_64 = replace(ON_8, ranks=64, num_prompts=256, gradient_checkpointing=True)
AGAIN = replace(ON_8, gradient_checkpointing=True)
SIMULATED = {
    "0.5b": [
        ON_1,
        replace(ON_1, gradient_checkpointing=True),
        replace(ON_1, lora_rank=32),
        replace(ON_1, lora_rank=32, weight_bytes=2),
        replace(ON_8, compute_bytes=4),
        ON_8,
        replace(ON_8, max_tokens_per_batch=2048, defer_reduction=False),
    ],
    "7b": [
        replace(ON_8, max_tokens_per_batch=4096),
        AGAIN,
        replace(AGAIN, defer_reduction=False),
        replace(AGAIN, ranks=16, replicas=2),
    ],
    "70b": [replace(ON_64, defer_reduction=False), ON_64],
}
ON_GPU = {"0.5b": [replace(ON_1, sharded=True), replace(AGAIN, ranks=1, sharded=True)]}
SMOLLM2 = Shape(576, 30, 9, 3, 1536, 49152, tied=True)


def read_shape(path: Path) -> Shape:
    """Return the shape in a Hugging Face config.json, or in the folder that holds one."""
    file = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path} is no config.json and no folder with one") from error
    kind = found.get("model_type")
    if kind not in ("llama", "mistral", "qwen2"):
        raise UserError(f"--config {path}: {kind} is not modelled; llama, mistral and qwen2 are")
    return Shape(
        hidden=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=found["num_attention_heads"],
        kv_heads=found.get("num_key_value_heads") or found["num_attention_heads"],
        intermediate=found["intermediate_size"],
        vocabulary=found["vocab_size"],
        tied=found.get("tie_word_embeddings", False),
        attention_bias=kind == "qwen2" or found.get("attention_bias", False),
        head_dim=found.get("head_dim"),
    )


def model_config(shape: Shape) -> PreTrainedConfig:
    """Return a configuration of transformers with this shape."""
    kind = Qwen2Config if shape.attention_bias else LlamaConfig
    return kind(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )


def make_learner(shape: Shape, job: Job, device: torch.device) -> Learner:
    """Return the learner of passk for this job, with random weights."""
    dtype = {2: torch.bfloat16, 4: torch.float32}[job.weight_bytes]
    with device:
        model = AutoModelForCausalLM.from_config(
            model_config(shape), dtype=dtype, attn_implementation="sdpa"
        )
    cfg = LearnerConfig(
        compute_dtype="bfloat16" if job.compute_bytes == 2 else None,
        gradient_checkpointing=job.gradient_checkpointing,
        max_tokens_per_batch=job.max_tokens_per_batch,
        defer_reduction=job.defer_reduction,
        replicas=job.replicas,
        prefix_trees=False,  # the model counts rows that share nothing, which need the most
    )
    add_adapters(model, ModelConfig(lora_rank=job.lora_rank), seed=0)
    if job.is_sharded:
        shard(model, device, cfg, model)
    return Learner(model, cfg, 10, 1.0)


def make_rows(job: Job, num_ranks: int) -> list[TokenRow]:
    """Return rows for two full micro-batches of each rank, or for the one that the job has."""
    per_rank = min(2, micro_batches(job)) * (job.max_tokens_per_batch // job.row_tokens)
    answer = (1,) * job.answer_tokens
    row = TokenRow((1,) * job.prompt_tokens, answer, (1e-6,), (), (-1.0,) * len(answer))
    return [row] * (per_rank * num_ranks)


def simulated_peak(shape: Shape, job: Job) -> int:
    """Return the bytes at the peak of an update, from tensors without memory."""
    return peak_of_update(
        lambda: make_learner(shape, job, torch.device("cpu")),
        make_rows(job, job.ranks),
        job.ranks if job.is_sharded else 0,
        num_selected=job.max_tokens_per_batch // job.row_tokens * job.answer_tokens,
    )


def measured_peak(shape: Shape, job: Job) -> int:
    """Return the bytes at the peak of an update, as torch gives them out on this machine's GPU."""
    store = dist.HashStore()  # type: ignore[attr-defined]  # torch does not list it as exported
    dist.init_process_group("nccl", store=store, rank=0, world_size=1)
    learner, rows = make_learner(shape, job, torch.device("cuda", 0)), make_rows(job, 1)
    learner.update(rows)
    torch.cuda.reset_peak_memory_stats()
    learner.update(rows)
    dist.destroy_process_group()
    return torch.cuda.max_memory_allocated()


def processor_seconds(shape: Shape, job: Job, tries: int) -> tuple[float, float]:
    """Return the operations of an update, and the least processor time of one thread for it."""
    torch.set_num_threads(1)
    learner, rows = make_learner(shape, job, torch.device("cpu")), make_rows(job, 1)
    learner.update(rows[:1])
    seconds = []
    for _ in range(tries):
        started = time.process_time()
        learner.update(rows)
        seconds.append(time.process_time() - started)
    return learner_flops(shape, job, len(rows)), min(seconds)


def check(job: Job) -> None:
    """Raise UserError for what passk refuses, and for what has no answer."""
    counts = ("ranks", "replicas", "num_prompts", "num_samples", "tensor_parallel", "k")
    for name in (*counts, "prompt_tokens", "answer_tokens"):
        if getattr(job, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    if job.num_samples < 2 or job.k > job.num_samples:
        raise UserError("--num-samples must be at least 2 and at least --k")
    if job.ranks % job.replicas or job.ranks % job.tensor_parallel:
        raise UserError("--replicas and --tensor-parallel must divide --ranks")
    if job.max_tokens_per_batch < job.row_tokens:
        raise UserError("--max-tokens-per-batch is less than one prompt with its answer")
    if not all(0 <= p <= 1 for p in job.success):
        raise UserError("--success must be probabilities, from 0 to 1")
    if {job.compute_bytes, job.weight_bytes, job.sampler_bytes} - {2, 4}:
        raise UserError("--compute-bytes, --weight-bytes and --sampler-bytes must be 2 or 4")
    if job.weight_bytes == 2 and not job.lora_rank:
        raise UserError("--weight-bytes 2 is for frozen weights, with --lora-rank")


def block(title: str, terms: Terms, unit: float, room: float | None = None) -> Iterator[str]:
    """Yield terms with their sum, and whether it fits into `room` (in the same unit)."""
    total = sum(terms.values()) / unit
    verdict = "" if room is None else f"  {'fits' if total <= room else 'DOES NOT FIT'} {room:.0f}"
    yield f"\n{title}"
    yield from (f"  {name:32s} {value / unit:10.2f}" for name, value in terms.items())
    yield f"  {'together':32s} {total:10.2f}{verdict}"


def report(shape: Shape, job: Job, hardware: Hardware) -> Iterator[str]:
    """Yield everything the model says of one job."""
    room = hardware.gpu_gib - hardware.reserved_gib
    phase, memory = learner_memory(shape, job)
    held, disk = sampler_memory(shape, job, hardware), checkpoint_bytes(shape, job)
    moved = collectives(shape, job)
    yield f"{shape.parameters / 1e9:.2f}B parameters on {job.ranks} GPUs"
    yield (
        f"{learned_share(job):.0%} of samples have a weight: {learned_rows(job):.0f} rows a step, "
        f"{micro_batches(job)} micro-batches a rank"
    )
    yield from block(f"GPU while learning, GiB, at its peak: {phase}", memory, GIB, room)
    yield from block("GPU while sampling, GiB", held, GIB, room)
    if held["sampler's cache"]:
        answers = cached_tokens(shape, job, hardware) / job.row_tokens
        yield f"  an engine's cache holds {answers:,.0f} answers of full length"
    else:
        yield "  the sampler's weights alone are more than --memory-fraction of the GPU"
    both = hand_over_memory(shape, job)
    yield from block("GPU while weights are handed over, GiB", both, GIB, room)
    yield from block("Main memory of a node, GiB", main_memory(shape, job, hardware), GIB)
    yield from block("A checkpoint on disk, GiB", disk, GIB)
    yield f"  {sum(disk.values()) / hardware.disk_bytes:.0f} s of writing, beside the next steps"
    yield f"\nCollectives of a learner step: {moved.all_gathers} all-gathers, " + (
        f"{moved.reduce_scatters} reduce-scatters, {moved.all_reduces} all-reduces; "
        f"{(moved.gathered + moved.scattered + moved.reduced) / GIB:.1f} GiB"
    )
    flops = learner_flops(shape, job, learned_rows(job))
    yield f"Operations of a learner step: {flops / 1e15:.2f} PFLOP on all ranks"
    yield from block("Seconds of a step", step_seconds(shape, job, hardware), 1.0)


def fitting_table() -> Iterator[str]:
    """Yield what fits on 80 GB and how long a step takes, for sizes and counts of GPUs."""
    yield "| model | trained | GPUs | learning | sampling | fits | rollout s | learn s | step s |"
    yield "|---|---|---:|---:|---:|---|---:|---:|---:|"
    for name, counts in (("0.5b", (1, 8)), ("7b", (1, 4, 8, 16)), ("70b", (8, 16, 32, 64, 128))):
        large = name == "70b"
        job = Job(gradient_checkpointing=True, memory_fraction=0.6 if large else 0.4)
        for trained in (job, replace(job, lora_rank=32, weight_bytes=2)):
            for ranks in counts:
                parallel = min(ranks, 4) if large else 1
                yield fitting_row(name, replace(trained, ranks=ranks, tensor_parallel=parallel))


def fitting_row(name: str, job: Job) -> str:
    """Return one line of the table; its job defers gradients only where they fit."""
    shape, hardware = MODELS[name], Hardware()
    room = (hardware.gpu_gib - hardware.reserved_gib) * GIB
    if sum(learner_memory(shape, job)[1].values()) > room:
        job = replace(job, defer_reduction=False)
    held = sampler_memory(shape, job, hardware)
    learning, sampling, both = (
        sum(terms.values())
        for terms in (learner_memory(shape, job)[1], held, hand_over_memory(shape, job))
    )
    trained = f"LoRA {job.lora_rank}" if job.lora_rank else "all weights"
    trained += "" if job.defer_reduction or job.ranks == 1 else ", not deferred"
    start = f"| {name} | {trained} | {job.ranks} | {learning / GIB:.1f} | {sampling / GIB:.1f} "
    if max(learning, sampling, both) > room or not held["sampler's cache"]:
        return start + "| no | | | |"
    seconds = step_seconds(shape, job, hardware)
    rollout = seconds["prefill"] + seconds["decode"]
    return start + f"| yes | {rollout:.1f} | {seconds['learn']:.1f} | {sum(seconds.values()):.1f} |"


def settings(job: Job) -> str:
    """Return what is particular about a job, in words for the table."""
    said = [f"{job.ranks} rank{'s' * (job.ranks > 1)}", f"{job.max_tokens_per_batch} tokens"]
    said += [f"{job.replicas} replicas"] * (job.replicas > 1)
    said += ["FSDP2"] * job.sharded + ["float32"] * (job.compute_bytes == 4)
    said += ["checkpointing"] * job.gradient_checkpointing
    said += ["reduced each time"] * (not job.defer_reduction)
    said += [f"LoRA {job.lora_rank}"] * (job.lora_rank > 0)
    said += ["weights in bfloat16"] * (job.weight_bytes == 2)
    return ", ".join(said)


def peak_table(models: Sequence[str], gpu: bool) -> Iterator[str]:
    """Yield the predicted peak of memory beside the found one, for real sizes."""
    cases, peak_of = (ON_GPU, measured_peak) if gpu else (SIMULATED, simulated_peak)
    yield "| model | job | predicted GiB | found GiB | difference | peak at |"
    yield "|---|---|---:|---:|---:|---|"
    for name, job in [(model, job) for model in models for job in cases.get(model, [])]:
        phase, terms = learner_memory(MODELS[name], job)
        predicted, found = sum(terms.values()), peak_of(MODELS[name], job)
        sizes = f"{predicted / GIB:.2f} | {found / GIB:.2f} | {100 * (predicted / found - 1):+.1f}"
        yield f"| {name} | {settings(job)} | {sizes} % | {phase} |"


def seconds_table() -> Iterator[str]:
    """Yield the time of updates beside their operations at the speed of the first one."""
    short = Job(prompt_tokens=64, answer_tokens=192, max_tokens_per_batch=256, compute_bytes=4)
    long = replace(short, max_tokens_per_batch=1024)
    longer = replace(long, prompt_tokens=256, answer_tokens=768)
    again, deep = replace(long, gradient_checkpointing=True), replace(SMOLLM2, layers=60)
    speed = 0.0
    yield "| layers | rows x tokens | checkpointing | predicted s | found s | difference |"
    yield "|---:|---:|---|---:|---:|---:|"
    jobs = [(SMOLLM2, job) for job in (short, long, longer, again)] + [(deep, long)]
    for shape, job in jobs:
        flops, found = processor_seconds(shape, job, tries=2)
        speed = speed or flops / found
        rows, predicted = f"{len(make_rows(job, 1))} x {job.row_tokens}", flops / speed
        times = f"{predicted:.1f} | {found:.1f} | {100 * (predicted / found - 1):+.0f} %"
        yield f"| {shape.layers} | {rows} | {job.gradient_checkpointing} | {times} |"


def add_options(parser: argparse.ArgumentParser, kind: type[Any]) -> None:
    """Add an option for each field of a dataclass that has a help."""
    group = parser.add_argument_group(str(kind.__doc__).split("\n")[0].rstrip("."))
    for field in (field for field in fields(kind) if field.metadata):
        how: dict[str, Any] = {"type": type(field.default)}
        if isinstance(field.default, bool):
            how = {"action": argparse.BooleanOptionalAction}
        elif isinstance(field.default, tuple):
            how = {"type": float, "nargs": "+"}
        name, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
        group.add_argument(name, default=field.default, help=text, **how)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; `command` is the chosen one."""
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    job = commands.add_parser("job", help="every term of one job", formatter_class=shown)
    model = job.add_mutually_exclusive_group()
    model.add_argument("--model", choices=list(MODELS), default="7b", help="a size of Qwen2.5")
    model.add_argument("--config", type=Path, help="a config.json, or the folder of a model")
    add_options(job, Job)
    add_options(job, Hardware)
    commands.add_parser("table", help="what fits on 80 GB, for three sizes and counts of GPUs")
    peak = commands.add_parser("check", help="the predicted peak of memory against an update's")
    peak.add_argument("--cases", nargs="+", choices=list(MODELS), default=list(MODELS))
    peak.add_argument("--gpu", action="store_true", help="measure on this GPU, do not simulate")
    commands.add_parser("seconds", help="operations against the time of updates on this CPU")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Print what the command gives; return 2 where the input was at fault."""
    args = parse(words)

    def chosen(kind: type[Any]) -> Any:
        return kind(**{f.name: getattr(args, f.name) for f in fields(kind) if f.metadata})

    try:
        if args.command == "job":
            job = chosen(Job)
            check(job)
            shape = read_shape(args.config) if args.config else MODELS[args.model]
            lines = report(shape, job, chosen(Hardware))
        elif args.command == "table":
            lines = fitting_table()
        elif args.command == "check":
            lines = peak_table(args.cases, args.gpu)
        else:
            lines = seconds_table()
        for line in lines:
            print(line, flush=True)
    except (UserError, ValueError) as error:
        print(f"sizing: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
