"""Hangs and crashes, for real: each costs itself, and no process is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from answers import completion, is_alive, judge, worker_pids

from passk.config.schema import VerifierConfig
from passk.types import Problem
from passk.verifiers.math.verifier import MathVerifier
from passk.verifiers.worker_pool import WorkerCrashed, WorkerHung, WorkerPool, WorkerStarved

# Each keeps sympy busy for far longer than any limit here.
HANGS = [r"9^{9^{9^{9}}}", "10000000000!", r"\binom{10000000000}{5000000000}", r"2^{2^{40}}"]
GOLD, RIGHT = r"\frac{\sqrt{2}}{2}", r"\boxed{\frac{1}{\sqrt{2}}}"


def build(**settings) -> MathVerifier:
    return MathVerifier(VerifierConfig(**{"name": "math", "num_workers": 1, **settings}))


def wait_for(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def test_a_hang_costs_its_own_time_limit_and_nothing_else():
    verifier = build(timeout_seconds=1)
    try:
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        right = (Problem("p", "", GOLD), completion(r"\boxed{\frac{2}{\sqrt{8}}}"))
        pairs = [right]
        for hang in HANGS:
            pairs += [(Problem("p", "", "7"), completion(rf"\boxed{{{hang}}}")), right]
        begun = time.monotonic()
        verdicts = verifier.verify(pairs)
        expected = [(1.0, "correct"), *[(0.0, "timeout"), (1.0, "correct")] * len(HANGS)]
        assert [(v.reward, v.reason) for v in verdicts] == expected
        # and the start of another process
        assert len(HANGS) <= time.monotonic() - begun < 60 * len(HANGS)
        assert len(worker_pids(os.getpid())) == 1
    finally:
        verifier.close()
    assert worker_pids(os.getpid()) == []


BLAMED = [
    (GOLD, "9^{9^{9^{9}}}", 0.0, "timeout"),
    (GOLD, "(" * 300 + "1" + ")" * 300, 0.0, "timeout"),
    (r"(x+y+z)^{20}", "9^{9^{9^{9}}}x", 0.0, "timeout"),
    (GOLD, "2^{8000000000}", 0.0, "error"),  # more memory than a check may take
    ("9^{9^{9^{9}}}", r"\sqrt{7}", None, "timeout"),
]


def test_only_what_the_gold_answer_causes_leaves_the_counts():
    """An answer that no check can finish earns 0: a policy must not learn to write such ones."""
    verifier = build(timeout_seconds=1, max_memory_mib=64)
    try:
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        pairs = [
            (Problem("p", "", gold), completion(rf"\boxed{{{answer}}}"))
            for gold, answer, _, _ in BLAMED
        ]
        for verdict, (gold, answer, reward, reason) in zip(
            verifier.verify(pairs), BLAMED, strict=True
        ):
            assert (verdict.reward, verdict.reason) == (reward, reason), (gold, answer)
        assert verifier._sound_golds == {gold for gold, _, reward, _ in BLAMED if reward == 0}
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
    finally:
        verifier.close()


def test_what_answers_leave_in_caches_does_not_starve_the_next_check():
    """Each of these leaves 10 MB or more behind in the worker, which then makes way for another."""
    verifier = build(timeout_seconds=60, max_memory_mib=64)
    try:
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        first = worker_pids(os.getpid())
        powers = [rf"\boxed{{2^{{{80_000_000 + n}}}}}" for n in range(5)]
        assert [judge(verifier, GOLD, power).reason for power in powers] == ["wrong"] * 5
        assert judge(verifier, r"\frac{x}{\sqrt{7}}", r"\boxed{x/\sqrt{7}}").reason == "correct"
        assert worker_pids(os.getpid()) != first
    finally:
        verifier.close()


STARVED = """
import json, sys, time
input()
print(json.dumps({"ready": True}), flush=True)
time.sleep(3600)
"""


def test_a_machine_that_gives_no_processor_time_is_not_blamed_on_the_answer(tmp_path, monkeypatch):
    """A worker that sleeps stands for one that never gets its turn."""
    (tmp_path / "sleeping_worker.py").write_text(STARVED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    pool = WorkerPool("sleeping_worker", {}, 1, 0.3)
    try:
        begun = time.monotonic()
        (lost,) = pool.map(["task"])
        assert isinstance(lost, WorkerStarved) and 3.6 <= time.monotonic() - begun < 60
    finally:
        pool.close()


def kill_workers(count: int, number: int) -> threading.Thread:
    """Kill `count` workers one after the other, each when it has judged for half a second."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < count:
            for pid in set(worker_pids(os.getpid())) - killed:
                if cpu_seconds(pid) > idle_seconds + 0.5:
                    os.kill(pid, number)
                    killed.add(pid)
            time.sleep(0.01)

    idle_seconds = max(map(cpu_seconds, worker_pids(os.getpid())))  # its start
    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_crash_is_an_error_of_the_answer_at_hand_alone(number):
    """Twice: a single one is nothing but another try."""
    verifier = build(timeout_seconds=60)
    try:
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        (pid,) = worker_pids(os.getpid())
        pairs = [(Problem("p", "", "7"), completion(rf"\boxed{{{HANGS[0]}}}"))]
        pairs += [(Problem("p", "", GOLD), completion(RIGHT))]
        killing = kill_workers(2, number)
        verdicts = verifier.verify(pairs)
        killing.join()
        assert [(v.reward, v.reason) for v in verdicts] == [(0.0, "error"), (1.0, "correct")]
        (after,) = worker_pids(os.getpid())
        assert after != pid
    finally:
        verifier.close()


