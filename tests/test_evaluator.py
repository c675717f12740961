"""Held-out counts and Pass@k tables against arithmetic done by hand."""

import copy
from math import comb

import numpy as np
import pandas as pd
import pytest
import torch

from passk.config import EvalConfig, RunConfig
from passk.conventions import make_problems
from passk.evaluator import count_correct, pass_table, pass_table_by_kind, percent_cells
from passk.sampler import SamplingParams
from passk.torch_sampler import TorchSampler
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers import ConventionsVerifier

COLUMNS = ["k", "value", "ci_low", "ci_high", "num_problems", "num_samples"]
PROBLEMS = [
    Problem("h-0", "T3+4*5=", "23", kind="textbook"),
    Problem("h-1", "C3+4*5=", "35", kind="calculator"),
    Problem("h-2", "T12+9*8=", "84", kind="textbook"),
]


class ScriptedSampler:
    """Says what it is told to, per prompt, and remembers what it was asked."""

    def __init__(self, tokenizer, texts_PG) -> None:
        self.tokenizer = tokenizer
        self.texts_PG = texts_PG
        self.policy_version = 0
        self.calls: list[tuple[list[list[int]], SamplingParams]] = []

    def sample(self, prompts, seeds_PG, params):
        self.calls.append(([list(seeds) for seeds in seeds_PG], params))
        return enumerate(
            [self._completion(texts[i % len(texts)]) for i in range(len(seeds))]
            for texts, seeds in zip(self.texts_PG, seeds_PG, strict=True)
        )

    def _completion(self, text: str) -> Completion:
        ids = (*self.tokenizer(text, add_special_tokens=False)["input_ids"], 1)
        return Completion(text, ids, (0.0,) * len(ids), FinishReason.STOP)

    def load_weights(self, weights, version):
        self.policy_version = version

    def close(self):
        pass


class LastDigitVerifier:
    """By the last character: 1 right, 0 wrong, anything else was not judged."""

    def __init__(self) -> None:
        self.num_judged = 0

    def verify(self, pairs):
        self.num_judged += len(pairs)
        rewards = [{"1": 1.0, "0": 0.0}.get(completion.text[-1:]) for _, completion in pairs]
        return [Verdict(r, "timeout" if r is None else "") for r in rewards]

    def close(self):
        pass


def rho(n: int, c: int, k: int) -> float:
    return 1 - comb(n - c, k) / comb(n, k)


