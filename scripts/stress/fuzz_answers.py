r"""Gives random answers to the verifiers of text and reports every one that does harm.

    python scripts/stress/fuzz_answers.py [--examples 100000] [--seed 0] [--workers 2]

Answers are mutated gold answers, LaTeX from a grammar, deep nesting, long repetitions, towers of
powers and any characters at all, NUL and lone surrogates too, in a box, after `####` or bare. For
gold answers that are sound no answer may raise, leave the counts (reward None), or take longer than
its time limit and the start of another worker. What was drawn before is not given again.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from passk.config.schema import VerifierConfig
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.base import ConventionsVerifier, Verifier
from passk.verifiers.exact import ExactVerifier
from passk.verifiers.math.verifier import MathVerifier

_BATCH = 50
GOLDS = (
    *("5", "-3", "58,500", "0.25", r"\frac{1}{2}", r"2\frac{3}{4}", r"50\%", "1.5e3", "1011_2"),
    *(r"\frac{\sqrt{2}}{2}", r"2\pi", "x^2-1", "(x-1)(x+1)", "3+4i", r"\sin^2 x", "10^{-7}"),
    *("(1,2)", "[0,1)", r"(-\infty,3]\cup[5,\infty)", r"\{1,2\}", "1, 2", r"3 \pm \sqrt{2}"),
    *("x=5", "y=2x+1", "x^2+y^2=1", r"x \ge 3", r"\text{(B)}", r"\text{Monday}", r"\mathbb{R}"),
    *(r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"90^\circ", r"5\text{ cm}", r"\emptyset"),
)
_PIECES = (
    *"0123456789",
    *"abcdefinxyzABC",
    *"+-*/^_=<>()[]{}|!,.:;%$&~'\"\\# \n\t\r",
    *(r"\frac", r"\dfrac12", r"\sqrt", r"\sqrt[3]", r"\left(", r"\right)", r"\left", r"\right."),
    *(r"\text{", r"\mathrm{", r"\mathbf{", r"\color{red}", r"\boxed{", r"\overline{", r"\pmod{"),
    *(
        r"\cup",
        r"\cap",
        r"\setminus",
        r"\in",
        r"\pm",
        r"\le",
        r"\ne",
        r"\approx",
        r"\equiv",
        r"\to",
    ),
    *(r"\pi", r"\infty", r"\theta", r"\alpha", r"\mathbb{R}", r"\emptyset", r"\degree", r"^\circ"),
    *(r"\sum_{k=1}^{9}", r"\int_0^1", r"\prod", r"\lim_{x\to 0}", r"\log_2", r"\sin", r"\binom"),
    *(r"\begin{pmatrix}", r"\end{pmatrix}", r"\begin{array}{cc}", r"\end{array}", r"\\", r"\cdot"),
    *(
        "1,000",
        "1e",
        "e-5",
        "1e999999999",
        "99999999",
        "cm",
        " and ",
        " or ",
        "x=",
        "percent",
        "million",
    ),
    *(
        "\0",
        "\ud800",
        "\u202e",
        "\u200b",
        "½",
        "²",
        "\u2212",
        "∞",
        "√",
        "٣",
        "\uff15",
        "\N{DIGIT TWO FULL STOP}",
    ),
)
_OPENINGS = ("{", "(", "[", r"\sqrt{", r"\frac{1}{", r"\text{", r"\left(", "-", "x^{", "2^{", r"\{")
_CLOSINGS = {"{": "}", "(": ")", "[": "]", r"\left(": r"\right)", "-": "", r"\{": r"\}"}
_HARD = (
    *("9^{9^{9^{9}}}", "2^{2^{2^{40}}}", "10000000000!", "9!!!!", "1e1000000000", "10^{-10^{10}}"),
    *(
        r"\sum_{k=1}^{10000000000} \sin(k)",
        r"(x+y+z)^{500}",
        r"\int_0^1 x^{x^{x}} dx",
        "0^0",
        "1/0",
    ),
    *(
        r"\log 0",
        r"\tan 90^\circ",
        r"\frac{0}{0}",
        r"\sqrt[0]{2}",
        r"\binom{10^9}{10^8}",
        r"0^{-1}",
    ),
)


def answers() -> st.SearchStrategy[str]:
    """Texts of answers, from nearly right to hostile; of the costly ones a few in a hundred."""
    soup = st.lists(st.sampled_from(_PIECES), max_size=40).map("".join)
    characters = st.text(st.characters(exclude_categories=()), max_size=60)
    repeated = st.tuples(st.sampled_from(_PIECES), st.sampled_from((50, 999, 20_000))).map(
        lambda drawn: drawn[0] * drawn[1]
    )
    costly = st.one_of(st.sampled_from(_HARD), _nested(), _nested(), repeated, repeated)
    usual = st.one_of(_mutated(), _formulas(), soup, characters)
    return st.one_of(*[usual] * 150, costly)


def _formulas() -> st.SearchStrategy[str]:
    """LaTeX that mostly can be read."""
    leaves = st.one_of(st.integers(-999, 9999).map(str), st.sampled_from(("x", "y", r"\pi", "0.5")))
    forms = (
        *(
            "{0}+{1}",
            "{0}-{1}",
            r"{0}\cdot {1}",
            r"\frac{{{0}}}{{{1}}}",
            r"\sqrt{{{0}}}",
            "{0}={1}",
        ),
        *("{0}^{{{1}}}", "({0},{1})", "[{0},{1})", r"\{{{0},{1}\}}", "{0}, {1}", r"\sin({0})"),
        *(
            r"{0}\text{{ cm}}",
            r"\left({0}\right)",
            "{0}!",
            r"\log_{{{0}}} {1}",
            r"{0}\le {1}",
            "{0}{1}",
        ),
    )
    return st.recursive(
        leaves,
        lambda inner: st.tuples(st.sampled_from(forms), inner, inner).map(
            lambda drawn: drawn[0].format(drawn[1], drawn[2])
        ),
        max_leaves=12,
    )


@st.composite
def _mutated(draw: st.DrawFn) -> str:
    """A gold answer with a few edits."""
    text = draw(st.sampled_from(GOLDS))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(text)))
        length = draw(st.integers(0, 3))
        text = text[:place] + draw(st.sampled_from(("", *_PIECES))) + text[place + length :]
    return text


@st.composite
def _nested(draw: st.DrawFn) -> str:
    """Brackets and commands in one another, all, some or none of them closed."""
    opening = draw(st.sampled_from(_OPENINGS))
    depth = draw(st.sampled_from((3, 12, 60, 150, 330)))
    num_closed = draw(st.sampled_from((0, depth // 2, depth)))
    return opening * depth + draw(st.sampled_from("1x,")) + _CLOSINGS.get(opening, "}") * num_closed


def completions() -> st.SearchStrategy[str]:
    """Answers where a verifier may find them."""
    frames = (
        "\\boxed{{{}}}",
        "\\boxed{{{}}}",
        "so $\\boxed{{{}}}$.",
        "#### {}",
        "{}",
        "\\boxed{{{}",
        "\\boxed {}",
        "={}",
    )
    return st.tuples(st.sampled_from(frames), answers()).map(
        lambda drawn: drawn[0].format(drawn[1])
    )


def harm_done(
    verifier: Verifier, pairs: Sequence[tuple[Problem, Completion]], seconds_each: float
) -> tuple[list[str], list[Verdict]]:
    """Return what went wrong with a batch, in words, and its verdicts."""
    begun = time.monotonic()
    try:
        verdicts = verifier.verify(pairs)
    except Exception as error:
        return [f"raised {error!r}"], []
    harm = [
        f"left the counts ({verdict.reason}): gold {problem.answer!r}, {completion.text[:200]!r}"
        for (problem, completion), verdict in zip(pairs, verdicts, strict=True)
        if verdict.reward is None
    ]
    seconds = time.monotonic() - begun
    if seconds > seconds_each * len(pairs):
        harm.append(f"took {seconds:.0f} s for {len(pairs)} answers")
    return harm, verdicts


class Judge:
    """Gives different answers to all verifiers, many at a time. State: what was seen and found."""

    def __init__(self, num_workers: int) -> None:
        places = ["boxed", "hash", "last_line", "last_number"]
        limited = VerifierConfig(
            name="math", num_workers=num_workers, timeout_seconds=1, max_memory_mib=256
        )
        self._verifiers: dict[str, Verifier] = {
            "math": MathVerifier(limited),
            "exact": ExactVerifier(VerifierConfig(name="exact", answer_in=places)),
            "conventions": ConventionsVerifier(),
        }
        self._waiting: list[tuple[Problem, Completion]] = []
        self.seen: set[tuple[str, str]] = set()
        self.reasons: Counter[str] = Counter()
        self.harms: list[str] = []

    def take(self, gold: str, text: str) -> None:
        """Keep an answer that is new, and judge all that wait where there are enough."""
        if (gold, text) in self.seen:
            return
        self.seen.add((gold, text))
        completion = Completion(text, (), (), FinishReason.STOP)
        self._waiting.append((Problem("p", "", gold), completion))
        if len(self._waiting) == _BATCH:
            self.judge()

    def judge(self) -> None:
        """Judge all answers that wait, and show how many were so far."""
        for name, verifier in self._verifiers.items():
            seconds_each = 20 if name == "math" else 0.1
            harm, verdicts = harm_done(verifier, self._waiting, seconds_each)
            self.reasons.update(f"{name}: {verdict.reason}" for verdict in verdicts)
            for words in harm:
                self.harms.append(f"verifier={name} {words}")
                print(f"\n{self.harms[-1]}", file=sys.stderr)
        self._waiting.clear()
        shown = f"{len(self.seen):,} answers, harm {len(self.harms)}"
        print(f"\r{shown}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """End the worker processes."""
        for verifier in self._verifiers.values():
            verifier.close()


def main() -> int:
    """Draw, judge and report; exit code 1 where there was harm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    judge = Judge(options.workers)

    @seed(options.seed)
    @settings(
        max_examples=options.examples,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.sampled_from(GOLDS), completions())
    def run(gold: str, text: str) -> None:
        judge.take(gold, text)

    try:
        run()
        judge.judge()
    finally:
        judge.close()
    print(f"\n{len(judge.seen):,} different answers to {len(GOLDS)} gold answers, three verifiers")
    for reason, count in sorted(judge.reasons.items()):
        print(f"  {reason}: {count:,}")
    print("\n".join(judge.harms) or "no harm: none raised, left the counts or hung")
    return 1 if judge.harms else 0


if __name__ == "__main__":
    sys.exit(main())
