"""What tests of verifiers share: a completion from its text, and one verdict."""

from pathlib import Path

from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.base import Verifier


def completion(text: str, finish: FinishReason = FinishReason.STOP) -> Completion:
    return Completion(text, (2,) * len(text), (-0.1,) * len(text), finish)


def judge(
    verifier: Verifier, gold: str, text: str, finish: FinishReason = FinishReason.STOP
) -> Verdict:
    problem = Problem("p-1", "How many?", gold)
    return verifier.verify([(problem, completion(text, finish))])[0]


def worker_pids(parent: int) -> list[int]:
    """The worker processes of a process, from /proc; the dead that nobody waited for count too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_text()
        except OSError:  # it has just ended
            continue
        is_zombie, ppid = stat.rpartition(")")[2].split()[:2]
        if int(ppid) == parent and ("passk.verifiers.math.worker" in command or is_zombie == "Z"):
            found.append(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
