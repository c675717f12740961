"""`passk export`: what the folder holds and what takes it, what the card says, what is refused."""

import errno
import json
import os
import re
import resource
import shlex
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from chat_templates import CHATML, LLAMA3, tokenizer
from huggingface_hub import ModelCard
from local_hub import local_hub
from safetensors.torch import load_file
from small_runs import assert_refused, cut_short, snapshot, train
from transformers import AutoModelForCausalLM, AutoTokenizer

from passk.cli.commands import export
from passk.cli.main import main
from passk.config.commands import ExportConfig, PublishingConfig
from passk.config.compose import load_run_config
from passk.config.rules import check
from passk.config.schema import (
    ConventionsConfig,
    EvalConfig,
    PromptConfig,
    RegimeConfig,
    TrainConfig,
)
from passk.data.conventions import Mix, make_problems
from passk.data.problems import load_data
from passk.data.prompts import PromptEncoder
from passk.errors import UserError
from passk.learner.checkpoint import fingerprint
from passk.learner.policy import TINY
from passk.objectives.pass_at_k import pass_at_k
from passk.report.model_card import Exported, model_card, prompt_section
from passk.runs.command_lines import command_line, hub_id, lineage, shown_name
from passk.runs.reader import load_run
from passk.types import Problem

MODEL_FILES = {"config.json", "generation_config.json", "model.safetensors"}
MODEL_FILES |= {"tokenizer.json", "tokenizer_config.json"}
QUICK = ("train.num_steps=2", "train.save_every=1", "diagnostics.every=0")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder whose name is nobody's business: an SFT run, problems, and a run of both."""
    place = tmp_path_factory.mktemp("private")
    problems = make_problems(40, Mix(0.5, 0.1), split="train", seed=5, duplicates=False)
    rows = "".join(json.dumps(asdict(problem)) + "\n" for problem in problems)
    (place / "own problems.jsonl").write_text(rows)
    assert train(place / "start", "regime=sft", "eval.every=0", *QUICK) == 0
    words = (f'data.path="{place}/own problems.jsonl"', f'train.init_from="{place}/start"')
    assert train(place / "run", "regime=hybrid", "eval.every=1", *words, *QUICK) == 0
    return place


def exported(run: Path, out: Path, *words: str) -> Path:
    assert main(["export", f'run="{run}"', f'out="{out}"', *words]) == 0
    return out


@pytest.fixture(scope="module")
def folder(place, tmp_path_factory) -> Path:
    before = snapshot(place)
    out = exported(place / "run", tmp_path_factory.mktemp("out") / "a model", "export.license=mit")
    assert snapshot(place) == before
    return out


@pytest.fixture(scope="module")
def card(folder) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def checkpoint(run: Path, step: int = 2) -> Path:
    return run / "checkpoints" / f"step-{step:06d}"


def code(card: ModelCard, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card.text, re.S)


def test_the_folder_holds_copies_of_the_model_and_nothing_else(place, folder):
    assert {path.name for path in folder.iterdir()} == MODEL_FILES | {"README.md"}
    written = json.loads((checkpoint(place / "run") / "files.json").read_text())
    for name in MODEL_FILES:
        path = folder / name
        assert asdict(fingerprint(path)) == written[name]
        # Changing it must not change the checkpoint, and an upload must not follow links.
        assert not path.is_symlink() and path.stat().st_nlink == 1
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (1, 0)


def test_transformers_loads_the_same_model_and_tokens(place, folder):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    trained = load_file(checkpoint(place / "run") / "model.safetensors")
    weights = dict(model.named_parameters())
    assert set(weights) == set(trained)
    assert all(torch.equal(weights[name], trained[name]) for name in weights)
    assert not torch.equal(
        trained["model.embed_tokens.weight"],
        load_file(TINY / "model.safetensors")["model.embed_tokens.weight"],
    )
    text = ["T3+4*5=", "S12+3="]
    ids = [AutoTokenizer.from_pretrained(where)(text)["input_ids"] for where in (folder, TINY)]
    assert ids[0] == ids[1]


