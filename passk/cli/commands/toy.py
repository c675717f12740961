"""`passk toy`: write tables and figures of the paper's bandit to a run directory. No torch."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from passk.config.commands import PopulationConfig, ToyConfig
from passk.errors import UserError
from passk.files import filled_at_once, overrides_text
from passk.objectives.theory import FloatArray
from passk.report.pages import markdown_page
from passk.runs.manifest import provenance
from passk.style import picture
from passk.text import Table
from passk.toy import figures
from passk.toy.bandit import best_theta
from passk.toy.tables import (
    agreement_table,
    ascent_path,
    ascent_table,
    population_table,
    quadrature_error,
    two_prompts_table,
)

_FARTHEST = 30.0  # largest |theta|; beyond it success is 0 or 1 in floating point
_SHOWN = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


def run_toy(cfg: ToyConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Compute, write and print everything; see docs/method/toy.md."""
    start, toy = datetime.now(UTC), cfg.toy
    path_SD = _path(toy)
    tables = {
        "two_prompts": two_prompts_table(),
        "population": population_table(toy, path_SD),
        "ascent": ascent_table(toy, path_SD),
        "agreement": agreement_table(toy, path_SD),
    }
    drawn = {
        "kernel": figures.kernel_heatmap(toy),
        "contours": figures.contours(toy, path_SD),
        "agreement": figures.agreement_histogram(tables["agreement"]),
        "ascent": figures.ascent_curves(tables["ascent"], toy.k),
    }
    page = _page(toy, path_SD, tables)
    links = "".join(f"\n![{name}]({name}.png)\n" for name in drawn)
    with filled_at_once(run_dir, last="manifest.json", advice="make room, try again") as folder:
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        for name, figure in drawn.items():
            (folder / f"{name}.png").write_bytes(picture(figure))
        (folder / "toy.md").write_text(page + links, encoding="utf-8")
        (folder / "config.yaml").write_text(yaml.safe_dump(asdict(cfg), sort_keys=False))
        (folder / "overrides.txt").write_text(overrides_text(overrides), encoding="utf-8")
        _write_manifest(folder, toy.seed, start)
    print(page)
    for kind, names in ((".csv", tables), (".png", drawn)):
        print(*(run_dir / f"{name}{kind}" for name in names), sep="\n")
    print(run_dir / "toy.md")


def _path(toy: PopulationConfig) -> FloatArray:
    """Compute the ascent, or raise UserError if its step is too long for floating point."""
    path_SD = ascent_path(toy)
    if not np.abs(path_SD).max() <= _FARTHEST:
        raise UserError(
            f"toy.step_size={toy.step_size:g} is too long for Pass@{toy.k}: the ascent jumps to "
            "where every success is 0 or 1; use a smaller one"
        )
    return path_SD


def _page(toy: PopulationConfig, path_SD: FloatArray, tables: dict[str, pd.DataFrame]) -> str:
    """Format the tables for people, in Markdown."""
    ascent, error = tables["ascent"], quadrature_error(toy, path_SD)
    shown = ascent[ascent["iteration"].isin([*_SHOWN, toy.num_steps])]
    headings = {"iteration": "iteration"}
    for kind in ("", "_easy", "_hard"):
        of_kind = kind.replace("_", ", ")
        headings |= {f"pass1{kind}": f"Pass@1{of_kind}", f"passk{kind}": f"Pass@{toy.k}{of_kind}"}
    headings |= {"cosine": "cosine of the gradients"}
    return markdown_page(
        "toy",
        toy=toy,
        two_prompts=_shown(tables["two_prompts"]),
        ascent=_shown(shown, headings, ".4f"),
        population=_shown(tables["population"]),
        end=path_SD[-1],
        best=best_theta(toy.p_hard, toy.delta, toy.k),
        error=error,
    )


def _shown(
    table: pd.DataFrame, headings: Mapping[str, str] | None = None, form: str = ".5g"
) -> str:
    """Format a table: whole numbers as such, and all others in one form."""

    def write(value: float) -> str:
        return format(value, "g" if value.is_integer() else form)

    names = headings or {str(name): str(name) for name in table}
    return Table.of(table.to_dict("records"), names, dict.fromkeys(names, write)).markdown()


def _write_manifest(run_dir: Path, seed: int, start: datetime) -> None:
    end = datetime.now(UTC)
    times = {
        "start": start.isoformat(timespec="seconds"),
        "end": end.isoformat(timespec="seconds"),
        "seconds": round((end - start).total_seconds(), 1),
    }
    facts = {"command": "toy", "seed": seed, **provenance(), **times, "status": "finished"}
    (run_dir / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n")
