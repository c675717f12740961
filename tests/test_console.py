"""What a run shows where there is no terminal, and standard streams that cannot take it.

Closed, without room behind them, or in another encoding.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from passk import console
from passk.console import Display, check_words
from passk.errors import UserError

OPENED = """
import os, sys
from passk.console import open_streams
open_streams()
print("shown", flush=True)
print("\\N{GREEK SMALL LETTER ALPHA} \\ud800", file=sys.stdout, flush=True)
print("said", file=sys.stderr, flush=True)
sys.stdin.read()
with open(sys.argv[1], "w") as file:
    assert file.fileno() > 2, "a file has the number of a stream"
    os.write(1, b"of a library")
    file.write("whole")
"""


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as the test says."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_an_evaluation_shows_problems_pass_at_1_speed_and_time_left(clock, capsys):
    shown = Display("eval", 500, None)
    shown.step(0, {"pass1": None})
    clock[0] = 20.0
    shown.step(40, {"pass1": 0.3104, "sampled_per_second": 12_345.0})
    clock[0] = 240.0
    shown.step(480, {"pass1": 0.25, "sampled_per_second": 87.4})
    clock[0] = 241.0
    shown.step(490, {"pass1": 0.25})  # too soon after the last
    shown.step(500, {"pass1": 0.25})
    assert capsys.readouterr().out.splitlines() == [
        "eval 0/500",
        "eval 40/500  Pass@1 0.310  12k tok/s  4 min left",
        "eval 480/500  Pass@1 0.250  87 tok/s  10 s left",
        "eval 500/500  Pass@1 0.250",
    ]


def test_training_shows_reward_and_both_estimates(capsys):
    metrics = {"reward_mean": 0.5, "pass1": 0.5, "passk": 0.75, "k": 4, "loss": 0.1}
    speeds = {"tokens_per_second": 2500.0, "fed_per_second": 930.0}
    Display("hybrid", 3, None).step(1, metrics | speeds | {"sampled_per_second": 41_000.0})
    of_sft = {"reward_mean": None, "pass1": None, "passk": None, "sampled_per_second": None}
    Display("sft", 3, None).step(1, {**speeds, **of_sft, "loss": 2})
    assert capsys.readouterr().out.splitlines() == [
        "hybrid 1/3  reward 0.500  Pass@1/4 0.500/0.750  2k tok/s, sampler 41k, learner 930",
        "sft 1/3  loss 2.0000  2k tok/s, learner 930",
    ]


def shell(line: str, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, *words],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_go_nowhere_and_files_stay_whole(tmp_path, closed):
    done = shell(f'"$@" {closed}', "-c", OPENED, tmp_path / "file")
    assert (done.returncode, done.stderr.replace("said\n", "")) == (0, "")
    assert (tmp_path / "file").read_text() == "whole"


def test_text_that_an_encoding_lacks_is_written_otherwise(tmp_path):
    done = shell('"$@" </dev/null', "-c", OPENED, tmp_path / "file", PYTHONIOENCODING="ascii")
    assert done.stdout == "shown\n\\u03b1 \\ud800\nof a library"


def test_no_room_behind_stdout_is_a_sentence():
    done = shell('"$@" >/dev/full', "-m", "passk", "--version")
    sentence = "passk: its output could not be written: No space left on device"
    assert done.returncode == 1 and done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_names_of_files_are_utf8_though_the_locale_is_not(tmp_path):
    words = ("explain", "rollout.num_samples=4", "regime.k=2", "hydra.run.dir=läufe")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(f'cd "{tmp_path}"; "$@" >&-', "-m", "passk", *words, **plain)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "läufe" / "explain.md").is_file()


def test_words_that_are_not_utf8_are_refused():
    check_words(["läufe", "\N{GREEK SMALL LETTER ALPHA}"])
    with pytest.raises(UserError, match=r"'out=l\\udce4ufe' is not UTF-8"):
        check_words(["out=l\udce4ufe"])
