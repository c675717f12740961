"""Compute the tables of an evaluation from its samples alone: pure functions over data frames.

`samples` has a row per sample with the columns `SAMPLE_COLUMNS`, which `draw_samples` of
`passk.training.evaluate` explains, and lists problems in the order of the evaluation; completions
are not needed here. Tables are of `eval.temperature` alone, but for those of the front. Values are
probabilities in [0, 1], each with the interval of `statistics.rate_intervals` over problems, or
token counts with a percentile bootstrap.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

import numpy as np
import pandas as pd

from passk.config.schema import EvalConfig
from passk.evaluation.measures import cover, g_pass, majorities, mg_pass, pass_hat
from passk.objectives.pass_at_k import FloatArray, pass_at_k
from passk.statistics import bootstrap_interval, rate_interval, rate_intervals
from passk.text import Table, cell
from passk.types import GROUPINGS

SAMPLE_COLUMNS = [
    *("problem_id", "kind", "level", "type"),
    *("temperature", "sample", "answer", "completion"),
    *("num_tokens", "finish_reason", "reward", "reason", "logprob_sampler"),
]
NO_GROUP = "(none)"  # group of problems without a level, where others have one
REASONS = ("correct", "wrong", "unparsed", "truncated", "timeout", "error")
_PASS_COLUMNS = ["k", "value", "ci_low", "ci_high", "num_problems", "num_samples"]
_SUMMARY_COLUMNS = ["metric", "value", "ci_low", "ci_high", "num_problems"]
_RIGHT = " ---: "  # rule of columns that are aligned right
_SUMMARY_NAMES = {
    "pass_at_1": "Pass@1, avg@n (%)",
    "majority_accuracy": "Majority vote of all samples (%)",
    "mean_tokens": "Tokens of a completion",
    "truncation_rate": "Completions cut at the length limit (%)",
}
_MEASURE_NAMES = {  # of `passk.evaluation.measures`; a metric is named as in g_pass_8_0.5
    "pass_hat": "Pass^{} (%)",
    "g_pass": "G-Pass@{}, tau {} (%)",
    "mg_pass": "mG-Pass@{} (%)",
    "cover": "Cover@{} (%)",
    "maj": "maj@{} (%)",
}


def eval_tables(samples: pd.DataFrame, cfg: EvalConfig) -> dict[str, pd.DataFrame]:
    """Compute all tables of an evaluation, keyed by the name of their file.

    The keys are `table`, `summary`, and `table_by_kind`, `table_by_level`, `table_by_type` where
    problems have such groups; with samples of several temperatures also `front` and
    `front_summary`, which have rows for each. Every table has a column temperature.
    """
    temperatures = sorted(samples["temperature"].unique())
    own = at_temperature(samples, cfg.temperature)
    counts = count_correct(own)
    table = pass_table(counts, cfg)
    tables = {"table": table, "summary": summary_table(own, table, cfg)}
    for grouping in GROUPINGS:
        if grouping in counts and (counts[grouping] != "").any():
            tables[f"table_by_{grouping}"] = pass_table_by(counts, grouping, cfg)
    tables = {name: _labelled(rows, cfg.temperature) for name, rows in tables.items()}
    if len(temperatures) > 1:
        fronts = [_front_rows(samples, temperature, cfg) for temperature in temperatures]
        for name, parts in zip(("front", "front_summary"), zip(*fronts, strict=True), strict=True):
            tables[name] = pd.concat(parts, ignore_index=True)
    return tables


def _front_rows(
    samples: pd.DataFrame, temperature: float, cfg: EvalConfig
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the Pass@k table and the summary of one temperature; greedy answers have k = 1."""
    drawn = at_temperature(samples, temperature)
    at_k = replace(cfg, ks=cfg.ks if temperature else [1])
    table = pass_table(count_correct(drawn), at_k)
    summary = summary_table(drawn, table, at_k)
    return _labelled(table, temperature), _labelled(summary, temperature)


def at_temperature(rows: pd.DataFrame, temperature: float) -> pd.DataFrame:
    """Return the samples or the counts of one temperature."""
    return rows[rows["temperature"] == temperature]


