"""Does the sign of f(k) say what one step on Pass@k does to Pass@1? For every k from 2 to 16.

    python scripts/studies/one_step.py RUN [folder] [num_prompts]

At the last checkpoint of RUN, for three shares of calculator problems: `passk diagnose` predicts
f(k) = <grad J_k, grad J_1> from training problems; then the weights are moved a short step along
the gradient of Pass@k, estimated from the same samples, and the change of Pass@1 is measured on
held-out problems; and once more along a step ten times as long. It is measured by the samples'
likelihood ratios, mean of (r - baseline) (pi'/pi - 1) over 64 samples: unbiased, and without the
noise of drawing again. Intervals are bootstraps over problems. Writes `one_step.csv` and
`one_step.md`.
"""

import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from passk.cli.commands.diagnose import as_training
from passk.cli.main import main as passk
from passk.config.commands import DiagnoseConfig
from passk.config.compose import load_run_config
from passk.config.schema import ConventionsConfig
from passk.diagnostics.alignment import pass_gradient
from passk.diagnostics.derivatives import moved
from passk.learner.batch import make_rows
from passk.learner.checkpoint import last_checkpoint
from passk.learner.learner import Learner
from passk.objectives.advantages import mixture_advantages
from passk.rollout.rollout import SampleKey, rollout, training_params
from passk.statistics import bootstrap_intervals
from passk.training.build import open_parts, prepare_torch
from passk.training.loop import diagnostic_groups
from passk.types import Group

FRACTIONS = (0.1, 0.2, 0.3)
KS = tuple(range(2, 17))
# Of steps, as shares of |theta|: one that is short enough for derivatives, one as training takes.
LENGTHS = (1e-4, 1e-3)
NUM_HELD_OUT, NUM_SAMPLES, NUM_BLOCKS = 2000, 64, 8


def predicted(run: Path, folder: Path, fraction: float, num_prompts: int) -> pd.DataFrame:
    """f(k) with its interval, from `passk diagnose`."""
    place = folder / f"fraction-{fraction}"
    words = [f"run={run}", f"data.calculator_fraction={fraction}"]
    words += [f"diagnose.num_prompts={num_prompts}", f"hydra.run.dir={place}"]
    if not (place / "curve.csv").is_file() and (code := passk(["diagnose", *words])) != 0:
        sys.exit(code)
    return pd.read_csv(place / "curve.csv").set_index("k")


class HeldOut:
    """Samples of held-out problems at theta, by which Pass@1 near theta is told."""

    def __init__(self, learner: Learner, groups: list[Group]) -> None:
        rewards_PG = np.array([group.rewards() for group in groups])
        weights_PG = mixture_advantages(rewards_PG, 1, 0.0) / rewards_PG.shape[1]
        self.rows = make_rows(groups, weights_PG[..., None])
        self.before = np.array(learner.logprobs(self.rows))
        self.num_problems = len(groups)

    def change(self, learner: Learner) -> np.ndarray:
        """The change of p(x) of each problem, now that the weights are others."""
        ratios = np.expm1(np.array(learner.logprobs(self.rows)) - self.before)
        change_P = np.zeros(self.num_problems)
        for row, ratio in zip(self.rows, ratios, strict=True):
            change_P[row.samples[0][0]] += row.weights[0] * ratio
        return change_P


def measured(run: Path, fraction: float, num_prompts: int) -> pd.DataFrame:
    """The change of held-out Pass@1, in points, by a step along the gradient of each Pass@k."""
    base = as_training(DiagnoseConfig(), load_run_config(run))
    data = cast(ConventionsConfig, base.data)
    base = replace(
        base,
        data=replace(data, calculator_fraction=fraction),
        eval=replace(base.eval, num_problems=NUM_HELD_OUT),
    )
    checkpoint = last_checkpoint(run)
    step = int(checkpoint.name.removeprefix("step-"))
    rows = []
    with open_parts(base, str(checkpoint), day=date.today()) as parts:
        groups = diagnostic_groups(step, base, parts, num_prompts, 32)
        heldout = rollout(
            parts.actor,
            parts.data.heldout,
            NUM_SAMPLES,
            training_params(base),
            SampleKey(0, "one step", step),
        ).groups
        learner = parts.learner
        there = HeldOut(learner, heldout)
        size = np.sqrt(sum(float(p.square().sum()) for p in learner.trained_parts().values()))
        for k in KS:
            gradient = pass_gradient(learner, groups, k, NUM_BLOCKS).sum(dim=0)
            for length in LENGTHS:
                eta = length * size / float(gradient.norm())
                with moved(learner, eta * gradient):
                    change_P = 100 * there.change(learner)
                (change,) = bootstrap_intervals(change_P[:, None])
                rows.append({"k": k, "length": length, "eta": eta, "change": change.value})
                rows[-1] |= {"change_low": change.low, "change_high": change.high}
    return pd.DataFrame(rows)


def signs(low: pd.Series, high: pd.Series) -> np.ndarray:
    """-1 or 1 where an interval leaves 0 out, else 0."""
    return np.where(high < 0, -1, np.where(low > 0, 1, 0))


def summary(table: pd.DataFrame) -> str:
    """A row per fraction, then all k."""
    lines = [
        "| calculator problems | step | first k in conflict: predicted | measured | same sign "
        "| both clear | of these the same |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (fraction, length), part in table.groupby(["fraction", "length"]):
        said = signs(part["inner_product_low"], part["inner_product_high"])
        seen = signs(part["change_low"], part["change_high"])
        clear = (said != 0) & (seen != 0)
        same = np.sign(part["inner_product"]) == np.sign(part["change"])
        first = [part["k"][part[c] < 0].min() for c in ("inner_product", "change")]
        shown = ["none" if pd.isna(k) else f"{k:.0f}" for k in first]
        counts = f"{same.sum()} of {len(part)} | {clear.sum()} | {(said == seen)[clear].sum()}"
        lines.append(f"| {fraction} | {length:g} | {shown[0]} | {shown[1]} | {counts} |")
    lines += [
        "",
        "| calculator problems | step | k | f(k) | predicted change (points) | measured |",
    ]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    for row in table[table["k"].isin([2, 3, 4, 6, 8, 12, 16])].to_dict("records"):
        lines.append(
            f"| {row['fraction']} | {row['length']:g} | {row['k']} | {row['inner_product']:.3f} "
            f"[{row['inner_product_low']:.3f}, {row['inner_product_high']:.3f}] "
            f"| {row['predicted']:+.3f} | {row['change']:+.3f} "
            f"[{row['change_low']:+.3f}, {row['change_high']:+.3f}] |"
        )
    return "\n".join(lines) + "\n"


def main(run: Path, folder: Path, num_prompts: int) -> None:
    """Predict, measure, compare."""
    prepare_torch(None)
    tables = []
    for fraction in FRACTIONS:
        curve = predicted(run, folder, fraction, num_prompts).loc[list(KS)]
        both = curve.filter(like="inner_product").merge(
            measured(run, fraction, num_prompts), left_index=True, right_on="k"
        )
        both["predicted"] = 100 * both["eta"] * both["inner_product"]
        tables.append(both.assign(fraction=fraction))
        table = pd.concat(tables)
        table.to_csv(folder / "one_step.csv", index=False)
        (folder / "one_step.md").write_text(summary(table))
    print(summary(table))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        Path(sys.argv[2] if len(sys.argv) > 2 else "outputs/one-step"),
        int(sys.argv[3]) if len(sys.argv) > 3 else 2048,
    )
