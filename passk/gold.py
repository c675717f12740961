"""The final answer that stands inside a text, as data sets write it: after #### or in a box."""

import re

from passk.answers.reader import reads_as
from passk.answers.text import last_box

_CALCULATION = re.compile(r"<<[^<>\n]*=[^<>\n]*>>")


def find_gold(text: str, gold_in: str) -> str | None:
    """The answer in `text`, None where there is none.

    `gold_in` is `whole` (all of it), `after_hash` (what follows the last ####) or `in_box` (found
    as in a completion, see `answers.text.last_box`).

    Example:
        find_gold("48/2 = 24, 48+24 = 72\\n#### 72", "after_hash")  # "72"
    """
    if gold_in == "whole":
        return text if text.strip() else None
    if gold_in == "after_hash":
        _, mark, answer = text.rpartition("####")
        return (answer.strip() or None) if mark else None
    return last_box(text, reads_as)


def without_calculations(solution: str) -> str:
    """A worked solution of GSM8K without its calculator annotations (`<<48/2=24>>`)."""
    return _CALCULATION.sub("", solution)
