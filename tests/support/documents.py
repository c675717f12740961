"""Reads the documents: their commands, code, links and the names they mention."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
GENERATED = ROOT / "docs" / "results" / "README.md"  # its commands are those of past studies
DOCUMENTS.remove(GENERATED)
SHELLS = ("bash", "sh", "shell", "zsh", "fish")
PROGRAMS = ("passk", "make", "python", "torchrun", "srun")
RUNNERS = ("srun", "nice", "time", "exec")  # they start what follows them


@dataclass(frozen=True)
class Code:
    """A piece of code of a document: a block of some language, or a span within a line."""

    text: str
    language: str | None  # None: a span; "": a block that does not say
    where: str


@dataclass(frozen=True)
class Command:
    """One command of a document, split as a shell would, and where it stands."""

    words: tuple[str, ...]
    where: str
    in_block: bool

    def __str__(self) -> str:
        return f"{self.where} {shlex.join(self.words)}"


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def codes() -> tuple[Code, ...]:
    """All code of all documents."""
    found = []
    for file in DOCUMENTS:
        for token in parsed(file):
            where = f"{name(file)}:{token.map[0] + 1}" if token.map else name(file)
            if token.type in ("fence", "code_block"):
                found.append(Code(token.content, token.info.strip(), where))
            spans = [t.content for t in token.children or () if t.type == "code_inline"]
            found += [Code(span, None, where) for span in spans]
    return tuple(found)


@cache
def parsed(file: Path):
    return MarkdownIt("commonmark").enable("table").parse(file.read_text())


def commands() -> Iterator[Command]:
    """Commands of shell blocks, and spans that begin with a program and say more than its name."""
    for code in codes():
        if code.language in SHELLS:
            for line in code.text.replace("\\\n", " ").splitlines():
                yield from in_line(line, code.where, in_block=True)
        elif code.language is None and code.text.split(" ")[0] in PROGRAMS and " " in code.text:
            yield from in_line(code.text, code.where, in_block=False)


def in_line(line: str, where: str, in_block: bool) -> Iterator[Command]:
    """The commands of one line: parts of a pipe, and what stands in $( )."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from in_line(inner, where, in_block)
    # [optional words] are typed, and so is what stands before an ellipsis.
    line = re.sub(r"(?<!\S)\[((?:--|[a-z_.]+=)[^\]]*)\](?!\S)", r"\1", line)
    line = re.sub(r",?\.\.\.", "", re.sub(r"\$\([^()]*\)", "", line))
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word and set(word) <= set(";|&"):
            kept = without_runners(words)
            if kept:
                yield Command(tuple(kept), where, in_block)
            words = []
        else:
            words.append(word)


def without_runners(words: list[str]) -> list[str]:
    """`X=1 srun torchrun ... -m passk train` is `passk train`; output goes where it likes."""
    words = words[: next((i for i, word in enumerate(words) if set(word) <= set("<>")), len(words))]
    while words and (words[0] in RUNNERS or re.match(r"\w+=", words[0])):
        words = words[1:]
    if "-m" in words and words[words.index("-m") + 1 :][:1] == ["passk"]:
        words = words[words.index("-m") + 1 :]
    return words


def unmarked() -> Iterator[str]:
    """Blocks with a command in them that are not marked as `bash`, so that nobody runs them."""
    for code in codes():
        if code.language is not None and code.language not in SHELLS:
            for line in code.text.splitlines():
                if re.match(rf"\s*(\$ )?({'|'.join(PROGRAMS)}) [a-z-]", line):
                    yield f"{code.where} {line.strip()}"


def links() -> Iterator[tuple[Path, str]]:
    """Every link and image of the documents that leads to a file or a heading."""
    for file in [*DOCUMENTS, GENERATED]:
        for token in parsed(file):
            for child in token.children or ():
                target = child.attrGet("href") or child.attrGet("src")
                if target and not re.match(r"\w+:", target):
                    yield file, unquote(target)


def anchors(file: Path) -> set[str]:
    """What a link may name behind `#`: headings, written as the usual viewers write them."""
    tokens = parsed(file)
    titles = [
        "".join(child.content for child in after.children or ())
        for token, after in pairwise(tokens)
        if token.type == "heading_open"
    ]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
