"""Encode values between the tested code and the tests as JSON, so that nothing can run.

The reader trusts nothing it reads. Values of built-in types, and of standard library types that
compare by content, travel by value and arrive as exactly those types, whatever a subclass had
redefined. Built-in types travel by name. Everything else stays where it is and travels as a number
that stands for it.
"""

import builtins
import collections
import functools
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

_CONTAINERS: dict[str, Any] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset,
}  # fmt: skip
MAX_MESSAGE_BYTES = 64 * 2**20


class _Form(NamedTuple):
    """Encoding of a type: `parts` takes a value apart; its type, or `make`, rebuilds it."""

    parts: Callable[[Any], list[Any]]
    make: Callable[..., Any] | None = None


def _make_datetime(*parts: Any) -> Any:
    *rest, fold = parts
    return importlib.import_module("datetime").datetime(*rest, fold=fold)


def _make_time(*parts: Any) -> Any:
    *rest, fold = parts
    return importlib.import_module("datetime").time(*rest, fold=fold)


# Subclasses come before the types that they extend.
_STANDARD: dict[str, _Form] = {
    "collections.Counter": _Form(lambda v: [dict(dict.items(v))]),
    "collections.OrderedDict": _Form(lambda v: [dict(collections.OrderedDict.items(v))]),
    "collections.defaultdict": _Form(lambda v: [v.default_factory, dict(dict.items(v))]),
    "collections.deque": _Form(lambda v: [list(collections.deque.__iter__(v)), v.maxlen]),
    "collections.UserDict": _Form(lambda v: [v.data]),
    "collections.UserList": _Form(lambda v: [v.data]),
    "collections.UserString": _Form(lambda v: [v.data]),
    "fractions.Fraction": _Form(lambda v: [v.numerator, v.denominator]),
    "decimal.Decimal": _Form(lambda v: [str(v)]),
    "datetime.datetime": _Form(
        lambda v: [
            *(v.year, v.month, v.day),
            *(v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold),
        ],
        _make_datetime,
    ),
    "datetime.date": _Form(lambda v: [v.year, v.month, v.day]),
    "datetime.time": _Form(
        lambda v: [v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold], _make_time
    ),
    "datetime.timedelta": _Form(lambda v: [v.days, v.seconds, v.microseconds]),
    "datetime.timezone": _Form(lambda v: [v.utcoffset(None)]),
    "zoneinfo.ZoneInfo": _Form(lambda v: [v.key]),
    "array.array": _Form(lambda v: [v.typecode, v.tolist()]),
    "uuid.UUID": _Form(lambda v: [str(v)]),
    "pathlib.PosixPath": _Form(lambda v: [str(v)]),
    "pathlib.PurePosixPath": _Form(lambda v: [str(v)]),
    "pathlib.PureWindowsPath": _Form(lambda v: [str(v)]),
    "ipaddress.IPv4Address": _Form(lambda v: [str(v)]),
    "ipaddress.IPv6Address": _Form(lambda v: [str(v)]),
}
_VIEWS: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "keys": (type({}.keys()), lambda items: dict.fromkeys(items).keys()),
    "values": (type({}.values()), lambda items: dict(enumerate(items)).values()),
    "items": (type({}.items()), lambda items: dict(items).items()),
}


def is_value(value: object) -> bool:
    """Return True if the whole value travels by value, without a reference."""

    def refuse(kept: object) -> int:
        raise TypeError(f"{type(kept).__name__} has to stay")

    try:
        encode(value, refuse)
    except (TypeError, RecursionError):
        return False
    return True


