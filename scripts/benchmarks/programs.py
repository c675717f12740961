"""Right and wrong programs in the dresses models give them, judged by verifier=python.

    python scripts/benchmarks/programs.py FOLDER [--dresses all] [--mutants 4] [--every 1]

FOLDER holds HumanEval.jsonl (openai/human-eval) or mbpp.jsonl (google-research), or both, anywhere
below it. Every worked solution must pass in every dress. Mutants of them are judged by the
verifier and by a plain reference in human_eval's manner: program and tests in one namespace of one
new interpreter. The reference confines nothing, so it runs mutants of worked solutions only.
`--dresses plain,fence` and `--every 10` measure a part.
"""

import argparse
import ast
import copy
import json
import random
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from passk.config.schema import VerifierConfig
from passk.types import Completion, FinishReason, Problem
from passk.verifiers.code.verifier import PythonVerifier


class Task(NamedTuple):
    """A problem, a whole program that solves it, and, of HumanEval, the rest of its prompt."""

    problem: Problem
    program: str
    body: str = ""


def read_tasks(folder: Path) -> dict[str, list[Task]]:
    """Both data sets, as far as they are there."""
    tasks: dict[str, list[Task]] = {}
    for file in sorted(folder.rglob("*.jsonl")):
        lines = file.read_text(encoding="utf-8").split("\n")
        rows = [json.loads(line) for line in lines if line]
        if rows and "canonical_solution" in rows[0]:
            tasks["HumanEval"] = [_human_eval(row) for row in rows]
        elif rows and "test_list" in rows[0]:
            tasks["MBPP"] = [_mbpp(row) for row in rows]
    return tasks


def _human_eval(row: dict[str, str]) -> Task:
    body = row["canonical_solution"]
    problem = Problem(row["task_id"], row["prompt"], row["test"], solution=body)
    return Task(problem, row["prompt"] + body, body)


def _mbpp(row: dict[str, object]) -> Task:
    tests = [str(row["test_setup_code"]), *map(str, row["test_list"])]  # type: ignore[call-overload]
    prompt = f"{row['text']}\nYour code should pass these tests:\n" + "\n".join(tests)
    problem = Problem(f"MBPP/{row['task_id']}", prompt, "\n".join(tests), solution=str(row["code"]))
    return Task(problem, str(row["code"]).replace("\r\n", "\n"))


def fence(code: str, mark: str = "```", info: str = "python") -> str:
    """A fenced block."""
    return f"{mark}{info}\n{code.rstrip()}\n{mark}\n"


def indent(text: str, by: str = "   ") -> str:
    """Every line that is not empty, moved to the right."""
    return textwrap.indent(text, by)


def two_blocks(program: str) -> str:
    """The last definition in a block of its own, what stands before it in another."""
    last = [node for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)][-1]
    first = min([last.lineno, *(node.lineno for node in last.decorator_list)]) - 1
    lines = program.split("\n")
    before, after = "\n".join(lines[:first]), "\n".join(lines[first:])
    return f"First what it needs:\n\n{fence(before)}\nThen the function:\n\n{fence(after)}"


