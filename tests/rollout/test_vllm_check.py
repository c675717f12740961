"""Which part of a checkpoint's tensor a rank of a shared engine must hold, on hand-made parts.

As vLLM lays weights out on a GPU, where they are not packed; `tests/vllm` asks real engines.
"""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from passk.rollout.vllm_check import holds

RANKS, HEAD, WIDTH, VOCABULARY = 4, 8, 32, 100


class Layer(nn.Module):
    """A layer with the attributes that vLLM's have."""

    def __init__(self, weight, **attributes) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        for name, value in attributes.items():
            setattr(self, name, value)


def linear(weight, rank, sizes, input_size=WIDTH):
    return Layer(
        weight,
        tp_rank=rank,
        tp_size=RANKS,
        input_size=input_size,
        input_size_per_partition=weight.shape[1],
        output_partition_sizes=sizes,
    )


@pytest.fixture
def checkpoint():
    """Four query heads and two of keys and values, for four ranks; norms that all have, and not."""
    torch.manual_seed(0)
    shapes = {
        "embed": (VOCABULARY, WIDTH),
        "q_proj": (4 * HEAD, WIDTH),
        "k_proj": (2 * HEAD, WIDTH),
        "v_proj": (2 * HEAD, WIDTH),
        "o_proj": (WIDTH, 4 * HEAD),
        "gate_proj": (48, WIDTH),
        "up_proj": (48, WIDTH),
        "down_proj": (WIDTH, 48),
        "router": (6, WIDTH),
        "joined": (96, WIDTH),
        "norm": (WIDTH,),
        "cut_norm": (WIDTH,),
    }
    return {f"layer.{name}.weight": torch.randn(shape) for name, shape in shapes.items()}


def engine_on(rank, checkpoint):
    """The model of one rank, cut by the rules of vLLM's documentation and not by ours."""
    w = {name.split(".")[1]: tensor for name, tensor in checkpoint.items()}
    model, layer = nn.Module(), nn.Module()
    model.layer = layer
    model.packed_modules_mapping = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    padded = torch.zeros(128, WIDTH)  # to a multiple of 64
    padded[:VOCABULARY] = w["embed"]
    first, last = (min(32 * r, VOCABULARY) for r in (rank, rank + 1))
    indices = SimpleNamespace(org_vocab_start_index=first, org_vocab_end_index=last)
    layer.embed = Layer(padded.chunk(RANKS)[rank], tp_size=RANKS, shard_indices=indices)
    pair = rank // 2  # two ranks have the same key and value head
    qkv = [w["q_proj"].chunk(RANKS)[rank], w["k_proj"].chunk(2)[pair], w["v_proj"].chunk(2)[pair]]
    layer.qkv_proj = linear(torch.cat(qkv), rank, [HEAD, HEAD, HEAD])
    layer.o_proj = linear(w["o_proj"].chunk(RANKS, dim=1)[rank], rank, [WIDTH], 4 * HEAD)
    gate_up = [w[name].chunk(RANKS)[rank] for name in ("gate_proj", "up_proj")]
    layer.gate_up_proj = linear(torch.cat(gate_up), rank, [12, 12])
    layer.down_proj = linear(w["down_proj"].chunk(RANKS, dim=1)[rank], rank, [WIDTH], 48)
    layer.router = linear(w["router"], rank, [6])
    layer.joined = linear(w["joined"].chunk(RANKS)[rank], rank, [12, 12])
    layer.norm = Layer(w["norm"])
    layer.cut_norm = Layer(w["cut_norm"].chunk(RANKS)[rank])
    return model


UNTOLD = {"joined", "cut_norm"}  # cut in the model's own way, which nobody else knows


def answers(model, checkpoint) -> dict[bool | None, set[str]]:
    found: dict[bool | None, set[str]] = {True: set(), False: set(), None: set()}
    for name, tensor in checkpoint.items():
        found[holds(model, name, tensor)].add(name.split(".")[1])
    return found


@pytest.mark.parametrize("rank", range(RANKS))
def test_a_rank_holds_its_part_and_nothing_else(checkpoint, rank):
    model = engine_on(rank, checkpoint)
    found = answers(model, checkpoint)
    assert found[None] == UNTOLD and not found[False]
    other = engine_on((rank + 2) % RANKS, checkpoint)  # as if it had been given another's parts
    for name, module in other.layer.named_children():
        for attribute in ("tp_rank", "shard_indices"):
            if hasattr(module, attribute):
                setattr(module, attribute, getattr(getattr(model.layer, name), attribute))
    found = answers(other, checkpoint)
    assert found[None] == UNTOLD and found[True] == {"router", "norm"}


def test_a_value_that_changed_is_seen_by_the_ranks_that_hold_it(checkpoint):
    holders = {"k_proj": {2, 3}, "v_proj": {2, 3}, "router": {0, 1, 2, 3}, "norm": {0, 1, 2, 3}}
    for name, tensor in checkpoint.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1  # the last row, the last column
        models = [engine_on(rank, checkpoint) for rank in range(RANKS)]
        seen = {rank for rank in range(RANKS) if holds(models[rank], name, changed) is False}
        short = name.split(".")[1]
        assert seen == (set() if short in UNTOLD else holders.get(short, {3})), name


def test_rows_of_padding_alone_cannot_be_told(checkpoint):
    model = engine_on(3, checkpoint)
    rows = SimpleNamespace(org_vocab_start_index=100, org_vocab_end_index=100)
    model.layer.embed.shard_indices = rows
    assert holds(model, "layer.embed.weight", checkpoint["layer.embed.weight"]) is None
