"""Make small models with random weights, one of each architecture that tests ask for."""

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
)

EOS = 1
VOCABULARY = 18  # of the shipped tokenizer
_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    # Large enough that what is attended to matters, as it does not in a fresh model.
    "initializer_range": 0.4,
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "llama": (LlamaConfig, {"num_key_value_heads": 4}),
    "qwen3": (Qwen3Config, {"num_key_value_heads": 2, "head_dim": 8}),
    "gpt_neox": (GPTNeoXConfig, {}),
    # Positions are learned, not rotated: an offset by the padding would show.
    "gpt2": (
        GPT2Config,
        {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    # No positions at all: what is attended to counts less, the further it lies to the left.
    "bloom": (BloomConfig, {}),
    "gemma3": (
        Gemma3TextConfig,
        {
            "num_key_value_heads": 2,
            "head_dim": 8,
            "num_hidden_layers": 3,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
}


def random_model(architecture: str = "llama", *, vocabulary: int = VOCABULARY, seed: int = 0):
    """A model of one of `ARCHITECTURES`, the same for the same seed, ready to evaluate."""
    config_class, options = ARCHITECTURES[architecture]
    torch.manual_seed(seed)
    config = config_class(vocab_size=vocabulary, **(_SMALL | options))
    return AutoModelForCausalLM.from_config(config).eval()


def mixtral() -> MixtralForCausalLM:
    """A mixture of three experts: files hold each apart, and transformers joins them."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 2, "head_dim": 8}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_local_experts": 3}
    return MixtralForCausalLM(MixtralConfig(vocab_size=VOCABULARY, **sizes, **heads))


def model_of(name: str) -> PreTrainedModel:
    """The Mixtral, or a random model of one of `ARCHITECTURES`."""
    return mixtral() if name == "mixtral" else random_model(name)
