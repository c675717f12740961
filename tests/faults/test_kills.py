"""A run that is killed or stopped at any moment, and then resumed, is the run that never was."""

import json
import random
import shlex
import shutil
import signal
from pathlib import Path

from faults import STEPS, WORDS, Ending, Matrix, Passk, losses
from faulty import Fault
from small_runs import metrics

# How often each phase comes in the run: its first time may be shorter or longer than the others.
PHASES = {
    "rollout": (2, 14),
    "verify": (10, 90),
    "backward": (2, 12),
    "checkpoint write": (2, 4),
    "table write": (2, 4),
}
RARER = {"rollout file": (2, STEPS), "metrics line": (2, STEPS), "start": (1, 1)}


def drawn(phase: str, times: tuple[int, int], rng: random.Random, number: int) -> Fault:
    return Fault(phase, rng.randint(*times), rng.random(), number)


def go_on(passk: Passk, run: Path, fault: Fault | None = None) -> Ending:
    """Resume; a run that was killed before its first file was written is started."""
    begun = (run / "config.yaml").is_file()
    return passk.train(run, *WORDS, *(("resume=true",) if begun else ()), fault=fault)


def assert_records_are_whole(run: Path) -> None:
    """Between a kill and its resumption: the lines of completed steps are there, each once."""
    if (run / "metrics.jsonl").is_file():
        lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]  # what follows is torn
        assert [json.loads(line)["step"] for line in lines] == list(range(len(lines)))


def test_kill_at_any_moment(passk_process, undisturbed, matrix, rng, is_whole_matrix, tmp_path):
    each = 4 if is_whole_matrix else 1
    plan = [(phase, PHASES[phase]) for phase in PHASES for _ in range(each)]
    plan += RARER.items() if is_whole_matrix else ()
    if not is_whole_matrix:  # the others are killed by the test below
        plan = [("checkpoint write", PHASES["checkpoint write"]), ("start", RARER["start"])]
    for number, (phase, times) in enumerate(plan):
        run = tmp_path / str(number)
        killed = passk_process.train(run, *WORDS, fault=drawn(phase, times, rng, signal.SIGKILL))
        assert killed.code == -signal.SIGKILL and not killed.err, killed
        assert_records_are_whole(run)
        assert go_on(passk_process, run).code == 0
        fell = f"in {killed.inside}" if phase in killed.inside else f"just after {phase}"
        matrix.add(f"SIGKILL of the run, {fell}", losses(run, undisturbed))


def test_kill_after_kill(passk_process, undisturbed, matrix, rng, is_whole_matrix, tmp_path):
    for chain in range(3 if is_whole_matrix else 1):
        run, kills = tmp_path / str(chain), 0
        for _ in range(6 if is_whole_matrix else 4):
            phase = rng.choice(sorted(PHASES))
            times = (10, 30) if phase == "verify" else (1, 2)
            fault = drawn(phase, times, rng, signal.SIGKILL)
            ending = go_on(passk_process, run, fault)
            assert ending.code in (0, -signal.SIGKILL), ending
            kills += ending.code != 0
            assert_records_are_whole(run)
        assert kills >= 3
        assert go_on(passk_process, run).code == 0
        matrix.add("SIGKILL, resumed, SIGKILL again, ...", losses(run, undisturbed), tried=kills)


def test_sigterm_at_any_moment(passk_process, undisturbed, matrix, rng, is_whole_matrix, tmp_path):
    for number in range(5 if is_whole_matrix else 1):
        run = tmp_path / str(number)
        phase = rng.choice(sorted(PHASES))
        times = (20, 40) if phase == "verify" else (2, 3)  # after the gold answers
        stopped = passk_process.train(run, *WORDS, fault=drawn(phase, times, rng, signal.SIGTERM))
        assert stopped.code == 130
        done = len(metrics(run))
        assert f"saved at step {done}" in stopped.out
        assert (run / "checkpoints" / f"step-{done:06d}").is_dir()
        told = next(line for line in stopped.err.splitlines() if "go on with: " in line)
        words = shlex.split(told.partition("go on with: ")[2])
        assert words[:2] == ["passk", "train"] and words[-1] == "resume=true"
        assert "Traceback" not in stopped.err
        assert go_on(passk_process, run).code == 0
        said = "SIGTERM: finishing this step, then saving; interrupted; go on with: passk train ..."
        matrix.add("SIGTERM", losses(run, undisturbed), said)


def test_matrix_counts_what_differs(undisturbed, tmp_path):
    """The ruler itself: a doubled line, a lost one, another number and another table are seen."""
    lines = (undisturbed / "metrics.jsonl").read_text().splitlines(keepends=True)
    for change, lost, differing in (
        ([*lines, lines[3]], 1, 0),
        (lines[:3] + lines[4:], 1, 0),
        ([*lines[:3], lines[3].replace('"reward_mean": ', '"reward_mean": 9'), *lines[4:]], 0, 1),
    ):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        shutil.copytree(undisturbed, tmp_path / "run")
        (tmp_path / "run" / "metrics.jsonl").write_text("".join(change))
        found = losses(tmp_path / "run", undisturbed)
        assert (found.steps, found.differing) == (lost, differing)
    shutil.rmtree(tmp_path / "run")
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "eval" / "table.csv").write_text("")
    (tmp_path / "run" / "rollouts" / "step-000003.parquet").unlink()
    assert losses(tmp_path / "run", undisturbed).differing == 2
    assert Matrix().markdown().startswith("| fault | times tried | lost steps |")
