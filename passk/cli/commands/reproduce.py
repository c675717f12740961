"""`passk reproduce`: run SFT, then each RL regime from that checkpoint, and compare gradients."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from passk.cli.commands.eval import run_eval
from passk.cli.commands.train import run_train
from passk.cli.launch import ranks_to_start
from passk.cli.resume import (
    how_to_resume,
    model_location,
    prompt_day,
    refuse_changes,
    refuse_other_contents,
    refuse_other_problems,
    starting_point,
)
from passk.cli.slots import gpu_slots, gpus, num_cores
from passk.cli.workers import Piece, run_pieces
from passk.config.commands import EvaluateConfig, ReproduceConfig
from passk.config.compose import compose_train
from passk.config.schema import ConventionsConfig, RunConfig, TrainConfig
from passk.config.words import in_quotes
from passk.data.problems import load_data
from passk.diagnostics.alignment import alignment, block_gradients, block_shares
from passk.errors import Interrupted, UserError
from passk.files import only_writer, read_manifest, write_text
from passk.learner.checkpoint import last_checkpoint
from passk.learner.learner import Learner
from passk.learner.policy import num_parameters
from passk.objectives.adaptive import History, choose
from passk.objectives.advantages import PASS1, Objective
from passk.report.report import write_report
from passk.runs.writer import Run
from passk.training.build import (
    SINGLE_THREADED_PARAMETERS,
    open_parts,
    prepare_torch,
    print_notes,
    sampling_engine,
)
from passk.training.loop import diagnostic_groups
from passk.training.measured_weight import with_measured_weight
from passk.types import Group

# Keys of `passk reproduce` itself; everything else is passed on to the runs.
_OWN_KEYS = (
    *("seeds", "regimes", "sft_steps", "alignment_", "num_parallel"),
    *("interpolate", "resume", "hydra.", "train.seed"),
)
_RL_ONLY_KEYS = ("regime", "train.", "learner.", "diagnostics.", "rollout.", "eval.every")
# ... except these: where SFT starts, how much data it sees, the device, and how it is measured.
_SFT_TOO = (
    "regime.num_demonstrations",
    "train.init_from",
    "learner.device",
    "learner.max_tokens_per_batch",
    "learner.prefix_trees",
    "rollout.engine",
    "rollout.temperature",
    "rollout.max_new_tokens",
)
# Small runs that are side by side without being asked for: each takes up to 1 GB of main memory.
_MOST_ON_CORES = 8


def run_reproduce(cfg: ReproduceConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Run SFT, then the RL regimes, measure alignment at the start, and report; once per seed.

    What does not wait for one another runs side by side (`_slots`), with the same numbers as one
    after another. Finished runs below `run_dir` are left alone. A seed changes the data as well as
    the training, so the spread over seeds covers everything that chance decides. `overrides` are
    the words the user typed, and are passed on to the runs they concern.
    """
    prepare_torch(cfg.num_threads, cfg.train.seed)
    if cfg.resume:
        refuse_changes("reproduce", cfg, run_dir)
    model_location(cfg)
    data = load_data(cfg.data, cfg.eval)  # bad input is refused before anything is written
    if cfg.resume:
        refuse_other_contents(data.digests, run_dir)
    runs = _planned_runs(cfg, run_dir, overrides)
    run = Run(run_dir, "reproduce", cfg.train.seed)
    day = prompt_day(run_dir if cfg.resume else None)  # one date for all runs, whenever they begin
    facts = {"device": cfg.learner.device, "prompt_date": day.isoformat()}
    run.start(cfg, overrides, **facts, **data.digests)
    try:
        with run.recording_end():
            print_notes(data)
            pieces = [piece for seed in runs for piece in _pieces(cfg, seed, day)]
            prepare = partial(prepare_torch, cfg.num_threads, cfg.train.seed)
            run_pieces(pieces, _slots(cfg, runs[0].sft.cfg, pieces), prepare)
            page = write_report([run_dir], run_dir)
    except (Interrupted, KeyboardInterrupt):
        raise Interrupted(how_to_resume("reproduce", run_dir, overrides)) from None
    print((run_dir / "table.md").read_text())
    print(f"report: {page}")


