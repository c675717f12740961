r"""Normalise the LaTeX of an answer to one spelling, in time linear in the text.

Two tables do the work: `_CHARACTERS` for single characters, `_SPELLINGS` for commands.
"""

import re
import unicodedata

from passk.verifiers.math.text import last_box

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
# Double-struck letters, which NFKC would turn into plain ones.
_NUMBER_SETS = str.maketrans(
    {unicodedata.lookup(f"DOUBLE-STRUCK CAPITAL {name}"): rf"\mathbb{{{name}}}" for name in "RCQZN"}
)
_SCRIPT = re.compile("(?P<above>[⁻⁰¹²³⁴-⁹]+)|(?P<below>[₀-₉]+)|(?P<fraction>[¼-¾⅐-⅞])")
_OVERLINED = re.compile("((?:\\d\N{COMBINING OVERLINE})+)")
# Fonts and lines have no meaning; they are removed with their braces.
_STYLE_TOKEN = re.compile(
    r"(?P<style>\\(?:math(?:bf|rm|it|sf|tt|normal)|boldsymbol|bm|pmb|rm|bf|underline|uline|emph"
    r"|ensuremath)(?![A-Za-z])\s*)(?P<brace>\{?)|\\.|[{}]"
)
_ROMAN_UNIT = re.compile(
    r"(?<=[\d})%])((?:\s|\\[,;: !]|~)*)\\(?:mathrm|rm)\s*"
    r"\{((?:[A-Za-z\s./*()~]|\^\s?(?:-?\d|\{-?\d\})|\\(?:cdot|Omega|mu)(?![A-Za-z])|\\[,;: !])*)\}"
)
_TAKES_ARGUMENT = re.compile(r"(?:[\^_}]|\\[A-Za-z]+)\s*\Z")
# Tokens that TeX takes as one argument without braces, and short exponents.
_TOKEN = r"\\(?!sqrt|frac|left|[dtc]frac|text)[A-Za-z]+|[0-9A-Za-z]"
_EXPONENT = r"(?:\d|\{-?\d+\})"
_COMMAND = re.compile(r"\\([A-Za-z]+)")
# One name for each command that has several; sizes have no meaning.
_COMMANDS = {
    **dict.fromkeys(
        (
            *("big", "bigg", "Big", "Bigg", "bigl", "bigr", "biggl", "biggr", "Bigl", "Bigr"),
            *("Biggl", "Biggr", "bigm", "displaystyle", "textstyle", "scriptstyle", "limits"),
            *("nolimits", "tiny", "scriptsize", "footnotesize", "small", "normalsize", "large"),
            *("Large", "LARGE", "huge", "Huge", "pounds", "yen", "euro", "textdollar"),
            *("texteuro", "textsterling"),
        ),
        "",
    ),
    **dict.fromkeys(("quad", "qquad"), " "),
    **dict.fromkeys(("dfrac", "tfrac", "cfrac"), r"\frac"),
    **dict.fromkeys(("dbinom", "tbinom"), r"\binom"),
    **dict.fromkeys(("textbf", "textit", "textrm", "textnormal", "mbox", "hbox"), r"\text"),
    **dict.fromkeys(("leq", "leqslant"), r"\le "),
    **dict.fromkeys(("geq", "geqslant"), r"\ge "),
    **dict.fromkeys(("simeq", "sim", "approx"), r"\approx "),
    **dict.fromkeys(("varnothing", "emptyset"), r"\emptyset "),
    **dict.fromkeys(("backslash", "smallsetminus"), r"\setminus "),
    "neq": r"\ne ",
    "lt": "<",
    "gt": ">",
    "coloneqq": "=",
    "colon": ":",
    "langle": "(",
    "rangle": ")",
}
# Needle, pattern, replacement, in order: a rule is tried only if the text holds its needle.
_SPELLINGS = tuple(
    (needle, re.compile(pattern), replacement)
    for needle, pattern, replacement in (
        ("text", r"\\text\s*\{\s*\}", ""),
        ("text", r"\\text\s+\{", r"\\text{"),
        ("color", r"\\(?:text)?color\s*(?:\[[^\][]*\]\s*)?\{[^{}]*\}", ""),
        # A determinant, `vmatrix`, is not a matrix.
        (
            "begin",
            r"\\left\s*\|\s*\\begin\{(?:array\}\s*\{[^{}]*\}|matrix\})",
            r"\\begin{vmatrix}",
        ),
        ("end", r"\\end\{(?:array|matrix)\}\s*\\right\s*\|", r"\\end{vmatrix}"),
        (
            "begin",
            r"\\begin\{(?:[bB]|small)?matrix\}|\\begin\{array\}\s*\{[^{}]*\}",
            r"\\begin{pmatrix}",
        ),
        ("end", r"\\end\{(?:(?:[bB]|small)?matrix|array)\}", r"\\end{pmatrix}"),
        ("\\", r"\\(?:left|right|middle)(?![A-Za-z])\.?", ""),
        ("\\", r"\\!\s*|\\phantom\s*(?:\{[^{}]*\}|-)", ""),
        ("{}", r"(?<!\\)\{\}", ""),
        ("\\", r"(?<=\d)(?:\{?\\[,;: ]\s*\}?)(?=\d{3}(?!\d))", ""),  # 1\,000
        ("{,}", r"(?<=\d)\{,\}(?=\d)", ","),
        ("\\", r"(?<!\\)\\[,;:> ]", " "),
        (r"\frac", rf"\\frac\s*({_TOKEN})", r"\\frac{\1}"),
        (r"\frac", rf"(\\frac\s*\{{[^{{}}]*\}})\s*({_TOKEN})", r"\1{\2}"),
        (r"\binom", rf"\\binom\s*({_TOKEN})\s*({_TOKEN})", r"\\binom{\1}{\2}"),
        ("choose", r"\{([^{}\\]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
        ("choose", r"\A\s*(\w+)\s*\\choose\s*(\w+)\s*\Z", r"\\binom{\1}{\2}"),
        ("C", r"_\s?\{?(\w+)\}?\s?C\s?_\s?(?:\{(\w+)\}|(\w))", r"\\binom{\1}{\2\3}"),
        (r"\log_", r"\\log_(\d\d+)", r"\\log_{\1}"),
        (
            "^",
            rf"(\\(?:sin|cos|tan|sec|csc|cot|log|ln)\s?\^\s?{_EXPONENT})\s?({_TOKEN})",
            r"\1{\2}",
        ),
        ("**", r"\*\*\s*(?:\(([^()]*)\)|(-?\w+))", r"^{\1\2}"),
        ("**", r"\*\*", "^"),
        ("sqrt", r"(?<![A-Za-z\\])sqrt\s*(?=[({])", r"\\sqrt"),
        ("sqrt", r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        ("sqrt", r"\\sqrt\s+(\d+)", r"\\sqrt{\1}"),  # √12, where TeX would take the 1 alone
        ("sqrt", r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        ("\\", r"\\(?:overline|bar|dot)\s*(\d)", r"\\overline{\1}"),
        ("\\", r"\\(?:bar|dot)\s*(?=\{\d)", r"\\overline"),
        ("=", "<=", r"\\le "),
        ("=", ">=", r"\\ge "),
        ("=", "!=", r"\\ne "),
        ("=", ":=", "="),
        ("to", r"(?<=\d)\s*\\text\{\s*to\s*\}\s*(?=\d)", ":"),
        (r"\}", r"\A\s*\\\{\s*\\\}\s*\Z", r"\\emptyset "),
        (r"\{", r"-\s*(?=\\\{)", r"\\setminus "),
        (r"\in", r"\\in\s*(?:R|\\R|\\Re)(?![A-Za-z])", r"\\in \\mathbb{R}"),
        (r"\mathbb", r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}"),
        (r"\infty", r"(?<![\w)}])\+\s*(?=\\infty)", ""),
        ("^", r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\(?:circ|degree)(?![A-Za-z])", r"^\\circ "),
        ("degree", r"(?<!\^)\\degree(?![A-Za-z])", r"^\\circ "),
        ("^", r"\^\s*\{?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\s*\}?", ""),  # 12^{\text{th}}
        ("^", r"\^\s*\{\s*(?:st|nd|rd|th)\s*\}", ""),
        *((end, rf"(?<=\d){end}(?![A-Za-z])", "") for end in ("st", "nd", "rd", "th")),
        *(
            (
                word,
                rf"\\text\{{\s*,?\s*{word}\s*\}}"
                rf"|(?<=[\s\d)}}$]),?\s{word}\s(?=[\s\d(\\$-]|[A-Za-z]\s?(?:[=<>]|\\[lgn]e))"
                rf"|(?<=\)){word}(?=[(\\])",
                " , ",
            )
            for word in ("and", "or")
        ),
        ("$", r"\\text\{\s*\\?[$]\s*\}|(?:US)?\\\$|[$]", ""),
        *(
            (code, rf"\A([-+]?)\s*{code}\.?\s*(?=\d)", r"\1")
            for code in ("Rs", "USD", "EUR", "GBP", "INR")
        ),
        (r"\%", r"\\%", "%"),
        ("\\", r"(?<!\\)\\[\[\]()]", ""),  # mathematics mode
        (",", r",(?:\s*,)+", ","),  # 2, 3, and 4
    )
)


def normalise_latex(text: str) -> str:
    r"""Return an answer in one spelling: `\dfrac12`, `\frac 12` and `½` become `\frac{1}{2}`.

    Mathematics mode, spacing, sizes, colours, currency and the endings of ordinals are removed;
    percent signs, degrees and `\text{}` stay, because they can matter.
    """
    text = _in_plain_characters(text)
    box = last_box(text)
    text = text if box is None else box
    if "\\" in text:
        text = _COMMAND.sub(_as_known, _without_styles(text))
    for needle, pattern, replacement in _SPELLINGS:
        if needle in text:
            text = pattern.sub(replacement, text)
    text = " ".join(text.split()).removesuffix(",").removesuffix(".").strip()
    while text.startswith("{") and closes_at_end(text):
        text = text[1:-1].strip()
    return text


def closes_at_end(text: str) -> bool:
    """Return True if the first bracket is closed by the last character."""
    level = 0
    for place, char in enumerate(text):
        level += (char in "([{") - (char in ")]}")
        if level == 0 and char in ")]}":
            return place == len(text) - 1
    return False


def _in_plain_characters(text: str) -> str:
    """Replace compatibility forms and digits of other scripts; drop currency and zero widths."""
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


def _as_known(found: re.Match[str]) -> str:
    return _COMMANDS.get(found[1], found[0])


def _without_styles(text: str) -> str:
    r"""Replace `\mathbf{x + 1}` by `x + 1`; a roman unit after a number becomes `\text{}`."""
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
