"""Sample a policy on held-out problems, one row per sample; see `passk.evaluation.tables`."""

from collections.abc import Sequence

import pandas as pd

from passk.config.schema import RunConfig
from passk.evaluation.tables import SAMPLE_COLUMNS
from passk.rollout.rollout import Actor, SampleKey, eval_params, rollout, sample_fields
from passk.types import Problem


def draw_samples(
    actor: Actor,
    problems: Sequence[Problem],
    cfg: RunConfig,
) -> pd.DataFrame:
    """Sample each problem `eval.num_samples` times; with `eval.greedy`, once more greedily.

    Seeds do not depend on the step or the run, so two policies are compared with common random
    numbers. Returns a row per sample, all rows of a pass together, with the columns problem_id,
    kind, level, type, sample (0 to n-1; 0 for the greedy one), greedy, answer (as the verifier
    extracted it), completion, num_tokens, finish_reason, reward (NaN where not judged), reason,
    logprob_sampler (of the whole completion, in nats).
    """
    rows = []
    for greedy in (False, True) if cfg.eval.greedy else (False,):
        sampled = rollout(
            actor,
            problems,
            1 if greedy else cfg.eval.num_samples,
            eval_params(cfg, greedy=greedy),
            SampleKey(cfg.eval.seed, "eval", 0),
        )
        rows += [
            {
                "problem_id": group.problem.id,
                "kind": group.problem.kind,
                "level": group.problem.level,
                "type": group.problem.type,
                "sample": i,
                "greedy": greedy,
                "answer": verdict.answer,
                **sample_fields(completion, verdict),
            }
            for group in sampled.groups
            for i, (completion, verdict) in enumerate(
                zip(group.completions, group.verdicts, strict=True)
            )
        ]
    return pd.DataFrame(rows, columns=SAMPLE_COLUMNS).astype({"reward": float})