def counts_of(rows: list[tuple[str, str, int, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["problem_id", "kind", "n", "c"])


def test_counts_are_those_of_the_script(tiny_tokenizer, tiny_encoder):
    sampler = ScriptedSampler(tiny_tokenizer, [["1", "0", "21", "20"], ["0"], ["1", "5", "0", "5"]])
    verifier = LastDigitVerifier()
    cfg = EvalConfig(num_samples=8, temperature=0.8)
    counts = count_correct(sampler, verifier, tiny_encoder, PROBLEMS, RunConfig(eval=cfg))
    expected = counts_of([("h-0", "textbook", 8, 4), ("h-1", "calculator", 8, 0)])
    expected.loc[2] = ("h-2", "textbook", 4, 2)  # half of its samples were not judged
    pd.testing.assert_frame_equal(counts, expected, check_dtype=False)
    assert counts["c"].dtype == np.int64
    ((seeds_PG, params),) = sampler.calls
    assert params == SamplingParams(temperature=0.8, max_new_tokens=32)
    assert [len(seeds) for seeds in seeds_PG] == [8, 8, 8]
    assert len({seed for seeds in seeds_PG for seed in seeds}) == 24
    assert verifier.num_judged == 4 + 1 + 3  # identical answers to a problem are judged once


def test_two_evaluations_share_their_random_numbers(tiny_tokenizer, tiny_encoder):
    sampler = ScriptedSampler(tiny_tokenizer, [["1"]] * 3)
    cfg = EvalConfig(num_samples=4)
    for version in (0, 50):  # two steps of a run, or two runs
        sampler.load_weights([], version)
        count_correct(sampler, LastDigitVerifier(), tiny_encoder, PROBLEMS, RunConfig(eval=cfg))
    other = EvalConfig(num_samples=4, seed=1)
    count_correct(sampler, LastDigitVerifier(), tiny_encoder, PROBLEMS, RunConfig(eval=other))
    count_correct(sampler, LastDigitVerifier(), tiny_encoder, PROBLEMS[::-1], RunConfig(eval=cfg))
    first, later, reseeded, reordered = (seeds_PG for seeds_PG, _ in sampler.calls)
    assert first == later == reordered[::-1]
    flat = [{seed for seeds in seeds_PG for seed in seeds} for seeds_PG in (first, reseeded)]
    assert not flat[0] & flat[1]


def test_a_real_policy_is_counted_the_same_twice(tiny_model, tiny_tokenizer, tiny_encoder):
    problems = make_problems(
        20, split="heldout", seed=0, calculator_fraction=0.3, skill_fraction=0.3, cue=0.0
    )
    cfg = EvalConfig(num_samples=16)
    first, again = (
        count_correct(
            TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer, max_batch_samples=size),
            ConventionsVerifier(),
            tiny_encoder,
            problems,
            RunConfig(eval=cfg),
        )
        for size in (2048, 64)
    )
    pd.testing.assert_frame_equal(first, again)
    assert first["problem_id"].tolist() == [p.id for p in problems]
    assert first["kind"].tolist() == [p.kind for p in problems]
    assert (first["n"] == 16).all() and 0 < first["c"].sum() < 16 * 20


def test_another_policy_sees_the_same_draws(tiny_model, tiny_tokenizer, tiny_encoder):
    """Common random numbers: a policy that hardly changed changes hardly any sample."""
    problems = make_problems(
        20, split="heldout", seed=0, calculator_fraction=0.3, skill_fraction=0.3, cue=0.0
    )
    changed = copy.deepcopy(tiny_model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))
    cfg = RunConfig(eval=EvalConfig(num_samples=16))
    arguments = (ConventionsVerifier(), tiny_encoder, problems, cfg)
    before, after = (
        count_correct(TorchSampler(model, tiny_tokenizer), *arguments)["c"]
        for model in (copy.deepcopy(tiny_model), changed)
    )
    # Independent draws would differ by about sqrt(2 * 16 * p (1-p)), here 1 to 3, per problem.
    assert (before - after).abs().mean() < 0.25


def test_pass_table_by_hand():
    counts = counts_of([("a", "x", 8, 4), ("b", "y", 8, 0), ("c", "x", 8, 8), ("d", "y", 8, 1)])
    cfg = EvalConfig(ks=[1, 2, 8], num_resamples=200)
    table = pass_table(counts, cfg)
    assert list(table.columns) == COLUMNS
    assert table["k"].tolist() == [1, 2, 8]
    for row in table.itertuples():
        expected = np.mean([rho(8, c, row.k) for c in (4, 0, 8, 1)])
        assert row.value == pytest.approx(expected)
        assert 0.0 <= row.ci_low < row.value < row.ci_high <= 1.0
        assert (row.num_problems, row.num_samples) == (4, 8)
    # By hand: (4/8 + 0 + 1 + 1/8) / 4 and (1 - 6/28 + 0 + 1 + 7/28) / 4.
    assert table["value"].tolist()[:2] == pytest.approx([13 / 32, (3 - 6 / 28 + 7 / 28 - 1) / 4])


def test_intervals_shrink_with_problems_and_vanish_without_spread():
    cfg = EvalConfig(ks=[1], num_resamples=500)
    same = pass_table(counts_of([(str(i), "x", 4, 2) for i in range(6)]), cfg).iloc[0]
    assert same["value"] == same["ci_low"] == same["ci_high"] == 0.5

    def width(num_problems: int) -> float:
        rows = [(str(i), "x", 4, 4 * (i % 2)) for i in range(num_problems)]
        table = pass_table(counts_of(rows), cfg)
        return float((table["ci_high"] - table["ci_low"]).iloc[0])

    # A mean of coin tosses: 2 * 1.96 * 0.5 / sqrt(P).
    assert width(400) == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.15)
    assert width(100) == pytest.approx(2 * width(400), rel=0.25)


