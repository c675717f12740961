"""Compare policies over temperatures: pure functions over counts of right samples.

The temperature trades Pass@1 for Pass@k without any training, so a policy is not a point but a
front: its (Pass@1, Pass@k) at each temperature. Choosing between two temperatures by a coin, once
for each problem, reaches every point between theirs, so a front is the concave hull of its points.
Suffixes: T temperatures, P problems, R resamples; values are probabilities in [0, 1].
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import comb

from passk.objectives.pass_at_k import FloatArray, all_wrong, pass_at_k
from passk.statistics import Interval, bootstrap_means


@dataclass(frozen=True, slots=True)
class Front:
    """Pass@1 and Pass@k of each problem at each temperature, [T, P] each.

    `is_main_T` marks the temperature of tables, `eval.temperature`. At temperature 0 there is one
    answer, so Pass@k is Pass@1.
    """

    temperatures: tuple[float, ...]
    is_main_T: np.ndarray
    problem_ids: tuple[str, ...]
    pass1_TP: FloatArray
    passk_TP: FloatArray

    def of(self, problem_ids: Sequence[str]) -> "Front":
        """Return the front of some of the problems, in this order."""
        place = {problem_id: i for i, problem_id in enumerate(self.problem_ids)}
        chosen = [place[problem_id] for problem_id in problem_ids]
        return Front(
            self.temperatures,
            self.is_main_T,
            tuple(problem_ids),
            self.pass1_TP[:, chosen],
            self.passk_TP[:, chosen],
        )


def front_of(counts: pd.DataFrame, k: int, main: float) -> Front | None:
    """Build the front from counts at several temperatures (`RunRecord.front_counts`).

    It holds the problems with at least k judged samples at every temperature above 0, and one at 0.
    None if there are no such problems.
    """
    needed = np.where(counts["temperature"] > 0, k, 1)
    temperatures = sorted(counts["temperature"].unique())
    usable = counts[counts["n"] >= needed]
    times = usable.groupby("problem_id", sort=False)["temperature"].nunique()
    ids = times.index[times == len(temperatures)].tolist()
    if not ids:
        return None
    at = [usable[usable["temperature"] == t].set_index("problem_id").loc[ids] for t in temperatures]
    pass1, passk = (
        [
            pass_at_k(rows["n"], rows["c"], j if t > 0 else 1)
            for t, rows in zip(temperatures, at, strict=True)
        ]
        for j in (1, k)
    )
    is_main = np.isclose(temperatures, main)
    return Front(tuple(temperatures), is_main, tuple(ids), np.stack(pass1), np.stack(passk))


def hull(pass1_T: FloatArray, passk_T: FloatArray) -> FloatArray:
    """Return the corners of the front, [N, 2], by rising Pass@1 and falling Pass@k.

    The first has the highest Pass@k, the last the highest Pass@1; none lies below a line between
    two others.
    """
    order = np.lexsort((-passk_T, -pass1_T))  # from the highest Pass@1 down
    corners: list[tuple[float, float]] = []
    for x, y in zip(pass1_T[order].tolist(), passk_T[order].tolist(), strict=True):
        if corners and y <= corners[-1][1]:
            continue
        while len(corners) > 1 and _turns_inward(corners[-2], corners[-1], (x, y)):
            corners.pop()
        corners.append((x, y))
    return np.array(corners[::-1])


def _turns_inward(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Return True if b lies on or below the line from a to c, where Pass@1 falls from a to c."""
    return (a[0] - c[0]) * (b[1] - c[1]) <= (a[1] - c[1]) * (b[0] - c[0])


def best_passk(corners: FloatArray, pass1: float) -> float:
    """Return the highest Pass@k with at least this Pass@1; NaN if the policy never has it."""
    if pass1 > corners[-1, 0]:
        return float("nan")
    return float(np.interp(pass1, corners[:, 0], corners[:, 1]))


def area(corners: FloatArray, low: float = 0.0) -> float:
    """Return the area under the front for Pass@1 from `low` to 1.

    The height at x is the highest Pass@k with a Pass@1 of at least x, 0 where there is none. With
    `low` = 0 it is the hypervolume that the front dominates (Zitzler and Thiele 1999).
    """
    x = np.concatenate([[low], corners[:, 0].clip(min=low)])
    y = np.interp(x, corners[:, 0], corners[:, 1])
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


