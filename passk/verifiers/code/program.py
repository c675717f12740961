"""Find the program in a model's text. The text is only read; nothing of it runs here.

A completion can be read in several ways, tried in this order:

1. the whole text is Python;
2. its fenced blocks, marked as Python or not at all;
3. the same, with the text beginning inside a block, as if a fence opened before it;
4. pieces of Python between prose, at the left margin or, as in Markdown, all indented.

The first reading counts whose blocks define a wanted name: one that the prompt asks for or that the
tests use. The program is, for each such name, the last block that defines it, with the blocks that
define the names it needs, in the order of the text. After readings 2 and 3, a block may also
continue the prompt's text inside a function. If no reading counts, the program is the last block of
readings 1 and 2 that is more than expressions. The result is exactly one program, so a completion
has one chance.
"""

import ast
import builtins
import re
import symtable
import textwrap
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_PYTHON = ("", "python", "python3", "py", "py3", "ipython", "ipython3")
_LEAD = r"(?P<lead>[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)(?:<\w+>)?"
_FENCE = re.compile(_LEAD + r"(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)$")
_FENCE_AT_END = re.compile(r"(?<=[^\s`])[ \t]*(`{3,})[ \t]*$", re.MULTILINE)
_INDENTED = re.compile(r"(?:^(?: {4}|\t).*\n(?:[ \t]*\n)*)+", re.MULTILINE)
_NO_INFO = re.compile(r"[ \t]*(?:</\w+>)?[ \t]*")
_LANGUAGE = re.compile(r"[ \t{.]*(\w*)")
_THINKING = re.compile(r"\A.*</think(?:ing)?>(?![\"'])", re.DOTALL)
_HEAD = re.compile(r"^(?:async def|def|class) (\w+)", re.MULTILINE)
_BEGINS_CODE = re.compile(
    r"@|def |async def |class |import |from [\w.]+ import |try:|\w+[ \t]*(?::[^=]*)?=[^=]"
)
_NO_WIDTH = {ord(mark): None for mark in "\ufeff\u200b\u200c\u200d\u2060"} | {0xA0: " "}
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError)
_TAB = 4

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_PROGRAM = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


class Block(NamedTuple):
    """A piece of Python that compiles, with its top-level names; stubs count as not defined."""

    code: types.CodeType
    tree: ast.Module
    defined: frozenset[str]
    imported: frozenset[str]
    needed: frozenset[str]

    @property
    def has_definitions(self) -> bool:
        return any(isinstance(node, _Definition) for node in self.tree.body)

    @property
    def is_prose(self) -> bool:
        """True if the block holds only expressions, such as a word that happens to be a name."""
        return all(isinstance(node, ast.Expr) for node in self.tree.body)


class Prompt(NamedTuple):
    """The Python in a prompt.

    `begun` is the text that a completion may continue, and `code` its Python, None for prose.
    `asked` are the functions and classes to write, the entry point last. `given` are the other
    names, without classes, that a prompt with a function to complete defines or imports.
    """

    text: str
    begun: str
    code: Block | None
    asked: tuple[str, ...]
    given: frozenset[str]


