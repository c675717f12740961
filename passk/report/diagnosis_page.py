"""Write the page of `passk diagnose`: sentences, then their tables, then suspect gold answers."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import pandas as pd

from passk.config.commands import DiagnosisConfig
from passk.config.schema import RolloutConfig
from passk.diagnostics.gold_errors import MIN_SAMPLES, suspect_golds
from passk.report.diagnosis_tables import Diagnosis
from passk.report.tables import kind_order
from passk.runs.labels import markdown


def page(
    found: Diagnosis,
    asked: DiagnosisConfig,
    rollout: RolloutConfig,
    differences: Mapping[str, float],
    seconds: Mapping[str, float],
    matrix: str = "",
) -> str:
    """Write the page: if Pass@k conflicts with Pass@1, from which k on, and on which prompts.

    `matrix` is the section on which prompts interfere with which, if that was measured.
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
            "nothing where a norm does not differ clearly from 0."
        )
    return (
        "Intervals are bootstraps over prompts that take the gradient of Pass@1 as given "
        "(diagnose.cosines=false), and so are too narrow, by up to a factor of 2."
    )


def _promised(found: Diagnosis) -> str:
    """Compare proposition 4.5 and corollary 4.4 with the measurement."""
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
    """Explain what sampling from a nucleus means for all other numbers."""
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
    """State which of the shown k clearly conflict."""
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


_NUM_SHOWN = 10
_MAX_CHARS = 60  # shown of a prompt or an answer


def gold_sections(found: Diagnosis) -> list[str]:
    """Return headings and texts about gold answers and injected errors, in order."""
    sections = ["## Gold answers that are likely bad", _suspects(found)]
    if len(found.agreed):
        grouping = next(iter(found.groups), None)
        sections += [_by_group(found, grouping)] if grouping else []
        listed = suspect_golds(found.agreed).head(_NUM_SHOWN)
        sections += [_list(listed)] if len(listed) else []
    if len(found.injected):
        sections += ["## Errors of the verifier that were made on purpose", _injected(found)]
    return sections


def _suspects(found: Diagnosis) -> str:
    num_samples = found.prompts["n"].max()
    if num_samples < MIN_SAMPLES:
        return (
            f"{num_samples} samples of a prompt cannot agree beyond doubt; suspects are listed "
            f"from {MIN_SAMPLES} on (diagnose.num_samples)."
        )
    agreed = found.agreed
    if agreed.empty:
        return "The samples of no prompt agree on one answer, so no gold answer can be suspected."
    listed = agreed[~agreed["majority_accepted"]]
    return (
        f"The samples of {len(agreed)} of {len(found.prompts)} prompts agree on one answer (it "
        "surely has more than half of the probability: the lower bound of its share, wrong in at "
        "most 2.5 % of prompts, lies above 1/2). "
        f"The verifier accepts it for {len(agreed) - len(listed)} of them and refuses it for "
        f"{len(listed)}, which suspect_golds.csv lists, the most suspicious first: there the gold "
        "answer is wrong, or the model is, and sure of itself. For "
        f"{int((listed['c'] == 0).sum())} of these no sample is accepted: a gold answer that is "
        "wrong leaves no right sample, a reading of the prompt that the model seldom takes leaves "
        "a few. Where a whole group of prompts is refused, think of such a reading first."
    )


def _by_group(found: Diagnosis, grouping: str) -> str:
    agreed, rows = found.agreed, []
    for name in kind_order(found.prompts[grouping]):
        part = agreed[agreed[grouping] == name]
        refused = part[~part["majority_accepted"]]
        row = {
            grouping: name,
            "prompts": str((found.prompts[grouping] == name).sum()),
            "samples agree": str(len(part)),
            "and are refused": str(len(refused)),
            "none right": str((refused["c"] == 0).sum()),
        }
        if len(found.injected):
            row["refused on purpose"] = str(refused["injected"].sum())
        rows.append(row)
    return markdown(pd.DataFrame(rows), {})


def _list(listed: pd.DataFrame) -> str:
    rows = [
        {
            "problem": row["problem_id"],
            "prompt": _short(row["prompt"]),
            "gold": _short(row["gold"]),
            "samples answer": _short(row["majority_answer"]),
            "votes": f"{row['majority_votes']} of {row['n']}",
            "right": str(row["c"]),
            "score": f"{row['score']:.2f}",
        }
        for row in listed.to_dict("records")
    ]
    return markdown(pd.DataFrame(rows), {})


def _injected(found: Diagnosis) -> str:
    columns = {
        "error": "error",
        "k": "k",
        "prompt_share": "prompts with it (%)",
        "weight_share": "their share of the weight (%)",
        "expected_weight_share": "expected (%)",
        "contribution": "their contribution to f(k)",
        "inner_product": "f(k)",
    }
    rows = []
    for row in found.injected.to_dict("records"):
        cells = {"error": row["error"].replace("_", " "), "k": str(row["k"])}
        for name in ("prompt_share", "weight_share", "expected_weight_share"):
            cells[name] = "" if pd.isna(row[name]) else f"{100 * row[name]:.1f}"
        for name in ("contribution", "inner_product"):
            cells[name] = f"{row[name]:.3g}"
        rows.append(cells)
    return (
        "Prompts some of whose verdicts were turned over (verifier.false_negative_rate, "
        "verifier.false_positive_rate). Expected is e k / (e k + (1-e) E[w_k]), e the false "
        "negative rate. A prompt none of whose samples is accepted weighs the most and moves "
        "nothing: its contribution is 0.\n\n" + markdown(pd.DataFrame(rows), columns)
    )


def _short(text: str) -> str:
    """Shorten a text to one line of a table."""
    line = " ".join(text.split())
    return line if len(line) <= _MAX_CHARS else line[: _MAX_CHARS - 3] + "..."
