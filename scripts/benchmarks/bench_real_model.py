"""Measure passk on a real small model, SmolLM2-135M, beside TRL and bare vLLM, for `bench.py`.

A whole RL step starts from a checkpoint after SFT on word problems, which `after_sft` makes once.
"""

import json
import shlex
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench_document import STEP_HEADER, median, section, step_cells, table
from bench_model_workers import MODEL, NEW_TOKENS, NUM_PROMPTS, NUM_SAMPLES
from bench_steps import Steps
from bench_turns import Job, Settings, WorkerFailed

TEMPLATE = r"data.prompt.template='{problem}\n'"
SFT = (
    *("regime=sft", "regime.num_demonstrations=64", "train.num_steps=30", "train.save_every=10"),
    *("learner.lr=1e-4", "learner.warmup_steps=3"),
    *("eval.num_problems=50", "eval.num_samples=8", "eval.ks=[1,2]"),
)
STEP = (
    *("regime=hybrid", "regime.k=8", "rollout.num_prompts=64", "rollout.num_samples=16"),
    "learner.lr=5e-6",
    "rollout.memory_fraction=0.2",  # vLLM's, of main memory
)
THREADS = 2
TREES, ROWS = "learner.prefix_trees=true", "learner.prefix_trees=false"


def problems(data: Path) -> tuple[str, ...]:
    """The overrides that name the word problems in FOLDER, train.jsonl and test.jsonl."""
    return (
        *("data=jsonl", f"data.path={data / 'train.jsonl'}"),
        *(f"data.eval_path={data / 'test.jsonl'}", TEMPLATE),
        *("data.answer_tokens=24", "verifier=math"),
    )


def after_sft(data: Path, run: Path) -> Path:
    """The last checkpoint of the SFT run in `run`, which is begun or resumed if it must be."""
    from passk.learner.checkpoint import last_checkpoint

    manifest = run / "manifest.json"
    status = json.loads(manifest.read_text())["status"] if manifest.exists() else None
    if status != "finished":
        overrides = (*SFT, *problems(data), f"model.path={MODEL}", f"hydra.run.dir={run}")
        words = ["train", *overrides, *(["resume=true"] if manifest.exists() else [])]
        print(f"SFT first: passk {shlex.join(words)}", file=sys.stderr, flush=True)
        passk = str(Path(sys.executable).with_name("passk"))
        if subprocess.run([passk, *words], stdout=sys.stderr).returncode:
            sys.exit("bench: the SFT run failed; the same command goes on with it")
    return last_checkpoint(run)


@dataclass(frozen=True)
class Start:
    """Where a whole RL step starts: the word problems, and the checkpoint after SFT on them."""

    data: Path
    checkpoint: Path

    def job(self, side: str, *switches: str) -> Job:
        """A worker that makes steps from here: `side` is `passk` or `trl`."""
        overrides = (*STEP, *problems(self.data), f"model.path={self.checkpoint}")
        return Job(side, THREADS, (*overrides, *switches))


def whole_step(settings: Settings, start: Start) -> str:
    """A whole RL step beside TRL's with its transformers engine: time, memory and tokens."""
    torch_engine = "rollout.engine=torch"
    sides = {
        "passk, prefix trees": start.job("passk", torch_engine, TREES),
        "passk, rows": start.job("passk", torch_engine, ROWS),
        "TRL `GRPOTrainer`": start.job("trl", torch_engine),
    }
    measured = settings.measure(*sides.values())
    lead, share = _lead(measured[0], measured[-1])
    return section(
        f"A whole RL step on a real model, times as fast as TRL's: {lead:.1f} (target: at least "
        f"3); share of its peak memory: {share:.2f} (target: at most 0.5)",
        f"{_what_is_measured(settings)} TRL: transformers engine, no gradient checkpointing.",
        STEP_HEADER,
        [step_cells(name, steps) for name, steps in zip(sides, measured, strict=True)],
    )


def whole_step_vllm(settings: Settings, start: Start) -> str:
    """The same with vLLM on both sides; passk alone where TRL does not start with it."""
    ours = start.job("passk", "rollout.engine=vllm", TREES)
    theirs = start.job("trl", "rollout.engine=vllm")
    text = f"{_what_is_measured(settings)} vLLM's CPU build in the trainer's process on both sides"
    try:
        their_steps, our_steps = settings.measure(theirs, ours)
    except WorkerFailed as failure:
        if failure.job != theirs:
            raise
        (steps,) = settings.measure(ours)
        return section(
            "A whole RL step with vLLM: passk alone",
            f'{text}: TRL (`use_vllm=True`, `vllm_mode="colocate"`) did not run with it '
            f"(`{failure.reason}`), so this is passk alone.",
            STEP_HEADER,
            [step_cells("passk `rollout=vllm`", steps)],
        )
    lead, share = _lead(our_steps, their_steps)
    return section(
        f"A whole RL step with vLLM, times as fast as TRL's: {lead:.1f}; "
        f"share of its peak memory: {share:.2f}",
        f"{text}; what the engines compute is not counted.",
        STEP_HEADER,
        [
            step_cells("passk `rollout=vllm`", our_steps),
            step_cells("TRL `use_vllm=True`", their_steps),
        ],
    )


