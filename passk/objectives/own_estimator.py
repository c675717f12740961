"""Load a user's estimator, FILE.py:FUNCTION, and hold its results to what training needs.

The file is executed, because the user named it. Nothing that only reads runs executes one.
"""

import hashlib
import runpy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passk.errors import UserError

FloatArray = NDArray[np.float64]


def own_estimator(named: str) -> Callable[[FloatArray], FloatArray]:
    """Return the user's function, rewards [P, n] to advantages [P, n], with its results checked.

    Rewards are 0, 1 or NaN (not judged); the function gets a copy of them. Raises UserError if it
    cannot be loaded, and, when called, if it fails or returns anything but finite numbers of that
    shape that are 0 for samples that were not judged.
    """
    function = _load(named)

    def checked(rewards_PG: FloatArray) -> FloatArray:
        shape = list(rewards_PG.shape)
        try:
            returned = function(rewards_PG.copy())
            advantages_PG = np.array(returned, dtype=np.float64)
        except Exception as error:
            raise _unusable(named, f"failed on rewards of {shape}: {_in_words(error)}") from error
        if advantages_PG.shape != rewards_PG.shape:
            found = list(advantages_PG.shape)
            raise _unusable(named, f"returned {found} for rewards of {shape}; one each is needed")
        if not np.isfinite(advantages_PG).all():
            place = np.argwhere(~np.isfinite(advantages_PG))[0].tolist()
            raise _unusable(named, f"returned {advantages_PG[*place]} at {place}; use numbers")
        if advantages_PG[np.isnan(rewards_PG)].any():
            raise _unusable(named, "must return 0 for samples that were not judged (reward NaN)")
        return advantages_PG + 0.0  # no negative zeros

    return checked


def own_digest(named: str) -> str:
    """Return the SHA-256 of the file of FILE.py:FUNCTION."""
    return hashlib.sha256(_parts(named)[0].read_bytes()).hexdigest()


@cache
def _load(named: str) -> Callable[[FloatArray], Any]:
    """Execute the file, once per process, and return the function."""
    file, name = _parts(named)
    try:
        defined = runpy.run_path(str(file))
    except Exception as error:
        raise _unusable(named, f"cannot be loaded: {_in_words(error)}") from error
    if not callable(defined.get(name)):
        own = [key for key, value in defined.items() if callable(value) and key[0] != "_"]
        raise _unusable(named, f"is not there: {file} defines {', '.join(own) or 'no function'}")
    function: Callable[[FloatArray], Any] = defined[name]
    return function


def _parts(named: str) -> tuple[Path, str]:
    file, _, name = named.rpartition(":")
    return Path(file).expanduser(), name


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _unusable(named: str, why: str) -> UserError:
    return UserError(f"regime.estimator={named} {why}")
