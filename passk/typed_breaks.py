r"""Line breaks and tabs that were typed as `\n` and `\t`: a shell hands over two characters.

LaTeX has commands that begin so (`\nabla`, `\text`), which must stay. So a command that is known
stays, what can be no command (no small letter follows) is a break, and the rest is refused.
"""

import re

from passk.errors import UserError

_BREAKS = {"n": "\n", "t": "\t"}
# An escaped backslash, or a word of letters that begins with n or t behind a backslash.
_TYPED = re.compile(r"(?P<escaped>\\)?\\(?P<letter>[nt])(?P<rest>[A-Za-z]*)")
# Commands of LaTeX and amsmath that begin with n or t, as far as a prompt may hold them.
_LATEX = """
nabla natural ncong ne nearrow neg neq newcommand newline nexists ngeq ngeqq ngeqslant ngtr ni
nleftarrow nleftrightarrow nleq nleqq nleqslant nless nmid noindent nolimits nonumber norm not notag
notin nparallel nprec npreceq nrightarrow nshortmid nshortparallel nsim nsubseteq nsubseteqq nsucc
nsucceq nsupseteq nsupseteqq ntriangleleft ntrianglelefteq ntriangleright ntrianglerighteq nu nvdash
nvDash nVdash nVDash nwarrow nLeftarrow nLeftrightarrow nRightarrow
tag tan tanh tau tbinom text textbackslash textbf textcolor textdegree textdollar textit textmd
textnormal textrm textsc textsf textsl textstyle textsubscript textsuperscript texttt textup tfrac
therefore theta thickapprox thicksim thickspace thinspace tilde times tiny to top triangle
triangledown triangleleft trianglelefteq triangleq triangleright trianglerighteq tt
twoheadleftarrow twoheadrightarrow
"""
_COMMANDS = frozenset(_LATEX.split())


def with_breaks(key: str, text: str) -> str:
    r"""`text` with typed `\n` and `\t` as the breaks that they mean.

    Two backslashes before n or t are one, and no break. Raises UserError, naming `key`, for a word
    that may be either.
    """

    def read(found: re.Match[str]) -> str:
        word = found["letter"] + found["rest"]
        if found["escaped"]:
            return f"\\{word}"
        if word in _COMMANDS:
            return found[0]
        if found["rest"][:1].islower():
            raise UserError(
                rf"{key} holds \{word}, which may be a break before {found['rest']!r} or a command "
                rf"of LaTeX; write the break as a real one (bash: $'\{found['letter']}', YAML: in "
                rf"double quotes), or the command as \\{word}"
            )
        return _BREAKS[found["letter"]] + found["rest"]

    return _TYPED.sub(read, text)
