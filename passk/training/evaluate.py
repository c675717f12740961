"""Evaluate a policy: in memory during a training run, or sample by sample on disk for itself."""

import time
from collections.abc import Mapping, Sequence

import pandas as pd

from passk.config.schema import RunConfig, TrainConfig, front_temperatures
from passk.console import Display, InterruptFlag
from passk.evaluation.tables import SAMPLE_COLUMNS, count_correct, eval_tables, percent_cells
from passk.ranks import any_rank, from_rank_0, rank
from passk.rollout.rollout import Actor, SampleKey, eval_params, rollout, sample_fields
from passk.runs.writer import Run
from passk.training.build import Parts
from passk.training.distance import measure_distance
from passk.types import Group, Problem


def draw_groups(
    actor: Actor, problems: Sequence[Problem], cfg: RunConfig, temperature: float
) -> list[Group]:
    """Sample each problem `eval.num_samples` times at a temperature, but once at 0 (greedy).

    Seeds do not depend on the step, the run or the temperature, so two policies are compared with
    common random numbers.
    """
    return rollout(
        actor,
        problems,
        cfg.eval.num_samples if temperature else 1,
        eval_params(cfg, temperature),
        SampleKey(cfg.eval.seed, "eval", 0),
    ).groups


def draw_samples(
    actor: Actor, problems: Sequence[Problem], cfg: RunConfig, temperatures: Sequence[float]
) -> pd.DataFrame:
    """Return `sample_table` of the groups of `draw_groups` at each temperature."""
    return sample_table({t: draw_groups(actor, problems, cfg, t) for t in temperatures})


def sample_table(drawn: Mapping[float, Sequence[Group]]) -> pd.DataFrame:
    """Return a row per sample, all rows of a temperature together.

    The columns are problem_id, kind, level, type, temperature, sample (0 to n-1), answer (as the
    verifier extracted it), completion, num_tokens, finish_reason, reward (NaN where not judged),
    reason, logprob_sampler (of the whole completion, in nats).
    """
    rows = [
        {
            "problem_id": group.problem.id,
            "kind": group.problem.kind,
            "level": group.problem.level,
            "type": group.problem.type,
            "temperature": float(temperature),
            "sample": i,
            "answer": verdict.answer,
            **sample_fields(completion, verdict),
        }
        for temperature, groups in drawn.items()
        for group in groups
        for i, (completion, verdict) in enumerate(
            zip(group.completions, group.verdicts, strict=True)
        )
    ]
    return pd.DataFrame(rows, columns=SAMPLE_COLUMNS).astype({"reward": float})


def evaluate(step: int, cfg: TrainConfig, parts: Parts, run: Run, shown: Display) -> None:
    """Measure the sampler's policy on the held-out problems and write the tables of `step`.

    The whole front is measured at the end, and at the start unless another run ended there.
    """
    is_start = step == 0 and cfg.train.init_from is None
    has_front = is_start or step == cfg.train.num_steps
    temperatures = front_temperatures(cfg.eval) if has_front else [cfg.eval.temperature]
    drawn = {t: draw_groups(parts.actor, parts.data.heldout, cfg, t) for t in temperatures}
    samples = sample_table(drawn)
    tables = eval_tables(samples, cfg.eval)
    tables |= measure_distance(cfg, parts, drawn[cfg.eval.temperature])
    run.write_eval(step, count_correct(samples), tables)
    table = tables["table"]
    values = "  ".join(
        f"Pass@{k} {cell}" for k, cell in zip(table["k"], percent_cells(table), strict=True)
    )
    shown.say(f"{shown.name} step {step}: {values}")


def sample_in_chunks(
    cfg: TrainConfig, parts: Parts, run: Run, shown: Display, stop: InterruptFlag
) -> bool:
    """Sample the held-out problems that have no samples on disk, `eval.chunk_size` at a time.

    Each chunk is written before the next begins. Returns True once all problems have samples, False
    if `stop` was set before the last chunk.
    """
    problems = parts.data.heldout
    drawn = from_rank_0(run.samples() if rank() == 0 else None)
    known = set(drawn["problem_id"])
    left = [place for place, problem in enumerate(problems) if problem.id not in known]
    rewards = drawn["reward"][drawn["temperature"] == cfg.eval.temperature]
    right, judged = rewards.sum(), rewards.count()
    shown.step(len(known), {"pass1": right / judged if judged else None})
    for start in range(0, len(left), cfg.eval.chunk_size):
        if any_rank(stop.is_set()):
            return False
        places = left[start : start + cfg.eval.chunk_size]
        started = time.perf_counter()
        chosen = [problems[p] for p in places]
        samples = draw_samples(parts.actor, chosen, cfg, front_temperatures(cfg.eval))
        run.write_samples(places[0], samples)
        rewards = samples["reward"][samples["temperature"] == cfg.eval.temperature]
        right, judged = right + rewards.sum(), judged + rewards.count()
        metrics = {
            "pass1": right / judged if judged else None,
            "sampled_per_second": samples["num_tokens"].sum() / (time.perf_counter() - started),
        }
        shown.step(len(known) + start + len(places), metrics)
    return True


def samples_in_order(run: Run, parts: Parts) -> pd.DataFrame:
    """Read all samples on disk, in the order of the held-out problems, whatever the chunks."""
    samples = run.samples()
    place = {problem.id: i for i, problem in enumerate(parts.data.heldout)}
    order = samples["problem_id"].map(place)
    return samples.iloc[order.argsort(kind="stable")].reset_index(drop=True)
