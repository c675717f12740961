"""Shell completion: `passk completion bash` prints a script, which calls `passk __complete`.

Completion reads only the schemas and `conf/`: importing Hydra takes longer than a key press may.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
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
FILES = ("data.path", "data.eval_path")
FOLDERS = (
    *("run", "train.init_from", "model.path", "out", "tracker.dir"),
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
    """Print completions of the last word of a command line: `SHELL LINE [WORD BREAKS]`."""
    shell, line, *breaks = words
    raw = _last_word(line)
    before = shlex.split(line[: len(line) - len(raw)])
    places = [i for i, word in enumerate(before) if Path(word).name == "passk"]
    before = before[places[0] + 1 :] if places else before[1:]
    is_open = not _is_whole(raw)
    quote_at = max(raw.rfind("'"), raw.rfind('"')) if is_open else len(raw)
    typed = raw[:quote_at] + raw[quote_at + 1 :]
    if shell == "fish" and not is_open:
        typed = "".join(shlex.split(raw))
    escape = _unchanged if shell == "fish" or is_open else _escape
    cut = 0
    if shell == "bash":
        cut = quote_at if is_open else _after_the_last_break(raw, *breaks)
    quote = raw[quote_at : quote_at + 1] if shell == "zsh" else ""
    for candidate in complete(before, typed, escape):
        whole = candidate.rstrip(" ") if is_open or shell == "fish" else candidate
        print(whole[cut:quote_at] + quote + whole[max(cut, quote_at) :])
    return 0


def complete(
    words: Sequence[str], current: str, escape: Callable[[str], str] = str
) -> Iterator[str]:
    """Yield the words that may replace `current`, given the words before it.

    Each begins with the typed text; complete words end with a space.
    """
    is_sweep = bool({"-m", "--multirun"} & set(words))
    for candidate in _candidates(words, current, escape):
        if candidate.startswith(current):
            goes_on = is_sweep or candidate.endswith(("=", ".", "/"))
            yield candidate if goes_on else f"{candidate} "


def _candidates(words: Sequence[str], current: str, escape: Callable[[str], str]) -> Iterable[str]:
    if not words:
        return [*COMMANDS, "--help", "--version"]
    command = words[0]
    if command == "completion":
        return SCRIPTS
    if command == "sweep":
        return ["status"] if words[1:] == [] else _paths(current, escape, folders_only=True)
    if command not in SCHEMAS:
        return []
    if words[-1] == "--cfg":
        return ["job", "hydra", "all"]
    if current.startswith("-"):
        flags = ["--help", "--cfg", "--multirun"]
        return [*flags, "--resume"] if hasattr(SCHEMAS[command], "resume") else flags
    if "=" in current:
        key, value = current.split("=", 1)
        return (f"{key}={rest}" for rest in _values(command, key, value, escape))
    places = _paths(current, escape, folders_only=True) if command == "report" else ()
    return [*_keys(command, words, current), *places]


def _values(command: str, key: str, typed: str, escape: Callable[[str], str]) -> Iterator[str]:
    """Yield the values that may follow `key=`; after a comma, further ones of the same kind."""
    before = typed[: typed.rfind(",") + 1]
    named = [*groups(command).get(key, ()), *choices(command, key)]
    if key == "hydra/launcher":
        named += LAUNCHERS
    if key == "checkpoint":
        named += ["last", "best"] + ["all"] * (command == "filter")
    if key == "model.path":
        named += ["tiny"]
    yield from (f"{before}{name}" for name in named)
    if key in FILES or key in FOLDERS:
        yield from _paths(typed, lambda name: escape(SIGNS.sub(r"\\\1", name)), key in FOLDERS)


def _keys(command: str, words: Sequence[str], current: str) -> Iterator[str]:
    """Yield groups, and the keys of the configuration one level below the typed text."""
    chosen = [word.removeprefix("data=") for word in words if word.startswith("data=")]
    node: Any = SCHEMAS[command]()
    head = current[: current.rfind(".") + 1]
    for part in head.split(".")[:-1]:
        node = getattr(node, part, None)
        if type(node) is DataConfig:
            node = DATA_SCHEMAS.get(chosen[-1] if chosen else "conventions", DataConfig)()
    if is_dataclass(node):
        for field in fields(node):
            value = getattr(node, field.name)
            if not isinstance(value, dict):  # accepts keys that the user chooses
                yield f"{head}{field.name}{'.' if is_dataclass(value) else '='}"
    if not head:
        yield from (f"{group}=" for group in groups(command))
    yield from OF_HYDRA


def _paths(typed: str, escape: Callable[[str], str], folders_only: bool) -> Iterator[str]:
    """Yield files and folders that begin with the typed text, escaped or not."""
    head = typed[: typed.rfind("/") + 1]
    stem = typed[len(head) :].replace("\\", "")
    folder = Path(os.path.expanduser(head.replace("\\", "")) or ".")
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        is_hidden = path.name.startswith(".") and not stem.startswith(".")
        if path.name.startswith(stem) and not is_hidden and (path.is_dir() or not folders_only):
            rest = escape(path.name)[len(escape(stem)) :]
            yield f"{typed}{rest}{'/' if path.is_dir() else ''}"


def _last_word(line: str) -> str:
    """Return the text after the last space that is neither quoted nor escaped."""
    spaces = [m.end() for m in re.finditer(r"\s", line) if _is_whole(line[: m.start()])]
    return line[spaces[-1] :] if spaces else line


def _after_the_last_break(raw: str, breaks: str) -> int:
    """Return the offset after the last word break, where bash starts to replace."""
    ends = [m.end() for m in re.finditer(r"\\.|.", raw) if m[0] in breaks]
    return ends[-1] if ends else 0


def _is_whole(line: str) -> bool:
    """Return True if every quote is closed, and no backslash waits for a character."""
    try:
        shlex.split(line)
    except ValueError:
        return False
    return True


def _escape(text: str) -> str:
    """Escape text so that a shell reads it without quotes."""
    return re.sub(r"([^\w@%+=:,./~-])", r"\\\1", text)


def _unchanged(text: str) -> str:
    return text
