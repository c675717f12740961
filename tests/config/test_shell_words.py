"""Paths and texts arrive as they were typed, whatever Hydra's grammar makes of their signs."""

import shlex
import subprocess
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from passk.config.registry import SCHEMAS, text_keys
from passk.config.words import as_value, in_quotes, one_line, with_home, with_quotes, without_quotes
from passk.runs.ledger import as_name

PARSER = OverridesParser.create()
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
SIGNS = st.text(st.sampled_from("ab0.\\\"'(){}[]#&~ ,=:;!<>é中\t\n$%*@?|+-/_1eE"), min_size=1)


def read(word):
    """The text that Hydra takes from an override."""
    return str(PARSER.parse_override(word).value())


@given(TEXT | SIGNS)
def test_hydra_reads_what_as_value_wrote(text):
    assert read(f"key={as_value(text)}") == text
    assert without_quotes(in_quotes(text)) == text


@given(SIGNS.filter(lambda text: not text.startswith(("'", '"')) and "\\" not in text))
def test_a_text_is_typed_as_it_is(text):
    """But for null, an interpolation, and quotes or escapes of the user's own."""
    if text != "null" and "${" not in text:
        assert read(with_quotes(f"data.path={text}", ("data.path",), is_sweep=False)) == text


@pytest.mark.parametrize(
    "name",
    [
        *("läufe", "run(1)", "a#b", "O'Neill", "a&b", "a[1]", "a;b", "a!b", "a<b", "{x}", "実験"),
        *("007", "1e5", "true", "NaN", "1_000", "a: b", " a", "a\nb", 'say "hi"', "a\\", "\\'"),
        *("a%20b", "$HOME", "*.jsonl", "@x", "-1", "+x", "a\tb", "x=y", "k=1,w=2", "ﬁ", "🙂"),
    ],
)
def test_paths_of_every_kind_reach_their_key(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for is_sweep in (False, True):  # a path that is there is one value in a sweep as well
        assert read(with_quotes(f"run={name}", ("run",), is_sweep)) == name


@pytest.mark.parametrize(
    ("word", "is_sweep", "expected"),
    [
        ("run=a/k=2,w=1", False, 'run="a/k=2,w=1"'),
        ("run=a/k=2,w=1", True, 'run="a/k=2,w=1"'),  # it is there
        ("run=a/k=2,a/k=4", True, 'run="a/k=2","a/k=4"'),
        ("+run=a b", False, '+run="a b"'),
        ("run=a,b", True, "run=a,b"),
        ("run=a,ä", True, 'run=a,"ä"'),
        ("run=a/k\\=2", False, 'run="a/k=2"'),  # as shell completion writes it
        ("run=a\\,b,c", True, 'run="a,b",c'),
        ("run='a=b'", False, "run='a=b'"),
        ("run=\"a=b\",'c d'", True, "run=\"a=b\",'c d'"),
        ("run=null", False, "run=null"),
        ("run=out/${now:%Y-%m}/ä", False, "run=out/${now:%Y-%m}/ä"),
        ("run=choice(a,b)", True, "run=choice(a,b)"),
        ("run=choice(a,b)", False, 'run="choice(a,b)"'),
        ("regime.k=[1,2]", False, "regime.k=[1,2]"),
    ],
)
def test_texts_are_quoted_where_hydra_needs_it(tmp_path, monkeypatch, word, is_sweep, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "k=2,w=1").mkdir(parents=True)
    assert with_quotes(word, ("run",), is_sweep) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("run=~/x", "run=HOME/x"),
        ("run=~", "run=HOME"),
        ('run="~/x"', 'run="HOME/x"'),
        ("run=~/x,~/y", "run=HOME/x,HOME/y"),
        ("run=\"~/x\",'~/y'", "run=\"HOME/x\",'HOME/y'"),
        ("run=a~b/~c", "run=a~b/~c"),
        ("run=~nobody-of-that-name/x", "run=~nobody-of-that-name/x"),
        ("run=~a\0b/x", "run=~a\0b/x"),
        ("run=~\ud800/x", "run=~\ud800/x"),
        ("+run=~/x", "+run=HOME/x"),
        ("data.prompt.instruction=~/x", "data.prompt.instruction=~/x"),
    ],
)
def test_home_is_meant_by_a_tilde(monkeypatch, word, expected):
    monkeypatch.setenv("HOME", "/home/o'neill")
    assert with_home(word, ("run",)) == expected.replace("HOME", "/home/o'neill")


def test_keys_that_take_texts():
    keys = text_keys("train")
    assert {"data.path", "data.eval_path", "model.path", "train.init_from"} <= keys
    assert {"data.prompt.instruction", "data.prompt.template", "data.prompt.system"} <= keys
    assert {"tracker.dir", "tracker.run_name", "hydra.run.dir", "hydra.sweep.dir"} <= keys
    assert not {"regime.k", "data.prompt.stop", "resume", "eval.ks", "learner.betas"} & keys
    assert all("hydra.run.dir" in text_keys(command) for command in SCHEMAS)


@given(TEXT)
def test_bash_reads_the_line_that_is_shown(text):
    line = one_line(["printf", "%s", f"x={as_value(text)}"])
    if "$'" not in line:  # an escape of bash
        assert shlex.split(line)[2] == f"x={as_value(text)}"


def test_bash_reads_line_breaks_and_tabs():
    word = 'data.prompt.template="a\n\tb\'s \\ c"'
    shown = subprocess.run(["bash", "-c", one_line(["printf", "%s", word])], capture_output=True)
    assert shown.stdout.decode() == word


@pytest.mark.parametrize("letter", ["a", "é", "中", "🙂", "\u0915\u093f"])
def test_cells_of_a_sweep_have_names_that_fit_a_file_system(tmp_path, letter):
    names = {as_name(f"data.prompt.instruction={letter * 200}{number}") for number in range(9)}
    assert len(names) == 9
    for name in names:
        file = Path(tmp_path / f".{name}''.json.partial")  # the longest that a ledger makes of it
        file.touch()
        assert file.exists() and "�" not in name