def _lines(text: str) -> list[str]:
    """Split into lines as Python counts them; `str.splitlines` splits at more characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _is_stub(node: ast.stmt) -> bool:
    """Return True for a function with at most a docstring, `pass`, `...` or NotImplementedError."""
    if not isinstance(node, _Function):
        return False
    body = [child for child in node.body if not isinstance(child, ast.Pass)]
    body = [child for child in body if not _is_constant(child)]
    return not body or (
        len(body) == 1
        and isinstance(body[0], ast.Raise)
        and "'NotImplementedError'" in ast.dump(body[0])
    )


def _is_constant(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_to_complete(node: ast.stmt) -> bool:
    """Return True for a stub, or a class with a stub that does not end in a `raise`.

    A `raise` says that subclasses define the function.
    """
    if isinstance(node, ast.ClassDef):
        stubs = [child for child in node.body if isinstance(child, _Function) and _is_stub(child)]
        return any(not isinstance(stub.body[-1], ast.Raise) for stub in stubs)
    return _is_stub(node)


def _tables(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from _tables(child)


def _read_exactly(source: str) -> Block | None:
    try:
        tree = ast.parse(source)
        code = compile(tree, "<solution>", "exec", dont_inherit=True)
        tables = list(_tables(symtable.symtable(source, "<solution>", "exec")))
    except _NOT_PYTHON:
        return None
    top = tables[0].get_symbols()
    bound = {symbol.get_name() for symbol in top if symbol.is_assigned()}
    imported = {symbol.get_name() for symbol in top if symbol.is_imported()}
    if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in tree.body):
        imported.add("*")
    symbols = (symbol for table in tables for symbol in table.get_symbols())
    used = {s.get_name() for s in symbols if s.is_global() and s.is_referenced()}
    stubs = {node.name for node in tree.body if isinstance(node, _Function) and _is_stub(node)}
    needed = used - bound - imported - set(vars(builtins))
    return Block(code, tree, *map(frozenset, (bound - stubs, imported, needed)))


def read_block(source: str) -> Block | None:
    """Read the source as Python, if needed without common indentation and zero-width marks."""
    cleaned = source.translate(_NO_WIDTH)
    variants = (source, textwrap.dedent(source), cleaned, textwrap.dedent(cleaned))
    blocks = map(_read_exactly, dict.fromkeys(variants))
    return next((block for block in blocks if block is not None), None)


def _completed(source: str) -> str:
    """Return the source with a body for the function whose head it ends in."""
    last = next((line for line in reversed(_lines(source)) if line.strip()), "")
    indentation = last[: len(last) - len(last.lstrip())] + " " * _TAB
    return f"{source}\n{indentation}pass\n"


def _prompt_sources(text: str) -> Iterator[str]:
    """Yield the places of a prompt's Python: all of it, its end, its fenced blocks."""
    lines = _lines(text)
    for at, line in enumerate(lines):
        if at == 0 or _BEGINS_CODE.match(line):
            yield "\n".join(lines[at:])
    yield "\n".join(fenced_blocks(text))


def read_prompt(text: str) -> Prompt:
    """Read the Python of a prompt: all of it, or the part of prose with a function to complete.

    It may end in the head of that function.
    """
    for source in _prompt_sources(text):
        for complete in (source, _completed(source)):
            code = _read_exactly(complete)
            if code is None or not any(isinstance(node, _PROGRAM) for node in code.tree.body):
                continue
            definitions = [node for node in code.tree.body if isinstance(node, _Definition)]
            asked = tuple(node.name for node in definitions if _is_to_complete(node))
            classes = {node.name for node in definitions if isinstance(node, ast.ClassDef)}
            if asked:
                given = (code.defined | code.imported) - classes - set(asked)
                return Prompt(text, source, code, asked, given)
            if source == "\n".join(_lines(text)):
                names = tuple(node.name for node in definitions)
                return Prompt(text, text, code, names, frozenset())
    return Prompt(text, text, None, tuple(_HEAD.findall(text)), frozenset())


def _outdented(line: str, lead: str) -> str:
    """Remove the lead of a block's fence from a line: Markdown's quotation marks, then columns."""
    quotes = lead.count(">")
    for _ in range(quotes):
        line = re.sub(r"^[ \t]{0,3}>[ ]?", "", line)
    width = max(0, len(lead.rpartition(">")[2].expandtabs(_TAB)) - min(quotes, 1))
    column = index = 0
    while index < len(line) and column < width and line[index] in " \t":
        column += _TAB - column % _TAB if line[index] == "\t" else 1
        index += 1
    return " " * (column - width) + line[index:]


def fenced_blocks(text: str) -> list[str]:
    """Return the fenced blocks of a Markdown text that are marked as Python or not marked.

    As in CommonMark, lists and quotations included, a fence is closed by one at least as long that
    is indented by at most three columns more, and a block that is not closed ends with the text. A
    line that opens another block ends it as well, as no Python begins like that.
    """
    blocks: list[list[str]] = []
    block: list[str] = []
    lead = fence = ""
    for line in _lines(text):
        match = _FENCE.match(line)
        if fence and (match is None or not _ends(match, lead, fence)):
            block.append(_outdented(line, lead) + "\n")
        elif fence and match is not None and _NO_INFO.fullmatch(match["info"]):
            fence = ""
        elif match is not None:
            block, lead, fence = [], match["lead"], match["fence"]
            language = _LANGUAGE.match(match["info"])
            if language is not None and language[1].lower() in _PYTHON:
                blocks.append(block)
    return ["".join(block) for block in blocks]


def _ends(match: re.Match[str], lead: str, fence: str) -> bool:
    """Return True if a fence ends the block of `fence`, by closing it or opening another."""
    further = len(match["lead"].expandtabs(_TAB)) - len(lead.expandtabs(_TAB))
    return match["fence"].startswith(fence) and further <= 3


