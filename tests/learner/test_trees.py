"""Rows fed as prefix trees have the log-probabilities and gradients of rows fed one by one."""

import copy
import random
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_models import ARCHITECTURES, VOCABULARY, random_model
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from passk.config.schema import LearnerConfig, ModelConfig
from passk.learner.batch import TokenRow
from passk.learner.learner import Learner
from passk.learner.logprobs import FLEX, batch_logprobs, tree_limits
from passk.learner.lora import add_adapters
from passk.learner.micro_batches import NO_TREES, micro_batches
from passk.learner.trees import TreeLimits, prefix_trees

CPU = torch.device("cpu")
EVERYWHERE = 10**9
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(tuple)


def row(prompt: tuple[int, ...], completion: tuple[int, ...], weight: float = 1.0) -> TokenRow:
    return TokenRow(prompt, completion, (weight,))


def sampled_rows(seed: int = 0, prompts: int = 5, samples: int = 6) -> list[TokenRow]:
    """Rows of a few prompts, whose completions share starts of all lengths; one prompt has one."""
    rng = random.Random(seed)
    rows = [row((3, 4, 5), (6, 1), 0.3)]
    for _ in range(prompts):
        prompt = tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(2, 9)))
        stem = [rng.randrange(VOCABULARY) for _ in range(9)]
        for _ in range(samples):
            end = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 6))]
            completion = tuple(stem[: rng.randint(0, 9)] + end)
            sampler = tuple(rng.gauss(-2, 0.5) for _ in completion)
            weights = (rng.uniform(-1, 1),)
            rows.append(TokenRow(prompt, completion, weights, sampler_logprobs=sampler))
    rng.shuffle(rows)
    return rows


@settings(deadline=None)
@given(
    st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12),
    st.sampled_from([3, 7, 12, EVERYWHERE]),
)
def test_a_tree_holds_each_prefix_once(pairs, max_nodes):
    rows = [row(*pair) for pair in pairs]
    trees, left = prefix_trees(rows, TreeLimits(EVERYWHERE, max_nodes))
    assert sorted([b for tree in trees for b in tree.rows] + left) == list(range(len(rows)))
    for tree in trees:
        assert len(tree.rows) > 1 and len(tree) <= max_nodes
        prefixes = [[token] for token in tree.tokens_N.tolist()]
        for node, parent in enumerate(tree.parents_N):
            assert parent < node
            if node:
                prefixes[node] = prefixes[parent] + prefixes[node]
            assert tree.depths_N[node] == len(prefixes[node]) - 1
        found = {tuple(prefix) for prefix in prefixes}
        assert len(found) == len(tree)
        texts = [rows[b].prompt_ids + rows[b].completion_ids for b in tree.rows]
        assert found == {text[:end] for text in texts for end in range(1, len(text) + 1)}
        for text, path in zip(texts, tree.paths, strict=True):
            assert [tuple(prefixes[node]) for node in path] == [
                text[:end] for end in range(tree.prompt_length + 1, len(text) + 1)
            ]
        nodes_N = np.arange(len(tree))
        for node, prefix in enumerate(prefixes):
            on_path = {tuple(prefix[:end]) for end in range(1, len(prefix) + 1)}
            attends_N = (nodes_N <= node) & (node < tree.ends_N)
            seen = {tuple(prefixes[m]) for m in attends_N.nonzero()[0]}
            assert seen == on_path


@settings(deadline=None)
@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=12), st.integers(1, 40))
def test_where_attention_is_dear_trees_cost_no_more_than_rows(pairs, token_cost):
    rows = [row(*pair) for pair in pairs]
    trees, left = prefix_trees(rows, TreeLimits(EVERYWHERE, token_cost=token_cost))
    for tree in trees:
        alone = sum(len(rows[b]) * (token_cost + len(rows[b])) for b in tree.rows)
        assert len(tree) * (token_cost + len(tree)) <= alone
    assert sorted([b for tree in trees for b in tree.rows] + left) == list(range(len(rows)))


