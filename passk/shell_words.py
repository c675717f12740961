"""Command lines as text: what a shell and Hydra read back as the words that they were."""

import json
import re
import shlex
from collections.abc import Sequence

_ESCAPES = {"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"}  # backslash first


def one_line(words: Sequence[str]) -> str:
    """The words for a shell, on one line: a table keeps no line breaks."""
    return " ".join(_quoted(word) for word in words)


def as_value(name: str) -> str:
    """A name as an override's value: in quotes where it holds more than Hydra takes bare."""
    return name if re.fullmatch(r"[\w./-]+", name) else json.dumps(name, ensure_ascii=False)


def _quoted(word: str) -> str:
    """As `shlex.quote`, but with the escapes of bash where a word holds white space but blanks."""
    if not re.search(r"[^\S ]", word):
        return shlex.quote(word)
    for letter, escape in _ESCAPES.items():
        word = word.replace(letter, escape)
    return f"$'{word}'"
