"""Run unit tests on model-written code in a sandbox (`verifier=python`).

The answer of a problem is test code, in any mix of these forms:

- statements, such as MBPP's list of asserts: `assert add(1, 2) == 3`, one per line;
- `def check(candidate): ...`, HumanEval's form, called with the entry point unless the tests call
  it themselves; `def test_...():` is called as well;
- statements about `candidate`, which is the entry point.

The entry point is the function that the prompt asks for, the last of several. If the prompt asks
for none, it is the last one of the worked solution, else the last that the program defines. Any
callable object counts as a function.

`passk.verifiers.code.program` finds the program in a completion; exactly one is run, the last that
defines the function. Tests see what the program defines, not what it imports. They see the
functions and constants of the prompt as they are in the prompt, and the standard library modules
that they use, imported or not.

Verdicts: `correct`; `wrong`, a failed assertion, an exception, leaving early; `unparsed`, no
program; `truncated`, the length limit; `timeout` and `error` (a crash, or more memory or files than
allowed), both with reward 0, as the program is the cause and must stay in the statistics.
`Verdict(None, "error")` is for all other causes: the sandbox did not start, or the tests test
nothing.
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
    """Verifier that runs every completion's code against the tests of its problem. See the module.

    Raises UserError if the machine cannot confine such code: it is never run unconfined.
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
        """Return the worked solution as a completion; None if the problem has none."""
        return f"```python\n{problem.solution}\n```" if problem.solution else None

    def self_test(self) -> list[tuple[Problem, str, str]]:
        """See `Verifier.self_test`."""
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
        """Wait for running checks, then end the threads and the sandbox."""
        self._pool.shutdown(cancel_futures=True)
        self._sandbox.close()
