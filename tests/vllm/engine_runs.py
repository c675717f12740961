"""Run passk on vLLM's engine, and compare its log-probabilities with the policy's."""

import forked
import numpy as np
import torch

from passk.learner.logprobs import token_logprobs

VLLM = ("rollout=vllm", "rollout.memory_fraction=0.2", "rollout.enforce_eager=true")


def passk(cwd, command, *words):
    """The command line in a process of its own, as an engine needs it."""
    outcome = forked.passk([command, *words], cwd, *forked.VLLM)
    assert "Traceback" not in outcome.err, outcome.err
    return outcome


def logprob_gap(model, prompts, sampled, temperature=1.0) -> float:
    """The largest |sampler - one plain forward pass| over all sampled tokens."""
    worst = 0.0
    for prompt, completions in zip(prompts, sampled, strict=True):
        for completion in completions:
            ids = torch.tensor([[*prompt, *completion.token_ids]])
            mask = torch.arange(ids.shape[1])[None] >= len(prompt)
            with torch.no_grad():
                logp = token_logprobs(model, ids, mask, temperature)[0, len(prompt) :].numpy()
            worst = max(worst, np.abs(logp - completion.logprobs).max())
    return worst
