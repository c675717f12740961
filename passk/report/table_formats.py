"""Build the tables of the report as text for people, and write them to files."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from passk.report.tables import kind_table, summary_rows, with_all_seeds
from passk.runs.command_lines import Places, rebuilding_lines, shown_name
from passk.runs.labels import config_differences, in_order
from passk.runs.reader import RunRecord, read_seed_table
from passk.text import Form, Table, number_cell

_NAMED = (("model", "model.path"), ("data", "data.name"))
_PLAIN = ("k", "pass1_weight", "num_problems")  # columns of numbers that are not rates
_IN_NATS = r"(kl|entropy)_per_\w+|relative_distance"
_KNOWN_TO_SFT = ("regime.name", "regime.num_demonstrations")


def facts(records: Sequence[RunRecord]) -> list[str]:
    """Summarise the runs of the page in a few words each."""
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
    """Name columns for people; Pass@k stays general if rows differ in k."""
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
        "greedy": "Greedy (%)",
        "majk": f"{passk.replace('Pass', 'maj')} (%)",
        "kind": "Kind",
        "num_problems": "Problems",
        "pass1_before": "Pass@1 before (%)",
        "passk_before": f"{passk} before (%)",
        "k": "k",
        "pass1_weight": "Weight of Pass@1",
    }


def frame_table(table: pd.DataFrame, headings: Mapping[str, str]) -> Table:
    """Format a table for people: percent, percentage points, and intervals in brackets.

    `headings` maps columns to their headings; `delta_pass4` of a sweep needs no entry of its own.
    X_low and X_high are folded into X. Rates and their deltas are in percent with one decimal,
    deltas signed, so that an end of -0.04 points reads -0.0 and not +0.0; alignments have two
    decimals; missing values are left empty.
    """
    shown = [name for name in map(str, table.columns) if not name.endswith(("_low", "_high"))]
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return Table.of(
        rows, {name: _heading(name, headings) for name in shown}, {n: rate_form(n) for n in shown}
    )


def rate_form(column: str) -> Form:
    """Return how numbers of a column are written, by its name; see `frame_table`."""
    if column in _PLAIN:
        return "g"
    if re.fullmatch(_IN_NATS, column):
        return ".3g"
    form = "+.1%" if column.startswith("delta") else "z.1%"
    return _with_minus("+.2f" if column == "alignment" else form)


def _with_minus(form: str) -> Form:
    """Return a form that writes minus signs in place of hyphens."""
    return lambda value: number_cell(value, form).replace("-", "\u2212")


def _heading(column: str, headings: Mapping[str, str]) -> str:
    swept = re.fullmatch(r"(delta_)?pass(\d+)", column)
    if column in headings or swept is None:
        return headings.get(column, column)
    return f"\u0394 Pass@{swept[2]} (points)" if swept[1] else f"Pass@{swept[2]} (%)"


def kinds(
    records: Sequence[RunRecord], titles: Mapping[str, str], headings: Mapping[str, str]
) -> Table | None:
    """Build the table of success by kind, a row per run and kind; None if no run has kinds."""
    kinds = kind_table(records)
    kinds["regime"] = kinds["regime"].map(titles)
    after = {name: headings[name].replace(" (", " after (") for name in ("pass1", "passk")}
    shown = frame_table(kinds, {**headings, **after}).without_empty_columns()
    return shown if len(kinds) else None


def kernel(records: Sequence[RunRecord]) -> Table | None:
    """Build the table of mean inner products of two problems' gradients, by their kinds."""
    frames = []
    for seed_dir, record in {record.seed_dir: record for record in records}.items():
        kernel = read_seed_table(record, "kernel.csv")
        if seed_dir is not None and kernel is not None:
            frames.append(kernel.assign(name=seed_dir.parent.name, seed=record.seed))
    if not frames:
        return None
    table = with_all_seeds(pd.concat(frames), ["name", "kind_a", "kind_b"])
    table = table.drop_duplicates(["name", "kind_a", "kind_b"], keep="last")
    table = table.assign(kinds=table["kind_a"] + " and " + table["kind_b"])
    headings = {"kinds": "Kinds", "name": "Reproduction", "seed": "Seed", "kernel": "Kernel"}
    if table["name"].nunique() == 1:
        headings.pop("name")
    return Table.of(table.to_dict("records"), headings, {"kernel": _with_minus("+.3g")})


def cells(cells: pd.DataFrame, k: int, headings: Mapping[str, str]) -> Table:
    """Format the sweep with Pass@1 and one Pass@k; a seed has a row only if it is the only one.

    The regime is left out if k, weight and seed already distinguish all rows.
    """
    columns = ["regime", "k", "pass1_weight", "seed"]
    for name in dict.fromkeys(["pass1", f"pass{k}"]):
        for column in (name, f"delta_{name}"):
            columns += [column, f"{column}_low", f"{column}_high"]
    if not cells.duplicated(["k", "pass1_weight", "seed"]).any():
        columns.remove("regime")
    shown = frame_table(summary_rows(cells).reindex(columns=columns), headings)
    return shown.without_empty_columns()


def differences(records: Sequence[RunRecord]) -> Table | None:
    """Build the table of settings in which the runs differ: a row per label, as seeds count as one.

    SFT has no objective over samples, so settings of the objective are left empty there.
    """
    first = dict(reversed(in_order(records)))
    different = list(reversed(first.values()))
    differing = config_differences(different)
    if differing.empty:
        return None
    keys = ["regime.name", *(key for key in differing.index if key != "regime.name")]
    places = Places(records)
    return Table(keys, [[_setting(run, key, places) for key in keys] for run in different])


def _setting(record: RunRecord, key: str, places: Places) -> str:
    value = record.setting(key)
    is_idle = record.regime == "sft" and key.startswith("regime.") and key not in _KNOWN_TO_SFT
    return "" if value is None or is_idle else places.as_shown(str(value))


def runs(records: Sequence[RunRecord]) -> Table:
    """Build the table of progress and of the commands from `command_lines.rebuilding_lines`."""
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
    return Table(["Run", "Status", "Steps", "Time", "Device", "Command"], rows)


def versions(records: Sequence[RunRecord]) -> Table | None:
    """Build the table of recorded versions and commits; several where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        facts: dict[str, Any] = dict(record.manifest.get("versions") or {})
        facts |= {"git commit": commit_of(record), "machine": record.manifest.get("machine")}
        for name, value in facts.items():
            if value is not None:
                found.setdefault(name, {})[str(value)] = None
    rows = [[name, ", ".join(values)] for name, values in found.items()]
    return Table(["What", "Version"], rows) if rows else None


def commit_of(record: RunRecord) -> str | None:
    """Return the commit that a run was made with and if files were changed; None if unknown."""
    git = record.manifest.get("git")
    if not isinstance(git, Mapping) or not git.get("commit"):
        return None
    return f"{git['commit']}{' (changed)' if git.get('dirty') else ''}"


def write_table(folder: Path, name: str, shown: Table, table: pd.DataFrame | None = None) -> None:
    """Write `NAME.csv`, `NAME.md` and `NAME.tex` to a folder, which is created.

    The CSV holds the numbers of `table` to full precision, or without one the text of `shown`; the
    others hold the text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = shown.csv() if table is None else table.to_csv(index=False)
    texts = {"csv": numbers, "md": shown.markdown(" --- "), "tex": shown.latex()}
    for ending, text in texts.items():
        (folder / f"{name}.{ending}").write_text(text, encoding="utf-8")