def test_long_answers_that_share_a_short_prompt_stay_rows():
    def answers(num_tokens: int) -> list[TokenRow]:
        return [row((1, 2, 3), tuple(range(i, i + num_tokens))) for i in range(4, 12)]

    limits = TreeLimits(EVERYWHERE, token_cost=384)
    assert [len(tree.rows) for tree in prefix_trees(answers(4), limits)[0]] == [8]
    assert prefix_trees(answers(400), limits) == ([], list(range(8)))
    assert len(prefix_trees(answers(400), TreeLimits(EVERYWHERE))[0]) == 1


def test_without_a_limit_a_prompt_has_one_tree():
    rows = sampled_rows()
    trees, left = prefix_trees(rows, TreeLimits(EVERYWHERE))
    assert len(trees) == 5 and [rows[b].prompt_ids for b in left] == [(3, 4, 5)]
    assert sum(map(len, trees)) < 0.6 * sum(len(rows[b]) for tree in trees for b in tree.rows)
    assert prefix_trees(rows, NO_TREES) == ([], list(range(len(rows))))


@pytest.mark.parametrize("max_tokens", [30, 100, EVERYWHERE])
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_batches_keep_to_the_budget_and_cover_each_row_once(max_tokens, num_ranks):
    rows = sampled_rows()
    shares = [
        list(micro_batches(rows, max_tokens, CPU, (rank, num_ranks), TreeLimits(EVERYWHERE)))
        for rank in range(num_ranks)
    ]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert sorted(b for batch in batches for b in batch.rows) == list(range(len(rows)))
    assert all(batch.num_fed <= max_tokens for batch in batches)
    assert any(batch.tree is not None for batch in batches)
    for batch in batches:
        for i, b in enumerate(batch.rows):
            ids = batch.input_ids_BT[i][batch.mask_BT[i]]
            assert tuple(ids.tolist()) == rows[b].completion_ids


