"""Check that a model's weights are those of its files: names, shapes, dtypes and values.

transformers fills missing tensors with random numbers and skips tensors that have no place in the
model, so a model that loads may still be a different one. Any mismatch found here raises UserError.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel

from passk.errors import UserError

_NUM_NAMED = 3  # tensors that a sentence names, before it counts the others
# Constants of an architecture that old files hold beside its weights; models make them themselves.
_CONSTANTS = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids|masked_bias"
    r"|attn\.bias|attention\.bias)$"
)
_INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "BOOL")  # as files write them


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as its safetensors file describes it: the file, its dtype there, its shape."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


Reshaped = tuple[str, Sequence[int], Sequence[int]]  # a name, its shape in the file, in the model


def _misfit(
    model: PreTrainedModel,
    missing: Sequence[str],
    unexpected: Sequence[str],
    reshaped: Sequence[Reshaped],
) -> str:
    """Describe which tensors of files and model do not fit, and how to correct it.

    They are missing in the files, have no place in the model, or have another shape there.
    """
    found = []
    if missing:
        found.append(f"{_counted(missing)} of the model in no file")
    if unexpected:
        found.append(f"{_counted(unexpected)} of the files without a place in the model")
    if reshaped:
        key, stored, expected = reshaped[0]
        others = f" and {len(reshaped) - 1} more" if len(reshaped) > 1 else ""
        found.append(
            f"{key} is {list(stored)} in the files and {list(expected)} by config.json{others}"
        )
    head = model.get_output_embeddings()
    of_head = [n for n, p in model.named_parameters() if p is getattr(head, "weight", None)]
    if prefix := common_prefix(missing, unexpected):
        advice = f"remove {prefix} from the start of the names in the files"
    elif missing == of_head and not unexpected:
        advice = (
            "where the head shares the embedding's weights, config.json must say "
            "tie_word_embeddings=true"
        )
    else:
        advice = "give the folder as the model was saved, with all its files"
    return (
        f"weights and config.json do not belong together ({type(model).__name__}): "
        f"{'; '.join(found)}; {advice}"
    )


def common_prefix(missing: Sequence[str], unexpected: Sequence[str]) -> str:
    """Return the prefix that the files put before every missing name; empty if it varies."""
    for name in unexpected:
        if missing and name.endswith(missing[0]) and name != missing[0]:
            prefix = name.removesuffix(missing[0])
            return prefix if {prefix + each for each in missing} <= set(unexpected) else ""
    return ""


def refuse_adapter(folder: Path, name: str) -> None:
    """Raise UserError for a folder that holds an adapter, with or without a model beside it.

    `name` is the name of the folder in messages, here and below.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    if any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{name} holds an adapter (adapter_config.json) beside the model; move the adapter's "
            "files away to start from the model alone, or merge both (merge_and_unload of peft)"
        )
    try:
        base = json.loads(file.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError):  # broken, or not a mapping
        base = None
    raise UserError(
        f"{name} is an adapter of {base or 'another model'}, and no model by itself; merge it into "
        "that (merge_and_unload of peft), and give the folder of the merged model"
    )


def check_loaded(
    model: PreTrainedModel, loaded: Mapping[str, Any], stored: Mapping[str, Stored], name: str
) -> None:
    """Raise UserError unless every weight of a model came from its files, and all of theirs fit.

    `loaded` is the `output_loading_info` of `from_pretrained`, `stored` the tensors of the files.
    """
    if getattr(model, "_hf_peft_config_loaded", False):  # from the hub, unchecked before
        raise UserError(f"{name} is an adapter; give the model that it was merged into")
    integers = [n for n, p in model.named_parameters() if not p.is_floating_point()]
    if integers:
        raise UserError(
            f"{name} holds quantised weights ({_counted(integers)}), which have no gradients; give "
            "the model that they were made from"
        )
    parameters = {parameter for parameter, _ in model.named_parameters()}
    tied = model.all_tied_weights_keys.keys() - parameters  # named once, as what they share
    lost = loaded["missing_keys"] - tied
    missing = sorted(n for n in lost if n in parameters or not is_constant(n))
    unexpected = sorted(n for n in loaded["unexpected_keys"] if not is_constant(n))
    reshaped = sorted((n, tuple(a), tuple(b)) for n, a, b in loaded["mismatched_keys"])
    if missing or unexpected or reshaped:
        raise UserError(f"{name}: {_misfit(model, missing, unexpected, reshaped)}")
    refuse_integers(stored, name)
    declared = model.get_expanded_tied_weights_keys(all_submodels=True)
    for head in declared.keys() - model.all_tied_weights_keys.keys():
        refuse_second_head(head, declared[head], name)


