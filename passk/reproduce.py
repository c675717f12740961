"""The main job: SFT, then each RL regime from that one checkpoint; how their gradients agree."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from passk.build import Parts, build_parts
from passk.checkpoint import last_checkpoint
from passk.config import ReproduceConfig, TrainConfig
from passk.diagnostics import alignment, block_gradients, objective
from passk.problems import ProblemStream
from passk.rollout import SampleKey, rollout
from passk.sampler import SamplingParams
from passk.statistics import Interval
from passk.types import Group

ComposeTrain = Callable[[Sequence[str]], TrainConfig]
RunTrain = Callable[[TrainConfig, Path, Sequence[str]], None]

# What the user may set for `passk reproduce` itself; everything else goes on to the runs.
_OWN_KEYS = ("seeds", "regimes", "sft_steps", "alignment_", "resume", "hydra.", "train.seed")
_RL_ONLY_KEYS = ("regime", "train.", "learner.", "diagnostics.", "rollout.", "eval.every")
# ... but for these: where SFT starts and how much it sees, the device, and what it is measured by.
_SFT_TOO = (
    "regime.num_demonstrations",
    "train.init_from",
    "learner.device",
    "learner.max_tokens_per_batch",
    "rollout.engine",
    "rollout.temperature",
    "rollout.max_new_tokens",
)


def reproduce(
    cfg: ReproduceConfig,
    directory: Path,
    overrides: Sequence[str],
    compose_train: ComposeTrain,
    run_train: RunTrain,
) -> None:
    """Run every regime for every seed below `directory`; finished runs are left alone.

    A seed changes the data as well as the training, so that the spread over seeds covers all that
    chance decides. `overrides` are the user's, and go on to the runs they concern.
    """
    shared = [word for word in overrides if not _plain(word).startswith(_OWN_KEYS)]
    for seed in range(cfg.train.seed, cfg.train.seed + cfg.seeds):
        seed_dir = directory / f"seed-{seed}"
        seeded = [f"train.seed={seed}", f"data.seed={seed}"]
        for_sft = [word for word in shared if _concerns_sft(_plain(word))]
        if cfg.sft_steps is not None:
            for_sft.append(f"train.num_steps={cfg.sft_steps}")
        sft_dir = seed_dir / "sft"
        _run_once(["regime=sft", *for_sft, *seeded], sft_dir, compose_train, run_train)
        for_rl = [word for word in shared if not _plain(word).startswith("regime=")]
        runs = {
            name: [f"regime={name}", *_weight_for(name, for_rl), *seeded] for name in cfg.regimes
        }
        start = [f"train.init_from={json.dumps(str(sft_dir), ensure_ascii=False)}"]
        if not (seed_dir / "kernel.csv").is_file():
            configs = {name: compose_train([*words, *start]) for name, words in runs.items()}
            measure_start(cfg, configs, sft_dir)
        for name, words in runs.items():
            _run_once([*words, *start], seed_dir / name, compose_train, run_train)


def _plain(word: str) -> str:
    """An override without Hydra's leading +, ++ or ~."""
    return word.lstrip("+~")


def _concerns_sft(word: str) -> bool:
    return word.startswith(_SFT_TOO) or not word.startswith(_RL_ONLY_KEYS)


def _weight_for(regime: str, overrides: Sequence[str]) -> list[str]:
    """pass1_weight is what tells the regimes apart, so the user's goes to the hybrid alone."""
    if regime == "hybrid":
        return list(overrides)
    return [word for word in overrides if not _plain(word).startswith("regime.pass1_weight=")]


def _run_once(
    words: list[str], run_dir: Path, compose_train: ComposeTrain, run_train: RunTrain
) -> None:
    """Train unless the run is finished; go on with one that was begun."""
    manifest = run_dir / "manifest.json"
    if manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished":
        return
    resume = (run_dir / "config.yaml").is_file()
    run_train(compose_train([*words, f"resume={str(resume).lower()}"]), run_dir, words)


def measure_start(cfg: ReproduceConfig, configs: dict[str, TrainConfig], sft_dir: Path) -> None:
    """Alignment of each regime with Pass@1, and the kernel between kinds, at the SFT checkpoint.

    Writes `alignment.csv` and `kernel.csv` beside the runs, from `alignment_prompts` training
    problems with `alignment_samples` samples each, in disjoint halves.
    """
    first = next(iter(configs.values()))
    print(
        f"gradient alignment at the start: {cfg.alignment_prompts} prompts x "
        f"{cfg.alignment_samples} samples",
        flush=True,
    )
    parts = build_parts(first, str(last_checkpoint(sft_dir)))
    problems = ProblemStream(parts.data.train, first.train.seed).take(cfg.alignment_prompts)
    sampled = rollout(
        parts.sampler,
        parts.verifier,
        parts.tokenizer,
        problems,
        cfg.alignment_samples,
        SamplingParams(first.rollout.temperature, first.rollout.max_new_tokens),
        SampleKey(first.train.seed, "diagnose", 0),
    )

    by_kind = _gradients_by_kind(cfg, parts, sampled.groups, configs)
    of_kind = Counter(problem.kind for problem in problems)
    shares = torch.tensor([of_kind[kind] / len(problems) for kind in by_kind])
    overall = torch.einsum("s,shomd->homd", shares, torch.stack(list(by_kind.values())))
    rows = []
    for i, (name, run_cfg) in enumerate(configs.items(), 1):
        row = {"regime": name, "k": run_cfg.regime.k, "pass1_weight": run_cfg.regime.pass1_weight}
        row |= alignment(overall[:, i], overall[:, 0]).columns()
        row |= {"num_prompts": cfg.alignment_prompts, "num_samples": cfg.alignment_samples}
        rows.append(row)
    pd.DataFrame(rows).to_csv(sft_dir.parent / "alignment.csv", index=False)
    kernels = [
        (a, b, *_ends(alignment(by_kind[a][:, 0], by_kind[b][:, 0]).inner_product))
        for a, b in combinations_with_replacement(by_kind, 2)
    ]
    columns = ["kind_a", "kind_b", "kernel", "kernel_low", "kernel_high"]
    pd.DataFrame(kernels, columns=columns).to_csv(sft_dir.parent / "kernel.csv", index=False)


def _gradients_by_kind(
    cfg: ReproduceConfig, parts: Parts, groups: Sequence[Group], configs: dict[str, TrainConfig]
) -> dict[str, Tensor]:
    """`block_gradients` of Pass@1 and then of each regime, over the prompts of each kind alone.

    Weighted by the kinds' shares they add up to the gradients over all prompts; by themselves they
    give the kernel, because the mean of <grad p(x), grad p(x')> over pairs of prompts of two kinds
    (paper eq. 5) is the product of the two mean gradients.
    """
    regimes = [run_cfg.regime for run_cfg in configs.values()]
    objectives = [objective("mixture", 1, 1.0)]
    objectives += [objective(r.estimator, r.k, r.pass1_weight) for r in regimes]
    return {
        kind: block_gradients(
            parts.learner.model,
            [group for group in groups if group.problem.kind == kind],
            objectives,
            num_blocks=cfg.diagnostics.num_blocks,
            temperature=cfg.rollout.temperature,
            max_tokens_per_batch=cfg.learner.max_tokens_per_batch,
        )
        for kind in sorted({group.problem.kind for group in groups})
    }


def _ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high
