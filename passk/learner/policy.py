"""Load a language model and its tokenizer, and compute log-probabilities of given tokens."""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.hub import cached_file

from passk.config.schema import ModelConfig
from passk.errors import UserError
from passk.learner.logprobs import LogitMap, selected_logprobs
from passk.learner.weight_files import check_loaded, not_finite, refuse_not_finite, stored_tensors

__all__ = [
    "GENERATION_CONFIG",
    "Tokenizer",
    "check_head",
    "context_length",
    "end_ids",
    "generation_settings",
    "load_policy",
    "load_tokenizer",
    "local_folder",
    "model_name",
    "reading_model",
    "take_end_tokens",
    "token_logprobs",
    "vocabulary_size",
]

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
        check_head(model.eval(), path)
    return model


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
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):  # the last two: of the machine
        raise
    except Exception as error:
        reason = _reason(error)
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{model_name(path)} comes with code of its own, which is not run unasked; if you "
                "trust it, add model.trust_remote_code=true"
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


def token_logprobs(
    model: PreTrainedModel,
    input_ids_BT: Tensor,
    mask_BT: Tensor,
    temperature: float,
    compute_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute log pi(y_t | x, y_<t) under the temperature, [B, T], 0 where the mask is False.

    Position t of `mask_BT` and of the result refers to token t of `input_ids_BT` (so column 0,
    which nothing predicts, must be False). Rows are padded on the right: with causal attention no
    real token sees padding, so no attention mask is needed. `compute_dtype` is that of activations
    (autocast), by default the model's. Logits exist for one chunk of tokens at a time.
    """
    hidden_BTD = _hidden_states(model, input_ids_BT, compute_dtype)
    positions_N = mask_BT[:, 1:].flatten().nonzero().squeeze(1)  # each of the token before
    hidden_ND = hidden_BTD[:, :-1].flatten(0, 1).index_select(0, positions_N)
    targets_N = input_ids_BT[:, 1:].flatten().index_select(0, positions_N)
    head = model.get_output_embeddings()
    logp_N = selected_logprobs(
        hidden_ND, head.weight, head.bias, targets_N, _logit_map(model, temperature)
    )
    logp_BT = torch.zeros(mask_BT.shape, dtype=logp_N.dtype, device=mask_BT.device)
    return logp_BT.masked_scatter(mask_BT, logp_N)


def _hidden_states(
    model: PreTrainedModel, input_ids_BT: Tensor, compute_dtype: torch.dtype | None
) -> Tensor:
    """Compute the input of the model's head, [B, T, D], in the dtype that the head computes in.

    The model runs as it is, whatever its parts are called; its own head gets one token only.
    """
    entered: list[Tensor] = []

    def catch(_head: nn.Module, arguments: tuple[Tensor]) -> tuple[Tensor]:
        entered.append(arguments[0])
        return (arguments[0][:1, :1],)

    handle = model.get_output_embeddings().register_forward_pre_hook(catch)
    try:
        with torch.autocast(
            input_ids_BT.device.type, compute_dtype, enabled=compute_dtype is not None
        ):
            model(input_ids=input_ids_BT, use_cache=False)
    finally:
        handle.remove()
    (hidden_BTD,) = entered
    return hidden_BTD if compute_dtype is None else hidden_BTD.to(compute_dtype)


def _logit_map(model: PreTrainedModel, temperature: float) -> LogitMap:
    """Return the map that the model's architecture applies to its logits, by its configuration."""
    text = model.config.get_text_config()
    scale = 1.0
    for key in ("logit_scale", "lm_head_multiplier", "output_multiplier"):
        scale *= getattr(text, key, None) or 1.0  # Cohere, Falcon-H1, Muse
    scaling = getattr(text, "logits_scaling", None) or 1.0  # Granite divides by it
    scale = scale * scaling if text.model_type.startswith("hyperclovax") else scale / scaling
    cap = getattr(text, "final_logit_softcapping", None)  # Gemma
    return LogitMap(scale, cap or getattr(text, "logits_soft_cap", None), temperature)


@torch.no_grad()
def check_head(model: PreTrainedModel, path: str) -> None:
    """Raise UserError if a model's own log-probabilities differ from those of `token_logprobs`.

    Compute both for a few random tokens. Without this check, an architecture with an unknown step
    after the head would be trained on another distribution than it is sampled from.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"{model_name(path)}: {type(model).__name__} has no linear map from hidden states to "
            "the vocabulary as its head; such a model cannot be trained here"
        )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(head.out_features, (2, 16), generator=generator)
    ids = ids.to(model.device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 0] = False
    ours = token_logprobs(model, ids, mask, 1.0)[:, 1:]
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].to(ours.dtype)
    theirs = torch.log_softmax(logits, dim=-1).gather(2, ids[:, 1:, None])[..., 0]
    spread = (logits.amax() - logits.amin()).item()
    difference = (ours - theirs).abs().max().item()
    if not math.isfinite(difference):
        raise UserError(
            f"{model_name(path)}: log-probabilities of a few tokens are not numbers: its weights "
            "hold NaN or infinity, or are too large for model.dtype"
        )
    # The two round differently; the effect of a missing step is larger, or does not matter.
    if not difference <= max(4 * torch.finfo(model.dtype).eps, 1e-3) * spread + 1e-6:
        raise UserError(
            f"{model_name(path)}: log-probabilities of {type(model).__name__} differ by "
            f"{difference:.2g} from those of its own forward pass; it does something to its logits "
            "that passk does not know, and cannot be trained here"
        )
