"""Train a policy: own the model and its optimiser, and make one update per batch of rollouts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from passk.config.schema import LearnerConfig
from passk.console import working
from passk.errors import Diverged, PolicyMismatch
from passk.learner.batch import TokenRow
from passk.learner.fsdp import full_tensor, local_tensor, reduce_gradients, reshard
from passk.learner.layers import checkpoint_layers, compile_layers
from passk.learner.logprobs import activation_bytes, batch_logprobs, tree_limits
from passk.learner.lora import adapter_parameters, base_parameters, plain_tensors
from passk.learner.micro_batches import NO_TREES, TokenBatch, micro_batches
from passk.ranks import gather, num_ranks, rank

T = TypeVar("T")
_CPU_ACTIVATIONS = 512 * 2**20  # bytes; more makes a step on a CPU no faster (benchmarks.md)
_MOST_ON_CPU, _MOST_ON_GPU = 2048, 65536  # tokens; small batches suit a CPU's cache


@dataclass(frozen=True, slots=True)
class PolicyGap:
    """|log p_learner - log p_sampler| over the sampled tokens of a batch, in nats.

    `truncated_fraction` is the share of tokens whose importance weight was truncated to the cap.
    """

    mean: float
    max: float
    truncated_fraction: float


class PassStats(NamedTuple):
    """Statistics of a forward and backward pass over rows.

    The loss is -sum w log pi, whatever importance weights the gradient had, with the KL term if
    there is one. `logprobs` is the learner's log pi(y|x) of each row. `gap` is None if no row has
    the sampler's log-probabilities. `num_fed` tokens were computed by the model, over all ranks,
    padding included. `kl` is the mean of k3 per token, weighted as in the loss, if it has that.
    """

    loss: float
    logprobs: tuple[float, ...]
    gap: PolicyGap | None
    num_fed: int
    kl: float | None = None


@dataclass(frozen=True, slots=True)
class LearnStats:
    """Statistics of an update: `PassStats` of its pass, which came before it, and of its step.

    `grad_norm` is the norm of the gradient before clipping.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    logprobs: tuple[float, ...]
    gap: PolicyGap | None
    num_fed: int
    kl: float | None = None


