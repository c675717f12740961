"""Load a language model, whole or with a part of it on each rank, and its tokenizer."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from passk.config.schema import LearnerConfig, ModelConfig
from passk.console import working
from passk.errors import UserError
from passk.learner.fsdp import local_tensor, reshard, shard
from passk.learner.layers import freeze_outside
from passk.learner.logprobs import check_head
from passk.learner.lora import adapter_parameters, add_adapters, base_parameters
from passk.learner.weight_files import (
    check_loaded,
    fits_by_name,
    not_finite,
    refuse_not_finite,
    stored_tensors,
)
from passk.ranks import gather

Tokenizer: TypeAlias = PreTrainedTokenizerBase

GENERATION_CONFIG = "generation_config.json"

# Any of these: without one, transformers makes up an empty tokenizer for some architectures.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "spiece.model"),
)
TINY = Path(__file__).parent.parent / "assets" / "tiny"


def model_location(path: str) -> str:
    """Return the folder or hub id for `model.path`; `tiny` is the model inside the package."""
    return str(TINY) if path == "tiny" else path


def model_name(path: str) -> str:
    """Return the name of the model at `path` in messages; a folder may come from any key."""
    return f"the model in {path}" if Path(path).is_dir() else f"model.path={path}"


def local_folder(path: str) -> Path:
    """Return the folder with the model's files; those of a hub id are downloaded first."""
    location = Path(model_location(path))
    if location.is_dir():
        return location
    with reading_model(path):
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors"]))


def load_policy(cfg: ModelConfig, path: str, device: torch.device) -> PreTrainedModel:
    """Load the causal LM at `path` (folder or hub id) onto `device`, in training precision.

    Raises UserError unless its weights are those of its files, all of them, and finite.
    """
    location = model_location(path)
    with reading_model(path, cfg.attn_implementation):
        pair: Any = AutoModelForCausalLM.from_pretrained(
            location,
            dtype=getattr(torch, cfg.dtype),
            attn_implementation=cfg.attn_implementation,
            trust_remote_code=cfg.trust_remote_code,
            use_safetensors=True,  # other files are pickled
            generation_config=GenerationConfig(),  # take_end_tokens reads the model's own
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # check_loaded names them
        )
    model: PreTrainedModel = pair[0]
    config = Path(str(cached_file(location, "config.json")))
    check_loaded(model, pair[1], stored_tensors(config.parent), model_name(path))
    take_end_tokens(model, path)
    model.to(device)  # type: ignore[arg-type]  # a wrapper of transformers hides the signature
    refuse_not_finite(not_finite(model.named_parameters()), model_name(path))
    with reading_model(path, cfg.attn_implementation):
        check_head(model.eval(), model_name(path))
    return model


def load_sharded(
    cfg: ModelConfig,
    path: str,
    device: torch.device,
    learner: LearnerConfig,
    seed: int,
    parameters: str = "all",
) -> PreTrainedModel:
    """Load the causal LM at `path` as `load_policy` does, with a part of it on each rank.

    Weights are read from safetensors straight into the shards. Add adapters if `cfg` asks for them,
    and keep gradients of `parameters` only (`layers.freeze_outside`): both before sharding.

    If the files name tensors differently from the model (experts that transformers joins while it
    loads), each rank loads the full model and then shards it. So it does if the files do not fit
    the model; then `load_policy` raises UserError.
    """
    folder = local_folder(path)
    with reading_model(path, cfg.attn_implementation):
        model = _without_weights(cfg, str(folder))
        reads_shards = fits_by_name(model, folder, model_name(path))
    if not reads_shards:
        model = load_policy(cfg, path, torch.device("cpu"))
    add_adapters(model, cfg, seed)
    shard(model, device, learner, freeze_outside(model, parameters))
    if not reads_shards:
        return model
    kept = {name: local_tensor(tensor).clone() for name, tensor in _with_values(model)}
    model.to_empty(device="cpu" if learner.cpu_offload else device)
    model.tie_weights()
    for name, tensor in _with_values(model):
        local_tensor(tensor).copy_(kept[name])
    load(dict(base_parameters(model)), storage_reader=HuggingFaceStorageReader(str(folder)))
    broken = gather(
        not_finite((name, local_tensor(tensor)) for name, tensor in base_parameters(model))
    )
    refuse_not_finite(list(dict.fromkeys(chain(*broken))), model_name(path))
    take_end_tokens(model, path)
    with reading_model(path, cfg.attn_implementation):
        check_head(model.eval(), model_name(path))
    reshard(model)
    return model


def _with_values(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that no file holds: buffers and adapters."""
    yield from model.named_buffers()
    yield from ((name, parameter.detach()) for name, parameter in adapter_parameters(model))


def _without_weights(cfg: ModelConfig, folder: str) -> PreTrainedModel:
    """Build the model with its buffers, and with parameters that have a shape but no memory."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=cfg.trust_remote_code)
    with _parameters_on_meta():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config,
            dtype=getattr(torch, cfg.dtype),
            attn_implementation=cfg.attn_implementation,
            trust_remote_code=cfg.trust_remote_code,
        )
    return model