def test_another_precision(place, folder, tmp_path):
    coarse = exported(place / "run", tmp_path / "coarse", "export.dtype=bfloat16")
    assert {path.name for path in coarse.iterdir()} == {path.name for path in folder.iterdir()}
    fine = load_file(folder / "model.safetensors")
    for name, tensor in load_file(coarse / "model.safetensors").items():
        assert torch.equal(tensor, fine[name].bfloat16())
    assert AutoModelForCausalLM.from_pretrained(coarse).dtype == torch.bfloat16
    before, after = (json.loads((f / "config.json").read_text()) for f in (folder, coarse))
    assert after == before | {"dtype": "bfloat16"}
    text = (coarse / "README.md").read_text()
    assert "weights: bfloat16" in text
    assert "Measured in float32, before the weights were rounded to bfloat16." in text
    assert "before the weights were rounded" not in (folder / "README.md").read_text()
    modes = {path.stat().st_mode for where in (folder, coarse) for path in where.iterdir()}
    assert len(modes) == 1
    for name in MODEL_FILES - {"config.json", "model.safetensors"}:
        assert (coarse / name).read_bytes() == (folder / name).read_bytes()


def test_adapters_are_merged(place, tmp_path):
    words = ("regime=hybrid", "model.lora_rank=2", "learner.lr=0.01", f"train.init_from={TINY}")
    assert train(tmp_path / "run", *words, "eval.every=0", "train.num_steps=1", *QUICK[2:]) == 0
    out = exported(tmp_path / "run", tmp_path / "out")
    assert {path.name for path in out.iterdir()} == MODEL_FILES | {"README.md"}
    plain, merged = (load_file(where / "model.safetensors") for where in (TINY, out))
    assert plain.keys() == merged.keys()
    assert any(not torch.equal(plain[name], merged[name]) for name in plain)
    assert "adapters of rank 2 merged" in (out / "README.md").read_text()


def test_front_matter(place, card):
    data = card.data.to_dict()
    assert data["license"] == "mit" and data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert {"passk", "reinforcement-learning"} <= set(data["tags"])
    assert "base_model" not in data and "datasets" not in data  # neither is on the hub
    table = pd.read_csv(place / "run" / "eval" / "table.csv")
    last = table[table["step"] == 2].set_index("k")["value"]
    assert len(last) == 2
    results = {result.metric_name: result for result in card.data.eval_results}
    assert {f"Pass@{k}": round(value, 4) for k, value in last.items()} == {
        name: result.metric_value for name, result in results.items()
    }
    assert results["Pass@2"].metric_type == "pass@2"
    assert results["Pass@2"].dataset_name == "conventions"


def test_the_table_and_what_pass1_paid(place, card):
    """The change is that of the same problems, from the counts of both evaluations."""
    counts = [
        pd.read_parquet(place / "run" / "eval" / f"step-{step:06d}.parquet") for step in (0, 2)
    ]
    assert (counts[0]["problem_id"] == counts[1]["problem_id"]).all()
    for k in (1, 2):
        before, after = (100 * pass_at_k(c["n"], c["c"], k).mean() for c in counts)
        change = f"{after - before + 0.0:+.1f}".replace("-", "\u2212")
        row = re.search(rf"^\| {k} \| (.*?) \[.*?\] \| (.*?) \[.*?\] \| (.*?) \[", card.text, re.M)
        assert row and row.groups() == (f"{before:.1f}", f"{after:.1f}", change)
        assert f"{change} points [" in card.text
    assert "Against the starting checkpoint, Hybrid 0.7/0.3 " in card.text
    assert "8 held-out problems, 8 samples each at temperature 1 and top-p 1" in card.text


def test_what_was_trained_and_how_is_told(card):
    assert "# tiny: Hybrid 0.7/0.3 on conventions" in card.text
    aim = "**0.7 Pass@1 + 0.3 Pass@2** for 2 steps."
    assert f"`tiny` after SFT, trained by reinforcement learning on {aim}" in card.text
    for line in (
        "checkpoint: step 2 of 2",
        "weights: float32",
        "licence: mit",
        "training: `own problems.jsonl`",
    ):
        assert f"- {line}" in card.text
    for key, value in {"regime.k": "2", "learner.lr": "2e-05", "train.seed": "0"}.items():
        assert f"| `{key}` | {value} |" in card.text
    assert f"| torch | {torch.__version__} |" in card.text
    assert "not finished" not in card.text and "flatters" not in card.text


