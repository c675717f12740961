"""A model folder whose files do not make the model it claims to be is refused with a sentence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from random_models import mixtral, random_model
from rank_work import refusals
from safetensors.torch import load_file, save_file
from small_runs import train

from passk.cli.launch import launch
from passk.config.schema import ModelConfig
from passk.errors import UserError
from passk.learner.checkpoint import resolve_model
from passk.learner.policy import end_ids, load_policy, load_tokenizer

pytestmark = pytest.mark.usefixtures("forked_ranks")
CPU = torch.device("cpu")
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A Llama of two layers with a head of its own, and a tokenizer."""
    folder = tmp_path_factory.mktemp("plain")
    random_model("llama").save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return folder


def edit(folder: Path, file: str = "config.json", **changes) -> None:
    content = json.loads((folder / file).read_text()) | changes
    (folder / file).write_text(json.dumps(content))


def rewrite(folder: Path, change: Callable[[Tensors], None]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def prefixed(tensors: Tensors) -> None:
    for name in list(tensors):
        tensors[f"base_model.model.{name}"] = tensors.pop(name)


def fill(value: float) -> Callable[[Path], None]:
    """A value at a place that no forward pass need come by."""

    def spoil(folder: Path) -> None:
        rewrite(folder, lambda t: t["model.embed_tokens.weight"][0].fill_(value))

    return spoil


def as_integers(tensors: Tensors) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = (tensors[name] * 100).to(torch.int8)


def in_two_files(folder: Path, *, lost: str = "", missing_file: bool = False) -> None:
    """The weights in two files and an index, without a tensor or a whole file of them."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in sorted(set(files.values()))[: 1 if missing_file else 2]:
        kept = {n: tensors[n] for n in names if files[n] == file and n != lost}
        save_file(kept, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))


def other_architecture(folder: Path) -> None:
    random_model("gpt_neox").save_pretrained(folder / "other")
    shutil.copy(folder / "other" / WEIGHTS, folder)


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:5000])


def tied_with_another_head(folder: Path) -> None:
    edit(folder, tie_word_embeddings=True)


@dataclass(frozen=True)
class Spoilt:
    """What is done to a whole folder, and what the sentence about it says."""

    spoil: Callable[[Path], None]
    says: str


LOST = "model.layers.1.mlp.up_proj.weight"
HEADLESS = "where the head shares the embedding's weights, config.json must say tie_word_embeddings"
SPOILT = {
    "names prefixed": Spoilt(
        lambda f: rewrite(f, prefixed),
        "remove base_model.model. from the start of the names in the files",
    ),
    "no head": Spoilt(lambda f: rewrite(f, lambda t: t.pop("lm_head.weight")), HEADLESS),
    "layers missing": Spoilt(
        lambda f: edit(f, num_hidden_layers=4), "18 tensors (model.layers.2.input_layernorm.weight"
    ),
    "layers too many": Spoilt(
        lambda f: edit(f, num_hidden_layers=1), "of the files without a place in the model"
    ),
    "a tensor lost by a file of two": Spoilt(
        lambda f: in_two_files(f, lost=LOST), f"1 tensor ({LOST}) of the model in no file"
    ),
    "a file of two missing": Spoilt(
        lambda f: in_two_files(f, missing_file=True), "model-00002-of-00002.safetensors"
    ),
    "another shape": Spoilt(
        lambda f: edit(f, vocab_size=9), "lm_head.weight is [18, 32] in the files and [9, 32]"
    ),
    "NaN": Spoilt(fill(float("nan")), "NaN or infinity (1 tensor (model.embed_tokens.weight))"),
    "infinity": Spoilt(
        fill(float("inf")), "NaN or infinity (1 tensor (model.embed_tokens.weight))"
    ),
    "another architecture": Spoilt(other_architecture, "of the files without a place in the model"),
    "integers": Spoilt(lambda f: rewrite(f, as_integers), "holds weights as integers (1 tensor"),
    "no tensors": Spoilt(lambda f: rewrite(f, dict.clear), "of the model in no file"),
    "cut short": Spoilt(cut, "cannot be loaded ("),
    "empty file": Spoilt(lambda f: (f / WEIGHTS).write_bytes(b""), "cannot be loaded ("),
    "a second head": Spoilt(tied_with_another_head, "although config.json says tie_word_embed"),
    "bitsandbytes": Spoilt(
        lambda f: edit(
            f, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}
        ),
        "its weights are quantised: give the model that they were made from",
    ),
    "gptq": Spoilt(
        lambda f: edit(f, quantization_config={"quant_method": "gptq", "bits": 4}), "quantised"
    ),
    "awq": Spoilt(
        lambda f: edit(f, quantization_config={"quant_method": "awq", "bits": 4}), "quantised"
    ),
    "an unknown rotation": Spoilt(
        lambda f: edit(f, rope_parameters={"rope_type": "none such"}), "cannot be loaded ("
    ),
    "an unknown activation": Spoilt(lambda f: edit(f, hidden_act="none such"), "KeyError"),
    "a negative size": Spoilt(lambda f: edit(f, intermediate_size=-4), "cannot be loaded ("),
    "no size": Spoilt(lambda f: edit(f, hidden_size=None), "cannot be loaded ("),
    "no heads": Spoilt(lambda f: edit(f, num_attention_heads=0), "cannot be loaded ("),
    "no dictionary": Spoilt(lambda f: (f / "config.json").write_text("[]"), "cannot be loaded ("),
}


@pytest.fixture(scope="module")
def spoilt(plain, tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind."""
    root = tmp_path_factory.mktemp("spoilt")
    folders = {name: root / name.replace(" ", "_") for name in SPOILT}
    for name, folder in folders.items():
        shutil.copytree(plain, folder)
        SPOILT[name].spoil(folder)
    return folders


@pytest.mark.parametrize("name", SPOILT)
def test_one_process_refuses(spoilt, name):
    with pytest.raises(UserError) as refused:
        load_policy(ModelConfig(), str(spoilt[name]), CPU)
    sentence = str(refused.value)
    assert SPOILT[name].says in sentence and str(spoilt[name]) in sentence and "\n" not in sentence


def test_ranks_refuse_with_the_same_sentences(spoilt, plain, tmp_path):
    folders = {name: str(folder) for name, folder in spoilt.items()}
    launch(refusals, 2, str(tmp_path / "found.json"), folders | {"whole": str(plain)})
    found = json.loads((tmp_path / "found.json").read_text())
    assert found.pop("whole") == ["", ""]
    for name, sentences in found.items():
        assert sentences[0] == sentences[1] and SPOILT[name].says in sentences[0], name


def remask(tensors: Tensors) -> None:
    for layer in range(2):
        place = f"model.layers.{layer}.self_attn"
        tensors[f"{place}.rotary_emb.inv_freq"] = torch.ones(2)
        tensors[f"{place}.masked_bias"] = torch.tensor(-1e9)
    tensors["model.position_ids"] = torch.arange(8)


def tied_twice(folder: Path) -> None:
    """A tied head that the file holds too."""
    edit(folder, tie_word_embeddings=True)
    rewrite(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))