def encode(value: object, reference: Callable[[object], int]) -> object:
    """Encode for `json.dumps`. `reference` returns the number of an object that must stay."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return ["int", hex(value)]  # decimal digits of long numbers would take quadratic time
    return (
        _encode_standard(value, reference)
        or _encode_container(value, reference)
        or _encode_simple(value)
        or ["ref", reference(value)]
    )


def _encode_standard(value: object, reference: Callable[[object], int]) -> list[object] | None:
    kind = type(value)
    if kind.__module__ == "builtins":
        return None
    fields: Any = getattr(kind, "_fields", None)
    if isinstance(value, tuple) and _are_fields(fields, len(value)):
        items = [encode(item, reference) for item in tuple.__iter__(value)]
        return ["namedtuple", [kind.__name__, list(fields), items]]
    for path, form in _STANDARD.items():
        module, _, name = path.rpartition(".")
        standard = getattr(sys.modules.get(module), name, None)  # else no value exists
        if isinstance(standard, type) and isinstance(value, standard):
            return [path, [encode(part, reference) for part in form.parts(value)]]
    return None


def _are_fields(fields: object, count: int) -> bool:
    return (
        isinstance(fields, tuple)
        and len(fields) == count
        and all(isinstance(f, str) and f.isidentifier() and f[0] != "_" for f in fields)
    )


def _encode_container(value: object, reference: Callable[[object], int]) -> list[object] | None:
    for tag, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return [tag, [encode(item, reference) for item in kind.__iter__(value)]]
    if isinstance(value, dict):
        pairs = dict.items(value)
        return ["dict", [[encode(k, reference), encode(v, reference)] for k, v in pairs]]
    for tag, (kind, _) in _VIEWS.items():
        if isinstance(value, kind):
            return [tag, [encode(item, reference) for item in value]]  # type: ignore[attr-defined]
    return None


def _encode_simple(value: object) -> list[object] | None:
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, bytes | bytearray):
        return [("bytes" if isinstance(value, bytes) else "bytearray"), bytes(value).hex()]
    if isinstance(value, range):
        return ["range", [hex(part) for part in (value.start, value.stop, value.step)]]
    name = getattr(value, "__name__", None)
    if isinstance(value, type) and isinstance(name, str) and getattr(builtins, name, None) is value:
        return ["type", name]
    return ["ellipsis", None] if value is ... else None


def _make_standard(path: str, parts: list[object]) -> object:
    form = _STANDARD[path]
    module, _, name = path.rpartition(".")
    return (form.make or getattr(importlib.import_module(module), name))(*parts)


@functools.cache
def _named_tuple(name: str, fields: tuple[str, ...]) -> Any:
    return collections.namedtuple(name, fields)


def decode(value: object, dereference: Callable[[int], object]) -> object:
    """Decode what `encode` returned. Anything else raises an ordinary exception."""
    if not isinstance(value, list):
        if isinstance(value, str | float | bool | None):
            return value
        raise TypeError(f"no value: {type(value)}")
    tag, content = value

    def items(encoded: list[object]) -> list[Any]:
        return [decode(item, dereference) for item in encoded]

    if tag in _CONTAINERS:
        return _CONTAINERS[tag](items(content))
    if tag == "dict":
        return {decode(k, dereference): decode(v, dereference) for k, v in content}
    if tag in _STANDARD:
        return _make_standard(tag, items(content))
    if tag in _VIEWS:
        return _VIEWS[tag][1](items(content))
    simple: dict[str, Callable[[], object]] = {
        "int": lambda: int(content, 16),
        "complex": lambda: complex(*content),
        "bytes": lambda: bytes.fromhex(content),
        "bytearray": lambda: bytearray.fromhex(content),
        "range": lambda: range(*(int(part, 16) for part in content)),
        "type": lambda: builtin_type(content),
        "namedtuple": lambda: _named_tuple(content[0], tuple(content[1]))(*items(content[2])),
        "ellipsis": lambda: ...,
        "ref": lambda: dereference(int(content)),
    }
    return simple[tag]()


def builtin_type(name: str) -> type:
    """Return the built-in class of this name, exceptions included."""
    kind = getattr(builtins, name)
    if not isinstance(kind, type):
        raise TypeError(f"{name} is no type")
    return kind


def pack(message: object) -> bytes:
    """Serialise a message, with its length in front."""
    body = json.dumps(message).encode()
    if len(body) > MAX_MESSAGE_BYTES:
        raise ValueError("a value is too large to be handed over")
    return len(body).to_bytes(8, "big") + body


def unpack(read: Callable[[int], bytes]) -> dict[str, Any]:
    """Read the next message; `read(n)` returns n bytes."""
    length = int.from_bytes(read(8), "big")
    if length > MAX_MESSAGE_BYTES:
        raise ValueError("a message is too long")
    message = json.loads(read(length))
    if not isinstance(message, dict):
        raise TypeError("a message is a dictionary")
    return message
