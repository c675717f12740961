"""Write the model card of an exported checkpoint: its nature, its cost, and how it was made.

Everything comes from the files of the run, in words that hold wherever the model goes: paths of
this machine are reduced to their last part. Prompts and answers are described in words and as code.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from passk.config.commands import PublishingConfig
from passk.config.schema import (
    ESTIMATORS_WITHOUT_K,
    ConventionsConfig,
    EvalConfig,
    PromptConfig,
    TableConfig,
    TrainConfig,
)
from passk.data.sources import is_file_name
from passk.evaluation.tables import percent_cells
from passk.objectives.advantages import objective_in_words
from passk.report.tables import paired_deltas, reported_k
from passk.runs.command_lines import Lineage, command_line, hub_id, shown_name
from passk.runs.labels import markdown, reading, run_labels, run_title
from passk.runs.reader import RunRecord
from passk.types import Problem

if TYPE_CHECKING:  # importing it would import torch
    from passk.data.prompts import PromptEncoder

# Settings of a generation_config.json, each with the value that passk samples with.
_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
_SAMPLING |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


def prompt_section(cfg: TrainConfig, folder: Path, encoder: "PromptEncoder") -> dict[str, Any]:
    """Build the parts of the card's template that depend on prompts; `folder` holds the model."""
    prompt = cfg.data.prompt
    text = encoder.prompt_text(Problem("", "{problem}", ""))
    messages = _messages(prompt, encoder.chat is not None and encoder.chat.in_parts)
    return {
        "is_chat": encoder.is_chat,
        "prompt_style": _style(prompt, encoder),
        "prompt": _fenced(text),
        "answer_end": _answer_end(prompt, folder, encoder),
        "prompt_code": _chat_code(prompt, messages) if encoder.is_chat else _plain_code(prompt),
        "vllm_code": _vllm_code(prompt, messages if encoder.is_chat else None),
        "temperature": cfg.eval.temperature,
        "top_p": cfg.eval.top_p,
        "max_new_tokens": cfg.eval.max_new_tokens or cfg.rollout.max_new_tokens,
        "stop": json.dumps(prompt.stop, ensure_ascii=False) if prompt.stop else "",
        "own_defaults": _own_defaults(cfg.eval, folder),
        "remote_code": ", trust_remote_code=True" if cfg.model.trust_remote_code else "",
    }


def _style(prompt: PromptConfig, encoder: "PromptEncoder") -> str:
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


def _answer_end(prompt: PromptConfig, folder: Path, encoder: "PromptEncoder") -> str:
    tokenizer = encoder.tokenizer
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
    """List the sampling defaults of the starting model that differ from what was measured."""
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
    further = "".join(f", {key}={value!r}" for key, value in prompt.chat_template_kwargs.items())
    return (
        f"messages = {messages}\ninputs = tokenizer.apply_chat_template(\n    messages, "
        f'add_generation_prompt=True, return_dict=True, return_tensors="pt"{further}\n)'
    )


def _vllm_code(prompt: PromptConfig, messages: str | None) -> str:
    if messages is None:
        return f"(output,) = llm.generate({_plain(prompt)}, params)"
    extra = prompt.chat_template_kwargs
    further = f", chat_template_kwargs={extra!r}" if extra else ""
    return f"(output,) = llm.chat({messages}, params{further})"


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
    """Format a code block, whatever backticks the text holds."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}"


_PRIOR = "starting checkpoint"
_RL_SETTINGS = (
    *("regime.k", "regime.pass1_weight", "regime.estimator"),
    *("rollout.num_prompts", "rollout.num_samples", "rollout.temperature"),
    *("rollout.max_new_tokens", "rollout.importance_cap"),
    *("verifier.false_negative_rate", "verifier.false_positive_rate"),
)
_SFT_SETTINGS = ("regime.num_demonstrations",)
_SETTINGS = (
    *("verifier.name", "train.num_steps", "train.seed", "learner.lr", "learner.schedule"),
    *("learner.warmup_steps", "learner.betas", "learner.weight_decay", "learner.max_grad_norm"),
    *("learner.compute_dtype", "model.dtype"),
)
_LORA_SETTINGS = ("model.lora_rank", "model.lora_alpha", "model.lora_targets")
_DIGESTS = ("training_sha256", "heldout_sha256")
_CONVENTIONS = (
    *("num_train", "calculator_fraction", "skill_fraction", "cue"),
    *("num_corpus", "corpus_calculator_fraction", "corpus_skill_fraction", "corpus_cue"),
)
_WHAT_DATA_ARE = {
    "conventions": "arithmetic that people read in two ways, generated from a seed",
    "gsm8k": "grade-school word problems",
    "math": "competition mathematics",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """The exported checkpoint, and the facts that its run recorded."""

    cfg: TrainConfig
    record: RunRecord
    line: Lineage
    folder: Path
    step: int
    is_best: bool  # True if it was chosen by its evaluation
    encoder: "PromptEncoder"
    publishing: PublishingConfig


def model_card(exported: Exported) -> ModelCard:
    """Build the card, with the front matter that the hub reads."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("passk", "assets"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    body = environment.get_template("model_card.md.j2").render(_content(exported))
    return ModelCard(f"---\n{_front_matter(exported).to_yaml()}\n---\n\n{body}")


