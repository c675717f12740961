"""Explain in one sentence which settings to lower when memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from passk.errors import UserError

_ADVICE = {
    "learner": (
        "lower learner.max_tokens_per_batch, or use learner.gradient_checkpointing=true, "
        "learner.compute_dtype=bfloat16, on several ranks learner.defer_reduction=false, or "
        "adapters (model.lora_rank=16)"
    ),
    "rollout": (
        "lower rollout.max_batch_samples (engine torch), rollout.memory_fraction (engine vllm), "
        "rollout.num_prompts or rollout.max_new_tokens"
    ),
}
# Errors without a class of their own: torch on the CPU, and the allocator that wakes vLLM.
_MESSAGES = ("DefaultCPUAllocator", "not enough memory", "CUDA Error: out of memory")


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
