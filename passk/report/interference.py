"""Tables and page section of the interference matrix: groups, clusters, worst pairs, its error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd

from passk.diagnostics.interference import (
    LEAST_COSINE,
    between_groups,
    cluster_agreements,
    cosines,
    interference,
    like_prompts,
    recovered,
)
from passk.objectives.pass_at_k import FloatArray
from passk.report.diagnosis_tables import GROUPINGS
from passk.report.tables import kind_order
from passk.runs.labels import markdown
from passk.types import Group

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
    prompts = _prompt_table(groups, like_prompts(cosines(first)))
    between = {
        name: between_groups(kappa_PP, _members(prompts[name]), name, num_resamples)
        for name in GROUPINGS
        if prompts[name].nunique() > 1
    }
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


_ENDS = ("first", "second")


def _members(names: pd.Series) -> dict[str, np.ndarray]:
    return {name: np.flatnonzero(names == name) for name in kind_order(names)}


def _prompt_table(groups: Sequence[Group], clusters_P: np.ndarray) -> pd.DataFrame:
    rewards_PG = np.array([group.rewards() for group in groups])
    problems = [group.problem for group in groups]
    return pd.DataFrame(
        {
            "problem_id": [problem.id for problem in problems],
            **{name: [getattr(problem, name) for problem in problems] for name in GROUPINGS},
            "n": (~np.isnan(rewards_PG)).sum(axis=1),
            "c": (rewards_PG == 1).sum(axis=1),
            "cluster": clusters_P,
        }
    )


def _cluster_table(prompts: pd.DataFrame, kappa_PP: FloatArray, num_resamples: int) -> pd.DataFrame:
    """Compute each cluster's agreement, and the kind, level or type of most of its prompts."""
    table = cluster_agreements(
        kappa_PP, prompts["cluster"].to_numpy(), _LEAST_CLUSTER, num_resamples
    )
    for name in GROUPINGS:
        if prompts[name].nunique() > 1:
            counts = [
                prompts[name][prompts["cluster"] == label].value_counts()
                for label in table["cluster"]
            ]
            table[f"commonest_{name}"] = [count.index[0] for count in counts]
            table[f"share_of_{name}"] = [count.iloc[0] / count.sum() for count in counts]
    return table


def _pair_table(
    groups: Sequence[Group], prompts: pd.DataFrame, pairs: pd.DataFrame
) -> pd.DataFrame:
    """List each pair's numbers, then its prompts' facts, with texts and gold answers last."""
    table = pairs.drop(columns=list(_ENDS))
    for column in ("problem_id", *GROUPINGS, "n", "c"):
        for end in _ENDS:
            table[f"{end}_{column}"] = prompts[column].to_numpy()[pairs[end].astype(int)]
    for field in ("prompt", "answer"):
        for end in _ENDS:
            table[f"{end}_{field}"] = [getattr(groups[p].problem, field) for p in pairs[end]]
    return table


def section(found: Interference, size: int, seconds: float, seconds_beside: float) -> str:
    """Write the page's section on the matrix."""
    silent = int((np.diag(found.cosines_PP) == 0).sum())
    parts = [
        "## Which prompts interfere with which",
        f"kappa(x, x') = <grad p(x), grad p(x')> of {len(found.prompts)} prompts: below 0, a step "
        "that makes one likelier to succeed makes the other less likely. "
        f"{silent} show no gradient, and count with kappa 0 (right in the mean over samples).",
    ]
    for grouping, table in found.groups.items():
        parts += [f"Mean kappa by {grouping}:", _between(table, grouping)]
    parts.append(_clusters(found.prompts))
    if len(found.clusters):
        parts.append(_agreements(found.clusters.head(_CLUSTERS_SHOWN)))
    parts.append(_worst(found.pairs))
    if len(found.pairs):
        parts.append(_pairs(found.pairs.head(_PAIRS_SHOWN)))
    parts.append(
        f"{_error(found.exact, size)} Seconds: sketches {seconds:.1f}, checks and pairs "
        f"{seconds_beside:.1f}."
    )
    return "\n\n".join(part.rstrip() for part in parts) + "\n"


def _between(table: pd.DataFrame, grouping: str) -> str:
    """Format the means with their intervals as a square table."""
    other = f"other_{grouping}"
    cells = {(row[grouping], row[other]): _mean(row) for row in table.to_dict("records")}
    names = list(dict.fromkeys(table[grouping]))
    rows = [
        {grouping: name or "(none)"}
        | {f"with {o or '(none)'}": cells.get((name, o)) or cells[o, name] for o in names}
        for name in names
    ]
    square = pd.DataFrame(rows)
    return markdown(square, {column: column for column in square.columns})


def _mean(row: Mapping[object, float]) -> str:
    if pd.isna(row["kappa"]):
        return "no pair"
    low, high = row["kappa_low"], row["kappa_high"]
    return f"{row['kappa']:.3g}" + ("" if pd.isna(low) else f" [{low:.3g}, {high:.3g}]")


