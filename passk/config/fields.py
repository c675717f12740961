"""Bounds and choices of the fields of a configuration, stated beside each field, and their check.

`x: int = bounded(16, at_least=2)` has 16 as its default, as `x: int = 16` has.
"""

import re
from collections.abc import Iterator
from dataclasses import Field, field, fields, is_dataclass
from math import isfinite
from typing import Any, TypeVar, get_args, get_origin

from passk.errors import UserError

T = TypeVar("T")

LARGEST_SEED = 2**32 - 1  # of NumPy and of the trackers; torch takes more
_MOST = 10**9  # of any count: a larger one is a typing mistake
_ITEMS: dict[object, tuple[str, type | tuple[type, ...]]] = {
    str: ("texts", str),
    int: ("whole numbers", int),
    float: ("numbers", (int, float)),
}


def bounded(
    default: T, *, at_least: int | None = None, at_most: int | None = None, positive: bool = False
) -> T:
    """Declare a field of numbers; without `at_most`, counts end at a billion."""
    return _declared(default, at_least=at_least, at_most=at_most, positive=positive)


def share(default: T, *, positive: bool = False) -> T:
    """Declare a field of numbers from 0 to 1, or above 0."""
    return _declared(default, share=True, positive=positive)


def one_of(default: T, choices: tuple[str, ...], *, or_form: tuple[str, str] | None = None) -> T:
    """Declare a field of a few words, or of a form: its name in messages and its expression."""
    return _declared(default, choices=choices, or_form=or_form)


def _declared(default: T, **metadata: Any) -> T:
    declared: T = field(default=default, metadata=metadata)
    return declared


def check_fields(cfg: object) -> None:
    """Raise UserError for the first field that is unknown or has a value that is not allowed."""
    for key, declared, value in _flatten(cfg):
        _check_items(key, declared.type, value)
        check_field(key, declared, value)


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Field[Any], object]]:
    names = [declared.name for declared in fields(node)]
    for extra in vars(node).keys() - set(names):  # Hydra's +key=value adds without asking
        raise UserError(f"{prefix}{extra} is not a key of passk; allowed: {', '.join(names)}")
    for declared in fields(node):
        value = getattr(node, declared.name)
        key = f"{prefix}{declared.name}"
        if is_dataclass(value):
            yield from _flatten(value, f"{key}.")
        else:
            yield key, declared, value


def _check_items(key: str, kind: object, value: object) -> None:
    """Raise UserError for a list inside a list, which OmegaConf accepts as an item of any type."""
    listed = [part for part in (kind, *get_args(kind)) if get_origin(part) is list]  # or `| None`
    kinds = get_args(listed[0]) if listed else ()
    if kinds and kinds[0] in _ITEMS and isinstance(value, list):
        name, allowed = _ITEMS[kinds[0]]
        if not all(isinstance(item, allowed) for item in value):
            raise UserError(f"{key}={value} must be a list of {name}")


def check_field(key: str, declared: Field[Any], value: object) -> None:
    """Raise UserError if a field may not have this value, whatever the values of the others."""
    limits = declared.metadata
    choices, form = limits.get("choices"), limits.get("or_form")
    fits = form is not None and re.fullmatch(form[1], str(value)) is not None
    if choices and value is not None and value not in choices and not fits:
        allowed = ", ".join((*choices, *([form[0]] if form else ())))
        raise UserError(f"{key}={value} is unknown; allowed: {allowed}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if limits.get("share") and not 0 <= value <= 1:
        raise UserError(f"{key}={value} must lie between 0 and 1")
    if isinstance(value, float) and not isfinite(value):
        raise UserError(f"{key}={value} must be a finite number")
    at_least, at_most = limits.get("at_least"), limits.get("at_most")
    if at_least is not None and value < at_least:
        raise UserError(f"{key}={value} is too small; at least {at_least} is needed")
    if at_most is None and isinstance(value, int):
        at_most = _MOST
    if at_most is not None and value > at_most:
        raise UserError(f"{key}={value} is too large; at most {at_most} is possible")
    if limits.get("positive") and not value > 0:
        raise UserError(f"{key}={value} must be above 0")
