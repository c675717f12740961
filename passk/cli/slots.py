"""Deal out the cores and GPUs of this machine to processes that run side by side.

These processes end with the one that started them.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from passk.runs.ledger import INTERRUPTED

_PR_SET_PDEATHSIG = 1


def num_cores(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of cores that may be used, of which `OMP_NUM_THREADS` may allow fewer."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    allowed = environment.get("OMP_NUM_THREADS", "")
    return min(cores, int(allowed)) if allowed.isdecimal() and int(allowed) else cores


def gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """List the names of the GPUs that may be used, without importing torch."""
    if (visible := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    words = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    listed = subprocess.run(words, capture_output=True, text=True, check=False)
    return listed.stdout.split() if listed.returncode == 0 else []


def gpu_slots(names: Sequence[str], num_parallel: int) -> list[dict[str, str]]:
    """Return the environment of each slot: its share of the GPUs. Without GPUs nothing is set.

    With fewer GPUs than slots, slots share a GPU.
    """
    if not names:
        return [{}] * num_parallel
    shares = [names[i::num_parallel] or [names[i % len(names)]] for i in range(num_parallel)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def end_with(parent: int, number: int = signal.SIGTERM) -> None:
    """Get this signal when the parent ends; SIGTERM lets a run finish its step and save.

    Only Linux supports this. Elsewhere a process outlives its parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
    if os.getppid() != parent:
        sys.exit(INTERRUPTED)
