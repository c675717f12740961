"""Adapters on several ranks are those of one process, and so is what leaves the learner."""

import shutil

import pytest
import torch
from random_models import model_of, random_model
from rank_runs import STEPS, TWO, WORDS, assert_same_up_to_rounding
from rank_work import adapted, some_rows
from resuming import as_if_killed
from safetensors.torch import load_file
from small_runs import train
from transformers import AutoModelForCausalLM

from passk.cli.launch import launch
from passk.config.schema import ModelConfig
from passk.learner.logprobs import token_logprobs
from passk.learner.lora import adapter_parameters, add_adapters

pytestmark = pytest.mark.usefixtures("forked_ranks")
# Steps in proportion to the gradient: Adam's own would blow up what is all rounding.
STEP = {"lr": 0.02, "eps": 0.1, "schedule": "constant", "max_tokens_per_batch": 100}
ROWS = some_rows(20)
BFLOAT16 = {"dtype": "bfloat16"}
CASES = {
    2: {
        "llama": ("llama", {}, {}),
        "added up at every micro-batch": ("llama", {}, {"defer_reduction": False}),
        "offloading": ("llama", {}, {"cpu_offload": True}),
        "some modules": ("llama", {"lora_targets": "q_proj down_proj"}, {}),
        "tied head, checkpointing": ("gemma3", {}, {"gradient_checkpointing": True}),
        "weights that lie the other way round": ("gpt2", {}, {}),
        "experts, which are joined when loaded": ("mixtral", {}, {}),
        "bfloat16 base": ("llama", BFLOAT16, {}),
        "bfloat16 base and activations": ("llama", BFLOAT16, {"compute_dtype": "bfloat16"}),
    },
    4: {
        "more ranks than rows of A": ("llama", {"lora_rank": 3}, {}),
        "two copies": ("llama", {}, {"replicas": 2}),
    },
}


@pytest.mark.parametrize("num_ranks", CASES)
def test_adapters_on_ranks_are_those_of_one_process(tmp_path, num_ranks):
    jobs, alone = {}, {}
    for case, (name, of_model, of_learner) in CASES[num_ranks].items():
        model_of(name).save_pretrained(tmp_path / name)
        cfg = ModelConfig(**{"lora_rank": 4, "lora_alpha": 8} | of_model)
        jobs[case] = (str(tmp_path / name), cfg, STEP | of_learner)
        alone[case] = (str(tmp_path / name), cfg, STEP | of_learner | {"replicas": 1})
    launch(adapted, 1, str(tmp_path / "one"), alone, ROWS)
    launch(adapted, num_ranks, str(tmp_path / "many"), jobs, ROWS)
    for case, (_, cfg, _) in jobs.items():
        one, many = load_file(tmp_path / f"one-{case}"), load_file(tmp_path / f"many-{case}")
        assert one.keys() == many.keys()
        tolerance = 1e-5 if cfg.dtype == "float32" else 0.03
        moved = [key for key in one if key.startswith("first/") and ".lora_A." in key]
        assert any(not torch.equal(one[k], one[f"state/adapter/{k[6:]}"]) for k in moved), case
        for key, tensor in one.items():
            other = many[key]
            assert other.dtype == tensor.dtype, (case, key)
            if key.startswith("first/"):
                assert torch.equal(other, tensor), (case, key)
            elif key == "base":
                torch.testing.assert_close(other, tensor, rtol=1e-12, atol=0)
            elif tolerance == 1e-5 or not key.startswith(("gradient", "state/")):
                distance = (other.double() - tensor.double()).norm()
                assert distance <= tolerance * tensor.double().norm(), (case, key)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral"])
def test_the_plain_model_is_the_adapted_one(tmp_path, name):
    """Experts too: peft puts layers around layers there."""
    model_of(name).save_pretrained(tmp_path / name)
    job = (str(tmp_path / name), ModelConfig(lora_rank=4), STEP | {"lr": 1.0})
    launch(adapted, 1, str(tmp_path / "out"), {"job": job}, ROWS)
    found = load_file(tmp_path / "out-job")
    before, plain, adapted_model = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32) for _ in range(3)
    )
    weights = {k.removeprefix("weights/"): t for k, t in found.items() if k.startswith("weights/")}
    assert weights.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(weights, strict=False)
    add_adapters(adapted_model, ModelConfig(lora_rank=4), seed=0)
    for key, parameter in adapter_parameters(adapted_model):
        parameter.data.copy_(found[f"state/adapter/{key}"])
    ids = torch.randint(18, (4, 12), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, :3] = False
    with torch.no_grad():
        first, merged, apart = (
            token_logprobs(model.eval(), ids, mask, 1.0) for model in (before, plain, adapted_model)
        )
    assert (merged - first).abs().max() > 0.01
    torch.testing.assert_close(merged, apart, rtol=0, atol=1e-4)


def test_first_adapters_depend_on_the_seed_alone():
    found = []
    for turn, seed in enumerate((0, 0, 1)):
        model = random_model("llama")
        torch.manual_seed(turn)  # whatever was drawn before
        state = torch.get_rng_state()
        add_adapters(model, ModelConfig(lora_rank=2), seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(torch.cat([p.detach().flatten() for _, p in adapter_parameters(model)]))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_run_with_adapters_is_that_of_one_process_and_resumes_on_another_number(tmp_path):
    words = (*WORDS, "model.lora_rank=4")
    one, two = tmp_path / "one", tmp_path / "two"
    assert train(one, *words) == 0
    assert train(two, *words, TWO) == 0
    assert_same_up_to_rounding(one, two)
    for first, processes in ((one, (TWO,)), (two, ())):
        run = tmp_path / f"{first.name}-resumed"
        shutil.copytree(first, run)
        as_if_killed(run, 2)
        assert train(run, *words, *processes, "resume=true") == 0
        assert_same_up_to_rounding(one, run)
    last = f"checkpoints/step-{STEPS:06d}"
    plain = [load_file(run / last / "model.safetensors") for run in (one, two)]
    for name, tensor in plain[0].items():
        torch.testing.assert_close(plain[1][name], tensor, rtol=1e-3, atol=1e-4)
