"""Name runs and settings for people, and write Markdown tables and the report's sentences."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from passk.config.schema import FREE_ON_RESUME, REGIMES
from passk.runs.reader import RunRecord, flat, natural_order

# Settings that say where or how often a run happened, not what it did. `init_from` is added only
# where it distinguishes two runs of a seed.
_INCIDENTAL = {"seed", "noise_seed", "init_from", "device", "save_every", "ks"}
_PLAIN = ("k", "pass1_weight", "num_problems")  # columns of numbers that are not rates
_MOST_IN_A_SENTENCE = 4
_REMEDIES = {
    "adaptive_k": "Adaptive k up to {k}",
    "curriculum": "Curriculum, Pass@{k}",
    "projected": "Projected Pass@{k}",
}


def config_differences(records: Sequence[RunRecord]) -> pd.DataFrame:
    """List settings that differ between the runs: dotted keys as index, a column per run in order.

    Seeds, names and places are left out; a setting that a run lacks is None.
    """
    flattened = [flat(record.config, ".") for record in records]
    keys = dict.fromkeys(key for settings in flattened for key in settings)
    rows = {key: [settings.get(key) for settings in flattened] for key in keys}
    differing = {
        key: values
        for key, values in rows.items()
        if key.rpartition(".")[2] not in _INCIDENTAL
        and key not in FREE_ON_RESUME
        and not key.startswith("tracker.")
        and len({repr(v) for v in values}) > 1
    }
    return pd.DataFrame.from_dict(
        differing, orient="index", columns=range(len(records)), dtype=object
    )


def run_labels(records: Sequence[RunRecord]) -> list[str]:
    """Label each run by its regime and its distinguishing settings; seeds share a label.

    `hybrid` where all hybrid runs share their settings, else for example `hybrid k=4
    pass1_weight=0.7` or `hybrid cue=1`. Where each seed starts from its own checkpoint, the start
    counts as part of the seed; where runs of one seed have several starts, `init_from` is part of
    the label.
    """
    labels = [""] * len(records)
    for regime in {record.regime for record in records}:
        members = [i for i, record in enumerate(records) if record.regime == regime]
        differing = config_differences([records[i] for i in members])
        names = {key: short_names(values) for key, values in differing.iterrows()}
        for column, i in enumerate(members):
            settings = differing[column].items()
            parts = [_setting(str(key), names[key].get(value, value)) for key, value in settings]
            labels[i] = " ".join([regime, *parts])
    return _with_starts(labels, records)


def _with_starts(labels: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    """Add `init_from` to labels that runs of one seed share although they start elsewhere."""
    starts = [_start(record, records) for record in records]
    of_seed: dict[tuple[str, int], set[str | None]] = {}
    for label, record, start in zip(labels, records, starts, strict=True):
        of_seed.setdefault((label, record.seed), set()).add(start)
    unlike = {label for (label, _), found in of_seed.items() if len(found) > 1}
    names = short_names(
        [start for label, start in zip(labels, starts, strict=True) if label in unlike]
    )
    return [
        f"{label} {_setting('init_from', names.get(start))}" if label in unlike else label
        for label, start in zip(labels, starts, strict=True)
    ]


def _start(record: RunRecord, records: Sequence[RunRecord]) -> str | None:
    """Return where a run's weights came from, with the seed's own number replaced by S.

    In a reproduction that is the start of its SFT run, from which all runs of the seed come.
    """
    sft = next((r for r in records if r.regime == "sft" and r.seed_dir == record.seed_dir), record)
    start = (record if record.seed_dir is None else sft).setting("train.init_from")
    if not start:
        return None
    path = str(Path(str(start)).expanduser().resolve())
    return re.sub(rf"\bseed-{record.seed}\b", "seed-S", path)


def short_names(values: Iterable[object]) -> dict[Any, str]:
    """Shorten each text among the values to its shortest unique end of whole path parts."""
    parts = {value: Path(value).parts for value in values if isinstance(value, str)}
    names = {}
    for value, own in parts.items():
        others = [other for other in parts.values() if other != own]
        sizes = range(1, len(own) + 1)
        size = next((n for n in sizes if all(o[-n:] != own[-n:] for o in others)), len(own))
        names[value] = str(Path(*own[-size:])) if own else value
    return names


def in_order(records: Sequence[RunRecord]) -> list[tuple[str, RunRecord]]:
    """Sort into (label, record) by regime (SFT first), label (numbers by size), then seed."""

    def place(item: tuple[str, RunRecord]) -> tuple[int, list[tuple[float, str]], int]:
        label, record = item
        known = record.regime in REGIMES
        regime = REGIMES.index(record.regime) if known else len(REGIMES)
        return regime, natural_order(label), record.seed

    return sorted(zip(run_labels(records), records, strict=True), key=place)


def _setting(key: str, value: object) -> str:
    """Format a setting as one word, such as `cue=1.0`, with the last part of the key."""
    return f"{key.rpartition('.')[2]}={value}".replace(" ", "")


def run_title(record: RunRecord, label: str) -> str:
    """Title the run for people: `SFT`, `Pass@8-only`, `Hybrid 0.7/0.3`, then what sets it apart."""
    said = {"pass1_weight", "estimator"}
    if record.regime == "sft":
        title = "SFT"
    elif (estimator := record.setting("regime.estimator", "mixture")) != "mixture":
        title = str(estimator)
    elif not record.optimises_passk:
        title = "Pass@1-only"
    elif record.regime in _REMEDIES:
        title = _REMEDIES[record.regime].format(k=record.k)
        said.add("k")
    elif record.pass1_weight == 0:
        title = f"Pass@{record.k}-only"
        said.add("k")
    else:
        weight = record.pass1_weight
        title = f"Hybrid {weight:g}/{round(1 - weight, 6):g}"
    rest = [word for word in label.split()[1:] if word.partition("=")[0] not in said]
    unset = "=None"
    return ", ".join([title, *(f"no {w[: -len(unset)]}" if w.endswith(unset) else w for w in rest)])


def markdown(table: pd.DataFrame, headings: Mapping[str, str]) -> str:
    """Format a table in GitHub Markdown: percent, percentage points, and intervals in brackets.

    `headings` maps columns to their names. X_low and X_high are folded into X. Rates and their
    deltas are in percent with one decimal, deltas signed; alignments have two decimals; missing
    values are left empty.
    """
    shown = shown_columns(table)
    names = [heading(column, headings) for column in shown]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(shown)]
    for row in table.to_dict("records"):
        cells = [format_cell(row, column).replace("|", "\\|") for column in shown]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def heading(column: str, headings: Mapping[str, str]) -> str:
    """Return a column's name for people; `delta_pass4` of a sweep needs no entry of its own."""
    if column in headings:
        return headings[column]
    return re.sub(
        r"^(delta_)?pass(\d+)$",
        lambda m: f"Δ Pass@{m[2]} (points)" if m[1] else f"Pass@{m[2]} (%)",
        column,
    )