def test_no_place_of_this_machine_is_told(place, folder):
    for path in folder.iterdir():
        content = path.read_bytes()
        for private in (place.name, str(Path.home()), str(Path(sys.prefix).parent)):
            assert private.encode() not in content, path.name
        assert f"| {socket.gethostname()} |".encode() not in content


def test_the_commands_make_the_run_again(place, card, monkeypatch, capsys):
    """Where the data lie, the card's lines give the configurations of both runs."""
    monkeypatch.chdir(place)
    (lines,) = [block.splitlines() for block in code(card, "bash") if "passk" in block]
    assert len(lines) == 2 and lines[0].endswith(" hydra.run.dir=start")
    for line, run in zip(lines, ("start", "run"), strict=True):
        program, *words = shlex.split(line)
        assert program == "passk"
        capsys.readouterr()
        assert main([*words, "--cfg", "job"]) == 0
        again = yaml.safe_load(capsys.readouterr().out)
        first = yaml.safe_load((place / run / "config.yaml").read_text())
        for node in (again, first):
            for group, key in (("data", "path"), ("train", "init_from")):
                node[group][key] = node[group][key] and Path(node[group][key]).name
            node["eval"]["ks"] = sorted({1, node["regime"]["k"], *node["eval"]["ks"]})
            node["verifier"]["name"] = "conventions"
        assert again == first


def test_the_example_runs_and_samples(folder, card):
    (with_transformers, with_vllm) = code(card, "python")
    with_transformers = with_transformers.replace("FOLDER", str(folder))
    names: dict = {}
    torch.manual_seed(0)
    exec(with_transformers.replace('"..."', '"T3+4*5="'), names)
    assert names["answers"].shape[0] == 8 and 1 <= names["answers"].shape[1] <= 32
    assert len({tuple(row) for row in names["answers"].tolist()}) > 1
    compile(with_vllm, "card", "exec")


class Recorder:
    """What the card's line for vLLM asks an engine."""

    def generate(self, prompt, params):
        self.prompt = prompt
        return (None,)

    def chat(self, messages, params, chat_template_kwargs=None):
        self.messages, self.kwargs = messages, chat_template_kwargs or {}
        return (None,)


@pytest.mark.parametrize("template", [None, CHATML, LLAMA3])
@pytest.mark.parametrize(
    "prompt",
    [
        PromptConfig(style="auto"),
        PromptConfig(
            style="auto",
            template='Say "{problem}"\n{{}}A:',
            instruction='Answer in "\\boxed{}".',
            system="Be `brief`.",
            chat_template_kwargs={"enable_thinking": False},
            stop=["\nQ:", '"'],
        ),
        PromptConfig(style="plain", template="Q: {problem}\nA:"),
    ],
)
def test_the_code_makes_the_prompts_of_training(tmp_path, template, prompt):
    known = tokenizer(template, adds_bos=True)
    cfg = TrainConfig(data=ConventionsConfig(prompt=prompt))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 3]}')
    section = prompt_section(cfg, tmp_path, PromptEncoder(known, cfg.data.prompt))
    for_transformers, for_vllm = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    text = "What is \\frac{1}{2}?"
    problem = Problem("p", text, "")
    encoder = PromptEncoder(known, prompt)
    names = {"tokenizer": known, "problem": text}
    _, code, _ = re.split(r'problem = "\.\.\."\n|answers = ', for_transformers, maxsplit=2)
    exec(code, names)
    assert names["inputs"]["input_ids"].tolist() == encoder.prompts([problem])
    engine = Recorder()
    _, code, _ = re.split(r'problem = "\.\.\."\n|print\(', for_vllm, maxsplit=2)
    exec(code, {"llm": engine, "params": None, "problem": text})
    if encoder.is_chat:
        rendered = known.apply_chat_template(
            engine.messages, tokenize=False, add_generation_prompt=True, **engine.kwargs
        )
        assert rendered == encoder.prompt_text(problem)
    else:
        assert engine.prompt == encoder.prompt_text(problem)
        assert "Plain text, no chat template. A prompt is, after `<bos>`, which" in section
    (shown,) = re.findall(r"```text\n(.*?)\n```", section, re.DOTALL)
    assert shown == encoder.prompt_text(replace(problem, prompt="{problem}"))
    assert "An answer ends with `<eos>` or `<|im_end|>`" in section
    stop = re.findall(r"stop(?:_strings)?=(.*),", section)
    assert list(map(eval, stop)) == 2 * [prompt.stop] * bool(prompt.stop)


