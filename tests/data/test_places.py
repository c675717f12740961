"""Paths of a configuration, as they are recorded."""

from dataclasses import asdict

import pytest

from passk.config.commands import FilterConfig
from passk.config.schema import ModelConfig, TableConfig, TrainConfig, TrainingConfig
from passk.data.sources import with_absolute_paths


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, with a folder, a file, and a link to it."""
    folder = tmp_path / "läufe (1)"
    (folder / "sums").mkdir(parents=True)
    (folder / "test.jsonl").touch()
    (folder / "link.jsonl").symlink_to("test.jsonl")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    return folder


def recorded(data_path=None, eval_path=None, model="tiny", init_from=None):
    return with_absolute_paths(
        TrainConfig(
            data=TableConfig(path=data_path, eval_path=eval_path),
            model=ModelConfig(path=model),
            train=TrainingConfig(init_from=init_from),
        )
    )


@pytest.mark.parametrize("name", ["test.jsonl", "./test.jsonl", "~/test.jsonl", "a/../test.jsonl"])
def test_files_are_absolute(here, name):
    cfg = recorded(name, name)
    assert cfg.data.path == cfg.data.eval_path == str(here / "test.jsonl")
    assert with_absolute_paths(cfg) == cfg


def test_folders_links_and_missing_files(here):
    assert recorded("sums").data.path == recorded(model="sums").model.path == str(here / "sums")
    assert recorded(init_from="~/sums").train.init_from == str(here / "sums")
    assert recorded("link.jsonl").data.path == str(here / "link.jsonl")
    assert recorded("no.csv.gz").data.path == str(here / "no.csv.gz")
    assert with_absolute_paths(FilterConfig(run="sums")).run == str(here / "sums")


@pytest.mark.parametrize("name", ["openai/gsm8k", "squad", "Qwen/Qwen2.5-0.5B", "tiny", None])
def test_names_of_the_hub_stay(here, name):
    (here / "tiny").mkdir()  # a model of this name is the shipped one
    cfg = recorded(
        name if name != "tiny" else None, name if name != "tiny" else None, name or "tiny"
    )
    assert asdict(cfg) == asdict(with_absolute_paths(cfg))
    assert cfg.model.path == (name or "tiny")