def _content(exported: Exported) -> dict[str, Any]:
    cfg, record = exported.cfg, exported.record
    table = pass_table(record, exported.step)
    return {
        "title": f"{exported.line.model_name}: {_title(record)} on {_data_name(cfg)}",
        "what": _what(exported),
        "step": exported.step,
        "num_steps": cfg.train.num_steps,
        "is_best": exported.is_best,
        "status": record.manifest.get("status", "how it ended is not recorded"),
        "dtype": exported.publishing.dtype or cfg.model.dtype,
        "lora_rank": cfg.model.lora_rank,
        "license": exported.publishing.license,
        "change": _change(record, table),
        "table": _shown(table),
        "measured": _measured(exported, table),
        "data": list(_data_lines(exported)),
        **prompt_section(cfg, exported.folder, exported.encoder),
        "settings": list(_settings(record)),
        "commands": [command_line(run, named=run is not record) for run in exported.line.runs],
        "is_cut_short": exported.line.model is None,
        "made_with": list(_made_with(record)),
    }


def _front_matter(exported: Exported) -> ModelCardData:
    given, model = exported.publishing, exported.line.model
    data_id = hub_id(exported.cfg.data.path, "dataset")
    name = f"{exported.line.model_name}-{_data_name(exported.cfg)}-{exported.record.regime}"
    results = list(_results(exported, data_id))
    return ModelCardData(
        base_model=given.base_model or hub_id(model),
        datasets=[data_id] if data_id else None,
        license=given.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["passk", "pass-at-k", *_method_tags(exported.record)],
        model_name=re.sub(r"[^\w.-]+", "-", name) if results else None,
        eval_results=results or None,
    )


def _method_tags(record: RunRecord) -> list[str]:
    return ["sft"] if record.regime == "sft" else ["reinforcement-learning", "rlvr"]


def _results(exported: Exported, data_id: str | None) -> Iterator[EvalResult]:
    """Yield the table for machines: fractions, as the hub's metrics are."""
    data = exported.cfg.data
    for row in pass_table(exported.record, exported.step).to_dict("records"):
        yield EvalResult(
            task_type="text-generation",
            dataset_type=data_id or data.name,
            dataset_name=_data_name(exported.cfg),
            dataset_config=data.subset if isinstance(data, TableConfig) else None,
            dataset_split=data.eval_split if data_id and isinstance(data, TableConfig) else None,
            metric_type=f"pass@{row['k']}",
            metric_name=f"Pass@{row['k']}",
            metric_value=round(row["value"], 4),
        )


def pass_table(record: RunRecord, step: int) -> pd.DataFrame:
    """Compute per k: `start` (step 0), `value` (this step) and `delta`, each with its interval.

    Empty if the step was not evaluated; the change is a paired bootstrap over problems.
    """
    at = {when: record.evals[record.evals["step"] == when].set_index("k") for when in (0, step)}
    before = record.counts(0) if 0 in record.steps else None
    after = record.counts(step) if step in record.steps else None
    rows = []
    for k in at[step].index:
        row: dict[str, object] = {"k": int(k)}
        for name, table in (("start", at[0]), ("value", at[step])):
            found = table.reindex([k]).iloc[0]
            row |= {name: found["value"]}
            row |= {f"{name}_low": found["ci_low"], f"{name}_high": found["ci_high"]}
        [change] = paired_deltas(before, after, [int(k)])
        row |= {"delta": change.value, "delta_low": change.low, "delta_high": change.high}
        rows.append(row)
    return pd.DataFrame(rows)


