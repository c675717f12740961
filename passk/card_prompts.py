"""What a model card says of prompts and answers, in words and as code that makes the same ones."""

import json
from pathlib import Path
from typing import Any

from passk.config import EvalConfig, PromptConfig, TrainConfig
from passk.policy import Tokenizer
from passk.prompts import PromptEncoder
from passk.types import Problem

# What a generation_config.json may set, each with the value that passk samples by.
_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
_SAMPLING |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


def prompt_section(cfg: TrainConfig, folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """The parts of the card's template that depend on prompts; `folder` holds the model."""
    prompt = cfg.data.prompt
    encoder = PromptEncoder(tokenizer, prompt)
    text = encoder.prompt_text(Problem("", "{problem}", ""))
    messages = _messages(prompt, encoder.chat is not None and encoder.chat.in_parts)
    return {
        "is_chat": encoder.is_chat,
        "prompt_style": _style(prompt, encoder),
        "prompt": _fenced(text),
        "answer_end": _answer_end(prompt, folder, tokenizer),
        "prompt_code": _chat_code(prompt, messages) if encoder.is_chat else _plain_code(prompt),
        "vllm_code": _vllm_code(prompt, messages if encoder.is_chat else None),
        "temperature": cfg.eval.temperature,
        "top_p": cfg.eval.top_p,
        "max_new_tokens": cfg.eval.max_new_tokens or cfg.rollout.max_new_tokens,
        "stop": json.dumps(prompt.stop, ensure_ascii=False) if prompt.stop else "",
        "own_defaults": _own_defaults(cfg.eval, folder),
        "remote_code": ", trust_remote_code=True" if cfg.model.trust_remote_code else "",
    }


def _style(prompt: PromptConfig, encoder: PromptEncoder) -> str:
    if encoder.is_chat:
        text = "The chat template of the tokenizer, which is in this folder. A prompt is"
    else:
        ids = encoder.tokenizer("")["input_ids"]
        first = " ".join(encoder.tokenizer.convert_ids_to_tokens(ids))
        text = "Plain text, no chat template. A prompt is"
        text += f", after `{first}`, which the tokenizer puts first" if first else ""
    if not prompt.num_shots:
        return f"{text}:"
    text += f", after {prompt.num_shots} worked training problems in the same form, which are not"
    return f"{text} shown here, and which the code below leaves out (so expect other figures):"


def _answer_end(prompt: PromptConfig, folder: Path, tokenizer: Tokenizer) -> str:
    ends = _end_ids(folder)
    known = [end for end in ends if type(end) is int and 0 <= end < len(tokenizer)]
    tokens = [f"`{token}`" for token in tokenizer.convert_ids_to_tokens(known)]
    text = f"An answer ends with {' or '.join(tokens)}"
    if prompt.stop:
        texts = " or ".join(f"`{json.dumps(word, ensure_ascii=False)}`" for word in prompt.stop)
        text += f", or before the text {texts}"
    return f"{text}."


def _end_ids(folder: Path) -> list[int]:
    for name in ("generation_config.json", "config.json"):
        end = _read(folder / name).get("eos_token_id")
        if end is not None:
            return list(end) if isinstance(end, list) else [end]
    return []


def _own_defaults(measured: EvalConfig, folder: Path) -> str:
    """The sampling that the starting model's authors chose, where it was not what was measured."""
    settings = _read(folder / "generation_config.json")
    ours = _SAMPLING | {"temperature": measured.temperature, "top_p": measured.top_p}
    found = {name: settings.get(name) for name in ours}
    other = {n: v for n, v in found.items() if v is not None and v != ours[n]}
    return ", ".join(f"`{name}={value}`" for name, value in other.items())


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}


def _plain_code(prompt: PromptConfig) -> str:
    return f'prompt = {_plain(prompt)}\ninputs = tokenizer(prompt, return_tensors="pt")'


def _plain(prompt: PromptConfig) -> str:
    if prompt.template == "{problem}":
        return "problem"
    return f"{json.dumps(prompt.template, ensure_ascii=False)}.format(problem=problem)"


def _chat_code(prompt: PromptConfig, messages: str) -> str:
    told = "".join(f", {key}={value!r}" for key, value in prompt.chat_template_kwargs.items())
    return (
        f"messages = {messages}\ninputs = tokenizer.apply_chat_template(\n    messages, "
        f'add_generation_prompt=True, return_dict=True, return_tensors="pt"{told}\n)'
    )


def _vllm_code(prompt: PromptConfig, messages: str | None) -> str:
    if messages is None:
        return f"(output,) = llm.generate({_plain(prompt)}, params)"
    extra = prompt.chat_template_kwargs
    told = f", chat_template_kwargs={extra!r}" if extra else ""
    return f"(output,) = llm.chat({messages}, params{told})"


def _messages(prompt: PromptConfig, in_parts: bool) -> str:
    def content(text: str) -> str:
        return f'[{{"type": "text", "text": {text}}}]' if in_parts else text

    request = "problem"
    if prompt.instruction:
        request += f" + {json.dumps(chr(10) + prompt.instruction, ensure_ascii=False)}"
    turns = f'{{"role": "user", "content": {content(request)}}}'
    if prompt.system is not None:
        system = json.dumps(prompt.system, ensure_ascii=False)
        turns = f'{{"role": "system", "content": {content(system)}}}, {turns}'
    return f"[{turns}]"


def _fenced(text: str) -> str:
    """A code block, whatever backticks the text holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"
