"""Reads (gold answer, completion, expected) out of Python tests, without running them.

The tests are walked as syntax trees. Literals and names that hold them are followed; a call of a
judge, such as `is_equiv(a, b)`, becomes a `Judged`, and an assertion about one becomes a case.
Everything else is unknown and passed over.
"""

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from answer_judges import Case

Place = int | str
# How a judge is called: where the completion and where the gold answer stand.
Judge = tuple[tuple[Place, ...], tuple[Place, ...]]
_RIGHT: tuple[Any, ...] = (True, "C", "correct")
_WRONG: tuple[Any, ...] = (False, -1, "I", "incorrect")
# Calls that only hand on one of their arguments.
_TRANSPARENT: dict[str, Place] = {"int": 0, "Target": 0, "simple_task_state": "model_output"}
_MEANINGS = {"CORRECT": "C", "INCORRECT": "I"}


class Unknown(Exception):
    """A value that is only known when the test runs."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a judge says of a completion, not known yet."""

    gold: str
    completion: str


def read_cases(
    folder: Path, file: str, judges: Mapping[str, Judge], columns: tuple[str, str, str]
) -> Iterator[Case]:
    """Every case of a test file, each once, with the name of its test as its family.

    `columns` names the arguments of parametrised tests that hold completion, gold answer and what
    is expected; where the last is empty, tests of *invalid* answers expect a refusal.
    """
    tree = ast.parse((folder / file).read_text(encoding="utf-8"))
    reader = _Reader((folder / file).parent, judges)
    module = reader.run(tree.body, dict(_MEANINGS))
    seen = set()
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for row in reader.rows(function, module):
            reader.found.clear()
            reader.run(function.body, module | row)
            reader.found += _from_row(row, columns, function.name)
            for judged, expected in reader.found:
                key = (judged.gold, judged.completion, expected)
                if key not in seen:
                    seen.add(key)
                    name = f"{file}::{function.name}"
                    yield Case(judged.gold, judged.completion, expected, function.name, name)


def _from_row(
    row: dict[str, Any], columns: tuple[str, str, str], test: str
) -> list[tuple[Judged, bool]]:
    for known in (row, *row.values()):
        if isinstance(known, dict) and columns[0] in known and columns[1] in known:
            expected = known.get(columns[2], "invalid" not in test)
            judged = Judged(_text(known[columns[1]]), _text(known[columns[0]]))
            return [(judged, expected in _RIGHT)]
    return []


