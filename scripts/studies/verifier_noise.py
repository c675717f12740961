"""What do a verifier's errors cost, where do they put weight, and can they be found?

    python scripts/studies/verifier_noise.py [folder] [seeds]

On the embedded task, from one SFT checkpoint per seed: Pass@1, Pass@k and hybrid training with a
verifier that errs at several rates, measured on held-out problems without errors; the weight of
Pass@k on prompts whose gold is wrong, beside the formula; and how many of them the list of
suspects finds. Writes `verifier_noise.csv`, `weights.csv`, `suspects.csv` and `verifier_noise.md`
into the folder; a second call goes on where the first one stopped.
"""

import sys
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from passk.cli.commands.diagnose import as_training
from passk.cli.main import main as passk
from passk.config.commands import DiagnoseConfig
from passk.config.compose import load_run_config
from passk.config.schema import VerifierConfig
from passk.data.conventions import CALCULATOR
from passk.diagnostics.gold_errors import (
    agreement_table,
    suspect_golds,
    vote_table,
    wrong_gold_share,
)
from passk.learner.checkpoint import last_checkpoint
from passk.objectives.advantages import mixture_advantages, prompt_weights
from passk.objectives.pass_at_k import pass_at_k
from passk.report.table_formats import frame_table
from passk.statistics import Interval, paired_difference, seed_interval
from passk.training.build import open_parts, prepare_torch
from passk.training.loop import diagnostic_groups
from passk.types import GROUPINGS, Group
from passk.verifiers.base import ConventionsVerifier
from passk.verifiers.noise import FALSE_POSITIVE, uniform, with_noise

CORNERS = ((0.0, 0.0), (0.2, 0.0), (0.0, 0.05), (0.2, 0.05))  # (false negatives, false positives)
BETWEEN = ((0.05, 0.0), (0.1, 0.0), (0.05, 0.05), (0.1, 0.05))  # after those of all seeds
REGIMES = ("pass1", "passk", "hybrid")
K = 8
QUIET = ("num_threads=1", "eval.every=0", "diagnostics.every=0", "rollout.save_every=0")
NUM_PROMPTS, NUM_SAMPLES = 1024, (32, 128)
KS = (1, 2, 4, 8, 16)
NOISE_SEEDS = range(10)  # means over these, for weights and suspects


def run(folder: Path, *words: str) -> Path:
    """A training run in `folder`, unless it is there and finished."""
    manifest = folder / "manifest.json"
    if manifest.is_file() and '"status": "finished"' in manifest.read_text():
        return folder
    resume = str((folder / "config.yaml").is_file()).lower()
    code = passk(["train", *QUIET, *words, f"resume={resume}", f'hydra.run.dir="{folder}"'])
    if code != 0:
        sys.exit(code)
    return folder


def train(folder: Path, seed: int, misses: float, passes: float) -> None:
    """Every regime at one pair of rates; a seed decides data, samples, and where errors are."""
    seeds = (f"train.seed={seed}", f"data.seed={seed}")
    sft = run(folder / "sft", *seeds, "regime=sft", "eval.ks=[1,2,4,8,16]")
    words = [f"verifier.false_negative_rate={misses}", f"verifier.false_positive_rate={passes}"]
    words += [*seeds, f"verifier.noise_seed={seed}", f"regime.k={K}", f'train.init_from="{sft}"']
    for regime in REGIMES:
        run(folder / f"{regime}-{misses:g}-{passes:g}", f"regime={regime}", *words)


def per_problem(folder: Path) -> np.ndarray:
    """Pass@1 and Pass@K of every held-out problem at the end of a run, in percent, [2, P]."""
    counts = pd.read_parquet(max((folder / "eval").glob("step-*.parquet")))
    return np.array([100 * pass_at_k(counts["n"], counts["c"], k) for k in (1, K)])


def change(before: list[np.ndarray], after: list[np.ndarray]) -> list[Interval]:
    """Of Pass@1 and Pass@K, one entry of the lists per seed.

    Over seeds; of a single one over held-out problems, which leaves out the chance of training.
    """
    if len(before) == 1:
        return [paired_difference(*pair) for pair in zip(before[0], after[0], strict=True)]
    changes = np.array([(a - b).mean(axis=1) for b, a in zip(before, after, strict=True)])
    return [seed_interval(column) for column in changes.T]


