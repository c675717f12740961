"""Random answers do no harm: none raises, hangs or leaves the counts."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stress.fuzz_answers import GOLDS, completions, harm_done

from passk.config.schema import VerifierConfig
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.base import ConventionsVerifier
from passk.verifiers.exact import ExactVerifier
from passk.verifiers.math.verifier import MathVerifier

PAIRS = st.lists(st.tuples(st.sampled_from(GOLDS), completions()), min_size=30, max_size=30)


def as_pairs(drawn):
    return [
        (Problem("p", "", gold), Completion(text, (), (), FinishReason.STOP))
        for gold, text in drawn
    ]


def sample(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def math():
    cfg = VerifierConfig(name="math", num_workers=1, timeout_seconds=1, max_memory_mib=256)
    built = MathVerifier(cfg)
    yield built
    built.close()


@given(PAIRS)
@sample(3)
def test_no_answer_harms_the_mathematical_verifier(math, drawn):
    assert harm_done(math, as_pairs(drawn), seconds_each=4)[0] == []


@given(PAIRS)
@sample(30)
def test_no_answer_harms_the_verifiers_of_text(drawn):
    places = ["boxed", "hash", "last_line", "last_number"]
    for verifier in (
        ExactVerifier(VerifierConfig(name="exact", answer_in=places)),
        ConventionsVerifier(),
    ):
        assert harm_done(verifier, as_pairs(drawn), seconds_each=0.1)[0] == []


class Harmful:
    """Raises, is slow, or judges nothing."""

    def __init__(self, does):
        self.does = does

    def verify(self, pairs):
        if self.does == "raises":
            raise RecursionError("deep")
        return [Verdict(None, "error") for _ in pairs]


@pytest.mark.parametrize(("does", "words"), [("raises", "raised"), ("silence", "left the counts")])
def test_harm_is_seen(does, words):
    (harm,), _ = harm_done(Harmful(does), as_pairs([("5", "5")]), seconds_each=1)
    assert harm.startswith(words)
