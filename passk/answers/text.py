r"""Finds the final answer in a completion, and writes it in one spelling of LaTeX.

Everything here takes time linear in the text, whatever a model wrote.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

PLACES = ("boxed", "hash", "last_line", "last_number")
MAX_ANSWER_CHARS = 1000  # a longer answer is none: gold answers of MATH have 160 at most

# A box opens, an escaped character (which no brace is), or a brace.
_BOX_TOKEN = re.compile(r"\\f?box(?:ed)?\s*\{|\\.|[{}]", re.DOTALL)
# TeX needs no braces around one token; a command goes on to the end of the formula.
_BARE_BOX = re.compile(
    r"\\(?:boxed|fbox)(?:\s+(?=[-.0-9A-Za-z])|\s*(?=\\[A-Za-z]))"
    r"(-?[0-9A-Za-z]*(?:\.\d+)?(?:\\[A-Za-z][^$\n]*)?)"
)
_BETWEEN_BOXES = re.compile(
    r"[\s$,;.]*(?:(?:and|or|\\text\s*\{\s*(?:and|or)\s*\})[\s$,]*(?:[A-Za-z]\s*=\s*)?)?"
)

# At most eight groups of three: without a bound a long run of them would take quadratic time.
_UNSIGNED = r"(?:\d{1,3}(?:,\d{3}){1,8}(?![\d,])(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
_NUMBER_IN_TEXT = re.compile(
    # A minus is a sign unless something to subtract from stands before it.
    rf"(?:(?<![\w.)}}\]])[-\u2212]\s?)?(?:\\?[$£€]\s?-?)?"
    rf"(?:\\[dtc]?frac\s*\{{-?\d+\}}\s*\{{\d+\}}|{_UNSIGNED}(?:\s\d+/\d+|\s?/\s?\d+(?!\d|\.\d))?)"
    r"(?:\s?\\?%)?"
)


def find_answer(
    text: str, places: Sequence[str], reads_as: Callable[[str], str] = str
) -> str | None:
    r"""The final answer as it is written, from the first of `places` that holds one.

    `boxed`: the last `\boxed{}` or `\fbox{}` with balanced braces; boxes joined by nothing but
    "and", "or" and commas are one answer, `reads_as` telling which say the same. `hash`: what
    follows the last `####` in its line, without emphasis, an end token and a last bracket of words.
    `last_line`: the last line that is not empty. `last_number`: the last number, with its sign,
    fraction, currency and percent sign. None where there is no answer, or only a very long one.
    """
    finders = dict(zip(PLACES, (last_box, _after_hash, _last_line, _last_number), strict=True))
    for place in places:
        found = last_box(text, reads_as) if place == "boxed" else finders[place](text)
        if found and found.strip():
            return found.strip() if len(found) <= MAX_ANSWER_CHARS else None
    return None


def last_box(text: str, reads_as: Callable[[str], str] = str) -> str | None:
    r"""What stands in the last `\boxed{}` that is not empty, braces balanced.

    Boxes that belong together are joined, each of those that `reads_as` makes the same once.

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
        reads_as = str  # not worth reading: an answer as long as this is none
    first: dict[str, str] = {}
    for content in reversed(contents):
        first.setdefault(reads_as(content), content)
    return ", ".join(first.values())


def _outer_boxes(text: str) -> list[tuple[int, str, int]]:
    """(start, content, end) of every closed box that stands in no other, in order."""
    boxes: list[tuple[int, str, int]] = []
    opened: list[re.Match[str]] = []
    for token in _BOX_TOKEN.finditer(text):
        if token[0][-1] == "{" and token[0] != r"\{":
            opened.append(token)
        elif token[0] == "}" and opened:
            start = opened.pop()
            if start[0] != "{":
                while boxes and boxes[-1][0] > start.start():  # they stand in this one
                    boxes.pop()
                boxes.append((start.start(), text[start.end() : token.start()], token.end()))
    return boxes


_END_TOKEN = re.compile(r"<\|[a-z_]{1,40}\|>|</s>")  # left in where special tokens are kept


def _after_hash(text: str) -> str | None:
    _, mark, rest = text.rpartition("####")
    line = _END_TOKEN.split(rest.split("\n", 1)[0], maxsplit=1)[0].replace("**", "").strip()
    return re.sub(r"(?<=\d)\s+\([A-Za-z -]+\)$", "", line) if mark else None


def _last_line(text: str) -> str | None:
    return text.strip().rpartition("\n")[2]


def _last_number(text: str) -> str | None:
    found = _NUMBER_IN_TEXT.findall(text)
    return found[-1] if found else None


