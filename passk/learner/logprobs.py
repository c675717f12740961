"""Compute log-probabilities of given tokens without ever holding the logits of a batch.

The logits of a batch are its largest tensor by far: 16 rows of 512 tokens over a vocabulary of 49k
take 1.6 GB in float32, and a plain backward pass holds them several times. Here they exist for one
chunk of tokens at a time, and the backward pass computes them again.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import PreTrainedModel

from passk.errors import UserError
from passk.learner.batch import TokenRow
from passk.learner.micro_batches import NO_TREES, TokenBatch, TreeTokens, micro_batches
from passk.learner.trees import TreeLimits

LOGITS_PER_CHUNK = 2**24  # 64 MiB in float32
FLEX = "flex_attention"  # compares a node with its ancestors' blocks alone, without a dense mask
_MOST_NODES = 4096  # of a tree with a dense mask, which has the square of that many entries


@dataclass(frozen=True, slots=True)
class LogitMap:
    """Map from the product z of hidden state and embedding (with its bias) to logits.

    It is cap * tanh(scale * z / cap) / temperature, or scale * z / temperature without a `cap`.
    """

    scale: float = 1.0
    cap: float | None = None
    temperature: float = 1.0

    def apply_(self, z: Tensor) -> Tensor:
        """Map z to logits, in place."""
        if self.cap is None:
            return z.mul_(self.scale / self.temperature)
        return z.mul_(self.scale / self.cap).tanh_().mul_(self.cap / self.temperature)

    def slope(self, logits: Tensor) -> Tensor | float:
        """Compute the derivative of the logits by z, at these logits."""
        if self.cap is None:
            return self.scale / self.temperature
        tanh = logits * (self.temperature / self.cap)
        return tanh.square_().neg_().add_(1.0).mul_(self.scale / self.temperature)


def token_logprobs(
    model: PreTrainedModel,
    input_ids_BT: Tensor,
    mask_BT: Tensor,
    temperature: float,
    compute_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute log pi(y_t | x, y_<t) under the temperature, [B, T], 0 where the mask is False.

    Position t of `mask_BT` and of the result refers to token t of `input_ids_BT` (so column 0,
    which nothing predicts, must be False). Rows are padded on the right: with causal attention no
    real token sees padding, so no attention mask is needed. `compute_dtype` is that of activations
    (autocast), by default the model's. Logits exist for one chunk of tokens at a time.
    """
    hidden_BTD = _hidden_states(model, input_ids_BT, compute_dtype)
    positions_N = mask_BT[:, 1:].flatten().nonzero().squeeze(1)  # each of the token before
    hidden_ND = hidden_BTD[:, :-1].flatten(0, 1).index_select(0, positions_N)
    targets_N = input_ids_BT[:, 1:].flatten().index_select(0, positions_N)
    head = model.get_output_embeddings()
    logp_N = selected_logprobs(
        hidden_ND, head.weight, head.bias, targets_N, _logit_map(model, temperature)
    )
    logp_BT = torch.zeros(mask_BT.shape, dtype=logp_N.dtype, device=mask_BT.device)
    return logp_BT.masked_scatter(mask_BT, logp_N)