WHOLE = {
    "as saved": lambda f: None,
    "constants of an old file": lambda f: rewrite(f, remask),
    "in two files": in_two_files,
    "a tied head": lambda f: (tied_twice(f), rewrite(f, lambda t: t.pop("lm_head.weight"))),
    "a tied head twice": tied_twice,
    "half precision": lambda f: rewrite(
        f, lambda t: t.update({k: v.bfloat16() for k, v in t.items()})
    ),
    "a file of another form beside": lambda f: save_file(
        load_file(f / WEIGHTS), f / "consolidated.safetensors"
    ),
}


def test_what_fits_is_loaded(plain, tmp_path):
    """By one process and by two ranks alike."""
    folders = {name: tmp_path / name.replace(" ", "_") for name in (*WHOLE, "experts")}
    for name, change in WHOLE.items():
        shutil.copytree(plain, folders[name])
        change(folders[name])
    mixtral().save_pretrained(folders["experts"])
    launch(refusals, 2, str(tmp_path / "found.json"), {n: str(f) for n, f in folders.items()})
    assert json.loads((tmp_path / "found.json").read_text()) == {n: ["", ""] for n in folders}
    for name, folder in folders.items():
        loaded = load_policy(ModelConfig(), str(folder), CPU)
        if name != "experts":
            stored = load_file(plain / WEIGHTS)["model.layers.1.mlp.up_proj.weight"]
            found = loaded.get_parameter("model.layers.1.mlp.up_proj.weight")
            torch.testing.assert_close(found, stored, rtol=0.01, atol=0)


def test_a_run_from_random_weights_does_not_begin(spoilt, tmp_path, capsys):
    assert train(tmp_path / "run", f"model.path={spoilt['names prefixed']}") == 2
    err = capsys.readouterr().err
    assert err.startswith("passk: the model in ") and err.count("\n") == 1
    assert "21 tensors (base_model.model." in err and not (tmp_path / "run").exists()