def fits_by_name(model: PreTrainedModel, folder: Path, name: str) -> bool:
    """Return True if files hold each weight of a model under its own name, once, and nothing else.

    A tied head may be there too, with the values of the embedding; with other values it raises
    UserError, as do weights stored as integers.
    """
    stored, tied = stored_tensors(folder), model.all_tied_weights_keys
    expected = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    unknown = (stored.keys() | model.state_dict().keys()) - expected.keys() - tied.keys()
    unknown = {
        key
        for key in unknown
        if not is_constant(key) and not any(pattern.search(key) for pattern in ignored)
    }
    beside = set(folder.glob("*.safetensors")) - {tensor.file for tensor in stored.values()}
    again = expected.keys() & {key for file in beside for key in _headers(file)}
    found = {key: stored[key].shape for key in expected.keys() & stored.keys()}
    is_quantised = getattr(model.config, "quantization_config", None)
    if found != expected or unknown or again or is_quantised:
        return False
    refuse_integers(stored, name)
    for head in tied.keys() & stored.keys():
        source = tied[head]
        if source in stored and not torch.equal(
            read_tensor(stored[head], head), read_tensor(stored[source], source)
        ):
            refuse_second_head(head, source, name)
    return True


def read_tensor(tensor: Stored, key: str) -> Tensor:
    """Read one tensor from its file."""
    with safe_open(tensor.file, framework="pt") as opened:
        values: Tensor = opened.get_tensor(key)
        return values


def refuse_integers(stored: Mapping[str, Stored], name: str) -> None:
    """Raise UserError if a weight is stored as integers without a known quantisation."""
    integers = [n for n, t in stored.items() if n.endswith(".weight") and t.dtype in _INTEGERS]
    if integers:
        raise UserError(
            f"{name} holds weights as integers ({_counted(integers)}), and its config.json names "
            "no quantisation that says what they mean; give the model that they were made from"
        )


def refuse_second_head(head: str, embedding: str, name: str) -> None:
    """Raise UserError for a separate head in the files that config.json says is tied."""
    raise UserError(
        f"{name} holds {head} with other values than {embedding}, although config.json says "
        "tie_word_embeddings=true; set it to false to keep this head, or remove the tensor"
    )


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Return the names of the tensors that hold NaN or infinity."""
    return [name for name, tensor in tensors if not tensor.detach().isfinite().all()]


def refuse_not_finite(names: Sequence[str], name: str) -> None:
    """Raise UserError if there are `names`, of tensors that hold NaN or infinity."""
    if names:
        raise UserError(
            f"{name}: its weights hold NaN or infinity ({_counted(names)}); they are broken, or "
            "too large for model.dtype"
        )


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Return the tensors of a model folder's safetensors files, from the files' own headers.

    Read only the files that transformers reads: not an adapter's, nor another form of the weights.
    """
    index = folder / "model.safetensors.index.json"
    files = {folder / "model.safetensors"}
    if index.is_file() and not (folder / "model.safetensors").is_file():
        files = {folder / file for file in json.loads(index.read_text())["weight_map"].values()}
    stored: dict[str, Stored] = {}
    for file in sorted(filter(Path.is_file, files)):
        stored |= _headers(file)
    return stored


def _headers(file: Path) -> dict[str, Stored]:
    with safe_open(file, framework="pt") as opened:
        parts = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118  # no mapping
        return {
            key: Stored(file, part.get_dtype(), tuple(part.get_shape()))
            for key, part in parts.items()
        }


def is_constant(name: str) -> bool:
    """Return True if a name, which is not a parameter's, is of a constant that the model makes."""
    return _CONSTANTS.search(name) is not None


def _counted(names: Sequence[str]) -> str:
    """Format names as `3 tensors (a, b, c)`, or `20 tensors (a, b, c, ...)`."""
    shown = ", ".join([*names[:_NUM_NAMED], *(["..."] if len(names) > _NUM_NAMED else [])])
    return f"{len(names)} tensor{'s' if len(names) != 1 else ''} ({shown})"
