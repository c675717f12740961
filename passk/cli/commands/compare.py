"""`passk compare A B`: Pass@k of two policies on the same problems, at all k at once. No torch."""

from collections.abc import Sequence
from pathlib import Path

from passk.config.commands import CompareConfig
from passk.evaluation.comparison import compare, pair_counts
from passk.files import filled_at_once
from passk.report.comparison import comparison_figure, comparison_page
from passk.runs.counts import CountedProblems, check_same_problems, read_counts
from passk.style import picture


def run_compare(cfg: CompareConfig, run_dir: Path, _overrides: Sequence[str]) -> None:
    """Print the comparison, and write `compare.csv`, `.md` and `.png` to `run_dir`."""
    keys = {"step_a": cfg.step_a, "step_b": cfg.step_b}
    a, b = (
        read_counts(Path(path), step, key)
        for path, (key, step) in zip(cfg.paths, keys.items(), strict=True)
    )
    check_same_problems(a, b)
    pairs = pair_counts(a.counts, b.counts, cfg.k_max)
    found = compare(pairs, cfg.k_max)
    facts = {"a": _named(a), "b": _named(b), "left_out": _left_out(a, b, len(pairs), cfg.k_max)}
    page = comparison_page(found, facts)
    names = [f"{letter}: {_short(of)}" for letter, of in zip("AB", (a, b), strict=True)]
    figure = picture(comparison_figure(found.table, names))
    with filled_at_once(run_dir, last="compare.md", advice="make room, try again") as folder:
        found.table.to_csv(folder / "compare.csv", index=False)
        (folder / "compare.png").write_bytes(figure)
        text = f"{page}\n![Pass@k of both, and the difference](compare.png)\n"
        (folder / "compare.md").write_text(text, encoding="utf-8")
    print(page)
    print(*(run_dir / f"compare.{kind}" for kind in ("csv", "png", "md")), sep="\n")


def _left_out(a: CountedProblems, b: CountedProblems, used: int, k_max: int | None) -> list[str]:
    """Say which problems are left out: those of one alone, and those with too few samples."""
    shared = len(set(a.counts["problem_id"]) & set(b.counts["problem_id"]))
    said = [
        f"{len(of.counts) - shared} problems of {letter} alone"
        for letter, of in zip("AB", (a, b), strict=True)
        if len(of.counts) > shared
    ]
    if used < shared:
        said.append(f"{shared - used} with fewer than {k_max or 1} judged samples")
    return said


def _named(of: CountedProblems) -> str:
    return str(of.path) if of.step is None else f"{of.path}, step {of.step}"


def _short(of: CountedProblems) -> str:
    return of.path.stem if of.step is None else f"{of.path.name}, step {of.step}"