def num_parameters(cfg: ModelConfig, path: str) -> int:
    """Return the number of parameters of the model at `path` without loading its weights."""
    with reading_model(path, cfg.attn_implementation):
        return _without_weights(cfg, model_location(path)).num_parameters()


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    register = nn.Module.register_parameter

    def without_memory(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
        register(module, name, parameter)

    nn.Module.register_parameter = without_memory  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Tokenizer:
    """Load the tokenizer from the model's folder; raise UserError if it holds none."""
    folder = Path(model_location(path))
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"{model_name(path)} holds no tokenizer (tokenizer.json or the like); save the one "
            "that belongs to the model there, in Hugging Face form"
        )
    with reading_model(path, part="the tokenizer of "):
        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(
            model_location(path), trust_remote_code=trust_remote_code
        )
    return tokenizer


@contextmanager
def reading_model(path: str, attention: str | None = None, part: str = "") -> Iterator[None]:
    """Turn any error of a library that reads the files at `path` into UserError.

    A folder may hold anything, and libraries raise errors of every kind for it. `attention` is the
    value of `model.attn_implementation`; `part` names what is read if it is not the model.
    """
    try:
        with working(f"loading {part}{model_name(path)}"):  # a hub may let us wait
            yield
    except (UserError, MemoryError, torch.OutOfMemoryError):  # the last two: of the machine
        raise
    except Exception as error:
        reason = _reason(error)
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{model_name(path)} comes with code of its own, which passk runs only if you "
                "allow it; if you trust it, add model.trust_remote_code=true"
            ) from error
        if attention and _letters(attention) in _letters(str(error)):
            raise UserError(
                f"model.attn_implementation={attention} cannot be used here ({reason}); use sdpa "
                "or eager"
            ) from error
        raise UserError(
            f"{part}{model_name(path)} cannot be loaded ({reason}); {_advice(path, part)}"
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of an error, with its type if the text alone may be unclear."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    speaks = isinstance(error, OSError | ValueError | SafetensorError) and text
    return text if speaks else f"{type(error).__name__}: {text}"


def _letters(text: str) -> str:
    """Return the letters and digits of a text in lower case, to compare names' spellings."""
    return re.sub("[^a-z0-9]", "", text.lower())


def _advice(path: str, part: str) -> str:
    """Return advice on a model that cannot be loaded, by the files at `path`."""
    folder = Path(model_location(path))
    if any(_begins(file, b"version https://git-lfs") for file in folder.glob("*")):
        return "its files are pointers of Git LFS: run git lfs pull there"
    if part:
        version = transformers.__version__
        return f"its files are broken, or of a form that transformers {version} does not read"
    config = folder / "config.json"
    if config.is_file() and b'"quantization_config"' in config.read_bytes():
        return "its weights are quantised: give the model that they were made from"
    return "give a folder in Hugging Face form, a hub id, or tiny"


def _begins(file: Path, start: bytes) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(start)) == start


def generation_settings(path: str) -> bytes | None:
    """Read generation_config.json of the model at `path`; return None if it has none."""
    with reading_model(path):
        found = cached_file(
            model_location(path),
            GENERATION_CONFIG,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return Path(found).read_bytes() if found else None


def take_end_tokens(model: PreTrainedModel, path: str) -> None:
    """Give a model the end tokens of its generation_config.json, and nothing else of it.

    The library must not load the file itself: it says how to sample, which passk decides, and may
    hold settings that load but cannot be saved.
    """
    settings = generation_settings(path)
    try:
        named = json.loads(settings)["eos_token_id"] if settings else None
    except KeyError:
        named = None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{GENERATION_CONFIG} of {model_name(path)} is no JSON object ({error}); correct it, "
            "or remove it"
        ) from error
    model.generation_config = GenerationConfig(eos_token_id=named)


def end_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the tokens that end a completion: `eos_token_id` of generation or model config.

    Raises UserError if neither names a token that can occur.
    """
    file, named = GENERATION_CONFIG, getattr(model.generation_config, "eos_token_id", None)
    if named is None:
        file, named = "config.json", getattr(model.config, "eos_token_id", None)
    if named is None:
        raise UserError(
            "the model names no eos_token_id, so completions would never end; add it to its "
            "generation_config.json"
        )
    size = model.get_output_embeddings().out_features
    given = named if isinstance(named, list | tuple) else [named]
    possible = tuple(token for token in given if type(token) is int and 0 <= token < size)
    if not possible:
        raise UserError(
            f"eos_token_id={named} in the model's {file} names no end token that can occur, so "
            f"completions would never end; it must hold ids from 0 to {size - 1}"
        )
    return possible


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return the number of tokens that the model can read: the rows of its embedding."""
    embedding: Any = model.get_input_embeddings()
    return int(embedding.weight.shape[0])


def context_length(model: PreTrainedModel) -> int | None:
    """Return the most tokens of prompt and answer that the model takes; None without a limit."""
    config = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions"):
        length: int | None = getattr(config, name, None)
        if length is not None:
            return length
    return None
