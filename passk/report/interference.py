"""Tables, figure and page section of the interference matrix: groups, clusters, worst pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from passk.diagnostics.interference import (
    LEAST_COSINE,
    between_groups,
    cluster_agreements,
    clustered_order,
    cosines,
    interference,
    like_prompts,
    recovered,
)
from passk.objectives.pass_at_k import FloatArray, judged_counts
from passk.report.diagnosis import groupings_of, problem_columns
from passk.report.pages import markdown_page
from passk.report.tables import kind_order
from passk.style import matrix
from passk.text import Table, cell, shortened
from passk.types import GROUPINGS, Group

_ENDS = ("first", "second")  # prompts of a pair
_PAIRS_SHOWN = 10
_LEAST_CLUSTER = 5  # least prompts of a cluster to be described
_CLUSTERS_SHOWN = 12
_LONGEST_SHOWN = 60  # characters of a prompt on the page


@dataclass(frozen=True, slots=True)
class Interference:
    """The matrix and its tables; prompts are in the order of its rows.

    Clusters and pairs are found in the first halves of the samples, and measured in the second.
    """

    kappa_PP: FloatArray
    cosines_PP: FloatArray
    prompts: pd.DataFrame
    groups: dict[str, pd.DataFrame]  # between kinds, levels or types if there are several
    clusters: pd.DataFrame
    pairs: pd.DataFrame
    exact: pd.DataFrame


def interference_tables(
    groups: Sequence[Group],
    halves_2PD: np.ndarray,
    pairs: pd.DataFrame,
    exact: pd.DataFrame,
    num_resamples: int,
) -> Interference:
    """Compute all tables from the sketches and the measurements of `diagnostics.matrix`."""
    kappa_PP, cosines_PP = interference(halves_2PD), cosines(halves_2PD)
    first, second = halves_2PD[:1], halves_2PD[1].astype(np.float64)
    n_P, c_P = judged_counts(np.array([group.rewards() for group in groups]))
    prompts = pd.DataFrame(problem_columns([group.problem for group in groups]))
    prompts = prompts.assign(n=n_P, c=c_P, cluster=like_prompts(cosines(first)))
    between = {}
    for name in groupings_of(prompts):
        names = prompts[name]
        members = {kind: np.flatnonzero(names == kind) for kind in kind_order(names)}
        between[name] = between_groups(kappa_PP, members, name, num_resamples)
    named = exact.assign(**{end: prompts["problem_id"].to_numpy()[exact[end]] for end in _ENDS})
    return Interference(
        kappa_PP,
        cosines_PP,
        prompts,
        between,
        _cluster_table(prompts, second @ second.T, num_resamples),
        _pair_table(groups, prompts, pairs),
        named,
    )


def _cluster_table(prompts: pd.DataFrame, kappa_PP: FloatArray, num_resamples: int) -> pd.DataFrame:
    """Compute each cluster's agreement, and the kind, level or type of most of its prompts."""
    table = cluster_agreements(
        kappa_PP, prompts["cluster"].to_numpy(), _LEAST_CLUSTER, num_resamples
    )
    for name in groupings_of(prompts):
        of_cluster = (prompts[name][prompts["cluster"] == label] for label in table["cluster"])
        shares = [names.value_counts(normalize=True) for names in of_cluster]
        table[f"commonest_{name}"] = [share.index[0] for share in shares]
        table[f"share_of_{name}"] = [share.iloc[0] for share in shares]
    return table


def _pair_table(
    groups: Sequence[Group], prompts: pd.DataFrame, pairs: pd.DataFrame
) -> pd.DataFrame:
    """List each pair's numbers, then its prompts' facts, with texts and gold answers last."""
    table = pairs.drop(columns=list(_ENDS))
    texts = {n: [getattr(group.problem, n) for group in groups] for n in ("prompt", "answer")}
    facts = prompts.drop(columns="cluster").assign(**texts)
    for column in facts:
        for end in _ENDS:
            table[f"{end}_{column}"] = facts[column].to_numpy()[pairs[end].astype(int)]
    return table