def test_defaults_of_the_starting_model_that_were_not_measured_are_named(tmp_path):
    settings = {"eos_token_id": 1, "temperature": 0.6, "top_k": 20, "top_p": 1.0, "max_length": 9}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    cfg = TrainConfig(data=ConventionsConfig(), eval=EvalConfig(temperature=0.6))
    encoder = PromptEncoder(tokenizer(), cfg.data.prompt)
    assert "model and sets `top_k=20`, which" in prompt_section(cfg, tmp_path, encoder)
    cfg.eval.temperature = 1.0
    section = prompt_section(cfg, tmp_path, encoder)
    assert "model and sets `temperature=0.6`, `top_k=20`, which" in section


def test_worked_problems_before_a_prompt_are_named(tmp_path):
    cfg = TrainConfig(data=ConventionsConfig(prompt=PromptConfig(num_shots=3)))
    section = prompt_section(cfg, tmp_path, PromptEncoder(tokenizer(), cfg.data.prompt))
    assert "after 3 worked training problems" in section and "the code below leaves out" in section


def test_a_command_line_names_no_place_and_no_tracker(place):
    record = load_run(place / "run")
    words = ["regime=passk", "tracker=wandb", "tracker.mode=online", "+tracker.group=mine"]
    words += ["own.path='~/models/it'", "data.files=[/home/me/a.jsonl, 'b']", "eval.ks=[1,8]"]
    words += ["data.prompt.stop=[/think]", "resume=true"]
    broken = command_line(replace(record, overrides=('data.prompt.template="Q\nA"',)))
    assert broken == "passk train $'data.prompt.template=\"Q\\nA\"'", "on one line"
    line = command_line(replace(record, overrides=tuple(words)))
    assert shlex.split(line) == [
        *("passk", "train", "regime=passk", "own.path=it", "data.files=[a.jsonl,'b']"),
        *("eval.ks=[1,8]", "data.prompt.stop=[/think]"),
    ]


def test_where_a_run_comes_from(place, tmp_path, monkeypatch):
    line = lineage(load_run(place / "run"))
    assert [run.path.name for run in line.runs] == ["start", "run"]
    assert (line.model, line.model_name) == ("tiny", "tiny")
    moved = tmp_path / "moved"
    shutil.copytree(place / "run", moved)
    config = (moved / "config.yaml").read_text()
    gone = config.replace(f"{place}/start", "/nowhere/first/checkpoints/step-000001")
    (moved / "config.yaml").write_text(gone)
    line = lineage(load_run(moved))
    assert (len(line.runs), line.model, line.model_name) == (1, None, "first")
    text = (exported(moved, tmp_path / "out") / "README.md").read_text()
    assert "What the first of these starts from was not where" in text and "/nowhere" not in text

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--someone--small").mkdir()
    (tmp_path / "datasets--someone--sums").mkdir()
    assert hub_id("someone/small") == "someone/small" and hub_id("models/small") is None
    assert hub_id("someone/sums", "dataset") and not hub_id("someone/sums")
    assert shown_name("/home/me/models/small") == "small"
    assert shown_name("someone/small") == "someone/small"
    assert shown_name("/me/run/checkpoints/step-000002") == "run/checkpoints/step-000002"


