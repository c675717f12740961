"""A run's directory: everything a run leaves behind is written here, and only here."""

import json
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from passk.checkpoint import TrainState, checkpoint_name, save_checkpoint
from passk.config import RunConfig
from passk.evaluator import percent_cells
from passk.learner import Learner, LearnStats
from passk.policy import Tokenizer
from passk.rollout import Rollout
from passk.seeds import first_samples
from passk.types import Problem, Verdict

_PACKAGES = ("passk", "torch", "transformers", "hydra-core", "omegaconf", "numpy", "pandas")


class Run:
    """The open run directory. State: the files, and the lines already in `metrics.jsonl`."""

    def __init__(self, path: Path, command: str, seed: int) -> None:
        self.path = path
        self._manifest: dict[str, Any] = {
            "command": command,
            "seed": seed,
            "versions": {name: _version(name) for name in _PACKAGES}
            | {"python": platform.python_version()},
            "git": _git_state(),
            "host": socket.gethostname(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        }

    def start(self, cfg: RunConfig, overrides: Sequence[str], device: str) -> None:
        """Write config, overrides and manifest; the run counts as running from here on.

        A resumed run keeps the overrides and the start of its first session.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        before: dict[str, Any] = {}
        if (self.path / "manifest.json").is_file():
            before = json.loads((self.path / "manifest.json").read_text())
        else:
            _write(self.path / "overrides.txt", "".join(f"{line}\n" for line in overrides))
        _write(self.path / "config.yaml", yaml.safe_dump(asdict(cfg), sort_keys=False))
        self._session_start = time.monotonic()
        self._seconds_before = float(before.get("seconds", 0.0))
        self._manifest |= {"device": device, "start": before.get("start", _now())}
        self._manifest["status"] = "running"
        self._write_manifest()

    def finish(self, status: str) -> None:
        """Record how the run ended: `finished`, `interrupted` or `failed`."""
        session = time.monotonic() - self._session_start
        seconds = round(self._seconds_before + session, 1)
        self._manifest |= {"end": _now(), "seconds": seconds, "status": status}
        self._write_manifest()

    def _write_manifest(self) -> None:
        _write(self.path / "manifest.json", json.dumps(self._manifest, indent=2) + "\n")

    def rewind(self, step: int) -> None:
        """Drop records of steps at or after `step`, which a resumed run is about to repeat.

        Half-written files, which a kill leaves under temporary names, go too.
        """
        for partial in self.path.rglob(".*.partial"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        metrics = self.path / "metrics.jsonl"
        if metrics.is_file():
            kept = [line for line in _whole_lines(metrics) if json.loads(line)["step"] < step]
            _write(metrics, "".join(f"{line}\n" for line in kept))
        for name in ("table.csv", "table_by_kind.csv"):
            table = self.path / "eval" / name
            if table.is_file():
                rows = pd.read_csv(table, keep_default_na=False)
                _write(table, rows[rows["step"] < step].to_csv(index=False))
        for folder in ("rollouts", "eval"):
            for file in (self.path / folder).glob("step-*.parquet"):
                if int(file.stem.removeprefix("step-")) >= step:
                    file.unlink()

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one step's line to `metrics.jsonl`; NaN becomes null."""
        line = {key: None if value != value else value for key, value in metrics.items()}
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def write_rollouts(
        self, step: int, sampled: Rollout, logprobs: Mapping[tuple[int, int], float]
    ) -> None:
        """A row per sample; `logprobs` maps (prompt, sample) to the learner's log pi(y|x).

        Log-probabilities are of whole completions, in nats; the learner's is null for a sample it
        was not fed because its advantage is zero.
        """
        firsts = first_samples(
            [group.problem.id for group in sampled.groups], len(sampled.groups[0].completions)
        )
        rows = [
            {
                "step": step,
                "problem_id": group.problem.id,
                "sample": firsts[p] + i,
                "completion": completion.text,
                "num_tokens": len(completion.token_ids),
                "finish_reason": completion.finish_reason.value,
                "reward": verdict.reward,
                "reason": verdict.reason,
                "logprob_sampler": sum(completion.logprobs),
                "logprob_learner": logprobs.get((p, i)),
                "policy_version": group.policy_version,
            }
            for p, group in enumerate(sampled.groups)
            for i, (completion, verdict) in enumerate(
                zip(group.completions, group.verdicts, strict=True)
            )
        ]
        self._write_parquet("rollouts", step, pd.DataFrame(rows))

    def write_gold_refused(self, refused: Sequence[tuple[str, Problem, Verdict]]) -> None:
        """`gold_refused.csv`: a row per problem whose gold answer the verifier refuses, if any."""
        if refused:
            rows = [(split, p.id, p.answer, verdict.reason) for split, p, verdict in refused]
            columns = ["split", "problem_id", "answer", "reason"]
            table = pd.DataFrame(rows, columns=columns).to_csv(index=False)
            _write(self.path / "gold_refused.csv", table)

    def write_eval(
        self, step: int, counts: pd.DataFrame, table: pd.DataFrame, by_kind: pd.DataFrame
    ) -> None:
        """Counts per problem, and the step's rows appended to the long-form tables."""
        self._write_parquet("eval", step, counts)
        for name, rows in (("table", table), ("table_by_kind", by_kind)):
            path = self.path / "eval" / f"{name}.csv"
            rows = rows.copy()
            rows.insert(0, "step", step)
            known = [pd.read_csv(path, keep_default_na=False)] if path.is_file() else []
            _write(path, pd.concat([*known, rows], ignore_index=True).to_csv(index=False))
        _write(self.path / "eval" / "table.md", _markdown(self.path / "eval" / "table.csv"))

    def _write_parquet(self, folder: str, step: int, rows: pd.DataFrame) -> None:
        path = self.path / folder / f"{checkpoint_name(step)}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        rows.to_parquet(partial, index=False)
        os.replace(partial, path)

    def save(
        self, learner: Learner, tokenizer: Tokenizer, state: TrainState, keep_last: int
    ) -> None:
        """Write the checkpoint of `state.step` and drop all but the newest `keep_last`."""
        folder = self.path / "checkpoints" / checkpoint_name(state.step)
        save_checkpoint(folder, learner, tokenizer, state)
        for old in sorted(folder.parent.glob("step-*"))[:-keep_last]:
            shutil.rmtree(old)


def sample_logprobs(rows: Sequence[Any], stats: LearnStats) -> dict[tuple[int, int], float]:
    """The learner's log pi(y|x) by (prompt, sample), from the rows it was fed."""
    return {
        sample: value
        for row, value in zip(rows, stats.logprobs, strict=True)
        for sample in row.samples
    }


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that end in a newline; a kill can leave half of one."""
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _markdown(table: Path) -> str:
    """`eval/table.csv` for people: a row per step, a column per k, percent with intervals."""
    rows = pd.read_csv(table)
    wide = rows.assign(cell=percent_cells(rows)).pivot(index="step", columns="k", values="cell")
    header = ["step", *(f"Pass@{k}" for k in wide.columns)]
    lines = [header, ["---:"] * len(header)]
    lines += [
        [str(step), *map(str, cells)] for step, cells in zip(wide.index, wide.values, strict=True)
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit and dirty flag of the checkout that passk runs from; None when installed."""
    here = Path(__file__).parent.parent
    if not (here / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(git("status", "--porcelain"))}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
