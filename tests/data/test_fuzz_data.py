"""Random and damaged data files are read as problems or refused in one sentence."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stress import fuzz_data
from stress.fuzz_data import FORMS, damaged, files, harm_done

from passk.config.schema import TableConfig
from passk.types import Problem


@pytest.mark.parametrize("form", FORMS)
def test_no_file_does_harm(tmp_path, form):
    endings = set()

    @given(files((form,)), st.integers(0, 2**32))
    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def run(drawn, damage_seed):
        name, content, cfg = drawn
        for version in (content, damaged(content, random.Random(damage_seed))):
            harm, ending = harm_done(tmp_path, name, version, cfg)
            assert not harm
            endings.add(ending)

    run()
    assert endings == ({"refused"} if form == "txt" else {"refused", "problems"})


@pytest.mark.parametrize(
    ("does", "words"),
    [
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: ((Problem("a", " ", "1"),), []), "read Problem"),
        (lambda *_: ((), []), "or nothing"),
    ],
)
def test_harm_is_seen(tmp_path, monkeypatch, does, words):
    monkeypatch.setattr(fuzz_data, "read_problems", does)
    (harm,), _ = harm_done(tmp_path, "rows.jsonl", b"", TableConfig())
    assert words in harm