def heatmap(cosines_PP: FloatArray, prompts: pd.DataFrame, groupings: Sequence[str]) -> Any | None:
    """Draw cosines between the gradients of prompts with signal, similar prompts together by group.

    There is a panel for each of `groupings`, or without any, one of all prompts. Returns None for
    fewer than two prompts. The colours end at the cosine that one pair in a hundred exceeds: noise
    shrinks the cosines of estimates.
    """
    shown_PP = cosines_PP.copy()
    np.fill_diagonal(shown_PP, np.nan)
    signal_P = np.diag(cosines_PP) > 0
    if signal_P.sum() < 2:
        return None
    limit = float(np.nanquantile(np.abs(shown_PP[np.ix_(signal_P, signal_P)]), 0.99))
    label, panels = "cosine of the gradients of two prompts: interference below 0", []
    for name in groupings or ["kind"]:
        names = prompts[name].astype(str)
        order = clustered_order(cosines_PP, names.tolist(), kind_order(names))
        panel = matrix(shown_PP[np.ix_(order, order)], names.iloc[order].tolist(), limit, label)
        by = f", by {name}" if groupings else ""
        panels.append(panel.properties(title=f"Interference of {len(order)} prompts{by}"))
    return alt.hconcat(*panels)


def section(found: Interference, size: int, seconds: float, seconds_beside: float) -> str:
    """Write the page's section on the matrix, of sketches with `size` numbers."""
    pairs, exact, clusters = found.pairs, found.exact, found.clusters.head(_CLUSTERS_SHOWN)
    seen = found.prompts[found.prompts["cluster"] >= 0]
    relative = (exact["sketched"] - exact["exact"]) / exact["norms"]
    is_line = len(exact) > 2  # the correlation of two pairs is always 1 or -1
    return markdown_page(
        "interference",
        found=found,
        num_silent=(np.diag(found.cosines_PP) == 0).sum(),
        between={name: _between(table, name) for name, table in found.groups.items()},
        sizes=seen["cluster"].value_counts().tolist(),
        least_cosine=LEAST_COSINE,
        matches=_matches(seen),
        clusters=_described(clusters),
        num_clear=(pairs["kappa"] < -1.96 * pairs["kappa_error"]).sum(),
        pairs=_shown(pairs.head(_PAIRS_SHOWN)),
        correlation=np.corrcoef(exact["exact"], exact["sketched"])[0, 1] if is_line else None,
        error=float((relative**2).mean() ** 0.5),
        expected=100 / sqrt(size),
        size=size,
        seconds=seconds,
        seconds_beside=seconds_beside,
    )


def _between(table: pd.DataFrame, grouping: str) -> str:
    """Format the means with their intervals as a square table."""
    other = f"other_{grouping}"
    cells = {
        (row[grouping], row[other]): cell(row, "kappa") or "no pair"
        for row in table.to_dict("records")
    }
    names = list(dict.fromkeys(table[grouping]))
    headings = [grouping, *(f"with {name or '(none)'}" for name in names)]
    rows = [
        [name or "(none)", *(cells.get((name, o)) or cells[o, name] for o in names)]
        for name in names
    ]
    return Table(headings, rows).markdown()


def _matches(seen: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Compute how well clusters of similar prompts match kinds, levels and types."""
    found = {}
    for grouping in groupings_of(seen):
        purity, index = recovered(seen["cluster"].tolist(), seen[grouping].tolist())
        commonest = seen[grouping].value_counts(normalize=True).iloc[0]
        found[grouping] = {"purity": purity, "index": index, "commonest": commonest}
    return found


def _described(clusters: pd.DataFrame) -> pd.DataFrame:
    """Add the column `mostly` where prompts have kinds, levels or types."""
    groupings = [name for name in GROUPINGS if f"commonest_{name}" in clusters]
    mostly = [
        ", ".join(
            f"{row[f'commonest_{name}'] or '(none)'} ({100 * row[f'share_of_{name}']:.0f} %)"
            for name in groupings
        )
        for row in clusters.to_dict("records")
    ]
    return clusters.assign(mostly=mostly) if groupings else clusters


def _shown(pairs: pd.DataFrame) -> pd.DataFrame:
    """Write both prompts of each pair, and kappa with its error."""
    rows = pairs.to_dict("records")
    errors = pairs["kappa_error"].map(" ± {:.3g}".format).where(pairs["kappa_error"].notna(), "")
    return pairs.assign(
        kappa=pairs["kappa"].map("{:.4g}".format) + errors,
        **{end: [_who(row, end) for row in rows] for end in _ENDS},
    )


def _who(row: Mapping[Any, Any], end: str) -> str:
    """Write a prompt in one line, with its group and how often it succeeded."""
    text = shortened(row[f"{end}_prompt"], _LONGEST_SHOWN, "…").replace("`", "'")
    names = [row[f"{end}_{name}"] for name in GROUPINGS if row[f"{end}_{name}"]]
    success = f"{row[f'{end}_c']}/{row[f'{end}_n']}"
    return f"`{text}` ({', '.join([*names, success])})"
