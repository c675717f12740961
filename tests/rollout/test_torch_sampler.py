"""The torch sampler is the same function as sampling every completion alone, only cheaper."""

import copy
from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from peak_memory import PeakMemory
from random_models import ARCHITECTURES, EOS, VOCABULARY, random_model
from sampling import sample_all
from scipy.special import chdtrc

from passk.errors import UserError
from passk.learner.logprobs import token_logprobs
from passk.rollout import torch_sampler
from passk.rollout.base import SamplingParams, group_seeds
from passk.rollout.row_cache import RowCache, _RowLayer, row_bytes
from passk.rollout.torch_sampler import TorchSampler, _draw, _nucleus
from passk.types import FinishReason

PARAMS = SamplingParams(temperature=1.0, max_new_tokens=32)
PROMPTS = ("T3+4*5=", "C12+9*8=", "T37+48+59=", "C7+2*2=", "T10+99+31=")


def seeds_for(num_prompts: int, num_samples: int, *, step: int = 0) -> list[list[int]]:
    names = [f"p{p}" for p in range(num_prompts)]
    return group_seeds(0, "train", step, names, num_samples)


def forward_alone(model, prompt, completion, temperature=1.0) -> np.ndarray:
    """Log-probabilities of one completion by one forward pass: no cache, no padding."""
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    mask = torch.zeros(ids.shape, dtype=torch.bool)
    mask[:, len(prompt) :] = True
    with torch.no_grad():
        return token_logprobs(model, ids, mask, temperature)[0, len(prompt) :].numpy()


def memory_for(model, num_places: int, longest: int, max_new_tokens: int) -> float:
    """The GiB that let `num_places` samples be in flight; 16 columns are spare."""
    position_bytes, logits_bytes = row_bytes(model)
    return num_places * ((longest + max_new_tokens + 16) * position_bytes + logits_bytes) / 2**30


class ForwardLog:
    """What each forward pass of the sampler was given and where its cache lies."""

    def __init__(self, model) -> None:
        self.rows: list[int] = []
        self.widths: list[int] = []
        self.buffers: list[tuple[int, int]] = []  # data_ptr and rows of the first layer's keys
        model.register_forward_hook(self._record, with_kwargs=True)

    def _record(self, _module, _args, kwargs, _output) -> None:
        if not isinstance(kwargs["past_key_values"], RowCache):
            return  # the pass that measures how much a row takes
        rows, width = kwargs["input_ids"].shape
        keys = kwargs["past_key_values"].layers[0].keys
        self.rows.append(rows)
        self.widths.append(width)
        self.buffers.append((keys.data_ptr(), keys.shape[0]))


@pytest.fixture
def prompts(tiny_tokenizer):
    return tiny_tokenizer(list(PROMPTS))["input_ids"]