class Learner:
    """A policy under optimisation. State: weights, optimiser moments, and the step count."""

    def __init__(
        self,
        model: PreTrainedModel,
        cfg: LearnerConfig,
        num_steps: int,
        temperature: float,
        *,
        importance_cap: float | None = None,
        max_logprob_gap: float = math.inf,
    ) -> None:
        self.model = model.eval()  # no dropout: the learning policy is the one that sampled
        self.compute_dtype: torch.dtype | None = (
            getattr(torch, cfg.compute_dtype) if cfg.compute_dtype else None
        )
        self.max_tokens_per_batch = cfg.max_tokens_per_batch or min(
            gather(fitting_tokens(model, self.compute_dtype))
        )
        if cfg.compile:
            compile_layers(model, model.device)
        if cfg.gradient_checkpointing:  # after compiling, so that the recomputation is compiled too
            checkpoint_layers(model)
        self.cfg = cfg
        self.num_steps = num_steps
        self.temperature = temperature
        self.importance_cap = importance_cap
        self.max_logprob_gap = max_logprob_gap
        self.tree_limits = tree_limits(model) if cfg.prefix_trees else NO_TREES
        reshard(model)
        self.step = 0
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self._trained.values(),
            lr=cfg.lr,
            betas=(cfg.betas[0], cfg.betas[1]),
            eps=cfg.eps,
            weight_decay=cfg.weight_decay,
        )

    def update(self, rows: Sequence[TokenRow]) -> LearnStats:
        """Make one optimiser step on L = -sum_rows w sum_t rho_t log pi(y_t | x, y_<t).

        On-policy with one step per batch of rollouts: rho_t = min(pi / pi_sampler, cap), taken as
        a constant, only corrects differences between the arithmetic of sampler and learner. It is
        1 without a cap, and for rows without the sampler's log-probabilities. Without rows the
        gradient is zero, as the estimate is, and the optimiser still takes its step.
        Raises PolicyMismatch, before the step, if the two differ by more than `max_logprob_gap`,
        and Diverged if the loss or its gradient is not finite.
        """
        for parameter in self._trained.values():
            parameter.grad = torch.zeros_like(parameter)
        loss, logprobs, gap, num_fed, kl = self.accumulate_gradient(rows)
        if math.isfinite(loss) and gap is not None and not gap.mean <= self.max_logprob_gap:
            raise PolicyMismatch(_mismatch(self.step, gap, self.max_logprob_gap))
        limit = self.cfg.max_grad_norm
        norm = full_tensor(
            torch.nn.utils.clip_grad_norm_(
                self._trained.values(), math.inf if limit is None else limit
            )
        )
        if not math.isfinite(loss) or not torch.isfinite(norm):
            raise Diverged(
                f"step {self.step}: the loss is {loss:g} and the norm of its gradient "
                f"{norm.item():g}, so the run has diverged; the steps before it are kept; start "
                "again with a lower learner.lr or with learner.max_grad_norm=1"
            )
        learning_rate = self.cfg.lr * schedule(self.cfg, self.step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # free memory for a sampler on the same GPU
        self.step += 1
        return LearnStats(loss, norm.item(), learning_rate, logprobs, gap, num_fed, kl)

    def accumulate_gradient(self, rows: Sequence[TokenRow]) -> PassStats:
        """Add the loss gradient of the rows to `.grad`.

        Rows with `start_logprobs` add v sum_t k3_t to the loss, with v the second of their weights
        and k3 = r - 1 - log r, r = pi_start / pi of the token (`passk.evaluation.distance.k3`).
        All ranks must be given the same rows; each computes its share of them.
        """
        loss_sum, num_fed, logprobs, log_ratios = 0.0, 0, dict[int, float](), []
        kl_sum = kl_tokens = 0.0
        batches = list(self._batches(rows))
        with working("gradient", len(batches), "micro-batches") as phase:
            for turn, batch in enumerate(batches, 1):
                is_last = turn == len(batches)
                reduce_gradients(self.model, is_last or not self.cfg.defer_reduction)
                logp_BT = batch_logprobs(self.model, batch, self.temperature, self.compute_dtype)
                log_ratio_BT = logp_BT.detach() - batch.sampler_logprobs_BT
                log_ratios.append(log_ratio_BT[batch.sampled_BT])
                weights_B = batch.weights_BO[:, 0]
                objective_BT = self._importance(log_ratio_BT, batch) * logp_BT
                loss = -(weights_B * objective_BT.sum(dim=1)).sum()
                if batch.start_logprobs_BT is not None:
                    kl = _kl_term(logp_BT, batch.start_logprobs_BT, batch.weights_BO[:, 1])
                    loss = loss + kl
                    kl_sum += kl.item()
                    kl_tokens += (batch.weights_BO[:, 1:] * batch.mask_BT).sum().item()
                # FSDP takes the mean over ranks, but the sum is needed.
                (num_ranks() * loss).backward()
                logp_B = logp_BT.detach().sum(dim=1)
                loss_sum -= (weights_B * logp_B).sum().item()
                num_fed += batch.num_fed
                logprobs |= zip(batch.rows, logp_B.tolist(), strict=bool(batch.rows))
                phase.advance()
        gap_sums = _gap_sums(log_ratios, self.importance_cap)
        parts = gather((loss_sum, logprobs, gap_sums, num_fed, kl_sum, kl_tokens))
        losses, found, gaps, fed, kls, tokens = zip(*parts, strict=True)
        mean_kl = sum(kls) / sum(tokens) if any(tokens) else None
        loss_sum = sum(losses) + sum(kls)
        return PassStats(loss_sum, tuple(_in_order(found)), _policy_gap(gaps), sum(fed), mean_kl)

    def gradient(self, rows: Sequence[TokenRow]) -> Tensor:
        """Return the rows' loss gradient as a float32 vector on the CPU; `.grad` stays empty.

        Each of several ranks gets its part: sums over ranks of products of parts are products of
        gradients, also if replicas hold shards more than once.
        """
        whole_parts = torch.cat([part.cpu() for part in self.gradient_parts(rows)])
        return whole_parts / math.sqrt(self.cfg.replicas)

    def gradient_parts(self, rows: Sequence[TokenRow]) -> list[Tensor]:
        """Return the parts of `gradient`, one per parameter, on the parameter's own device.

        They are not yet divided by the square root of the number of replicas.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.accumulate_gradient(rows)
        parts = [
            local_tensor(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float()
            for p in self._trained.values()
        ]
        self.optimizer.zero_grad(set_to_none=True)
        return parts

    def num_local_parameters(self) -> int:
        """Return how many trained numbers this rank holds."""
        return sum(part.numel() for part in self.trained_parts().values())

    def trained_parts(self) -> dict[str, Tensor]:
        """Return this rank's part of each trained parameter, not copied, in `gradient`'s order."""
        return {name: local_tensor(p.detach()) for name, p in self._trained.items()}

    def moments(self) -> list[dict[str, Tensor]]:
        """Return this rank's part of Adam's state of each parameter, in the order of `gradient`."""
        states = (self.optimizer.state[parameter] for parameter in self._trained.values())
        return [{name: local_tensor(value) for name, value in state.items()} for state in states]

    def logprobs(self, rows: Sequence[TokenRow]) -> list[float]:
        """Compute log pi(y|x) of each row, in the dtype of the weights."""
        return [float(logp_T.sum()) for logp_T in self.token_logprobs(rows)]

    @torch.no_grad()
    def token_logprobs(
        self,
        rows: Sequence[TokenRow],
        temperature: float | None = None,
        compute_dtype: torch.dtype | None = None,
    ) -> list[np.ndarray]:
        """Compute log pi(y_t | x, y_<t) of each row's completion, [T] each, in float64.

        At the learner's own temperature, and with activations in the dtype of the weights, unless
        others are given.
        """
        logprobs = dict[int, np.ndarray]()
        batches = list(self._batches(rows))
        with working("log-probabilities", len(batches), "micro-batches") as phase:
            for batch in batches:
                logp_BT = batch_logprobs(
                    self.model, batch, temperature or self.temperature, compute_dtype
                )
                logp_N = logp_BT[batch.mask_BT].double().cpu().numpy()
                ends_B = batch.mask_BT.sum(dim=1).cumsum(dim=0).cpu().numpy()
                parts = np.split(logp_N, ends_B[:-1])
                logprobs |= zip(batch.rows, parts, strict=bool(batch.rows))
                phase.advance()
        reshard(self.model)
        return _in_order(gather(logprobs))

    def _batches(self, rows: Sequence[TokenRow]) -> Iterator[TokenBatch]:
        """Yield this rank's micro-batches, of trees where the model takes them."""
        return micro_batches(
            rows,
            self.max_tokens_per_batch,
            self.model.device,
            (rank(), num_ranks()),
            self.tree_limits,
        )

    def _importance(self, log_ratio_BT: Tensor, batch: TokenBatch) -> Tensor | float:
        """Compute truncated importance weights [B, T], 1 without a sampler's log-probability."""
        if self.importance_cap is None:
            return 1.0
        return log_ratio_BT.exp().clamp(max=self.importance_cap).where(batch.sampled_BT, 1.0)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the plain model's parameters by name, each once, for `Sampler.load_weights`."""
        return (
            (name, full_tensor(tensor))
            for name, tensor in plain_tensors(self.model, self.model.named_parameters())
        )

    def weight_names(self) -> list[str]:
        """Return the names that `weights` yields, without the tensors."""
        return [name for name, _ in base_parameters(self.model)]

    def plain_state(self) -> Iterator[tuple[str, Tensor]]:
        """Yield parameters and saved buffers of the plain model by name, each once.

        For a checkpoint. They are sharded as the model is; adapters are merged, one tensor at a
        time.
        """
        names = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
        buffers = [item for item in self.model.state_dict().items() if item[0] not in names]
        tensors = [*self.model.named_parameters(), *buffers]
        return plain_tensors(self.model, tensors)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that resuming needs beside the plain model, not copied.

        They can be saved, or filled from a checkpoint. Adam's moments and counts are
        `optimizer/<parameter>/<moment>`; adapters, which the plain model does not hold, are
        `adapter/<parameter>`.
        """
        tensors = {
            f"optimizer/{name}/{moment}": value
            for name, parameter in self._trained.items()
            for moment, value in self.optimizer.state.get(parameter, {}).items()
        }
        adapters = adapter_parameters(self.model)
        return tensors | {f"adapter/{name}": parameter.detach() for name, parameter in adapters}

    def init_moments(self) -> None:
        """Create the optimiser's initial state, which it would create only at its first step."""
        for parameter in self._trained.values():
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}


