"""The learner's real step against the cost model: peak memory, at real sizes, without the GPUs.

    python scripts/benchmarks/cost_check.py [--cases 0.5b 7b 70b]  # simulated: no memory
    python scripts/benchmarks/cost_check.py --gpu [--cases 0.5b]  # one GPU, FSDP2, measured
    python scripts/benchmarks/cost_check.py --seconds  # operations against time, on a CPU

Simulated, the learner of passk runs two updates, cut by FSDP2 over ranks of which only one exists;
its tensors are fake (shape and dtype, no memory), and every storage that it makes or drops is
counted. Prints a Markdown table for docs/method/scaling.md.
"""

import argparse
import gc
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from cost_step import learner_flops
from cost_terms import MODELS, Job, Shape, learner_memory, micro_batches
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from passk.config.schema import LearnerConfig, ModelConfig
from passk.learner import fsdp
from passk.learner.batch import TokenRow
from passk.learner.fsdp import shard
from passk.learner.learner import Learner
from passk.learner.lora import add_adapters

ON_8 = Job(ranks=8, success=(0.5,), prompt_tokens=256, answer_tokens=768)
ON_64 = replace(ON_8, ranks=64, num_prompts=256, gradient_checkpointing=True)
CASES: dict[str, list[Job]] = {
    "0.5b": [
        replace(ON_8, ranks=1, max_tokens_per_batch=8192),
        replace(ON_8, ranks=1, max_tokens_per_batch=8192, gradient_checkpointing=True),
        replace(ON_8, ranks=1, max_tokens_per_batch=8192, lora_rank=32),
        replace(ON_8, ranks=1, max_tokens_per_batch=8192, lora_rank=32, weight_bytes=2),
        replace(ON_8, compute_bytes=4),
        ON_8,
        replace(ON_8, max_tokens_per_batch=2048, defer_reduction=False),
    ],
    "7b": [
        replace(ON_8, max_tokens_per_batch=4096),
        replace(ON_8, gradient_checkpointing=True),
        replace(ON_8, gradient_checkpointing=True, defer_reduction=False),
        replace(ON_8, ranks=16, replicas=2, gradient_checkpointing=True),
    ],
    "70b": [replace(ON_64, defer_reduction=False), ON_64],
}
ON_GPU: dict[str, list[Job]] = {
    "0.5b": [
        replace(ON_8, ranks=1, sharded=True, max_tokens_per_batch=8192),
        replace(ON_8, ranks=1, sharded=True, gradient_checkpointing=True),
    ]
}


class StorageCount(TorchDispatchMode):
    """Counts the bytes of all storages that live, as they are made, resized and dropped.

    Where the learner asks for numbers, which fake tensors lack, it hears 1; where it selects by a
    mask, `num_selected` elements are chosen.
    """

    def __init__(self, fake: FakeTensorMode, num_selected: int) -> None:
        super().__init__()
        self.fake, self.num_selected = fake, num_selected
        self.live = self.peak = 0
        self._sizes: Any = WeakIdKeyDictionary()

    def see(self, storage: torch.UntypedStorage) -> None:
        """Note the size that a storage has now."""
        if storage not in self._sizes:
            self._sizes[storage] = size = [0]
            weakref.finalize(storage, self._drop, size)
        size = self._sizes[storage]
        self.live += storage.size() - size[0]
        size[0] = storage.size()
        self.peak = max(self.peak, self.live)

    def _drop(self, size: list[int]) -> None:
        self.live -= size[0]
        size[0] = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # its parts come by here
        aten = torch.ops.aten
        if op is aten._local_scalar_dense.default:
            return 1.0
        if op is aten.nonzero.default:
            made = args[0].new_empty((self.num_selected, args[0].dim()), dtype=torch.int64)
        elif op is aten.index.Tensor and args[1][0].dtype == torch.bool:
            made = args[0].new_empty((self.num_selected,))
        else:
            made = op(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, Tensor) and getattr(tensor, "fake_mode", None) is self.fake:
                self.see(tensor.untyped_storage())
        return made


def model_config(shape: Shape) -> Qwen2Config | LlamaConfig:
    """A configuration of transformers with this shape."""
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
    """The learner of passk for this job, with random weights."""
    dtype = {2: torch.bfloat16, 4: torch.float32}[job.weight_bytes]
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            model_config(shape), dtype=dtype, attn_implementation="sdpa"
        )
    cfg = LearnerConfig(
        compute_dtype="bfloat16" if job.compute_bytes == 2 else None,
        gradient_checkpointing=job.gradient_checkpointing,
        max_tokens_per_batch=job.max_tokens_per_batch,
        defer_reduction=job.defer_reduction,
        replicas=job.replicas,
    )
    add_adapters(model, ModelConfig(lora_rank=job.lora_rank), seed=0)
    if job.is_sharded:
        shard(model, device, cfg, model)
    return Learner(model, cfg, 10, 1.0)


