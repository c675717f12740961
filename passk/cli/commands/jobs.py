"""Name the function of each command but `toy` and `explain`. Imports torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from passk.cli.commands.diagnose import run_diagnose
from passk.cli.commands.eval import run_eval
from passk.cli.commands.export import run_export
from passk.cli.commands.filter import run_filter
from passk.cli.commands.reproduce import run_reproduce
from passk.cli.commands.train import run_train
from passk.config.commands import ReportConfig
from passk.files import only_writer
from passk.report.report import keeps_report, write_report


def run_report(cfg: ReportConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Write tables, plots and one HTML page over the runs in `dirs` to `out`."""
    only = Path(cfg.dirs[0]) if len(cfg.dirs) == 1 else None
    out = Path(cfg.out) if cfg.out else only if only and keeps_report(only) else run_dir
    with only_writer(out):
        page = write_report(cfg.dirs, out, cfg.baseline)
    print((out / "table.md").read_text())
    print(f"report: {page}")


COMMANDS: dict[str, Callable[[Any, Path, Sequence[str]], None]] = {
    "train": run_train,
    "eval": run_eval,
    "diagnose": run_diagnose,
    "filter": run_filter,
    "export": run_export,
    "reproduce": run_reproduce,
    "report": run_report,
}
