"""Shell completion: `passk completion bash` prints a script, which calls `passk __complete`.

Completion reads only the schemas and `conf/`: importing Hydra takes longer than a key press may.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from passk.config.registry import DATA_SCHEMAS, SCHEMAS, choices, groups
from passk.config.schema import DataConfig
from passk.errors import UserError

# The script that a shell reads at its start, for every supported shell.
SCRIPTS = {
    "bash": """_passk_complete() {
    local reply
    COMPREPLY=()
    while IFS= read -r reply; do COMPREPLY+=("$reply"); done < <(
        "${1/#\\~/$HOME}" __complete bash \\
            "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2> /dev/null
    )
}
complete -o nospace -F _passk_complete passk
""",
    "zsh": """_passk_complete() {
    local -a replies
    local line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    replies=("${(@f)$(${~words[1]} __complete zsh "$line" 2> /dev/null)}")
    [[ -n "$replies" ]] && compadd -Q -S '' -- "${replies[@]}"
}
compdef _passk_complete passk
""",
    "fish": """function __passk_complete
    set -l words (commandline -opc)
    $words[1] __complete fish (commandline -cp | string collect) 2> /dev/null
end
complete -c passk -f -a '(__passk_complete)'
""",
}
COMMANDS = (*SCHEMAS, "sweep", "completion")
LAUNCHERS = ("basic", "submitit_local", "submitit_slurm")
OF_HYDRA = ("hydra.run.dir=", "hydra.sweep.dir=", "hydra/launcher=")
FILES = ("data.path", "data.eval_path", "filter.trusted")
FOLDERS = (
    *("run", "train.init_from", "model.path", "interpolate", "out", "tracker.dir"),
    *("hydra.run.dir", "hydra.sweep.dir"),
)
# Hydra gives these a special meaning, unless a backslash is before them.
SIGNS = re.compile(r"([\\()\[\]{}=,])")


def script(words: Sequence[str]) -> str:
    """Return the script that `passk completion SHELL` prints, or raise UserError."""
    if len(words) != 1 or words[0] not in SCRIPTS:
        raise UserError(f"passk completion takes the name of a shell: {', '.join(SCRIPTS)}")
    return SCRIPTS[words[0]]


def answer(words: Sequence[str]) -> int:
    """Print completions of the last word of a command line: `SHELL LINE [WORD BREAKS]`.

    Each is what the shell puts in place of that word; bash replaces only what is behind an open
    quote or the last word break.
    """
    shell, line, *breaks = words
    *before, current, quote = _split(line)
    inner = line.rpartition(quote)[2] if quote else ""
    begun = _escape(current[: len(current) - len(inner)]) + quote + inner
    if shell == "fish":
        begun = current
    elif shell == "bash":
        parts = re.finditer(r"\\.|.", begun)
        last = max((part.end() for part in parts if part[0] in breaks[0]), default=0)
        begun = inner if quote else begun[last:]
    names = [Path(word).name for word in before]
    start = names.index("passk") if "passk" in names else 0
    for candidate in complete(before[start + 1 :], current):
        rest = candidate.rstrip(" ")[len(current) :]
        if shell != "fish" and not quote:
            rest = _escape(rest) + " " * candidate.endswith(" ")
        print(begun + rest)
    return 0


def _split(line: str) -> list[str]:
    """Return the words of a line, the last one as far as it is typed, and the quote left open."""
    for quote in ("", "'", '"'):
        with suppress(ValueError):
            words = shlex.split(f"{line}_{quote}")  # a character more, as the word may be empty
            return [*words[:-1], words[-1][:-1], quote]
    return ["", ""]


def complete(words: Sequence[str], current: str) -> Iterator[str]:
    """Yield the words that may replace `current`, given the words before it, without quotes.

    Each begins with the typed text; complete words end with a space.
    """
    is_sweep = bool({"-m", "--multirun"} & set(words))
    for candidate in _candidates(words, current):
        if candidate.startswith(current):
            goes_on = is_sweep or candidate.endswith(("=", ".", "/"))
            yield candidate if goes_on else f"{candidate} "


def _candidates(words: Sequence[str], current: str) -> Iterable[str]:
    if not words:
        return [*COMMANDS, "--help", "--version"]
    command = words[0]
    if command == "completion":
        return SCRIPTS
    if command == "sweep":
        return ["status"] if words[1:] == [] else _paths(current, folders_only=True)
    if command not in SCHEMAS:
        return []
    if words[-1] == "--cfg":
        return ["job", "hydra", "all"]
    if current.startswith("-"):
        flags = ["--help", "--cfg", "--multirun"]
        return [*flags, "--resume"] if hasattr(SCHEMAS[command], "resume") else flags
    if "=" in current:
        return _values(words, *current.split("=", 1))
    if command in ("report", "compare"):
        places = _paths(current, folders_only=command == "report")
        return [*_keys(words, current), *places]
    return _keys(words, current)


def _values(words: Sequence[str], key: str, typed: str) -> Iterator[str]:
    """Yield `key=value` for each value; after a comma, further ones of the same kind."""
    named = [*groups(words[0]).get(key, ()), *choices(words[0], key)]
    if key == "hydra/launcher":
        named += LAUNCHERS
    if key == "checkpoint":
        named += ["last", "best"] + ["all"] * (words[0] == "filter")
    if key == "model.path":
        named += ["tiny"]
    before = typed[: typed.rfind(",") + 1]
    yield from (f"{key}={before}{name}" for name in named)
    if key in FILES or key in FOLDERS:
        plain = typed.replace("\\", "")
        for path in _paths(plain, folders_only=key in FOLDERS):
            yield f"{key}={typed}" + SIGNS.sub(r"\\\1", path[len(plain) :])


def _keys(words: Sequence[str], current: str) -> Iterator[str]:
    """Yield groups, and the keys of the configuration one level below the typed text."""
    head = current[: current.rfind(".") + 1]
    node = _setting(words, head.split(".")[:-1])
    if is_dataclass(node):
        for field in fields(node):
            value = getattr(node, field.name)
            if not isinstance(value, dict):  # accepts keys that the user chooses
                yield f"{head}{field.name}{'.' if is_dataclass(value) else '='}"
    if not head:
        yield from (f"{group}=" for group in groups(words[0]))
    yield from OF_HYDRA


def _setting(words: Sequence[str], parts: Sequence[str]) -> Any:
    """Return a node of the command's default configuration, with the data that are chosen."""
    chosen = [word.removeprefix("data=") for word in words if word.startswith("data=")]
    node: Any = SCHEMAS[words[0]]()
    for part in parts:
        node = getattr(node, part, None)
        if type(node) is DataConfig:
            node = DATA_SCHEMAS.get(chosen[-1] if chosen else "conventions", DataConfig)()
    return node


def _paths(typed: str, *, folders_only: bool) -> Iterator[str]:
    """Yield files and folders that begin with the typed text."""
    head, stem = typed[: typed.rfind("/") + 1], typed[typed.rfind("/") + 1 :]
    folder = Path(head or ".").expanduser()
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        is_hidden = path.name.startswith(".") and not stem.startswith(".")
        if path.name.startswith(stem) and not is_hidden and (path.is_dir() or not folders_only):
            yield f"{head}{path.name}{'/' if path.is_dir() else ''}"


def _escape(text: str) -> str:
    """Escape text so that a shell reads it without quotes."""
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", text)