def batch_logprobs(
    model: PreTrainedModel,
    batch: TokenBatch,
    temperature: float,
    compute_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute `token_logprobs` of a batch, [B, T], from its rows or from its trees."""
    if (tree := batch.tree) is None:
        return token_logprobs(model, batch.input_ids_BT, batch.mask_BT, temperature, compute_dtype)
    hidden_FND = _hidden_states(model, tree.input_ids_FN, compute_dtype, tree)
    hidden_MD = hidden_FND.flatten(0, 1).index_select(0, tree.parents_M)
    targets_M = tree.input_ids_FN.flatten().index_select(0, tree.nodes_M)
    head = model.get_output_embeddings()
    logp_M = selected_logprobs(
        hidden_MD, head.weight, head.bias, targets_M, _logit_map(model, temperature)
    )
    logp_BT = torch.zeros(batch.mask_BT.shape, dtype=logp_M.dtype, device=logp_M.device)
    return logp_BT.masked_scatter(batch.mask_BT, logp_M.index_select(0, tree.slots_K))


def _hidden_states(
    model: PreTrainedModel,
    input_ids_BT: Tensor,
    compute_dtype: torch.dtype | None,
    tree: TreeTokens | None = None,
) -> Tensor:
    """Compute the input of the model's head, [B, T, D], in the dtype that the head computes in.

    The model runs as it is, whatever its parts are called; its own head gets one token only.
    """
    entered: list[Tensor] = []
    layout = {}
    if tree is not None:
        layout = {"attention_mask": _mask(model, tree), "position_ids": tree.positions_FN}

    def catch(_head: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        entered.append(arguments[0])
        return (arguments[0][:1, :1],)

    handle = model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        with torch.autocast(
            input_ids_BT.device.type, compute_dtype, enabled=compute_dtype is not None
        ):
            model(input_ids=input_ids_BT, use_cache=False, **layout)
    finally:
        handle.remove()
    (hidden_BTD,) = entered
    return hidden_BTD if compute_dtype is None else hidden_BTD.to(compute_dtype)


def _mask(model: PreTrainedModel, tree: TreeTokens) -> Tensor | BlockMask:
    """Return the mask of a batch of trees in the form that the model's attention reads."""
    ends_FN = tree.ends_FN
    num_trees, num_nodes = ends_FN.shape
    implementation = model.config._attn_implementation
    if implementation == FLEX:

        def attends(f: Tensor, _head: Tensor, node: Tensor, other: Tensor) -> Tensor:
            return (other <= node) & (node < ends_FN[f, other])

        return create_block_mask(
            attends, num_trees, None, num_nodes, num_nodes, device=ends_FN.device
        )
    nodes_N = torch.arange(num_nodes, device=ends_FN.device)
    nodes_N1 = nodes_N[:, None]
    attends_F1NN = (nodes_N <= nodes_N1) & (nodes_N1 < ends_FN[:, None, None])
    if implementation != "eager":
        return attends_F1NN
    least = torch.finfo(model.dtype).min
    return torch.zeros_like(attends_F1NN, dtype=model.dtype).masked_fill(~attends_F1NN, least)


def _logit_map(model: PreTrainedModel, temperature: float) -> LogitMap:
    """Return the map that the model's architecture applies to its logits, by its configuration."""
    text = model.config.get_text_config()
    scale = 1.0
    for key in ("logit_scale", "lm_head_multiplier", "output_multiplier"):
        scale *= getattr(text, key, None) or 1.0  # Cohere, Falcon-H1, Muse
    scaling = getattr(text, "logits_scaling", None) or 1.0  # Granite divides by it
    scale = scale * scaling if text.model_type.startswith("hyperclovax") else scale / scaling
    cap = getattr(text, "final_logit_softcapping", None)  # Gemma
    return LogitMap(scale, cap or getattr(text, "logits_soft_cap", None), temperature)


def activation_bytes(model: PreTrainedModel, compute_dtype: torch.dtype | None) -> float:
    """Measure what a token's forward pass keeps for the backward pass, without the head, in bytes.

    It is the difference of two lengths, so that weights, which are kept too, cancel out.
    """
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    long = min(96, context or 96)
    short = long // 3
    difference = _kept_bytes(model, long, compute_dtype) - _kept_bytes(model, short, compute_dtype)
    return max(1.0, difference / (long - short))


@torch.enable_grad()
def _kept_bytes(model: PreTrainedModel, length: int, compute_dtype: torch.dtype | None) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids_BT = torch.zeros(1, length, dtype=torch.long, device=model.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # The result must live on while storages are counted, or their places are taken again.
        hidden_BTD = _hidden_states(model, ids_BT, compute_dtype)
    del hidden_BTD
    return sum(kept.values())


@torch.no_grad()
def check_head(model: PreTrainedModel, name: str) -> None:
    """Raise UserError if a model's own log-probabilities differ from those of `token_logprobs`.

    Compute both for a few random tokens. Without this check, an architecture with an unknown step
    after the head would be trained on another distribution than it is sampled from. `name` is the
    model's in messages.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"{name}: {type(model).__name__} has no linear map from hidden states to "
            "the vocabulary as its head; such a model cannot be trained here"
        )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(head.out_features, (2, 16), generator=generator)
    ids = ids.to(model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    ours = token_logprobs(model, ids, mask, 1.0)[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].to(ours.dtype)
    theirs = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    spread = (logits.amax() - logits.amin()).item()
    difference = (ours - theirs).abs().max().item()
    if not math.isfinite(difference):
        raise UserError(
            f"{name}: log-probabilities of a few tokens are not numbers: its weights "
            "hold NaN or infinity, or are too large for model.dtype"
        )
    # The two round differently; the effect of a missing step is larger, or does not matter.
    if not difference <= max(4 * torch.finfo(model.dtype).eps, 1e-3) * spread + 1e-6:
        raise UserError(
            f"{name}: log-probabilities of {type(model).__name__} differ by "
            f"{difference:.2g} from those of its own forward pass; it does something to its logits "
            "that passk does not know, and cannot be trained here"
        )


@torch.no_grad()
def tree_limits(model: PreTrainedModel) -> TreeLimits:
    """Return what bounds the prefix trees that the model takes; `NO_TREES` if it takes none.

    Compare log-probabilities of a few random rows and of their tree. They differ if a token depends
    on the order in which tokens are fed, as in recurrent layers, or on positions that the model
    counts itself. Layers that attend to a window need paths within it.
    """
    text = model.config.get_text_config()
    names = ("sliding_window", "attention_chunk_size")
    windows = (getattr(text, name, None) for name in names)
    longest = min(int(size or sys.maxsize) for size in windows)
    limits = TreeLimits(longest)
    if model.config._attn_implementation != FLEX:
        # A layer of width D has about 12 D^2 weights, so 24 D^2 operations a token, and its
        # attention takes 4 D for each node that the token is compared with.
        width = model.get_output_embeddings().weight.shape[1]
        limits = TreeLimits(longest, _MOST_NODES, token_cost=6 * width)
    vocabulary = model.get_output_embeddings().out_features
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (5, 12), generator=generator).tolist()
    completions = (ids[1][:6] + ids[2][:5], ids[1][:6] + ids[3][:7], ids[1][:2] + ids[4][:9])
    rows = [TokenRow(tuple(ids[0]), tuple(row), (1.0,)) for row in completions]
    try:
        by_tree, by_row = (_summed(model, rows, of) for of in (TreeLimits(100), NO_TREES))
    except (RuntimeError, TypeError, ValueError, IndexError):  # it reads no mask of this form
        return NO_TREES
    scale = max(abs(value) for value in by_row)
    allowed = max(8 * torch.finfo(model.dtype).eps, 1e-5) * scale
    are_same = all(abs(a - b) <= allowed for a, b in zip(by_tree, by_row, strict=True))
    return limits if are_same else NO_TREES


def _summed(model: PreTrainedModel, rows: list[TokenRow], limits: TreeLimits) -> list[float]:
    """Compute log pi(y|x) of each row."""
    sums = dict[int, float]()
    for batch in micro_batches(rows, 1000, model.device, limits=limits):
        logp_B = batch_logprobs(model, batch, 1.0).double().sum(dim=1)
        sums |= zip(batch.rows, logp_B.tolist(), strict=True)
    return [sums[b] for b in range(len(rows))]


def selected_logprobs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    logit_map: LogitMap,
) -> Tensor:
    """Compute log softmax(logit_map(hidden @ weight.T + bias)) at the targets, [N].

    Products are taken in the dtype of `hidden_ND`. All else, including the sum over tokens for the
    gradient of the weight, is in float32, or in float64 if the product or the weight is. Beyond
    its inputs and their gradients this needs the memory of one chunk of logits (two with a cap).
    """
    logp_N: Tensor = _SelectedLogprobs.apply(hidden_ND, weight_VD, bias_V, targets_N, logit_map)
    return logp_N


class _SelectedLogprobs(torch.autograd.Function):
    """Autograd function that keeps one number per token: the log of the softmax's denominator."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        logit_map: LogitMap,
    ) -> Tensor:
        weight = weight_VD.to(hidden_ND.dtype)
        targets_N1 = targets_N[:, None]
        logp_N1 = hidden_ND.new_empty(targets_N1.shape, dtype=_wide(hidden_ND))
        denominator_N1 = torch.empty_like(logp_N1)
        for chunk in _chunks(len(targets_N), len(weight_VD)):
            logits = logit_map.apply_(_products(hidden_ND[chunk], weight, bias_V))
            largest = logits.amax(dim=1, keepdim=True)
            logits.sub_(largest)
            chosen = logits.gather(1, targets_N1[chunk])
            log_total = logits.exp_().sum(dim=1, keepdim=True).log_()
            logp_N1[chunk] = chosen - log_total
            denominator_N1[chunk] = log_total + largest
            del logits  # before the next chunk is made
        ctx.save_for_backward(hidden_ND, weight_VD, bias_V, targets_N1, denominator_N1)
        ctx.logit_map = logit_map
        return logp_N1[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, targets_N1, denominator_N1 = ctx.saved_tensors
        wants_hidden, wants_weight, wants_bias, *_ = ctx.needs_input_grad
        weight = weight_VD.to(hidden_ND.dtype)
        d_hidden = torch.empty_like(hidden_ND) if wants_hidden else None
        d_weight = _wide_zeros(weight_VD) if wants_weight else None
        d_bias = _wide_zeros(bias_V) if wants_bias else None
        for chunk in _chunks(len(grad_N), len(weight_VD)):
            logits = ctx.logit_map.apply_(_products(hidden_ND[chunk], weight, bias_V))
            d_products = _gradient(logits, targets_N1[chunk], denominator_N1[chunk], ctx.logit_map)
            d_products.mul_(grad_N[chunk, None])
            if d_bias is not None:
                d_bias += d_products.sum(dim=0)
            d_products = d_products.to(hidden_ND.dtype)
            if d_hidden is not None:
                torch.mm(d_products, weight, out=d_hidden[chunk])
            if d_weight is not None and d_weight.dtype == hidden_ND.dtype:
                d_weight.addmm_(d_products.T, hidden_ND[chunk])
            elif d_weight is not None:
                d_weight += d_products.T @ hidden_ND[chunk]
            del logits, d_products  # before the next chunk is made
        return (
            d_hidden,
            None if d_weight is None else d_weight.to(weight_VD.dtype),
            None if d_bias is None else d_bias.to(bias_V.dtype),
            None,
            None,
        )


def _gradient(
    logits_NV: Tensor, targets_N1: Tensor, denominator_N1: Tensor, logit_map: LogitMap
) -> Tensor:
    """Compute the derivative of each log p(target) by the products, written over the logits."""
    slope = logit_map.slope(logits_NV)
    minus_p_NV = logits_NV.sub_(denominator_N1).exp_().neg_()
    return minus_p_NV.scatter_add_(1, targets_N1, torch.ones_like(denominator_N1)).mul_(slope)


def _products(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    products_NV = hidden_ND @ weight_VD.T
    products_NV = products_NV.to(_wide(products_NV))
    return products_NV if bias_V is None else products_NV.add_(bias_V)


def _chunks(num_tokens: int, vocabulary: int) -> Iterator[slice]:
    size = max(1, LOGITS_PER_CHUNK // vocabulary)
    for start in range(0, num_tokens, size):
        yield slice(start, start + size)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _wide_zeros(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor, dtype=_wide(tensor))