def trade_off(folder: Path) -> pd.DataFrame:
    """A row per regime and pair of rates, over the seeds that are there.

    Changes from SFT, and `cost_`: the difference to training without errors.
    """
    rows = []
    for regime, rates in product(REGIMES, sorted(CORNERS + BETWEEN, key=lambda r: (r[1], r[0]))):
        name = f"{regime}-{rates[0]:g}-{rates[1]:g}"
        seeds = [d for d in sorted(folder.glob("seed-*")) if (d / name / "eval").is_dir()]
        if not seeds:
            continue
        row = {"regime": regime, "false_negative_rate": rates[0], "false_positive_rate": rates[1]}
        row["seeds"] = len(seeds)
        after = [per_problem(seed / name) for seed in seeds]
        for prefix, other in (("", "sft"), ("cost_", f"{regime}-0-0")):
            found = change([per_problem(seed / other) for seed in seeds], after)
            for column, interval in zip(("pass1", "passk"), found, strict=True):
                row |= {f"{prefix}{column}": interval.value}
                row |= {f"{prefix}{column}_low": interval.low}
                row |= {f"{prefix}{column}_high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def sampled(sft: Path) -> list[Group]:
    """Training prompts, sampled as `passk diagnose` samples them."""
    cfg = as_training(DiagnoseConfig(), load_run_config(sft))
    prepare_torch(1)
    with open_parts(cfg, str(last_checkpoint(sft)), day=date.today()) as parts:
        return diagnostic_groups(0, cfg, parts, NUM_PROMPTS, max(NUM_SAMPLES))


def judged_again(groups: list[Group], cfg: VerifierConfig, num_samples: int) -> list[Group]:
    """The first samples of each prompt, judged by a verifier that errs."""
    verifier = with_noise(ConventionsVerifier(), cfg)
    found = []
    for group in groups:
        completions = group.completions[:num_samples]
        distinct = {c.token_ids: (group.problem, c) for c in completions}
        judged = dict(zip(distinct, verifier.verify(list(distinct.values())), strict=True))
        verdicts = tuple(judged[c.token_ids] for c in completions)
        found.append(replace(group, completions=completions, verdicts=verdicts))
    return found


def rewards(groups: list[Group]) -> np.ndarray:
    """Rewards, [P, G]."""
    return np.array([group.rewards() for group in groups])


def wrong_golds(groups: list[Group], cfg: VerifierConfig) -> np.ndarray:
    """Whether the verifier refuses the gold answer itself, bool [P]."""
    rate = cfg.false_negative_rate
    ids = [(group.problem.id, group.problem.answer) for group in groups]
    return np.array([uniform(cfg.noise_seed, *pair) < rate for pair in ids])


def weight_rows(groups: list[Group], misses: float, passes: float) -> list[dict[str, float]]:
    """Shares of the weight on wrong golds, measured and expected; the mean weight of all prompts.

    `mean_weight_ratio` is that mean over the one without errors, which false positives lower;
    `wrong_pull` the share of all advantage above 0 that samples with a wrong answer have.
    """
    clean_PG = rewards(judged_again(groups, VerifierConfig(), NUM_SAMPLES[0]))
    means = {k: prompt_weights(clean_PG, k, 0.0).mean() for k in KS}
    rows = []
    for noise_seed in NOISE_SEEDS:
        cfg = VerifierConfig(
            false_negative_rate=misses, false_positive_rate=passes, noise_seed=noise_seed
        )
        again = judged_again(groups, cfg, NUM_SAMPLES[0])
        rewards_PG, wrong_P = rewards(again), wrong_golds(groups, cfg)
        passed_PG = np.array([[v.reason == FALSE_POSITIVE for v in g.verdicts] for g in again])
        for k in KS:
            pull_PG = mixture_advantages(rewards_PG, k, 0.0).clip(min=0)
            weights_P = prompt_weights(rewards_PG, k, 0.0)
            rows.append(
                {
                    "false_negative_rate": misses,
                    "false_positive_rate": passes,
                    "k": k,
                    "prompt_share": wrong_P.mean(),
                    "weight_share": weights_P[wrong_P].sum() / weights_P.sum(),
                    "expected_weight_share": wrong_gold_share(means[k], k, misses),
                    "mean_weight_ratio": weights_P.mean() / means[k],
                    "wrong_pull": pull_PG[passed_PG].sum() / pull_PG.sum(),
                }
            )
    return rows


def suspect_rows(groups: list[Group], misses: float) -> list[dict[str, float]]:
    """What is listed: how much of it is a wrong gold, how many of these are listed."""
    rows = []
    for noise_seed, num_samples in product(NOISE_SEEDS, NUM_SAMPLES):
        cfg = VerifierConfig(false_negative_rate=misses, noise_seed=noise_seed)
        again, wrong_P = judged_again(groups, cfg, num_samples), wrong_golds(groups, cfg)
        rewards_PG, problems = rewards(again), [group.problem for group in again]
        prompts = pd.DataFrame(
            {
                "problem_id": [p.id for p in problems],
                **{name: [getattr(p, name) for p in problems] for name in GROUPINGS},
                "n": num_samples,
                "c": (rewards_PG == 1).sum(axis=1),
            }
        ).join(vote_table(again))
        listed = suspect_golds(agreement_table(again, prompts))
        wrong = prompts[wrong_P]
        for none_right, with_calculator in product((False, True), (True, False)):
            kept = listed[listed["c"] == 0] if none_right else listed
            if not with_calculator:
                kept, wrong = (t[t["kind"] != CALCULATOR] for t in (kept, wrong))
            hits = kept["problem_id"].isin(wrong["problem_id"])
            rows.append(
                {
                    "false_negative_rate": misses,
                    "num_samples": num_samples,
                    "none_right": none_right,
                    "calculator_prompts": with_calculator,
                    "listed": len(kept),
                    "calculator_listed": (kept["kind"] == CALCULATOR).sum(),
                    "wrong_golds": len(wrong),
                    "precision": hits.mean() if len(kept) else np.nan,
                    "recall": hits.sum() / len(wrong) if len(wrong) else np.nan,
                }
            )
            wrong = prompts[wrong_P]
    return rows


def measure(folder: Path) -> None:
    """`weights.csv` and `suspects.csv` at the SFT checkpoint of the first seed."""
    if (folder / "suspects.csv").is_file():
        return
    groups = sampled(folder / "seed-0" / "sft")
    weights = [row for rates in CORNERS[1:] + BETWEEN for row in weight_rows(groups, *rates)]
    by = ["false_negative_rate", "false_positive_rate", "k"]
    pd.DataFrame(weights).groupby(by).mean().reset_index().to_csv(
        folder / "weights.csv", index=False
    )
    suspects = [row for misses in (0.0, 0.05, 0.1) for row in suspect_rows(groups, misses)]
    by = ["false_negative_rate", "num_samples", "none_right", "calculator_prompts"]
    pd.DataFrame(suspects).groupby(by).mean().reset_index().to_csv(
        folder / "suspects.csv", index=False
    )


def page(folder: Path) -> str:
    """The three tables in Markdown."""
    runs = pd.read_csv(folder / "verifier_noise.csv")
    cells = runs[["regime", "false_negative_rate", "false_positive_rate", "seeds"]].astype(str)
    for column in ("pass1", "cost_pass1", "passk", "cost_passk"):
        ends = runs[[column, f"{column}_low", f"{column}_high"]].to_numpy()
        cells[column] = [f"{v:+.1f} [{low:+.1f}, {high:+.1f}]" for v, low, high in ends]
    headings = {
        "pass1": "change of Pass@1",
        "cost_pass1": "by the errors",
        "passk": f"change of Pass@{K}",
        "cost_passk": "by the errors ",
    }
    others = [pd.read_csv(folder / f"{name}.csv").round(3) for name in ("weights", "suspects")]
    tables = [frame_table(table.astype(str), headings) for table in (cells, *others)]
    return "\n".join(table.markdown() for table in tables)


def main(folder: Path, seeds: int) -> None:
    """Run what is missing, then write the tables."""
    for rates, seed in [*product(CORNERS, range(seeds)), *product(BETWEEN, range(seeds))]:
        train(folder / f"seed-{seed}", seed, *rates)
    trade_off(folder).to_csv(folder / "verifier_noise.csv", index=False)
    measure(folder)
    text = page(folder)
    (folder / "verifier_noise.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/verifier_noise"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 1,
    )