@dataclass(frozen=True, slots=True)
class FrontChange:
    """How a policy's front differs from that of its start, each with an interval over problems.

    `pass1` and `passk` at the same temperature; `best_pass1` and `best_passk` as deployed, each at
    its own best temperature; `equal_passk` is Pass@k at the Pass@1 that the start has at the
    temperature of tables, NaN where the policy never has that Pass@1; `area` as in `area`.
    """

    pass1: Interval
    passk: Interval
    best_pass1: Interval
    best_passk: Interval
    equal_passk: Interval
    area: Interval

    def columns(self) -> dict[str, float]:
        """Return the columns of a table: delta_NAME, delta_NAME_low, delta_NAME_high."""
        row: dict[str, float] = {}
        for field in fields(self):
            row |= getattr(self, field.name).columns(f"delta_{field.name}")
        return row


def front_change(
    before: Front, after: Front, *, num_resamples: int = 2000, seed: int = 0
) -> FrontChange | None:
    """Compare two fronts over the problems that both hold, by a paired bootstrap over problems.

    Each resample chooses best temperatures and hulls anew, so their choice is in the intervals, but
    the best of T noisy values is a little too high, in both. None without a shared problem,
    without the temperature of tables, or if the two were measured at other temperatures.
    """
    shared = set(after.problem_ids)
    ids = [problem_id for problem_id in before.problem_ids if problem_id in shared]
    if not ids or not before.is_main_T.any() or before.temperatures != after.temperatures:
        return None
    fronts = before.of(ids), after.of(ids)
    values_PK = np.concatenate([x for f in fronts for x in (f.pass1_TP, f.passk_TP)]).T
    edges = np.cumsum([len(f.temperatures) for f in fronts for _ in range(2)])[:-1]

    def change(means_K: FloatArray) -> list[float]:
        pass1, passk, later_pass1, later_passk = np.split(means_K, edges)
        return _change(
            _Means(pass1, passk, before.is_main_T),
            _Means(later_pass1, later_passk, after.is_main_T),
        )

    value_S = change(values_PK.mean(axis=0))
    resampled_RK = bootstrap_means(values_PK, num_resamples=num_resamples, seed=seed)
    drawn_RS = np.array([change(means_K) for means_K in resampled_RK])
    if len(ids) < 2:
        drawn_RS[:] = np.nan
    ends_2S = np.quantile(drawn_RS, [0.025, 0.975], axis=0)  # NaN where a resample is
    return FrontChange(*(Interval(*map(float, x)) for x in zip(value_S, *ends_2S, strict=True)))


class _Means(NamedTuple):
    """Pass@1 and Pass@k at each temperature, averaged over problems."""

    pass1_T: FloatArray
    passk_T: FloatArray
    is_main_T: np.ndarray

    @property
    def main(self) -> tuple[float, float]:
        return float(self.pass1_T[self.is_main_T][0]), float(self.passk_T[self.is_main_T][0])


def _change(before: _Means, after: _Means) -> list[float]:
    """Compute the values of `FrontChange`, in its order."""
    (pass1, passk), (later_pass1, later_passk) = before.main, after.main
    corners, later_corners = (hull(means.pass1_T, means.passk_T) for means in (before, after))
    return [
        later_pass1 - pass1,
        later_passk - passk,
        after.pass1_T.max() - before.pass1_T.max(),
        after.passk_T.max() - before.passk_T.max(),
        best_passk(later_corners, pass1) - best_passk(corners, pass1),
        area(later_corners) - area(corners),
    ]


class Mixtures(NamedTuple):
    """Fronts of two policies used together, neither of them trained for it.

    `coin`: each answer from one of the two, by a fair coin. `first`: the one answer that counts for
    Pass@1 from the first policy, the k - 1 others from the second.
    """

    coin: Front
    first: Front