def test_what_is_on_the_hub_is_linked(place, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("models--someone--small", "datasets--openai--gsm8k"):
        (tmp_path / "hub" / name).mkdir(parents=True)
    shutil.copytree(place / "run", tmp_path / "run")
    assert main(["train", "data=gsm8k", "model.path=someone/small", "--cfg", "job"]) == 0
    (tmp_path / "run" / "config.yaml").write_text(capsys.readouterr().out)
    card = ModelCard.load(exported(tmp_path / "run", tmp_path / "out") / "README.md")
    assert card.data.base_model == "someone/small" and card.data.datasets == ["openai/gsm8k"]
    result = card.data.eval_results[0]
    found = (result.dataset_type, result.dataset_config, result.dataset_split)
    assert found == ("openai/gsm8k", "main", "test")
    assert "# small: Hybrid 0.7/0.3 on gsm8k" in card.text
    for side, split in (("training", "train"), ("held out", "test")):
        assert f"- {side}: `openai/gsm8k`, subset `main`, split `{split}`" in card.text
    assert "```text\nQuestion: {problem}\nAnswer:\n```" in card.text
    assert 'or before the text `"\\nQuestion:"`' in card.text
    (_, with_vllm) = code(card, "python")
    assert 'stop=["\\nQuestion:"]' in with_vllm
    given = exported(tmp_path / "run", tmp_path / "own", "export.base_model=other/name")
    assert ModelCard.load(given / "README.md").data.base_model == "other/name"


@pytest.mark.parametrize(
    ("regime", "says"),
    [
        ({"name": "passk", "pass1_weight": 0.0, "k": 4}, "learning on **Pass@4** for"),
        ({"name": "pass1", "pass1_weight": 1.0}, "learning on **Pass@1** for"),
        ({"name": "passk", "pass1_weight": 0.0, "estimator": "chen"}, "by the estimator `chen`"),
        ({"name": "passk", "estimator": "grpo"}, "learning with the estimator `grpo` for"),
        ({"name": "projected", "k": 4}, "chosen at every step (`regime=projected`, from **0.7"),
        ({"name": "sft"}, "trained by supervised fine-tuning on worked solutions for 2 steps"),
    ],
)
def test_every_regime_has_its_words(place, tiny_tokenizer, regime, says):
    run = place / "run"
    cfg = replace(load_run_config(run), regime=RegimeConfig(**regime))
    record, folder = load_run(run), checkpoint(run)
    line = lineage(record)
    encoder = PromptEncoder(tiny_tokenizer, cfg.data.prompt)
    what = Exported(cfg, record, line, folder, 2, False, encoder, PublishingConfig())
    assert says in model_card(what).text


def test_the_hub_s_own_client_uploads_it(folder):
    """`hf upload` against a server on this machine: every file arrives, the card is checked."""
    with local_hub() as hub:
        words = [str(Path(sys.executable).with_name("hf")), "upload", "someone/model", str(folder)]
        settings = {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "hf_none", "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(words, env=os.environ | settings, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert set(hub.cards) == {(folder / "README.md").read_text()}


TASK = """
task: held_out
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {file}.cache}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: 32, do_sample: false}}
filter_list:
  - name: result
    filter: [{{function: regex, regex_pattern: "=(-?[0-9]+)$"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


def test_lm_eval_gives_the_same_greedy_answers_and_score(place, folder, tmp_path):
    """Its `hf` backend on the run's own held-out problems, against `passk eval`."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    evaluation = ["eval", f'run="{place}/run"', f'hydra.run.dir="{tmp_path}/measured"']
    assert main([*evaluation, "eval.num_problems=40"]) == 0
    samples = pd.concat(map(pd.read_parquet, sorted((tmp_path / "measured/samples").iterdir())))
    greedy = samples[samples["temperature"] == 0].set_index("problem_id")
    assert 0 < greedy["reward"].mean() < 1

    cfg = load_run_config(place / "run")
    cfg.eval.num_problems = 40
    rows = [asdict(problem) for problem in load_data(cfg.data, cfg.eval).heldout]
    file = tmp_path / "held_out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "held_out.yaml").write_text(TASK.format(file=file))
    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(folder)},
        tasks=["held_out"],
        task_manager=TaskManager(include_path=str(tmp_path / "task"), include_defaults=False),
        device="cpu",
        batch_size=20,
        bootstrap_iters=0,
    )
    theirs = {s["doc"]["id"]: s["resps"][0][0] for s in found["samples"]["held_out"]}
    assert theirs == greedy["completion"].to_dict()
    score = found["results"]["held_out"]["exact_match,result"]
    assert score == pytest.approx(greedy["reward"].mean())


