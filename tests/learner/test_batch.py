"""Groups become weighted rows, and rows become micro-batches, without changing any sum."""

import numpy as np
import pytest
import torch

from passk.learner.batch import TokenRow, advantage_weights, make_rows
from passk.learner.micro_batches import micro_batches
from passk.types import Completion, FinishReason, Group, Problem, Verdict

CPU = torch.device("cpu")


def group(name: str, prompt: tuple[int, ...], completions: list[tuple[int, ...]]) -> Group:
    return Group(
        problem=Problem(name, "prompt", "answer"),
        prompt_ids=prompt,
        completions=tuple(
            Completion("", c, (0.0,) * len(c), FinishReason.STOP) for c in completions
        ),
        verdicts=(Verdict(0.0, "wrong"),) * len(completions),
        policy_version=0,
    )


def rows_of_lengths(lengths: list[int]) -> list[TokenRow]:
    """Rows that can be told apart: prompt of 1 or 2 tokens, then the row's number + 10."""
    return [
        TokenRow((2,) * (1 + b % 2), (10 + b,) * (length - 1 - b % 2), (b + 1.0, -b - 0.5))
        for b, length in enumerate(lengths)
    ]


@pytest.fixture
def groups() -> list[Group]:
    """Three prompts, four samples each; the second prompt's first completion is the first's."""
    return [
        group("a", (5, 6), [(7, 1), (8, 1), (7, 1), (7, 9, 1)]),
        group("b", (5,), [(7, 1), (7, 1), (7, 1), (7, 1)]),
        group("c", (5, 5, 5), [(2, 1), (3, 1), (4, 1), (6, 1)]),
    ]


def test_the_mask_covers_the_completion_alone():
    rows = [TokenRow((4, 5, 6), (7, 1), (0.5,)), TokenRow((8,), (9, 3, 1), (-2.0,))]
    (batch,) = micro_batches(rows, 100, CPU)
    # The shorter row comes first, padded on the right; columns are tokens.
    assert batch.rows == (1, 0)
    assert batch.input_ids_BT.tolist() == [[8, 9, 3, 1, 0], [4, 5, 6, 7, 1]]
    assert batch.mask_BT.tolist() == [
        [False, True, True, True, False],
        [False, False, False, True, True],
    ]
    assert batch.weights_BO.tolist() == [[-2.0], [0.5]]
    assert batch.input_ids_BT.dtype == torch.int64 and batch.mask_BT.dtype == torch.bool
    assert not batch.mask_BT[:, 0].any()  # nothing predicts column 0


def test_logprobs_are_aligned_with_the_tokens_they_speak_of(tiny_model):
    from passk.learner.logprobs import token_logprobs

    rows = [
        TokenRow((16, 5, 12, 6), (13, 7, 14), (1.0,)),
        TokenRow((17, 3), (2, 12, 8, 9, 1), (1,)),
    ]
    (batch,) = micro_batches(rows, 100, CPU)
    with torch.no_grad():
        logp_BT = token_logprobs(tiny_model, batch.input_ids_BT, batch.mask_BT, 0.8)
        for i, b in enumerate(batch.rows):
            prompt, completion = rows[b].prompt_ids, rows[b].completion_ids
            for t, token in enumerate(completion):
                prefix = torch.tensor([prompt + completion[:t]])
                logits = tiny_model(input_ids=prefix).logits[0, -1] / 0.8
                expected = torch.log_softmax(logits, dim=-1)[token]
                torch.testing.assert_close(logp_BT[i, len(prompt) + t], expected)
    assert (logp_BT[~batch.mask_BT] == 0).all()