def _shown(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    if table["start"].isna().all():
        table = table[["k", "value", "value_low", "value_high"]]
    names = {"k": "k", "start": f"{_PRIOR}, Pass@k (%)", "value": "this model, Pass@k (%)"}
    return markdown(table, names | {"delta": "change (points)"})


def _change(record: RunRecord, table: pd.DataFrame) -> str:
    """Describe in a sentence how training changed Pass@1 and the Pass@k of the table."""
    known = table.dropna(subset=["delta_low"]).set_index("k") if len(table) else table
    if known.empty:
        return "Here the change is not known: no evaluation of the start is in the run."
    k = reported_k(record, [record])
    k = k if k in known.index else max(known.index)
    if k == 1:
        return "Here only Pass@1 was measured; its change is in the table."
    (label,) = run_labels([record])
    row: dict[str, object] = {"regime": label, "seed": record.seed, "alignment_low": None}
    for name, this_k in (("pass1", 1), ("passk", k)):
        for column in ("delta", "delta_low", "delta_high"):
            row[column.replace("delta", f"delta_{name}")] = known.loc[this_k, column]
    (sentence,) = reading(pd.DataFrame([row]), {label: run_title(record, label)}, {label: k})
    return sentence


def _measured(exported: Exported, table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    cfg, record = exported.cfg, exported.record
    row = record.evals[record.evals["step"] == exported.step].iloc[0]
    text = (
        f"{row['num_problems']:.0f} held-out problems, {row['num_samples']:.0f} samples each at "
        f"temperature {cfg.eval.temperature:g} and top-p {cfg.eval.top_p:g}, at most "
        f"{cfg.eval.max_new_tokens or cfg.rollout.max_new_tokens} new tokens, judged by "
        f"`verifier={cfg.verifier.name}`. In brackets 95 % intervals: bootstrap over problems, of "
        "changes in pairs."
    )
    given = exported.publishing.dtype
    if given not in (None, cfg.model.dtype):
        text += f" Measured in {cfg.model.dtype}, before the weights were rounded to {given}."
    file = record.path / "eval" / "summary.csv"
    if file.is_file():
        rows = pd.read_csv(file)
        at_step = rows[(rows["step"] == exported.step) & (rows["metric"] == "greedy_accuracy")]
        text += "".join(f" Greedy accuracy: {cell} %." for cell in percent_cells(at_step)[-1:])
    return text


def _what(exported: Exported) -> str:
    """Describe the regime in words."""
    regime = exported.cfg.regime
    steps = f"{exported.step} step{'s' * (exported.step != 1)}"
    start = f"`{exported.line.model_name}`"
    if before := [_title(run) for run in exported.line.runs[:-1]]:
        start += f" after {', then '.join(before)}"
    if regime.name == "sft":
        return f"{start}, trained by supervised fine-tuning on worked solutions for {steps}."
    if regime.estimator in ESTIMATORS_WITHOUT_K:
        means = f"with the estimator `{regime.estimator}`"
        return f"{start}, trained by reinforcement learning {means} for {steps}."
    aim = f"**{objective_in_words(regime)}**"
    if regime.is_remedy:
        aim = f"an objective chosen at every step (`regime={regime.name}`, from {aim})"
    means = "" if regime.estimator == "mixture" else f", by the estimator `{regime.estimator}`"
    return f"{start}, trained by reinforcement learning on {aim}{means} for {steps}."


def _title(record: RunRecord) -> str:
    return run_title(record, run_labels([record])[0])


def _data_name(cfg: TrainConfig) -> str:
    """Return the name of the data, or of their file if the name only gives the format."""
    path = cfg.data.path or cfg.data.eval_path
    return Path(path).stem if cfg.data.name == "jsonl" and path else cfg.data.name


def _data_lines(exported: Exported) -> Iterator[str]:
    cfg, manifest = exported.cfg, exported.record.manifest
    data = cfg.data
    about = _WHAT_DATA_ARE.get(data.name)
    yield f"`data={data.name}`{': ' + about if about else ''}"
    if isinstance(data, ConventionsConfig):
        names = [name for name in _CONVENTIONS if ("corpus" in name) == (cfg.regime.name == "sft")]
        yield ", ".join(f"`{name}={getattr(data, name)}`" for name in ["seed", *names])
    subset = getattr(data, "subset", None)
    for side, path, split in (
        ("training", data.path, getattr(data, "train_split", None)),
        ("held out", data.eval_path or data.path, getattr(data, "eval_split", None)),
    ):
        if path is None or (side == "held out" and isinstance(data, ConventionsConfig)):
            continue
        parts = [f"`{shown_name(path)}`"]
        if not is_file_name(path):  # a folder or a hub data set, which has splits
            parts += [f"subset `{subset}`"] if subset else []
            parts += [f"split `{split}`"] if split else []
        yield f"{side}: {', '.join(parts)}"
    digests = [f"`{name}={manifest[name]}`" for name in _DIGESTS if name in manifest]
    if digests:
        yield f"no prompt stands on both sides; fingerprints {', '.join(digests)}"


def _settings(record: RunRecord) -> Iterator[tuple[str, str]]:
    keys = _SFT_SETTINGS if record.regime == "sft" else _RL_SETTINGS
    lora = _LORA_SETTINGS if record.setting("model.lora_rank") else ()
    yield "regime", record.regime
    for key in (*keys, *_SETTINGS, *lora):
        value = record.setting(key)
        if value is not None and not (key.startswith("verifier.false") and value == 0):
            yield key, str(value).replace("|", "\\|")


def _made_with(record: RunRecord) -> Iterator[tuple[str, str]]:
    manifest: Mapping[str, Any] = record.manifest
    git = manifest.get("git") or {}
    facts = {name: v for name, v in (manifest.get("versions") or {}).items() if v}
    if git.get("commit"):
        facts["commit of passk"] = f"{git['commit']}{' (changed)' if git.get('dirty') else ''}"
    for name in ("device", "engine", "start", "seconds"):
        if manifest.get(name) is not None:
            facts[name] = manifest[name]
    yield from ((str(name), str(value)) for name, value in facts.items())
