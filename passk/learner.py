"""The learner: owns the trained model and its optimiser; one update per batch of rollouts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from passk.batch import TokenRow, micro_batches
from passk.config import LearnerConfig
from passk.policy import token_logprobs


@dataclass(frozen=True, slots=True)
class LearnStats:
    """What an update reports: the loss, the norm of the gradient before clipping, the step size.

    `logprobs` is the learner's log pi(y|x) of each row it was fed, before the update.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    logprobs: tuple[float, ...]


class Learner:
    """A policy under optimisation. State: weights, optimiser moments, and the step count."""

    def __init__(
        self, model: PreTrainedModel, cfg: LearnerConfig, num_steps: int, temperature: float
    ) -> None:
        self.model = model.eval()  # no dropout: the policy that learns is the one that sampled
        self.cfg = cfg
        self.num_steps = num_steps
        self.temperature = temperature
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=cfg.lr,
            betas=(cfg.betas[0], cfg.betas[1]),
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
        )

    def update(self, rows: Sequence[TokenRow]) -> LearnStats:
        """One optimiser step on L = -sum_rows w sum_t log pi(y_t | x, y_<t).

        On-policy with one step per batch of rollouts, so the ratio to the sampling policy is 1
        and no old log-probabilities are needed. With no rows the gradient is zero, which is what
        the estimate says, and the optimiser still takes its step.
        """
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        loss, logprobs = self.accumulate_gradient(rows)
        limit = self.cfg.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), math.inf if limit is None else limit
        )
        if not math.isfinite(loss) or not torch.isfinite(norm):
            raise FloatingPointError(
                f"step {self.step}: loss {loss}, gradient norm {norm.item()}; the run has diverged"
            )
        learning_rate = self.cfg.lr * schedule(self.cfg, self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.step += 1
        return LearnStats(loss, norm.item(), learning_rate, logprobs)

    def accumulate_gradient(self, rows: Sequence[TokenRow]) -> tuple[float, tuple[float, ...]]:
        """Add the loss gradient of the rows to `.grad`; the loss, and log pi(y|x) per row."""
        loss_sum, logprobs = 0.0, [0.0] * len(rows)
        for batch in micro_batches(rows, self.cfg.max_tokens_per_batch, self.model.device):
            logp_BT = token_logprobs(
                self.model, batch.input_ids_BT, batch.mask_BT, self.temperature
            )
            logp_B = logp_BT.sum(dim=1)
            loss = -(batch.weights_BO[:, 0] * logp_B).sum()
            loss.backward()
            loss_sum += loss.item()
            for b, value in zip(batch.rows, logp_B.tolist(), strict=True):
                logprobs[b] = value
        return loss_sum, tuple(logprobs)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters by name, for `Sampler.load_weights`."""
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """Adam's moments and counts as `<parameter>/<moment>`, for a checkpoint."""
        return {
            f"{name}/{moment}": value
            for name, parameter in self.model.named_parameters()
            for moment, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `optimizer_tensors` gave; names are those of the model's parameters."""
        parameters = dict(self.model.named_parameters())
        for key, value in tensors.items():
            name, _, moment = key.rpartition("/")
            target = value if moment == "step" else value.to(parameters[name].device)
            self.optimizer.state[parameters[name]][moment] = target

    def gradient(self) -> Tensor:
        """The accumulated gradient as one vector."""
        return torch.cat([p.grad.flatten() for p in self.model.parameters() if p.grad is not None])


def schedule(cfg: LearnerConfig, step: int, num_steps: int) -> float:
    """The factor on the learning rate at `step` (from 0): linear warm-up, then the schedule."""
    warmup = min(1.0, (step + 1) / (cfg.warmup_steps + 1))
    progress = min(1.0, step / max(1, num_steps))
    if cfg.schedule == "linear":
        return warmup * (1.0 - progress)
    if cfg.schedule == "cosine":
        return warmup * 0.5 * (1.0 + math.cos(math.pi * progress))
    return warmup
