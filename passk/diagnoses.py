"""What `passk diagnose` left, read back for the report: each prompt's weight and agreement."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from passk.eval_tables import with_kind
from passk.reading import read_manifest, read_table
from passk.records import find_measured

AGREEMENT_COLUMNS = [
    *("diagnosis", "problem_id", "kind", "n", "c", "p"),
    *("weight", "agreement", "agreement_error", "contribution", "signal"),
]


@dataclass(frozen=True, eq=False)
class DiagnosisRecord:
    """One directory of `passk diagnose`, read once.

    Attributes:
        path: the directory.
        manifest: status, times, versions, and `policy`, the checkpoint that was measured.
        prompts: `prompts.csv`, a row per prompt, with `kind` as in `RunRecord.counts`.
        curve: `curve.csv`, a row per k: f(k) = <grad J_k, grad J_1> with its interval.
    """

    path: Path
    manifest: Mapping[str, Any]
    prompts: pd.DataFrame
    curve: pd.DataFrame

    @property
    def ks(self) -> list[int]:
        """The k that prompts have weights for, ascending."""
        named = (re.fullmatch(r"weight_(\d+)", str(name)) for name in self.prompts)
        return sorted(int(match[1]) for match in named if match)

    @cached_property
    def run(self) -> Path | None:
        """The run whose checkpoint was measured, where that lies on this machine."""
        policy = Path(str(self.manifest.get("policy", "")))
        run = policy.parent.parent
        return run if (run / "config.yaml").is_file() else None

    @cached_property
    def k(self) -> int:
        """The k to show: that of the run's objective if prompts have its weight, else the last."""
        config = yaml.safe_load((self.run / "config.yaml").read_text()) if self.run else {}
        k = (config.get("regime") or {}).get("k")
        return k if k in self.ks else max(self.ks, default=1)

    @property
    def title(self) -> str:
        """`passk at step 150`, or the name of the model."""
        policy = Path(str(self.manifest.get("policy", self.path.name)))
        step = re.fullmatch(r"step-(\d+)", policy.name)
        return f"{policy.parent.parent.name} at step {int(step[1])}" if step else policy.name


def find_diagnoses(dirs: Iterable[str | Path]) -> list[DiagnosisRecord]:
    """Every diagnosis at or below the paths, once each; one without its tables is left out.

    Raises:
        UserError: one of its files cannot be read.
    """
    return [
        DiagnosisRecord(
            path=folder,
            manifest=read_manifest(folder),
            prompts=with_kind(read_table(folder / "prompts.csv")),
            curve=read_table(folder / "curve.csv"),
        )
        for folder in find_measured(dirs, "diagnose")
        if all((folder / f"{name}.csv").is_file() for name in ("prompts", "curve"))
    ]


def agreement_rows(diagnoses: Iterable[DiagnosisRecord], k: int | None = None) -> pd.DataFrame:
    """A row per diagnosis and prompt: its weight w_k and its agreement with the Pass@1 gradient.

    Columns: `AGREEMENT_COLUMNS`; `diagnosis` is its title, `contribution` estimates w_k a without
    bias, `signal` says why no gradient is seen, where none is. k is each diagnosis' own unless
    given, and a diagnosis without that k is left out.
    """
    frames = []
    for found in diagnoses:
        shown = found.k if k is None else k
        if shown in found.ks:
            names = {f"{name}_{shown}": name for name in ("weight", "contribution")}
            frames.append(found.prompts.rename(columns=names).assign(diagnosis=found.title))
    if not frames:
        return pd.DataFrame(columns=AGREEMENT_COLUMNS)
    return pd.concat(frames, ignore_index=True)[AGREEMENT_COLUMNS]
