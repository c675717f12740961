"""Interpolate the weights of two models, (1 - w) A + w B, one tensor at a time.

A baseline that needs no training: weight-space ensembles of a fine-tuned model and its start
(Wortsman et al. 2022, arXiv:2109.01903).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from passk.errors import UserError
from passk.learner.lora import base_parameters
from passk.learner.policy import Tokenizer, load_tokenizer, local_folder, model_name, reading_model
from passk.learner.weight_files import (
    Stored,
    fits_by_name,
    not_finite,
    read_tensor,
    refuse_not_finite,
    stored_tensors,
)

# Settings of config.json that change nothing of what a model computes.
_INCIDENTAL = ("architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


@dataclass(frozen=True, eq=False)
class Interpolation:
    """The weights (1 - w) A + w B of two models whose files name the same tensors.

    Attributes:
        one, other: the tensors of A and B in their files.
        names: the model's parameters, each once.
        weight: w, from 0 (A) to 1 (B).
        other_name: B in messages.
        step: number of the policy; nothing is trained.
    """

    one: Mapping[str, Stored]
    other: Mapping[str, Stored]
    names: tuple[str, ...]
    weight: float
    other_name: str
    step: int = 0

    @property
    def folder(self) -> str:
        """Name of the directory of its evaluation, such as `weight-0.25`: unlike for unlike w."""
        return f"weight-{np.format_float_positional(self.weight, trim='-')}"

    def weight_names(self) -> list[str]:
        """Return the names that `weights` yields."""
        return list(self.names)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the interpolated parameters by name, each once, read from the files as they come.

        Raises UserError for a tensor that is not finite.
        """
        for name in self.names:
            tensor = mixed(self.one[name], self.other[name], name, self.weight)
            refuse_not_finite(not_finite([(name, tensor)]), self.other_name)
            yield name, tensor


def mixed(one: Stored, other: Stored, name: str, weight: float) -> Tensor:
    """Compute (1 - w) A + w B of one tensor in float64, rounded once to float32.

    w = 0 and w = 1 give the tensor of A and of B bit for bit.
    """
    if weight in (0, 1):
        return read_tensor((one, other)[int(weight)], name).float()
    a, b = (read_tensor(stored, name).double() for stored in (one, other))
    return a.mul_(1 - weight).add_(b, alpha=weight).float()


def interpolations(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    paths: tuple[str, str],
    weights: tuple[float, ...],
    trust_remote_code: bool = False,
) -> list[Interpolation]:
    """Return the interpolation at each weight between the models at two `paths`.

    `model` and `tokenizer` are those of the first. Raises UserError unless both are of one
    architecture and size, with one vocabulary, and their files name tensors as the model does.
    """
    other_name = f"interpolate={paths[1]}"
    _refuse_other_config(model, paths[1], trust_remote_code)
    _refuse_other_tokens(tokenizer, paths[1], trust_remote_code)
    stored: list[dict[str, Stored]] = []
    for path, name in zip(paths, (model_name(paths[0]), other_name), strict=True):
        folder = local_folder(path)
        with reading_model(path):
            fits = fits_by_name(model, folder, name)
        if not fits:
            raise UserError(
                f"{name}: its files do not hold the tensors of {type(model).__name__} "
                "under the model's own names and shapes, each once, so they cannot be "
                "interpolated; save the model anew with the installed transformers"
            )
        stored.append(stored_tensors(folder))
    names = tuple(name for name, _ in base_parameters(model))
    one, other = stored
    return [Interpolation(one, other, names, weight, other_name) for weight in weights]


def _refuse_other_config(model: PreTrainedModel, path: str, trust_remote_code: bool) -> None:
    """Raise UserError if config.json at `path` describes another model."""
    folder = local_folder(path)
    with reading_model(path):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    ours, theirs = _decisive(model.config), _decisive(config)
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            raise UserError(
                f"interpolate={path} is of another architecture ({key}={theirs.get(key)}, not "
                f"{ours.get(key)}); weights can be interpolated between models of one architecture "
                "and size"
            )


def _decisive(config: Any) -> dict[str, Any]:
    """Return the settings that decide what a model computes; token ids are compared elsewhere."""
    return {
        key: value
        for key, value in config.to_dict().items()
        if key not in _INCIDENTAL and not key.startswith("_") and not key.endswith("_token_id")
    }


def _refuse_other_tokens(tokenizer: Tokenizer, path: str, trust_remote_code: bool) -> None:
    """Raise UserError if the tokenizer at `path` has another vocabulary."""
    other = load_tokenizer(path, trust_remote_code=trust_remote_code)
    ours, theirs = tokenizer.get_vocab(), other.get_vocab()
    differing = sorted(word for word, _ in ours.items() ^ theirs.items())
    if differing:
        raise UserError(
            f"interpolate={path} has another vocabulary (the token {differing[0]!r} has the id "
            f"{theirs.get(differing[0])} there, and {ours.get(differing[0])} in the evaluated "
            "model); weights can be interpolated between models with one tokenizer"
        )
    text = "".join(ours)[:2000]
    if tokenizer(text)["input_ids"] != other(text)["input_ids"]:
        raise UserError(
            f"interpolate={path} has another tokenizer: it splits the same text into other tokens "
            "of the same vocabulary; weights can be interpolated between models with one tokenizer"
        )
