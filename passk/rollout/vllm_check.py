"""Compare the weights that vLLM's model multiplies with to those of a checkpoint.

vLLM joins some of a checkpoint's layers into one, pads vocabularies and packs weights on CPUs.
Under tensor parallelism each rank holds a part: some output rows of most layers, some input columns
of the layers that follow them, some rows of the vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_SLICE = 2**22  # values summed at once: a large embedding in float64 would fill a GPU


def refresh_packed_heads(worker: Any) -> None:
    """Pack tied output heads again, which vLLM does not do when it reloads on a CPU.

    On CPUs vLLM multiplies with a packed copy of each weight. A head that is tied to the embedding
    has no weight of its own, so reloading skips it and it would keep the old values (seen with
    0.32: log-probabilities off by 0.2 to 0.8 after one reload).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in worker.model_runner.model.modules():
        if isinstance(module, ParallelLMHead) and hasattr(module, "cpu_linear"):
            module.quant_method.process_weights_after_loading(module)


@torch.no_grad()
def holds(model: nn.Module, name: str, tensor: Tensor) -> bool | None:
    """Return True if this rank's model multiplies with its part of `tensor`, called `name`.

    `name` is the checkpoint's. Return None if that cannot be known.
    """
    found = _find(model, name)
    if found is None:
        return None
    module, place = found
    first_row = sum(module.output_partition_sizes[:place]) if place else 0
    weight = getattr(module, name.rpartition(".")[2])
    parts = [_part(module, place, way) for way in _ways(module, tensor)]
    answers = [
        None if part is None else _holds_part(model, module, weight, part, first_row)
        for part in parts
    ]
    return True if True in answers else False if False in answers else None


def _find(model: nn.Module, name: str) -> tuple[Any, int | None] | None:
    """Return the module that holds a checkpoint's parameter, and its place among joined layers.

    The place is None if the layer is the same in checkpoint and engine. Return None if not found.
    """
    path, _, kind = name.rpartition(".")
    parent, _, leaf = path.rpartition(".")
    modules = dict(model.named_modules())
    if path in modules and getattr(modules[path], kind, None) is not None:
        return modules[path], None
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    for fused, parts in packed.items():
        module = modules.get(f"{parent}.{fused}")
        if leaf in parts and module is not None and hasattr(module, "output_partition_sizes"):
            return module, parts.index(leaf)
    return None


def _ways(module: Any, tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensor as [out, in]; GPT-2's are transposed, so a square one may be either."""
    if tensor.dim() != 2 or not hasattr(module, "input_size"):
        yield tensor
        return
    for way in (tensor, tensor.t()):
        if way.shape[1] == module.input_size:
            yield way


def _part(module: Any, place: int | None, tensor: Tensor) -> Tensor | None:
    """Return this rank's part of a tensor [out, in] or [out]; None if it is not known."""
    if getattr(module, "tp_size", 1) == 1:
        return tensor
    if hasattr(module, "shard_indices"):  # a vocabulary: checkpoints do not hold its padding
        rows = module.shard_indices
        return tensor[rows.org_vocab_start_index : rows.org_vocab_end_index]
    width = getattr(module, "input_size_per_partition", module.input_size)
    if width != module.input_size:
        return tensor[:, width * module.tp_rank :][:, :width] if tensor.dim() == 2 else tensor
    sizes = module.output_partition_sizes
    if place is None and len(sizes) > 1:  # already joined in the checkpoint, in the model's own way
        return None
    size = sizes[place or 0]
    # With fewer parts than ranks, several ranks hold the same key and value heads, or all of them.
    num_parts = len(tensor) // size
    first = size * (module.tp_rank * num_parts // module.tp_size)
    return tensor[first : first + size]


def _holds_part(
    model: nn.Module, module: Any, weight: Tensor, part: Tensor, first_row: int
) -> bool | None:
    """Return True if a weight's rows from `first_row` on, and its packed copies, are `part`."""
    if not part.numel():  # a rank whose rows of the vocabulary are all padding
        return None
    if weight.numel():
        if len(weight) < first_row + len(part):  # split in an unknown way
            return None
        rows = weight[first_row : first_row + len(part)]
        if not same_checksum(rows, part.to(weight.dtype)):
            return False
    # For packed weights, test the product of the packed copies with a vector. A tied head shares
    # the embedding's weight and has its own copy.
    copies = [m for m in model.modules() if getattr(m, "weight", None) is weight]
    packed = [copy for copy in copies if hasattr(copy, "cpu_linear")]
    if packed and weight.dtype != torch.float32:  # rounding hides the change of one step
        return True if weight.numel() else None
    return all(_multiplies_with(copy, part, first_row) for copy in packed)


def _multiplies_with(module: Any, part: Tensor, first_row: int) -> bool:
    """Return True if a linear layer's outputs from `first_row` on are those of `part` [N, D]."""
    dtype = module.weight.dtype
    random = torch.Generator().manual_seed(0)
    probe_1D = torch.randn(1, part.shape[1], generator=random).to(module.weight)
    made_N = module.quant_method.apply(module, probe_1D, None)[0, first_row:][: len(part)]
    expected_N = part.to(made_N) @ probe_1D[0]
    error = (made_N - expected_N).norm() / expected_N.norm()
    return bool(error < 20 * torch.finfo(dtype).eps)  # another order of summation


def same_checksum(one: Tensor, other: Tensor) -> bool:
    """Return True if two tensors of one dtype hold the same values, in any order.

    Compare sum and sum of squares in float64. An engine may lay a weight out in another order. A
    single value that differs by one unit in the last place shows, except for rare cancellations.
    """
    sums, others = _sums(one), _sums(other)
    return one.numel() == other.numel() and torch.allclose(sums, others, rtol=1e-12, atol=1e-12)


def _sums(tensor: Tensor) -> Tensor:
    sums = torch.zeros(2, dtype=torch.float64)
    for part in tensor.detach().flatten().split(_SLICE):
        values = part.double()
        sums += torch.stack([values.sum(), values.square().sum()]).cpu()
    return sums
