"""Phases that take long say so: lines, bars on a terminal, and never a long silence."""

import io
import os
import pty
import re
import subprocess
import sys
import threading
import time
from contextvars import Context
from itertools import pairwise

import pytest

from passk import console
from passk.console import Display, working

SILENT, EVERY = 0.1, 0.2


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The thresholds in tenths of seconds."""
    monkeypatch.setattr(console, "SILENT_SECONDS", SILENT)
    monkeypatch.setattr(console, "LINE_EVERY_SECONDS", EVERY)


class Recorder(io.StringIO):
    """A standard output that knows when something was printed."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def write(self, text: str) -> int:
        self.times.append(time.monotonic())
        return super().write(text)

    def longest_gap(self, start: float, end: float) -> float:
        times = [start, *(moment for moment in self.times if start < moment < end), end]
        return max(after - before for before, after in pairwise(times))


def progress_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "progress"]


def in_new_context(function):
    """Without what earlier tests printed."""
    return Context().run(function)


def short_phase():
    with working("evaluation", 3, "samples") as phase:
        for _ in range(3):
            phase.advance()


def test_a_short_phase_prints_nothing(capsys):
    in_new_context(short_phase)
    assert capsys.readouterr() == ("", "") and not progress_threads()


def test_a_counted_phase_says_how_far_it_is_and_what_is_left(capsys):
    def work():
        with working("evaluation", 6400, "samples") as phase:
            time.sleep(SILENT + EVERY / 2)  # before the first sample
            phase.advance(3200)
            time.sleep(2 * EVERY)
            phase.advance(3200)
            time.sleep(1.5 * EVERY)

    in_new_context(work)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"evaluation 0/6,400 samples \(\d s\)", lines[0])
    assert any(re.fullmatch(r"evaluation 3,200/6,400 samples, \d s left", line) for line in lines)
    assert re.fullmatch(r"evaluation 6,400/6,400 samples \(\d s\)", lines[-1])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(35.4, "loading the model (35 s)"), (300.0, "loading the model (5 min)")],
)
def test_an_uncounted_phase_says_how_long_it_takes(monkeypatch, seconds, shown):
    phase = console.Phase("loading the model", None, "")
    now = time.monotonic()
    monkeypatch.setattr(console.time, "monotonic", lambda: now + seconds)
    assert phase._line() == shown


def test_time_left_follows_the_units_that_are_done(monkeypatch):
    phase = console.Phase("evaluation", 6400, "samples")
    phase.advance(1200)
    now = time.monotonic()
    monkeypatch.setattr(console.time, "monotonic", lambda: now + 9.25)
    assert phase._line() == "evaluation 1,200/6,400 samples, 40 s left"


def test_of_nested_phases_the_outermost_alone_speaks(capsys):
    def work():
        with working("diagnosis", 2, "blocks") as outer, working("gradient", 3, "rows") as inner:
            inner.advance()
            outer.advance()
            assert len(progress_threads()) == 1
            time.sleep(SILENT + EVERY)
        with working("gradient", 3, "rows"):
            time.sleep(SILENT + EVERY)

    in_new_context(work)
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split()[0] for line in lines]
    assert titles == sorted(titles) and set(titles) == {"diagnosis", "gradient"}
    assert re.fullmatch(r"diagnosis 1/2 blocks, \d s left", lines[titles.index("gradient") - 1])


def test_a_phase_inside_a_run_speaks_under_its_name(capsys):
    def work():
        with console.display("hybrid", 3) as shown:
            assert isinstance(shown, Display)
            shown.step(1, {})
            with working("sampling", 8, "samples"):
                time.sleep(SILENT + EVERY / 2)

    in_new_context(work)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == "hybrid 1/3"
    assert re.fullmatch(r"hybrid: sampling 0/8 samples \(\d s\)", second)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_thread_ends_with_an_error_and_the_next_phase_speaks(capsys, error):
    def fail():
        with working("judging"), working("inner"):
            raise error

    def work():
        with pytest.raises(error):
            fail()
        assert not progress_threads()
        with working("judging"):
            time.sleep(SILENT + EVERY)

    in_new_context(work)
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {"judging"}
    assert not progress_threads()


def test_many_short_phases_are_no_long_silence(capsys, monkeypatch):
    monkeypatch.setattr(console, "SILENT_SECONDS", 60.0)

    def work():
        for _ in range(12):
            with working("gradient"):
                time.sleep(EVERY / 4)

    in_new_context(work)
    assert "gradient (0 s)" in capsys.readouterr().out


