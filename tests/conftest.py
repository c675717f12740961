"""Fixtures that several test files use. Torch is imported late: many tests do without it."""

import forked
import pytest
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from small_runs import Outcome

from passk.cli.main import main

# Their assertions show the values that they compared, as those of a test do.
pytest.register_assert_rewrite("engine_runs", "gradient_cases", "rank_runs", "resuming")

# Begun first, the longest of all at once, so that no core waits at the end for one of them.
LONGEST = (
    *("test_documentation.py", "test_compile.py", "test_rank_runs.py", "test_sweep.py"),
    *("test_resume.py", "test_sizing.py", "test_reproduce.py", "test_config.py"),
    *("test_eval_command.py", "test_checkpoint_writer.py", "test_diagnose.py", "test_clusters.py"),
    *("test_endings.py", "test_rank_adapters.py", "test_fsdp.py", "test_filter.py"),
    *("test_filtered_runs.py", "test_long_runs.py"),
)


def pytest_collection_modifyitems(items):
    """`make test` deals files out to processes in this order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


def pytest_addoption(parser):
    parser.addoption(
        "--faults-table",
        metavar="FILE",
        help="let every fault of tests/faults happen, not a few, and write the table to FILE",
    )


@pytest.fixture(scope="session", autouse=True)
def _composed_once():
    """Hydra composes every line twice, first for its mode, which passk knows by then: a quarter of
    the time of a small command. Processes that tests start do it as ever.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)
        yield


@pytest.fixture(scope="session")
def tiny_model():
    """The shipped model, float32 on one thread. Shared: copy it before changing anything."""
    import torch

    from passk.config.schema import ModelConfig
    from passk.learner.policy import load_policy

    torch.set_num_threads(1)
    return load_policy(ModelConfig(), "tiny", torch.device("cpu"))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The tokenizer of the shipped model: 18 tokens, `</s>` is 1."""
    from passk.learner.policy import load_tokenizer

    return load_tokenizer("tiny")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_tokenizer):
    """Problems as the shipped model reads them: the bare prompt."""
    from passk.config.schema import PromptConfig
    from passk.data.prompts import PromptEncoder

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
