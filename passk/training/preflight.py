"""Checks that every command makes before its work: single writer, verifier, gold answers."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from passk.config.schema import RunConfig, TrainConfig
from passk.data.problems import Data
from passk.errors import UserError
from passk.files import only_writer
from passk.ranks import rank
from passk.training.build import Parts
from passk.types import Problem
from passk.verifiers.checks import GoldCheck, check_gold, self_test

C = TypeVar("C", bound=RunConfig)
P = ParamSpec("P")


def with_run_lock(
    work: Callable[Concatenate[C, Path, P], None],
) -> Callable[Concatenate[C, Path, P], None]:
    """Decorate a rank's work on `(cfg, run_dir, ...)`: rank 0 holds the write lock of `run_dir`.

    A process of an earlier run in the same directory may still be alive.
    """

    @wraps(work)
    def locked(cfg: C, run_dir: Path, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with only_writer(run_dir) if rank() == 0 else nullcontext():
            work(cfg, run_dir, *args, **kwargs)

    return locked


def print_notes(data: Data) -> None:
    """Print what was left out of the data, one line each."""
    print(*data.notes, sep="\n", end="\n" if data.notes else "", flush=True)


def require_weights(cfg: TrainConfig, data: Data) -> None:
    """Raise UserError if every training problem has weight 0, so that nothing would be trained."""
    source = data.corpus if cfg.regime.name == "sft" else data.train
    if source and not any(problem.weight for problem in source):
        raise UserError(
            f"all {len(source)} training problems have weight 0, so nothing would be trained; give "
            "some a weight above 0, or leave the weights out with data.weight_column=null"
        )


def checked(cfg: RunConfig, parts: Parts, train: Sequence[Problem]) -> tuple[Parts, GoldCheck]:
    """Test the verifier; return the parts without training problems that it can never reward.

    `train` are the training problems whose gold answers are checked with the held-out ones.
    """
    self_test(parts.verifier)
    if not cfg.data.check_gold:
        return parts, GoldCheck(0, ())
    gold = check_gold(parts.verifier, train, parts.data.heldout)
    kept = gold.kept(parts.data.train)
    if gold.refused:
        print(gold.sentence(len(parts.data.train) - len(kept)), flush=True)
    return replace(parts, data=replace(parts.data, train=kept)), gold