def test_advantage_weights_divide_by_sampled_prompts_and_judged_samples():
    nan = np.nan
    rewards = np.array([[1.0, 0, 0, 0], [1, nan, 0, nan], [0, 0, 0, 0], [nan, nan, nan, nan]])
    advantages = np.array([[3.0, -1, -1, -1], [1, 0, -1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    weights = advantage_weights(advantages, rewards)
    # P = 4 counts the dead and the unjudged prompt; n_x = 4, 2, 4 and (guarded) 1.
    expected = [[3 / 16, -1 / 16, -1 / 16, -1 / 16], [1 / 8, 0, -1 / 8, 0], [0] * 4, [0] * 4]
    np.testing.assert_array_equal(weights, expected)


def test_a_sample_without_a_verdict_changes_only_the_count():
    advantages = np.array([[2.0, -1.0, -1.0, 0.0]])
    with_nan = advantage_weights(advantages, np.array([[1.0, 0.0, 0.0, np.nan]]))
    without = advantage_weights(advantages[:, :3], np.array([[1.0, 0.0, 0.0]]))
    np.testing.assert_array_equal(with_nan[:, :3], without)
    assert with_nan[0, 3] == 0.0


def test_merging_sums_weights_within_a_prompt(groups):
    weights = np.arange(1.0, 25.0).reshape(3, 4, 2)
    rows = make_rows(groups, weights)
    found = {(row.prompt_ids, row.completion_ids): row for row in rows}
    assert len(rows) == len(found) == 3 + 1 + 4
    merged = found[(5, 6), (7, 1)]
    assert merged.samples == ((0, 0), (0, 2))
    assert merged.weights == (1.0 + 5.0, 2.0 + 6.0)
    # The same completion of another prompt is another row.
    everything = found[(5,), (7, 1)]
    assert everything.samples == ((1, 0), (1, 1), (1, 2), (1, 3))
    assert everything.weights == tuple(weights[1].sum(axis=0))
    total = np.sum([row.weights for row in rows], axis=0)
    np.testing.assert_array_equal(total, weights.sum(axis=(0, 1)))


@pytest.mark.parametrize("merge", [True, False])
def test_every_sample_is_in_exactly_one_row(groups, merge):
    rows = make_rows(groups, np.ones((3, 4, 1)), merge_identical=merge)
    samples = sorted(sample for row in rows for sample in row.samples)
    assert samples == [(p, i) for p in range(3) for i in range(4)]
    assert len(rows) == (8 if merge else 12)
    for row in rows:
        for p, i in row.samples:
            assert row.prompt_ids == groups[p].prompt_ids
            assert row.completion_ids == groups[p].completions[i].token_ids


def test_rows_of_zero_weight_are_left_out_only_when_asked(groups):
    weights = np.zeros((3, 4, 2))
    weights[0, 1] = (1.0, 0.0)  # one objective is enough to keep a row
    weights[2, 3] = (0.0, -1.0)
    rows = make_rows(groups, weights)
    assert [row.samples for row in rows] == [((0, 1),), ((2, 3),)]
    kept = make_rows(groups, weights, skip_zero=False)
    assert len(kept) == 8
    assert sum(row.weights == (0.0, 0.0) for row in kept) == 6


def test_weights_that_cancel_in_a_merged_row_are_left_out(groups):
    weights = np.zeros((3, 4, 1))
    weights[0, :, 0] = (0.5, 0.0, -0.5, 0.25)
    assert [row.samples for row in make_rows(groups, weights)] == [((0, 3),)]
    apart = make_rows(groups, weights, merge_identical=False)
    assert [row.samples for row in apart] == [((0, 0),), ((0, 2),), ((0, 3),)]


@pytest.mark.parametrize("max_tokens", [1, 20, 33, 64, 10_000])
def test_micro_batches_keep_to_the_budget_and_cover_each_row_once(max_tokens):
    lengths = np.random.default_rng(0).integers(4, 33, 57).tolist()
    rows = rows_of_lengths(lengths)
    batches = list(micro_batches(rows, max_tokens, CPU))
    covered = [b for batch in batches for b in batch.rows]
    assert sorted(covered) == list(range(len(rows)))
    for batch in batches:
        # A row that is too long alone still passes, alone.
        assert batch.input_ids_BT.numel() <= max_tokens or len(batch.rows) == 1
        assert batch.input_ids_BT.shape[1] == max(lengths[b] for b in batch.rows)
        for i, b in enumerate(batch.rows):
            row = rows[b]
            ids = batch.input_ids_BT[i].tolist()
            padding = [0] * (len(ids) - len(row))
            assert ids == [*row.prompt_ids, *row.completion_ids, *padding]
            assert batch.input_ids_BT[i][batch.mask_BT[i]].tolist() == list(row.completion_ids)
            assert batch.weights_BO[i].tolist() == list(row.weights)
    if max_tokens == 10_000:
        assert len(batches) == 1
    if max_tokens == 1:
        assert len(batches) == len(rows)


def test_micro_batches_use_the_budget():
    rows = rows_of_lengths([8] * 10)
    assert [len(batch.rows) for batch in micro_batches(rows, 24, CPU)] == [3, 3, 3, 1]


def test_rows_of_similar_length_go_together():
    rows = rows_of_lengths([30, 5, 29, 6, 31, 4])
    first, second = micro_batches(rows, 96, CPU)
    assert set(first.rows) == {1, 3, 5}
    assert set(second.rows) == {0, 2, 4}


def test_no_rows_no_batches():
    assert list(micro_batches([], 64, CPU)) == []
