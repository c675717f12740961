"""Every term of `scripts/sizing.py` against what learner, sampler and checkpoint really do."""

import itertools
import json
from dataclasses import replace
from math import comb

import numpy as np
import pytest
import sizing
import torch
from sizing import make_learner, make_rows, model_config, processor_seconds, simulated_peak
from sizing_work import held_bytes, step_collectives
from small_runs import train
from step_costs import (
    MODELS,
    Hardware,
    Job,
    Shape,
    activation_bytes,
    checkpoint_bytes,
    collectives,
    kv_bytes,
    layer_input_bytes,
    learned_share,
    learner_flops,
    learner_memory,
    learner_phases,
    micro_batches,
    resident,
    step_seconds,
)
from torch.utils.flop_counter import (
    FlopCounterMode,
    addmm_flop,
    sdpa_backward_flop,
    sdpa_flop,
)
from transformers import AutoModelForCausalLM

from passk.cli.launch import launch
from passk.config.schema import ModelConfig
from passk.learner.logprobs import token_logprobs
from passk.learner.policy import load_policy
from passk.objectives.advantages import mixture_advantages
from passk.rollout.row_cache import RowCache

# every dimension divides by 4 ranks, so that nothing is padded
EVEN = Shape(hidden=32, layers=3, heads=4, kv_heads=2, intermediate=48, vocabulary=64, tied=False)
UNEVEN = replace(EVEN, hidden=36, heads=3, kv_heads=1, intermediate=50, vocabulary=61, tied=True)
SMALL = Job(
    success=(0.5,),
    num_prompts=4,
    num_samples=8,
    k=2,
    prompt_tokens=8,
    answer_tokens=24,
    max_tokens_per_batch=64,
    compute_bytes=4,
)


@pytest.mark.parametrize(("name", "billions"), [("0.5b", 0.494), ("7b", 7.616), ("70b", 72.706)])
def test_shapes_have_the_parameters_of_their_models(name, billions):
    shape = MODELS[name]
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=5e-4)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config(shape))
    assert model.num_parameters() == shape.parameters


@pytest.mark.parametrize("shape", [EVEN, UNEVEN])
def test_adapters_have_the_parameters_that_peft_gives_them(shape):
    learner = make_learner(shape, replace(SMALL, lora_rank=4), torch.device("cpu"))
    assert learner.num_local_parameters() == shape.trained(4)


def test_the_share_that_is_learned_from_is_what_all_outcomes_say():
    for n, k, weight, p in itertools.product((2, 5, 6), (1, 2, 5), (0.0, 0.5, 1.0), (0.1, 0.7)):
        if k > n:
            continue
        job = Job(num_samples=n, k=k, pass1_weight=weight, success=(p,))
        outcomes_PG = np.array(list(itertools.product((0.0, 1.0), repeat=n)))
        c_P = outcomes_PG.sum(axis=1)
        chance_P = p**c_P * (1 - p) ** (n - c_P)
        used_P = (mixture_advantages(outcomes_PG, k, weight) != 0).mean(axis=1)
        assert learned_share(job) == pytest.approx(chance_P @ used_P)


def test_what_pass_at_k_alone_learns_from_in_closed_form():
    """Right answers count up to c = n-k+1, wrong ones from c = 1 to n-k."""
    n, k, p = 16, 8, 0.3
    chance = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    right = sum(chance[c] * c for c in range(1, min(n - 1, n - k + 1) + 1))
    wrong = sum(chance[c] * (n - c) for c in range(1, n - k + 1))
    job = Job(num_samples=n, k=k, pass1_weight=0.0, success=(p,))
    assert learned_share(job) == pytest.approx((right + wrong) / n)


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_bytes_per_parameter_of_each_rank(tmp_path, num_ranks):
    job = replace(SMALL, ranks=num_ranks)
    out = tmp_path / "held.json"
    launch(held_bytes, num_ranks, str(out), UNEVEN, job)
    ranks = json.loads(out.read_text())
    predicted = resident(UNEVEN, job) | {"gradient": 4 * UNEVEN.parameters / num_ranks}
    for name, size in predicted.items():
        found = [held[name] for held in ranks]
        assert sum(found) == pytest.approx(size * num_ranks), name
        # the first dimension is cut in whole rows, the first ranks get one more
        assert max(found) <= 1.1 * size, name


