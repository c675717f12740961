"""Writes small run directories with the documented files, for tests of what reads them.

Pass@k is computed here with exact binomials, independently of `passk.objectives.pass_at_k`.
"""

import json
from collections.abc import Mapping, Sequence
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

KINDS = ("textbook", "calculator", "skill")
KS = (1, 2, 4, 8)
WEIGHTS = {"sft": 0.7, "pass1": 1.0, "passk": 0.0, "hybrid": 0.7}
ALIGNMENT = {"pass1": 0.9, "passk": -0.5, "hybrid": 0.4}


def exact_pass_at_k(n: int, c: int, k: int) -> float:
    return 1 - comb(n - c, k) / comb(n, k)


def write_run(
    path: Path,
    *,
    regime: str,
    counts: Mapping[int, Sequence[int]],
    kinds: Sequence[str],
    n: int = 32,
    k: int = 8,
    pass1_weight: float | None = None,
    seed: int = 0,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    with_alignment: bool = True,
    status: str = "finished",
    metrics: Sequence[Mapping[str, Any]] = (),
    manifest: Mapping[str, Any] | None = None,
    ks: Sequence[int] = KS,
) -> Path:
    """One run; `counts` gives the correct samples of each problem at each evaluated step.

    `metrics` are what the lines of the first steps have besides, `manifest` what its has instead.
    """
    (path / "eval").mkdir(parents=True)
    weight = WEIGHTS[regime] if pass1_weight is None else pass1_weight
    num_steps = max(counts, default=0) or 10
    config: dict[str, dict[str, Any]] = {
        "model": {"path": "tiny"},
        "data": {"name": "conventions", "cue": 0.0, "seed": seed},
        "regime": {"name": regime, "estimator": "mixture", "k": k, "pass1_weight": weight},
        "learner": {"lr": 1e-4},
        "train": {"seed": seed, "num_steps": num_steps, "init_from": None},
        "eval": {"ks": list(ks), "num_samples": n},
    }
    for group, values in (settings or {}).items():
        config[group] = config.get(group, {}) | values
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "overrides.txt").write_text(f"regime={regime}\ntrain.seed={seed}\n")
    facts = {
        "status": status,
        "start": "2026-05-01T10:00:00+00:00",
        "end": "2026-05-01T10:01:12+00:00",
        "seconds": 72.4,
        "num_processes": 1,
        "device_seconds": 72.4,
        "versions": {"passk": "0.1.0", "torch": "2.12.0", "python": "3.11.9"},
        "git": {"commit": "0123abc", "dirty": False},
        "host": "laptop",
        "device": "cpu",
        "command": "train",
    } | dict(manifest or {})
    (path / "manifest.json").write_text(json.dumps(facts))
    write_evals(path, counts, kinds, n, ks)
    with open(path / "metrics.jsonl", "w") as file:
        for step in range(1, num_steps + 1):
            row: dict[str, Any] = {"step": step, "loss": 0.1, "reward_mean": 0.5, "alignment": None}
            if with_alignment and regime in ALIGNMENT and (step == 1 or step % 10 == 0):
                value = ALIGNMENT[regime] * (1 - 0.004 * step)
                row |= {"alignment": value, "alignment_low": value - 0.1}
                row |= {"alignment_high": value + 0.1}
            row |= metrics[step - 1] if step <= len(metrics) else {}
            file.write(json.dumps(row) + "\n")
    return path


def write_rollouts(
    path: Path,
    step: int,
    groups: Mapping[str, Sequence[tuple[str, float | None]]],
    **columns: Sequence[Any],
) -> pd.DataFrame:
    """`rollouts/` of a step: the texts of each problem's samples and their rewards; and its log."""
    rows = [
        {
            "step": step,
            "problem_id": problem_id,
            "sample": i,
            "completion": text,
            "num_tokens": len(text) + 1,
            "finish_reason": "stop",
            "reward": reward,
            "reason": {None: "timeout", 0.0: "wrong", 1.0: "correct"}[reward],
            "logprob_sampler": -0.5 - i,
            "logprob_learner": -0.75 - i,
            "policy_version": step,
        }
        for problem_id, samples in groups.items()
        for i, (text, reward) in enumerate(samples)
    ]
    frame = pd.DataFrame(rows).assign(**columns).astype({"reward": float})
    (path / "rollouts").mkdir(exist_ok=True)
    frame.to_parquet(path / "rollouts" / f"step-{step:06d}.parquet")
    judged = {"reasons": frame["reason"].value_counts().to_dict()}
    judged |= {"unjudged_fraction": float(frame["reward"].isna().mean())}
    log = path / "metrics.jsonl"
    logged = {line["step"]: line for line in map(json.loads, log.read_text().splitlines())}
    logged[step] = {"step": step, "loss": 0.1, "reward_mean": 0.5, **logged.get(step, {}), **judged}
    log.write_text("".join(f"{json.dumps(logged[at])}\n" for at in sorted(logged)))
    return frame