def test_merged_sampling_is_each_sample_drawn_alone(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    seeds_PG = seeds_for(len(prompts), 12)
    merged = sample_all(sampler, prompts, seeds_PG, PARAMS)
    distinct = 0
    for prompt, seeds, completions in zip(prompts, seeds_PG, merged, strict=True):
        distinct += len(set(completions))
        for seed, completion in zip(seeds, completions, strict=True):
            ((alone,),) = sample_all(sampler, [prompt], [[seed]], PARAMS)
            assert alone.token_ids == completion.token_ids
            assert alone.text == completion.text
            assert alone.finish_reason == completion.finish_reason
            np.testing.assert_allclose(alone.logprobs, completion.logprobs, atol=1e-5, rtol=0)
    # Both ways of the algorithm were used: rows that were shared and rows that split.
    assert len(prompts) < distinct < 12 * len(prompts)


def nucleus(p_V: np.ndarray, top_p: float) -> np.ndarray:
    """The smallest set of likeliest tokens that reaches `top_p`, by trying every set."""
    sets = [s for size in range(1, len(p_V) + 1) for s in combinations(range(len(p_V)), size)]
    reach = [list(s) for s in sets if p_V[list(s)].sum() >= top_p]
    smallest = min(map(len, reach))
    best = max((s for s in reach if len(s) == smallest), key=lambda s: p_V[s].sum())
    kept_V = np.zeros_like(p_V)
    kept_V[best] = p_V[best] / p_V[best].sum()
    return kept_V


def exact_distribution(
    model, prompt, max_new_tokens: int, temperature: float, vocabulary: int, top_p: float = 1.0
):
    """Every completion and its probability, by one full forward pass per prefix."""
    finished, running = {}, {(): 1.0}
    for t in range(max_new_tokens):
        prefixes = list(running)
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *p] for p in prefixes])).logits[:, -1]
        next_PV = torch.softmax(logits.double() / temperature, dim=-1).numpy()
        if top_p < 1:
            next_PV = np.array([nucleus(p_V, top_p) for p_V in next_PV])
        grown = {
            (*prefix, token): running[prefix] * next_PV[i, token]
            for i, prefix in enumerate(prefixes)
            for token in range(vocabulary)
        }
        last = t + 1 == max_new_tokens
        finished |= {c: p for c, p in grown.items() if last or c[-1] == EOS}
        running = {c: p for c, p in grown.items() if c[-1] != EOS}
    return finished


def chi_square_p_value(counts: Counter, probabilities: dict, total: int) -> float:
    """Pearson's test; outcomes expected fewer than 5 times are one cell."""
    rare = [c for c, p in probabilities.items() if p * total < 5]
    cells = [(counts[c], p * total) for c, p in probabilities.items() if p * total >= 5]
    if rare:
        cells.append((sum(counts[c] for c in rare), total * sum(probabilities[c] for c in rare)))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    return float(chdtrc(len(cells) - 1, statistic))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_merged_samples_have_the_exact_distribution(tiny_tokenizer, temperature):
    model, prompt, total = random_model(vocabulary=5, seed=3), [2, 4, 3], 20_000
    exact = exact_distribution(model, prompt, 3, temperature, vocabulary=5)
    assert len(exact) == 1 + 4 + 16 * 5
    assert sum(exact.values()) == pytest.approx(1.0)

    sampler = TorchSampler(copy.deepcopy(model), tiny_tokenizer)
    (completions,) = sample_all(
        sampler, [prompt], seeds_for(1, total), SamplingParams(temperature, 3)
    )
    counts = Counter(c.token_ids for c in completions)
    assert set(counts) <= set(exact)
    assert chi_square_p_value(counts, exact, total) > 1e-3
    # The test has power: the distribution at another temperature is refused.
    other = exact_distribution(model, prompt, 3, 1.7 - temperature, vocabulary=5)
    assert chi_square_p_value(counts, other, total) < 1e-9
    for completion in set(completions):
        assert np.exp(sum(completion.logprobs)) == pytest.approx(
            exact[completion.token_ids], rel=1e-4
        )


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 0.6), (0.7, 0.95), (1.0, 0.05)])
def test_the_nucleus_has_the_exact_distribution(tiny_tokenizer, temperature, top_p):
    """Against every subset of five tokens, at every prefix; nothing outside is ever drawn."""
    model, prompt, total = random_model(vocabulary=5, seed=3), [2, 4, 3], 20_000
    found = exact_distribution(model, prompt, 3, temperature, vocabulary=5, top_p=top_p)
    exact = {completion: p for completion, p in found.items() if p > 0}
    assert sum(exact.values()) == pytest.approx(1.0)
    assert len(exact) < len(found) and (len(exact) == 1) == (top_p == 0.05)
    sampler = TorchSampler(copy.deepcopy(model), tiny_tokenizer)
    params = SamplingParams(temperature, 3, top_p=top_p)
    (completions,) = sample_all(sampler, [prompt], seeds_for(1, total), params)
    counts = Counter(c.token_ids for c in completions)
    assert set(counts) <= set(exact)
    if len(exact) > 1:
        assert chi_square_p_value(counts, exact, total) > 1e-3
    for completion in set(completions):
        assert np.exp(sum(completion.logprobs)) == pytest.approx(
            exact[completion.token_ids], rel=1e-4
        )