def adapter_of(folder: Path, base: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    save_file({"base_model.model.a": torch.ones(1)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("key", ["model.path", "train.init_from"])
def test_an_adapter_is_called_one(plain, tmp_path, key):
    bare, beside = tmp_path / "bare", tmp_path / "beside"
    adapter_of(bare, "someone/base")
    shutil.copytree(plain, beside)
    adapter_of(beside, "someone/base")
    with pytest.raises(
        UserError, match=f"^{key}=.*bare is an adapter of someone/base, and no model"
    ):
        resolve_model(str(bare), key)
    with pytest.raises(UserError, match=f"^{key}=.*beside holds an adapter .* beside the model"):
        resolve_model(str(beside), key)


ENDS = {
    "none listed": ([], "eos_token_id=[] in the model's generation_config.json"),
    "beyond the vocabulary": (99, "ids from 0 to 17"),
    "negative": (-1, "eos_token_id=-1"),
    "a truth value": (True, "eos_token_id=True"),
    "text": ("1", "eos_token_id=1 in"),
    "null in a list": ([None], "eos_token_id=[None]"),
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_that_cannot_occur_are_refused(plain, tmp_path, name):
    value, says = ENDS[name]
    shutil.copytree(plain, tmp_path / "model")
    edit(tmp_path / "model", "generation_config.json", eos_token_id=value)
    model = load_policy(ModelConfig(), str(tmp_path / "model"), CPU)
    with pytest.raises(UserError, match="names no end token that can occur") as refused:
        end_ids(model)
    assert says in str(refused.value)


def test_of_several_ends_the_possible_ones_stay(plain, tmp_path):
    shutil.copytree(plain, tmp_path / "model")
    edit(tmp_path / "model", "generation_config.json", eos_token_id=[99, 3, -1, 1])
    assert end_ids(load_policy(ModelConfig(), str(tmp_path / "model"), CPU)) == (3, 1)
    (tmp_path / "model" / "generation_config.json").unlink()
    edit(tmp_path / "model", eos_token_id=[2, 50])
    assert end_ids(load_policy(ModelConfig(), str(tmp_path / "model"), CPU)) == (2,)


def test_a_broken_generation_config_is_not_passed_over(plain, tmp_path):
    for text in ("{", "[]", '"eos_token_id"'):
        shutil.copytree(plain, tmp_path / "model", dirs_exist_ok=True)
        (tmp_path / "model" / "generation_config.json").write_text(text)
        with pytest.raises(UserError, match=r"^generation_config\.json of .* is no JSON object"):
            load_policy(ModelConfig(), str(tmp_path / "model"), CPU)


@pytest.mark.parametrize("kernel", ["flash_attention_2", "flash_attention_3"])
def test_attention_that_is_not_installed_is_named(plain, kernel):
    with pytest.raises(UserError, match=f"^model.attn_implementation={kernel} cannot be used here"):
        load_policy(ModelConfig(attn_implementation=kernel), str(plain), CPU)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
TOKENIZERS = {
    "newer": (
        lambda text: text.replace('"BPE"', '"BPE2"').replace('"WordLevel"', '"X"'),
        "of a form",
    ),
    "cut": (lambda text: text[: len(text) // 2], "its files are broken, or"),
    "a list": (lambda _: "[]", "its files are broken, or"),
    "a pointer": (lambda _: POINTER, "run git lfs pull there"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_cannot_be_read_is_named(plain, tmp_path, name):
    change, says = TOKENIZERS[name]
    shutil.copytree(plain, tmp_path / "model")
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(change(file.read_text()))
    with pytest.raises(
        UserError, match=r"^the tokenizer of the model in .* cannot be loaded \("
    ) as e:
        load_tokenizer(str(tmp_path / "model"))
    assert says in str(e.value) and "\n" not in str(e.value)


def test_code_of_a_model_that_fails_is_told(plain, tmp_path):
    folder = tmp_path / "own"
    shutil.copytree(plain, folder)
    names = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    edit(folder, model_type="own", auto_map=names)
    for code, says in (
        ("import no_such_package", "no_such_package"),
        ("class OwnConfig:\n    x = 1 / 0\n", "ZeroDivisionError"),
        ("def broken(:\n", "cannot be loaded"),
    ):
        (folder / "own.py").write_text(code)
        with pytest.raises(UserError, match=r"^the model in .* cannot be loaded \(") as refused:
            load_policy(ModelConfig(trust_remote_code=True), str(folder), CPU)
        assert says in str(refused.value)