class _Reader:
    """Follows literals through statements. State: the assertions found."""

    def __init__(self, folder: Path, judges: Mapping[str, Judge]) -> None:
        self._folder = folder
        self._judges = judges
        self.found: list[tuple[Judged, bool]] = []

    def rows(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The parametrised arguments of a test: one empty row where it has none."""
        rows: list[dict[str, Any]] = [{}]
        for call in function.decorator_list:
            if not isinstance(call, ast.Call) or _name(call) not in ("parametrize", "expand"):
                continue
            arguments = [a.arg for a in function.args.args if a.arg != "self"]
            values = call.args[0]
            if _name(call) == "parametrize":
                named = self.value(call.args[0], names)
                arguments = named.split(",") if isinstance(named, str) else list(named)
                values = call.args[1]
            rows = [
                row | dict(zip(map(str.strip, arguments), cells, strict=False))
                for cells in self._table(values, names, len(arguments))
                for row in rows
            ]
        return rows

    def _table(
        self, values: ast.expr, names: dict[str, Any], width: int
    ) -> Iterator[tuple[Any, ...]]:
        nodes = values.elts if isinstance(values, ast.List | ast.Tuple) else [values]
        for node in nodes:
            try:
                cells = self.value(node, names)
            except Unknown:
                continue
            several = cells if node is values else [cells]
            yield from (tuple(row) if width > 1 else (row,) for row in several)

    def run(self, body: list[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
        """Follow statements; returns the names that hold known values."""
        for statement in body:
            try:
                self._follow(statement, names)
            except Unknown:
                continue
        return names

    def _follow(self, statement: ast.stmt, names: dict[str, Any]) -> None:
        match statement:
            case ast.Assign(targets=[target], value=value):
                self._assign(target, value, names)
            case ast.For(target=target, iter=each, body=body):
                for item in self.value(each, names):
                    self._bind(target, item, names)
                    self.run(body, names)
            case ast.With(body=body) | ast.AsyncWith(body=body) | ast.Try(body=body):
                self.run(body, names)
            case ast.Assert(test=test):
                self._assert(test, names)
            case ast.Expr(value=ast.Call() as call):
                self._unittest(call, names)

    def _assign(self, target: ast.expr, value: ast.expr, names: dict[str, Any]) -> None:
        try:
            known = self.value(value, names)
        except Unknown:
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    names.pop(name.id, None)
            raise
        self._bind(target, known, names)

    def _bind(self, target: ast.expr, known: Any, names: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            names[target.id] = known
        elif isinstance(target, ast.Tuple) and isinstance(known, Judged):
            self._bind(target.elts[0], known, names)  # score, extracted = ...
        elif isinstance(target, ast.Tuple):
            for element, item in zip(target.elts, known, strict=False):
                self._bind(element, item, names)

    def _unittest(self, call: ast.Call, names: dict[str, Any]) -> None:
        match _name(call):
            case "assertTrue":
                self._assert(call.args[0], names)
            case "assertFalse":
                self._assert(ast.UnaryOp(ast.Not(), call.args[0]), names)
            case "assertEqual" | "assertIs":
                self._assert(ast.Compare(call.args[0], [ast.Eq()], call.args[1:2]), names)

    def _assert(self, test: ast.expr, names: dict[str, Any]) -> None:
        expected: Any = True
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test, expected = test.operand, False
        elif isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.Is):
            expected = self.value(test.comparators[0], names)
            test = test.left
        judged = self.value(test, names)
        pairs = (
            zip(judged, expected, strict=False)
            if isinstance(judged, list) and isinstance(expected, list)
            else [(judged, expected)]
        )
        for one, meaning in pairs:
            if isinstance(one, Judged) and meaning in (*_RIGHT, *_WRONG):
                self.found.append((one, meaning in _RIGHT))

    def value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        """What an expression is worth; raises Unknown."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id=name):
                if name in names:
                    return names[name]
            case ast.List(elts=elements):
                return [self.value(element, names) for element in elements]
            case ast.Tuple(elts=elements):
                return tuple(self.value(element, names) for element in elements)
            case ast.Dict(keys=keys, values=values):
                return self._dictionary(keys, values, names)
            case ast.Call():
                return self._call(node, names)
            case _:
                return self._part(node, names)
        raise Unknown(ast.dump(node))

    def _part(self, node: ast.expr, names: dict[str, Any]) -> Any:
        match node:
            case ast.Await(value=inner):
                return self.value(inner, names)
            case ast.Subscript(value=inner, slice=place):
                return _item(self.value(inner, names), self.value(place, names))
            case ast.Attribute(value=inner):
                known = self.value(inner, names)
                if isinstance(known, Judged):  # result.value, output.is_correct
                    return known
                raise Unknown(ast.dump(node))
        return _computed(node, [self.value(part, names) for part in _operands(node)])

    def _dictionary(
        self, keys: list[ast.expr | None], values: list[ast.expr], names: dict[str, Any]
    ) -> dict[Any, Any]:
        known = {}
        for key, value in zip(keys, values, strict=True):
            try:
                known[self.value(key or ast.Constant(None), names)] = self.value(value, names)
            except Unknown:
                continue
        return known

    def _call(self, call: ast.Call, names: dict[str, Any]) -> Any:
        name = _name(call)
        if name == "param":
            return tuple(self.value(cell, names) for cell in call.args)
        if name == "loads":  # a table of cases beside the test
            files = [
                str(node.value)
                for node in ast.walk(call)
                if isinstance(node, ast.Constant) and str(node.value).endswith(".json")
            ]
            if files:
                return json.loads((self._folder / files[0]).read_text(encoding="utf-8"))
        if name not in self._judges and name not in _TRANSPARENT:
            raise Unknown(name)
        arguments: dict[Place, Any] = {}
        parts: list[tuple[Place, ast.expr]] = [*enumerate(call.args)]
        parts += ((key.arg or "", key.value) for key in call.keywords)
        for place, node in parts:
            try:
                arguments[place] = self.value(node, names)
            except Unknown:
                continue
        if name in _TRANSPARENT:
            return _at(arguments, (_TRANSPARENT[name],))
        completion, gold = (_at(arguments, place) for place in self._judges[name])
        if isinstance(completion, list):
            pairs = zip(completion, gold, strict=False)
            return [Judged(_text(g), _text(c)) for c, g in pairs]
        return Judged(_text(gold), _text(completion))


def _name(call: ast.Call) -> str:
    """The last part of the name of what is called; a method's is that of the method."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _operands(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(left=left, right=right):
            return [left, right]
        case ast.UnaryOp(operand=operand):
            return [operand]
    raise Unknown(ast.dump(node))


def _computed(node: ast.expr, parts: list[Any]) -> Any:
    match node, parts:
        case ast.BinOp(op=ast.Add()), [left, right]:
            return left + right
        case ast.BinOp(op=ast.Div()), [left, right]:
            return left / right
        case ast.BinOp(op=ast.Mult()), [left, right] if isinstance(right, int) and right < 1000:
            return left * right
        case ast.UnaryOp(op=ast.USub()), [operand]:
            return -operand
    raise Unknown(ast.dump(node))


def _item(known: Any, place: Any) -> Any:
    if isinstance(known, Judged):
        return known
    try:
        return known[place]
    except (LookupError, TypeError) as error:
        raise Unknown(str(place)) from error


def _at(arguments: Mapping[Place, Any], path: tuple[Place, ...]) -> Any:
    known: Any = arguments
    for place in path:
        known = _item(known, place)
    return known


def _text(known: Any) -> str:
    """A text, also one in a chat message, in a list of one, or a number."""
    while isinstance(known, list | tuple) and len(known) == 1:
        known = known[0]
    if isinstance(known, dict) and "content" in known:
        known = known["content"]
    if isinstance(known, bool) or not isinstance(known, str | int | float):
        raise Unknown(str(known))
    return str(known)