def write_evals(
    path: Path,
    counts: Mapping[int, Sequence[int]],
    kinds: Sequence[str],
    n: int,
    ks: Sequence[int] = KS,
) -> None:
    rows, kind_rows = [], []
    for step, c_P in counts.items():
        frame = pd.DataFrame({"kind": list(kinds), "n": n, "c": list(c_P)})
        frame.insert(0, "problem_id", [f"heldout-0-{i}" for i in range(len(frame))])
        frame = frame.assign(temperature=1.0, n_first=n // 2, c_first=frame["c"] // 2)
        frame.to_parquet(path / "eval" / f"step-{step:06d}.parquet")
        for k in ks:
            rows.append({"step": step, "temperature": 1.0, "k": k} | _summary(frame, n, k))
            for kind, part in frame.groupby("kind"):
                kind_rows.append({"step": step, "kind": kind, "k": k} | _summary(part, n, k))
    if rows:
        pd.DataFrame(rows).to_csv(path / "eval" / "table.csv", index=False)
        pd.DataFrame(kind_rows).to_csv(path / "eval" / "table_by_kind.csv", index=False)


def _summary(frame: pd.DataFrame, n: int, k: int) -> dict[str, float]:
    values = np.array([exact_pass_at_k(n, c, k) for c in frame["c"]])
    half = 1.96 * values.std() / len(values) ** 0.5
    return {
        "value": values.mean(),
        "ci_low": values.mean() - half,
        "ci_high": values.mean() + half,
        "num_problems": len(values),
        "num_samples": n,
    }


def simulated_counts(
    regime: str, steps: Sequence[int], *, seed: int, n: int = 32, num_problems: int = 60
) -> tuple[dict[int, list[int]], list[str]]:
    """Counts that look like the task: Pass@k trades textbook for calculator, Pass@1 the reverse."""
    rng = np.random.default_rng([seed, 1])
    kinds = rng.choice(KINDS, num_problems, p=(0.5, 0.32, 0.18))
    easy = rng.normal(0, 0.9, num_problems)
    logit = {"textbook": 1.6, "calculator": -2.4, "skill": -0.6}
    pull = {
        "sft": {"textbook": 0, "calculator": 0, "skill": 0},
        "pass1": {"textbook": 0.5, "calculator": -1.2, "skill": 0.4},
        "passk": {"textbook": -1.5, "calculator": 1.6, "skill": 0.6},
        "hybrid": {"textbook": -0.45, "calculator": 0.8, "skill": 0.5},
    }[regime]
    counts = {}
    draws = np.random.default_rng([seed, 2, len(regime)])
    for step in steps:
        done = 1 - np.exp(-2.5 * step / max(max(steps), 1))
        z = np.array([logit[kind] + done * pull[kind] for kind in kinds]) + easy
        p = np.clip(1 / (1 + np.exp(-z)), 0.002, 0.998)
        counts[step] = [int(c) for c in draws.binomial(n, p)]
    return counts, [str(kind) for kind in kinds]


def write_reproduction(
    root: Path,
    *,
    seeds: Sequence[int] = (0,),
    num_problems: int = 60,
    n: int = 32,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """A directory of `passk reproduce`: SFT and three RL regimes per seed, with seed tables."""
    sizes = {"n": n, "num_problems": num_problems}
    for seed in seeds:
        for regime in WEIGHTS:
            steps = (30,) if regime == "sft" else (0, 10, 20, 30)
            counts, kinds = simulated_counts(regime, steps, seed=seed, **sizes)
            run = root / f"seed-{seed}" / regime
            kinds_and_n: dict[str, Any] = {"kinds": kinds, "n": n, "seed": seed}
            write_run(run, regime=regime, counts=counts, settings=settings, **kinds_and_n)
        write_seed_tables(root / f"seed-{seed}", shift=0.02 * seed)
    return root


def write_seed_tables(seed_dir: Path, shift: float = 0.0) -> None:
    rows: list[dict[str, Any]] = []
    for regime, value in ALIGNMENT.items():
        row = {"regime": regime, "k": 8, "pass1_weight": WEIGHTS[regime]}
        for name, center in (("alignment", value + shift), ("inner_product", 0.01 * value)):
            row |= {name: center, f"{name}_low": center - 0.05, f"{name}_high": center + 0.05}
        rows.append(row | {"num_prompts": 512, "num_samples": 64})
    pd.DataFrame(rows).to_csv(seed_dir / "alignment.csv", index=False)
    pairs = [("textbook", "textbook", 0.8), ("textbook", "calculator", -0.4 + shift)]
    kernel = [
        {"kind_a": a, "kind_b": b, "kernel": v, "kernel_low": v - 0.1, "kernel_high": v + 0.1}
        for a, b, v in pairs
    ]
    pd.DataFrame(kernel).to_csv(seed_dir / "kernel.csv", index=False)


def write_sweep(
    root: Path,
    *,
    ks: Sequence[int] = (2, 8),
    weights: Sequence[float] = (0.5, 0.9),
    num_problems: int = 60,
) -> Path:
    """Cells of `passk train -m`; the smaller the weight of Pass@1, the further along they are."""
    for k in ks:
        for weight in weights:
            steps = (0, 40)
            counts, kinds = simulated_counts("passk", (0, 60), seed=0, num_problems=num_problems)
            share = weight * (0.7 + 0.04 * k)
            mixed = np.random.default_rng(k).random(num_problems) < share
            end = np.where(mixed, np.array(counts[0]), np.array(counts[60]))
            write_run(
                root / f"regime.k={k},regime.pass1_weight={weight}",
                regime="hybrid",
                counts={0: counts[0], steps[1]: [int(c) for c in end]},
                kinds=kinds,
                k=k,
                pass1_weight=weight,
            )
    return root
