"""Quote words of a command line for the shell and for Hydra, and undo it."""

import re
import shlex
from collections.abc import Collection, Sequence
from os.path import exists, expanduser

_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}  # backslash first
_BARE = re.compile(r"[A-Za-z0-9_./$%*@?|+-]+")  # text that Hydra's grammar takes without quotes
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # signs that it takes after a backslash
_SWEEP_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
_HOME = re.compile(r"""((?:^|,)["']?)(~[^/,"']*)(?=[/,"']|$)""")


def one_line(words: Sequence[str]) -> str:
    """Join words for a shell, on one line, since a table keeps no line breaks."""
    return " ".join(_quoted(word) for word in words)


def as_value(name: str) -> str:
    """Return a name as an override's value, in quotes if Hydra would not read it bare."""
    return name if _is_read_bare(name) else in_quotes(name)


def in_quotes(text: str) -> str:
    """Return the text in double quotes, as Hydra reads them: only a quote needs a backslash.

    Hydra keeps backslashes as they are, except before a quote; those are doubled.
    """
    escaped = re.sub(r'(\\*)("|\Z)', _escaped, text)
    return f'"{escaped}"'


def without_quotes(value: str) -> str:
    """Undo `in_quotes`; return a value without quotes as it is."""
    if not _is_quoted(value):
        return value
    return re.sub(rf"\\+(?:{value[0]}|\Z)", lambda found: found[0][1::2], value[1:-1])


def with_home(word: str, paths: Collection[str]) -> str:
    """Expand `~` and `~user` in an override, if its key is one of `paths`.

    No shell expands them after an equals sign or in quotes.
    """
    key, sign, value = word.partition("=")
    if key.lstrip("+") not in paths or "~" not in value:
        return word
    return key + sign + _HOME.sub(lambda found: found[1] + _home(found[2]), value)


def _home(place: str) -> str:
    try:
        return expanduser(place)
    except ValueError:  # no user can have such a name: it holds NUL or half a character
        return place


def with_quotes(word: str, texts: Collection[str], is_sweep: bool) -> str:
    """Quote an override's value where Hydra needs quotes, if its key is one of `texts`.

    A user may type a path such as `SWEEP/regime.k=2,regime.pass1_weight=0.5` as it is. In a sweep
    a comma separates values, unless the whole value is a path that exists. A value with quotes, an
    interpolation or, in a sweep, a function of Hydra's grammar is left as it is. A backslash
    before one of the grammar's signs is read as an escape, unless the text is a path that exists.
    """
    key, sign, value = word.partition("=")
    is_hydras = is_sweep and _SWEEP_FUNCTION.fullmatch(value) is not None
    if key.lstrip("+") not in texts or value in ("", "null") or "${" in value or is_hydras:
        return word
    is_list = is_sweep and not exists(value)
    values = re.split(r"(?<!\\),", value) if is_list else [value]
    if any(_is_quoted(text) for text in values):
        return word
    plain = [text if exists(text) else _ESCAPED.sub(r"\1", text) for text in values]
    return key + sign + ",".join(map(as_value, plain))


def _is_read_bare(text: str) -> bool:
    """Return True if Hydra reads a bare text as this text, not as a sign, number, bool or null."""
    if not _BARE.fullmatch(text) or text.lower() in ("true", "false", "null"):
        return False
    try:
        return str(int(text)) == text
    except ValueError:
        pass
    try:
        float(text)
    except ValueError:
        return True
    return False


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] in "\"'" and value[-1] == value[0]


def _escaped(found: re.Match[str]) -> str:
    return found[1] * 2 + (r"\"" if found[2] else "")


def _quoted(word: str) -> str:
    """Quote as `shlex.quote` does, but use bash escapes for white space other than blanks."""
    if not re.search(r"[^\S ]", word):
        return shlex.quote(word)
    for letter, escape in _ESCAPES.items():
        word = word.replace(letter, escape)
    return f"$'{word}'"