USAGE = "print('an example')\nresult = 1 / 0"
PROSE = "This works since every case is covered; it doesn't need more (see above."
# What a model writes around a whole program.
DRESSES: dict[str, Callable[[str], str]] = {
    "plain": lambda p: p,
    "fence": lambda p: f"Here you are:\n\n{fence(p)}\nIt works.",
    "usage block": lambda p: f"{fence(p)}\nUse it so:\n\n{fence(USAGE)}",
    "output block": lambda p: f"{fence(p)}\nOutput:\n\n{fence('4', info='')}",
    "other language after it": lambda p: f"{fence(p)}\n{fence('pip install x', info='bash')}",
    "list item": lambda p: f"1. So:\n\n{indent(fence(p))}\n2. Done.",
    "list item with a tab": lambda p: f"- So:\n\n{indent(fence(p), chr(9))}",
    "quotation": lambda p: indent(fence(p), "> "),
    "closing fence only": lambda p: f"{p.rstrip()}\n```\n{PROSE}",
    "no closing fence": lambda p: f"So:\n```python\n{p}",
    "no closing fence, prose": lambda p: f"So:\n```python\n{p.rstrip()}\n\n{PROSE}",
    "four backticks": lambda p: fence(p, "````"),
    "tildes": lambda p: fence(p, "~~~", " python"),
    "capital": lambda p: fence(p, info="Python"),
    "title": lambda p: fence(p, info='python3 title="x.py"'),
    "attributes": lambda p: fence(p, info="{.python .numberLines}"),
    "byte order mark": lambda p: "\ufeff" + p,
    "zero width": lambda p: fence("\u200b" + p),
    "windows": lambda p: fence(p).replace("\n", "\r\n"),
    "thinking": lambda p: f"<think>\n{fence('def f(): pass')}Hm.\n</think>\n\n{fence(p)}",
    "prose around": lambda p: f"The program is this:\n\n{p.rstrip()}\n\n{PROSE}",
    "main part": lambda p: fence(f"{p}\n\nif __name__ == '__main__':\n    print(1 / 0)"),
    "input at the end": lambda p: fence(f"{p}\n\nprint(int(input()))"),
    "answer tags": lambda p: f"<answer>{fence(p).rstrip()}</answer>",
    "two blocks": two_blocks,
}
# What goes on where HumanEval's prompt ends.
BODIES: dict[str, Callable[[str], str]] = {
    "rest": lambda b: b,
    "rest, fenced": fence,
    "rest, closing fence": lambda b: f"{b.rstrip()}\n```\n{PROSE}",
    "rest, runs on": lambda b: f"{b.rstrip()}\n\n\nExplanation: {PROSE}\ndef more(",
}


_OTHER_OPERATOR: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.Lt: ast.LtE,
    ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