def _kl_term(logp_BT: Tensor, start_logp_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Compute the weighted sum of k3 over rows; places that are no tokens hold 0 in both."""
    log_ratio_BT = start_logp_BT - logp_BT
    return (weights_B * (log_ratio_BT.expm1() - log_ratio_BT).sum(dim=1)).sum()


def _in_order(parts: Sequence[Mapping[int, T]]) -> list[T]:
    """Return the rows' values, of which each rank has some, in the order of the rows."""
    found = {b: value for part in parts for b, value in part.items()}
    return [found[b] for b in sorted(found)]


GapSums = tuple[int, float, float, int]  # tokens, sum and maximum of gaps, truncated tokens


def _gap_sums(log_ratios: Sequence[Tensor], cap: float | None) -> GapSums:
    """Sum up the gap over this rank's tokens, from parts of log p_learner - log p_sampler."""
    log_ratio_N = torch.cat([torch.empty(0), *(part.double().cpu() for part in log_ratios)])
    if not len(log_ratio_N):
        return 0, 0.0, 0.0, 0
    gap_N = log_ratio_N.abs()
    num_cut = int((log_ratio_N > math.log(cap or math.inf)).sum())
    return len(gap_N), gap_N.sum().item(), gap_N.max().item(), num_cut


def _policy_gap(parts: Sequence[GapSums]) -> PolicyGap | None:
    """Compute the gap over the tokens of all ranks; None without sampler log-probabilities."""
    counts, sums, largest, cut = zip(*parts, strict=True)
    total = sum(counts)
    return PolicyGap(sum(sums) / total, max(largest), sum(cut) / total) if total else None


def fitting_tokens(model: PreTrainedModel, compute_dtype: torch.dtype | None) -> int:
    """Return the tokens of a micro-batch whose activations fit a budget.

    The budget is a constant on a CPU and a share of the whole GPU, never of what is free, so that a
    run cuts its batches alike whenever it is resumed.
    """
    budget, most = _CPU_ACTIVATIONS, _MOST_ON_CPU
    if model.device.type == "cuda":
        budget = torch.cuda.get_device_properties(model.device).total_memory // 8
        most = _MOST_ON_GPU
    return int(min(most, max(1.0, budget // activation_bytes(model, compute_dtype))))


def _mismatch(step: int, gap: PolicyGap, limit: float) -> str:
    return (
        f"step {step}: sampler and learner differ by {gap.mean:.3g} nats a token on average "
        f"(at most {gap.max:.3g}), more than rollout.max_logprob_gap={limit:g}; the sampler may "
        "hold old weights, or compute in another dtype, with another attention or at another "
        "temperature than the learner; if the difference is meant, raise rollout.max_logprob_gap"
    )


def schedule(cfg: LearnerConfig, step: int, num_steps: int) -> float:
    """Return the factor of the learning rate at `step` (from 0): linear warm-up times schedule."""
    warmup = min(1.0, (step + 1) / (cfg.warmup_steps + 1))
    progress = min(1.0, step / max(1, num_steps))
    if cfg.schedule == "linear":
        return warmup * (1.0 - progress)
    if cfg.schedule == "cosine":
        return warmup * 0.5 * (1.0 + math.cos(math.pi * progress))
    return warmup
