"""Several ranks compute what one computes, up to the order of sums."""

import json
import os

import pytest
import torch
from gradient_cases import CASES, assert_as_one_process
from random_models import mixtral, random_model
from rank_work import frozen, gradients, rolled_out, rollouts, some_rows

from passk.cli.launch import launch
from passk.learner.micro_batches import balanced
from passk.learner.policy import load_tokenizer

pytestmark = pytest.mark.usefixtures("forked_ranks")
SMALL_BATCHES = {"max_tokens_per_batch": 100}
SETTINGS = (
    {},
    SMALL_BATCHES,
    SMALL_BATCHES | {"defer_reduction": False},
    SMALL_BATCHES | {"gradient_checkpointing": True},
    {"replicas": 2},
    {"cpu_offload": True},
    SMALL_BATCHES | {"prefix_trees": True},
)


@pytest.mark.parametrize(
    ("num_ranks", "settings"),
    [(2, SETTINGS), (4, (SMALL_BATCHES | {"replicas": 2}, {}, {"prefix_trees": True}))],
)
def test_the_gradient_is_that_of_one_process(tmp_path, num_ranks, settings):
    out = tmp_path / "found.json"
    launch(gradients, num_ranks, str(out), {"tiny": "tiny"}, settings, list(CASES.values()))
    found = json.loads(out.read_text())
    assert len(found) == len(settings)
    for setting in found.values():
        assert_as_one_process(setting, "tiny")


def test_gradients_of_a_part_are_those_of_one_process(tmp_path):
    """Of the last layer, all of whose shards are trained, and of the norm beside frozen ones."""
    parts = ["last_layer", "final_norm"]
    launch(frozen, 2, str(tmp_path / "two.json"), parts, CASES["many rows"])
    frozen(str(tmp_path / "one.json"), parts, CASES["many rows"])
    two, one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("two", "one"))
    for mine, theirs in zip(two, one, strict=True):
        for found, expected in zip(map(torch.tensor, mine), map(torch.tensor, theirs), strict=True):
            assert (found - expected).norm() <= 1e-5 * expected.norm()
        assert 0 < sum(value != 0 for value in theirs[2]) <= theirs[4][0] < len(theirs[2])


def test_any_architecture_is_read_into_shards(tmp_path):
    """Tied heads, buffers of all kinds, weights in another dtype; and experts, which are joined."""
    models = {name: random_model(name) for name in ("llama", "qwen3", "gpt_neox", "gemma3", "gpt2")}
    models["mixtral"] = mixtral()
    models["bfloat16"] = random_model("llama").bfloat16()
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        load_tokenizer("tiny").save_pretrained(tmp_path / name)
    paths = {name: str(tmp_path / name) for name in models}
    launch(gradients, 2, str(tmp_path / "out.json"), paths, [{}], list(CASES.values()))
    found = json.loads((tmp_path / "out.json").read_text())
    for name, setting in zip(models, found.values(), strict=True):
        assert_as_one_process(setting, paths[name])


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    launch(os.getpid, 2)
    assert not list(tmp_path.iterdir())


def test_tokens_are_dealt_out_evenly():
    lengths = [len(row) for row in some_rows(100)]
    for num_shares in (1, 2, 3, 8):
        shares = balanced(lengths, num_shares)
        assert sorted(place for share in shares for place in share) == list(range(100))
        totals = [sum(lengths[place] for place in share) for share in shares]
        assert max(totals) - min(totals) <= max(lengths)


def test_ranks_that_share_an_engine_draw_together_and_judge_apart(tmp_path):
    """Groups of 1, 2 and 4 of four ranks, with fewer problems than ranks, and more."""
    sizes, counts = [1, 2, 4], [1, 3, 11]
    launch(rollouts, 4, str(tmp_path / "found.json"), sizes, counts)
    found = json.loads((tmp_path / "found.json").read_text())
    cases = [(size, count) for size in sizes for count in counts]
    for (size, count), ranks in zip(cases, found, strict=True):
        alone, prompts, _ = rolled_out(count, 1)
        expected = [
            [g.problem.id, [c.text for c in g.completions], list(g.rewards())] for g in alone.groups
        ]
        for number, (groups, drawn, judged) in enumerate(ranks):
            assert groups == expected, (size, count)
            assert drawn == ranks[number - number % size][1], "as the first of its group"
            assert len(set(judged)) <= -(-len(drawn) // size)
        firsts = [drawn for _, drawn, _ in ranks[::size]]
        assert sorted(p for drawn in firsts for p in drawn) == sorted(prompts), "in one group"
        assert max(map(len, firsts)) - min(map(len, firsts)) <= 1
        everything = [set(judged) for _, _, judged in ranks]
        assert sum(map(len, everything)) == len(set().union(*everything)) == count, "judged once"