def test_a_worker_killed_between_two_answers_or_once_costs_none():
    """What hangs comes back as `timeout`, and not as `error`: it was asked again."""
    verifier = build(timeout_seconds=2)
    try:
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        os.kill(worker_pids(os.getpid())[0], signal.SIGKILL)
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        killing = kill_workers(1, signal.SIGKILL)
        assert judge(verifier, "7", rf"\boxed{{{HANGS[0]}}}").reason == "timeout"
        killing.join()
    finally:
        verifier.close()
    assert worker_pids(os.getpid()) == []


def test_a_check_cannot_take_the_memory_of_the_machine():
    """2^8000000000 fills a GiB. math-verify takes the failure to hold it for inequality."""
    verifier = build(timeout_seconds=60, max_memory_mib=64)
    try:
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        (pid,) = worker_pids(os.getpid())
        assert judge(verifier, "1", r"\boxed{2^{8000000000}}").reason in ("wrong", "error")
        assert judge(verifier, GOLD, RIGHT).reason == "correct"
        assert worker_pids(os.getpid()) == [pid]
        status = Path(f"/proc/{pid}/status").read_text().split("VmPeak:")[1]
        assert int(status.split()[0]) < 400 * 1024
    finally:
        verifier.close()


def test_close_ends_a_worker_that_hangs():
    verifier = build(timeout_seconds=600)
    assert judge(verifier, GOLD, RIGHT).reason == "correct"
    with ThreadPoolExecutor(1) as thread:
        hung = thread.submit(judge, verifier, "7", rf"\boxed{{{HANGS[0]}}}")
        time.sleep(1)
        assert len(worker_pids(os.getpid())) == 1 and not hung.done()
        begun = time.monotonic()
        verifier.close()
        assert hung.result().reason == "error"
        assert time.monotonic() - begun < 5
    assert worker_pids(os.getpid()) == []


PARENT = """
import sys
from passk.config.schema import VerifierConfig
from passk.verifiers.math.verifier import MathVerifier
from passk.types import Completion, FinishReason, Problem
verifier = MathVerifier(VerifierConfig(name="math", num_workers=2, timeout_seconds=6))
problem, texts = Problem("p", "", "7"), sys.argv[1:]
verifier.verify([(problem, Completion(text, (), (), FinishReason.STOP)) for text in texts])
print("judged", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("when", ["hanging", "idle"])
def test_nothing_is_left_when_the_parent_is_killed(when):
    """SIGKILL cannot be caught: the workers must end by themselves, also in mid-hang."""
    answers = HANGS[:2] if when == "hanging" else [r"\sqrt{2}", r"\pi"]
    texts = [rf"\boxed{{{answer}}}" for answer in answers]
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *texts], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        if when == "idle":
            assert parent.stdout.readline() == b"judged\n"
        assert wait_for(lambda: len(worker_pids(parent.pid)) == 2, 60)
        if when == "hanging":
            assert wait_for(lambda: all(cpu_seconds(p) > 4 for p in worker_pids(parent.pid)), 60)
        workers = worker_pids(parent.pid)
    finally:
        parent.kill()
        parent.wait()
        parent.stdin.close()
        parent.stdout.close()
    assert wait_for(lambda: not any(map(is_alive, workers)), 60)


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_workers_are_shared_out_and_called_from_several_threads():
    verifier = build(num_workers=2, timeout_seconds=30)
    try:
        pairs = [
            (Problem("p", "", GOLD), completion(rf"\boxed{{\frac{{{n}}}{{{n}\sqrt{{2}}}}}}"))
            for n in range(1, 25)
        ]
        with ThreadPoolExecutor(3) as threads:
            results = list(threads.map(verifier.verify, [pairs, pairs[:5], pairs]))
        assert [len(r) for r in results] == [24, 5, 24]
        assert {v.reason for r in results for v in r} == {"correct"}
        assert len(worker_pids(os.getpid())) == 2
    finally:
        verifier.close()


def test_a_worker_that_does_not_start_says_why():
    pool = WorkerPool("passk.no_such_worker", {}, 1, 1.0)
    with pytest.raises(RuntimeError, match=r"did not start: .*No module named passk.no_such"):
        pool.map(["x"])
    pool.close()
    assert worker_pids(os.getpid()) == []


def test_a_request_that_would_fill_the_pipe_is_refused():
    verifier = build()
    try:
        (lost,) = verifier._pool.map([["x" * 100_000, "y"]])
        assert isinstance(lost, WorkerCrashed) and not isinstance(lost, WorkerHung)
    finally:
        verifier.close()