def _changed(node: ast.AST) -> ast.AST | None:
    """The node with its operator, number or value changed in place; None if it has none."""
    if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _OTHER_OPERATOR:
        node.op = _OTHER_OPERATOR[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in _OTHER_OPERATOR:
        node.ops = [_OTHER_OPERATOR[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        node.value += 1
    elif isinstance(node, ast.Return) and node.value is not None:
        node.value = ast.Tuple([node.value], ast.Load()) if node.lineno % 2 else ast.Constant(None)
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.Expr):
        return ast.Pass()
    else:
        return None
    return node


class _Mutator(ast.NodeTransformer):
    """Changes the node of this number, and counts those that can be changed."""

    def __init__(self, place: int) -> None:
        self.place, self.places = place, 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if _changed(copy.copy(node)) is None:
            return node
        self.places += 1
        return (_changed(node) or node) if self.places - 1 == self.place else node


def mutants(program: str, count: int, draw: random.Random) -> Iterator[str]:
    """Programs with one operator, constant, statement or returned value changed."""
    tree = ast.parse(program)
    last = [node for node in tree.body if isinstance(node, ast.FunctionDef)][-1]
    counter = _Mutator(-1)
    counter.visit(copy.deepcopy(last))
    for place in draw.sample(range(counter.places), min(count, counter.places)):
        changed = copy.deepcopy(tree)
        index = next(i for i, node in enumerate(tree.body) if node is last)
        changed.body[index] = _Mutator(place).visit(changed.body[index])
        yield ast.unparse(ast.fix_missing_locations(changed))


def reference(task: Task, program: str, seconds: float = 5.0) -> bool:
    """Whether it passes when program and tests share a namespace, as in human_eval."""
    tests = task.problem.answer
    names = [node.name for node in ast.parse(program).body if isinstance(node, ast.FunctionDef)]
    if "def check(" in tests:
        tests += f"\ncheck({_entry_point(task) or names[-1]})\n"
    source = f"{program}\n{tests}\n"
    start = [sys.executable, "-I", "-c", "import sys; exec(sys.stdin.read(), {'__name__': 'x'})"]
    try:
        done = subprocess.run(start, input=source.encode(), capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _entry_point(task: Task) -> str:
    tree = ast.parse(task.program)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return names[-1] if task.body else ""


def _pair(task: Task, text: str) -> tuple[Problem, Completion]:
    return task.problem, Completion(text, (), (), FinishReason.STOP)


def judged(verifier: PythonVerifier, pairs: list[tuple[Task, str]]) -> list[str]:
    """The reason of every verdict."""
    return [v.reason for v in verifier.verify([_pair(task, text) for task, text in pairs])]


def measure_dresses(
    verifier: PythonVerifier, tasks: list[Task], names: set[str] | None
) -> Iterator[tuple[str, Counter[str], list[str]]]:
    """Of every dress how the worked solutions were judged, and which were not right."""
    dresses = {name: (lambda t, d=dress: d(t.program)) for name, dress in DRESSES.items()}
    if all(task.body for task in tasks):
        dresses |= {name: (lambda t, d=dress: d(t.body)) for name, dress in BODIES.items()}
    for name, dress in dresses.items():
        if names is None or name in names:
            reasons = judged(verifier, [(task, dress(task)) for task in tasks])
            pairs = zip(tasks, reasons, strict=True)
            refused = [f"{t.problem.id}: {r}" for t, r in pairs if r != "correct"]
            yield name, Counter(reasons), refused


def measure_mutants(
    verifier: PythonVerifier, tasks: list[Task], count: int, seconds: float
) -> Iterator[tuple[Task, str, bool, str]]:
    """Every mutant with the verdicts of the reference and of the verifier."""
    draw = random.Random(0)
    changed = [(task, text) for task in tasks for text in mutants(task.program, count, draw)]
    with ThreadPoolExecutor(2) as pool:
        plain = list(pool.map(lambda pair: reference(pair[0], pair[1], seconds), changed))
    reasons = judged(verifier, [(task, fence(text)) for task, text in changed])
    for (task, text), expected, reason in zip(changed, plain, reasons, strict=True):
        yield task, text, expected, reason


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dresses", default="all", help="all, none or names with commas")
    parser.add_argument("--mutants", type=int, default=4, help="of each program")
    parser.add_argument("--every", type=int, default=1, help="take every n-th problem")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each check")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--show", action="store_true", help="print mutants that are judged apart")
    options = parser.parse_args()
    cfg = VerifierConfig(
        name="python", num_workers=options.workers, timeout_seconds=options.seconds
    )
    verifier = PythonVerifier(cfg)
    names = None if options.dresses == "all" else set(options.dresses.split(","))
    for data, found in read_tasks(options.folder).items():
        tasks = found[:: options.every]
        print(f"\n## {data}, {len(tasks)} problems\n\n| dress | right | refused |\n|---|---:|---|")
        for name, counts, refused in measure_dresses(verifier, tasks, names):
            shown = ", ".join([*refused[:4], *(["..."] if refused[4:] else [])])
            print(f"| {name} | {counts['correct']} | {shown} |", flush=True)
        table: Counter[tuple[bool, bool]] = Counter()
        apart = []
        mutated = measure_mutants(verifier, tasks, options.mutants, options.seconds)
        for task, text, expected, reason in mutated:
            table[expected, reason == "correct"] += 1
            if expected != (reason == "correct"):
                apart.append((task, text, expected, reason))
        print(f"\n{table.total()} mutants: both refuse {table[False, False]}, both accept ", end="")
        print(f"{table[True, True]}; only the reference refuses {table[False, True]}, ", end="")
        print(f"only the verifier {table[True, False]}", flush=True)
        for task, text, expected, reason in apart:
            print(f"- {task.problem.id}: reference {expected}, verifier {reason}")
            if options.show:
                print(textwrap.indent(text, "      "))
    verifier.close()


if __name__ == "__main__":
    main()