def mixtures(one: pd.DataFrame, other: pd.DataFrame, k: int, main: float) -> Mixtures | None:
    """Build the fronts of mixtures from two policies' counts at the same temperatures.

    They hold the problems with k judged samples in each half at every temperature above 0. None if
    there are no such problems, or other temperatures.
    """
    temperatures = sorted(one["temperature"].unique())
    if temperatures != sorted(other["temperature"].unique()):
        return None
    both = one.merge(other, on=["problem_id", "temperature"], suffixes=("_one", "_other"))
    halves = [f"n_first_{of}" for of in ("one", "other")]
    second = [both[f"n_{of}"] - both[f"n_first_{of}"] for of in ("one", "other")]
    least = pd.concat([both[halves], *second], axis=1).min(axis=1)
    greedy = (both["temperature"] == 0) & (both[["n_one", "n_other"]].min(axis=1) > 0)
    usable = both[greedy | (least >= k)]
    times = usable.groupby("problem_id", sort=False)["temperature"].nunique()
    ids = times.index[times == len(temperatures)].tolist()
    if not ids:
        return None
    values = []
    for temperature in temperatures:
        rows = usable[usable["temperature"] == temperature].set_index("problem_id").loc[ids]
        policies = [
            pd.DataFrame({name: rows[f"{name}_{of}"] for name in ("n", "c", "n_first", "c_first")})
            for of in ("one", "other")
        ]
        values.append(_mixed(policies[0], policies[1], k, is_greedy=temperature == 0))
    is_main_T = np.isclose(temperatures, main)
    coin1, coin, first1, first = (np.stack(x) for x in zip(*values, strict=True))
    about = (tuple(temperatures), is_main_T, tuple(ids))
    return Mixtures(Front(*about, coin1, coin), Front(*about, first1, first))


def _mixed(one: pd.DataFrame, other: pd.DataFrame, k: int, *, is_greedy: bool) -> list[FloatArray]:
    """Compute Pass@1 and Pass@k of the coin, then of the first answer and the rest, [P] each."""
    p_P, q_P = (counts["c"].to_numpy() / counts["n"].to_numpy() for counts in (one, other))
    mean_P = (p_P + q_P) / 2
    if is_greedy:  # a policy gives the same answer each time
        return [mean_P, 1 - (1 - mean_P) ** k, p_P, np.maximum(p_P, q_P)]
    return [mean_P, coin_pass_at_k(one, other, k), p_P, one_and_rest_pass_at_k(one, other, k)]


def coin_pass_at_k(one: pd.DataFrame, other: pd.DataFrame, k: int) -> FloatArray:
    """Estimate Pass@k, [P], of answers each from one of two policies, by a fair coin.

    Given j of the k answers from `one`, all are wrong with chance (1-p)^j (1-q)^(k-j); j is
    binomial. Each factor is estimated from another half of the samples, as samples of one number
    share their random numbers; both ways of halving are averaged. Without bias for k up to half of
    the samples. `one` and `other` hold counts of the same problems, in the same order.

    Raises:
        ValueError: a half has fewer than k judged samples.
    """
    ways_J = comb(k, np.arange(k + 1)) / 2.0**k
    wrong_P = np.zeros(len(one))
    for (n_P, c_P), (m_P, d_P) in _opposite_halves(one, other):
        for j, way in enumerate(ways_J):
            wrong_P += way / 2 * all_wrong(n_P, c_P, j) * all_wrong(m_P, d_P, k - j)
    return 1 - wrong_P


def one_and_rest_pass_at_k(one: pd.DataFrame, rest: pd.DataFrame, k: int) -> FloatArray:
    """Estimate Pass@k, [P], of one answer of a policy and k - 1 of another.

    1 - (1-p) (1-q)^(k-1), without bias, from halves of the samples as `coin_pass_at_k` explains.
    Its Pass@1, if the one answer is deployed, is that of `one`.

    Raises:
        ValueError: a half of `rest` has fewer than k - 1 judged samples.
    """
    wrong_P = np.zeros(len(one))
    for (n_P, c_P), (m_P, d_P) in _opposite_halves(one, rest):
        wrong_P += all_wrong(n_P, c_P, 1) * all_wrong(m_P, d_P, k - 1) / 2
    return 1 - wrong_P


Counts = tuple[np.ndarray, np.ndarray]  # judged and right samples of each problem


def _opposite_halves(one: pd.DataFrame, other: pd.DataFrame) -> Iterator[tuple[Counts, Counts]]:
    """Yield the first half of `one` with the second of `other`, and the other way round."""
    (first, second), (other_first, other_second) = map(_halves, (one, other))
    yield first, other_second
    yield second, other_first


def _halves(counts: pd.DataFrame) -> tuple[Counts, Counts]:
    n, c, n_first, c_first = (counts[x].to_numpy() for x in ("n", "c", "n_first", "c_first"))
    return (n_first, c_first), (n - n_first, c - c_first)
