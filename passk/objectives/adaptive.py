"""Choose the objective of each step from the measurements of earlier steps (the remedies).

Nothing here handles gradients or models: a rule maps the history of measurements to the numbers of
the objective (k, the weight of Pass@1, the success that a prompt needs to enter). f(k) below is the
product of gradients <grad J_k, grad J_1>, measured from the batches themselves
(`passk.diagnostics.alignment`). A choice rests on earlier batches only, so the next batch's
gradient is unbiased for it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from passk.config.schema import RegimeConfig, mix, uses_products
from passk.objectives.advantages import Objective, as_configured
from passk.statistics import Interval, seed_interval, slope_interval

_UNKNOWN = Interval(np.nan, np.nan, np.nan)


@dataclass(frozen=True, slots=True)
class History:
    """Past measurements, oldest first: at most `regime.window` of each kind.

    `products` are measurements of f(1) to f(regime.k). `pass1` is the Pass@1 of the batches that
    were drawn under `objective`, the objective of the last step.
    """

    products: tuple[tuple[float, ...], ...] = ()
    pass1: tuple[float, ...] = ()
    objective: Objective | None = None

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> "History":
        """Restore a history from its `dataclasses.asdict`, as JSON returns it."""
        products, in_force = tuple(tuple(row) for row in saved["products"]), saved["objective"]
        if in_force is not None:
            in_force = Objective(**in_force | {"terms": tuple(map(tuple, in_force["terms"]))})
        return cls(products, tuple(saved["pass1"]), in_force)


def choose(regime: RegimeConfig, history: History) -> Objective:
    """Return the objective of the next step."""
    configured = as_configured(regime)
    if regime.name == "adaptive_k":
        return replace(configured, terms=mix(_lowered_k(regime, history), regime.weight))
    if regime.name == "projected":
        return replace(configured, terms=mix(regime.k, _projecting_weight(regime, history)))
    if regime.name == "curriculum" and not _has_levelled_off(regime, history):
        return replace(configured, min_success=regime.min_success)
    return configured


def remember(
    regime: RegimeConfig,
    history: History,
    objective: Objective,
    pass1: float | None,
    products: tuple[float, ...] | None,
) -> History:
    """Return the history after a step under `objective`; None marks what was not measured."""
    if not regime.is_remedy:
        return history
    # A slope is fitted under one objective: a change of objective starts a new series.
    same = objective == history.objective
    batches = (history.pass1 if same else ()) + (() if pass1 is None else (pass1,))
    measured = history.products + (() if products is None else (products,))
    return History(measured[-regime.window :], batches[-regime.window :], objective)


def evidence(regime: RegimeConfig, history: History, objective: Objective) -> dict[str, float]:
    """Return the measurements behind the choice of `objective`, as columns; NaN if unknown yet."""
    if not regime.is_remedy:
        return {}
    known = {"pass1_slope": _slope(regime, history)}
    if uses_products(regime):
        products = pooled(regime, history) or [_UNKNOWN] * regime.k
        known = {
            "product_1": products[0],
            "product_used": products[objective.k - 1],
            "product_asked": products[regime.k - 1],
        }
    return {
        f"{name}{'' if end == 'value' else f'_{end}'}": number
        for name, interval in known.items()
        for end, number in asdict(interval).items()
    }


def pooled(regime: RegimeConfig, history: History) -> list[Interval]:
    """Average f(1), f(2), ... over the measurements, with Student-t intervals.

    Each measurement has its own prompts and samples, so their scatter contains all chance, through
    both gradients of the product. The intervals do not account for two things: the policy moves
    between measurements, so this is the mean over the window's policies; and the intervals are
    inspected at every step.
    """
    if not history.products:
        return []
    return [seed_interval(f, regime.level) for f in zip(*history.products, strict=True)]


def _lowered_k(regime: RegimeConfig, history: History) -> int:
    """Choose k for `adaptive_k`.

    By `products`, k is the one before the first k in conflict, or regime.k if there is no conflict.
    With `regime.cautious`, k is in conflict unless f(k) is clearly above 0, so k starts at 1. Else
    k is in conflict only if f(k) is clearly below 0, so k starts at regime.k. By `slope`, k is half
    of the last k once Pass@1 has clearly fallen over a whole window under it, else the last k.
    """
    if uses_products(regime):
        products = pooled(regime, history) or [_UNKNOWN] * regime.k
        in_conflict = [not f.low > 0 if regime.cautious else f.high < 0 for f in products]
        in_conflict[0] = False  # f(1) is a squared norm, and below 0 by chance alone
        return in_conflict.index(True) if any(in_conflict) else regime.k
    k = history.objective.k if history.objective else regime.k
    falls = len(history.pass1) == regime.window and _slope(regime, history).high < 0
    return max(k // 2, 1) if falls else k


def _projecting_weight(regime: RegimeConfig, history: History) -> float:
    """Compute the weight of Pass@1 that removes the component of grad J_k against grad J_1.

    grad J_k + l grad J_1 with l = max(0, -f(k)/f(1)) is orthogonal to grad J_1 if the two are in
    conflict. The weights l/(1+l) and 1/(1+l) give the same direction; only its length differs,
    which Adam removes. With `regime.cautious`, f(k) is the lower end of its interval. If f(1) is
    not clearly above 0, the last weight stays.
    """
    products = pooled(regime, history)
    if not (products and products[0].low > 0):
        return history.objective.pass1_weight if history.objective else regime.weight
    of_k = products[regime.k - 1]
    needed = max(0.0, -(of_k.low if regime.cautious else of_k.value) / products[0].value)
    return needed / (1 + needed)


def _has_levelled_off(regime: RegimeConfig, history: History) -> bool:
    """Return True once Pass@1 has not clearly risen over a whole window, and ever after."""
    if history.objective is not None and history.objective.min_success == 0:
        return True
    return len(history.pass1) == regime.window and not _slope(regime, history).low > 0


def _slope(regime: RegimeConfig, history: History) -> Interval:
    """Compute the slope per step of the batches' Pass@1 under the last objective."""
    return slope_interval(history.pass1, regime.level) if len(history.pass1) > 2 else _UNKNOWN
