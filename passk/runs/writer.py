"""Write the directory of a run: all files that a run leaves behind are written here."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import pandas as pd
import yaml

from passk.config.schema import RunConfig, TrainConfig
from passk.console import working
from passk.data.problems import problem_table
from passk.data.sources import with_absolute_paths
from passk.errors import DiskFull, Interrupted
from passk.evaluation.tables import SAMPLE_COLUMNS, pass_markdown
from passk.files import (
    append_line,
    full_disk_told,
    overrides_text,
    read_manifest,
    recorded,
    replacing,
    step_name,
    steps_of,
    write_text,
)
from passk.learner.checkpoint import TrainState, best_steps
from passk.learner.checkpoint_writer import CheckpointWriter
from passk.learner.learner import Learner, LearnStats
from passk.learner.policy import Tokenizer
from passk.ranks import num_ranks, rank
from passk.rollout.base import first_samples
from passk.rollout.rollout import Rollout, sample_fields
from passk.runs.manifest import Spending, provenance
from passk.runs.trackers import Tracking
from passk.types import Problem, Verdict

P = ParamSpec("P")


def _by_rank_0(method: Callable[P, None]) -> Callable[P, None]:
    """Decorate a method that writes: only rank 0 runs it, as all ranks would write the same."""

    @wraps(method)
    def written_once(*args: P.args, **kwargs: P.kwargs) -> None:
        if rank() == 0:
            method(*args, **kwargs)

    return written_once


class Run:
    """Open run directory. State: the files, the checkpoint being written, and a tracker."""

    def __init__(self, path: Path, command: str, seed: int, policy: str | None = None) -> None:
        """Prepare the manifest; `policy` is the model that is evaluated, if nothing is trained."""
        self.path = path
        self._checkpoints: CheckpointWriter | None = None
        self._tracking: Tracking | None = None
        self._num_logged = self._num_moved = 0  # steps of this session, and those with gradient
        self._last_logged = 0.0  # seconds, from the last line of an earlier session
        self._manifest: dict[str, Any] = {
            "command": command,
            "seed": seed,
            **({} if policy is None else {"policy": policy}),
            **provenance(),
        }

    @_by_rank_0
    def start(self, cfg: RunConfig, overrides: Sequence[str], **facts: Any) -> None:
        """Write config, overrides and manifest; from here on the run counts as running.

        `facts` go into the manifest, such as the device that learns and the engine that samples. A
        resumed run keeps the overrides and the start time of its first session.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        before = read_manifest(self.path)
        # Written first: from here on the directory can be resumed.
        write_text(self.path / "config.yaml", _config_text(cfg))
        if not before:
            write_text(self.path / "overrides.txt", overrides_text(overrides))
        self._spent = Spending(before, self._last_logged, num_ranks())
        self._manifest |= {**facts, "start": before.get("start", _now())}
        self._manifest |= {**self._spent.facts(), "status": "running"}
        self._write_manifest()

    @_by_rank_0
    def track(self, cfg: TrainConfig, step: int) -> None:
        """Send metrics from `step` on to the tracker too, if one was chosen."""
        if cfg.tracker.name != "none":
            self._tracking = Tracking(cfg, self.path, self._manifest, step)

    @_by_rank_0
    def write_problems(self, **splits: Sequence[Problem]) -> None:
        """Write `problems.parquet`, once: the problems behind the ids in all other files."""
        if not (self.path / "problems.parquet").is_file():
            self._write_parquet(".", "problems", problem_table(splits))

    def finish(self, status: str) -> None:
        """Wait until a checkpoint is completely written, and record how the run ended.

        `status` is `finished`, `interrupted` or `failed`.
        """
        if self._checkpoints is not None:
            self._checkpoints.close()
        self._record_end(status)

    @contextmanager
    def recording_end(self) -> Iterator[None]:
        """Record how the block ends: call `finish` with `finished`, `interrupted` or `failed`."""
        status = "failed"
        try:
            yield
            status = "finished"
        except (Interrupted, KeyboardInterrupt):
            status = "interrupted"
            raise
        finally:
            self.finish(status)

    @_by_rank_0
    def _record_end(self, status: str) -> None:
        self._manifest |= {"end": _now(), **self._spent.facts(), "status": status}
        self._write_end(status)  # before waiting for a tracker
        if self._tracking is not None:
            with working("closing the tracker"):
                self._manifest |= self._tracking.finish(status)
            self._write_end(status)

    def _write_end(self, status: str) -> None:
        try:
            self._write_manifest()
        except DiskFull:
            if status != "failed":  # do not hide the run's own error
                raise

    def _write_manifest(self) -> None:
        write_text(self.path / "manifest.json", json.dumps(self._manifest, indent=2) + "\n")

    @_by_rank_0
    def rewind(self, step: int) -> None:
        """Drop records of steps at or after `step`, which a resumed run is about to repeat.

        Half-written files, which a kill leaves under temporary names, are removed too.
        """
        for partial in self.path.rglob(".*.partial"):
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        metrics = self.path / "metrics.jsonl"
        logged, tables = recorded(self.path)  # read all before dropping anything
        if metrics.is_file():
            self._last_logged = max((row.get("seconds", 0.0) for _, row in logged), default=0.0)
            kept = [line for line, row in logged if row["step"] < step]
            write_text(metrics, "".join(f"{line}\n" for line in kept))
        for table, rows in tables.items():
            before = rows[rows["step"] < step]
            if len(before):
                write_text(table, before.to_csv(index=False))
            else:
                table.unlink()
        for folder in ("rollouts", "eval"):
            for number, file in steps_of(self.path / folder, ".parquet").items():
                if number >= step:
                    file.unlink()

    @_by_rank_0
    def log(self, metrics: Mapping[str, Any]) -> None:
        """Append one step's line to `metrics.jsonl`; NaN becomes null.

        Adds `seconds`, the time that the run took so far: after a kill there is no other record of
        it.
        """
        line = {key: None if value != value else value for key, value in metrics.items()}
        line["seconds"] = round(self._spent.seconds, 3)
        self._num_logged += 1
        self._num_moved += bool(line.get("grad_norm"))
        append_line(self.path / "metrics.jsonl", json.dumps(line, allow_nan=False))
        if self._tracking is not None:
            self._tracking.log("metrics", metrics["step"], line)

    @property
    def had_no_gradient(self) -> bool:
        """True if steps were logged and none of them changed the policy."""
        return self._num_logged > 0 and self._num_moved == 0

    @_by_rank_0
    def write_rollouts(
        self, step: int, sampled: Rollout, logprobs: Mapping[tuple[int, int], float]
    ) -> None:
        """Write a row per sample; `logprobs` maps (prompt, sample) to the learner's log pi(y|x).

        Log-probabilities are of whole completions, in nats. The learner's is null for a sample that
        it did not get because the advantage is zero.
        """
        firsts = first_samples(
            [group.problem.id for group in sampled.groups], len(sampled.groups[0].completions)
        )
        rows = [
            {
                "step": step,
                "problem_id": group.problem.id,
                "sample": firsts[p] + i,
                **sample_fields(completion, verdict),
                "logprob_learner": logprobs.get((p, i)),
                "policy_version": group.policy_version,
            }
            for p, group in enumerate(sampled.groups)
            for i, (completion, verdict) in enumerate(
                zip(group.completions, group.verdicts, strict=True)
            )
        ]
        # Every step's file has one schema, even if no sample of a step was judged or learnt from.
        numbers = {"reward": float, "logprob_learner": float}
        self._write_parquet("rollouts", step_name(step), pd.DataFrame(rows).astype(numbers))

    @_by_rank_0
    def write_gold_refused(self, refused: Sequence[tuple[str, Problem, Verdict]]) -> None:
        """Write `gold_refused.csv`: a row per gold answer that the verifier refuses, if any."""
        if refused:
            rows = [(split, p.id, p.answer, verdict.reason) for split, p, verdict in refused]
            columns = ["split", "problem_id", "answer", "reason"]
            self.write_table("gold_refused", pd.DataFrame(rows, columns=columns))

    @_by_rank_0
    def write_eval(
        self, step: int, counts: pd.DataFrame, tables: Mapping[str, pd.DataFrame]
    ) -> None:
        """Write counts per problem, and append the step's rows to `eval/NAME.csv` of each table."""
        self._write_parquet("eval", step_name(step), counts)
        for name, rows in tables.items():
            path = self.path / "eval" / f"{name}.csv"
            rows = rows.copy()
            rows.insert(0, "step", step)
            known = path.read_text(encoding="utf-8") if path.is_file() else ""
            write_text(path, known + rows.to_csv(index=False, header=not known))
        table = pd.read_csv(self.path / "eval" / "table.csv")
        self.write_text("eval/table.md", pass_markdown(table, "step"))
        if self._tracking is not None:
            values = zip(tables["table"]["k"], tables["table"]["value"], strict=True)
            self._tracking.log("eval", step, {f"eval/pass@{k}": value for k, value in values})

    @_by_rank_0
    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write `NAME.csv`, to full precision; a table of that name is replaced."""
        write_text(self.path / f"{name}.csv", table.to_csv(index=False))

    @_by_rank_0
    def write_text(self, name: str, text: str) -> None:
        """Write a file of text, such as a page; one of that name is replaced."""
        write_text(self.path / name, text)

    @_by_rank_0
    def write_figure(self, name: str, chart: Any) -> None:
        """Write `NAME.png`; `chart` is Altair's, or has its `to_dict`."""
        from passk.style import picture  # with altair, which other commands do without

        with replacing(self.path / f"{name}.png") as partial:
            partial.write_bytes(picture(chart))

    @_by_rank_0
    def write_samples(self, first: int, samples: pd.DataFrame) -> None:
        """Write the samples of some held-out problems; `first` is the place of the first one."""
        self._write_parquet("samples", f"chunk-{first:06d}", samples)

    def samples(self) -> pd.DataFrame:
        """Read all samples on disk without completions; a file that was cut short is removed."""
        columns = [name for name in SAMPLE_COLUMNS if name != "completion"]
        found = []
        for file in sorted((self.path / "samples").glob("chunk-*.parquet")):
            try:
                found.append(pd.read_parquet(file, columns=columns))
            except (OSError, ValueError):  # what pyarrow raises for a file without its end
                file.unlink()
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)

    def _write_parquet(self, folder: str, name: str, rows: pd.DataFrame) -> None:
        with replacing(self.path / folder / f"{name}.parquet") as partial:
            rows.to_parquet(partial, index=False)

    def begin_saving(self, *, in_background: bool, generation: bytes | None) -> None:
        """Prepare for checkpoints. With several ranks, call this while their launcher is alive.

        `generation` is the starting model's generation_config.json, which every checkpoint holds.

        Ranks find one another through the launcher. If it were killed before this call, they would
        wait forever instead of saving and ending.
        """
        folder = self.path / "checkpoints"
        self._checkpoints = CheckpointWriter(
            folder, in_background=in_background, generation=generation
        )

    def save(
        self, learner: Learner, tokenizer: Tokenizer, state: TrainState, cfg: TrainConfig
    ) -> None:
        """Write the checkpoint of `state.step`, and drop those that are neither new nor best.

        With `train.async_save` a copy is written while the run goes on; `settle` waits for it.
        """
        assert self._checkpoints is not None, "begin_saving comes first"
        self.settle()  # before looking at the checkpoints on disk
        drop = self._superseded(state.step, cfg) if rank() == 0 else []
        with full_disk_told(self.path / "checkpoints"):
            self._checkpoints.save(learner, tokenizer, state, drop)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written; raises the error that broke it, if any."""
        if self._checkpoints is not None:
            with full_disk_told(self.path / "checkpoints"):
                self._checkpoints.settle()

    def check_saved(self) -> None:
        """Raise the error that has broken a checkpoint so far, without waiting for one."""
        if self._checkpoints is not None:
            with full_disk_told(self.path / "checkpoints"):
                self._checkpoints.check()

    def _superseded(self, step: int, cfg: TrainConfig) -> list[Path]:
        """Return the checkpoints to drop after that of `step`: all but the newest and the best."""
        folders = steps_of(self.path / "checkpoints")
        newest = sorted(folders.keys() | {step})[-cfg.train.keep_last :]
        best = [s for s in best_steps(self.path) if s in folders][: cfg.train.keep_best]
        return [folders[s] for s in folders.keys() - {step, *newest, *best}]


def sample_logprobs(rows: Sequence[Any], stats: LearnStats) -> dict[tuple[int, int], float]:
    """Map (prompt, sample) to the learner's log pi(y|x), from the rows it was fed."""
    return {
        sample: value
        for row, value in zip(rows, stats.logprobs, strict=True)
        for sample in row.samples
    }


def _config_text(cfg: RunConfig) -> str:
    return yaml.safe_dump(asdict(with_absolute_paths(cfg)), sort_keys=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