_CHARACTERS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\N{MULTIPLICATION SIGN}": r"\times ",
        "·": r"\cdot ",
        "÷": "/",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "±": r"\pm ",
        "\N{UNION}": r"\cup ",
        "∈": r"\in ",
        "°": r"^\circ ",
        "√": r"\sqrt ",
        "\u00a0": " ",
        "~": " ",
    }
)
_SCRIPT = re.compile("(?P<above>[⁻⁰¹²³⁴-⁹]+)|(?P<below>[₀-₉]+)|(?P<fraction>[¼-¾⅐-⅞])")
# Fonts, which say nothing; their braces go, too.
_STYLE_TOKEN = re.compile(
    r"(?P<style>\\(?:mathbf|mathrm|boldsymbol|bm|rm|bf)(?![A-Za-z])\s*)(?P<brace>\{?)|\\.|[{}]"
)
_ROMAN_UNIT = re.compile(r"(?<=[\d})%])((?:\s|\\[,;: !]|~)*)\\(?:mathrm|rm)\s*\{([A-Za-z\s./^]*)\}")
_TAKES_ARGUMENT = re.compile(r"(?:[\^_}]|\\[A-Za-z]+)\s*\Z")
# What TeX takes as one argument without braces, and a short exponent.
_TOKEN = r"\\(?!sqrt|frac|left|[dtc]frac|text)[A-Za-z]+|[0-9A-Za-z]"
_EXPONENT = r"(?:\d|\{-?\d+\})"
# In order. Spacing and sizes say nothing; one name for each command that has several.
_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\begin\{[bvBV]matrix\}|\\begin\{array\}\s*\{[^{}]*\}", r"\\begin{pmatrix}"),
        (r"\\end\{(?:[bvBV]matrix|array)\}", r"\\end{pmatrix}"),
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![A-Za-z])\.?", ""),
        (r"\\!|\\phantom\s*(?:\{[^{}]*\}|-)|\{\}", ""),
        (r"(?<=\d)\\,(?=\d{3}(?!\d))", ""),  # 1\,000
        (r"(?<=\d)\{,\}(?=\d)", ","),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (rf"\\frac\s*({_TOKEN})", r"\\frac{\1}"),
        (rf"(\\frac\s*\{{[^{{}}]*\}})\s*({_TOKEN})", r"\1{\2}"),
        (rf"(\\(?:sin|cos|tan|sec|csc|cot|log|ln)\s?\^\s?{_EXPONENT})\s?({_TOKEN})", r"\1{\2}"),
        (r"\\(?:text(?:bf|it|rm|normal)?|mbox|hbox)\s*\{", r"\\text{"),
        (r"(?<![A-Za-z\\])sqrt\s*(?=[({])", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s+(\d+)", r"\\sqrt{\1}"),  # √12, where TeX would take the 1 alone
        (r"\\leq(?![A-Za-z])|\\leqslant(?![A-Za-z])|<=", r"\\le "),
        (r"\\geq(?![A-Za-z])|\\geqslant(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])", r"\\ne "),
        (r"\\(?:simeq|sim)(?![A-Za-z])|\\approx(?![A-Za-z])", r"\\approx "),
        (r"\^\s*\{?\s*\\(?:circ|degree)(?![A-Za-z])\s*\}?|\\degree(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),  # 12^{\text{th}}
        (r"\^\s*\{\s*(?:st|nd|rd|th)\s*\}", ""),
        (r"(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])", ""),
        (r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<=[\s\d)}$]),?\s(?:and|or)\s(?=[\s\d(\\$-])", " , "),
        (r"\\\$|[$£€]", ""),
        (r"\\%", "%"),
        (r"(?<!\\)\\[\[\]()]", ""),  # mathematics mode
        (r",(?:\s*,)+", ","),  # 2, 3, and 4
        (r"\s+", " "),
    )
)


def _in_plain_characters(text: str) -> str:
    """Without compatibility forms, whose scripts and fractions say something, and zero widths."""
    if text.isascii():
        return text.replace("~", " ")
    text = _SCRIPT.sub(_as_latex, text)
    text = "".join(
        c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf"
    )
    return text.translate(_CHARACTERS)


def _as_latex(found: re.Match[str]) -> str:
    plain = unicodedata.normalize("NFKC", found[0])
    if found["fraction"]:
        over, _, under = plain.partition("\N{FRACTION SLASH}")
        return rf"\frac{{{over}}}{{{under}}}"
    return f"{'^' if found['above'] else '_'}{{{plain}}}"


def _without_styles(text: str) -> str:
    r"""`x + 1` for `\mathbf{x + 1}`; only a roman unit after a number becomes `\text{}`."""
    text = _ROMAN_UNIT.sub(r"\1\\text{\2}", text)
    written, closing, place = "", [], 0
    for token in _STYLE_TOKEN.finditer(text):
        written += text[place : token.start()]
        place = token.end()
        if token["style"]:
            keeps_braces = token["brace"] and _TAKES_ARGUMENT.search(written[-40:])
            written += "{" if keeps_braces else "" if token["brace"] else " "
            if token["brace"]:
                closing.append("}" if keeps_braces else "")
        elif token[0] == "}":
            written += closing.pop() if closing else "}"
        else:
            written += token[0]
            if token[0] == "{":
                closing.append("}")
    return written + text[place:]


def normalise_latex(text: str) -> str:
    r"""The same answer in one spelling: `\dfrac12`, `\frac 12` and `½` become `\frac{1}{2}`.

    Mathematics mode, spacing, sizes, currency and the endings of ordinals go; percent signs,
    degrees and `\text{}` stay, because they can decide.
    """
    text = _in_plain_characters(text)
    box = last_box(text)
    text = _without_styles(text if box is None else box)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text.strip().removesuffix(",").removesuffix(".").strip()
