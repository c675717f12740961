"""The language model: loading it, its tokenizer, and the log-probabilities of given tokens."""

import math
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from passk.config import ModelConfig
from passk.errors import UserError
from passk.head import LogitMap, selected_logprobs

__all__ = [
    "Tokenizer",
    "check_head",
    "context_length",
    "end_ids",
    "load_policy",
    "load_tokenizer",
    "local_folder",
    "token_logprobs",
]

# Any of these: without one, transformers makes up an empty tokenizer for some architectures.
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model"),
    *("vocab.json", "vocab.txt", "spiece.model"),
)
TINY = Path(__file__).parent / "assets" / "tiny"


def model_location(path: str) -> str:
    """A folder or hub id for `model.path`, where `tiny` is the model inside the package."""
    return str(TINY) if path == "tiny" else path


def local_folder(path: str) -> Path:
    """The folder with the model's files; those of a hub id are fetched first."""
    location = Path(model_location(path))
    patterns = ["*.json", "*.safetensors"]
    return (
        location
        if location.is_dir()
        else Path(_load(snapshot_download, path, allow_patterns=patterns))
    )


def load_policy(cfg: ModelConfig, path: str, device: torch.device) -> PreTrainedModel:
    """Load the causal LM at `path` (folder or hub id) onto `device`, in training precision."""
    model: PreTrainedModel = _load(
        AutoModelForCausalLM.from_pretrained,
        path,
        dtype=getattr(torch, cfg.dtype),
        attn_implementation=cfg.attn_implementation,
        trust_remote_code=cfg.trust_remote_code,
        use_safetensors=True,  # other files are pickled
    )
    model.to(device)  # type: ignore[arg-type]  # a wrapper of transformers hides the signature
    check_head(model.eval(), path)
    return model


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Tokenizer:
    """Load the tokenizer that lies with the model."""
    folder = Path(model_location(path))
    if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise UserError(
            f"model.path={path} holds no tokenizer (tokenizer.json or the like); save the one that "
            "belongs to the model there, in Hugging Face form"
        )
    tokenizer: Tokenizer = _load(
        AutoTokenizer.from_pretrained, path, trust_remote_code=trust_remote_code
    )
    return tokenizer


def _load(loader: Any, path: str, **options: Any) -> Any:
    try:
        return loader(model_location(path), **options)
    except (OSError, ValueError, SafetensorError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"model.path={path} comes with code of its own, which is not run unasked; if you "
                "trust it, add model.trust_remote_code=true"
            ) from error
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.path={path} cannot be loaded ({reason}); give a folder in Hugging Face form, "
            "a hub id, or tiny"
        ) from error


def end_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """The tokens that end a completion: `eos_token_id` of the generation or model config."""
    for config in (model.generation_config, model.config):
        end = getattr(config, "eos_token_id", None)
        if end is not None:
            return tuple(end) if isinstance(end, list | tuple) else (end,)
    raise UserError(
        "the model names no eos_token_id, so completions would never end; add it to its "
        "generation_config.json"
    )


def context_length(model: PreTrainedModel) -> int | None:
    """The most tokens of prompt and answer that the model takes; None where it names no limit."""
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
    """log pi(y_t | x, y_<t) under the temperature, [B, T], 0 where the mask is False.

    Position t of `mask_BT` and of the result speaks of token t of `input_ids_BT` (so column 0,
    which nothing predicts, must be masked). Rows are padded on the right: causal attention keeps
    padding out of every real token's sight, so no attention mask is needed. `compute_dtype` is that
    of activations (autocast), by default the model's. Logits exist for a chunk of tokens at a time.
    """
    hidden_BTD = _hidden_states(model, input_ids_BT, compute_dtype)
    positions_N = mask_BT[:, 1:].flatten().nonzero().squeeze(1)  # of the tokens before
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
    """What enters the model's head, [B, T, D], in the dtype that the head computes in.

    The model runs as it is, whatever its parts are called; its own head is shown one token only.
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
    """What the architectures of transformers do with their logits, by their configuration."""
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
    """Refuse a model whose own logits are not what `token_logprobs` takes them for.

    Both are computed for a few random tokens. Without this an architecture with a step of its own
    after the head would be trained on another distribution than it is sampled from.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise UserError(
            f"model.path={path}: {type(model).__name__} has no linear map from hidden states to "
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
            f"model.path={path}: log-probabilities of a few tokens are not numbers: its weights "
            "hold NaN or infinity, or are too large for model.dtype"
        )
    # Roundings of the two differ; what a forgotten step does is larger, or does not matter.
    if not difference <= max(4 * torch.finfo(model.dtype).eps, 1e-3) * spread + 1e-6:
        raise UserError(
            f"model.path={path}: log-probabilities of {type(model).__name__} differ by "
            f"{difference:.2g} from those of its own forward pass; it does something to its logits "
            "that passk does not know, and cannot be trained here"
        )