def shown_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns that are shown: all but the bounds of others."""
    return [column for column in table.columns if not column.endswith(("_low", "_high"))]


def format_cell(row: Mapping[Any, Any], column: str) -> str:
    """Format a value with its interval if it has one: `48.1` or `+5.2 [+3.4, +7.1]`."""
    value = row[column]
    if pd.isna(value):
        return ""
    if not isinstance(value, float):
        return str(value)
    if column in _PLAIN:
        return f"{value:g}"
    text, low = _number(value, column), row.get(f"{column}_low")
    if low is None or pd.isna(low):
        return text
    return f"{text} [{_number(low, column)}, {_number(row[f'{column}_high'], column)}]"


def _number(value: float, column: str) -> str:
    scale, decimals = (1, 2) if column == "alignment" else (100, 1)
    sign = "+" if column == "alignment" or column.startswith("delta") else ""
    rounded = round(value * scale, decimals) + 0.0  # adding 0 turns -0.0 into 0.0
    return f"{rounded:{sign}.{decimals}f}".replace("-", "\u2212")


def reading(
    table: pd.DataFrame, titles: Mapping[str, str], ks: Mapping[str, int], baseline: str = ""
) -> list[str]:
    """Describe the reproduction table in sentences: first what changed, then how gradients aligned.

    `titles` and `ks` are keyed by label; changes are against `baseline`, if it is given. A change
    whose interval contains 0 is called no clear change.
    """
    several = set(table[table["seed"] == "all"]["regime"])
    rows = table[(table["seed"] == "all") | ~table["regime"].isin(several)].to_dict("records")
    rows = [row for label, row in {row["regime"]: row for row in rows}.items() if label in titles]
    changes = [_change(row, titles, ks) for row in rows if pd.notna(row["delta_pass1_low"])]
    if len(changes) > _MOST_IN_A_SENTENCE:
        return [f"{change}." for change in changes]
    directions = [
        _direction(row, titles)
        for row in rows
        if pd.notna(row["alignment_low"]) and row["regime"].split()[0] not in ("sft", "pass1")
    ]
    sentences = []
    if changes:
        against = baseline or "the starting checkpoint"
        sentences.append(f"Against {against}, {'; '.join(changes)}.")
    if directions:
        sentences.append(
            f"At {'the starting' if baseline else 'that'} checkpoint, measured against the "
            f"gradient of Pass@1, the gradient of {'; that of '.join(directions)}."
        )
    return sentences


def sweep_reading(cells: pd.DataFrame, k: int) -> list[str]:
    """Describe the sweep in a sentence: how many cells gain Pass@k without a clear loss of Pass@1.

    `cells` has one row for each of them: `tables.summary_rows` of the sweep's table.
    """
    cells = cells.dropna(subset=["delta_pass1_low", f"delta_pass{k}_low"])
    if cells.empty:
        return []
    gained = cells[f"delta_pass{k}_low"] > 0
    free = gained & (cells["delta_pass1_high"] >= 0)
    best = cells.iloc[int(cells[f"delta_pass{k}"].argmax())].to_dict()
    gain, price = (_number(best[name], name) for name in (f"delta_pass{k}", "delta_pass1"))
    cost = f", {free.sum() or 'none'} of them without a clear loss of Pass@1" if any(gained) else ""
    return [
        f"Of {len(cells)} cell{'s' * (len(cells) > 1)} of the sweep, {gained.sum() or 'none'} "
        f"clearly raised Pass@{k}{cost}; the largest gain, {gain} points of Pass@{k} (k = "
        f"{best['k']}, weight of Pass@1 {best['pass1_weight']:g}), came with {price} points of "
        "Pass@1."
    ]


def _change(row: Mapping[Any, Any], titles: Mapping[str, str], ks: Mapping[str, int]) -> str:
    """Write `Pass@8-only changed Pass@1 by +5.2 points [..] and made no clear change to Pass@8`."""
    clauses = []
    for column, k in (("delta_pass1", 1), ("delta_passk", ks[row["regime"]])):
        value = _number(row[column], column)
        interval = f"[{format_cell(row, column).partition(' [')[2]}"
        if row[f"{column}_low"] <= 0 <= row[f"{column}_high"]:
            clauses.append(f"made no clear change to Pass@{k} ({value} points {interval})")
        else:
            clauses.append(f"changed Pass@{k} by {value} points {interval}")
    verbs = ("changed ", "made no clear change to ")
    for verb, joint in zip(verbs, ("and", "or"), strict=True):
        if all(clause.startswith(verb) for clause in clauses):
            return f"{titles[row['regime']]} {clauses[0]} {joint} {clauses[1].removeprefix(verb)}"
    return f"{titles[row['regime']]} {' and '.join(clauses)}"


def _direction(row: Mapping[Any, Any], titles: Mapping[str, str]) -> str:
    low, high = row["alignment_low"], row["alignment_high"]
    where = "points against it" if high < 0 else "points the same way" if low > 0 else ""
    cosine = format_cell(row, "alignment")
    return f"{titles[row['regime']]} {where or 'shows no clear direction'} (cosine {cosine})"
