"""Shell completion, as bash itself asks for it; zsh and fish where they are installed."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import assert_refused

from passk.cli.completion import COMMANDS, SCRIPTS, complete
from passk.cli.help import HELP

ROOT = Path(__file__).parents[2]


def after(line: str) -> list[str]:
    """What may stand at the end of a line that begins with `passk `."""
    *words, current = line.split(" ")[1:]
    return list(complete(words, current))


def test_every_command_is_offered_and_the_asking_one_is_not_told():
    told = set(re.findall(r"^  (?:passk )?([a-z]+) ", HELP, flags=re.MULTILINE)) - {"passk"}
    assert told == set(COMMANDS)
    assert [word.strip() for word in after("passk ")] == [*COMMANDS, "--help", "--version"]
    assert "__complete" not in HELP
    assert after("passk tra") == ["train "]
    assert after("passk unknown x") == []


REGIMES = ["adaptive_k", "curriculum", "hybrid", "pass1", "passk", "projected", "sft"]
CASES = {
    "passk train regime=": [f"regime={name} " for name in REGIMES],
    "passk train -m regime=sft,p": [f"regime=sft,{n}" for n in REGIMES if n.startswith("p")],
    "passk train regime.p": ["regime.pass1_weight=", "regime.preconditioned="],
    "passk train regime=hybrid regime.estimator=s_": [
        "regime.estimator=s_loo ",
        "regime.estimator=s_loo_minus_1 ",
    ],
    "passk train r": ["rollout.", "regime.", "resume=", "regime=", "rollout="],
    "passk train data.cu": ["data.cue="],
    "passk train data=gsm8k data.cu": [],
    "passk train data=gsm8k data.so": ["data.solution_column="],
    "passk train data.prompt.st": ["data.prompt.style=", "data.prompt.stop="],
    "passk train data.prompt.style=c": ["data.prompt.style=chat "],
    "passk train data.prompt.chat": [],
    "passk train resume=": ["resume=true ", "resume=false "],
    "passk train data.strip_calculations=": [
        "data.strip_calculations=true ",
        "data.strip_calculations=false ",
    ],
    "passk train data.gold_in=": [
        f"data.gold_in={name} " for name in ("whole", "after_hash", "in_box")
    ],
    "passk train regime.k=": [],
    "passk train --": ["--help ", "--cfg ", "--multirun ", "--resume "],
    "passk diagnose --r": [],
    "passk train --cfg ": ["job ", "hydra ", "all "],
    "passk filter checkpoint=": ["checkpoint=last ", "checkpoint=best ", "checkpoint=all "],
    "passk eval regime": [],
    "passk train hydra/l": ["hydra/launcher="],
    "passk train hydra/launcher=b": ["hydra/launcher=basic "],
    "passk train model.path=tin": ["model.path=tiny "],
    "passk explain explain.": ["explain.p=", "explain.compare="],
    "passk completion ": ["bash ", "zsh ", "fish "],
    "passk sweep ": ["status "],
}


@pytest.mark.parametrize("line", CASES)
def test_words(line):
    assert after(line) == CASES[line]


@pytest.fixture
def files(tmp_path, monkeypatch):
    for name in ("outputs/run-1/eval", "outputs/k=2,w=0.5", "my data", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "my data" / "train.jsonl").touch()
    (tmp_path / "outputs" / "notes.txt").touch()
    (tmp_path / ".hidden").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_and_files(files):
    assert after("passk eval run=o") == ["run=other/", "run=outputs/"]
    assert after("passk eval run=outputs/r") == ["run=outputs/run-1/"]
    assert after("passk eval run=outputs/n") == []
    assert after("passk train data.path=outputs/n") == ["data.path=outputs/notes.txt "]
    assert after("passk train run=nowhere/x") == []
    assert after("passk eval run=.h") == ["run=.hidden/"]
    assert after("passk report ot") == ["out=", "other/", "outputs/"][1:2]
    assert after("passk compare outputs/n") == ["outputs/notes.txt "]
    assert after("passk sweep status outp") == ["outputs/"]


# What the shells do


def in_bash(line: str, cwd: Path, setup: str = "") -> list[str]:
    """COMPREPLY after the Tab key at the end of `line`, in a bash that read our script."""
    program = f'passk() {{ "{sys.executable}" -m passk "$@"; }}\n{SCRIPTS["bash"]}\n{setup}\n'
    program += (
        "COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n"
    )
    program += "_passk_complete passk; printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p passk"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", program, "bash", line],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    *replies, rule = done.stdout.splitlines()
    assert rule == "complete -o nospace -F _passk_complete passk"
    return [reply for reply in replies if reply]


def test_bash(files):
    assert in_bash("passk tra", files) == ["train "]
    # Bash replaces what comes after its last word break, of which = is one.
    assert in_bash("passk train regime=hy", files) == ["hybrid "]
    assert in_bash("passk train regime=hy", files, "COMP_WORDBREAKS=' '") == ["regime=hybrid "]
    assert in_bash("passk train regime.tr", files) == ["regime.trigger="]
    assert in_bash("passk train data.path=my", files) == [r"my\ data/"]
    assert in_bash(r"passk train data.path=my\ data/t", files) == [r"my\ data/train.jsonl "]
    assert in_bash("passk train 'data.path=my data/t", files) == ["data.path=my data/train.jsonl"]
    assert in_bash("passk train data.path='my data/t", files) == ["my data/train.jsonl"]


def test_a_cell_of_a_sweep_is_offered_as_bash_and_hydra_read_it(files, passk, monkeypatch):
    (offered,) = in_bash("passk eval run=outputs/k", files)
    monkeypatch.chdir(files)
    echoed = subprocess.run(
        ["bash", "-c", f"printf %s run={offered}"], capture_output=True, text=True, check=True
    )
    assert_refused(passk("eval", echoed.stdout), "outputs/k=2,w=0.5", "config.yaml")


@pytest.mark.parametrize("shell", [shell for shell in SCRIPTS if shutil.which(shell)])
def test_the_script_is_of_its_shell(passk, shell):
    outcome = passk("completion", shell)
    assert (outcome.code, outcome.err) == (0, "")
    subprocess.run([shell, "-n"], input=outcome.out, text=True, check=True)


def test_other_shells_are_refused(passk):
    assert_refused(passk("completion", "tcsh"), "bash, zsh, fish")
    assert_refused(passk("completion"), "bash, zsh, fish")


def test_fish_gets_words_without_escapes(files):
    words = [sys.executable, "-m", "passk", "__complete", "fish", "passk train data.path=my"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "data.path=my data/\n"


def test_the_answer_is_quick_and_needs_neither_hydra_nor_torch():
    code = (
        "import sys, passk.__main__ as entry; "
        "sys.argv[1:] = ['__complete', 'fish', 'passk train re']; entry.main(); "
        "print([m for m in ('torch', 'hydra', 'numpy') if m in sys.modules])"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["regime.", "resume=", "regime=", "[]"]
    assert time.monotonic() - begin < 5, "a tenth of a second where nothing else runs"
