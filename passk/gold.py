"""The final answer that stands inside a text, as data sets write it: after #### or in a box."""

import re

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_CALCULATION = re.compile(r"<<[^<>\n]*=[^<>\n]*>>")


def find_gold(text: str, gold_in: str) -> str | None:
    """The answer in `text`, None where there is none.

    `gold_in` is `whole` (all of it), `after_hash` (what follows the last ####) or `in_box` (see
    `last_box`).

    Example:
        find_gold("48/2 = 24, 48+24 = 72\\n#### 72", "after_hash")  # "72"
    """
    if gold_in == "whole":
        return text if text.strip() else None
    if gold_in == "after_hash":
        _, mark, answer = text.rpartition("####")
        return (answer.strip() or None) if mark else None
    return last_box(text)


def last_box(text: str) -> str | None:
    r"""The content of the last \boxed{...} or \fbox{...}, None where there is none or an empty one.

    Braces may be nested and, behind a backslash, be signs (`\{`). Without braces (`\boxed 5$`) the
    answer goes on to the end of the formula or the line. Linear in the length of the text.
    """
    last = None
    for last in _BOX.finditer(text):  # noqa: B007
        pass
    if last is None:
        return None
    rest = text[last.end() :]
    if not rest.startswith("{"):
        return re.split(r"[$\n]", rest, maxsplit=1)[0].strip() or None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", rest, flags=re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return rest[1 : brace.start()].strip() or None
    return None


def without_calculations(solution: str) -> str:
    """A worked solution of GSM8K without its calculator annotations (`<<48/2=24>>`)."""
    return _CALCULATION.sub("", solution)
