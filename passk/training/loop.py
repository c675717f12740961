"""The training loop: roll out, judge, estimate, learn, hand over the weights, and measure."""

import time

from passk.config.schema import TrainConfig, uses_products
from passk.console import Display, InterruptFlag
from passk.data.problems import ProblemStream
from passk.diagnostics.alignment import Alignment, alignment, batch_products, block_gradients
from passk.learner.checkpoint import TrainState
from passk.learner.learner import Learner, LearnStats
from passk.learner.reference import with_start_logprobs
from passk.memory import memory_advice
from passk.objectives.adaptive import choose, evidence, remember
from passk.objectives.advantages import PASS1, Objective
from passk.ranks import any_rank
from passk.rollout.rollout import SampleKey, rollout, training_params
from passk.runs.writer import Run, sample_logprobs
from passk.training.build import Parts
from passk.training.evaluate import evaluate
from passk.training.experience import Experience, explore, imitate
from passk.training.weight_sync import hand_over
from passk.types import Group


def train(
    cfg: TrainConfig,
    parts: Parts,
    run: Run,
    shown: Display,
    stop: InterruptFlag,
    start: TrainState,
) -> int:
    """Run `regime` from `start` to `train.num_steps`, and write all results to `run`.

    Returns the number of steps done: less than `train.num_steps` if `stop` was set, after saving.
    """
    learner, sampler, history = parts.learner, parts.sampler, start.history
    supervised = cfg.regime.name == "sft"
    batch_size = cfg.regime.num_demonstrations if supervised else cfg.rollout.num_prompts
    source = parts.data.corpus if supervised else parts.data.train
    stream = ProblemStream(source, cfg.train.seed, position=start.stream_position)
    hand_over(learner, sampler, cfg.rollout.num_synced_checks)
    for step in range(start.step, cfg.train.num_steps):
        if is_due(step, cfg.eval.every):
            evaluate(step, cfg, parts, run, shown)
        objective = choose(cfg.regime, history)
        aligned = measure_alignment(step, cfg, objective, parts)
        started = time.perf_counter()
        problems = stream.take(batch_size)
        if supervised:
            experience = imitate(parts.encoder, problems)
        else:
            experience = explore(step, cfg, objective, parts.training_actor, problems)
        measure_started = time.perf_counter()
        sampler.sleep()
        with memory_advice("learner"):
            products = measure_products(step, cfg, learner, experience)
            learn_started = time.perf_counter()
            rows = with_start_logprobs(learner, parts.reference, experience.rows)
            learned = learner.update(rows)
        sync_started = time.perf_counter()
        hand_over(learner, sampler, cfg.rollout.num_synced_checks)
        ended = time.perf_counter()
        metrics = {
            "step": step,
            **learning_metrics(learned),
            **experience.metrics.columns(),
            **aligned,
            **evidence(cfg.regime, history, objective),
            "products": products,
            "measure_seconds": learn_started - measure_started,
            "learn_seconds": sync_started - learn_started,
            "sync_seconds": ended - sync_started,
            **token_metrics(experience, learned, sync_started - learn_started, ended - started),
        }
        if experience.sampled and is_due(step, cfg.rollout.save_every):
            logprobs = sample_logprobs(experience.rows, learned)
            run.write_rollouts(step, experience.sampled, logprobs)
        run.log(metrics)
        run.check_saved()
        shown.step(step + 1, metrics)
        history = remember(cfg.regime, history, objective, experience.metrics.pass1, products)
        state = TrainState(step + 1, stream.position, history)
        last, stopping = step + 1 == cfg.train.num_steps, any_rank(stop.is_set())
        if last or is_due(step + 1, cfg.train.save_every) or stopping:
            run.save(learner, parts.tokenizer, state, cfg)
        if stopping and not last:
            run.settle()
            return step + 1
    evaluate(cfg.train.num_steps, cfg, parts, run, shown)
    run.settle()
    return cfg.train.num_steps