def test_an_earlier_checkpoint_the_best_and_an_unfinished_run(place, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(place / "run", run)
    manifest = json.loads((run / "manifest.json").read_text()) | {"status": "interrupted"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    summary = pd.read_csv(run / "eval" / "summary.csv")
    at_1 = (summary["metric"] == "pass_at_1") & (summary["step"] == 1)
    summary.loc[at_1, "value"] = 1.0
    summary.to_csv(run / "eval" / "summary.csv", index=False)
    text = (exported(run, tmp_path / "best", "checkpoint=best") / "README.md").read_text()
    assert "step 1 of 2, the best by held-out Pass@1" in text and "which flatters it" in text
    assert "**the run was not finished** when this was written: interrupted" in text
    table = pd.read_csv(run / "eval" / "table.csv")
    at_1 = table[(table["step"] == 1) & (table["k"] == 1)]["value"].item()
    assert ModelCard(text).data.eval_results[0].metric_value == round(at_1, 4)

    for table in ("table.csv", "table_by_kind.csv"):
        rows = pd.read_csv(run / "eval" / table)
        rows[rows["k"] == 1].to_csv(run / "eval" / table, index=False)
    text = (exported(run, tmp_path / "single") / "README.md").read_text()
    assert "Here only Pass@1 was measured; its change is in the table." in text
    for file in (run / "eval").glob("*"):
        file.unlink()
    text = (exported(run, tmp_path / "unknown", "checkpoint=1") / "README.md").read_text()
    assert "This checkpoint was not evaluated in its run." in text
    assert "Here the change is not known" in text and "model-index" not in text


def test_what_cannot_be_exported_is_refused(passk, place, tmp_path):
    run = f'run="{place}/run"'
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    shutil.copytree(place / "run", tmp_path / "damaged")
    cut_short(checkpoint(tmp_path / "damaged") / "model.safetensors")
    shutil.copytree(place / "run", tmp_path / "empty")
    shutil.rmtree(tmp_path / "empty" / "checkpoints")
    before = snapshot(tmp_path)
    for words, says in (
        (["run=full"], "full is not a run directory"),
        (["run=empty"], "empty holds no checkpoint"),
        (["run=damaged"], "damaged: model.safetensors has 1000 bytes"),
        ([run, "checkpoint=7"], "checkpoint=7 is not among those of"),
        ([run, "out=one", "hydra.run.dir=two"], "out=one and hydra.run.dir="),
        ([run, "out=full"], "full is not empty; choose another directory"),
    ):
        outcome = passk("export", *words)
        assert_refused(outcome, says)
        assert snapshot(tmp_path) == before, words
    assert outcome.err.startswith("passk: out=")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run": None}, "passk export needs the run whose model it writes: run=DIR"),
        ({"run": "nowhere"}, "run=nowhere does not exist"),
        ({"checkpoint": "newest"}, "checkpoint=newest must be last, best or"),
        ({"export": {"dtype": "int4"}}, "export.dtype=int4 is unknown; allowed: float32"),
        ({"export": {"license": "MIT"}}, "export.license=MIT must be a licence as the hub spells"),
        ({"export": {"base_model": "/a/b"}}, "export.base_model=/a/b must be a model of the hub"),
    ],
)
def test_bad_settings_are_refused(changes, says, tmp_path):
    cfg = ExportConfig(**{"run": str(tmp_path)} | changes)
    if "export" in changes:
        cfg.export = PublishingConfig(**changes["export"])
    with pytest.raises(UserError, match=re.escape(says)):
        check(cfg)


def test_a_full_disk_leaves_nothing(passk, place, tmp_path, monkeypatch):
    copied = []

    def copy(source, target):
        copied.append(target)
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(export.shutil, "copyfile", copy)
    outcome = passk("export", f'run="{place}/run"', "out=model")
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert "No space left on device; make room, and export again" in outcome.err
    assert len(copied) == 3 and not list(tmp_path.iterdir())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model" / ".filling.partial").mkdir(parents=True)  # as a kill leaves it
    (tmp_path / "model" / ".filling.partial" / "config.json").touch()
    assert passk("export", f'run="{place}/run"', "out=model").code == 0
    assert {path.name for path in (tmp_path / "model").iterdir()} == MODEL_FILES | {"README.md"}


def test_a_full_disk_is_told_by_the_writer_of_weights_too(passk, place, tmp_path):
    """It passes on the system's error as text; here a file may be no larger than a part of them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        outcome = passk("export", f'run="{place}/run"', "out=model", "export.dtype=bfloat16")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outcome.code == 1 and outcome.err.count("\n") == 1
    assert "File too large; make room, and export again" in outcome.err
    assert not list(tmp_path.iterdir())
