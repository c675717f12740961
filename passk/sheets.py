"""The tables of the report's page, as text: figures in percent, settings, runs, versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from passk.breakdown import kind_table
from passk.lineage import shown_name
from passk.rebuild import Places, rebuilding_lines
from passk.records import RunRecord, read_seed_table
from passk.tables import in_order, with_all_seeds
from passk.wording import config_differences, format_cell, heading, shown_columns

_NAMED = (("model", "model.path"), ("data", "data.name"))
_KNOWN_TO_SFT = ("regime.name", "regime.num_demonstrations")


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as the page shows it: headings, and rows of text."""

    headings: list[str]
    rows: list[list[str]]


def facts(records: Sequence[RunRecord]) -> list[str]:
    """What the page is about, in a few words each."""
    unfinished = sum(record.manifest.get("status") != "finished" for record in records)
    seeds, evals = {r.seed for r in records}, [r.evals for r in records if len(r.evals)]
    said = {(what, r.setting(key)) for r in records for what, key in _NAMED if r.setting(key)}
    named = {f"{what} {shown_name(str(name))}" for what, name in said}
    problems = sorted({int(table["num_problems"].iloc[-1]) for table in evals})
    return [
        f"{len(records)} run{'s' * (len(records) > 1)}",
        *([f"{unfinished} not finished"] if unfinished else []),
        *([f"{len(seeds)} seeds"] if len(seeds) > 1 else []),
        *sorted(named),
        *([f"{' or '.join(map(str, problems))} held-out problems"] if problems else []),
    ]


def column_names(ks: set[int]) -> dict[str, str]:
    """Column names for people; Pass@k stays general where rows differ in k."""
    passk = f"Pass@{ks.pop()}" if len(ks) == 1 else "Pass@k"
    return {
        "regime": "Regime",
        "seed": "Seed",
        "num_seeds": "Seeds",
        "pass1": "Pass@1 (%)",
        "passk": f"{passk} (%)",
        "delta_pass1": "Δ Pass@1 (points)",
        "delta_passk": f"Δ {passk} (points)",
        "alignment": "Alignment (cosine)",
        "kind": "Kind",
        "num_problems": "Problems",
        "pass1_before": "Pass@1 before (%)",
        "passk_before": f"{passk} before (%)",
        "k": "k",
        "pass1_weight": "Weight of Pass@1",
    }


def sheet(table: pd.DataFrame, headings: Mapping[str, str]) -> Sheet:
    """A table as text, without the columns that are empty throughout."""
    shown = [column for column in shown_columns(table) if table[column].notna().any()]
    rows = [[format_cell(row, column) for column in shown] for row in table.to_dict("records")]
    return Sheet([heading(column, headings) for column in shown], rows)


def kinds(
    records: Sequence[RunRecord], titles: Mapping[str, str], headings: Mapping[str, str]
) -> Sheet | None:
    """Success by kind of prompt, a row per run and kind; None where no run tells kinds."""
    kinds = kind_table(records)
    kinds["regime"] = kinds["regime"].map(titles)
    after = {name: headings[name].replace(" (", " after (") for name in ("pass1", "passk")}
    return sheet(kinds, {**headings, **after}) if len(kinds) else None


def kernel(records: Sequence[RunRecord]) -> Sheet | None:
    """Mean inner product of the gradients of two problems, by their kinds, over seeds."""
    frames = []
    for seed_dir, record in {record.seed_dir: record for record in records}.items():
        kernel = read_seed_table(record, "kernel.csv")
        if seed_dir is not None and kernel is not None:
            frames.append(kernel.assign(name=seed_dir.parent.name, seed=record.seed))
    if not frames:
        return None
    table = with_all_seeds(pd.concat(frames), ["name", "kind_a", "kind_b"])
    table = table.drop_duplicates(["name", "kind_a", "kind_b"], keep="last")
    rows = []
    for row in table.to_dict("records"):
        value = "{kernel:+.3g} [{kernel_low:+.3g}, {kernel_high:+.3g}]".format_map(row)
        kinds = f"{row['kind_a']} and {row['kind_b']}"
        rows.append([kinds, row["name"], str(row["seed"]), value.replace("-", "\u2212")])
    shown = Sheet(["Kinds", "Reproduction", "Seed", "Kernel"], rows)
    return shown if table["name"].nunique() > 1 else _without(shown, "Reproduction")


