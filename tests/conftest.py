"""Fixtures that several test files use. Torch is imported late: many tests do without it."""

import forked
import pytest
from small_runs import Outcome

from passk.cli import main


def pytest_addoption(parser):
    parser.addoption(
        "--faults-table",
        metavar="FILE",
        help="let every fault of tests/faults happen, not a few, and write the table to FILE",
    )


@pytest.fixture(scope="session")
def tiny_model():
    """The shipped model, float32 on one thread. Shared: copy it before changing anything."""
    import torch

    from passk.config import ModelConfig
    from passk.policy import load_policy

    torch.set_num_threads(1)
    return load_policy(ModelConfig(), "tiny", torch.device("cpu"))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The tokenizer of the shipped model: 18 tokens, `</s>` is 1."""
    from passk.policy import load_tokenizer

    return load_tokenizer("tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_tokenizer):
    """Problems as the shipped model reads them: the bare prompt."""
    from passk.config import PromptConfig
    from passk.prompts import PromptEncoder

    return PromptEncoder(tiny_tokenizer, PromptConfig())


@pytest.fixture(scope="module")
def forked_ranks():
    """Ranks that the tests of a file start share the imports, and are otherwise as they are."""
    with forked.ranks():
        yield


@pytest.fixture
def passk(capfd, tmp_path, monkeypatch):
    """Call the command line in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Outcome:
        capfd.readouterr()
        code = main(list(words))
        return Outcome(code, *capfd.readouterr())

    return call