def _lead(ours: Steps, theirs: Steps) -> tuple[float, float]:
    """How many times as fast our step is, and our share of their peak memory."""
    lead = statistics.median(theirs.seconds) / statistics.median(ours.seconds)
    return lead, ours.peak_mib / theirs.peak_mib


def _what_is_measured(settings: Settings) -> str:
    return (
        "SmolLM2-135M, float32, from a checkpoint after SFT on word problems; 64 of them x 16 "
        "samples, at most 24 new tokens, temperature 1: sampling, verifying, advantages, one "
        f"optimiser step, weights handed over. Two threads, medians of {settings.steps} steps "
        f"after {settings.warmup}, each side in a process of its own, in turns step by step; same "
        "prompts in the same order, same verifier, same weights at the first step. *Computed* are "
        "tokens that went through the model in a step, padding included. Micro-batches as either "
        "side makes them by default (TRL: 8 rows)."
    )


def learner_memory(settings: Settings) -> str:
    """Peak memory of a learner step on a model with a real vocabulary, beside TRL's."""
    jobs = {
        f"{name}{', gradient checkpointing' * bool(switches)}": Job(worker, THREADS, switches)
        for switches in ((), ("checkpointing",))
        for name, worker in (("passk", "learner_passk"), ("TRL `GRPOTrainer`", "learner_trl"))
    }
    rows = []
    for label, job in jobs.items():  # one after the other: together they would not fit
        (steps,) = settings.measure(job)
        rows.append(
            [label, f"{steps.peak_mib:.0f}", f"{steps.start_mib:.0f}", median(steps.seconds)]
        )
    share = float(rows[0][1]) / float(rows[1][1])
    return section(
        f"Peak memory of a learner step, passk's share of TRL's: {share:.2f} (target: at most 0.5)",
        "SmolLM2-135M, vocabulary 49,152, float32: 16 rows of 128 prompt and 384 completion tokens "
        "that share nothing, one AdamW step. Both are handed the rows; nothing is sampled. Peak "
        "resident memory of each process. passk with its default micro-batches, TRL with the 16 "
        f"rows in one. Two threads, medians of {settings.steps} steps after {settings.warmup}.",
        ["", "peak MiB", "MiB before step 1", "step, s"],
        rows,
    )


ENGINES = {"passk `rollout=vllm`": "vllm_passk", "`LLM.generate`": "vllm_bare"}


def vllm_throughput(settings: Settings) -> str:
    """Tokens a second of passk's rollout on vLLM, beside a bare loop; where the difference goes."""
    sides = settings.measure(*(Job(worker, THREADS) for worker in ENGINES.values()))
    speeds = [tokens_per_second(settings, side) for side in sides]
    ratios = [mine / bare for mine, bare in zip(*speeds, strict=True)]
    rows = [
        [
            name,
            f"{statistics.median(speed):.1f}",
            f"{side.peak_mib:.0f}",
            f"{statistics.fmean(side.lengths):.1f}",
        ]
        for name, speed, side in zip(ENGINES, speeds, sides, strict=True)
    ]
    profiled = Settings(1, 1).measure(*(Job(w, THREADS, ("profile",)) for w in ENGINES.values()))
    names = list(dict.fromkeys(name for side in profiled for name in side.phases))
    seconds = [
        [name, *(f"{s.phases[name][0]:.3f}" if name in s.phases else "" for s in profiled)]
        for name in names
    ]
    compared = section(
        f"vLLM on this CPU, passk's share of the bare engine's tokens/s: "
        f"{statistics.median(ratios):.2f} (target: at least 0.9)",
        f"SmolLM2-135M, float32: {NUM_PROMPTS} word problems x {NUM_SAMPLES} samples, at most "
        f"{NEW_TOKENS} new tokens, seeded, with log-probabilities; all requests are handed over at "
        "once. passk's side also encodes prompts, decodes and judges the answers, and makes the "
        "groups. Both engines run in turns, step by step; medians of "
        f"{settings.steps} after {settings.warmup}.",
        ["", "tokens/s", "peak MiB", "mean tokens"],
        rows,
    )
    return (
        f"{compared}\nThe same under cProfile, one step after one to warm up, cumulative seconds "
        "of the main thread; passk judges in another, while the engine works:\n\n"
        f"{table(['', *ENGINES], seconds)}\n"
    )


def tokens_per_second(settings: Settings, side: Steps) -> list[float]:
    """Sampled tokens a second of each timed step."""
    last = slice(-settings.steps, None)
    return [
        count * length / seconds
        for count, length, seconds in zip(
            side.completions[last], side.lengths[last], side.seconds, strict=True
        )
    ]
