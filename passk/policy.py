"""The language model: loading it, its tokenizer, and the log-probabilities of given tokens."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from passk.config import ModelConfig
from passk.errors import UserError

__all__ = [
    "Tokenizer",
    "context_length",
    "end_ids",
    "load_policy",
    "load_tokenizer",
    "token_logprobs",
]

TINY = Path(__file__).parent / "assets" / "tiny"


def model_location(path: str) -> str:
    """A folder or hub id for `model.path`, where `tiny` is the model inside the package."""
    return str(TINY) if path == "tiny" else path


def load_policy(cfg: ModelConfig, path: str, device: torch.device) -> PreTrainedModel:
    """Load the causal LM at `path` (folder or hub id) onto `device`, in training precision."""
    model: PreTrainedModel = _load(
        AutoModelForCausalLM.from_pretrained,
        path,
        dtype=getattr(torch, cfg.dtype),
        attn_implementation=cfg.attn_implementation,
    )
    model.to(device)  # type: ignore[arg-type]  # a wrapper of transformers hides the signature
    return model


def load_tokenizer(path: str) -> Tokenizer:
    """Load the tokenizer that lies with the model."""
    tokenizer: Tokenizer = _load(AutoTokenizer.from_pretrained, path)
    return tokenizer


def _load(loader: Any, path: str, **options: Any) -> Any:
    try:
        return loader(model_location(path), **options)
    except (OSError, ValueError, SafetensorError) as error:
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
    model: PreTrainedModel, input_ids_BT: Tensor, mask_BT: Tensor, temperature: float
) -> Tensor:
    """log pi(y_t | x, y_<t) under the temperature, [B, T], 0 where the mask is False.

    Position t of `mask_BT` and of the result speaks of token t of `input_ids_BT` (so column 0,
    which nothing predicts, must be masked). Rows are padded on the right: causal attention keeps
    padding out of every real token's sight, so no attention mask is needed.
    """
    logits_BTV = model(input_ids=input_ids_BT, use_cache=False).logits
    predicted_BT = mask_BT[:, 1:]
    logits_NV = logits_BTV[:, :-1][predicted_BT]
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)) / temperature
    targets_N = input_ids_BT[:, 1:][predicted_BT]
    logp_N = torch.log_softmax(logits_NV, dim=-1).gather(1, targets_N[:, None]).squeeze(1)
    logp_BT = torch.zeros(mask_BT.shape, dtype=logp_N.dtype, device=mask_BT.device)
    return logp_BT.masked_scatter(mask_BT, logp_N)
