"""Compare two policies, A and B, by their counts on the same problems, at every k at once.

Pure functions over data frames. Differences are B - A, paired by problem. A band holds at all k
together, so that every k at which it leaves 0 may be named, and with them where the curves cross.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from passk.errors import UserError
from passk.objectives.pass_at_k import pass_at_k
from passk.statistics import bootstrap_intervals, effective_problems, rate_band, simultaneous_band

LEAST_EFFECTIVE = 15  # problems behind a difference; with fewer the band covers too rarely
NUM_RESAMPLES = 4000


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Result of `compare`.

    Attributes:
        table: a row for each k from 1. `a` and `b` with `_low` and `_high` are Pass@k of either,
            with a band over all k; `difference` has an interval for this k alone, and `band_low`
            and `band_high` for all k at once, NaN with fewer than `LEAST_EFFECTIVE` of
            `effective_problems`; `supported` is gain, loss or empty.
        num_problems: problems that were compared.
    """

    table: pd.DataFrame
    num_problems: int

    def supported(self, sign: str) -> list[int]:
        """Return each k at which a `gain` or a `loss` of B against A is supported."""
        return [int(k) for k in self.table["k"][self.table["supported"] == sign]]

    def first(self, sign: str) -> tuple[int, int | None]:
        """Return the confidence set of the first k at which B - A has this sign.

        From the k after the leading run of the other sign to the first k at which this one is
        supported; None where there is none, as the sign may then never come.
        """
        is_other_K = (self.table["supported"] == {"gain": "loss", "loss": "gain"}[sign]).to_numpy()
        leading = len(is_other_K) if is_other_K.all() else int(is_other_K.argmin())
        return leading + 1, min(self.supported(sign), default=None)


def pair_counts(a: pd.DataFrame, b: pd.DataFrame, k_max: int | None) -> pd.DataFrame:
    """Pair the counts (problem_id, n, c) of two evaluations: problem_id, n_a, c_a, n_b, c_b.

    Problems that only one has are left out, and those with fewer than `k_max` judged samples, or
    without any.

    Raises:
        UserError: fewer than two problems remain.
    """
    both = a.merge(b, on="problem_id", suffixes=("_a", "_b"), validate="1:1")
    if len(both) < 2:
        raise UserError(
            f"A has counts of {len(a)} problems and B of {len(b)}, and {len(both)} of them are of "
            "the same id; a paired comparison needs at least 2"
        )
    least_P = both[["n_a", "n_b"]].min(axis=1)
    usable = both[least_P >= (k_max or 1)].reset_index(drop=True)
    if len(usable) < 2:
        raise UserError(
            f"k_max={k_max or 1} leaves {len(usable)} of the {len(both)} problems that A and B "
            f"share; the most judged samples that a problem has in both are {least_P.max()}, and "
            "at least 2 problems with k_max of them are needed"
        )
    return usable


def compare(pairs: pd.DataFrame, k_max: int | None = None) -> Comparison:
    """Compare Pass@k of A and B at each k from 1 to `k_max`, by default to the fewest samples.

    `pairs` comes from `pair_counts`. The interval for one k is the percentile bootstrap of reports.
    """
    least = int(pairs[["n_a", "n_b"]].to_numpy().min())
    ks = range(1, (k_max or least) + 1)
    a_PK, b_PK = (_rates(pairs[f"n_{of}"], pairs[f"c_{of}"], ks) for of in "ab")
    difference_PK = b_PK - a_PK
    band = simultaneous_band(difference_PK, num_resamples=NUM_RESAMPLES)
    effective_K = effective_problems(difference_PK)
    is_honest_K = effective_K >= LEAST_EFFECTIVE
    columns: dict[str, object] = {"k": list(ks)}
    for name, rates_PK in (("a", a_PK), ("b", b_PK)):
        of_one = rate_band(rates_PK, num_resamples=NUM_RESAMPLES)
        columns |= {
            name: of_one.value_K,
            f"{name}_low": of_one.low_K,
            f"{name}_high": of_one.high_K,
        }
    alone = [(interval.low, interval.high) for interval in bootstrap_intervals(difference_PK)]
    columns["difference"] = band.value_K
    ends_K2 = {"difference": np.array(alone), "band": np.stack([band.low_K, band.high_K], axis=1)}
    for name, interval_K2 in ends_K2.items():
        interval_K2 = np.where(is_honest_K[:, None], interval_K2, np.nan)
        columns |= {f"{name}_low": interval_K2[:, 0], f"{name}_high": interval_K2[:, 1]}
    columns["effective_problems"] = effective_K
    table = pd.DataFrame(columns)
    is_gain, is_loss = table["band_low"] > 0, table["band_high"] < 0
    table["supported"] = np.select([is_gain, is_loss], ["gain", "loss"], "")
    return Comparison(table, len(pairs))


def _rates(n_P: pd.Series, c_P: pd.Series, ks: Sequence[int]) -> np.ndarray:
    """Estimate Pass@k of each problem at each k, [P, K]."""
    return np.stack([pass_at_k(n_P.to_numpy(), c_P.to_numpy(), k) for k in ks], axis=1)
