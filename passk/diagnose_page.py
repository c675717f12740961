"""The page of `passk diagnose` for people: sentences first, then the tables they rest on."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import pandas as pd

from passk.command_config import DiagnosisConfig
from passk.config import RolloutConfig
from passk.diagnose_tables import Diagnosis
from passk.golds_page import gold_sections
from passk.wording import markdown


def page(
    found: Diagnosis,
    asked: DiagnosisConfig,
    rollout: RolloutConfig,
    differences: Mapping[str, float],
    seconds: Mapping[str, float],
    matrix: str = "",
) -> str:
    """Does Pass@k conflict with Pass@1 here, from which k on, and which prompts are behind it?

    `matrix` is the section on which prompts interfere with which, where that was measured.
    """
    sections = [
        "# Who interferes with Pass@1",
        _sampled(found.prompts, asked.num_samples),
        _off_policy(rollout),
        "## From which k on",
        " ".join([_first(found, asked.num_samples), *_per_k(found)]),
        _curve(found),
        _intervals(found),
        _promised(found),
    ]
    for grouping, table in found.groups.items():
        sections += [
            f"## Prompts by {grouping}",
            " ".join(_group_sentences(table, grouping, found.k)),
            _groups(table, grouping, found.k),
        ]
    sections += [matrix] if matrix else []
    sections += gold_sections(found)
    sections += ["## How it was measured", _how(asked, differences, seconds)]
    return "\n\n".join(section.rstrip() for section in sections if section) + "\n"


def _intervals(found: Diagnosis) -> str:
    if "cosine" in found.curve:
        return (
            "Inner products have bootstrap intervals over prompts, which count that a prompt "
            "enters both gradients; cosines those of the jackknife over blocks of prompts, and "
            "nothing where a norm cannot be told from 0."
        )
    return (
        "Intervals are bootstraps over prompts that take the gradient of Pass@1 as given "
        "(diagnose.cosines=false), and so are too narrow, by up to a factor of 2."
    )


def _promised(found: Diagnosis) -> str:
    """Proposition 4.5 and corollary 4.4 beside what was measured."""
    promised = found.promised
    if promised is None:
        return (
            "Proposition 4.5 of the paper promises nothing here: the prompts do not fall into hard "
            "ones that interfere and easier ones that do not."
        )
    apart = promised.separated
    first = found.first.k.value
    measured = f"the first that was measured is {first:.0f}" if isfinite(first) else "none was seen"
    margin = promised.margin
    corollary = (
        f"corollary 4.4 promises an inner product of {-margin:.3g} or less at k = {found.k}"
        if margin > 0
        else f"corollary 4.4 promises nothing at k = {found.k}"
    )
    product = found.curve.set_index("k")["inner_product"][found.k]
    return (
        "Proposition 4.5 of the paper promises a conflict for every k above "
        f"{promised.k_star:.1f}; {measured}. It sees {100 * apart.share:.0f} % of the prompts, "
        "of success up to "
        f"{100 * apart.most_within:.0f} %, with an agreement of {-apart.margin:.3g} or less, and "
        f"the others, of success from {100 * apart.least_outside:.0f} % on, with "
        f"{promised.largest_agreement:.3g} at most (means of groups of like success). In the same "
        f"way {corollary}, where {product:.3g} was measured."
    )


def _sampled(prompts: pd.DataFrame, num_samples: int) -> str:
    signal = prompts["signal"]
    none, every = ((signal == f"{which} right").sum() for which in ("none", "all"))
    return (
        f"{len(prompts)} prompts x {num_samples} samples, Pass@1 "
        f"{100 * prompts['p'].mean():.1f} %. No sample is right of {none} prompts, and all are of "
        f"{every}: these show no gradient, "
        "count with agreement 0 (which is right in the mean over samples), and are marked in "
        "prompts.csv."
    )


def _off_policy(rollout: RolloutConfig) -> str:
    """What a nucleus means for all that follows."""
    if rollout.top_p == 1:
        return ""
    return (
        f"Samples are of the nucleus (top-p {rollout.top_p:g}) of the policy at temperature "
        f"{rollout.temperature:g}, and gradients those of log-probabilities of the whole policy at "
        "that temperature. So equation 4 of the paper is estimated off-policy: scores have another "
        "mean than 0, and what sharpens the policy is a part of every prompt's plain gradient, and "
        "so of agreement; estimates with a baseline lose most of it, not all."
    )


def _first(found: Diagnosis, num_samples: int) -> str:
    first, k = found.first, found.first.k
    if not isfinite(k.value):
        return (
            f"For no k up to {num_samples} do the gradients of Pass@1 and Pass@k point against "
            f"each other; in {100 * first.share:.0f} % of the resamples some k does."
        )
    names = [
        f"{end:.0f}" if isfinite(end) else f"none up to {num_samples}" for end in (k.low, k.high)
    ]
    later = found.curve["inner_product"][found.curve["k"] >= k.value]
    where = f"from k = {k.value:.0f} on" if (later < 0).all() else f"first at k = {k.value:.0f}"
    return (
        f"The gradients of Pass@1 and Pass@k point against each other {where} (95 % interval of "
        f"the first such k, over prompts: {names[0]} to {names[1]})."
    )


def _per_k(found: Diagnosis) -> list[str]:
    """Which of the shown k clearly conflict."""
    rows = found.curve[found.curve["k"].isin([k for k in found.ks if k > 1])]
    signs: dict[str, list[str]] = {
        "conflict with": [],
        "agree with": [],
        "show no clear sign beside": [],
    }
    for row in rows.to_dict("records"):
        low, high = row["inner_product_low"], row["inner_product_high"]
        verb = (
            "conflict with"
            if high < 0
            else "agree with"
            if low > 0
            else "show no clear sign beside"
        )
        signs[verb].append(f"Pass@{row['k']}")
    return [f"{', '.join(names)} {verb} Pass@1." for verb, names in signs.items() if names]


def _group_sentences(table: pd.DataFrame, grouping: str, k: int) -> list[str]:
    sentences = []
    for row in table.to_dict("records"):
        name = row[grouping] or "(none)"
        share = (
            f"{100 * row['weight_share']:.0f} % of the weight of Pass@{k} on "
            f"{100 * row['num_prompts'] / table['num_prompts'].sum():.0f} % of the prompts"
        )
        if row["agreement_high"] < 0:
            sentences.append(f"Making {name} prompts likelier to succeed lowers Pass@1; {share}.")
        elif row["agreement_low"] > 0:
            sentences.append(f"Making {name} prompts likelier to succeed raises Pass@1; {share}.")
        else:
            sentences.append(f"Of {name} prompts no clear sign is seen; {share}.")
    return [*sentences, "Intervals here take the gradient of Pass@1 as it was estimated."]


def _curve(found: Diagnosis) -> str:
    rows = found.curve[found.curve["k"].isin(found.ks)].to_dict("records")
    columns = {
        "inner_product": "inner product",
        "cosine": "cosine",
        "mean_weight": "mean weight",
        "covariance": "covariance of weight and agreement",
        "reweighted_agreement": "reweighted agreement",
    }
    shown = [name for name in columns if name in found.curve]
    table = pd.DataFrame([{"k": str(row["k"])} | {c: _cell(row, c) for c in shown} for row in rows])
    return markdown(table, {"k": "k", **columns})


def _groups(table: pd.DataFrame, grouping: str, k: int) -> str:
    columns = {
        grouping: grouping,
        "num_prompts": "prompts",
        "without_signal": "without signal",
        "pass1": "Pass@1 (%)",
        "agreement": "agreement",
        "clearly_negative": "clearly negative (%)",
        "weight_share": f"share of Pass@{k} weight (%)",
        "contribution": f"contribution at k = {k}",
    }
    rows = []
    for row in table.to_dict("records"):
        cells = {name: _cell(row, name) for name in columns}
        for name in ("pass1", "clearly_negative", "weight_share"):
            cells[name] = f"{100 * row[name]:.1f}"
        rows.append(cells)
    return markdown(pd.DataFrame(rows), columns)


def _cell(row: Mapping[Any, Any], column: str) -> str:
    value = row[column]
    if not isinstance(value, float):
        return str(value)
    if pd.isna(value):
        return ""
    low = row.get(f"{column}_low")
    ends = "" if low is None or pd.isna(low) else f" [{low:.3g}, {row[f'{column}_high']:.3g}]"
    return f"{value:.3g}{ends}"


def _how(
    asked: DiagnosisConfig, differences: Mapping[str, float], seconds: Mapping[str, float]
) -> str:
    ratio = 1 + seconds["derivatives"] / seconds["gradient"]
    names = {"last_layer": "the last layer's", "final_norm": "the final norm's"}
    over = names.get(asked.parameters, "all")
    scaled = (
        ", each scaled as Adam scales it by the checkpoint's second moments"
        if asked.preconditioned
        else ""
    )
    return (
        f"Products are over {over} parameters{scaled}. A prompt meets the gradient of Pass@1 over "
        "the prompts of the other blocks, so no product holds a sample, or a prompt, twice. "
        "Derivatives of log-probabilities are central differences of "
        f"{differences['length']:.2g} |theta|; halving that changes them by "
        f"{100 * differences['error']:.2g} % (root mean square, {differences['num_tried']} "
        "completions). "
        f"Seconds: samples {seconds['sampling']:.1f}, gradient of Pass@1 "
        f"{seconds['gradient']:.1f}, derivatives of all samples {seconds['derivatives']:.1f} "
        f"(together {ratio:.1f} times the gradient), cosines {seconds['cosines']:.1f}."
    )