@dataclass(frozen=True)
class _PlannedRun:
    """A run to come: its configuration, the words that make it, and its directory."""

    cfg: TrainConfig
    words: list[str]
    path: Path

    @property
    def name(self) -> str:
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def is_finished(self) -> bool:
        return read_manifest(self.path).get("status") == "finished"


@dataclass(frozen=True)
class _Seed:
    """The runs of one seed: SFT, and each regime from its end."""

    sft: _PlannedRun
    regimes: list[_PlannedRun]

    @property
    def path(self) -> Path:
        return self.sft.path.parent


def _planned_runs(cfg: ReproduceConfig, run_dir: Path, overrides: Sequence[str]) -> list[_Seed]:
    """Return every run to come, so that all are checked before the first begins.

    Raises UserError if the overrides set data.seed.
    """
    if any(_plain(word).startswith("data.seed=") for word in overrides):
        raise UserError(
            "passk reproduce sets data.seed to the seed of each repetition; use train.seed=S for "
            "the first of them"
        )
    planned = []
    for number in range(cfg.train.seed, cfg.train.seed + cfg.seeds):
        seed_dir = run_dir / f"seed-{number}"
        words = _sft_overrides(cfg, overrides, number)
        sft = _PlannedRun(compose_train(words), words, seed_dir / "sft")
        planned.append(
            _Seed(sft, [_from_sft(cfg, sft, name, overrides, number) for name in cfg.regimes])
        )
    return planned


def _from_sft(
    cfg: ReproduceConfig, sft: _PlannedRun, regime: str, overrides: Sequence[str], seed: int
) -> _PlannedRun:
    words = _rl_overrides(cfg, regime, overrides, seed)
    run_cfg = compose_train(words)
    run_cfg.train.init_from = str(sft.path)  # which is not there yet
    start = f"train.init_from={in_quotes(str(sft.path))}"
    return _PlannedRun(run_cfg, [*words, start], sft.path.parent / regime)


def _pieces(cfg: ReproduceConfig, seed: _Seed, day: date) -> list[Piece]:
    """Return what is left to do of a seed; what follows SFT waits for nothing else."""
    sft, pieces = seed.sft, []
    if not sft.is_finished:
        pieces.append(Piece(sft.name, partial(_train, sft, day)))
    if cfg.diagnostics.every and not _is_measured(seed.path, cfg.regimes):
        configs = {run.path.name: run.cfg for run in seed.regimes}
        work = partial(measure_start, cfg, configs, sft.path, day)
        pieces.append(Piece(f"{seed.path.name}/alignment", work, needs=sft.name))
    for run in seed.regimes:
        if not run.is_finished:
            pieces.append(Piece(run.name, partial(_train, run, day, sft.path), needs=sft.name))
    between = seed.path / "interpolation"
    if cfg.interpolate and read_manifest(between).get("status") != "finished":
        work = partial(_evaluate_between, cfg, between)
        name = f"{seed.path.name}/{between.name}"
        pieces.append(Piece(name, work, needs=f"{seed.path.name}/passk"))
    return pieces


def _slots(
    cfg: ReproduceConfig, run_cfg: TrainConfig, pieces: Sequence[Piece]
) -> list[dict[str, str]]:
    """Return a slot for each run at a time: `num_parallel`, or as many as have room of their own.

    A run on GPUs has as many of them as it has ranks. Without GPUs only runs of a model that is
    too small for several threads are side by side: others take all cores, and memory for each.
    """
    count, names = cfg.num_parallel, list[str]()
    if run_cfg.learner.device != "cpu" and torch.cuda.is_available():
        names = gpus()
        count = count or len(names) // ranks_to_start(run_cfg.learner)
    elif count is None and _is_small(run_cfg):
        count = num_cores() // ((cfg.num_threads or 1) * ranks_to_start(run_cfg.learner))
        count = min(count, _MOST_ON_CORES)
    at_once = Counter(piece.needs is None for piece in pieces)
    return gpu_slots(names, max(1, min(count or 1, max(at_once.values(), default=1))))


