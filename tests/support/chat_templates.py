"""Write prompts as chats, by templates made by hand, into tokens that are text."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<bos>", "<eos>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|end|>", "<|eot|>")
BOS, EOS, IM_END, EOT = 0, 1, 3, 6
CHATML = """{%- if messages[0].role != 'system' and default_system %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}"""
LLAMA3 = """{{- bos_token }}
{%- for message in messages -%}
<|start|>{{ message.role }}<|end|>

{{ message.content | trim }}<|eot|>
{%- endfor -%}
{%- if add_generation_prompt -%}
<|start|>assistant<|end|>

{% endif -%}"""


def tokenizer(chat_template=None, *, adds_bos=False):
    """Byte-level without merges: a token is a byte or one of `SPECIAL`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=ids, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )
