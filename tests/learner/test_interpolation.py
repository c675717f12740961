"""Weights between two models: exact, read a tensor at a time, and refused where they do not fit."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import random_model
from safetensors.torch import load_file, save_file

from passk.config.schema import ModelConfig
from passk.errors import UserError
from passk.learner.interpolation import Interpolation, interpolations
from passk.learner.policy import load_policy, load_tokenizer

CPU = torch.device("cpu")
WEIGHTS = (0.0, 0.25, 1 / 3, 1.0)
Tensors = dict[str, torch.Tensor]


def save(folder: Path, seed: int, dtype: str = "float32", size: str = "1GB") -> Path:
    model = random_model("llama", seed=seed).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=size)
    load_tokenizer("tiny").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> tuple[Path, Path]:
    """A Llama in one file, and another in several."""
    folder = tmp_path_factory.mktemp("ends")
    return save(folder / "one", 0), save(folder / "other", 1, size="40KB")


def between(
    one: Path, other: Path, weights: tuple[float, ...] = WEIGHTS, tokenizer: str | None = None
) -> list[Interpolation]:
    model = load_policy(ModelConfig(), str(one), CPU)
    tokens = load_tokenizer(tokenizer or str(one))
    return interpolations(model, tokens, (str(one), str(other)), weights)


def state(folder: Path) -> Tensors:
    return dict(load_policy(ModelConfig(), str(folder), CPU).named_parameters())


def test_the_ends_are_bit_for_bit_and_all_between_is_rounded_once(ends):
    assert len(list(ends[1].glob("model-*.safetensors"))) > 1
    a, b = map(state, ends)
    for mixed in between(*ends):
        found = dict(mixed.weights())
        assert list(found) == mixed.weight_names() and set(found) == set(a)
        w = mixed.weight
        for name, tensor in found.items():
            of_a, of_b = (t[name].detach().numpy().astype(np.longdouble) for t in (a, b))
            exact = (1 - np.longdouble(w)) * of_a + np.longdouble(w) * of_b
            assert tensor.dtype == torch.float32
            values = tensor.numpy()
            assert (np.abs(values - exact) <= 0.50001 * np.spacing(np.abs(values))).all()
            if w in (0, 1):
                assert torch.equal(tensor, (a, b)[int(w)][name])
    differ = [not torch.equal(a[name], b[name]) for name in a]
    assert any(differ)


def test_half_precision_is_no_loss(ends, tmp_path):
    coarse = save(tmp_path / "coarse", 0, "bfloat16")
    (mixed,) = between(coarse, ends[1], (0.5,))
    a, b = state(coarse), state(ends[1])
    for name, tensor in mixed.weights():
        assert torch.equal(tensor, ((a[name].double() + b[name].double()) / 2).float())


def test_tensors_are_read_as_they_are_asked_for(ends, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(ends[0], folder)
    (mixed,) = between(folder, ends[1], (0.5,))
    tensors = load_file(folder / "model.safetensors")
    last = mixed.weight_names()[-1]
    tensors[last].fill_(torch.nan)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    stream = mixed.weights()
    count = len(mixed.weight_names()) - 1
    assert len(list(islice(stream, count))) == count
    with pytest.raises(UserError, match=f"NaN or infinity .*{last}"):
        next(stream)


def edited(folder: Path, file: str, **changes) -> None:
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(content))


def without_a_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def with_other_words(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    first, second = list(words)[-2:]
    words[first], words[second] = words[second], words[first]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: edited(f, "config.json", hidden_act="gelu"), "of another architecture"),
        (lambda f: random_model("gpt_neox").save_pretrained(f), "of another architecture"),
        (lambda f: edited(f, "config.json", num_hidden_layers=1), "num_hidden_layers=1, not 2"),
        (without_a_tensor, "do not hold the tensors of LlamaForCausalLM"),
        (with_other_words, "has another vocabulary"),
        (without_a_tokenizer, "holds no tokenizer"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(ends, tmp_path, change, says):
    folder = tmp_path / "changed"
    shutil.copytree(ends[0], folder)
    change(folder)
    with pytest.raises(UserError) as refused:
        between(ends[0], folder)
    assert says in str(refused.value) and str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)
