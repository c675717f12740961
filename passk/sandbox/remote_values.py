"""How values travel between the code that is tested and the tests: JSON, nothing that can run.

The reader trusts nothing it reads. Plain built-in values travel by value and arrive as exactly
those types, whatever a subclass had redefined; built-in types travel by name; everything else
stays where it is and travels as a number that stands for it.
"""

import builtins
import json
from collections.abc import Callable
from typing import Any

_CONTAINERS: dict[str, Any] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset,
}  # fmt: skip
MAX_MESSAGE_BYTES = 64 * 2**20


def encode(value: object, reference: Callable[[object], int]) -> object:
    """What `json.dumps` takes. `reference` gives the number of an object that has to stay."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, int):
        return ["int", hex(value)]  # decimal digits of long numbers would take quadratic time
    return _encode_tagged(value, reference)


def _encode_tagged(value: object, reference: Callable[[object], int]) -> list[object]:
    for tag, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return [tag, [encode(item, reference) for item in kind.__iter__(value)]]
    if isinstance(value, dict):
        pairs = dict.items(value)
        return ["dict", [[encode(k, reference), encode(v, reference)] for k, v in pairs]]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, bytes | bytearray):
        return [("bytes" if isinstance(value, bytes) else "bytearray"), bytes(value).hex()]
    if isinstance(value, range):
        return ["range", [hex(part) for part in (value.start, value.stop, value.step)]]
    name = getattr(value, "__name__", None)
    if isinstance(value, type) and isinstance(name, str) and getattr(builtins, name, None) is value:
        return ["type", name]
    if value is ...:
        return ["ellipsis", None]
    return ["ref", reference(value)]


def decode(value: object, dereference: Callable[[int], object]) -> object:
    """The value that `encode` took. Whatever is not of that form raises a plain exception."""
    if not isinstance(value, list):
        if isinstance(value, str | float | bool | None):
            return value
        raise TypeError(f"no value: {type(value)}")
    tag, content = value
    if tag in _CONTAINERS:
        return _CONTAINERS[tag](decode(item, dereference) for item in content)
    if tag == "dict":
        return {decode(k, dereference): decode(v, dereference) for k, v in content}
    if tag == "range":
        return range(*(int(part, 16) for part in content))
    if tag == "type":
        return builtin_type(content)
    simple: dict[str, Callable[[], object]] = {
        "int": lambda: int(content, 16),
        "complex": lambda: complex(*content),
        "bytes": lambda: bytes.fromhex(content),
        "bytearray": lambda: bytearray.fromhex(content),
        "ellipsis": lambda: ...,
        "ref": lambda: dereference(int(content)),
    }
    return simple[tag]()


def builtin_type(name: str) -> type:
    """The built-in class of this name, exceptions among them."""
    kind = getattr(builtins, name)
    if not isinstance(kind, type):
        raise TypeError(f"{name} is no type")
    return kind


def pack(message: object) -> bytes:
    """A message with its length in front."""
    body = json.dumps(message).encode()
    if len(body) > MAX_MESSAGE_BYTES:
        raise ValueError("a value is too large to be handed over")
    return len(body).to_bytes(8, "big") + body


def unpack(read: Callable[[int], bytes]) -> dict[str, Any]:
    """The next message; `read(n)` gives n bytes."""
    length = int.from_bytes(read(8), "big")
    if length > MAX_MESSAGE_BYTES:
        raise ValueError("a message is too long")
    message = json.loads(read(length))
    if not isinstance(message, dict):
        raise TypeError("a message is a dictionary")
    return message
