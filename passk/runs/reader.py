"""Read run directories back: files in, frozen records and data frames out.

Tables, plots and the report know a run only through `RunRecord`, so everything they show can be
rebuilt from the files alone. Nothing here is computed; see `passk.report.tables` for that.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from passk.config.schema import AUTO, has_k
from passk.console import working
from passk.errors import UserError
from passk.evaluation.tables import at_temperature, with_kind
from passk.files import (
    broken,
    read_file,
    read_lines,
    read_manifest,
    read_overrides,
    read_table,
    read_yaml,
    saved_steps,
    step_name,
    step_of,
    with_columns,
)
from passk.statistics import Interval
from passk.types import GROUPINGS

_PROBLEM_COLUMNS = ["problem_id", "split", "kind", "prompt", "answer"]
_SETTINGS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("regime.name", "regime.estimator", "data.name", "model.path"), (str,)),
    **dict.fromkeys(("regime.k", "train.seed", "rollout.num_samples"), (int,)),
    "regime.pass1_weight": (int, float),
    **dict.fromkeys(("regime.ks", "regime.weights"), (list,)),
}
_COUNTS = ["temperature", "n", "c", "n_first", "c_first"]
_EVAL_COLUMNS = ("step", "k", "value", "ci_low", "ci_high", "num_problems", "num_samples")


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """Contents of one run directory, read once.

    Attributes:
        path: the run directory.
        config: resolved configuration, nested.
        manifest: status, times, versions, host; empty where the file is missing.
        evals: `eval/table.csv`, a row per (step, k); values in [0, 1].
        by_kind: `eval/table_by_kind.csv`, a row per (step, kind, k); levels, or else types, stand
            for kinds where problems have none.
        metrics: `metrics.jsonl`, a row per training step.
        overrides: `overrides.txt`, the settings that the user typed, one each.
    """

    path: Path
    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    evals: pd.DataFrame
    by_kind: pd.DataFrame
    metrics: pd.DataFrame
    overrides: tuple[str, ...]

    @property
    def regime(self) -> str:
        return str(self.setting("regime.name", "unknown"))

    @property
    def k(self) -> int:
        return int(self.setting("regime.k", 1) or 1)

    @property
    def pass1_weight(self) -> float:
        """Weight of Pass@1 in the objective; NaN for `auto` until the run has measured it."""
        weight = self.setting("regime.pass1_weight", None)
        if weight == AUTO:
            weight = self.manifest.get("pass1_weight", math.nan)
        return 1.0 if weight is None else float(weight)

    @property
    def optimises_passk(self) -> bool:
        """True if k matters for this run: it is neither SFT nor Pass@1 alone."""
        knows_k = has_k(str(self.setting("regime.estimator") or "mixture"))
        return knows_k and self.regime != "sft" and self.pass1_weight != 1 and self.k > 1

    @property
    def seed(self) -> int:
        """Number of the `seed-S` directory, else `train.seed`."""
        if self.seed_dir is not None:
            return int(self.seed_dir.name.removeprefix("seed-"))
        return int(self.setting("train.seed", 0) or 0)

    @property
    def seed_dir(self) -> Path | None:
        """The `seed-S` directory of `passk reproduce` that this run is part of, if any."""
        parent = self.path.parent
        return parent if re.fullmatch(r"seed-\d+", parent.name) else None

    @property
    def top(self) -> Path:
        """Directory made by one command: the reproduction it is part of, or its own."""
        return self.path if self.seed_dir is None else self.seed_dir.parent

    @property
    def steps(self) -> list[int]:
        """Evaluated steps whose counts per problem are on disk, ascending."""
        return saved_steps(self.path / "eval")

    @property
    def rollout_steps(self) -> list[int]:
        """Steps whose samples are on disk, ascending."""
        return saved_steps(self.path / "rollouts")

    def setting(self, key: str, default: Any = None) -> Any:
        """Return the value of a dotted key of the configuration."""
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    @property
    def fronts(self) -> pd.DataFrame:
        """`eval/front.csv`, a row per (step, temperature, k); empty where there is none."""
        return read_evals(self.path / "eval" / "front.csv", ("step", "temperature", "k"))

    @property
    def temperature(self) -> float:
        """The temperature of tables and comparisons, `eval.temperature`."""
        return float(self.setting("eval.temperature", 1.0))

    def counts(self, step: int) -> pd.DataFrame:
        """Read the counts of `front_counts` at `eval.temperature`; a row for each problem."""
        return at_temperature(self.front_counts(step), self.temperature)

    def front_counts(self, step: int) -> pd.DataFrame:
        """Read the evaluation counts at a step: a row for each temperature and problem.

        Columns: problem_id, kind, temperature, n samples, c correct, and of the first half of the
        samples n_first, c_first. Levels, or else types, stand for kinds where problems have none.
        """
        return read_eval_counts(self.path, step)

    def rollouts(self, step: int, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Read the samples that a step was trained on, a row each; these columns, or all."""
        file = self.path / "rollouts" / f"{step_name(step)}.parquet"
        frame: pd.DataFrame = read_file(partial(pd.read_parquet, columns=columns), file)
        needed = ["step", "problem_id", "sample"] if columns is None else columns
        return with_columns(file, frame, columns=needed)

    @property
    def summary(self) -> pd.DataFrame:
        """`eval/summary.csv`, a row per step and metric; empty for a run without evaluations."""
        columns = ["step", "metric", "value", "ci_low", "ci_high", "num_problems"]
        empty = pd.DataFrame(columns=columns, dtype=object)
        return read_table(self.path / "eval" / "summary.csv", default=empty)

    @property
    def distance(self) -> pd.DataFrame:
        """`eval/distance.csv`, a row per evaluated step, ascending; empty for a run without it."""
        columns = ["step", "kl_per_answer"]
        empty = pd.DataFrame(columns=columns, dtype=float)
        file = self.path / "eval" / "distance.csv"
        return read_table(file, default=empty, numbers=columns).sort_values("step")

    def problems(self) -> pd.DataFrame:
        """Read problem_id, split (train or heldout), kind, prompt, answer; empty if missing."""
        return read_problems(self.path)


