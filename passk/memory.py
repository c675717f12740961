"""Measure free memory, and explain in one sentence which settings to lower when it runs out."""

import ctypes
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from passk.errors import UserError

_ADVICE = {
    "learner": (
        "lower learner.max_tokens_per_batch, or use learner.gradient_checkpointing=true, "
        "learner.compute_dtype=bfloat16, on several ranks learner.defer_reduction=false, or "
        "adapters (model.lora_rank=16)"
    ),
    "rollout": (
        "lower rollout.memory_gib (engine torch), rollout.memory_fraction (engine vllm), "
        "rollout.num_prompts or rollout.max_new_tokens"
    ),
}
# Errors without a class of their own: torch on the CPU, and the allocator that wakes vLLM.
_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "CUDA Error: out of memory")

_CONTROL_GROUP = Path("/sys/fs/cgroup")  # as a container sees its own


def free_bytes(device: torch.device) -> int:
    """Return the bytes that this process can still take on `device`, a GPU or the CPU."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return int(min(_free_in_machine(), _free_in_container(_CONTROL_GROUP)))


def _free_in_machine() -> int:
    """Return what the kernel calls available; half of all memory where it does not say."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _free_in_container(group: Path) -> int | float:
    """Return what the limit of a control group (version 2) leaves, infinity without one."""
    try:
        limit = int((group / "memory.max").read_text())
        used = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, limit - int(used["anon"]))  # the rest can be given back
    except (OSError, KeyError, ValueError):  # no such file, or the limit is `max`
        return math.inf


def return_free_memory() -> None:
    """Give pages that are freed but kept by the C library back to the system, where it can.

    Sampling and learning free many small tensors, whose pages the other cannot use as they lie.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


@contextmanager
def memory_advice(phase: str) -> Iterator[None]:
    """Raise UserError when memory runs out in the block; `phase` is `learner` or `rollout`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise UserError(_sentence(phase, error)) from error
    except RuntimeError as error:
        if not any(message in str(error) for message in _MESSAGES):
            raise
        raise UserError(_sentence(phase, error)) from error


def _sentence(phase: str, error: BaseException) -> str:
    reason = (str(error).splitlines() or ["MemoryError"])[0]
    return f"out of memory in the {phase} ({reason}); {_ADVICE[phase]}"
