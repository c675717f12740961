"""Process that runs model-written code, and calls it as the tests request.

Nothing in this process is safe from that code, and nothing needs to be: it can only answer, and the
tests check the answers in a separate process (`judge.py`).
"""

import contextlib
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from passk.verifiers.code.program import Block, find_program, read_prompt
from passk.verifiers.code.remote_values import decode, encode, pack, unpack

# Operations that a test may apply to an object that stays here.
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
    "hash": hash,
    "isinstance": isinstance,
    "str": str,
    "repr": repr,
}


class _Server:
    """Server of requests until the other side closes."""

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
        """Return the next message; raise EOFError if the other side has closed."""
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
        """Send the result of `compute`, or the exception that it raises."""
        try:
            message = compute()
            pack(message)  # a value that cannot be sent raises as well
        except BaseException as error:
            names = [kind.__name__ for kind in type(error).__mro__ if _is_builtin(kind)]
            message = {"raised": names, "arguments": [_plain(arg) for arg in error.args]}
        self.send(message)

    def _answer(self, request: dict[str, object]) -> dict[str, object]:
        operation, asked = OPERATIONS[str(request["operation"])], request["args"]
        args, kwargs = self._decode(asked), self._decode(request["kwargs"])
        value = self.encode(operation(*args, **kwargs))  # type: ignore[misc,arg-type]
        # Arguments that were changed in place go back, to be changed in the judge as well.
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


def _is_function(value: object) -> bool:
    """Return True for callables other than classes and type hints such as `list[int]`."""
    return (
        callable(value)
        and not isinstance(value, type | types.GenericAlias)
        and type(value).__module__ != "typing"
    )


def _seen(
    space: dict[str, object], blocks: list[Block], wanted: set[str], asked: set[str]
) -> dict[str, object]:
    """Return the names that the tests see of a program that has run, with their values.

    These are functions, classes and the values that the tests use, but no imports: tests must not
    get theirs from the program. An import counts if the problem asks for that name, or if the
    program defines nothing that is wanted, so that the import is its whole answer.
    """
    defined = {name for block in blocks for name in block.defined}
    imported = {name for block in blocks for name in block.imported}
    if "*" in imported:
        imported = set(space)
    counts = asked if defined & wanted else wanted
    hidden = imported - defined - counts
    return {
        name: value
        for name, value in space.items()
        if not (name.startswith("__") or name in hidden or isinstance(value, types.ModuleType))
        and (name in wanted or callable(value))
    }


def run_solution(requests: int, replies: int) -> None:
    """Read the program, run it, report what it defines, and serve calls to it.

    The first request is {"prompt": ..., "code": ...}; the reply is {}. The second is {"wanted":
    [name, ...], "asked": [name, ...]}, the names that the tests use and those that the problem asks
    for; the reply is {"unparsed": true}, or {"names": [[name, value], ...], "functions": [name,
    ...]}, or {"raised": ...}.
    """
    server = _Server(requests, replies)
    program = server.receive()
    server.send({})
    names = {key: set(value) for key, value in server.receive().items()}
    prompt, wanted = read_prompt(program["prompt"]), frozenset(names["wanted"])
    blocks = find_program(prompt, program["code"], wanted)
    if blocks is None:
        server.send({"unparsed": True})
        return
    module = types.ModuleType("solution")
    sys.modules["solution"] = module

    def start() -> dict[str, object]:
        for block in blocks:
            # A program that asks for input has defined its names by then.
            with contextlib.suppress(EOFError):
                exec(block.code, vars(module))
        seen = _seen(vars(module), blocks, **names)
        return {
            "names": [[name, server.encode(value)] for name, value in seen.items()],
            "functions": [name for name, value in seen.items() if _is_function(value)],
        }

    server.reply(start)
    server.serve()