def load_run(path: str | Path) -> RunRecord:
    """Read one run directory; an unfinished run gives the rows it has.

    Raises:
        UserError: the directory is not a run, or one of its files cannot be read.
    """
    path = Path(path)
    if not _is_run(path):
        raise UserError(
            f"{path} is not a run directory: it needs a config.yaml with a regime,"
            " and metrics.jsonl or eval/table.csv beside it"
        )
    return RunRecord(
        path=path.resolve(),
        config=read_config(path / "config.yaml"),
        manifest=read_manifest(path),
        evals=read_evals(path / "eval" / "table.csv", ("step", "k")),
        by_kind=_read_by_kind(path / "eval"),
        metrics=read_metrics(path / "metrics.jsonl"),
        overrides=read_overrides(path),
    )


def find_runs(paths: Iterable[str | Path]) -> list[RunRecord]:
    """Read every run at or below the paths, once each; runs, reproductions and sweeps may be mixed.

    A path may hold what `passk eval` or `passk diagnose` wrote instead, but not all paths may.

    Raises:
        UserError: a path does not exist or holds nothing of the kind, or there is no run at all.
    """
    found: dict[Path, None] = {}
    folders = list(map(Path, paths))
    for path in folders:
        if not path.is_dir():
            raise UserError(f"{path} is not a directory: give run, reproduce or sweep directories")
        below = sorted((f.parent for f in path.rglob("config.yaml")), key=natural_order)
        # Hydra keeps its own copy of a config under `.hydra`.
        shown = [d for d in below if not any(p[0] == "." for p in d.relative_to(path).parts)]
        runs = [folder for folder in shown if _is_run(folder)]
        if not runs and not find_measured([path], "eval", "diagnose"):
            raise UserError(
                f"{path} holds no run: expected a config.yaml with a regime,"
                " and metrics.jsonl or eval/table.csv beside it"
            )
        found.update(dict.fromkeys(run.resolve() for run in runs))
    if not found:
        raise UserError(
            f"{', '.join(map(str, folders))} holds no run of passk train: name the run that was "
            "measured, too"
        )
    records = []
    with working("reading runs", len(found), "runs") as phase:
        for run in found:
            records.append(load_run(run))
            phase.advance()
    return records


def find_measured(paths: Iterable[str | Path], *commands: str) -> list[Path]:
    """Find the directories at or below the paths that one of these commands wrote, once each."""
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        below = sorted((f.parent for f in path.rglob("manifest.json")), key=natural_order)
        found |= {d.resolve(): None for d in below if read_manifest(d).get("command") in commands}
    return list(found)


def read_eval_counts(folder: Path, step: int) -> pd.DataFrame:
    """Read the counts of a run's or an evaluation's folder; see `RunRecord.front_counts`."""
    file = folder / "eval" / f"{step_name(step)}.parquet"
    frame = read_file(pd.read_parquet, file)
    frame = with_columns(file, frame, columns=["problem_id"], numbers=_COUNTS)
    if not ((frame["c"] >= 0) & (frame["c"] <= frame["n"])).all():
        raise broken(file, "counts more right samples than there are")
    return with_kind(frame)[["problem_id", "kind", *_COUNTS]]


def read_problems(folder: Path) -> pd.DataFrame:
    """Read `problems.parquet` of a run or an evaluation; columns of `RunRecord.problems`."""
    empty = pd.DataFrame(columns=_PROBLEM_COLUMNS, dtype=object)
    file = folder / "problems.parquet"
    frame: pd.DataFrame = read_file(pd.read_parquet, file, default=empty)
    frame = with_columns(file, frame, columns=[c for c in _PROBLEM_COLUMNS if c != "kind"])
    return with_kind(frame)[_PROBLEM_COLUMNS]


def read_seed_table(record: RunRecord, name: str) -> pd.DataFrame | None:
    """Read `alignment.csv` or `kernel.csv` of the run's seed directory; None if missing."""
    if record.seed_dir is None or not (record.seed_dir / name).is_file():
        return None
    return read_table(record.seed_dir / name)


