"""The process that runs the code a model wrote, and calls it as the tests ask.

Nothing in here is safe from that code, and nothing needs to be: all it can do is answer, and the
tests look at the answers in a process of their own (`judge.py`).
"""

import ast
import operator
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from passk.sandbox.remote_values import decode, encode, pack, unpack

# What a test may do with an object that stays here.
OPERATIONS: dict[str, Callable[..., object]] = {
    "call": lambda function, *args, **kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "eq": operator.eq,
    "str": str,
    "repr": repr,
}


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)


def programs(prompt: str, code: str) -> list[types.CodeType] | None:
    """What to run, in order; None where there is no program.

    Code that parses by itself runs after the prompt, if that is Python too: it may hold imports and
    functions that the answer leaves out. Else the code may be what follows a prompt that ends in
    the head of a function. Expressions alone are prose, not a program.
    """
    for sources in ((prompt, code), (code,), (prompt + code,), (prompt + "\n" + code,)):
        try:
            parsed = [ast.parse(source) for source in sources]
            *before, program = (tree.body for tree in parsed)
            if all(isinstance(statement, ast.Expr) for statement in program):
                continue
            if not all(any(isinstance(s, _DEFINITIONS) for s in body) for body in before):
                continue
            return [compile(tree, "<solution>", "exec") for tree in parsed]
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return None


class _Server:
    """Answers requests until the other side closes."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self._kept: list[object] = []

    def _keep(self, value: object) -> int:
        self._kept.append(value)
        return len(self._kept) - 1

    def encode(self, value: object) -> object:
        return encode(value, self._keep)

    def _decode(self, value: object) -> object:
        return decode(value, self._kept.__getitem__)

    def send(self, message: dict[str, object]) -> None:
        data = memoryview(pack(message))
        while data:
            data = data[os.write(self._replies, data) :]

    def receive(self) -> dict[str, Any]:
        """Return the next message. EOFError where the other side has closed."""
        return unpack(self._read)

    def _read(self, size: int) -> bytes:
        chunks = []
        while size:
            chunks.append(os.read(self._requests, min(size, 2**20)))
            if not chunks[-1]:
                raise EOFError
            size -= len(chunks[-1])
        return b"".join(chunks)

    def reply(self, compute: Callable[[], dict[str, object]]) -> None:
        """Send what `compute` gives, or the exception that it raises."""
        try:
            message = compute()
            pack(message)  # a value that cannot be sent is an exception as well
        except BaseException as error:
            names = [kind.__name__ for kind in type(error).__mro__ if _is_builtin(kind)]
            message = {"raised": names, "arguments": [_plain(arg) for arg in error.args]}
        self.send(message)

    def _answer(self, request: dict[str, object]) -> dict[str, object]:
        operation, asked = OPERATIONS[str(request["operation"])], request["args"]
        args, kwargs = self._decode(asked), self._decode(request["kwargs"])
        value = self.encode(operation(*args, **kwargs))  # type: ignore[misc,arg-type]
        # Arguments that were changed in place are changed at home as well.
        after = self.encode(args)
        return {"value": value} if after == asked else {"value": value, "args": after}

    def serve(self) -> None:
        while True:
            try:
                request = self.receive()
            except EOFError:
                return
            self.reply(lambda request=request: self._answer(request))  # type: ignore[misc]


def _is_builtin(kind: type) -> bool:
    return kind.__module__ == "builtins" and issubclass(kind, BaseException)


def _plain(argument: object) -> object:
    return argument if isinstance(argument, str | int | float | None) else str(argument)


def _definitions(module: types.ModuleType) -> Iterator[tuple[str, object]]:
    """What the code itself defines: no imports, as tests must not take theirs from it."""
    importable = types.FunctionType | types.BuiltinFunctionType | type
    for name, value in vars(module).items():
        imported = isinstance(value, importable) and value.__module__ != module.__name__
        if not name.startswith("__") and not imported and not isinstance(value, types.ModuleType):
            yield name, value


def run_solution(requests: int, replies: int) -> None:
    """Read the program, run it, say what it defines, and serve calls to it.

    The first request is {"prompt": ..., "code": ...}. Messages: {} before the program starts, then
    {"unparsed": true}, or {"names": [[name, value], ...], "functions": [name, ...]}, or
    {"raised": ...}.
    """
    server = _Server(requests, replies)
    program = server.receive()
    server.send({})
    units = programs(program["prompt"], program["code"])
    if units is None:
        server.send({"unparsed": True})
        return
    module = types.ModuleType("solution")
    sys.modules["solution"] = module

    def start() -> dict[str, object]:
        for unit in units:
            exec(unit, vars(module))
        defined = dict(_definitions(module))
        return {
            "names": [[name, server.encode(value)] for name, value in defined.items()],
            "functions": [n for n, v in defined.items() if isinstance(v, types.FunctionType)],
        }

    server.reply(start)
    server.serve()