def test_bytes_of_a_checkpoint(tmp_path):
    """Weights and both moments, and at most the weights again; tokenizer and names besides."""
    words = ("train.num_steps=1", "eval.every=0", "diagnostics.every=0")
    assert train(tmp_path / "run", *words) == 0
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    parameters = load_policy(ModelConfig(), "tiny", torch.device("cpu")).num_parameters()
    assert 12 * parameters <= size <= 16.3 * parameters
    assert checkpoint_bytes(EVEN, SMALL) == {
        "weights": 4 * EVEN.parameters,
        "moments": 8 * EVEN.parameters,
        "weights in parts": 4 * EVEN.parameters,
    }


def jobs_to_trace(num_ranks: int) -> list[Job]:
    job = replace(SMALL, ranks=num_ranks, num_prompts=2, num_samples=2 * num_ranks)
    jobs = [
        job,
        replace(job, defer_reduction=False),
        replace(job, gradient_checkpointing=True),
        replace(job, compute_bytes=2),
        replace(job, num_prompts=1),
    ]
    return jobs + [replace(job, replicas=2)] * (num_ranks == 4)


@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_collectives_of_a_step_are_counted_exactly(tmp_path, num_ranks):
    jobs = jobs_to_trace(num_ranks)
    assert {micro_batches(job) for job in jobs} == {1, 2}
    out = tmp_path / "found.json"
    launch(step_collectives, num_ranks, str(out), EVEN, jobs)
    for job, found in zip(jobs, json.loads(out.read_text()), strict=True):
        expected, update = collectives(EVEN, job), found["update"]
        assert update["allgather_base"] == [expected.all_gathers, expected.gathered]
        assert update["reduce_scatter_base"] == [expected.reduce_scatters, expected.scattered]
        assert update["allreduce"][0] == expected.all_reduces
        assert update["allgather"][0] == 2  # what ranks tell each other of losses, and its length
        names = 3 + EVEN.layers * 9
        assert [count for count, _ in found["weights"].values()] == [names]  # one a tensor
        assert found["whole"] == 4 * EVEN.parameters


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("again", [False, True])
def test_operations_of_a_step(again, lora_rank):
    shape = replace(EVEN, hidden=64, intermediate=160, vocabulary=512, attention_bias=True)
    job = replace(SMALL, gradient_checkpointing=again, lora_rank=lora_rank)
    learner = make_learner(shape, job, torch.device("cpu"))
    rows = make_rows(job, 1)
    aten = torch.ops.aten
    ours = {  # products that torch's table does not know; causal attention is half of its square
        aten.addmm_: lambda total, a, b, *_, **__: addmm_flop(total, a, b),
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: (
            sdpa_flop(q, q, q) // 2
        ),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: (
            sdpa_backward_flop(g, q, q, q) // 2
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=ours) as counted:
        learner.update(rows)
    expected = learner_flops(shape, job, len(rows))
    assert counted.get_total_flops() == pytest.approx(expected, rel=0.05 if lora_rank else 0.005)


def saved_bytes(shape: Shape, job: Job) -> int:
    """Bytes of the distinct tensors that autograd keeps of one micro-batch, but for parameters."""
    learner = make_learner(shape, job, torch.device("cpu"))
    owned = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ids = torch.ones(2, 32, dtype=torch.long)
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, 0] = False
        logp = token_logprobs(learner.model, ids, mask, 1.0, learner.compute_dtype)
    total = sum(storage.nbytes() for storage in kept.values())
    del logp
    return total


@pytest.mark.parametrize("lora_rank", [0, 4])
@pytest.mark.parametrize("compute_bytes", [2, 4])
@pytest.mark.parametrize("again", [False, True])
def test_bytes_per_token_and_layer(compute_bytes, again, lora_rank):
    """What one more layer keeps, in a single process: the difference of two depths."""
    shape = replace(EVEN, hidden=128, heads=8, kv_heads=2, intermediate=320, attention_bias=True)
    job = replace(
        SMALL,
        compute_bytes=compute_bytes,
        gradient_checkpointing=again,
        lora_rank=lora_rank,
    )
    kept = [saved_bytes(replace(shape, layers=layers), job) for layers in (2, 4)]
    found = (kept[1] - kept[0]) / 2 / 64
    if compute_bytes == 2 and not again:  # copies of the weights are kept too, once a layer
        copies = shape.layer_matrices + (
            shape.trained(lora_rank) / shape.layers if lora_rank else 0
        )
        found -= 2 * (copies + (shape.queries + 2 * shape.keys)) / 64
    expected = layer_input_bytes(shape, job) if again else activation_bytes(shape, job)
    assert found == pytest.approx(expected, rel=0.03)


