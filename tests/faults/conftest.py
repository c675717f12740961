"""The runs that faults happen to, and the matrix of what became of them.

A few faults by default, all of them with `--faults-table FILE` (`make test-faults`).
"""

import random
from pathlib import Path

import pytest
from faults import WORDS, Matrix, Passk
from small_runs import train

_MATRIX = pytest.StashKey[Matrix]()


@pytest.fixture(scope="session")
def is_whole_matrix(pytestconfig) -> bool:
    return pytestconfig.getoption("--faults-table") is not None


@pytest.fixture(scope="session")
def matrix(pytestconfig) -> Matrix:
    return pytestconfig.stash.setdefault(_MATRIX, Matrix())


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The run that nothing happens to."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(run, *WORDS) == 0
    return run


@pytest.fixture(scope="session")
def passk_process(tmp_path_factory):
    """With a small disk of its own where the system lets us have one."""
    process = Passk(tmp_path_factory.mktemp("faults"))
    yield process
    process.close()


@pytest.fixture
def rng(request) -> random.Random:
    """Draws that are the test's own, the same every time."""
    return random.Random(request.node.name)


def pytest_terminal_summary(terminalreporter, config):
    matrix = config.stash.get(_MATRIX, None)
    if matrix is None:
        return
    terminalreporter.write_line(f"\n{matrix.markdown()}")
    if file := config.getoption("--faults-table"):
        Path(file).write_text(matrix.markdown(), encoding="utf-8")