def test_tables_repeat_and_depend_on_the_seed_in_the_intervals_alone():
    counts = counts_of([(str(i), "x", 16, i) for i in range(17)])
    first, again = (pass_table(counts, EvalConfig(ks=[1, 4], num_resamples=100)) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    other = pass_table(counts, EvalConfig(ks=[1, 4], num_resamples=100, seed=1))
    assert other["value"].tolist() == first["value"].tolist()
    assert other["ci_low"].tolist() != first["ci_low"].tolist()


def test_problems_judged_too_seldom_leave_every_row():
    counts = counts_of([("a", "x", 8, 4), ("b", "x", 3, 3), ("c", "x", 4, 1), ("d", "x", 0, 0)])
    table = pass_table(counts, EvalConfig(ks=[1, 4], num_resamples=100))
    assert table["num_problems"].tolist() == [2, 2]  # also where k = 1 could use problem b
    assert table["num_samples"].tolist() == [8, 8]
    assert table["value"].tolist() == pytest.approx(
        [(rho(8, 4, 1) + rho(4, 1, 1)) / 2, (rho(8, 4, 4) + rho(4, 1, 4)) / 2]
    )
    none = pass_table(counts, EvalConfig(ks=[1, 16]))
    assert none.empty and list(none.columns) == COLUMNS


def test_one_problem_has_a_value_and_no_interval():
    table = pass_table(counts_of([("a", "x", 8, 4)]), EvalConfig(ks=[1, 2]))
    assert table["value"].tolist() == pytest.approx([0.5, rho(8, 4, 2)])
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)


def test_the_table_by_kind_is_the_table_of_each_kind():
    rows = [(f"p{i}", ("y", "x", "z")[i % 3], 8, i % 9) for i in range(30)]
    counts, cfg = counts_of(rows), EvalConfig(ks=[1, 4], num_resamples=100)
    by_kind = pass_table_by_kind(counts, cfg)
    assert list(by_kind.columns) == ["kind", *COLUMNS]
    assert by_kind["kind"].tolist() == ["x", "x", "y", "y", "z", "z"]
    for kind, table in by_kind.groupby("kind"):
        own = counts[counts["kind"] == kind]
        expected = np.mean([[rho(8, c, k) for c in own["c"]] for k in (1, 4)], axis=1)
        assert table["value"].tolist() == pytest.approx(expected.tolist())
        assert table["num_problems"].tolist() == [10, 10]
        alone = pass_table(own, cfg)
        pd.testing.assert_frame_equal(
            table.drop(columns="kind").reset_index(drop=True), alone.reset_index(drop=True)
        )
    # The kinds weighted by their problems make the whole.
    whole = pass_table(counts, cfg)["value"].to_numpy()
    parts = by_kind.pivot(index="k", columns="kind", values="value").mean(axis=1).to_numpy()
    np.testing.assert_allclose(parts, whole)


@pytest.mark.filterwarnings("error")
def test_a_kind_without_usable_problems_is_left_out_and_numbers_stay_numbers():
    counts = counts_of([("a", "x", 2, 1), ("b", "y", 8, 4), ("c", "y", 8, 2)])
    by_kind = pass_table_by_kind(counts, EvalConfig(ks=[1, 4], num_resamples=100))
    assert by_kind["kind"].tolist() == ["y", "y"]
    assert by_kind["value"].tolist() == pytest.approx(
        [(4 / 8 + 2 / 8) / 2, (rho(8, 4, 4) + rho(8, 2, 4)) / 2]
    )
    assert by_kind["k"].dtype.kind == "i" and by_kind["value"].dtype.kind == "f"
    nothing = pass_table_by_kind(counts, EvalConfig(ks=[16]))
    assert nothing.empty and list(nothing.columns) == ["kind", *COLUMNS]


def test_percent_cells():
    table = pd.DataFrame(
        [(1, 0.54749, 0.52, 0.5746, 4, 8), (8, 1.0, 1.0, 1.0, 4, 8)], columns=COLUMNS
    )
    assert percent_cells(table) == ["54.7 [52.0, 57.5]", "100.0 [100.0, 100.0]"]
