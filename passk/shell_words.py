"""Command lines as text: what a shell and Hydra read back as the words that they were."""

import json
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}  # backslash first


def one_line(words: Sequence[str]) -> str:
    """The words for a shell, on one line: a table keeps no line breaks."""
    return " ".join(_quoted(word) for word in words)


def as_value(name: str) -> str:
    """A name as an override's value: in quotes where it holds more than Hydra takes bare."""
    return name if re.fullmatch(r"[\w./-]+", name) else json.dumps(name, ensure_ascii=False)


def with_quotes(word: str, texts: Collection[str], is_sweep: bool) -> str:
    """An override of a key that takes a text, such as a path, in quotes where Hydra needs them.

    `SWEEP/regime.k=2,regime.pass1_weight=0.5` is a directory that exists: it should be typed as it
    is. In a sweep a comma stands between values, unless the whole is a path that is there.
    """
    key, _, value = word.partition("=")
    is_bare = value not in ("", "null") and value[0] not in "\"'" and "\\" not in value
    needs = "= " if is_sweep else "=, "
    if key.lstrip("+") not in texts or not is_bare or not set(needs) & set(value):
        return word
    is_list = is_sweep and not Path(value).exists()
    values = value.split(",") if is_list else [value]
    return f"{key}={','.join(json.dumps(text, ensure_ascii=False) for text in values)}"


def _quoted(word: str) -> str:
    """As `shlex.quote`, but with the escapes of bash where a word holds white space but blanks."""
    if not re.search(r"[^\S ]", word):
        return shlex.quote(word)
    for letter, escape in _ESCAPES.items():
        word = word.replace(letter, escape)
    return f"$'{word}'"
