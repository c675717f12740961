r"""Writes an answer in one spelling of LaTeX, in time linear in the text.

Two tables do the work: `_CHARACTERS` for single characters, `_SPELLINGS` for commands.
"""

import re
import unicodedata

from passk.answers.text import last_box

_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"),
    *("lambda", "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega"),
)
_GREEK_LETTERS = {
    unicodedata.lookup(f"GREEK {size} LETTER {name.upper().replace('LAMBDA', 'LAMDA')}"): (
        rf"\{name if size == 'SMALL' else name.capitalize()} "
    )
    for name in _GREEK
    for size in ("SMALL", "CAPITAL")
    if size == "SMALL"
    or name in ("gamma", "delta", "theta", "lambda", "xi", "pi", "sigma", "phi", "psi", "omega")
}
_CHARACTERS = _GREEK_LETTERS | {
    "\N{MINUS SIGN}": "-",
    "\N{EN DASH}": "-",
    "\N{HYPHEN}": "-",
    "\N{MULTIPLICATION SIGN}": r"\times ",
    "·": r"\cdot ",
    "\N{DOT OPERATOR}": r"\cdot ",
    "\N{ASTERISK OPERATOR}": "*",
    "÷": "/",
    "\N{FRACTION SLASH}": "/",
    "\N{RATIO}": ":",
    "∞": r"\infty ",
    "≤": r"\le ",
    "≥": r"\ge ",
    "≠": r"\ne ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "±": r"\pm ",
    "\N{UNION}": r"\cup ",
    "\N{INTERSECTION}": r"\cap ",
    "\N{SET MINUS}": r"\setminus ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "∠": r"\angle ",
    "°": r"^\circ ",
    "√": r"\sqrt ",
    "⟨": "(",
    "⟩": ")",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{PRIME}": "'",
    "\N{ARABIC DECIMAL SEPARATOR}": ".",
    "\N{ARABIC THOUSANDS SEPARATOR}": ",",
    "\N{ARABIC PERCENT SIGN}": "%",
    "\N{ARABIC COMMA}": ",",
    "\u00a0": " ",
    "~": " ",
}
# Letters with a double stroke, which would be plain ones otherwise.
_NUMBER_SETS = str.maketrans(
    {unicodedata.lookup(f"DOUBLE-STRUCK CAPITAL {name}"): rf"\mathbb{{{name}}}" for name in "RCQZN"}
)
_SCRIPT = re.compile("(?P<above>[⁻⁰¹²³⁴-⁹]+)|(?P<below>[₀-₉]+)|(?P<fraction>[¼-¾⅐-⅞])")
_OVERLINED = re.compile("((?:\\d\N{COMBINING OVERLINE})+)")
# Fonts and lines, which say nothing; their braces go, too.
_STYLE_TOKEN = re.compile(
    r"(?P<style>\\(?:math(?:bf|rm|it|sf|tt|normal)|boldsymbol|bm|pmb|rm|bf|underline|uline|emph"
    r"|ensuremath)(?![A-Za-z])\s*)(?P<brace>\{?)|\\.|[{}]"
)
_ROMAN_UNIT = re.compile(
    r"(?<=[\d})%])((?:\s|\\[,;: !]|~)*)\\(?:mathrm|rm)\s*"
    r"\{((?:[A-Za-z\s./*()~]|\^\s?(?:-?\d|\{-?\d\})|\\(?:cdot|Omega|mu)(?![A-Za-z])|\\[,;: !])*)\}"
)
_TAKES_ARGUMENT = re.compile(r"(?:[\^_}]|\\[A-Za-z]+)\s*\Z")
# What TeX takes as one argument without braces, and a short exponent.
_TOKEN = r"\\(?!sqrt|frac|left|[dtc]frac|text)[A-Za-z]+|[0-9A-Za-z]"
_EXPONENT = r"(?:\d|\{-?\d+\})"
_SIZES = (
    "[bB]igg?[lrm]?|displaystyle|textstyle|scriptstyle|limits|nolimits|tiny|scriptsize"
    "|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge"
)
# In order. Spacing, sizes and colours say nothing; one name for each command that has several.
_SPELLINGS = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\text\s*\{\s*\}", ""),
        (r"\\(?:text)?color\s*(?:\[[^\][]*\]\s*)?\{[^{}]*\}", ""),
        # A determinant, `vmatrix`, is no matrix.
        (r"\\left\s*\|\s*\\begin\{(?:array\}\s*\{[^{}]*\}|matrix\})", r"\\begin{vmatrix}"),
        (r"\\end\{(?:array|matrix)\}\s*\\right\s*\|", r"\\end{vmatrix}"),
        (r"\\begin\{(?:[bB]|small)?matrix\}|\\begin\{array\}\s*\{[^{}]*\}", r"\\begin{pmatrix}"),
        (r"\\end\{(?:(?:[bB]|small)?matrix|array)\}", r"\\end{pmatrix}"),
        (rf"\\(?:(?:left|right|middle)(?![A-Za-z])\.?|(?:{_SIZES})(?![A-Za-z]))", ""),
        (r"\\!\s*|\\phantom\s*(?:\{[^{}]*\}|-)|(?<!\\)\{\}", ""),
        (r"(?<=\d)(?:\{?\\[,;: ]\s*\}?)(?=\d{3}(?!\d))", ""),  # 1\,000
        (r"(?<=\d)\{,\}(?=\d)", ","),
        (r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])", " "),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (rf"\\frac\s*({_TOKEN})", r"\\frac{\1}"),
        (rf"(\\frac\s*\{{[^{{}}]*\}})\s*({_TOKEN})", r"\1{\2}"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (rf"\\binom\s*({_TOKEN})\s*({_TOKEN})", r"\\binom{\1}{\2}"),
        (r"\{([^{}\\]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"_\s?\{?(\w+)\}?\s?C\s?_\s?(?:\{(\w+)\}|(\w))", r"\\binom{\1}{\2\3}"),
        (r"\A\s*(\w+)\s*\\choose\s*(\w+)\s*\Z", r"\\binom{\1}{\2}"),
        (r"\\log_(\d\d+)", r"\\log_{\1}"),
        (rf"(\\(?:sin|cos|tan|sec|csc|cot|log|ln)\s?\^\s?{_EXPONENT})\s?({_TOKEN})", r"\1{\2}"),
        (r"\\(?:text(?:bf|it|rm|normal)?|mbox|hbox)\s*\{", r"\\text{"),
        (r"\*\*\s*(?:\(([^()]*)\)|(-?\w+))", r"^{\1\2}"),
        (r"\*\*", "^"),
        (r"(?<![A-Za-z\\])sqrt\s*(?=[({])", r"\\sqrt"),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\\sqrt\s+(\d+)", r"\\sqrt{\1}"),  # √12, where TeX would take the 1 alone
        (r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        (r"\\(?:overline|bar|dot)\s*(\d)", r"\\overline{\1}"),
        (r"\\(?:bar|dot)\s*(?=\{\d)", r"\\overline"),
        (r"\\(?:leq|leqslant)(?![A-Za-z])|<=", r"\\le "),
        (r"\\(?:geq|geqslant)(?![A-Za-z])|>=", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\neq(?![A-Za-z])|!=", r"\\ne "),
        (r":=|\\coloneqq(?![A-Za-z])", "="),
        (r"\\(?:simeq|sim|approx)(?![A-Za-z])", r"\\approx "),
        (r"\\colon(?![A-Za-z])|(?<=\d)\s*\\text\{\s*to\s*\}\s*(?=\d)", ":"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])|\A\s*\\\{\s*\\\}\s*\Z", r"\\emptyset "),
        (r"\\(?:backslash|smallsetminus)(?![A-Za-z])|-\s*(?=\\\{)", r"\\setminus "),
        (r"\\in\s*(?:R|\\R|\\Re)(?![A-Za-z])", r"\\in \\mathbb{R}"),
        (r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
        (r"(?<![\w)}])\+\s*(?=\\infty)", ""),
        (r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\(?:circ|degree)(?![A-Za-z])", r"^\\circ "),
        (r"(?<!\^)\\degree(?![A-Za-z])", r"^\\circ "),
        (r"\^\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),  # 12^{\text{th}}
        (r"\^\s*\{\s*(?:st|nd|rd|th)\s*\}", ""),
        (r"(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])", ""),
        (r"\\text\{\s*,?\s*(?:and|or)\s*\}|(?<=[\s\d)}$]),?\s(?:and|or)\s(?=[\s\d(\\$-])", " , "),
        (r"\\text\{\s*\\?[$]\s*\}|(?:US)?\\\$|[$]", ""),
        (r"\\(?:pounds|yen|euro|textdollar|texteuro|textsterling)(?![A-Za-z])\s*(?:\{\})?", ""),
        (r"\A([-+]?)\s*(?:Rs\.?|USD|EUR|GBP|INR)\s*(?=\d)", r"\1"),
        (r"\\%", "%"),
        (r"(?<!\\)\\[\[\]()]", ""),  # mathematics mode
        (r",(?:\s*,)+", ","),  # 2, 3, and 4
        (r"\s+", " "),
    )
)


def normalise_latex(text: str) -> str:
    r"""The same answer in one spelling: `\dfrac12`, `\frac 12` and `½` become `\frac{1}{2}`.

    Mathematics mode, spacing, sizes, colours, currency and the endings of ordinals go; percent
    signs, degrees and `\text{}` stay, because they can decide.
    """
    text = _in_plain_characters(text)
    box = last_box(text)
    text = _without_styles(text if box is None else box)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text.strip().removesuffix(",").removesuffix(".").strip()


def _in_plain_characters(text: str) -> str:
    """Without compatibility forms, other scripts' digits, currency signs and zero widths."""
    if text.isascii():
        return text.replace("~", " ")
    text = _SCRIPT.sub(_as_latex, text.translate(_NUMBER_SETS))
    return _OVERLINED.sub(_as_period, "".join(map(_plain, unicodedata.normalize("NFKC", text))))


def _plain(char: str) -> str:
    if char in _CHARACTERS:
        return _CHARACTERS[char]
    match unicodedata.category(char):
        case "Nd":
            return str(unicodedata.decimal(char))
        case "Cf":
            return ""
        case "Sc":
            return char if char == "$" else ""
    return char


def _as_latex(found: re.Match[str]) -> str:
    plain = unicodedata.normalize("NFKC", found[0])
    if found["fraction"]:
        over, _, under = plain.partition("\N{FRACTION SLASH}")
        return rf"\frac{{{over}}}{{{under}}}"
    return f"{'^' if found['above'] else '_'}{{{plain}}}"


def _as_period(found: re.Match[str]) -> str:
    digits = found[0].replace("\N{COMBINING OVERLINE}", "")
    return rf"\overline{{{digits}}}"


def _without_styles(text: str) -> str:
    r"""`x + 1` for `\mathbf{x + 1}`; only a roman unit after a number becomes `\text{}`."""
    if "\\" not in text:
        return text
    text = re.sub(r"(\A\s*|\\in\s*)\\mathbf\s*\{R\}", r"\1\\mathbb{R}", text)
    text = _ROMAN_UNIT.sub(_as_text, text)
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


def _as_text(found: re.Match[str]) -> str:
    unit = re.sub(r"\\[,;: !]|~", " ", found[2])
    return rf"{found[1]}\text{{{re.sub(r'[{}]', '', unit)}}}"
