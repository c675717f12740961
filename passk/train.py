"""The loop: roll out, judge, estimate, learn, hand the weights back; measured along the way."""

import time

from passk.build import Parts
from passk.checkpoint import TrainState
from passk.config import TrainConfig, trained_k
from passk.diagnostics import Alignment, alignment, block_gradients, objective
from passk.evaluation import evaluate
from passk.experience import explore, imitate
from passk.interrupt import InterruptFlag
from passk.learner import PolicyGap
from passk.memory import memory_advice
from passk.progress import Display
from passk.ranks import any_rank
from passk.rollout import SampleKey, rollout, training_params
from passk.run import Run, sample_logprobs
from passk.stream import ProblemStream
from passk.sync import hand_over
from passk.types import Group


class Stopped(Exception):
    """The user or the scheduler asked the run to stop, and it has been saved at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


def train(
    cfg: TrainConfig,
    parts: Parts,
    run: Run,
    shown: Display,
    stop: InterruptFlag,
    start: TrainState,
) -> None:
    """Run `regime` from `start` to `train.num_steps`, leaving everything in `run`.

    Raises Stopped, after saving, when `stop` is set before the last step.
    """
    learner, sampler = parts.learner, parts.sampler
    supervised = cfg.regime.name == "sft"
    batch_size = cfg.regime.num_demonstrations if supervised else cfg.rollout.num_prompts
    stream = ProblemStream(
        parts.data.corpus if supervised else parts.data.train,
        cfg.train.seed,
        position=start.stream_position,
    )
    hand_over(learner, sampler, cfg.rollout.num_synced_checks)
    for step in range(start.step, cfg.train.num_steps):
        if is_due(step, cfg.eval.every):
            evaluate(step, cfg, parts, run, shown)
        aligned = measure_alignment(step, cfg, parts)
        started = time.perf_counter()
        problems = stream.take(batch_size)
        if supervised:
            experience = imitate(parts.encoder, problems)
        else:
            experience = explore(
                step, cfg, sampler, parts.training_verifier, parts.encoder, problems
            )
        learn_started = time.perf_counter()
        sampler.sleep()
        with memory_advice("learner"):
            learned = learner.update(experience.rows)
        sync_started = time.perf_counter()
        hand_over(learner, sampler, cfg.rollout.num_synced_checks)
        ended = time.perf_counter()

        metrics = {
            "step": step,
            "loss": learned.loss,
            "grad_norm": learned.grad_norm,
            "learning_rate": learned.learning_rate,
            **gap_metrics(learned.gap),
            **experience.metrics,
            **aligned,
            "learn_seconds": sync_started - learn_started,
            "sync_seconds": ended - sync_started,
            "tokens_per_second": experience.num_tokens / (ended - started),
        }
        if experience.sampled and is_due(step, cfg.rollout.save_every):
            logprobs = sample_logprobs(experience.rows, learned)
            run.write_rollouts(step, experience.sampled, logprobs)
        run.log(metrics)
        shown.step(step + 1, metrics)
        state = TrainState(step=step + 1, stream_position=stream.position)
        last, stopping = step + 1 == cfg.train.num_steps, any_rank(stop.is_set())
        if last or is_due(step + 1, cfg.train.save_every) or stopping:
            run.save(learner, parts.tokenizer, state, cfg)
        if stopping and not last:
            run.settle()
            raise Stopped(step + 1)
    evaluate(cfg.train.num_steps, cfg, parts, run, shown)
    run.settle()


def gap_metrics(gap: PolicyGap | None) -> dict[str, float | None]:
    """How far the sampler's log-probabilities are from the learner's; null if none are known."""
    return {
        "logprob_gap_mean": gap.mean if gap else None,
        "logprob_gap_max": gap.max if gap else None,
        "importance_truncated_fraction": gap.truncated_fraction if gap else None,
    }


def is_due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens at `step`."""
    return every > 0 and step % every == 0


def measure_alignment(step: int, cfg: TrainConfig, parts: Parts) -> dict[str, float | None]:
    """Cosine of the regime's gradient with the Pass@1 gradient, when it is due at this step.

    From samples of its own: `diagnostics.num_prompts` training problems, the same at every step,
    and `diagnostics.num_samples` fresh samples of each, in disjoint halves.
    """
    regime, diagnostics = cfg.regime, cfg.diagnostics
    if regime.name == "sft" or not is_due(step, diagnostics.every):
        return dict.fromkeys(Alignment.COLUMNS)
    groups = diagnostic_groups(step, cfg, parts, diagnostics.num_prompts, diagnostics.num_samples)
    parts.sampler.sleep()
    with memory_advice("learner"):
        gradients = block_gradients(
            parts.learner,
            groups,
            [
                objective(regime.estimator, trained_k(regime), regime.pass1_weight),
                objective("mixture", 1, 1.0),
            ],
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
    """Fresh samples of training problems, each once: all for None, or where there are fewer."""
    available = len(parts.data.train)
    stream = ProblemStream(parts.data.train, cfg.train.seed)
    return rollout(
        parts.sampler,
        parts.training_verifier,
        parts.encoder,
        stream.take(available if num_prompts is None else min(num_prompts, available)),
        num_samples,
        training_params(cfg),
        SampleKey(cfg.train.seed, purpose, step),
    ).groups
