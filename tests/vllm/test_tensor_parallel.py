"""One engine on two ranks: it holds the policy in parts, and samples as an engine of its own."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from engine_runs import VLLM, logprob_gap, passk
from small_runs import SMALL, metrics
from tensor_parallel_work import hold_and_sample
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from passk.cli.launch import launch
from passk.config.schema import ModelConfig
from passk.learner.policy import load_policy, load_tokenizer
from passk.types import Completion, FinishReason

pytestmark = pytest.mark.usefixtures("forked_ranks")
TWO = ("learner.num_processes=2", "rollout.tensor_parallel=2")


def models():
    """Class, configuration and what nobody can tell: a model with biases, and with a key and value
    head that both ranks hold; one whose weights are turned, and some joined in the file."""
    sizes = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 200}
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    llama = LlamaConfig(**sizes, **heads, **ends, attention_bias=True, mlp_bias=True)
    gpt2 = GPT2Config(vocab_size=200, n_positions=64, n_embd=128, n_layer=2, n_head=4, **ends)
    return {
        "llama": (LlamaForCausalLM, llama, "nothing"),
        "gpt2": (GPT2LMHeadModel, gpt2, "c_attn"),
    }


@pytest.mark.parametrize("name", models())
def test_every_part_arrives_and_both_ranks_draw_what_one_would(tmp_path, name):
    model_class, config, untold = models()[name]
    torch.manual_seed(0)
    model = model_class(config)
    for policy in ("one", "two"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / policy)
        load_tokenizer("tiny").save_pretrained(tmp_path / policy)
    prompts = [[3, 4, 5], [6, 7, 8, 9], [3] * 20]
    launch(hold_and_sample, 2, str(tmp_path), prompts, [[1, 2], [3, 4], [5, 6]], 16)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for rank, answers in enumerate(found):
        told = [(expected, held, name) for expected, name, held in answers["held"]]
        for expected, held, parameter in told:
            if held is None:
                assert untold in parameter, (rank, parameter)
            else:
                assert held is expected, (rank, parameter)
        assert sum(held is not None for _, held, _ in told) >= 0.8 * len(told)
    assert found[0]["drawn"] == found[1]["drawn"]
    sampled = [
        [Completion("", tuple(ids), tuple(logprobs), FinishReason.STOP) for ids, logprobs in group]
        for group in found[0]["drawn"]
    ]
    policy = load_policy(ModelConfig(), str(tmp_path / "two"), torch.device("cpu"))
    assert logprob_gap(policy, prompts, sampled) < 1e-3
    assert len({c.token_ids for group in sampled for c in group}) > 3


def test_a_run_with_a_shared_engine_is_the_run_of_one_process(tmp_path):
    words = [*SMALL, *VLLM, "learner.schedule=constant", "eval.every=2", "diagnostics.every=2"]
    for name, more in (("one", ("learner.num_processes=1",)), ("two", TWO)):
        run = [f"hydra.run.dir={name}", "train.num_steps=3", "train.save_every=2"]
        outcome = passk(tmp_path, "train", *words, *run, *more)
        assert outcome.code == 0, outcome.err
    one, two = (metrics(tmp_path / name) for name in ("one", "two"))
    for key in ("reward_mean", "reasons", "pass1", "passk"):
        assert [line[key] for line in one] == [line[key] for line in two], key
    for key in ("loss", "grad_norm", "alignment"):
        np.testing.assert_allclose(
            [line[key] or 0.0 for line in two], [line[key] or 0.0 for line in one], rtol=1e-3
        )
    for step in range(3):
        file = f"rollouts/step-{step:06d}.parquet"
        rows, also = (pd.read_parquet(tmp_path / name / file) for name in ("one", "two"))
        exact = ["problem_id", "sample", "completion", "reward", "reason", "policy_version"]
        pd.testing.assert_frame_equal(rows[exact], also[exact])
        np.testing.assert_allclose(rows["logprob_sampler"], also["logprob_sampler"], atol=1e-3)
    table = (tmp_path / "one" / "eval" / "table.csv").read_bytes()
    assert table == (tmp_path / "two" / "eval" / "table.csv").read_bytes()

    # What was trained so is measured on one rank, or so again, with the same samples.
    for name, more in (("m1", ()), ("m2", TWO)):
        run = ["run=two", f"hydra.run.dir={name}", *VLLM, *more]
        outcome = passk(tmp_path, "eval", *run)
        assert outcome.code == 0, outcome.err
    tables = [(tmp_path / name / "eval" / "table.csv").read_bytes() for name in ("m1", "m2")]
    assert tables[0] == tables[1]


def test_a_model_that_cannot_be_cut_is_one_sentence(tmp_path):
    """The shipped model has an even number of heads, and a vocabulary that is padded."""
    words = [*SMALL, *VLLM, "learner.num_processes=3", "rollout.tensor_parallel=3"]
    outcome = passk(tmp_path, "train", *words, "hydra.run.dir=run")
    assert outcome.code == 2
    assert "vLLM did not start" in outcome.err and "divisible" in outcome.err, outcome.err
    assert not (tmp_path / "run").exists()
