"""Command lines as text: what a shell and Hydra read back as the words that they were."""

import re
import shlex
from collections.abc import Collection, Sequence
from os.path import exists, expanduser

_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}  # backslash first
_BARE = re.compile(r"[A-Za-z0-9_./$%*@?|+-]+")  # what Hydra's grammar takes without quotes
_ESCAPED = re.compile(r"\\([\\()\[\]{}:=, \t])")  # and with a backslash
_SWEEP_FUNCTION = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(.*\)", re.DOTALL)
_HOME = re.compile(r"""((?:^|,)["']?)(~[^/,"']*)(?=[/,"']|$)""")


def one_line(words: Sequence[str]) -> str:
    """The words for a shell, on one line: a table keeps no line breaks."""
    return " ".join(_quoted(word) for word in words)


def as_value(name: str) -> str:
    """A name as an override's value: in quotes where Hydra would not read it bare."""
    return name if _is_read_bare(name) else in_quotes(name)


def in_quotes(text: str) -> str:
    """The text in double quotes, as Hydra reads them: only a quote needs a backslash.

    A backslash is itself unless it stands before a quote; those are doubled.
    """
    escaped = re.sub(r'(\\*)("|\Z)', _escaped, text)
    return f'"{escaped}"'


def without_quotes(value: str) -> str:
    """What `in_quotes` was given; any other value as it is."""
    if not _is_quoted(value):
        return value
    return re.sub(rf"\\+(?:{value[0]}|\Z)", lambda found: found[0][1::2], value[1:-1])


def with_home(word: str, paths: Collection[str]) -> str:
    """An override of a key that takes a path, with `~` and `~user` as the folders they mean.

    No shell does that behind the sign of equality, nor in quotes.
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
    """An override of a key that takes a text, such as a path, in quotes where Hydra needs them.

    `SWEEP/regime.k=2,regime.pass1_weight=0.5` is a directory that exists: it should be typed as it
    is. In a sweep a comma stands between values, unless the whole is a path that is there. What
    has quotes, an interpolation or a function of Hydra's grammar is left alone; a backslash before
    one of its signs is taken for the escape that the grammar knows.
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
    """Whether Hydra takes a bare text for this text, not for a sign, a number, a switch or null."""
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
    """As `shlex.quote`, but with the escapes of bash where a word holds white space but blanks."""
    if not re.search(r"[^\S ]", word):
        return shlex.quote(word)
    for letter, escape in _ESCAPES.items():
        word = word.replace(letter, escape)
    return f"$'{word}'"