PEAKS = [
    replace(SMALL, ranks=8, gradient_checkpointing=True),
    replace(SMALL, ranks=8, compute_bytes=2),
    replace(SMALL, ranks=8, compute_bytes=2, defer_reduction=False),
    replace(SMALL, ranks=8, replicas=2, compute_bytes=2, gradient_checkpointing=True),
    replace(SMALL, ranks=1, compute_bytes=2),
    replace(SMALL, ranks=1, sharded=True, compute_bytes=2),
    replace(SMALL, ranks=1, compute_bytes=2, lora_rank=16),
]


@pytest.mark.parametrize("job", PEAKS)
def test_peak_memory_of_the_real_step(job):
    """The learner's update on tensors without memory; `sizing.py check` has real sizes."""
    shape = replace(MODELS["0.5b"], layers=4, vocabulary=32000)
    job = replace(
        job, num_prompts=64, prompt_tokens=128, answer_tokens=384, max_tokens_per_batch=4096
    )
    predicted = sum(learner_memory(shape, job)[1].values())
    assert simulated_peak(shape, job) == pytest.approx(predicted, rel=0.05)


def test_bytes_per_token_of_the_samplers_cache():
    model = AutoModelForCausalLM.from_config(model_config(EVEN), dtype=torch.bfloat16)
    cache = RowCache(3, 10)
    with torch.no_grad():
        model(torch.ones(3, 10, dtype=torch.long), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 30 * kv_bytes(EVEN, SMALL)


def test_seconds_follow_operations():
    """A size and length whose speed was measured tell the seconds of a deeper, longer job.

    Processor time of one thread, best of three, which other work on the machine disturbs little.
    """
    shape = replace(EVEN, hidden=256, heads=4, intermediate=688, vocabulary=2048)
    known = replace(SMALL, prompt_tokens=32, answer_tokens=96, max_tokens_per_batch=512)
    other = replace(known, prompt_tokens=64, answer_tokens=192, max_tokens_per_batch=1024)
    flops, seconds = processor_seconds(replace(shape, layers=4), known, tries=3)
    more, found = processor_seconds(replace(shape, layers=8), other, tries=3)
    assert seconds * more / flops == pytest.approx(found, rel=0.5)


def test_what_fits_says_so(capsys):
    assert sizing.main(["job", "--model", "7b", "--ranks", "8", "--gradient-checkpointing"]) == 0
    out = capsys.readouterr().out
    assert "DOES NOT FIT" not in out and "29 reduce-scatters" in out
    assert sizing.main(["job", "--model", "7b", "--ranks", "1"]) == 0
    assert "DOES NOT FIT 77" in capsys.readouterr().out


def test_more_ranks_never_need_more_memory():
    for shape in MODELS.values():
        peaks = [
            sum(learner_memory(shape, Job(ranks=ranks, num_prompts=4096))[1].values())
            for ranks in (2, 4, 8, 16, 64)
        ]
        assert peaks == sorted(peaks, reverse=True)


def test_every_phase_is_a_sum_of_positive_terms():
    for phase, terms in learner_phases(MODELS["7b"], Job(ranks=8)).items():
        assert terms and min(terms.values()) > 0, phase


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--ranks 6 --replicas 4", "--replicas"),
        ("--k 32", "--num-samples must be at least 2 and at least --k"),
        ("--max-tokens-per-batch 10", "--max-tokens-per-batch"),
        ("--success 1.5", "--success"),
        ("--compute-bytes 3", "--compute-bytes"),
        ("--weight-bytes 2", "--lora-rank"),
        ("--config nowhere", "--config nowhere"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(capsys, words, says):
    assert sizing.main(["job", *words.split()]) == 2
    err = capsys.readouterr().err
    assert err.startswith("sizing: ") and says in err and err.count("\n") == 1


def test_a_shape_is_read_from_a_configuration(tmp_path):
    for shape in (MODELS["7b"], replace(EVEN, head_dim=8)):
        model_config(shape).save_pretrained(tmp_path)
        assert sizing.read_shape(tmp_path).parameters == shape.parameters
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(sizing.UserError, match="gpt2 is not modelled"):
        sizing.read_shape(tmp_path)


def test_slower_hardware_takes_longer():
    job = Job(ranks=16)
    fast = step_seconds(MODELS["7b"], job, Hardware())
    for name in ("flops", "memory_bytes", "node_link_bytes", "host_bytes"):
        slow = Hardware(**{name: getattr(Hardware(), name) / 100})
        assert sum(step_seconds(MODELS["7b"], job, slow).values()) > sum(fast.values()), name