def test_samples_within_a_nucleus_are_drawn_alone_too(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    seeds_PG, params = seeds_for(len(prompts), 6), SamplingParams(1.0, 32, top_p=0.8)
    merged = sample_all(sampler, prompts, seeds_PG, params)
    assert merged != sample_all(sampler, prompts, seeds_PG, PARAMS)
    for prompt, seeds, completions in zip(prompts, seeds_PG, merged, strict=True):
        for seed, completion in zip(seeds, completions, strict=True):
            ((alone,),) = sample_all(sampler, [prompt], [[seed]], params)
            assert alone.token_ids == completion.token_ids
    # At temperature 0 there is one token, whatever the nucleus.
    greedy = [SamplingParams(0.0, 32, top_p=top_p) for top_p in (1.0, 0.8)]
    one, other = (sample_all(sampler, prompts, seeds_PG, params) for params in greedy)
    assert one == other


def test_a_nucleus_of_many_tokens():
    """More than are sorted at first; and equals of the last one that is kept stay."""
    rng = np.random.default_rng(0)
    logp_RV = torch.log_softmax(torch.from_numpy(rng.normal(size=(3, 5000))) * 0.3, dim=-1)
    kept_RV = _nucleus(logp_RV, 0.9).exp().numpy()
    for kept_V, p_V in zip(kept_RV, logp_RV.exp().numpy(), strict=True):
        order = np.argsort(-p_V)
        size = int(np.searchsorted(np.cumsum(p_V[order]), 0.9)) + 1
        assert 1000 < size < 5000 and set(np.flatnonzero(kept_V)) == set(order[:size])
        np.testing.assert_allclose(
            kept_V[order[:size]], p_V[order[:size]] / p_V[order[:size]].sum()
        )
    equal = _nucleus(torch.tensor([[0.4, 0.2, 0.2, 0.2]]).log(), 0.5).exp()
    np.testing.assert_allclose(equal, [[0.4, 0.2, 0.2, 0.2]], rtol=1e-6)
    assert _nucleus(torch.full((1, 4), torch.nan), 0.5).isnan().all()


def test_no_draw_falls_on_a_token_without_probability():
    """Uniforms up to the largest below 1, and cumulative sums that rounding leaves above 1."""
    logp_RV = torch.tensor([[0.1, 0.2, 0.7, 0.0], [0.0, 1.0, 0.0, 0.0]]).log()
    row_of = np.array([0, 0, 1, 1, 1])
    uniform = np.array([0.0, np.nextafter(1, 0), 0.0, 0.5, np.nextafter(1, 0)])
    assert _draw(logp_RV, row_of, uniform).tolist() == [0, 2, 1, 1, 1]
    assert _draw(logp_RV + 1e-7, row_of, uniform).tolist() == [0, 2, 1, 1, 1]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logprobs_are_those_of_a_full_forward_pass(tiny_tokenizer, architecture, temperature):
    model = random_model(architecture)
    generator = np.random.default_rng(0)
    prompts = [generator.integers(2, VOCABULARY, size).tolist() for size in (3, 9, 6, 1)]
    sampler = TorchSampler(copy.deepcopy(model), tiny_tokenizer)
    params = SamplingParams(temperature, 14)
    sampled = sample_all(sampler, prompts, seeds_for(len(prompts), 8), params)
    longest = 0
    for prompt, completions in zip(prompts, sampled, strict=True):
        for completion in completions:
            expected = forward_alone(model, prompt, completion, temperature)
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5, rtol=1e-5)
            longest = max(longest, len(completion.token_ids))
    assert longest > 4  # beyond Gemma's sliding window


