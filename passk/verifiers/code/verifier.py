"""verifier=python: unit tests for code problems, on code that a model wrote, in a sandbox.

The answer of a problem is test code, as in these forms, mixed as one likes:

- statements, MBPP's list of asserts for instance: `assert add(1, 2) == 3`, one a line;
- `def check(candidate): ...`, HumanEval's form, called with the entry point unless the tests call
  it themselves; `def test_...():` is called as well;
- statements about `candidate`, which is the entry point.

The entry point is the function that the prompt asks for, the last of several; where the prompt has
none, the last one that the worked solution has, else the last that the program defines. Any object
that can be called counts as a function.

`passk.verifiers.code.program` says which text of a completion is the program: exactly one is run,
the last that defines the function. Tests see what the program defines, not what it imports; they
see functions and constants that the prompt gives as they stand in the prompt, and modules of the
standard library that they use, imported or not.

Verdicts: `correct`; `wrong`, a failed assertion, an exception, leaving early; `unparsed`, no
program; `truncated`, the length limit; `timeout` and `error` (a crash, or more memory or files than
allowed), both with reward 0, as they are the program's own doing and must not take it out of the
statistics. `Verdict(None, "error")` is kept for what is not: the sandbox did not start, or the
tests test nothing.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from passk.config.schema import VerifierConfig
from passk.errors import UserError
from passk.types import Completion, FinishReason, Problem, Verdict
from passk.verifiers.base import CORRECT, TRUNCATED, UNPARSED, WRONG
from passk.verifiers.code.confinement import Limits
from passk.verifiers.code.process import Check, Sandbox
from passk.verifiers.code.program import fenced_blocks
from passk.verifiers.code.seccomp import supported_machine

_VERDICTS = {
    "correct": CORRECT,
    "wrong": WRONG,
    "unparsed": UNPARSED,
    "timeout": Verdict(0.0, "timeout"),
    "error": Verdict(0.0, "error"),
    "untested": Verdict(None, "error"),
    "not_started": Verdict(None, "error"),
}
_MIB = 2**20


class PythonVerifier:
    """Runs every completion's code against the tests of its problem. See the module.

    UserError where the machine cannot confine such code: it is never run otherwise.
    """

    def __init__(self, cfg: VerifierConfig) -> None:
        supported_machine()
        self._limits = Limits(
            cfg.timeout_seconds, cfg.max_memory_mib * _MIB, cfg.max_file_mib * _MIB
        )
        try:
            self._sandbox = Sandbox()
            check = Check("", "def f(): return 1", "assert f() == 1")
            trial = self._sandbox.run(check, self._limits)
        except OSError as error:
            raise UserError(f"verifier=python cannot start a check: {error}") from None
        if trial.result != "correct":
            raise UserError(
                trial.refused
                or f"verifier=python cannot run a program in its sandbox ({trial.result}); allow "
                "it more with verifier.timeout_seconds or verifier.max_memory_mib"
            )
        num_workers = cfg.num_workers or min(8, len(os.sched_getaffinity(0)))
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="passk-check")

    def verify(self, pairs: Sequence[tuple[Problem, Completion]]) -> list[Verdict]:
        """See `Verifier.verify`."""
        return list(self._pool.map(self._verify_one, pairs))

    def _verify_one(self, pair: tuple[Problem, Completion]) -> Verdict:
        problem, completion = pair
        if completion.finish_reason is FinishReason.LENGTH:
            return TRUNCATED
        check = Check(problem.prompt, completion.text, problem.answer, problem.solution)
        try:
            result = self._sandbox.run(check, self._limits).result
        except OSError:  # no room for another process
            result = "not_started"
        if result == "unparsed" and fenced_blocks(completion.text):
            return WRONG
        return _VERDICTS[result]

    def demonstrate(self, problem: Problem) -> str | None:
        """The worked solution as a completion; None where the problem has none."""
        return f"```python\n{problem.solution}\n```" if problem.solution else None

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """(problem, completion, reason) that this verifier has to get right."""
        tests = "assert double(2) == 4\nassert double(-1) == -2"
        problem = Problem("self-test", "Write double(x).", tests)
        return [
            (problem, "```python\ndef double(x):\n    return 2 * x\n```", "correct"),
            (problem, "def double(x):\n    return x + 2\n", "wrong"),
            (problem, "```\nimport os\ndef double(x):\n    os._exit(0)\n```", "wrong"),
            (problem, "```\nimport ctypes\ndouble = ctypes.string_at\ndouble(0)\n```", "error"),
            (problem, "I do not know.", "unparsed"),
        ]

    def close(self) -> None:
        """Wait for the checks that run, and end the threads and the sandbox."""
        self._pool.shutdown(cancel_futures=True)
        self._sandbox.close()
