r"""Find the final answer in a completion, in time linear in the text, whatever a model wrote."""

import re
from collections.abc import Callable, Sequence

from passk.config.schema import ANSWER_PLACES

MAX_ANSWER_CHARS = 1000  # longer text is no answer: gold answers of MATH have at most 160

# The opening of a box, an escaped character (which is not a brace), or a brace.
_BOX_TOKEN = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
# TeX needs no braces around one token; a command extends to the end of the formula.
_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)(?:\s+(?=[-.0-9A-Za-z])|\s*(?=\\[A-Za-z]))"
    r"(-?[0-9A-Za-z]*(?:\.\d+)?(?:\\[A-Za-z][^$\n]*)?)"
)
# Blanks, punctuation, the ends of mathematics mode, "and", "or", and the next box's `x =`.
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$,;.&*]|\\[()\[\],;: ]|\\q?quad(?![A-Za-z])"
    r"|\\text\s*\{[^{}]{0,40}?(?<![a-z])(?:and|or)\s*\}"
    r"|(?<![A-Za-z])[a-z]{3,20} (?:and|or)(?![A-Za-z])"
    r"|(?<![A-Za-z])(?:and|or)(?![A-Za-z])|(?<![A-Za-z])[A-Za-z](?:_\{?\w\}?)?\s*=)*+"
)

# At most eight groups of three: without a bound a long run of them would take quadratic time.
_POINT, _COMMA = "[.\N{ARABIC DECIMAL SEPARATOR}]", "[,\N{ARABIC THOUSANDS SEPARATOR}]"
_UNSIGNED = (
    rf"(?:\d{{1,3}}(?:{_COMMA}\d{{3}}){{1,8}}(?![\d,])(?:{_POINT}\d+)?"
    rf"|\d+(?:{_POINT}\d+)?|{_POINT}\d+)(?:[eE][-+]?\d+(?!\w))?"
)
_NUMBER_IN_TEXT = re.compile(
    # A minus is a sign unless it follows something to subtract from.
    rf"(?:(?<![\w.)}}\]])[-\u2212]\s?)?(?:\\?[$£€]\s?-?)?"
    rf"(?:\\[dtc]?frac\s*\{{-?\d+\}}\s*\{{\d+\}}|{_UNSIGNED}(?:\s\d+/\d+|\s?/\s?\d+(?!\d|\.\d))?)"
    r"(?:\s?\\?%)?"
)


def find_answer(
    text: str, places: Sequence[str], reads_as: Callable[[str], str] = str
) -> str | None:
    r"""Find the final answer as it is written, in the first of `places` that holds one.

    `boxed`: the last `\boxed{}` or `\fbox{}` with balanced braces; boxes joined only by "and", "or"
    and commas are one answer, and those that `reads_as` maps to the same text count once. `hash`:
    the text after the last `####` in its line, without emphasis, an end token and a final bracket
    of words; a Markdown heading (`#### Final Answer`) does not count. `last_line`: the last line
    that is not empty. `last_number`: the last number, with its sign, fraction, currency and percent
    sign. Return None if there is no answer, or if it is longer than MAX_ANSWER_CHARS.
    """
    finders = dict(
        zip(ANSWER_PLACES, (last_box, _after_hash, _last_line, _last_number), strict=True)
    )
    for place in places:
        found = last_box(text, reads_as) if place == "boxed" else finders[place](text)
        if found and found.strip():
            return found.strip() if len(found) <= MAX_ANSWER_CHARS else None
    return None


def last_box(text: str, reads_as: Callable[[str], str] = str) -> str | None:
    r"""Return the content of the last `\boxed{}` that is not empty, with balanced braces.

    Boxes that belong together are joined; those that `reads_as` maps to the same text count once.

    Example:
        last_box(r"so $x=\boxed{2}$ or $\boxed{\frac{1}{2}}$") == r"2, \frac{1}{2}"
    """
    boxes = _outer_boxes(text)
    if not boxes:
        bare = [found.strip() for found in _BARE_BOX.findall(text)]
        return next((found for found in reversed(bare) if found), None)
    filled = [box for box in boxes if box[1].strip()]
    if not filled:
        return None
    opened, content, _ = filled[-1]
    contents = [content.strip()]
    for earlier_opened, content, closed in reversed(filled[:-1]):
        if not _BETWEEN_BOXES.fullmatch(text, closed, opened):
            break
        opened = earlier_opened
        contents.append(content.strip())
    if sum(map(len, contents)) > MAX_ANSWER_CHARS:
        reads_as = str  # not worth reading: text as long as this is no answer
    first: dict[str, str] = {}
    for content in reversed(contents):
        first.setdefault(reads_as(content), content)
    return ", ".join(first.values())


def _outer_boxes(text: str) -> list[tuple[int, str, int]]:
    """Return (start, content, end) of every closed box that is not inside another, in order."""
    boxes: list[tuple[int, str, int]] = []
    opened: list[re.Match[str]] = []
    for token in _BOX_TOKEN.finditer(text):
        if token[0][-1] == "{" and token[0] != r"\{":
            opened.append(token)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start[0] != "{":
                while boxes and boxes[-1][0] > start.start():  # they are inside this one
                    boxes.pop()
                boxes.append((start.start(), text[start.end() : token.start()], token.end()))
    return boxes


_MARK = re.compile(r"#{4,}(?P<line>[^\n#]*(?:#{1,3}[^\n#]+)*)")
_LABEL = re.compile(r"\A(?:the\s+)?(?:final\s+)?answer\s*(?:is\b\s*:?|:)\s*", re.IGNORECASE)
_HEADING = re.compile(
    r"(?:the\s+)?(?:final\s+)?(?:answer|solution|conclusion|result|summary|explanation|reasoning"
    r"|verification|calculations?|check|notes?|approach|method|problem|question|given"
    r"|(?:step|part|case)\s+(?:\d+|[a-z]))\s*(?:[:.].*)?\Z",
    re.IGNORECASE,
)
_NOT_BLANK = re.compile(r"\s*+(?=\S)")
_END_TOKEN = re.compile(r"<\|[a-z_]{1,40}\|>|</s>")  # present if special tokens are kept


def _after_hash(text: str) -> str | None:
    for mark in reversed(list(_MARK.finditer(text))):
        line = _END_TOKEN.split(mark["line"], maxsplit=1)[0].replace("**", "").strip()
        line = _LABEL.sub("", line)
        if line and not _is_heading(line, text, mark.end()):
            return re.sub(r"(?<=\d)\s+\([A-Za-z -]+\)$", "", line)
    return None


def _is_heading(line: str, text: str, end: int) -> bool:
    """Return True if a line after `####` is a Markdown heading: a title, or words above text."""
    if _HEADING.match(line) or line.endswith(":"):
        return True
    are_words = " " in line and line.replace(" ", "").isalpha()
    return are_words and _NOT_BLANK.match(text, end) is not None


def _last_line(text: str) -> str | None:
    return text.strip().rpartition("\n")[2]


def _last_number(text: str) -> str | None:
    found = _NUMBER_IN_TEXT.findall(text)
    return found[-1] if found else None