def widen_norms(model) -> None:
    """Let RMS norms compute in the dtype of the model; transformers rounds to float32 in them."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            epsilon = getattr(module, "variance_epsilon", None) or module.eps
            offset = float(type(module).__name__.startswith("Gemma"))

            def norm(x, module=module, epsilon=epsilon, offset=offset):
                scale = (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()
                return x * scale * (offset + module.weight)

            module.forward = norm


def gradients(model, rows, dtype, trees: bool, **options):
    """Loss, log-probabilities, gap and gradient of a copy of the model, fed by trees or by rows."""
    cfg = LearnerConfig(prefix_trees=trees, max_tokens_per_batch=200, **options)
    model = copy.deepcopy(model).to(dtype)
    if dtype == torch.float64:
        widen_norms(model)
    learner = Learner(model, cfg, 10, 0.8, importance_cap=1.5)
    assert (learner.tree_limits.longest_path > 0) == trees
    loss, logprobs, gap, *_ = learner.accumulate_gradient(rows)
    trained = [p for p in learner.model.parameters() if p.requires_grad]
    gradient = torch.cat([p.grad.flatten() for p in trained if p.grad is not None])
    return loss, logprobs, gap, gradient, learner.logprobs(rows)


CASES = {
    **{name: (name, {}) for name in ARCHITECTURES if name not in ("gemma3", "bloom")},
    "llama, checkpointing": ("llama", {"gradient_checkpointing": True}),
    "gpt2, adapters": ("gpt2", {}),
    "qwen3, eager": ("qwen3", {}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_rows(case, dtype, tolerance):
    name, options = CASES[case]
    if "eager" in case and dtype == torch.float64:
        pytest.skip("transformers' eager attention rounds its softmax to float32")
    model = random_model(name)
    if "adapters" in case:
        add_adapters(model, ModelConfig(lora_rank=3), seed=1)
    if "eager" in case:
        model.set_attn_implementation("eager")
    rows = sampled_rows()
    loss, logprobs, gap, gradient, summed = gradients(model, rows, dtype, True, **options)
    expected = gradients(model, rows, dtype, False, **options)
    assert loss == pytest.approx(expected[0], rel=tolerance)
    assert logprobs == pytest.approx(expected[1], rel=tolerance)
    assert summed == pytest.approx(expected[4], rel=tolerance)
    assert gap.mean == pytest.approx(expected[2].mean, rel=tolerance)
    assert gap.truncated_fraction == expected[2].truncated_fraction > 0
    assert expected[3].norm() > 0.1
    assert (gradient - expected[3]).norm() <= tolerance * expected[3].norm()


def test_activations_in_bfloat16_differ_by_its_rounding_alone(tiny_model):
    rows = sampled_rows()
    exact = gradients(tiny_model, rows, torch.float32, False)[3]
    errors = [
        (gradients(tiny_model, rows, torch.float32, trees, compute_dtype="bfloat16")[3] - exact)
        for trees in (True, False)
    ]
    by_tree, by_row = (error.norm() / exact.norm() for error in errors)
    assert 0 < by_tree < 1.5 * by_row < 0.1


def test_a_window_bounds_the_paths(tiny_model):
    """Gemma-3's windows: trees only of rows within them, so gradients are those of rows."""
    model = random_model("gemma3")
    assert tree_limits(model) == NO_TREES  # a window of 4, less than the paths that are compared
    model.config.sliding_window = 64
    for layer in model.model.layers:
        layer.self_attn.sliding_window = 64 if layer.self_attn.sliding_window else None
    assert tree_limits(model).longest_path == 64
    rows = [*sampled_rows(), *(row((5,) * 60, (6, 7, 8, token)) for token in (9, 10))]
    rows += [row((5,) * 60, (6, 7, 8, 9, token)) for token in (9, 10)]
    trees, left = prefix_trees(rows, TreeLimits(64))
    assert {len(rows[b]) for b in left} == {5, 65} and len(trees) == 6
    by_tree = gradients(model, rows, torch.float64, True)[3]
    by_row = gradients(model, rows, torch.float64, False)[3]
    assert (by_tree - by_row).norm() <= 1e-10 * by_row.norm()


@torch.no_grad()
def test_block_masks_of_flex_attention_give_the_log_probabilities_of_rows():
    """On a CPU torch has its forward pass alone."""
    model = random_model("llama").requires_grad_(False)
    rows = sampled_rows()
    expected = {
        b: value
        for batch in micro_batches(rows, 200, CPU)
        for b, value in zip(
            batch.rows, batch_logprobs(model, batch, 1.0).sum(dim=1).tolist(), strict=True
        )
    }
    model.set_attn_implementation(FLEX)
    limits = tree_limits(model)
    assert limits == TreeLimits(longest_path=sys.maxsize)  # ancestors alone are compared
    batches = list(micro_batches(rows, 200, CPU, limits=limits))
    assert any(batch.tree for batch in batches)
    for batch in batches:
        summed = batch_logprobs(model, batch, 1.0).sum(dim=1).tolist()
        assert summed == pytest.approx([expected[b] for b in batch.rows], rel=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4),
        BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2),
    ],
    ids=["recurrent", "positions that the model counts itself"],
)
def test_models_that_read_no_tree_take_rows(config):
    torch.manual_seed(0)
    config.initializer_range = 0.4
    model = AutoModelForCausalLM.from_config(config).eval()
    assert tree_limits(model) == NO_TREES
    rows = sampled_rows()
    learner = Learner(model, LearnerConfig(prefix_trees=True), 10, 1.0)
    plain = [
        batch_logprobs(model, batch, 1.0).double().sum(dim=1).tolist()
        for batch in micro_batches(rows, EVERYWHERE, CPU)
    ]
    assert sorted(learner.logprobs(rows)) == pytest.approx(sorted(plain[0]), rel=1e-4)
