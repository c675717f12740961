"""Grouped heads on a CPU: the same numbers as transformers' own attention, without the copies."""

import copy

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from passk.rollout.row_cache import share_grouped_heads

SIZES = {
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attn_implementation": "sdpa",
}


def make(name):
    torch.manual_seed(0)
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=4)).eval()


def padded():
    """Token ids [3, 9] and a mask that hides the first tokens of two rows."""
    ids = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :2] = mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@torch.inference_mode()
def test_the_numbers_of_repeated_heads_with_and_without_a_cache(name):
    plain = make(name)
    grouped = copy.deepcopy(plain)
    share_grouped_heads(grouped)
    inputs, seen = padded(), padded()["attention_mask"].bool()
    torch.testing.assert_close(
        grouped(**inputs).logits[seen], plain(**inputs).logits[seen], atol=1e-6, rtol=0
    )
    after = []
    for model in (plain, grouped):
        cache = model(**inputs, use_cache=True).past_key_values
        mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)
        step = model(torch.tensor([[7], [8], [9]]), attention_mask=mask, past_key_values=cache)
        after.append(step.logits)
    torch.testing.assert_close(after[1], after[0], atol=1e-6, rtol=0)


@torch.inference_mode()
def test_keys_reach_the_kernel_with_their_own_heads():
    heads = {}
    for shares in (False, True):
        model = make("llama")
        if shares:
            share_grouped_heads(model)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
            model(**padded())
        shapes = [
            event.input_shapes
            for event in profiled.events()
            if event.name == "aten::scaled_dot_product_attention"
        ]
        heads[shares] = {(query[1], key[1]) for query, key, *_ in shapes}
    assert heads == {False: {(6, 6)}, True: {(6, 2)}}


def test_another_implementation_is_left_as_it_was_asked_for():
    model = LlamaForCausalLM(LlamaConfig(**SIZES | {"attn_implementation": "eager"}))
    share_grouped_heads(model)
    assert model.config._attn_implementation == "eager"
