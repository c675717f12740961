"""What a command line says when something is at fault: a sentence on stderr, from here alone."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_KEPT: list[list[str]] = []  # of those who listen instead, the innermost last


def tell(sentence: str) -> None:
    """Say a sentence, or leave it to who listens."""
    if _KEPT:
        _KEPT[-1].append(sentence)
    else:
        with suppress(OSError):  # no room, or nobody listens: the exit code still says it
            print(f"passk: {sentence}", file=sys.stderr, flush=True)


@contextmanager
def listening() -> Iterator[list[str]]:
    """The sentences that are told inside the block, which are not printed."""
    _KEPT.append([])
    try:
        yield _KEPT[-1]
    finally:
        _KEPT.pop()