def flat(node: Mapping[str, Any], joint: str = ".") -> dict[str, Any]:
    """Flatten nested settings to one name each, such as `regime.k`."""
    named: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            named |= {f"{key}{joint}{name}": inner for name, inner in flat(value, joint).items()}
        else:
            named[key] = value
    return named


def _is_run(path: Path) -> bool:
    """Return True for a training run; `passk eval` leaves the same files, but makes no run."""
    config = path / "config.yaml"
    if read_manifest(path).get("command") == "eval":
        return False
    has_rows = (path / "metrics.jsonl").is_file() or (path / "eval" / "table.csv").is_file()
    return (
        has_rows
        and config.is_file()
        and re.search(rb"^regime:", config.read_bytes(), re.M) is not None
    )


def natural_order(name: str | Path) -> list[tuple[float, str]]:
    """Return a sort key that puts k=2 before k=12, and 1e-05 before 0.001."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e-\d+)?)", str(name))
    return [(float(part), "") if i % 2 else (-1.0, part) for i, part in enumerate(parts)]


def read_config(file: Path) -> dict[str, Any]:
    """Read the settings of a run; settings used in computations must have the right type."""
    config = read_yaml(file)
    for dotted, types in _SETTINGS.items():
        section, key = dotted.split(".")
        values = config.get(section) or {}
        value = values.get(key) if isinstance(values, dict) else values
        is_measured = (dotted, value) == ("regime.pass1_weight", AUTO)
        if value is not None and not isinstance(value, types) and not is_measured:
            raise broken(file, f"has {dotted}={str(value)[:40]}, of the wrong kind")
    return config


def read_evals(file: Path, key: Sequence[str]) -> pd.DataFrame:
    """Read a table of `eval/` with one row per key, the last where keys repeat."""
    columns = list(dict.fromkeys([*key, *_EVAL_COLUMNS]))
    empty = pd.DataFrame(columns=columns)
    numbers = [column for column in columns if column not in GROUPINGS]
    frame = read_table(file, default=empty, columns=columns, numbers=numbers)
    return frame.drop_duplicates(list(key), keep="last").sort_values(list(key), ignore_index=True)


def _read_by_kind(folder: Path) -> pd.DataFrame:
    found = (name for name in GROUPINGS if (folder / f"table_by_{name}.csv").is_file())
    name = next(found, "kind")
    table = read_evals(folder / f"table_by_{name}.csv", ("step", name, "k"))
    return table.rename(columns={name: "kind"})


def read_metrics(file: Path) -> pd.DataFrame:
    """Read a row per step, the last of a repeated one; a line cut short by a kill is dropped."""
    rows = [row for _, row in read_lines(file)]
    if not rows:
        return pd.DataFrame(columns=["step"])
    return pd.DataFrame(rows).drop_duplicates("step", keep="last", ignore_index=True)


AGREEMENT_COLUMNS = [
    *("diagnosis", "problem_id", "kind", "n", "c", "p"),
    *("weight", "agreement", "agreement_error", "contribution", "signal"),
]


@dataclass(frozen=True, eq=False)
class DiagnosisRecord:
    """Contents of one directory of `passk diagnose`, read once.

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
        """Every k at which prompts have weights, ascending."""
        named = (re.fullmatch(r"weight_(\d+)", str(name)) for name in self.prompts)
        return sorted(int(match[1]) for match in named if match)

    def needed_weight(self, prefix: str = "") -> Interval:
        """Return the weight of Pass@1 that a mixture with Pass@k needs, see `weight_of_pass1`."""
        return weight_of_pass1(self.curve, self.k, prefix)

    @cached_property
    def run(self) -> Path | None:
        """The run whose checkpoint was measured, if it is on this machine."""
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
        """Title such as `passk at step 150`, or the name of the model."""
        policy = Path(str(self.manifest.get("policy", self.path.name)))
        step = step_of(policy.name)
        return policy.name if step is None else f"{policy.parent.parent.name} at step {step}"


def weight_of_pass1(curve: pd.DataFrame, k: int, prefix: str = "") -> Interval:
    """Read the needed weight of Pass@1 from `curve.csv`; NaN for what was not measured.

    With the prefix `adam_` it is that along Adam's step.
    """
    names = [f"{prefix}pass1_weight{end}" for end in ("", "_low", "_high")]
    row = curve.set_index("k").reindex(index=[k], columns=names).astype(float)
    return Interval(*row.iloc[0].tolist())


def find_diagnoses(dirs: Iterable[str | Path]) -> list[DiagnosisRecord]:
    """Read every diagnosis at or below the paths, once each; those without tables are left out.

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
    """Collect the weight w_k and the Pass@1 agreement of prompts: a row per diagnosis and prompt.

    Columns: `AGREEMENT_COLUMNS`. `diagnosis` is its title, `contribution` estimates w_k a without
    bias, and `signal` gives the reason where no gradient is seen. k is each diagnosis' own unless
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