def _longest_program(lines: Sequence[str]) -> int:
    """Return how many of the first lines are Python, cut between top-level statements."""
    end = len(lines)
    while end > 0:
        try:
            compile("\n".join(lines[:end]) + "\n", "<solution>", "exec", dont_inherit=True)
            return end
        except SyntaxError as error:
            end = min(error.lineno or 1, end) - 1
            while end > 0 and not lines[end][:1].strip():
                end -= 1
        except _NOT_PYTHON:
            return 0
    return 0


def _pieces(text: str) -> Iterator[str]:
    """Yield pieces of Python at the left margin, without expressions that call nothing."""
    lines, at = _lines(text), 0
    while at < len(lines):
        length = _longest_program(lines[at:]) if _BEGINS_CODE.match(lines[at]) else 0
        if length:
            tree = ast.parse("\n".join(lines[at : at + length]))
            tree.body = [node for node in tree.body if not _is_word(node)]
            yield ast.unparse(tree)
        at += length or 1


def _is_word(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and not any(
        isinstance(child, ast.Call | ast.Await) for child in ast.walk(node)
    )


def _readable(sources: Iterable[str]) -> list[Block]:
    return [block for source in sources if (block := read_block(source)) is not None]


def _last_definers(blocks: Sequence[Block], wanted: frozenset[str]) -> list[int]:
    """Return the places of the last blocks that define wanted names, or import them if none does.

    Without wanted names, return the last block with definitions, else the last that binds a name.
    """
    if not wanted:
        definers = [i for i, block in enumerate(blocks) if block.has_definitions]
        return (definers or [i for i, block in enumerate(blocks) if block.defined])[-1:]
    for names in ([block.defined for block in blocks], [block.imported for block in blocks]):
        places = [[i for i, has in enumerate(names) if name in has] for name in wanted]
        if any(places):
            return [place[-1] for place in places if place]
    return []


def _select(blocks: Sequence[Block], wanted: frozenset[str], known: frozenset[str]) -> list[Block]:
    """Return the blocks that define wanted names, with what they need in turn; [] if none does."""
    left, chosen = _last_definers(blocks, wanted), set[int]()
    while left:
        index = left.pop()
        if index in chosen:
            continue
        chosen.add(index)
        for name in blocks[index].needed - known:
            places = [i for i, b in enumerate(blocks) if name in b.defined | b.imported]
            left += [i for i in places if i < index][-1:] or places[:1]
    return [blocks[index] for index in sorted(chosen)]


def _continued(prompt: Prompt, source: str) -> list[Block]:
    """Return the prompt's text with its continuation by `source`, as far as that is Python."""
    source = source.translate(_NO_WIDTH)
    if not prompt.begun.strip() or not source.strip():
        return []
    blanks = source[: len(source) - len(source.lstrip())]
    for before in (prompt.begun, f"{prompt.begun}\n"):
        lines = _lines(before + source)
        end = _longest_program(lines)
        if end < len(_lines(before + blanks)):  # nothing of the source
            continue
        block = read_block("\n".join(lines[:end]) + "\n")
        if block is not None and block.has_definitions and block.defined >= {*prompt.asked[-1:]}:
            return [block]
    return []


def find_program(prompt: Prompt, completion: str, wanted: frozenset[str]) -> list[Block] | None:
    """Return the blocks to run, in order; None if there is no program. See the module.

    A program that does not continue the prompt's function runs after the prompt's own code, as it
    may leave out imports and functions of the prompt.
    """
    before = [] if prompt.code is None else [prompt.code]
    known = frozenset(name for block in before for name in block.defined | block.imported)
    text = _THINKING.sub("", completion)

    def select(blocks: list[Block]) -> list[Block]:
        chosen = _select(blocks, wanted, known)
        return chosen and before + chosen

    def readings() -> Iterator[list[Block]]:
        whole = _readable(dict.fromkeys([completion, text]))[:1]
        yield select(whole)
        sources = fenced_blocks(text)
        fenced = _readable(sources)
        yield select(fenced)
        yield from (_continued(prompt, source) for source in reversed(sources))
        opened = fenced_blocks("```\n" + _FENCE_AT_END.sub(r"\n\1", text))
        yield select(_readable(opened))
        yield from (_continued(prompt, source) for source in opened[:1])
        yield select(_readable(_pieces(text.translate(_NO_WIDTH))))
        yield select(_readable(_INDENTED.findall(text + "\n")))
        last = [block for block in whole + fenced if not block.is_prose][-1:]
        yield last and before + last

    return next((blocks for blocks in readings() if blocks), None)