def test_output_that_nobody_reads_does_not_stop_the_work(monkeypatch):
    class Closed(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with working("sampling") as phase:
        time.sleep(SILENT + 2 * EVERY)
        phase.advance()
    assert not progress_threads()


ON_A_TERMINAL = """
import time
from passk import console
from passk.console import display, working

console.SILENT_SECONDS = 0.1
with working("reading data.path=[a].jsonl"):
    time.sleep(0.6)
with working("short"):
    pass
with display("hybrid", 3) as shown:
    with working("evaluation", 6400, "samples") as phase:
        phase.advance(1600)
        time.sleep(0.6)
        phase.advance(1600)
        time.sleep(0.4)
    shown.say("hybrid step 0: measured")
    shown.step(1, {})
print("done")
"""


def on_terminal(code: str, **environment: str) -> str:
    """What a program writes to a terminal."""
    leader, follower = pty.openpty()
    words = {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"} | environment
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=follower, env=os.environ | words, close_fds=True
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while some := os.read(leader, 65_536):
                shown += some
        except OSError:  # the other end is closed
            pass
        os.close(leader)
    assert process.returncode == 0
    return shown.decode()


def test_a_terminal_shows_bars_below_that_of_the_run():
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", on_terminal(ON_A_TERMINAL))
    assert "reading data.path=[a].jsonl" in shown and "short" not in shown
    assert "hybrid: evaluation 1,600/6,400 samples" in shown
    assert "hybrid: evaluation 3,200/6,400 samples" in shown
    assert "━" in shown and "hybrid 0/3" in shown and "hybrid 1/3" in shown
    assert "hybrid step 0: measured" in shown and shown.endswith("done\r\n")
    last = shown.rindex("hybrid: evaluation")
    assert last < shown.index("hybrid step 0: measured")  # the bar is gone


def test_a_terminal_that_cannot_redraw_gets_lines():
    shown = on_terminal(ON_A_TERMINAL, TERM="dumb")
    assert "\x1b" not in shown and "━" not in shown
    assert re.search(r"hybrid: evaluation 1,600/6,400 samples, \d s left\r\n", shown)


# commands


@pytest.fixture
def slow(monkeypatch):
    """Sampling, and forward passes of the learner, that take longer than any silence may.

    The list gets the start and the end of every call of the sampler: a busy machine is slow too.
    """
    from passk.learner import learner
    from passk.rollout.torch_sampler import TorchSampler
    from passk.training import build

    calls: list[tuple[float, float]] = []

    class SlowSampler(TorchSampler):
        def sample(self, prompts, seeds_PG, params):
            start = time.monotonic()
            for drawn in super().sample(prompts, seeds_PG, params):
                time.sleep(4 / len(prompts))
                yield drawn
            calls.append((start, time.monotonic()))

    forward = learner.batch_logprobs

    def slow_forward(*arguments):
        time.sleep(0.05)
        return forward(*arguments)

    monkeypatch.setattr(build, "TorchSampler", SlowSampler)
    monkeypatch.setattr(learner, "batch_logprobs", slow_forward)
    return calls


SMALL = ("num_threads=1", "data.num_train=8", "eval.num_problems=6", "eval.ks=[1]")
SMALL += ("eval.num_samples=8", "eval.num_resamples=50")
DIAGNOSE = ("diagnose.num_samples=8", "diagnose.num_blocks=4", "diagnose.matrix_prompts=6")
TRAIN = (
    *("regime=passk", "regime.k=2", "rollout.num_prompts=6", "rollout.num_samples=4"),
    *("train.num_steps=1", "eval.every=0", "diagnostics.num_prompts=6"),
    *("diagnostics.num_samples=8", "diagnostics.num_blocks=3"),
)


@pytest.mark.parametrize(
    ("words", "titles"),
    [
        (("train", *TRAIN), ("passk: evaluation", "passk: sampling", "passk: gradients")),
        (("eval",), ("eval: evaluation",)),
        (("diagnose", *DIAGNOSE), ("sampling for gradients", "derivatives")),
        (("filter", *DIAGNOSE[:2]), ("sampling for gradients", "gradient of Pass@1")),
    ],
    ids=lambda words: words[0],
)
def test_no_command_is_silent_for_long(tmp_path, monkeypatch, slow, words, titles):
    from passk.cli.main import main

    recorder = Recorder()
    monkeypatch.setattr(sys, "stdout", recorder)
    command, *rest = words
    assert main([command, *SMALL, *rest, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    lines = recorder.getvalue().splitlines()
    for title in titles:
        assert any(re.match(rf"{title} \d+/\d+ ", line) for line in lines), (title, lines)
    assert slow
    for start, end in slow:
        assert recorder.longest_gap(start, end) < (end - start) / 2, lines
    assert not progress_threads()