def make_rows(job: Job, num_ranks: int) -> list[TokenRow]:
    """Rows for two full micro-batches of each rank, or for the one that the job has."""
    per_rank = min(2, micro_batches(job)) * (job.max_tokens_per_batch // job.row_tokens)
    answer = (1,) * job.answer_tokens
    row = TokenRow((1,) * job.prompt_tokens, answer, (1e-6,), (), (-1.0,) * len(answer))
    return [row] * (per_rank * num_ranks)


def of_real_numbers(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, run outside all modes: a mesh of ranks is numbers, which fake tensors lack."""

    @wraps(function)
    def run(*arguments: Any) -> Any:
        with _disable_current_modes():
            return function(*arguments)

    return run


@contextmanager
def without_others(job: Job, num_rows: int) -> Iterator[None]:
    """A process group of which this rank alone exists, and what its learner would hear of others.

    Collectives give tensors of the right shape. transformers must take a fake tensor for what it
    stands for, or it makes a mask for attention that it does without otherwise.
    """
    with ExitStack() as stack:
        stack.enter_context(patch("transformers.masking_utils.is_tracing", lambda *_: False))
        if job.is_sharded:
            dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=job.ranks)
            stack.callback(dist.destroy_process_group)
            for owner, name in ((fsdp, "_mesh"), (DeviceMesh, "__getitem__")):
                stack.enter_context(
                    patch.object(owner, name, of_real_numbers(getattr(owner, name)))
                )

        def heard(said: tuple[float, dict[int, float], Any]) -> list[Any]:
            return [(said[0], dict.fromkeys(range(num_rows), 0.0), said[2])]

        stack.enter_context(patch("passk.learner.learner.gather", heard))
        if job.lora_rank:  # adapters are where they should be, and fake ones cannot be moved
            stack.enter_context(patch("torch.nn.Module.to", lambda module, *_, **__: module))
        yield


def simulated_peak(shape: Shape, job: Job) -> int:
    """Bytes at the peak of the second update, when Adam has its moments."""
    rows = make_rows(job, job.ranks)
    per_batch = job.max_tokens_per_batch // job.row_tokens
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    count = StorageCount(fake, per_batch * job.answer_tokens)
    resize = torch.UntypedStorage.resize_

    def resize_and_see(storage: torch.UntypedStorage, size: int) -> None:
        resize(storage, size)
        if storage in count._sizes:
            count.see(storage)

    with (
        without_others(job, len(rows)),
        patch.object(torch.UntypedStorage, "resize_", resize_and_see),
        fake,
        count,
    ):
        learner = make_learner(shape, job, torch.device("cpu"))
        learner.optimizer.param_groups[0]["foreach"] = True  # as on a GPU
        learner.update(rows)
        gc.collect()
        count.peak = count.live
        learner.update(rows)
    return count.peak


def measured_peak(shape: Shape, job: Job) -> int:
    """Bytes that torch has given out at the peak of the second update, on this machine's GPU."""
    device = torch.device("cuda", 0)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    learner = make_learner(shape, job, device)
    rows = make_rows(job, 1)
    learner.update(rows)
    torch.cuda.reset_peak_memory_stats()
    learner.update(rows)
    peak = torch.cuda.max_memory_allocated()
    dist.destroy_process_group()
    return peak


def seconds_table() -> Iterator[str]:
    """Processor time of updates against their operations, at the speed of the first one."""
    torch.set_num_threads(1)
    shape = Shape(  # of SmolLM2-135M
        hidden=576, layers=30, heads=9, kv_heads=3, intermediate=1536, vocabulary=49152, tied=True
    )
    short = Job(prompt_tokens=64, answer_tokens=192, max_tokens_per_batch=256, compute_bytes=4)
    long = replace(short, max_tokens_per_batch=1024)
    longer = replace(short, prompt_tokens=256, answer_tokens=768, max_tokens_per_batch=1024)
    again = replace(long, gradient_checkpointing=True)
    deep = replace(shape, layers=60)
    speed = 0.0
    yield "| layers | rows x tokens | checkpointing | predicted s | found s | difference |"
    yield "|---:|---:|---|---:|---:|---:|"
    for size, job in ((shape, short), (shape, long), (shape, longer), (shape, again), (deep, long)):
        learner, rows = make_learner(size, job, torch.device("cpu")), make_rows(job, 1)
        learner.update(rows[:1])
        tries = []
        for _ in range(2):
            started = time.process_time()
            learner.update(rows)
            tries.append(time.process_time() - started)
        flops, found = learner_flops(size, job, len(rows)), min(tries)
        speed = speed or flops / found
        predicted = flops / speed
        where = f"| {size.layers} | {len(rows)} x {job.row_tokens} | {job.gradient_checkpointing} "
        gap = f"{100 * (predicted / found - 1):+.0f} %"
        yield f"{where}| {predicted:.1f} | {found:.1f} | {gap} |"


def settings(job: Job) -> str:
    """What is particular about a job, in words for the table."""
    said = [f"{job.ranks} rank{'s' * (job.ranks > 1)}", f"{job.max_tokens_per_batch} tokens"]
    said += [f"{job.replicas} replicas"] * (job.replicas > 1)
    said += ["FSDP2"] * job.sharded + ["float32"] * (job.compute_bytes == 4)
    said += ["checkpointing"] * job.gradient_checkpointing
    said += ["reduced each time"] * (not job.defer_reduction)
    said += [f"LoRA {job.lora_rank}"] * (job.lora_rank > 0)
    said += ["weights in bfloat16"] * (job.weight_bytes == 2)
    return ", ".join(said)


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES))
    parser.add_argument("--gpu", action="store_true", help="measure on this machine's GPU")
    parser.add_argument("--seconds", action="store_true", help="time updates on the CPU instead")
    args = parser.parse_args()
    if args.seconds:
        for line in seconds_table():
            print(line, flush=True)
        return
    cases, peak_of = (ON_GPU, measured_peak) if args.gpu else (CASES, simulated_peak)
    print("| model | job | predicted GiB | found GiB | difference | peak at |")
    print("|---|---|---:|---:|---:|---|")
    for name in args.cases or cases:
        for job in cases.get(name, []):
            phase, terms = learner_memory(MODELS[name], job)
            predicted, found = sum(terms.values()), peak_of(MODELS[name], job)
            gap = f"{100 * (predicted / found - 1):+.1f} %"
            sizes = f"{predicted / 2**30:.2f} | {found / 2**30:.2f} | {gap}"
            print(f"| {name} | {settings(job)} | {sizes} | {phase} |", flush=True)


if __name__ == "__main__":
    main()