def _labelled(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    return table.assign(temperature=float(temperature))[["temperature", *table.columns]]


def count_correct(samples: pd.DataFrame) -> pd.DataFrame:
    """Count the samples of each problem at each temperature, a row each.

    The columns are problem_id, kind, level and type if there are any, temperature, n, c, n_first,
    c_first. `n` counts judged samples, `c` correct ones; `n_first` and `c_first` are of the first
    half of the samples, by number. Estimates that mix two policies need halves: their samples share
    random numbers, and so are independent only where their numbers differ.
    """
    groupings = ["kind", *(name for name in GROUPINGS[1:] if (samples[name] != "").any())]
    problems = samples.groupby(["temperature", "problem_id"], sort=False)
    counts = problems[groupings].first()
    counts["n"] = problems["reward"].count()
    counts["c"] = problems["reward"].sum().astype(np.int64)
    middle = problems["sample"].transform("max") // 2
    first = samples["reward"].where(samples["sample"] <= middle)
    of_first = first.groupby([samples["temperature"], samples["problem_id"]], sort=False)
    counts["n_first"] = of_first.count()
    counts["c_first"] = of_first.sum().astype(np.int64)
    counts = counts.reset_index()
    return counts[["problem_id", *groupings, "temperature", "n", "c", "n_first", "c_first"]]


def with_kind(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` with levels, or else types, as `kind` where its problems have no kinds.

    `kind` is empty where there are none of the three.
    """
    groupings = [name for name in GROUPINGS if name in frame and (frame[name] != "").any()]
    kind = frame[groupings[0]].replace("", NO_GROUP) if groupings else ""
    return frame.assign(kind=kind).astype({"kind": str})


def pass_table(counts: pd.DataFrame, cfg: EvalConfig) -> pd.DataFrame:
    """Compute Pass@k for each k of `eval.ks`, in long form.

    The columns are k, value, ci_low, ci_high, num_problems, num_samples. `num_samples` is n, the
    judged samples of one problem (the fewest, where they differ).

    The value is the unbiased Pass@k of each problem (Chen et al. 2021), averaged over problems,
    with an interval over problems that also holds near 0 and 1. Problems with fewer judged samples
    than the largest k are left out of all rows, and `num_problems` counts those that remain.
    """
    usable = counts[counts["n"] >= max(cfg.ks)]
    if usable.empty:
        return pd.DataFrame(columns=_PASS_COLUMNS)
    n_P, c_P = usable["n"].to_numpy(), usable["c"].to_numpy()
    values_PK = np.stack([pass_at_k(n_P, c_P, k) for k in cfg.ks], axis=1)
    intervals = rate_intervals(values_PK, num_resamples=cfg.num_resamples, seed=cfg.seed)
    rows = [
        (k, interval.value, interval.low, interval.high, len(usable), int(n_P.min()))
        for k, interval in zip(cfg.ks, intervals, strict=True)
    ]
    return pd.DataFrame(rows, columns=_PASS_COLUMNS)


def pass_table_by(counts: pd.DataFrame, grouping: str, cfg: EvalConfig) -> pd.DataFrame:
    """Compute `pass_table` for each group, with a leading column `grouping`.

    A group without usable problems has rows too, with no value and with `num_problems` and
    `num_samples` 0. Problems that belong to no group form the group `NO_GROUP`.
    """
    if counts.empty:
        return pd.DataFrame(columns=[grouping, *_PASS_COLUMNS])
    nothing = dict.fromkeys(_PASS_COLUMNS, np.nan) | {"num_problems": 0, "num_samples": 0}
    parts = []
    for name, group in counts.groupby(counts[grouping].replace("", NO_GROUP), sort=True):
        table = pass_table(group, cfg)
        if table.empty:
            table = pd.DataFrame([nothing | {"k": k} for k in cfg.ks])
        table.insert(0, grouping, name)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def pass_curve(counts: pd.DataFrame, cfg: EvalConfig) -> pd.DataFrame:
    """Compute `pass_table` at every k from 1 to n, the fewest judged samples of a problem in it.

    The curve covers the same problems as the table and has the same values wherever both have a k.
    Beyond n/4 it is unbiased but noisy: few sets of k samples are disjoint.
    """
    n_P = counts["n"][counts["n"] >= max(cfg.ks)]
    if n_P.empty:
        return pd.DataFrame(columns=_PASS_COLUMNS)
    return pass_table(counts, replace(cfg, ks=list(range(1, int(n_P.min()) + 1))))


def summary_table(samples: pd.DataFrame, table: pd.DataFrame, cfg: EvalConfig) -> pd.DataFrame:
    """Compute the summary in long form; metrics that cannot be computed have no row.

    The columns are metric, value, ci_low, ci_high, num_problems. Metrics: pass_at_1 (from `table`;
    as the mean of all n samples of a problem it is avg@n), those of `eval.measures`,
    majority_accuracy (`majority_votes`), mean_tokens and truncation_rate of the samples, and
    share_REASON of each verdict reason, unjudged samples included. `samples` are of one
    temperature.
    """
    at_1 = table[table["k"] == 1][["value", "ci_low", "ci_high", "num_problems"]]
    rows = [("pass_at_1", *row) for row in at_1.itertuples(index=False, name=None)]
    measured = ((name, pd.Series(values_P)) for name, values_P in _measured(samples, cfg))
    for name, values_P in chain(measured, _per_problem(samples)):
        if len(values_P):
            interval_of = bootstrap_interval if name == "mean_tokens" else rate_interval
            interval = interval_of(values_P, num_resamples=cfg.num_resamples, seed=cfg.seed)
            row = (interval.value, interval.low, interval.high, len(values_P))
            rows.append((name, *row))
    return pd.DataFrame(rows, columns=_SUMMARY_COLUMNS)


def _measured(samples: pd.DataFrame, cfg: EvalConfig) -> Iterator[tuple[str, FloatArray]]:
    """Yield the name of each of `eval.measures` at each k and tau, and its values over problems.

    The problems are those of `pass_table`. mG-Pass@1 has no terms, and is left out.
    """
    if not cfg.measures:
        return
    counts = count_correct(samples)
    usable = counts[counts["n"] >= max(cfg.ks)]
    n_P, c_P = usable["n"].to_numpy(), usable["c"].to_numpy()
    classes = answer_classes(samples)
    for name in dict.fromkeys(cfg.measures):
        if name == "cover":
            yield from ((f"cover_{tau:g}", cover(n_P, c_P, tau)) for tau in cfg.taus)
        for k in cfg.ks:
            if name == "pass_hat":
                yield f"pass_hat_{k}", pass_hat(n_P, c_P, k)
            elif name == "g_pass":
                yield from ((f"g_pass_{k}_{tau:g}", g_pass(n_P, c_P, k, tau)) for tau in cfg.taus)
            elif name == "mg_pass" and k > 1:
                yield f"mg_pass_{k}", mg_pass(n_P, c_P, k)
            elif name == "maj" and classes is not None:
                votes = [classes.get(str(problem), (0, ())) for problem in usable["problem_id"]]
                right_P = np.array([right for right, _ in votes], dtype=np.int64)
                yield f"maj_{k}", majorities(n_P, right_P, [wrong for _, wrong in votes], k)


def _per_problem(samples: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Yield each metric's name and its value for every problem that has one."""
    yield "majority_accuracy", majority_votes(samples)

    def mean(values: pd.Series) -> pd.Series:
        return values.astype(float).groupby(samples["problem_id"], sort=False).mean()

    yield "mean_tokens", mean(samples["num_tokens"])
    yield "truncation_rate", mean(samples["finish_reason"] == "length")
    for reason in dict.fromkeys([*REASONS, *sorted(samples["reason"].unique())]):
        yield f"share_{reason}", mean(samples["reason"] == reason)


def majority_votes(samples: pd.DataFrame) -> pd.Series:
    """Score the majority vote of each problem_id: 1 if its most frequent answer is right, else 0.

    Samples judged correct or wrong vote with their answer. All correct ones form one class, since
    each equals the gold answer. Unparsed, truncated and unjudged samples do not vote, nor does a
    wrong one without an answer. Where j classes tie for the most votes, the problem counts 1/j if
    the correct class is among them. A problem without a vote counts 0, and one without a judged
    sample is left out. The result is empty if there are wrong samples and the verifier reports an
    answer for none of them.
    """
    classes = _voting_classes(samples)
    if classes is None:
        return pd.Series(dtype=float)
    most = classes.groupby("problem_id")["votes"].transform("max")
    tied = classes[classes["votes"] == most]  # at most one of a problem's is the correct one
    judged = samples["problem_id"][samples["reward"].notna()].unique()
    return tied.groupby("problem_id")["right"].mean().reindex(judged, fill_value=0.0)


def answer_classes(samples: pd.DataFrame) -> dict[str, tuple[int, tuple[int, ...]]] | None:
    """Count, by problem_id, the votes for the correct answer and for each wrong one.

    A problem without a vote is missing. None where `majority_votes` has no result.
    """
    classes = _voting_classes(samples)
    if classes is None:
        return None
    return {
        str(problem): (int(votes[right].sum()), tuple(votes[~right].tolist()))
        for problem, part in classes.groupby("problem_id")
        for votes, right in [(part["votes"], part["right"] == 1)]
    }


def _voting_classes(samples: pd.DataFrame) -> pd.DataFrame | None:
    """Count votes: problem_id, right (1 or 0), answer, votes; see `majority_votes`."""
    wrong = samples[(samples["reason"] == "wrong") & samples["reward"].notna()]
    if len(wrong) and (wrong["answer"] == "").all():
        return None
    right = samples[(samples["reason"] == "correct") & samples["reward"].notna()]
    votes = pd.concat([right.assign(answer="", right=1.0), wrong[wrong["answer"] != ""]])
    votes["right"] = votes["right"].fillna(0.0)
    classes = votes.groupby(["problem_id", "right", "answer"], sort=False).size()
    return classes.reset_index(name="votes")


def percent_cells(table: pd.DataFrame) -> list[str]:
    """Format each row of a table in percent, as in `54.7 [52.0, 57.5]`."""
    return _cells(table, ".1%")


def pass_markdown(table: pd.DataFrame, grouping: str) -> str:
    """Format a Pass@k table in percent as Markdown: a row per step or group, a column per k."""
    cells = table.assign(cell=percent_cells(table))
    wide = cells.pivot(index=grouping, columns="k", values="cell").fillna("\u2013")
    header = [grouping, *(f"Pass@{k}" for k in wide.columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(wide.index, wide.values, strict=True)]
    return Table(header, rows).markdown(_RIGHT)


def summary_markdown(summary: pd.DataFrame) -> str:
    """Format the summary as Markdown: a row per metric, rates in percent, with intervals."""
    rows = []
    columns = summary["metric"], percent_cells(summary), _cells(summary, ".1f")
    for metric, in_percent, plain, num in zip(*columns, summary["num_problems"], strict=True):
        name = _summary_name(metric)
        rows.append([name, plain if metric == "mean_tokens" else in_percent, str(num)])
    return Table(["measure", "value", "problems"], rows).markdown(_RIGHT)


def _summary_name(metric: str) -> str:
    """Return the name of a metric of the summary for people."""
    for measure, name in _MEASURE_NAMES.items():
        if re.fullmatch(rf"{measure}(_[\d.]+)+", metric):
            return name.format(*metric.removeprefix(f"{measure}_").split("_"))
    return _SUMMARY_NAMES.get(metric, f"Samples {metric.removeprefix('share_')} (%)")


def _cells(table: pd.DataFrame, form: str) -> list[str]:
    ends = table.rename(columns={"ci_low": "value_low", "ci_high": "value_high"}).astype(
        {"value": float}
    )
    return [cell(row, "value", form) or "\u2013" for row in ends.to_dict("records")]
