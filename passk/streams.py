"""Standard input and output as passk needs them: open, and able to take any text."""

import codecs
import io
import os
import sys
from collections.abc import Mapping, Sequence

from passk.errors import UserError


def open_streams() -> None:
    """Give this process the standard streams that it was started without, as by `>&-`.

    What they would have shown goes nowhere. Files that are opened later cannot get their numbers,
    under which libraries would print into them.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            raw = io.FileIO(number, "w" if number else "r", closefd=False)
            buffered = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
            text = io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace")
            setattr(sys, name, text)
        elif number and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # text of a model may be anything


def restart_in_utf8(environment: Mapping[str, str]) -> None:
    """Start this program again where names of files could only be ASCII, as by LC_ALL=C."""
    is_ascii = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if is_ascii and environment.get("PYTHONUTF8") != "1":
        words = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, words, {**environment, "PYTHONUTF8": "1"})


def check_words(words: Sequence[str]) -> None:
    """Refuse words of the command line that are not UTF-8."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{word!a} is not UTF-8: rename what it names, or write it as UTF-8"
            ) from None


def lose_output() -> None:
    """Print no more: nobody reads it, or there is no room. Python's own end would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