def _is_small(cfg: TrainConfig) -> bool:
    if sampling_engine(cfg.rollout) == "vllm":  # takes a share of main memory
        return False
    with suppress(UserError):  # the run itself says what is wrong
        start, _ = starting_point(cfg, Path())
        return num_parameters(cfg.model, start) < SINGLE_THREADED_PARAMETERS
    return False


def _sft_overrides(cfg: ReproduceConfig, overrides: Sequence[str], seed: int) -> list[str]:
    words = [word for word in _shared(overrides) if _concerns_sft(_plain(word))]
    if isinstance(cfg.data, ConventionsConfig):  # data.path holds RL prompts; SFT has a corpus
        words = [word for word in words if not _plain(word).startswith("data.path=")]
    if cfg.sft_steps is not None:
        words.append(f"train.num_steps={cfg.sft_steps}")
    # Measure SFT at the k of the RL regimes too; SFT itself has no k.
    words += [f"eval.ks=[{','.join(map(str, cfg.eval.ks))}]", *_eval_words(cfg)]
    return ["regime=sft", *words, f"train.seed={seed}", f"data.seed={seed}"]


def _eval_words(cfg: ReproduceConfig) -> list[str]:
    """Write the overrides of evaluation whose defaults are this command's own."""
    temperatures = ",".join(f"{t:g}" for t in cfg.eval.temperatures)
    return [f"eval.temperatures=[{temperatures}]", f"eval.num_problems={cfg.eval.num_problems}"]


def _rl_overrides(
    cfg: ReproduceConfig, regime: str, overrides: Sequence[str], seed: int
) -> list[str]:
    words = [word for word in _shared(overrides) if not _plain(word).startswith("regime=")]
    if regime != "hybrid":  # the other regimes differ in pass1_weight
        words = [word for word in words if not _plain(word).startswith("regime.pass1_weight=")]
    return [
        f"regime={regime}",
        *words,
        *_eval_words(cfg),
        f"train.seed={seed}",
        f"data.seed={seed}",
    ]


def _shared(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if not _plain(word).startswith(_OWN_KEYS)]


def _is_measured(seed_dir: Path, regimes: Sequence[str]) -> bool:
    if not (seed_dir / "kernel.csv").is_file():
        return False
    return set(regimes) <= set(pd.read_csv(seed_dir / "alignment.csv")["regime"])


def _plain(word: str) -> str:
    """Return an override without Hydra's leading +, ++ or ~."""
    return word.lstrip("+~")


def _concerns_sft(word: str) -> bool:
    return word.startswith(_SFT_TOO) or not word.startswith(_RL_ONLY_KEYS)


def _train(run: _PlannedRun, day: date, sft_dir: Path | None = None) -> None:
    """Train, or resume a run that was begun.

    The run must be measured on the same problems as its SFT run.
    """
    cfg = replace(run.cfg, resume=(run.path / "config.yaml").is_file())
    if sft_dir is not None:
        refuse_other_problems(cfg, sft_dir, needs_training=False)
    with only_writer(run.path):
        run_train(cfg, run.path, run.words, show_notes=False, day=day)


def _evaluate_between(cfg: ReproduceConfig, path: Path) -> None:
    """Evaluate weights between the SFT and the Pass@k-only run beside `path`, or go on with it."""
    weights = ",".join(map(str, cfg.interpolate))
    evaluation = EvaluateConfig(
        **{field.name: getattr(cfg, field.name) for field in fields(RunConfig)},
        run=str(path.parent / "sft"),
        interpolate=f"{path.parent / 'passk'}:{weights}",
        resume=(path / "config.yaml").is_file(),
    )
    with only_writer(path):
        run_eval(evaluation, path, [])


