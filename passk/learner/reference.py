"""Compare a policy with the one that its run started from: other weights in the same model.

No second model is built. The weights of the start wait in main memory, each rank's part of them,
and change places with the policy's own for a pass without gradients.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.tensor import DTensor, distribute_tensor

from passk.config.schema import ModelConfig
from passk.console import working
from passk.learner.batch import TokenRow
from passk.learner.fsdp import local_tensor, reshard
from passk.learner.learner import Learner
from passk.learner.lora import adapter_parameters, base_parameters, plain_tensors
from passk.learner.policy import load_policy, local_folder, model_name
from passk.learner.weight_files import fits_by_name
from passk.ranks import gather, num_ranks

Reference = Mapping[str, Tensor]  # this rank's part of each trained parameter at the start


@torch.no_grad()
@working("reading the weights of the start")
def read_reference(learner: Learner, cfg: ModelConfig, path: str) -> Reference:
    """Read the weights at `path`, from which the learner's run started, into main memory.

    The learner's own are back in place afterwards, bit for bit. With adapters nothing is read: they
    are zero at the start, and everything else is as it was.
    """
    parts = learner.trained_parts()
    if any(adapter_parameters(learner.model)):
        return {name: torch.zeros_like(part, device="cpu") for name, part in parts.items()}
    reference = _copies(parts)
    try:
        _fill(learner, cfg, path)
    finally:
        _exchange(parts, reference)
    return reference


def _fill(learner: Learner, cfg: ModelConfig, path: str) -> None:
    """Read a model's files into the learner's parameters, whole or in shards."""
    model, folder = learner.model, local_folder(path)
    if fits_by_name(model, folder, model_name(path)):
        load(
            dict(base_parameters(model)),
            storage_reader=HuggingFaceStorageReader(str(folder)),
            no_dist=num_ranks() == 1,
        )
        return
    loaded = dict(base_parameters(load_policy(cfg, path, torch.device("cpu"))))
    for name, parameter in base_parameters(model):
        whole = loaded[name].detach()
        if isinstance(parameter, DTensor):
            mesh, placements = parameter.device_mesh, parameter.placements
            whole = local_tensor(distribute_tensor(whole, mesh, placements, src_data_rank=None))
        local_tensor(parameter.detach()).copy_(whole)


@contextmanager
def at_start(learner: Learner, reference: Reference) -> Iterator[None]:
    """Give the learner the weights of its start for the block, and its own back afterwards."""
    parts = learner.trained_parts()
    _exchange(parts, reference)
    reshard(learner.model)
    try:
        yield
    finally:
        reshard(learner.model)
        _exchange(parts, reference)


def _copies(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: part.detach().to("cpu", copy=True) for name, part in parts.items()}


@torch.no_grad()
def _exchange(parts: Mapping[str, Tensor], others: Reference) -> None:
    """Exchange the values of two sets of tensors, one tensor at a time."""
    for name, part in parts.items():
        kept = part.clone()
        part.copy_(others[name])
        others[name].copy_(kept)


def with_start_logprobs(
    learner: Learner, reference: Reference | None, rows: Sequence[TokenRow]
) -> Sequence[TokenRow]:
    """Return the rows with log pi_start of their tokens, computed as the learner's gradient is.

    Without a reference they stay as they are.
    """
    if reference is None:
        return rows
    with at_start(learner, reference):
        logprobs = learner.token_logprobs(rows, compute_dtype=learner.compute_dtype)
    return [
        replace(row, start_logprobs=tuple(logp_T.tolist()))
        for row, logp_T in zip(rows, logprobs, strict=True)
    ]


class Distance(NamedTuple):
    """Euclidean distance of all weights from their start, and the length of the start's."""

    distance: float
    start_norm: float

    @property
    def relative(self) -> float:
        return self.distance / self.start_norm


@torch.no_grad()
def distance_from(learner: Learner, reference: Reference | None) -> Distance:
    """Compute |theta - theta_start| and |theta_start| over the parameters of the plain model.

    Adapters count as what they add to the weights that they adapt. Without a reference the learner
    is at its start. Sums are in float64, over all ranks, which must all call this.
    """
    model = learner.model
    base = ((name, parameter.detach()) for name, parameter in base_parameters(model))
    adapted = plain_tensors(model, model.named_parameters())
    moved = start = 0.0
    for (name, first), (_, now) in zip(base, adapted, strict=True):
        first, now = local_tensor(first), local_tensor(now)
        if reference is not None and name in reference:
            first = reference[name].to(now.device)
        start += first.double().square().sum().item()
        if reference is not None:
            moved += (now.double() - first.double()).square().sum().item()
    parts = gather((moved, start))
    replicas = learner.cfg.replicas
    return Distance(*(math.sqrt(sum(part) / replicas) for part in zip(*parts, strict=True)))