def recorded(function, calls: list):
    """The function, which appends its arguments to `calls` first."""

    def record(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return record


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_completions_do_not_depend_on_their_company(tiny_tokenizer, monkeypatch, architecture):
    generator = np.random.default_rng(1)
    prompts = [generator.integers(2, VOCABULARY, size).tolist() for size in (3, 9, 6, 12)]
    seeds_PG = seeds_for(4, 12)
    params = SamplingParams(1.0, 20)

    def tokens(chosen, num_places=None):
        model = random_model(architecture)
        model.generation_config.eos_token_id = [EOS, 5, 9, 13]  # so that answers end apart
        memory = num_places and memory_for(model, num_places, 12, 20)
        sampler = TorchSampler(model, tiny_tokenizer, memory_gib=memory)
        sampled = sample_all(
            sampler, [prompts[p] for p in chosen], [seeds_PG[p] for p in chosen], params
        )
        return {
            p: [c.token_ids for c in completions]
            for p, completions in zip(chosen, sampled, strict=True)
        }

    together = tokens([0, 1, 2, 3])
    assert tokens([0, 1, 2, 3]) == together  # the same seeds repeat
    assert tokens([2, 0]) == {p: together[p] for p in (0, 2)}
    # Samples join while others go on, one after the other or a few at once, and rows move.
    moved = []
    monkeypatch.setattr(RowCache, "move", recorded(RowCache.move, moved))
    assert tokens([0, 1, 2, 3], 3) == together
    assert len(moved) > 0
    assert tokens([0, 1, 2, 3], 12) == together
    assert tokens([0], 1) == {0: together[0]}


@pytest.mark.parametrize("num_places", [None, 3, 12])
@pytest.mark.parametrize("num_samples", [1, 4])
def test_memory_that_was_not_written_is_not_read(
    tiny_tokenizer, monkeypatch, num_places, num_samples
):
    """What an allocator returns may hold NaN, which a mask does not hide: 0 times NaN is NaN."""
    generator = np.random.default_rng(2)
    prompts = [generator.integers(2, VOCABULARY, size).tolist() for size in (3, 9, 6, 12, 4, 12)]
    seeds_PG = seeds_for(len(prompts), num_samples)

    def sampled() -> list:
        model = random_model("llama")
        model.generation_config.eos_token_id = [EOS, 5, 9, 13]
        memory = num_places and memory_for(model, num_places, 12, 20)
        sampler = TorchSampler(model, tiny_tokenizer, memory_gib=memory)
        groups = sample_all(sampler, prompts, seeds_PG, SamplingParams(1.0, 20))
        return [(c.token_ids, np.isfinite(c.logprobs).all()) for group in groups for c in group]

    expected = sampled()

    def unwritten(layer: _RowLayer, states: torch.Tensor) -> torch.Tensor:
        _, heads, _, head_dim = states.shape
        shape = (layer.view.num_rows, heads, layer.view.length, head_dim)
        return states.new_full(shape, torch.nan)

    monkeypatch.setattr(_RowLayer, "_buffer", unwritten)
    for prefilled in (12, 24, 4096):  # at once: a prompt, two, all
        monkeypatch.setattr(torch_sampler, "_PREFILL_TOKENS", prefilled)
        assert sampled() == expected


def test_more_samples_leave_the_first_ones_alone(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    few = sample_all(sampler, prompts, seeds_for(len(prompts), 3), PARAMS)
    many = sample_all(sampler, prompts, seeds_for(len(prompts), 10), PARAMS)
    assert [[c.token_ids for c in group[:3]] for group in many] == [
        [c.token_ids for c in group] for group in few
    ]
    other = sample_all(sampler, prompts, seeds_for(len(prompts), 10, step=1), PARAMS)
    assert [[c.token_ids for c in group] for group in other] != [
        [c.token_ids for c in group] for group in many
    ]


def test_prompts_may_have_different_numbers_of_samples(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    seeds_PG = seeds_for(3, 5)
    ragged = [seeds_PG[0][:1], seeds_PG[1], seeds_PG[2][:3]]
    full = sample_all(sampler, prompts[:3], seeds_PG, PARAMS)
    sampled = sample_all(sampler, prompts[:3], ragged, PARAMS)
    assert [len(group) for group in sampled] == [1, 5, 3]
    for some, all_of_them in zip(sampled, full, strict=True):
        assert [c.token_ids for c in some] == [c.token_ids for c in all_of_them[: len(some)]]


def test_no_more_samples_are_in_flight_than_the_memory_holds(tiny_model, tiny_tokenizer, prompts):
    model = copy.deepcopy(tiny_model)
    memory = memory_for(model, 8, max(map(len, prompts)), 32)
    log = ForwardLog(model)
    sampler = TorchSampler(model, tiny_tokenizer, memory_gib=memory)
    sample_all(sampler, prompts, seeds_for(len(prompts), 16), PARAMS)
    assert {capacity for _, capacity in log.buffers} == {8} and max(log.rows) <= 8
    # Sixteen samples do not fit: they come in parts, each with a prefill.
    prefilled = sum(rows for rows, width in zip(log.rows, log.widths, strict=True) if width > 1)
    assert prefilled == len(prompts) * 16 // 2


def test_a_long_answer_does_not_hold_the_places_of_others(tiny_tokenizer):
    """Far fewer passes than batches take that wait for their longest answer."""
    model, num_places, max_new_tokens = random_model(seed=5), 8, 48
    memory = memory_for(model, num_places, 3, max_new_tokens)
    log = ForwardLog(model)
    sampler = TorchSampler(model, tiny_tokenizer, memory_gib=memory)
    prompts = [[5, 6, 3], [8, 9], [3], [4, 11], [7, 7, 7], [2], [12, 5], [9, 14]] * 2
    params = SamplingParams(1.0, max_new_tokens)
    sampled = sample_all(sampler, prompts, seeds_for(16, 8), params)
    lengths = [[len(c.token_ids) for c in group] for group in sampled]
    assert min(map(min, lengths)) < 6 and max(map(max, lengths)) == max_new_tokens
    in_batches = sum(map(max, lengths))
    needed = sum(map(sum, lengths)) / num_places
    decoded = sum(width == 1 for width in log.widths)
    assert needed < 0.6 * in_batches
    assert decoded < min(0.75 * in_batches, 1.25 * needed)


def test_prompts_are_yielded_as_soon_as_their_samples_have_ended(tiny_tokenizer):
    model = random_model(seed=5)
    log = ForwardLog(model)
    sampler = TorchSampler(model, tiny_tokenizer)
    prompts, seeds_PG = [[5, 6, 3], [8, 9], [3], [4, 11]], seeds_for(4, 3)
    longest = []
    for _, completions in sampler.sample(prompts, seeds_PG, SamplingParams(1.0, 48)):
        longest.append(max(len(c.token_ids) for c in completions))
        assert len(log.rows) == longest[-1]  # a pass for each token
    assert longest[0] < longest[-1]


def test_the_peak_of_memory_follows_the_budget(tiny_tokenizer, monkeypatch):
    """Twice: the whole of each budget is used, and no more but what a forward pass takes."""
    monkeypatch.setattr(torch_sampler, "PIECE_BYTES", 2**16)
    model = random_model(vocabulary=500)
    prompts = [[3 + p, 4, 5] for p in range(16)]
    seeds_PG, params = seeds_for(16, 24), SamplingParams(1.0, 8, top_p=0.99)
    peaks, tokens = [], []
    for budget in (2**20, 2**22):
        sampler = TorchSampler(model, tiny_tokenizer, memory_gib=budget / 2**30)
        row_bytes(model)  # which is not part of the peak
        with PeakMemory([*model.parameters(), *model.buffers()]) as memory:
            sampled = sample_all(sampler, prompts, seeds_PG, params)
        peaks.append(memory.peak)
        tokens.append([[c.token_ids for c in group] for group in sampled])
        assert 0.9 * budget < memory.peak < 1.1 * budget + 2**20
    assert tokens[0] == tokens[1]
    assert peaks[1] > 2 * peaks[0]


def test_memory_for_less_than_one_sample_is_refused(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer, memory_gib=1e-5)
    with pytest.raises(UserError, match=r"^rollout\.memory_gib=1e-05 .* takes \S+ GiB$"):
        sample_all(sampler, prompts, seeds_for(len(prompts), 2), PARAMS)


def test_completions_end_at_the_end_token_or_the_limit(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    limit = 14  # long enough for some solutions, too short for others
    reasons = Counter()
    for group in sample_all(
        sampler, prompts, seeds_for(len(prompts), 8), SamplingParams(1.0, limit)
    ):
        for completion in group:
            reasons[completion.finish_reason] += 1
            ids = completion.token_ids
            assert EOS not in ids[:-1]
            assert len(ids) == len(completion.logprobs) <= limit
            if completion.finish_reason is FinishReason.STOP:
                assert ids[-1] == EOS
                body = ids[:-1]
            else:
                assert len(ids) == limit and ids[-1] != EOS
                body = ids
            # One character per token, and the end token leaves no trace.
            assert completion.text == "".join(tiny_tokenizer.convert_ids_to_tokens(list(body)))
    assert reasons[FinishReason.STOP] > 0 and reasons[FinishReason.LENGTH] > 0


def test_the_limit_counts_the_end_token(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    seeds_PG = seeds_for(1, 1)
    ((whole,),) = sample_all(sampler, prompts[:1], seeds_PG, PARAMS)
    length = len(whole.token_ids)
    assert whole.finish_reason is FinishReason.STOP and length > 2
    ((fits,),) = sample_all(sampler, prompts[:1], seeds_PG, SamplingParams(1.0, length))
    assert fits == whole
    ((cut,),) = sample_all(sampler, prompts[:1], seeds_PG, SamplingParams(1.0, length - 1))
    assert cut.token_ids == whole.token_ids[:-1] and cut.text == whole.text
    assert cut.finish_reason is FinishReason.LENGTH


def test_every_end_token_of_the_generation_config_ends(tiny_tokenizer):
    model = random_model(seed=5)
    model.generation_config.eos_token_id = [EOS, 7]
    sampler = TorchSampler(model, tiny_tokenizer)
    (completions,) = sample_all(sampler, [[5, 6, 3]], seeds_for(1, 200), SamplingParams(1.0, 20))
    ended = [c for c in completions if c.finish_reason is FinishReason.STOP]
    assert {c.token_ids[-1] for c in ended} == {EOS, 7}
    assert all(not {EOS, 7} & set(c.token_ids[:-1]) for c in completions)


def test_stop_texts_and_stop_tokens_end_a_completion(tiny_model, tiny_tokenizer, prompts):
    """A token that decoding leaves out ends it as its text would, were it not left out."""
    special = copy.deepcopy(tiny_tokenizer)
    special.add_special_tokens({"additional_special_tokens": [";"]})
    assert len(special) == len(tiny_tokenizer)
    seeds = seeds_for(len(prompts), 8)
    params = replace(PARAMS, stop=("=3", ";"))
    texts = sample_all(
        TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer), prompts, seeds, params
    )
    tokens = sample_all(TorchSampler(copy.deepcopy(tiny_model), special), prompts, seeds, params)
    assert texts == tokens
    (semicolon,) = tiny_tokenizer.encode(";", add_special_tokens=False)
    ended = [c for group in tokens for c in group if semicolon in c.token_ids]
    assert len(ended) > len(prompts)
    assert all(c.token_ids.index(semicolon) == len(c.token_ids) - 1 for c in ended)
    assert {c.finish_reason for c in ended} == {FinishReason.STOP}
    assert not any(";" in c.text or "=3" in c.text for group in tokens for c in group)


def certain_model():
    """A model whose logits are so far apart that its samples never differ."""
    model = random_model(seed=2)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e6)
    return model


def test_identical_samples_are_one_row_from_beginning_to_end(tiny_tokenizer):
    model = certain_model()
    log = ForwardLog(model)
    prompts = [[5, 6, 7], [8, 9], [3], [4, 11, 12, 13]]
    sampler = TorchSampler(model, tiny_tokenizer)
    sampled = sample_all(sampler, prompts, seeds_for(4, 50), SamplingParams(1.0, 10))
    assert [len(set(group)) for group in sampled] == [1, 1, 1, 1]
    lengths = [len(group[0].token_ids) for group in sampled]
    # Forward pass t gives the distribution of token t, for the prompts that are still running.
    assert log.rows == [sum(length > t for length in lengths) for t in range(max(lengths))]
    assert log.rows[0] == 4 and len(log.rows) > 1
    assert log.widths == [4] + [1] * (len(log.rows) - 1)


def test_prompts_are_prefilled_once_and_rows_are_distinct_prefixes(
    tiny_model, tiny_tokenizer, prompts
):
    model = copy.deepcopy(tiny_model)
    log = ForwardLog(model)
    sampled = sample_all(
        TorchSampler(model, tiny_tokenizer), prompts, seeds_for(len(prompts), 16), PARAMS
    )
    assert log.widths == [max(map(len, prompts))] + [1] * (len(log.widths) - 1)
    for t, rows in enumerate(log.rows):
        prefixes = {
            (p, c.token_ids[:t])
            for p, group in enumerate(sampled)
            for c in group
            if len(c.token_ids) > t
        }
        assert rows == len(prefixes), f"forward pass {t}"
    assert log.rows[0] == len(prompts) < max(log.rows) < 16 * len(prompts)


def test_buffers_stay_in_place(tiny_model, tiny_tokenizer, prompts):
    model = copy.deepcopy(tiny_model)
    log = ForwardLog(model)
    sample_all(TorchSampler(model, tiny_tokenizer), prompts, seeds_for(len(prompts), 32), PARAMS)
    assert len(log.buffers) > 2 and len(set(log.buffers)) == 1
    assert len(set(log.rows)) > 3


def test_load_weights_copies_and_sets_the_version(tiny_model, tiny_tokenizer, prompts):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    assert sampler.policy_version == 0
    learner = copy.deepcopy(tiny_model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    snapshot = copy.deepcopy(learner)
    sampler.load_weights(learner.named_parameters(), version=7)
    assert sampler.policy_version == 7
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.zero_()  # the learner goes on; the sampler has its own copy
    ((completion,),) = sample_all(sampler, prompts[:1], [[11]], PARAMS)
    expected = forward_alone(snapshot, prompts[0], completion)
    np.testing.assert_allclose(completion.logprobs, expected, atol=1e-5)
    before = forward_alone(tiny_model, prompts[0], completion)
    assert np.abs(before - expected).max() > 1e-3  # the weights did change the distribution


def test_load_weights_refuses_missing_and_unknown_names(tiny_model, tiny_tokenizer):
    sampler = TorchSampler(copy.deepcopy(tiny_model), tiny_tokenizer)
    weights = list(tiny_model.named_parameters())
    with pytest.raises(KeyError, match=weights[3][0].replace(".", r"\.")):
        sampler.load_weights(weights[:3] + weights[4:], version=1)
    with pytest.raises(KeyError, match="no_such_layer"):
        sampler.load_weights([*weights, ("no_such_layer.weight", torch.zeros(1))], version=1)
    assert sampler.policy_version == 0


def test_a_model_without_an_end_token_is_refused(tiny_tokenizer):
    model = random_model()
    model.generation_config.eos_token_id = None
    model.config.eos_token_id = None
    with pytest.raises(UserError, match="eos_token_id"):
        sample_all(TorchSampler(model, tiny_tokenizer), [[5]], [[1]], PARAMS)