def measure_start(
    cfg: ReproduceConfig, configs: dict[str, TrainConfig], sft_dir: Path, day: date
) -> None:
    """Measure each regime's alignment with Pass@1, and the kernel between kinds, after SFT.

    Writes `alignment.csv` and `kernel.csv` beside the runs, from `alignment_prompts` training
    problems with `alignment_samples` samples each, in disjoint halves.
    """
    first = next(iter(configs.values()))
    print(
        f"gradient alignment at the start: {cfg.alignment_prompts} prompts x "
        f"{cfg.alignment_samples} samples",
        flush=True,
    )
    with open_parts(first, str(last_checkpoint(sft_dir)), day=day) as parts:
        groups = diagnostic_groups(0, first, parts, cfg.alignment_prompts, cfg.alignment_samples)
        settled = [with_measured_weight(run_cfg, parts, sft_dir)[0] for run_cfg in configs.values()]
        parts.sampler.sleep()
        num_blocks = min(cfg.diagnostics.num_blocks, len(groups))
        objectives = [choose(run_cfg.regime, History()) for run_cfg in settled]
        by_kind = gradients_by_kind(parts.learner, groups, [PASS1, *objectives], num_blocks)
    # The parts of all kinds in a block add up to the block of all prompts.
    overall = torch.stack([part.gradients for part in by_kind.values()]).sum(dim=0)
    shares_M = np.sum([part.shares_M for part in by_kind.values()], axis=0)
    rows = []
    for i, (name, run_cfg) in enumerate(configs.items()):
        regime, at_first = run_cfg.regime, objectives[i]
        k = at_first.k if regime.is_remedy else regime.k
        row = {"regime": name, "k": k, "pass1_weight": at_first.pass1_weight}
        row |= alignment(overall[:, i + 1], overall[:, 0], [shares_M, shares_M]).columns()
        row |= {"num_prompts": len(groups), "num_samples": cfg.alignment_samples}
        rows.append(row)
    write_text(sft_dir.parent / "alignment.csv", pd.DataFrame(rows).to_csv(index=False))
    kernels = []
    for a, b in combinations_with_replacement(by_kind, 2):
        of_a, of_b = by_kind[a], by_kind[b]
        shares = [of_a.shares_M, of_b.shares_M]
        kernel = alignment(of_a.gradients[:, 0], of_b.gradients[:, 0], shares).inner_product
        kernels.append({"kind_a": a, "kind_b": b, **kernel.columns("kernel")})
    write_text(sft_dir.parent / "kernel.csv", pd.DataFrame(kernels).to_csv(index=False))


@dataclass(frozen=True)
class KindGradients:
    """Part of one kind of prompts in `block_gradients`, and its share of all prompts by block."""

    gradients: Tensor  # [2 halves, objectives, blocks, parameters]
    shares_M: np.ndarray


def gradients_by_kind(
    learner: Learner, groups: Sequence[Group], objectives: Sequence[Objective], num_blocks: int
) -> dict[str, KindGradients]:
    """Compute the part of each kind in the gradients of every block of all prompts.

    Blocks are drawn over all prompts, so that they are independent draws of them, as the jackknife
    takes them to be. By themselves the parts give the kernel, because the mean of
    <grad p(x), grad p(x')> over pairs of prompts of two kinds (paper eq. 5) is the product of the
    two mean gradients.
    """
    kinds = np.array([group.problem.kind for group in groups])
    return {
        str(kind): KindGradients(
            block_gradients(learner, groups, objectives, num_blocks, kinds == kind),
            block_shares(kinds == kind, num_blocks),
        )
        for kind in np.unique(kinds)
    }