def learning_metrics(learned: LearnStats) -> dict[str, float | None]:
    """Collect the metrics of an update, and the gap to the sampler's log-probabilities if known."""
    gap = learned.gap
    return {
        "loss": learned.loss,
        "grad_norm": learned.grad_norm,
        "learning_rate": learned.learning_rate,
        "kl": learned.kl,
        "logprob_gap_mean": gap.mean if gap else None,
        "logprob_gap_max": gap.max if gap else None,
        "importance_truncated_fraction": gap.truncated_fraction if gap else None,
    }


def token_metrics(
    experience: Experience, learned: LearnStats, learn_seconds: float, seconds: float
) -> dict[str, float | None]:
    """Count the tokens of a step, and how many a second its parts handled.

    The sampler drew `sampled` ones, and the learner's model computed `fed` ones, which trees and
    merged samples make fewer. The step processed the prompt and the completion of every sample, or
    of every worked solution, however little of that had to be computed: its `tokens_per_second`
    compares regimes and trainers.
    """
    sampled = experience.sampled
    return {
        "tokens_per_second": experience.num_processed / seconds,
        "sampled_per_second": sampled.num_tokens / sampled.sample_seconds if sampled else None,
        "fed_per_second": learned.num_fed / learn_seconds,
        "num_processed_tokens": experience.num_processed,
        "num_sampled_tokens": sampled.num_tokens if sampled else 0,
        "num_fed_tokens": learned.num_fed,
        "num_learned_tokens": sum(len(row.completion_ids) for row in experience.rows),
    }


def is_due(step: int, every: int) -> bool:
    """Return True if an event that occurs every `every` steps (0: never) occurs at `step`."""
    return every > 0 and step % every == 0


def measure_products(
    step: int, cfg: TrainConfig, learner: Learner, experience: Experience
) -> tuple[float, ...] | None:
    """Estimate f(1) to f(regime.k) from the batch if the regime uses them and they are due."""
    regime = cfg.regime
    if not experience.sampled or not uses_products(regime):
        return None
    if not is_due(step, regime.measure_every):
        return None
    return batch_products(
        learner,
        experience.sampled.groups,
        regime.k,
        num_blocks=regime.num_blocks,
        preconditioned=regime.preconditioned,
    )


def measure_alignment(
    step: int, cfg: TrainConfig, objective: Objective, parts: Parts
) -> dict[str, float | None]:
    """Measure the cosine of the objective's gradient with the Pass@1 gradient, if due at this step.

    Uses its own samples: `diagnostics.num_prompts` training problems, the same at every step, and
    `diagnostics.num_samples` fresh samples of each, in disjoint halves.
    """
    diagnostics = cfg.diagnostics
    if cfg.regime.name == "sft" or not is_due(step, diagnostics.every):
        return dict.fromkeys(Alignment.COLUMNS)
    groups = diagnostic_groups(step, cfg, parts, diagnostics.num_prompts, diagnostics.num_samples)
    parts.sampler.sleep()
    with memory_advice("learner"):
        gradients = block_gradients(
            parts.learner,
            groups,
            [objective, PASS1],
            num_blocks=min(diagnostics.num_blocks, len(groups)),
        )
    hand_over(parts.learner, parts.sampler, cfg.rollout.num_synced_checks)
    measured = alignment(gradients[:, 0], gradients[:, 1])
    return dict(measured.columns())


def diagnostic_groups(
    step: int,
    cfg: TrainConfig,
    parts: Parts,
    num_prompts: int | None,
    num_samples: int,
    purpose: str = "diagnose",
) -> list[Group]:
    """Draw fresh samples of training problems, each problem once.

    None, or a number larger than there are, takes all problems.
    """
    available = len(parts.data.train)
    stream = ProblemStream(parts.data.train, cfg.train.seed)
    return rollout(
        parts.training_actor,
        stream.take(available if num_prompts is None else min(num_prompts, available)),
        num_samples,
        training_params(cfg),
        SampleKey(cfg.train.seed, purpose, step),
    ).groups
