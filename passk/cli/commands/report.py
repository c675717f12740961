"""`passk report`: tables, figures and a page over any set of runs. No torch."""

from collections.abc import Sequence
from pathlib import Path

from passk.config.commands import ReportConfig
from passk.files import only_writer
from passk.report.report import keeps_report, write_report


def run_report(cfg: ReportConfig, run_dir: Path, _overrides: Sequence[str]) -> None:
    """Write tables, plots and one HTML page over the runs in `dirs` to `out`."""
    only = Path(cfg.dirs[0]) if len(cfg.dirs) == 1 else None
    out = Path(cfg.out) if cfg.out else only if only and keeps_report(only) else run_dir
    with only_writer(out):
        page = write_report(cfg.dirs, out, cfg.baseline)
    print((out / "table.md").read_text())
    print(f"report: {page}")
