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

import pandas as pd
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from passk.config.commands import PublishingConfig
from passk.config.schema import (
    ConventionsConfig,
    DataConfig,
    EvalConfig,
    TableConfig,
    TrainConfig,
    has_k,
)
from passk.data.sources import is_file_name
from passk.evaluation.tables import percent_cells
from passk.objectives.advantages import objective_in_words
from passk.report.pages import template_text
from passk.report.reading import reading
from passk.report.table_formats import commit_of, frame_table
from passk.report.tables import paired_deltas, recorded_value, reported_k
from passk.runs.command_lines import Lineage, command_line, hub_id, shown_name
from passk.runs.labels import run_labels, run_title
from passk.runs.reader import RunRecord
from passk.text import Table
from passk.types import Problem

if TYPE_CHECKING:  # importing it would import torch
    from passk.data.prompts import PromptEncoder

# Settings of a generation_config.json, each with the value that passk samples with.
_SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
_SAMPLING |= {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}


def prompt_section(cfg: TrainConfig, folder: Path, encoder: "PromptEncoder") -> str:
    """Write the part of the card about prompts and their code; `folder` holds the model."""
    prompt, tokenizer = cfg.data.prompt, encoder.tokenizer
    text = encoder.prompt_text(Problem("", "{problem}", ""))
    ends = [end for end in _end_ids(folder) if type(end) is int and 0 <= end < len(tokenizer)]
    return template_text(
        "prompts",
        cfg=cfg,
        prompt=prompt,
        is_chat=encoder.is_chat,
        in_parts=encoder.chat is not None and encoder.chat.in_parts,
        first=" ".join(tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"])),
        text=text,
        fence=max(re.findall("`{3,}", text), key=len, default="``") + "`",
        ends=[f"`{token}`" for token in tokenizer.convert_ids_to_tokens(ends)],
        stops=[f"`{json.dumps(word, ensure_ascii=False)}`" for word in prompt.stop],
        own_defaults=_own_defaults(cfg.eval, folder),
    )


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


_RL_SETTINGS = (
    *("regime.k", "regime.pass1_weight", "regime.ks", "regime.weights", "regime.estimator"),
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
    body = template_text("model_card", **_content(exported))
    return ModelCard(f"---\n{_front_matter(exported).to_yaml()}\n---\n\n{body}")


def _content(exported: Exported) -> dict[str, Any]:
    cfg, record, line = exported.cfg, exported.record, exported.line
    table = pass_table(record, exported.step)
    fronts = record.fronts
    greedy = fronts[(fronts["step"] == exported.step) & (fronts["temperature"] == 0)]
    return {
        "exported": exported,
        "title": f"{line.model_name}: {_title(record)} on {_data_name(cfg)}",
        "before": [_title(run) for run in line.runs[:-1]],
        "knows_k": has_k(cfg.regime.estimator),
        "objective": objective_in_words(cfg.regime),
        "status": record.manifest.get("status", "how it ended is not recorded"),
        "dtype": exported.publishing.dtype or cfg.model.dtype,
        "change": _change(record, table),
        "table": _shown(table),
        "measured": record.evals[record.evals["step"] == exported.step].head(1).squeeze(),
        "greedy": percent_cells(greedy)[-1:],
        "is_generated": isinstance(cfg.data, ConventionsConfig),
        "sources": _sources(cfg.data),
        "prompts": prompt_section(cfg, exported.folder, exported.encoder),
        "settings": _settings(record).markdown(),
        "commands": [command_line(run, named=run is not record) for run in line.runs],
        "made_with": _made_with(record),
    }


def _front_matter(exported: Exported) -> ModelCardData:
    given, model = exported.publishing, exported.line.model
    data_id = hub_id(exported.cfg.data.path, "dataset")
    name = f"{exported.line.model_name}-{_data_name(exported.cfg)}-{exported.record.regime}"
    results = list(_results(exported, data_id))
    methods = ["sft"] if exported.record.regime == "sft" else ["reinforcement-learning", "rlvr"]
    return ModelCardData(
        base_model=given.base_model or hub_id(model),
        datasets=[data_id] if data_id else None,
        license=given.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["passk", "pass-at-k", *methods],
        model_name=re.sub(r"[^\w.-]+", "-", name) if results else None,
        eval_results=results or None,
    )


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
    before = record.counts(0) if 0 in record.steps else None
    after = record.counts(step) if step in record.steps else None
    return pd.DataFrame(
        {"k": k}
        | recorded_value(record, k, 0).columns("start")
        | recorded_value(record, k, step).columns("value")
        | paired_deltas(before, after, [k])[0].columns("delta")
        for k in record.evals[record.evals["step"] == step]["k"].astype(int)
    )


def _shown(table: pd.DataFrame) -> str:
    if table.empty:
        return ""
    if table["start"].isna().all():
        table = table[["k", "value", "value_low", "value_high"]]
    names = {
        "k": "k",
        "start": "starting checkpoint, Pass@k (%)",
        "value": "this model, Pass@k (%)",
    }
    names |= {"delta": "change (points)"}
    return frame_table(table, names).markdown()


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
        row |= {f"delta_{name}{end}": known[f"delta{end}"][this_k] for end in ("", "_low", "_high")}
    (sentence,) = reading(pd.DataFrame([row]), {label: run_title(record, label)}, {label: k})
    return sentence


def _title(record: RunRecord) -> str:
    return run_title(record, run_labels([record])[0])


def _data_name(cfg: TrainConfig) -> str:
    """Return the name of the data, or of their file if the name only gives the format."""
    path = cfg.data.path or cfg.data.eval_path
    return Path(path).stem if cfg.data.name == "jsonl" and path else cfg.data.name


def _sources(data: DataConfig) -> Iterator[list[str]]:
    """Yield each side that comes from a file, a folder or the hub, and what it is read from."""
    splits = getattr(data, "train_split", None), getattr(data, "eval_split", None)
    paths = {"training": data.path, "held out": data.eval_path or data.path}
    if isinstance(data, ConventionsConfig):
        del paths["held out"]
    for (side, path), split in zip(paths.items(), splits, strict=False):
        named = {"subset": getattr(data, "subset", None), "split": split}
        if path is not None:  # a file has neither subsets nor splits
            parts = [] if is_file_name(path) else [f"{n} `{v}`" for n, v in named.items() if v]
            yield [side, ", ".join([f"`{shown_name(path)}`", *parts])]


def _settings(record: RunRecord) -> Table:
    keys = _SFT_SETTINGS if record.regime == "sft" else _RL_SETTINGS
    lora = _LORA_SETTINGS if record.setting("model.lora_rank") else ()
    values = {key: record.setting(key) for key in (*keys, *_SETTINGS, *lora)}
    rows = [
        [f"`{key}`", str(value)]
        for key, value in values.items()
        if value is not None and not (key.startswith("verifier.false") and value == 0)
    ]
    return Table(["setting", "value"], [["`regime`", record.regime], *rows])


def _made_with(record: RunRecord) -> dict[str, Any]:
    manifest: Mapping[str, Any] = record.manifest
    facts = {**(manifest.get("versions") or {}), "commit of passk": commit_of(record)}
    facts |= {name: manifest.get(name) for name in ("device", "engine", "start", "seconds")}
    return {name: value for name, value in facts.items() if value not in (None, "")}