def without_empty_columns(table: Sheet) -> Sheet:
    """The columns that say something in some row; of a table without rows, all."""
    for name in table.headings if table.rows else []:
        i = table.headings.index(name)
        if not any(row[i] for row in table.rows):
            table = _without(table, name)
    return table


def _without(table: Sheet, heading: str) -> Sheet:
    i = table.headings.index(heading)
    rows = [row[:i] + row[i + 1 :] for row in table.rows]
    return Sheet(table.headings[:i] + table.headings[i + 1 :], rows)


def cells(cells: pd.DataFrame, k: int, headings: Mapping[str, str]) -> Sheet:
    """The sweep for people: Pass@1 and one Pass@k, and seeds only where they are all there is."""
    columns = ["regime", "k", "pass1_weight", "seed"]
    for name in dict.fromkeys(["pass1", f"pass{k}"]):
        for column in (name, f"delta_{name}"):
            columns += [column, f"{column}_low", f"{column}_high"]
    if not cells.duplicated(["k", "pass1_weight", "seed"]).any():
        columns.remove("regime")
    return sheet(summary_rows(cells).reindex(columns=columns), headings)


def summary_rows(table: pd.DataFrame) -> pd.DataFrame:
    """A row per label: over all of its runs where there are several, else that of the one run."""
    several = table[table["seed"] == "all"]["regime"]
    return table[(table["seed"] == "all") | ~table["regime"].isin(several)]


def differences(records: Sequence[RunRecord]) -> Sheet | None:
    """Settings in which the runs differ, a row per label: seeds count as one.

    SFT has no objective over samples: what the configuration says of one is left out there.
    """
    first = dict(reversed(in_order(records)))
    different = list(reversed(first.values()))
    differing = config_differences(different)
    if differing.empty:
        return None
    keys = ["regime.name", *(key for key in differing.index if key != "regime.name")]
    places = Places(records)
    return Sheet(keys, [[_setting(run, key, places) for key in keys] for run in different])


def _setting(record: RunRecord, key: str, places: Places) -> str:
    value = record.setting(key)
    is_idle = record.regime == "sft" and key.startswith("regime.") and key not in _KNOWN_TO_SFT
    return "" if value is None or is_idle else places.told(str(value))


def runs(records: Sequence[RunRecord]) -> Sheet:
    """How far each run came, and the line that rebuilds it: `rebuild.rebuilding_lines`."""
    rows = []
    for line in rebuilding_lines(records):
        manifest, record = line.manifest, line.record
        seconds = manifest.get("seconds")
        steps = record and f"{len(record.metrics)} of {record.setting('train.num_steps', '?')}"
        rows.append(
            [
                line.directory,
                str(manifest.get("status", "unknown" if record else "")),
                steps or "",
                "" if seconds is None else f"{float(seconds):.0f} s",
                str(manifest.get("device") or "") if record else "",  # a whole has none of its own
                line.command,
            ]
        )
    return Sheet(["Run", "Status", "Steps", "Time", "Device", "Command"], rows)


def versions(records: Sequence[RunRecord]) -> Sheet | None:
    """Versions and commits that the runs recorded; several where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        facts: dict[str, Any] = dict(record.manifest.get("versions") or {})
        git = record.manifest.get("git") or {}
        if isinstance(git, Mapping) and git.get("commit"):
            facts["git commit"] = f"{git['commit']}{' (changed)' if git.get('dirty') else ''}"
        facts["machine"] = record.manifest.get("machine")
        for name, value in facts.items():
            if value is not None:
                found.setdefault(name, {})[str(value)] = None
    rows = [[name, ", ".join(values)] for name, values in found.items()]
    return Sheet(["What", "Version"], rows) if rows else None
