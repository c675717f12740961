"""Held-out samples: who is asked for what, and what a row says."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from passk.config.schema import EvalConfig, RunConfig, front_temperatures
from passk.data.conventions import Mix, make_problems
from passk.evaluation.tables import SAMPLE_COLUMNS, count_correct
from passk.rollout.base import SamplingParams
from passk.rollout.rollout import Actor
from passk.rollout.torch_sampler import TorchSampler
from passk.training.evaluate import draw_samples
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.base import ConventionsVerifier

PROBLEMS = [
    Problem("h-0", "T3+4*5=", "23", kind="textbook"),
    Problem("h-1", "C3+4*5=", "35", kind="calculator"),
    Problem("h-2", "T12+9*8=", "84", kind="textbook", level="Level 3", type="Sums"),
]


class ScriptedSampler:
    """Says what it is told to, per prompt, and remembers what it was asked."""

    def __init__(self, tokenizer, texts_PG) -> None:
        self.tokenizer = tokenizer
        self.texts_PG = texts_PG
        self.policy_version = 0
        self.ranks_per_engine = 1
        self.calls: list[tuple[list[list[int]], SamplingParams]] = []

    def sample(self, prompts, seeds_PG, params):
        self.calls.append(([list(seeds) for seeds in seeds_PG], params))
        return enumerate(
            [self._completion(texts[i % len(texts)]) for i in range(len(seeds))]
            for texts, seeds in zip(self.texts_PG, seeds_PG, strict=True)
        )

    def _completion(self, text: str) -> Completion:
        ids = (*self.tokenizer(text, add_special_tokens=False)["input_ids"], 1)
        return Completion(text, ids, (-0.25,) * len(ids), FinishReason.STOP)

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


def samples_of(sampler, verifier, encoder, problems, **eval_settings) -> pd.DataFrame:
    cfg = RunConfig(eval=EvalConfig(**eval_settings))
    temperatures = front_temperatures(cfg.eval)
    return draw_samples(Actor(sampler, verifier, encoder), problems, cfg, temperatures)


def test_rows_are_those_of_the_script(tiny_tokenizer, tiny_encoder):
    sampler = ScriptedSampler(tiny_tokenizer, [["1", "0", "21", "20"], ["0"], ["1", "5", "0", "5"]])
    verifier = LastDigitVerifier()
    samples = samples_of(sampler, verifier, tiny_encoder, PROBLEMS, num_samples=8, temperature=0.8)
    assert list(samples.columns) == SAMPLE_COLUMNS
    assert samples["problem_id"].tolist() == ["h-0"] * 8 + ["h-1"] * 8 + ["h-2"] * 8
    assert samples["sample"].tolist() == list(range(8)) * 3
    assert (samples["temperature"] == 0.8).all()
    last = samples.iloc[-1]
    assert (last["kind"], last["level"], last["type"]) == ("textbook", "Level 3", "Sums")
    assert (last["completion"], last["num_tokens"], last["finish_reason"]) == ("5", 2, "stop")
    assert np.isnan(last["reward"]) and last["reason"] == "timeout"
    assert last["logprob_sampler"] == pytest.approx(2 * -0.25)
    counts = count_correct(samples)  # half of the samples of h-2 were not judged
    assert list(zip(counts["n"], counts["c"], strict=True)) == [(8, 4), (8, 0), (4, 2)]

    ((seeds_PG, params),) = sampler.calls
    assert params == SamplingParams(temperature=0.8, max_new_tokens=32)
    assert [len(seeds) for seeds in seeds_PG] == [8, 8, 8]
    assert len({seed for seeds in seeds_PG for seed in seeds}) == 24
    assert verifier.num_judged == 4 + 1 + 3  # identical answers to a problem are judged once


def test_the_greedy_sample_is_one_more_at_temperature_0(tiny_tokenizer, tiny_encoder):
    sampler = ScriptedSampler(tiny_tokenizer, [["1", "0"]] * 3)
    verifier = LastDigitVerifier()
    samples = samples_of(sampler, verifier, tiny_encoder, PROBLEMS, num_samples=4, temperatures=[0])
    assert len(samples) == 3 * 5
    greedy = samples[samples["temperature"] == 0]
    assert greedy["problem_id"].tolist() == ["h-0", "h-1", "h-2"]
    assert (greedy["sample"] == 0).all() and (greedy["reward"] == 1).all()
    assert [params.temperature for _, params in sampler.calls] == [0.0, 1.0]
    assert [len(seeds) for seeds in sampler.calls[0][0]] == [1, 1, 1]
    alone = samples_of(sampler, verifier, tiny_encoder, PROBLEMS, num_samples=4)
    hot = samples[samples["temperature"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, hot)


def test_greedy_is_argmax_decoding(tiny_model, tiny_tokenizer, tiny_encoder):
    problems = make_problems(12, Mix(0.3, 0.3), split="heldout", seed=0, duplicates=False)
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    samples = samples_of(
        sampler, ConventionsVerifier(), tiny_encoder, problems, num_samples=2, temperatures=[0]
    )
    greedy = samples[samples["temperature"] == 0]
    for problem, row in zip(problems, greedy.to_dict("records"), strict=True):
        ids = torch.tensor(tiny_encoder.prompts([problem]))
        whole = tiny_model.generate(ids, do_sample=False, max_new_tokens=32)
        answer = whole[0, ids.shape[1] :]
        assert row["completion"] == tiny_tokenizer.decode(answer, skip_special_tokens=True)
        assert row["num_tokens"] == len(answer)
        with torch.no_grad():
            logp_TV = tiny_model(whole).logits[0, ids.shape[1] - 1 : -1].float().log_softmax(-1)
        expected = logp_TV.gather(1, answer[:, None]).sum()
        assert row["logprob_sampler"] == pytest.approx(float(expected), abs=1e-4)
    assert greedy["completion"].nunique() > 6


def test_two_evaluations_share_their_random_numbers(tiny_tokenizer, tiny_encoder):
    sampler = ScriptedSampler(tiny_tokenizer, [["1"]] * 3)
    verifier = LastDigitVerifier()
    for version in (0, 50):  # two steps of a run, or two runs
        sampler.load_weights([], version)
        samples_of(sampler, verifier, tiny_encoder, PROBLEMS, num_samples=4)
    samples_of(sampler, verifier, tiny_encoder, PROBLEMS, num_samples=4, seed=1)
    samples_of(sampler, verifier, tiny_encoder, PROBLEMS[::-1], num_samples=4)
    first, later, reseeded, reordered = (seeds_PG for seeds_PG, _ in sampler.calls)
    assert first == later == reordered[::-1]
    flat = [{seed for seeds in seeds_PG for seed in seeds} for seeds_PG in (first, reseeded)]
    assert not flat[0] & flat[1]


def test_a_real_policy_gives_the_same_samples_twice(tiny_model, tiny_tokenizer, tiny_encoder):
    problems = make_problems(20, Mix(0.3, 0.3), split="heldout", seed=0, duplicates=False)
    first, again = (
        samples_of(
            TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer, memory_gib=memory),
            ConventionsVerifier(),
            tiny_encoder,
            problems,
            num_samples=16,
        )
        for memory in (None, 2 / 1024)
    )
    pd.testing.assert_frame_equal(first, again, rtol=1e-4)
    counts = count_correct(first)
    assert counts["problem_id"].tolist() == [p.id for p in problems]
    assert counts["kind"].tolist() == [p.kind for p in problems]
    assert (counts["n"] == 16).all() and 0 < counts["c"].sum() < 16 * 20
    judged = first[first["reason"].isin(["correct", "wrong"])]
    assert (judged["answer"] == judged["completion"].str.rpartition("=")[2]).all()


def test_another_policy_sees_the_same_draws(tiny_model, tiny_tokenizer, tiny_encoder):
    """Common random numbers: a policy that hardly changed changes hardly any sample."""
    problems = make_problems(20, Mix(0.3, 0.3), split="heldout", seed=0, duplicates=False)
    changed = copy.deepcopy(tiny_model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(1e-4 * torch.randn_like(parameter))
    arguments = (ConventionsVerifier(), tiny_encoder, problems)
    before, after = (
        count_correct(samples_of(TorchSampler(model, tiny_tokenizer), *arguments, num_samples=16))[
            "c"
        ]
        for model in (copy.deepcopy(tiny_model), changed)
    )
    # Independent draws would differ by about sqrt(2 * 16 * p (1-p)), here 1 to 3, per problem.
    assert (before - after).abs().mean() < 0.25
