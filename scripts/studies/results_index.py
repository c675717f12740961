"""Where the tables of `docs/results` come from: `sources.csv`, and `README.md` made from it.

python scripts/studies/results_index.py [folder]     # README.md again, from sources.csv
"""

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

_HEAD = """# Where these tables come from

Written by `scripts/studies/results_index.py` from [sources.csv](sources.csv). `make reproduce-full`
([how](../research/findings.md#make-the-tables-again)) makes some of the tables anew and enters
their rows itself. A commit that is marked as changed had changes on top that no commit holds; where
only the commit is known that a table came with, it says so. Tables made before 2026-11-30 are of
[the task before December](../research/findings.md#the-task-before-december).

"""


@dataclass(frozen=True)
class Source:
    """What a table is and how it was made; `seconds` and `device` are empty where unknown."""

    file: str
    what: str
    command: str
    commit: str
    date: str
    device: str
    seconds: str


class Sources:
    """The rows of a folder of tables, by file. State: `sources.csv` and `README.md` there."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "sources.csv"
        self.page = folder / "README.md"
        self.rows: dict[str, Source] = {}
        if self._file.is_file():
            with self._file.open(encoding="utf-8", newline="") as file:
                self.rows = {row["file"]: Source(**row) for row in csv.DictReader(file)}

    def update(self, rows: Iterable[Source]) -> None:
        """Put rows in the place of those of the same files, and write both files."""
        self.rows |= {row.file: row for row in rows}
        with self._file.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Source)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(self.rows[name]) for name in sorted(self.rows))
        self.page.write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """The page: a row per file."""
        lines = ["| file | what it is | made by | commit | date | on | time |", "|" + "---|" * 7]
        for name in sorted(self.rows):
            row = self.rows[name]
            cells = [f"[{row.file}]({row.file})", row.what, f"`{row.command}`", row.commit]
            lines.append(
                "| " + " | ".join([*cells, row.date, row.device, told(row.seconds)]) + " |"
            )
        return _HEAD + "\n".join(lines) + "\n"


def told(seconds: str) -> str:
    """Seconds as a reader wants them."""
    if not seconds:
        return ""
    value = float(seconds)
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min"


def source(file: str, what: str, command: str, study: Path) -> Source:
    """The row of a table made from the runs below a folder, by their manifests.

    Of several commits all are named. Time is that of the outermost manifests, which count the runs
    below them; sessions that were killed are not in it.
    """
    paths = sorted(study.rglob("manifest.json"))
    manifests = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in paths}
    outermost = [m for at, m in manifests.items() if not set(at.parents) & manifests.keys()]
    runs = sorted(manifests.values(), key=lambda manifest: manifest["start"])
    places = {f"{m['device']} ({m['machine']})" for m in runs if m["command"] == "train"}
    return Source(
        file=file,
        what=what,
        command=command,
        commit=", ".join(dict.fromkeys(map(commit, runs))),
        date=max(manifest["end"] for manifest in runs)[:10],
        device=", ".join(sorted(places)),
        seconds=f"{sum(manifest['seconds'] for manifest in outermost):.0f}",
    )


def commit(manifest: dict[str, Any]) -> str:
    """The short hash of a run's checkout, or the version of an installed passk."""
    git = manifest["git"]
    if not git or not git["commit"]:
        return f"passk {manifest['versions']['passk']}"
    return str(git["commit"][:7]) + (" (changed)" if git["dirty"] else "")


if __name__ == "__main__":
    Sources(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/results")).update([])
