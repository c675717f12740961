"""Checks that every command makes before its work: verifier, gold answers."""

from collections.abc import Sequence
from dataclasses import replace

from passk.config.schema import RunConfig, TrainConfig
from passk.data.problems import Data
from passk.errors import UserError
from passk.training.build import Parts
from passk.types import Problem
from passk.verifiers.checks import GoldCheck, check_gold, self_test


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


def run_preflight(
    cfg: RunConfig, parts: Parts, train: Sequence[Problem]
) -> tuple[Parts, GoldCheck]:
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
