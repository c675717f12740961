"""`passk export`: write a checkpoint as a folder for transformers, vLLM and the hub."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from passk.config.commands import ExportConfig
from passk.config.compose import load_run_config
from passk.config.schema import ModelConfig
from passk.console import working
from passk.data.prompts import PromptEncoder
from passk.errors import UserError
from passk.files import LOCK, filled_at_once
from passk.learner.checkpoint import LEARNER, MANIFEST, STATE, chosen_checkpoint, saved_step
from passk.learner.checkpoint_writer import save_model, system_error
from passk.learner.policy import generation_settings, load_policy, load_tokenizer
from passk.report.model_card import Exported, model_card
from passk.runs.command_lines import lineage
from passk.runs.reader import load_run
from passk.training.build import prepare_torch

CARD = "README.md"


def run_export(cfg: ExportConfig, run_dir: Path, overrides: Sequence[str]) -> None:
    """Write the model of a run's checkpoint, and its card (docs/guide/report_and_export.md)."""
    assert cfg.run is not None
    if any(word.startswith("out=") for word in overrides):
        _refuse_two_names(cfg, run_dir)
    prepare_torch(None)
    record = load_run(cfg.run)
    trained = load_run_config(record.path)
    checkpoint = chosen_checkpoint(Path(cfg.run), cfg.checkpoint)  # checked for completeness
    tokenizer = load_tokenizer(str(checkpoint), trust_remote_code=trained.model.trust_remote_code)
    card = model_card(
        Exported(
            cfg=trained,
            record=record,
            line=lineage(record),
            folder=checkpoint,
            step=saved_step(checkpoint),
            is_best=cfg.checkpoint == "best",
            encoder=PromptEncoder(tokenizer, trained.data.prompt),
            publishing=cfg.export,
        )
    )
    with filled_at_once(run_dir, last=CARD, advice="make room, and export again") as folder:
        kept = model_files(checkpoint)
        if cfg.export.dtype not in (None, trained.model.dtype):
            kept = _write_as(cfg.export.dtype, trained.model, checkpoint, folder, kept)
        with working("copying the checkpoint", len(kept), "files") as phase:
            for name in kept:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                # A copy, not a link: editing a published model must not change the checkpoint.
                shutil.copyfile(checkpoint / name, folder / name)
                phase.advance()
        card.save(folder / CARD)
    _print_summary(run_dir, checkpoint)


def _refuse_two_names(cfg: ExportConfig, run_dir: Path) -> None:
    """Raise UserError if `out` and hydra.run.dir name two folders.

    `out` stands for hydra.run.dir, but a cell of a sweep gets its run directory from Hydra.
    """
    if Path(cfg.out).absolute() != run_dir.absolute():
        raise UserError(
            f"out={cfg.out} and hydra.run.dir={run_dir} name two folders; give one of them, or for "
            "several exports with -m hydra.sweep.dir=FOLDER"
        )


def model_files(checkpoint: Path) -> list[str]:
    """List the checkpoint's files of the model itself, without those that only resuming needs."""
    listed = json.loads((checkpoint / MANIFEST).read_text())
    return [n for n in listed if n != STATE and Path(n).parts[0] != LEARNER]


def _write_as(
    dtype: str, model_cfg: ModelConfig, checkpoint: Path, folder: Path, files: Sequence[str]
) -> list[str]:
    """Write config and weights in `dtype`; returns the files still to be copied."""
    code = model_cfg.trust_remote_code
    # The plainest attention: the fastest may not be available where the export runs.
    cfg = ModelConfig(dtype=dtype, trust_remote_code=code, attn_implementation="eager")
    model = load_policy(cfg, str(checkpoint), torch.device("cpu"))
    try:
        save_model(folder, model, None, generation_settings(str(checkpoint)))
    except SafetensorError as error:
        raise system_error(error, folder) from error
    for weights in folder.glob("*.safetensors"):  # which others could not read otherwise
        shutil.copymode(folder / "config.json", weights)
    return [n for n in files if n != "config.json" and ".safetensors" not in n]


def _print_summary(folder: Path, checkpoint: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK]
    size = sum(path.stat().st_size for path in files) / 2**20
    print(f"{folder}: {checkpoint.name} as a model folder, {len(files)} files, {size:.1f} MiB")
    print(f"read its card, {folder / CARD}, then: hf upload USER/NAME {folder}")