def _clusters(prompts: pd.DataFrame) -> str:
    """State how many clusters of similar prompts there are, and how well they match groups."""
    seen = prompts[prompts["cluster"] >= 0]
    if seen.empty:
        return "No prompt shows a gradient, so no two are alike."
    sizes = seen["cluster"].value_counts().to_numpy()
    sentences = [
        f"The {len(seen)} prompts that show a gradient in the first halves of their samples, "
        f"joined while their mean cosine there is {LEAST_COSINE} or more, make {len(sizes)} "
        f"clusters of like prompts, the largest of {sizes[0]}."
    ]
    for grouping in GROUPINGS:
        if seen[grouping].nunique() > 1:
            purity, index = recovered(seen["cluster"].tolist(), seen[grouping].tolist())
            commonest = seen[grouping].value_counts(normalize=True).iloc[0]
            sentences.append(
                f"{100 * purity:.1f} % of them are of the commonest {grouping} of their cluster "
                f"({100 * commonest:.1f} % if all were one cluster); adjusted Rand index "
                f"{index:.2f}."
            )
    return " ".join(sentences)


def _agreements(clusters: pd.DataFrame) -> str:
    """Format the clusters with their agreements from the second halves of the samples."""
    rows = []
    for row in clusters.to_dict("records"):
        ends = f"[{row['agreement_low']:.3g}, {row['agreement_high']:.3g}]"
        mostly = [
            f"{row[f'commonest_{name}'] or '(none)'} ({100 * row[f'share_of_{name}']:.0f} %)"
            for name in GROUPINGS
            if f"commonest_{name}" in clusters
        ]
        rows.append(
            {"cluster": str(row["cluster"]), "prompts": str(row["num_prompts"])}
            | ({"mostly": ", ".join(mostly)} if mostly else {})
            | {"agreement": f"{row['agreement']:.3g} {ends}"}
        )
    names = {name: name for name in rows[0]} | {"agreement": "agreement in the other halves"}
    return markdown(pd.DataFrame(rows), names)


def _worst(pairs: pd.DataFrame) -> str:
    if pairs.empty:
        return "No two prompts interfere in the first halves of their samples."
    clear = (pairs["kappa"] < -1.96 * pairs["kappa_error"]).sum()
    return (
        f"The {len(pairs)} pairs that look most antagonistic in the first halves of their samples "
        f"have a mean kappa of {pairs['selected_by'].mean():.4g} there, which is too low as they "
        f"were chosen by it, and {pairs['kappa'].mean():.4g} in the other halves, which are used "
        f"below with their errors; {clear} of them are clearly negative there (1.96 errors)."
    )


def _pairs(pairs: pd.DataFrame) -> str:
    rows = []
    for row in pairs.to_dict("records"):
        shown = {end: _who(row, end) for end in _ENDS}
        error = "" if pd.isna(row["kappa_error"]) else f" ± {row['kappa_error']:.3g}"
        cosine = "" if pd.isna(row["cosine"]) else f"{row['cosine']:.2f}"
        numbers = {"kappa": f"{row['kappa']:.4g}{error}", "cosine": cosine}
        rows.append(shown | {"selected_by": f"{row['selected_by']:.4g}"} | numbers)
    headings = {"first": "prompt", "second": "and prompt", "selected_by": "selected by"}
    return markdown(pd.DataFrame(rows), headings | {name: name for name in ("kappa", "cosine")})


def _who(row: Mapping[object, object], end: str) -> str:
    """Write a prompt in one line, with its group and how often it succeeded."""
    text = " ".join(str(row[f"{end}_prompt"]).split())
    cut = text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 1]}…"
    names = [str(row[f"{end}_{name}"]) for name in GROUPINGS if row[f"{end}_{name}"]]
    return f"`{cut.replace('`', chr(39))}` ({', '.join([*names, _success(row, end)])})"


def _success(row: Mapping[object, object], end: str) -> str:
    return f"{row[f'{end}_c']}/{row[f'{end}_n']}"


def _error(exact: pd.DataFrame, size: int) -> str:
    expected = f"{100 / sqrt(size):.2g} % of |g| |g'| is expected of a sketch of {size} numbers"
    if exact.empty:
        return (
            "Products of sketches were not compared with those of the gradients, which do not fit "
            f"in memory; an error of {expected}."
        )
    error = float((((exact["sketched"] - exact["exact"]) / exact["norms"]) ** 2).mean() ** 0.5)
    correlation = ""
    if len(exact) > 2:  # of two pairs it is always 1 or -1
        value = np.corrcoef(exact["exact"], exact["sketched"])[0, 1]
        correlation = f"correlation {value:.4f}, "
    return (
        f"For {len(exact)} pairs sketched products were compared with those of the gradients: "
        f"{correlation}root mean square error {100 * error:.2g} % of |g| |g'|; {expected}."
    )
