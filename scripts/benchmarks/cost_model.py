"""Sizes a job before a machine is rented: memory of a GPU and seconds of a step, term by term.

    python scripts/benchmarks/cost_model.py --model 7b --ranks 8 --gradient-checkpointing
    python scripts/benchmarks/cost_model.py --config FOLDER --ranks 16 --replicas 2 --k 16
    python scripts/benchmarks/cost_model.py --tables               # those of docs/method/scaling.md

Options are named after passk's keys; docs/method/scaling.md says what the terms mean and what is
left out.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from cost_step import (
    GIB,
    Hardware,
    cached_tokens,
    checkpoint_bytes,
    collectives,
    hand_over_memory,
    learner_flops,
    main_memory,
    sampler_memory,
    step_seconds,
)
from cost_terms import (
    MODELS,
    Job,
    Shape,
    Terms,
    learned_rows,
    learned_share,
    learner_memory,
    micro_batches,
)

from passk.errors import UserError


def read_shape(path: Path) -> Shape:
    """The shape in a Hugging Face config.json, or in the folder that holds one."""
    file = path / "config.json" if path.is_dir() else path
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path} is no config.json and no folder with one") from error
    kind = found.get("model_type")
    if kind not in ("llama", "mistral", "qwen2"):
        raise UserError(f"--config {path}: {kind} is not modelled; llama, mistral and qwen2 are")
    heads = found["num_attention_heads"]
    return Shape(
        hidden=found["hidden_size"],
        layers=found["num_hidden_layers"],
        heads=heads,
        kv_heads=found.get("num_key_value_heads") or heads,
        intermediate=found["intermediate_size"],
        vocabulary=found["vocab_size"],
        tied=found.get("tie_word_embeddings", False),
        attention_bias=kind == "qwen2" or found.get("attention_bias", False),
        head_dim=found.get("head_dim"),
    )


def check(job: Job) -> None:
    """Refuse what passk would refuse, and what has no answer."""
    for name in ("ranks", "replicas", "num_prompts", "num_samples", "tensor_parallel", "k"):
        if getattr(job, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1")
    if job.num_samples < 2 or job.k > job.num_samples:
        raise UserError("--num-samples must be at least 2 and at least --k")
    if job.ranks % job.replicas or job.ranks % job.tensor_parallel:
        raise UserError("--replicas and --tensor-parallel must divide --ranks")
    if min(job.prompt_tokens, job.answer_tokens) < 1:
        raise UserError("--prompt-tokens and --answer-tokens must be at least 1")
    if job.max_tokens_per_batch < job.row_tokens:
        raise UserError("--max-tokens-per-batch is less than one prompt with its answer")
    if not all(0 <= p <= 1 for p in job.success):
        raise UserError("--success must be probabilities, from 0 to 1")
    if {job.compute_bytes, job.weight_bytes, job.sampler_bytes} - {2, 4}:
        raise UserError("--compute-bytes, --weight-bytes and --sampler-bytes must be 2 or 4")
    if job.weight_bytes == 2 and not job.lora_rank:
        raise UserError("--weight-bytes 2 is for frozen weights, with --lora-rank")


def lines(title: str, terms: Terms, unit: float, room: float | None = None) -> Iterator[str]:
    """A block of terms with their sum, and whether it fits into `room` (in the same unit)."""
    total = sum(terms.values()) / unit
    verdict = "" if room is None else f"  {'fits' if total <= room else 'DOES NOT FIT'} {room:.0f}"
    yield f"\n{title}"
    yield from (f"  {name:32s} {value / unit:10.2f}" for name, value in terms.items())
    yield f"  {'together':32s} {total:10.2f}{verdict}"


def report(shape: Shape, job: Job, hardware: Hardware) -> Iterator[str]:
    """Everything the model says of one job."""
    room = hardware.gpu_gib - hardware.reserved_gib
    phase, memory = learner_memory(shape, job)
    moved = collectives(shape, job)
    yield f"{shape.parameters / 1e9:.2f}B parameters on {job.ranks} GPUs"
    yield (
        f"{learned_share(job):.0%} of samples have a weight: {learned_rows(job):.0f} rows a step, "
        f"{micro_batches(job)} micro-batches a rank"
    )
    yield from lines(f"GPU while learning, GiB, at its peak: {phase}", memory, GIB, room)
    yield from lines("GPU while sampling, GiB", sampler_memory(shape, job, hardware), GIB, room)
    held = sampler_memory(shape, job, hardware)
    if not held["sampler's cache"]:
        yield "  the sampler's weights alone are more than --memory-fraction of the GPU"
    else:
        room_for = cached_tokens(shape, job, hardware) / job.row_tokens
        yield f"  an engine's cache holds {room_for:,.0f} answers of full length"
    yield from lines(
        "GPU while weights are handed over, GiB", hand_over_memory(shape, job), GIB, room
    )
    yield from lines("Main memory of a node, GiB", main_memory(shape, job, hardware), GIB)
    disk = checkpoint_bytes(shape, job)
    yield from lines("A checkpoint on disk, GiB", disk, GIB)
    yield f"  {sum(disk.values()) / hardware.disk_bytes:.0f} s of writing, beside the next steps"
    yield f"\nCollectives of a learner step: {moved.all_gathers} all-gathers, " + (
        f"{moved.reduce_scatters} reduce-scatters, {moved.all_reduces} all-reduces; "
        f"{(moved.gathered + moved.scattered + moved.reduced) / GIB:.1f} GiB"
    )
    flops = learner_flops(shape, job, learned_rows(job))
    yield f"Operations of a learner step: {flops / 1e15:.2f} PFLOP on all ranks"
    yield from lines("Seconds of a step", step_seconds(shape, job, hardware), 1.0)


def tables() -> Iterator[str]:
    """What fits on 80 GB and how long a step takes, for three sizes and several counts of GPUs."""
    hardware = Hardware()
    yield "| model | trained | GPUs | learning | sampling | fits | rollout s | learn s | step s |"
    yield "|---|---|---:|---:|---:|---|---:|---:|---:|"
    for name, counts in (("0.5b", (1, 8)), ("7b", (1, 4, 8, 16)), ("70b", (8, 16, 32, 64, 128))):
        shape = MODELS[name]
        for lora_rank in (0, 32):
            for ranks in counts:
                job = Job(
                    ranks=ranks,
                    gradient_checkpointing=True,
                    lora_rank=lora_rank,
                    weight_bytes=2 if lora_rank else 4,
                    tensor_parallel=min(ranks, 4) if name == "70b" else 1,
                    memory_fraction=0.6 if name == "70b" else 0.4,
                )
                yield table_row(name, shape, job, hardware)


def table_row(name: str, shape: Shape, job: Job, hardware: Hardware) -> str:
    """One line of `tables`; a job that defers its gradients only where they fit."""
    room = (hardware.gpu_gib - hardware.reserved_gib) * GIB
    if sum(learner_memory(shape, job)[1].values()) > room:
        job = replace(job, defer_reduction=False)
    held = sampler_memory(shape, job, hardware)
    learning = sum(learner_memory(shape, job)[1].values())
    needs = max(learning, sum(held.values()), sum(hand_over_memory(shape, job).values()))
    fits = needs <= room and held["sampler's cache"] > 0
    training = f"LoRA {job.lora_rank}" if job.lora_rank else "all weights"
    training += "" if job.defer_reduction or job.ranks == 1 else ", not deferred"
    start = f"| {name} | {training} | {job.ranks} | {learning / GIB:.1f} "
    start += f"| {sum(held.values()) / GIB:.1f} "
    if not fits:
        return start + "| no | | | |"
    seconds = step_seconds(shape, job, hardware)
    rollout = seconds["prefill"] + seconds["decode"]
    return start + f"| yes | {rollout:.1f} | {seconds['learn']:.1f} | {sum(seconds.values()):.1f} |"


def add_options(parser: argparse.ArgumentParser, kind: type[Any]) -> None:
    """An option for each field of a dataclass, with its default."""
    for field in dataclasses.fields(kind):
        name = "--" + field.name.replace("_", "-")
        if field.name == "sharded":
            continue
        if isinstance(field.default, bool):
            action = argparse.BooleanOptionalAction
            parser.add_argument(name, action=action, default=field.default)
        elif field.name == "success":
            parser.add_argument(name, nargs="+", type=float, default=field.default)
        else:
            parser.add_argument(name, type=type(field.default), default=field.default)


def main(words: list[str] | None = None) -> int:
    """Print the report, or the tables; 2 where the input was at fault."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", choices=list(MODELS), default="7b")
    model.add_argument("--config", type=Path, help="a config.json, or the folder of a model")
    parser.add_argument("--tables", action="store_true")
    add_options(parser, Job)
    add_options(parser, Hardware)
    args = parser.parse_args(words)
    if args.tables:
        print("\n".join(tables()))
        return 0
    chosen = vars(args)
    kinds = (Job, Hardware)
    job, hardware = (
        kind(**{f.name: chosen[f.name] for f in dataclasses.fields(kind) if f.name in chosen})
        for kind in kinds
    )
    try:
        check(job)
        shape = read_shape(args.config) if args.config else MODELS[args.model]
        print("\n".join(report(shape, job, hardware)))
    except (UserError, ValueError) as error:
        print(f"cost_model: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
